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

// The roles. Each caller has one of the first eight, whatever it asks for.
const (
	// RoleAnonymous is a request without credentials.
	RoleAnonymous Role = "anonymous"
	// RoleAccount is a user or a robot of the database.
	RoleAccount Role = "account"
	// RoleSuperuser is the account "admin", and a superuser of the configuration with full access: everything but the
	// operator's endpoints, and what needs an account, which admin has not.
	RoleSuperuser Role = "superuser"
	// RoleLimitedSuperuser is a superuser of the configuration without full access, as in Quay: users, the list of
	// organizations, and the log of everything; in organizations what the account was given there.
	RoleLimitedSuperuser Role = "limited-superuser"
	// RoleReadonlySuperuser reads everything and writes nothing, also where another role would let it.
	RoleReadonlySuperuser Role = "readonly-superuser"
	// RoleReadonlyMetadata is a readonly superuser that reads everything but blobs.
	RoleReadonlyMetadata Role = "readonly-superuser-metadata-only"
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
		RoleAnonymous, RoleAccount, RoleSuperuser, RoleLimitedSuperuser, RoleReadonlySuperuser, RoleReadonlyMetadata, RoleOperator, RoleAnybody, RolePasswordUser,
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

	// RepositoryPull reads manifests, tags and referrers.
	RepositoryPull Permission = "repository:pull"
	// BlobPull reads blobs.
	BlobPull Permission = "blob:pull"
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
	// PermissionRead reads who has which permission on a repository.
	PermissionRead Permission = "permission:read"
	// PermissionManage changes who has which permission on a repository.
	PermissionManage Permission = "permission:manage"

	// OrganizationList lists all organizations.
	OrganizationList Permission = "organization:list"
	// OrganizationRead reads an organization.
	OrganizationRead Permission = "organization:read"
	// OrganizationCreate makes an organization, by a push or by the management API.
	OrganizationCreate Permission = "organization:create"
	// OrganizationAdmin deletes an organization.
	OrganizationAdmin Permission = "organization:admin"
	// MemberRead reads who belongs to an organization, and as what.
	MemberRead Permission = "member:read"
	// MemberManage changes who belongs to an organization, and as what.
	MemberManage Permission = "member:manage"
	// RobotRead reads an organization's robots, without their tokens.
	RobotRead Permission = "robot:read"
	// RobotManage makes, rotates and deletes an organization's robots.
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
	// ErasureRead reads how far the erasure of a person has come.
	ErasureRead Permission = "logs:read-erasure"
	// PersonErase erases persons from the audit log.
	PersonErase Permission = "logs:erase-person"

	// UserRead reads the caller's own account.
	UserRead Permission = "user:read"
	// OwnTokensRead lists the caller's own tokens, without what is secret.
	OwnTokensRead Permission = "user:read-tokens"
	// UserChange changes the caller's own password and tokens.
	UserChange Permission = "user:change"
	// UserList reads all users.
	UserList Permission = "user:list"
	// UserManage makes, changes and deletes users.
	UserManage Permission = "user:manage"
	// ReadonlySuperuserRead reads who reads everything.
	ReadonlySuperuserRead Permission = "readonly-superuser:read"
	// ConfigurationRead reads the registry's settings, without what is secret.
	ConfigurationRead Permission = "configuration:read"
	// SigningKeyRead lists the keys that sign tokens, without what is secret.
	SigningKeyRead Permission = "signing-key:read"
	// SigningKeyManage replaces and removes the keys that sign tokens.
	SigningKeyManage Permission = "signing-key:manage"

	// OperatorProtocol is the operator's endpoints.
	OperatorProtocol Permission = "operator:protocol"
	// OpenAPIRead reads the description of the management API.
	OpenAPIRead Permission = "openapi:read"
)

// readonly are the roles of readonly superusers: they have each permission that only reads, and no other. One of them does
// not have BlobPull.
func readonly(roles ...Role) []Role {
	return append(roles, RoleReadonlySuperuser, RoleReadonlyMetadata)
}

// table is the one permission table. Who is nothing that stands in a permission's row does not have it, and a permission
// without a row belongs to nobody.
var table = map[Permission][]Role{
	RegistryPing:  readonly(RoleAccount, RoleExternal, RoleSuperuser),
	TokenIssue:    {RoleAnybody},
	TokenKeysRead: {RoleAnybody},
	CatalogRead:   readonly(RoleAccount, RoleExternal, RoleSuperuser),

	RepositoryPull:   readonly(RoleReader, RoleFounder, RoleVerbGet, RoleSuperuser),
	BlobPull:         {RoleReader, RoleFounder, RoleVerbGet, RoleSuperuser, RoleReadonlySuperuser},
	RepositoryPush:   {RoleWriter, RoleFounder, RoleVerbUpdate, RoleSuperuser},
	RepositoryDelete: {RoleWriter, RoleVerbDelete, RoleSuperuser},
	RepositoryList:   readonly(RoleAccount, RoleExternal, RoleSuperuser),
	RepositoryRead:   readonly(RoleReader, RoleVerbGet, RoleSuperuser),
	RepositoryCreate: {RoleCreator, RoleVerbCreate, RoleSuperuser},
	RepositoryAdmin:  {RoleRepositoryAdmin, RoleVerbManage, RoleSuperuser},
	PermissionRead:   readonly(RoleRepositoryAdmin, RoleSuperuser),
	PermissionManage: {RoleRepositoryAdmin, RoleSuperuser},

	OrganizationList:   readonly(RoleSuperuser, RoleLimitedSuperuser),
	OrganizationRead:   readonly(RoleMember, RoleVerbGet, RoleSuperuser),
	OrganizationCreate: {RoleSuperuser, RoleLimitedSuperuser},
	OrganizationAdmin:  {RoleOrganizationAdmin, RoleSuperuser},
	MemberRead:         readonly(RoleOrganizationAdmin, RoleSuperuser),
	MemberManage:       {RoleOrganizationAdmin, RoleSuperuser},
	RobotRead:          readonly(RoleOrganizationAdmin, RoleSuperuser),
	RobotManage:        {RoleOrganizationAdmin, RoleSuperuser},

	TagRead:     readonly(RoleReader, RoleVerbGet, RoleSuperuser),
	TagWrite:    {RoleWriter, RoleVerbUpdate, RoleSuperuser},
	TagDelete:   {RoleWriter, RoleVerbDelete, RoleSuperuser},
	TagManage:   {RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser},
	PolicyRead:  readonly(RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser),
	PolicyWrite: {RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser},
	MirrorRead:  readonly(RoleOrganizationAdmin, RoleSuperuser),
	MirrorWrite: {RoleOrganizationAdmin, RoleSuperuser},

	LogsRead:      readonly(RoleOrganizationAdmin, RoleVerbManage, RoleSuperuser),
	SuperuserLogs: readonly(RoleSuperuser, RoleLimitedSuperuser),
	LogsProve:     readonly(RoleSuperuser, RoleLimitedSuperuser, RoleOperator),
	ErasureRead:   readonly(RoleSuperuser),
	PersonErase:   {RoleSuperuser},

	UserRead:              readonly(RoleAccount, RoleSuperuser),
	OwnTokensRead:         readonly(RolePasswordUser),
	UserChange:            {RolePasswordUser},
	UserList:              readonly(RoleSuperuser, RoleLimitedSuperuser),
	UserManage:            {RoleSuperuser, RoleLimitedSuperuser},
	ReadonlySuperuserRead: readonly(RoleSuperuser, RoleLimitedSuperuser),
	ConfigurationRead:     readonly(RoleSuperuser, RoleLimitedSuperuser),
	SigningKeyRead:        readonly(RoleSuperuser, RoleLimitedSuperuser),
	SigningKeyManage:      {RoleSuperuser, RoleLimitedSuperuser},

	OperatorProtocol: {RoleOperator},
	OpenAPIRead:      {RoleAnybody},
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
	switch {
	case id.Role == RoleOperator:
		return []Role{RoleOperator}
	case id.Readonly == domain.ReadonlyFull:
		return []Role{RoleAnybody, RoleReadonlySuperuser}
	case id.Readonly != "":
		return []Role{RoleAnybody, RoleReadonlyMetadata}
	}
	roles := []Role{RoleAnybody, id.Role}
	switch {
	case id.Role == RoleAccount:
	case id.Account != 0:
		roles = append(roles, RoleAccount)
	default:
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
	return domain.Audience{Everything: id.Role == RoleSuperuser || id.Readonly != "", Account: id.Account}
}

// MayPull reports whether the caller may pull blobs from a repository that exists. It looks nothing up.
func MayPull(id Identity, repository domain.Repository) bool {
	resource := Repository(repository.Name)
	if id.Role == RoleOperator || !id.inScope(BlobPull, resource) {
		return false
	}
	return id.Holds(BlobPull, resource) || (repository.Visibility == domain.Public && id.Readonly == "")
}

// Authorize returns nil if the caller has the permission on the resource. Otherwise it returns a *domain.Error:
// UNAUTHORIZED for an anonymous caller, and for a token that is not for this, who may try again with credentials or
// another token; DENIED for everybody else, and always for a readonly superuser, whom no token lets write. Whether the
// resource exists makes no difference to whom may not see it. UNAVAILABLE means that it cannot be determined now.
func (a *Authenticator) Authorize(ctx context.Context, id Identity, permission Permission, on Resource) error {
	allowed := id.Holds(permission, on)
	if !allowed && id.Role == RoleExternal && id.Readonly == "" {
		var err error
		if allowed, err = a.allowedByCluster(ctx, id, permission, on); err != nil {
			return err
		}
	}
	if !allowed && id.Role != RoleOperator && id.Readonly == "" && on.path != "" {
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
	case !allowed && id.Readonly != "":
		return deniedReadonly(id, permission, on)
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
	kind := string(id.Role)
	if id.Role == RoleAccount || id.Role == RoleExternal {
		kind = string(id.Kind)
	}
	return domain.Errorf(domain.CodeDenied, "%s %q does not have the permission %s", kind, id.Name, permission.on(on))
}

// deniedReadonly says why no other role and no token helps.
func deniedReadonly(id Identity, permission Permission, on Resource) error {
	if permission == BlobPull {
		return domain.Errorf(domain.CodeDenied, "%s %q is a readonly superuser with the access %s, and may not pull blobs (%s)", id.Kind, id.Name, id.Readonly, permission.on(on))
	}
	return domain.Errorf(domain.CodeDenied, "%s %q is a readonly superuser: it reads everything and writes nothing, so it does not have the permission %s", id.Kind, id.Name, permission.on(on))
}

// on names the permission with the resource that it is asked for.
func (p Permission) on(resource Resource) string {
	if resource.organization == "" {
		return string(p)
	}
	return string(p) + " on " + resource.String()
}
