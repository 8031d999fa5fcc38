package auth

import (
	"context"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/registry/domain"
)

// Role is what a caller is to what it asks for. A caller may have several: the member of an organization may be the
// admin of one of its repositories.
type Role string

// The roles. Each caller has one of the first five, whatever it asks for.
const (
	// RoleAnonymous is a request without credentials.
	RoleAnonymous Role = "anonymous"
	// RoleAccount is a user or a robot of the database.
	RoleAccount Role = "account"
	// RoleSuperuser is the account "admin": everything but the operator's endpoints and what needs an account.
	RoleSuperuser Role = "superuser"
	// RoleOperator is the Kubernetes operator: its own endpoints, what proves the audit log, and nothing else.
	RoleOperator Role = "operator"

	// RoleExternal is an identity of a Kubernetes cluster, or of an issuer of OpenID Connect.
	RoleExternal Role = "external"

	// RoleAnybody is every caller but the operator.
	RoleAnybody Role = "anybody"
	// RolePasswordUser is a user of the database who gave the password, not a token.
	RolePasswordUser Role = "password-user"

	// RoleReader may read the repository: it is public, or the caller has a permission on it.
	RoleReader Role = "reader"
	// RoleWriter has the permission write or admin on the repository.
	RoleWriter Role = "writer"
	// RoleRepositoryAdmin has the permission admin on the repository.
	RoleRepositoryAdmin Role = "repository-admin"
	// RoleFounder may create the repository, which does not exist.
	RoleFounder Role = "founder"

	// RoleMember belongs to the organization, as a member or as its robot.
	RoleMember Role = "member"
	// RoleCreator may create repositories in the organization.
	RoleCreator Role = "creator"
	// The roles of an external identity to an organization that belongs to a namespace of the cluster: the cluster lets it
	// do what the verb says (see Verb).
	RoleVerbGet    Role = "kubernetes-get"
	RoleVerbCreate Role = "kubernetes-create"
	RoleVerbUpdate Role = "kubernetes-update"
	RoleVerbDelete Role = "kubernetes-delete"
	RoleVerbManage Role = "kubernetes-manage"

	// RoleOrganizationAdmin is a user who administers the organization. A robot never has this role.
	RoleOrganizationAdmin Role = "organization-admin"
)

// Roles lists every role.
func Roles() []Role {
	return []Role{
		RoleAnonymous, RoleAccount, RoleSuperuser, RoleOperator, RoleAnybody, RolePasswordUser,
		RoleReader, RoleWriter, RoleRepositoryAdmin, RoleFounder, RoleMember, RoleCreator, RoleOrganizationAdmin,
		RoleExternal, RoleVerbGet, RoleVerbCreate, RoleVerbUpdate, RoleVerbDelete, RoleVerbManage,
	}
}

// Permission is the right to call a group of routes.
type Permission string

// The permissions. Every route of /v2 and /api/v1 names one.
const (
	// RegistryPing is GET /v2/, by which clients learn whether their credentials work.
	RegistryPing Permission = "registry:ping"
	// TokenIssue asks for a token, with the credentials or the refresh token that the request holds.
	TokenIssue Permission = "token:issue"
	// TokenKeysRead reads the public keys of tokens.
	TokenKeysRead Permission = "token:keys"
	// CatalogRead is the list of the repositories that the caller may see, on /v2.
	CatalogRead Permission = "catalog:read"

	// RepositoryPull reads manifests, blobs, tags and referrers.
	RepositoryPull Permission = "repository:pull"
	// RepositoryPush uploads blobs and manifests.
	RepositoryPush Permission = "repository:push"
	// RepositoryDelete deletes tags, manifests and blobs on /v2.
	RepositoryDelete Permission = "repository:delete"
	// RepositoryList lists the repositories that the caller may see.
	RepositoryList Permission = "repository:list"
	// RepositoryRead reads a repository's description and visibility.
	RepositoryRead Permission = "repository:read"
	// RepositoryCreate makes a repository, by a push or by the management API.
	RepositoryCreate Permission = "repository:create"
	// RepositoryAdmin changes a repository's settings and deletes it.
	RepositoryAdmin Permission = "repository:admin"
	// PermissionManage reads and changes who has which permission on a repository.
	PermissionManage Permission = "permission:manage"

	// OrganizationList lists all organizations.
	OrganizationList Permission = "organization:list"
	// OrganizationRead reads an organization.
	OrganizationRead Permission = "organization:read"
	// OrganizationCreate makes an organization, by a push or by the management API.
	OrganizationCreate Permission = "organization:create"
	// OrganizationAdmin deletes an organization.
	OrganizationAdmin Permission = "organization:admin"
	// MemberManage reads and changes who belongs to an organization, and as what.
	MemberManage Permission = "member:manage"
	// RobotManage reads, makes, rotates and deletes an organization's robots.
	RobotManage Permission = "robot:manage"

	// TagRead lists tags with their locks.
	TagRead Permission = "tag:read"
	// TagWrite moves and restores tags on the management API, and locks them by hand.
	TagWrite Permission = "tag:write"
	// TagDelete deletes tags there.
	TagDelete Permission = "tag:delete"
	// TagManage removes holds by hand and retained holds.
	TagManage Permission = "tag:manage"

	// PolicyRead reads immutability policies.
	PolicyRead Permission = "policy:read"
	// PolicyWrite makes, changes, deletes, releases and adopts immutability policies.
	PolicyWrite Permission = "policy:write"

	// MirrorRead reads the mirror of an organization, and what it has found upstream.
	MirrorRead Permission = "mirror:read"
	// MirrorWrite makes, changes, deletes and adopts the mirror of an organization, begins and cancels its syncs, and tries
	// upstreams.
	MirrorWrite Permission = "mirror:write"

	// LogsRead reads the audit log of an organization or repository.
	LogsRead Permission = "logs:read"
	// SuperuserLogs reads the audit log of everything.
	SuperuserLogs Permission = "logs:read-all"

	// LogsProve reads what proves the audit log: checkpoints, entries as they are hashed, proofs and exports.
	LogsProve Permission = "logs:prove"
	// PersonErase erases persons from the audit log.
	PersonErase Permission = "logs:erase-person"

	// UserRead reads the caller's own account.
	UserRead Permission = "user:read"
	// UserChange changes the caller's own password and tokens.
	UserChange Permission = "user:change"
	// UserManage reads, makes, changes and deletes users.
	UserManage Permission = "user:manage"
	// SigningKeyManage lists, replaces and removes the keys that sign tokens.
	SigningKeyManage Permission = "signing-key:manage"

	// OperatorProtocol is the operator's endpoints.
	OperatorProtocol Permission = "operator:protocol"
	// OpenAPIRead reads the description of the management API.
	OpenAPIRead Permission = "openapi:read"
)

// table is the one permission table. Who is nothing that stands in a permission's row does not have it, and a permission
// without a row belongs to nobody.
var table = map[Permission][]Role{
	RegistryPing:       {RoleAccount, RoleExternal, RoleSuperuser},
	TokenIssue:         {RoleAnybody},
	TokenKeysRead:      {RoleAnybody},
	CatalogRead:        {RoleAccount, RoleExternal, RoleSuperuser},
	RepositoryPull:     {RoleReader, RoleFounder, RoleVerbGet, RoleSuperuser},
	RepositoryPush:     {RoleWriter, RoleFounder, RoleVerbUpdate, RoleSuperuser},
	RepositoryDelete:   {RoleWriter, RoleVerbDelete, RoleSuperuser},
	RepositoryList:     {RoleAccount, RoleExternal, RoleSuperuser},
	RepositoryRead:     {RoleReader, RoleVerbGet, RoleSuperuser},
	RepositoryCreate:   {RoleCreator, RoleVerbCreate, RoleSuperuser},
	RepositoryAdmin:    {RoleRepositoryAdmin, RoleVerbManage, RoleSuperuser},
	PermissionManage:   {RoleRepositoryAdmin, RoleSuperuser},
	OrganizationList:   {RoleSuperuser},
	OrganizationRead:   {RoleMember, RoleVerbGet, RoleSuperuser},
	OrganizationCreate: {RoleSuperuser},
	OrganizationAdmin:  {RoleOrganizationAdmin, RoleSuperuser},
	MemberManage:       {RoleOrganizationAdmin, RoleSuperuser},
	RobotManage:        {RoleOrganizationAdmin, RoleSuperuser},
	TagRead:            {RoleReader, RoleVerbGet, RoleSuperuser},
	TagWrite:           {RoleWriter, RoleVerbUpdate, RoleSuperuser},
	TagDelete:          {RoleWriter, RoleVerbDelete, RoleSuperuser},
	TagManage:          {RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser},
	PolicyRead:         {RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser},
	PolicyWrite:        {RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser},
	MirrorRead:         {RoleOrganizationAdmin, RoleSuperuser},
	MirrorWrite:        {RoleOrganizationAdmin, RoleSuperuser},
	LogsRead:           {RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser},
	SuperuserLogs:      {RoleSuperuser},
	LogsProve:          {RoleSuperuser, RoleOperator},
	PersonErase:        {RoleSuperuser},
	UserRead:           {RoleAccount, RoleSuperuser},
	UserChange:         {RolePasswordUser},
	UserManage:         {RoleSuperuser},
	SigningKeyManage:   {RoleSuperuser},
	OperatorProtocol:   {RoleOperator},
	OpenAPIRead:        {RoleAnybody},
}

// Allowed reports whether the table gives a role a permission.
func Allowed(role Role, permission Permission) bool {
	return slices.Contains(table[permission], role)
}

// Resource is what a permission is asked for. The zero value is nothing in particular: nobody has a role there by an
// organization or a repository.
type Resource struct {
	organization string
	// path is the repository in the organization, empty for the organization itself.
	path string
	// anywhere is any organization that the caller has a role in.
	anywhere bool
}

// Organization is an organization as a resource.
func Organization(name string) Resource { return Resource{organization: name} }

// Repository is a repository as a resource.
func Repository(name domain.RepositoryName) Resource {
	return Resource{organization: name.Organization, path: name.Path}
}

// Anywhere is for calls that name the organization in their body: it lets through who has the role in any organization.
// The call has to be authorised again once the organization is known.
var Anywhere = Resource{anywhere: true}

func (r Resource) repository() domain.RepositoryName {
	return domain.RepositoryName{Organization: r.organization, Path: r.path}
}

func (r Resource) String() string {
	if r.path == "" {
		return r.organization
	}
	return r.organization + "/" + r.path
}

// roles are what a caller is to a resource by itself, without a look at the resource.
func (id Identity) roles(of Resource) []Role {
	if id.Role == RoleOperator {
		return []Role{RoleOperator}
	}
	roles := []Role{RoleAnybody, id.Role}
	if id.Role != RoleAccount {
		return roles
	}
	if id.Kind == domain.CallerUser && id.TokenID == "" && id.Scopes == nil {
		roles = append(roles, RolePasswordUser)
	}
	member := id.Rights.Organizations[of.organization]
	if of.anywhere {
		member = id.Rights.Highest()
	}
	switch member {
	case domain.OrganizationAdmin:
		if id.Kind == domain.CallerUser {
			roles = append(roles, RoleOrganizationAdmin)
		}
		roles = append(roles, RoleMember, RoleCreator)
	case domain.OrganizationCreator:
		roles = append(roles, RoleMember, RoleCreator)
	case domain.OrganizationMember:
		roles = append(roles, RoleMember)
	}
	if id.Kind == domain.CallerRobot && of.organization != "" && strings.HasPrefix(id.Name, of.organization+domain.RobotSeparator) {
		roles = append(roles, RoleMember)
	}
	if of.path == "" {
		return roles
	}
	permission := id.Rights.Repositories[of.String()]
	if member == domain.OrganizationAdmin {
		permission = domain.RepositoryAdmin
	}
	switch permission {
	case domain.RepositoryAdmin:
		roles = append(roles, RoleReader, RoleWriter, RoleRepositoryAdmin)
	case domain.RepositoryWrite:
		roles = append(roles, RoleReader, RoleWriter)
	case domain.RepositoryRead:
		roles = append(roles, RoleReader)
	}
	return roles
}

// Holds reports whether the caller has the permission by what it is, whatever the token that it came with is for and
// whether or not the resource exists.
func (id Identity) Holds(permission Permission, on Resource) bool {
	return slices.ContainsFunc(id.roles(on), func(role Role) bool { return Allowed(role, permission) })
}

// Audience says what lists may show the caller.
func (id Identity) Audience() domain.Audience {
	return domain.Audience{Everything: id.Role == RoleSuperuser, Account: id.Account}
}

// MayPull reports whether the caller may pull from a repository that exists. It looks nothing up.
func MayPull(id Identity, repository domain.Repository) bool {
	resource := Repository(repository.Name)
	if id.Role == RoleOperator || !id.inScope(RepositoryPull, resource) {
		return false
	}
	return repository.Visibility == domain.Public || id.Holds(RepositoryPull, resource)
}

// Authorize returns nil if the caller has the permission on the resource. Otherwise it returns a *domain.Error:
// UNAUTHORIZED for an anonymous caller, and for a token that is not for this, who may try again with credentials or
// another token; DENIED for everybody else. Whether the resource exists makes no difference to whom may not see it.
// UNAVAILABLE means that it cannot be determined now.
func (a *Authenticator) Authorize(ctx context.Context, id Identity, permission Permission, on Resource) error {
	allowed := id.Holds(permission, on)
	if !allowed && id.Role == RoleExternal {
		var err error
		if allowed, err = a.allowedByCluster(ctx, id, permission, on); err != nil {
			return err
		}
	}
	if !allowed && id.Role != RoleOperator && on.path != "" {
		var err error
		if allowed, err = a.allowedByState(ctx, id, permission, on); err != nil {
			return err
		}
	}
	switch {
	case allowed && id.inScope(permission, on):
		return nil
	case id.Role == RoleAnonymous:
		return domain.Errorf(domain.CodeUnauthorized, "authentication is required")
	case allowed && Needed(permission, on) == "":
		return domain.Errorf(domain.CodeUnauthorized, "a token of %s is for /v2 only", tokenPath)
	case id.inScope(permission, on):
		return denied(id, permission, on)
	case allowed:
		return domain.Errorf(domain.CodeUnauthorized, "the token is not for this; ask for one with the scope %s", Needed(permission, on))
	default:
		// A token of less than its account has is told what would be needed, as other registries do.
		return domain.Errorf(domain.CodeUnauthorized, "%w", denied(id, permission, on))
	}
}

// allowedByState looks whether a repository is public, or not there and the caller's to create.
func (a *Authenticator) allowedByState(ctx context.Context, id Identity, permission Permission, on Resource) (bool, error) {
	reader := Allowed(RoleReader, permission)
	founder := Allowed(RoleFounder, permission) && slices.Contains(id.roles(on), RoleCreator)
	if a.directory == nil || (!reader && !founder) {
		return false, nil
	}
	state, err := a.directory.repository(ctx, on.repository())
	return (reader && state.public) || (founder && !state.exists), err
}

func denied(id Identity, permission Permission, on Resource) error {
	what := string(permission)
	if on.organization != "" {
		what += " on " + on.String()
	}
	kind := string(id.Role)
	if id.Role == RoleAccount || id.Role == RoleExternal {
		kind = string(id.Kind)
	}
	return domain.Errorf(domain.CodeDenied, "%s %q does not have the permission %s", kind, id.Name, what)
}
