package auth

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Endpoint is an operation of an API with the permission that it takes, on the organization or repository of its path.
type Endpoint struct {
	Method, Path string
	Permission   Permission
}

// Sort is a sort of callers as people think of them, with the roles that it has on what it has a say in.
type Sort struct {
	Name string
	// Is says who that is.
	Is    string
	Roles []Role
}

// Sorts lists the sorts of callers, in the order of the columns of docs/permissions.md.
func Sorts() []Sort {
	account := []Role{RoleAnybody, RoleAccount}
	and := func(roles ...Role) []Role { return append(slices.Clone(account), roles...) }
	external := func(verb Role) []Role { return []Role{RoleAnybody, RoleExternal, verb} }
	return []Sort{
		{"anonymous", "a request without credentials", []Role{RoleAnybody, RoleAnonymous}},
		{"user", "a user who was given nothing, with the password", and(RolePasswordUser)},
		{"reader", "with the permission read on the repository", and(RolePasswordUser, RoleReader)},
		{"writer", "with the permission write on the repository", and(RolePasswordUser, RoleReader, RoleWriter)},
		{"repository admin", "with the permission admin on the repository", and(RolePasswordUser, RoleReader, RoleWriter, RoleRepositoryAdmin)},
		{"member", "a member of the organization", and(RolePasswordUser, RoleMember)},
		{"creator", "a creator of the organization", and(RolePasswordUser, RoleMember, RoleCreator)},
		{"organization admin", "a user who administers the organization", and(RolePasswordUser, RoleMember, RoleCreator, RoleOrganizationAdmin, RoleReader, RoleWriter, RoleRepositoryAdmin)},
		{"robot", "a robot of the organization with the permission write on the repository", and(RoleMember, RoleReader, RoleWriter)},
		{"robot admin", "a robot of the organization with the role admin there", and(RoleMember, RoleCreator, RoleReader, RoleWriter, RoleRepositoryAdmin)},
		{"cluster get", "an identity of the cluster or of an OIDC issuer that has the verb get on the repository and the organization", external(RoleVerbGet)},
		{"cluster create", "the same with create", external(RoleVerbCreate)},
		{"cluster update", "the same with update", external(RoleVerbUpdate)},
		{"cluster delete", "the same with delete", external(RoleVerbDelete)},
		{"cluster manage", "the same with manage", external(RoleVerbManage)},
		{"readonly", "a readonly superuser with the access Full", []Role{RoleAnybody, RoleReadonlySuperuser}},
		{"readonly metadata", "a readonly superuser with the access MetadataOnly", []Role{RoleAnybody, RoleReadonlyMetadata}},
		{"limited superuser", "a superuser of the configuration without superusers-full-access", and(RolePasswordUser, RoleLimitedSuperuser)},
		{"superuser", "a superuser of the configuration with superusers-full-access; admin has the same but what is of an account in the database", and(RolePasswordUser, RoleSuperuser)},
		{"operator", "the Kubernetes operator", []Role{RoleOperator}},
	}
}

// May reports whether the table gives a permission to one of the sort's roles.
func (s Sort) May(permission Permission) bool {
	return slices.ContainsFunc(s.Roles, func(role Role) bool { return Allowed(role, permission) })
}

// MayIfPublic reports whether a permission is everybody's on what is public, but for the operator, and for readonly
// superusers, to whom only what they were granted counts.
func (s Sort) MayIfPublic(permission Permission) bool {
	special := slices.ContainsFunc(s.Roles, func(role Role) bool {
		return role == RoleOperator || role == RoleReadonlySuperuser || role == RoleReadonlyMetadata
	})
	return s.May(permission) || (!special && Allowed(RoleReader, permission))
}

// RenderTable writes the permission table for people, in Markdown: each endpoint with each sort of callers.
func RenderTable(endpoints []Endpoint) string {
	endpoints = slices.Clone(endpoints)
	slices.SortFunc(endpoints, func(a, b Endpoint) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
	})
	var b strings.Builder
	b.WriteString(`<!-- Made by "make generate" from registry/auth and the routes. Do not edit. -->
# Who may call what

This is the one permission table, as the registry decides by it: each route names a permission, and the table says which roles have it. What has no row
is nobody's. A test calls every route of a running registry as each sort of caller, with a request that is right, and compares
status, body and effect with this table.

✓ may; ○ may where the repository is public; – gets 401 if anonymous, else 403. Where a path names an organization or a repository, the marks are for those on
which the caller has the role; elsewhere it is a user who was given nothing.

| sort | who that is |
|---|---|
`)
	sorts := Sorts()
	for _, s := range sorts {
		fmt.Fprintf(&b, "| %s | %s |\n", s.Name, s.Is)
	}
	b.WriteString(`
A readonly superuser has no other role: whatever else it was given does not count. A push to a repository that does not exist
takes the permission ` + "`repository:create`" + ` in its organization. What the verbs of the cluster are, [identities.md](identities.md) says.

| route | permission |`)
	for _, s := range sorts {
		b.WriteString(" " + s.Name + " |")
	}
	b.WriteString("\n|---|---|" + strings.Repeat(":-:|", len(sorts)) + "\n")
	for _, e := range endpoints {
		fmt.Fprintf(&b, "| `%s %s` | `%s` |", e.Method, e.Path, e.Permission)
		for _, s := range sorts {
			switch {
			case s.May(e.Permission):
				b.WriteString(" ✓ |")
			case s.MayIfPublic(e.Permission):
				b.WriteString(" ○ |")
			default:
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n`GET /healthz`, `GET /readyz` and `GET /metrics` are for everybody who reaches the port, and tell nothing of content.\n")
	return b.String()
}
