package mgmtapi

import (
	"net/http"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// repositoryPage is how many repositories a page has.
	repositoryPage = 100
	// maxDescription bounds a repository's description, in characters.
	maxDescription = 4096
	// kindImage is the one kind of repository.
	kindImage = "image"
)

func (a *API) createOrganization(c *call) (answer, error) {
	body, err := readBody[openapi.NewOrganization](c)
	if err != nil {
		return answer{}, err
	}
	if err := domain.ValidateOrganization(body.Name); err != nil {
		return answer{}, err
	}
	if _, err := a.core.CreateOrganization(c.Context(), c.identity.Caller, body.Name); err != nil {
		return answer{}, asQuay(err)
	}
	return created("Created"), nil
}

func (a *API) getOrganization(c *call) (answer, error) {
	name, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	organization, err := a.core.Organization(c.Context(), name)
	if err != nil {
		return answer{}, err
	}
	return ok(c.viewOrganization(organization)), nil
}

func (a *API) deleteOrganization(c *call) (answer, error) {
	name, err := c.organization()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteOrganization(c.Context(), c.identity.Caller, name)
}

func (a *API) listOrganizations(c *call) (answer, error) {
	organizations, err := a.core.Organizations(c.Context())
	if err != nil {
		return answer{}, err
	}
	list := openapi.OrganizationList{Organizations: []openapi.Organization{}}
	for _, organization := range organizations {
		list.Organizations = append(list.Organizations, c.viewOrganization(organization))
	}
	return ok(list), nil
}

func (c *call) viewOrganization(organization domain.Organization) openapi.Organization {
	view := openapi.Organization{Name: organization.Name, IsAdmin: c.identity.Holds(auth.OrganizationAdmin, auth.Organization(organization.Name))}
	if owner := organization.Owner; owner != (domain.Owner{}) {
		view.Owner = &openapi.Owner{Namespace: owner.Namespace, UID: owner.UID}
	}
	return view
}

func (a *API) listRepositories(c *call) (answer, error) {
	organization := c.query.text("namespace")
	if organization == "" {
		return answer{}, badField("namespace", "the parameter is required")
	}
	if err := domain.ValidateOrganization(organization); err != nil {
		return answer{}, err
	}
	if _, err := c.query.boolean("public", false); err != nil {
		return answer{}, err
	}
	if err := checkKind(c.query.text("repo_kind")); err != nil {
		return answer{}, err
	}
	// One more than a page tells whether there is another.
	repositories, err := a.core.Repositories(c.Context(), c.identity.Audience(), organization, c.query.text("next_page"), repositoryPage+1)
	if err != nil {
		return answer{}, err
	}
	list := openapi.RepositoryList{Repositories: []openapi.RepositoryItem{}}
	if len(repositories) > repositoryPage {
		repositories = repositories[:repositoryPage]
		list.NextPage = repositories[repositoryPage-1].Name.Path
	}
	for _, repository := range repositories {
		list.Repositories = append(list.Repositories, openapi.RepositoryItem{
			Namespace: repository.Name.Organization, Name: repository.Name.Path, Description: repository.Description,
			IsPublic: repository.Visibility == domain.Public, Kind: kindImage,
		})
	}
	return ok(list), nil
}

func (a *API) createRepository(c *call) (answer, error) {
	body, err := readBody[openapi.NewRepository](c)
	if err != nil {
		return answer{}, err
	}
	full := body.Repository
	if body.Namespace != "" {
		if err := domain.ValidateOrganization(body.Namespace); err != nil {
			return answer{}, err
		}
		full = body.Namespace + "/" + body.Repository
	}
	name, err := domain.ParseRepositoryName(full)
	if err != nil {
		return answer{}, err
	}
	if err := a.authorize(c, auth.RepositoryCreate, auth.Organization(name.Organization)); err != nil {
		return answer{}, err
	}
	if err := checkKind(body.RepoKind); err != nil {
		return answer{}, err
	}
	if err := checkDescription(body.Description); err != nil {
		return answer{}, err
	}
	repository := core.NewRepository{Visibility: domain.Private, Description: body.Description}
	if body.Visibility != nil {
		if repository.Visibility, err = checkVisibility(*body.Visibility); err != nil {
			return answer{}, err
		}
	}
	if err := a.core.CreateRepository(c.Context(), c.identity.Caller, name, repository); err != nil {
		return answer{}, asQuay(err)
	}
	return created(openapi.RepositoryCreated{Namespace: name.Organization, Name: name.Path, Kind: kindImage}), nil
}

func (a *API) getRepository(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	repository, err := a.core.Repository(c.Context(), name)
	if err != nil {
		return answer{}, err
	}
	return ok(openapi.Repository{
		Namespace: name.Organization, Name: name.Path, Description: repository.Description,
		IsPublic: repository.Visibility == domain.Public, Kind: kindImage, IsOrganization: true,
		CanWrite: c.identity.Holds(auth.RepositoryPush, auth.Repository(name)), CanAdmin: c.identity.Holds(auth.RepositoryAdmin, auth.Repository(name)),
	}), nil
}

func (a *API) updateRepository(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.RepositoryUpdate](c)
	if err != nil {
		return answer{}, err
	}
	if err := checkDescription(body.Description); err != nil {
		return answer{}, err
	}
	change := core.RepositoryChange{Description: &body.Description}
	return ok(openapi.Success{Success: true}), a.core.UpdateRepository(c.Context(), c.identity.Caller, name, change)
}

func (a *API) changeVisibility(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[openapi.VisibilityChange](c)
	if err != nil {
		return answer{}, err
	}
	visibility, err := checkVisibility(body.Visibility)
	if err != nil {
		return answer{}, err
	}
	change := core.RepositoryChange{Visibility: &visibility}
	return ok(openapi.Success{Success: true}), a.core.UpdateRepository(c.Context(), c.identity.Caller, name, change)
}

func (a *API) deleteRepository(c *call) (answer, error) {
	name, err := c.repository()
	if err != nil {
		return answer{}, err
	}
	return noContent, a.core.DeleteRepository(c.Context(), c.identity.Caller, name)
}

func checkVisibility(visibility domain.Visibility) (domain.Visibility, error) {
	if visibility != domain.Public && visibility != domain.Private {
		return "", badField("visibility", "%q is not allowed; use public or private", visibility)
	}
	return visibility, nil
}

func checkKind(kind string) error {
	if kind != "" && kind != kindImage {
		return badField("repo_kind", "%q is not allowed; every repository is of the kind %q", kind, kindImage)
	}
	return nil
}

func checkDescription(description string) error {
	if n := utf8.RuneCountInString(description); n > maxDescription {
		return badField("description", "%d characters are too many; at most %d are allowed", n, maxDescription)
	}
	return nil
}

func (a *API) openAPIJSON(*call) (answer, error) {
	document, err := openapi.JSON()
	return answer{status: http.StatusOK, raw: document, contentType: "application/json"}, err
}

func (a *API) openAPIYAML(*call) (answer, error) {
	return answer{status: http.StatusOK, raw: openapi.YAML, contentType: "application/yaml"}, nil
}
