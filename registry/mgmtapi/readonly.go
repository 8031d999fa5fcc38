package mgmtapi

import (
	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// views are the kinds of the entries of what readonly superusers look at, by the permission of the route: configurations
// and logs. Who may change them leaves entries of what they change.
var views = map[auth.Permission]audit.Kind{
	auth.PolicyRead:            audit.KindViewPolicies,
	auth.MirrorRead:            audit.KindViewMirror,
	auth.RobotRead:             audit.KindViewRobots,
	auth.MemberRead:            audit.KindViewMembers,
	auth.PermissionRead:        audit.KindViewPermissions,
	auth.UserList:              audit.KindViewUsers,
	auth.ReadonlySuperuserRead: audit.KindViewConfiguration,
	auth.ConfigurationRead:     audit.KindViewConfiguration,
	auth.SigningKeyRead:        audit.KindViewConfiguration,
	auth.LogsRead:              audit.KindViewLogs,
	auth.SuperuserLogs:         audit.KindViewLogs,
	auth.LogsProve:             audit.KindViewLogs,
	auth.ErasureRead:           audit.KindViewLogs,
}

// recordView records that a readonly superuser looks at something, before it does.
func (a *API) recordView(c *call) error {
	kind, recorded := views[c.route.permission]
	if !recorded || c.identity.Readonly == "" {
		return nil
	}
	organization, repository := c.parameters["organization"], ""
	if full, ok := c.parameters["repository"]; ok {
		name, err := domain.ParseRepositoryName(full)
		if err != nil {
			return err
		}
		organization, repository = name.Organization, name.Path
	}
	if organization != "" {
		if err := domain.ValidateOrganization(organization); err != nil {
			return err
		}
	}
	return a.core.Viewed(c.Context(), c.identity.Caller, kind, organization, repository)
}

func (a *API) listReadonlySuperusers(c *call) (answer, error) {
	grants, err := a.core.ReadonlySuperusers(c.Context())
	if err != nil {
		return answer{}, err
	}
	list := openapi.ReadonlySuperuserList{ReadonlySuperusers: []openapi.ReadonlySuperuserStatus{}, Configured: a.readonly}
	for _, grant := range grants {
		list.ReadonlySuperusers = append(list.ReadonlySuperusers, viewReadonlySuperuser(grant))
	}
	return ok(list), nil
}

func (a *API) getConfiguration(*call) (answer, error) {
	return ok(openapi.Configuration{Settings: a.settings}), nil
}
