package auth

import (
	"slices"

	"github.com/tidelock/tidelock/registry/domain"
)

// Role is what an identity is to the registry. Each identity has one.
type Role string

// The roles.
const (
	// RoleAnonymous is a request without credentials.
	RoleAnonymous Role = "anonymous"
	// RoleSuperuser is the account "admin": everything but the operator's endpoints.
	RoleSuperuser Role = "superuser"
	// RoleOperator is the Kubernetes operator: its own endpoints and nothing else.
	RoleOperator Role = "operator"
)

// Roles lists every role.
func Roles() []Role { return []Role{RoleAnonymous, RoleSuperuser, RoleOperator} }

// Permission is the right to call a group of routes.
type Permission string

// The permissions. Every route of /v2 and /api/v1 names one.
const (
	// RegistryPing is GET /v2/, by which clients learn whether their credentials work.
	RegistryPing Permission = "registry:ping"
	// CatalogRead is the list of all repositories on /v2.
	CatalogRead Permission = "catalog:read"

	// RepositoryPull reads manifests, blobs, tags and referrers.
	RepositoryPull Permission = "repository:pull"
	// RepositoryPush uploads blobs and manifests.
	RepositoryPush Permission = "repository:push"
	// RepositoryDelete deletes tags, manifests and blobs on /v2.
	RepositoryDelete Permission = "repository:delete"
	// RepositoryRead lists repositories and reads their description and visibility.
	RepositoryRead Permission = "repository:read"
	// RepositoryCreate makes a repository, by a push or by the management API.
	RepositoryCreate Permission = "repository:create"
	// RepositoryAdmin changes a repository's settings and deletes it.
	RepositoryAdmin Permission = "repository:admin"

	// OrganizationRead lists organizations and reads one.
	OrganizationRead Permission = "organization:read"
	// OrganizationCreate makes an organization, by a push or by the management API.
	OrganizationCreate Permission = "organization:create"
	// OrganizationAdmin deletes an organization.
	OrganizationAdmin Permission = "organization:admin"

	// TagRead lists tags with their locks.
	TagRead Permission = "tag:read"
	// TagWrite moves, restores and deletes tags on the management API, and locks them by hand.
	TagWrite Permission = "tag:write"
	// TagManage removes holds by hand and retained holds.
	TagManage Permission = "tag:manage"

	// PolicyRead reads immutability policies.
	PolicyRead Permission = "policy:read"
	// PolicyWrite makes, changes, deletes, releases and adopts immutability policies.
	PolicyWrite Permission = "policy:write"

	// LogsRead reads the audit log of an organization or repository.
	LogsRead Permission = "logs:read"
	// SuperuserLogs reads the audit log of everything.
	SuperuserLogs Permission = "logs:read-all"

	// OperatorProtocol is the operator's endpoints.
	OperatorProtocol Permission = "operator:protocol"
	// OpenAPIRead reads the description of the management API.
	OpenAPIRead Permission = "openapi:read"
)

// table is the one permission table. Who is not in a permission's row does not have it, and a permission without a row
// belongs to nobody.
var table = map[Permission][]Role{
	RegistryPing:       {RoleSuperuser},
	CatalogRead:        {RoleSuperuser},
	RepositoryPull:     {RoleSuperuser},
	RepositoryPush:     {RoleSuperuser},
	RepositoryDelete:   {RoleSuperuser},
	RepositoryRead:     {RoleSuperuser},
	RepositoryCreate:   {RoleSuperuser},
	RepositoryAdmin:    {RoleSuperuser},
	OrganizationRead:   {RoleSuperuser},
	OrganizationCreate: {RoleSuperuser},
	OrganizationAdmin:  {RoleSuperuser},
	TagRead:            {RoleSuperuser},
	TagWrite:           {RoleSuperuser},
	TagManage:          {RoleSuperuser},
	PolicyRead:         {RoleSuperuser},
	PolicyWrite:        {RoleSuperuser},
	LogsRead:           {RoleSuperuser},
	SuperuserLogs:      {RoleSuperuser},
	OperatorProtocol:   {RoleOperator},
	OpenAPIRead:        {RoleAnonymous, RoleSuperuser},
}

// Allowed reports whether the table gives a role a permission.
func Allowed(role Role, permission Permission) bool {
	return slices.Contains(table[permission], role)
}

// Check returns nil if the identity has the permission. Otherwise it returns a *domain.Error: UNAUTHORIZED for an
// anonymous caller, who may try again with credentials, DENIED for everybody else.
func Check(id Identity, permission Permission) error {
	switch {
	case Allowed(id.Role, permission):
		return nil
	case id.Role == RoleAnonymous:
		return domain.Errorf(domain.CodeUnauthorized, "authentication is required")
	default:
		return domain.Errorf(domain.CodeDenied, "%s %q does not have the permission %s", id.Role, id.Name, permission)
	}
}
