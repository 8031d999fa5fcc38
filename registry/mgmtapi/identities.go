package mgmtapi

import (
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// maxText bounds titles, descriptions of robots and email addresses, in characters.
	maxText = 255
	// maxMetadata bounds what clients keep with a robot, in bytes of JSON.
	maxMetadata = 4 << 10
)

// kindUser is Quay's kind of users and robots alike.
const kindUser = "user"

// readOptionalBody is readBody for calls whose body may be missing: then it is an empty object.
func readOptionalBody[T any](c *call) (value T, err error) {
	if c.ContentLength == 0 {
		return value, nil
	}
	return readBody[T](c)
}

func checkText(field, text string) error {
	if n := utf8.RuneCountInString(text); n > maxText {
		return badField(field, "%d characters are too many; at most %d are allowed", n, maxText)
	}
	return nil
}

// orNever is a time that may not have been.
func orNever(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := rfc2822(t)
	return &text
}

func (a *API) listRobots(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	robots, err := a.core.Robots(c.Context(), organization)
	if err != nil {
		return answer{}, err
	}
	list := openapi.RobotList{Robots: []openapi.Robot{}}
	for _, robot := range robots {
		view, err := viewRobot(robot, "")
		if err != nil {
			return answer{}, err
		}
		list.Robots = append(list.Robots, view)
	}
	return ok(list), nil
}

func (a *API) createRobot(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	body, err := readOptionalBody[openapi.NewRobot](c)
	if err != nil {
		return answer{}, err
	}
	robot := core.NewRobot{Organization: organization, Short: c.parameters["robot"], Description: body.Description}
	if err := checkText("description", body.Description); err != nil {
		return answer{}, err
	}
	if len(body.UnstructuredMetadata) > 0 {
		metadata, err := json.Marshal(body.UnstructuredMetadata)
		if err != nil {
			return answer{}, err
		}
		if len(metadata) > maxMetadata {
			return answer{}, badField("unstructured_metadata", "%d bytes of JSON are too many; at most %d are allowed", len(metadata), maxMetadata)
		}
		robot.Metadata = string(metadata)
	}
	secret, hash := auth.NewSecret()
	account, err := a.core.CreateRobot(c.Context(), c.identity.Caller, robot, hash)
	if err != nil {
		return answer{}, asQuay(err)
	}
	view, err := viewRobot(account, secret)
	return created(view), err
}

func (a *API) getRobot(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	account, err := a.core.Robot(c.Context(), organization, c.parameters["robot"])
	if err != nil {
		return answer{}, err
	}
	view, err := viewRobot(account, "")
	return ok(view), err
}

func (a *API) regenerateRobot(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	secret, hash := auth.NewSecret()
	account, err := a.core.RegenerateRobot(c.Context(), c.identity.Caller, organization, c.parameters["robot"], hash)
	if err != nil {
		return answer{}, err
	}
	view, err := viewRobot(account, secret)
	return ok(view), err
}

func (a *API) deleteRobot(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteRobot(c.Context(), c.identity.Caller, organization, c.parameters["robot"])
}

// viewRobot shows a robot with its token where that was just made.
func viewRobot(robot domain.Account, token string) (openapi.Robot, error) {
	view := openapi.Robot{
		Name: robot.Name, Token: domain.NewSecret(token), Created: rfc2822(robot.CreatedAt), LastAccessed: orNever(robot.LastUsed),
		Description: robot.Description, UnstructuredMetadata: map[string]any{},
	}
	if robot.Metadata == "" {
		return view, nil
	}
	return view, json.Unmarshal([]byte(robot.Metadata), &view.UnstructuredMetadata)
}

func (a *API) listMembers(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	members, err := a.core.Members(c.Context(), organization)
	if err != nil {
		return answer{}, err
	}
	list := openapi.MemberList{Members: []openapi.Member{}}
	for _, member := range members {
		list.Members = append(list.Members, viewMember(member))
	}
	return ok(list), nil
}

func (a *API) getMember(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	member, err := a.core.Member(c.Context(), organization, c.parameters["member"])
	return ok(viewMember(member)), err
}

func (a *API) setMember(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.MemberRole](c)
	if err != nil {
		return answer{}, err
	}
	role, err := domain.ParseOrganizationRole(string(body.Role))
	if err != nil {
		return answer{}, badField("role", "%w", err)
	}
	member, err := a.core.SetMember(c.Context(), c.identity.Caller, organization, c.parameters["member"], role)
	return ok(viewMember(member)), err
}

func (a *API) removeMember(c *call) (answer, error) {
	organization, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.RemoveMember(c.Context(), c.identity.Caller, organization, c.parameters["member"])
}

func viewMember(member domain.Member) openapi.Member {
	return openapi.Member{Name: member.Name, Kind: kindUser, IsRobot: member.Kind == domain.CallerRobot, Role: member.Role}
}

func (a *API) listPermissions(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	permissions, err := a.core.Permissions(c.Context(), name)
	if err != nil {
		return answer{}, err
	}
	list := openapi.PermissionList{Permissions: map[string]openapi.Permission{}}
	for _, permission := range permissions {
		list.Permissions[permission.Name] = viewPermission(permission)
	}
	return ok(list), nil
}

func (a *API) getPermission(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	permission, err := a.core.Permission(c.Context(), name, c.parameters["account"])
	return ok(viewPermission(permission)), err
}

func (a *API) setPermission(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.PermissionRole](c)
	if err != nil {
		return answer{}, err
	}
	role, err := domain.ParseRepositoryRole(string(body.Role))
	if err != nil {
		return answer{}, badField("role", "%w", err)
	}
	permission, err := a.core.SetPermission(c.Context(), c.identity.Caller, name, c.parameters["account"], role)
	return ok(viewPermission(permission)), err
}

func (a *API) removePermission(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.RemovePermission(c.Context(), c.identity.Caller, name, c.parameters["account"])
}

func viewPermission(permission domain.Permission) openapi.Permission {
	return openapi.Permission{
		Role: permission.Role, Name: permission.Name, IsRobot: permission.Kind == domain.CallerRobot, IsOrgMember: permission.Member,
	}
}
