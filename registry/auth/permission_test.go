package auth_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = Describe("The permission table", func() {
	It("gives admin everything but the operator's endpoints and what needs an account, and the operator these and the proofs", func() {
		Expect(auth.Permissions()).NotTo(BeEmpty())
		for _, permission := range auth.Permissions() {
			superuser := auth.Allowed(auth.RoleSuperuser, permission) || auth.Allowed(auth.RoleAnybody, permission)
			Expect(superuser).To(Equal(permission != auth.OperatorProtocol && permission != auth.UserChange && permission != auth.OwnTokensRead), string(permission))
			Expect(auth.Allowed(auth.RoleOperator, permission)).To(Equal(permission == auth.OperatorProtocol || permission == auth.LogsProve), string(permission))
			Expect(auth.Allowed(auth.RoleAnybody, permission)).To(Equal(permission == auth.OpenAPIRead || permission == auth.TokenIssue || permission == auth.TokenKeysRead), string(permission))
		}
	})

	It("gives nobody a permission without a row", func() {
		for _, role := range auth.Roles() {
			Expect(auth.Allowed(role, "no-such-permission")).To(BeFalse())
			Expect(auth.Allowed(role, "")).To(BeFalse())
		}
	})

	It("gives an unknown role nothing", func() {
		for _, permission := range auth.Permissions() {
			Expect(auth.Allowed("", permission)).To(BeFalse())
			Expect(auth.Allowed("root", permission)).To(BeFalse())
		}
	})

	// Each row names all who have a permission on team-a or team-a/app, of the callers below.
	DescribeTable("gives", func(permission auth.Permission, onRepository bool, who ...string) {
		on := auth.Organization("team-a")
		if onRepository {
			on = auth.Repository(domain.RepositoryName{Organization: "team-a", Path: "app"})
		}
		var have []string
		for name, id := range callers() {
			if id.Holds(permission, on) {
				have = append(have, name)
			}
		}
		Expect(have).To(ConsistOf(who))
	},
		Entry(nil, auth.RepositoryPull, true, "superuser", "admin", "reader", "writer", "repository-admin", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.BlobPull, true, "superuser", "admin", "reader", "writer", "repository-admin", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.RepositoryPush, true, "superuser", "admin", "writer", "repository-admin", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.RepositoryDelete, true, "superuser", "admin", "writer", "repository-admin", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.RepositoryRead, true, "superuser", "admin", "reader", "writer", "repository-admin", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.RepositoryAdmin, true, "superuser", "admin", "repository-admin", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.PermissionManage, true, "superuser", "admin", "repository-admin", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.TagDelete, true, "superuser", "admin", "writer", "repository-admin", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.PermissionRead, true, "superuser", "admin", "repository-admin", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.TagWrite, true, "superuser", "admin", "writer", "repository-admin", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry("removing locks to admins who are people", auth.TagManage, true, "superuser", "admin"),
		Entry("policies to admins who are people", auth.PolicyWrite, true, "superuser", "admin"),
		Entry("policies to admins who are people", auth.PolicyWrite, false, "superuser", "admin"),
		Entry(nil, auth.MirrorRead, false, "superuser", "admin"),
		Entry(nil, auth.MirrorWrite, false, "superuser", "admin"),
		Entry(nil, auth.PolicyRead, true, "superuser", "admin"),
		Entry(nil, auth.LogsRead, false, "superuser", "admin"),
		Entry(nil, auth.SuperuserLogs, false, "superuser"),
		Entry(nil, auth.LogsProve, false, "superuser", "operator"),
		Entry(nil, auth.ErasureRead, false, "superuser"),
		Entry(nil, auth.ConfigurationRead, false, "superuser"),
		Entry(nil, auth.RobotRead, false, "superuser", "admin"),
		Entry(nil, auth.MemberRead, false, "superuser", "admin"),
		Entry(nil, auth.RobotManage, false, "superuser", "admin"),
		Entry(nil, auth.MemberManage, false, "superuser", "admin"),
		Entry(nil, auth.OrganizationAdmin, false, "superuser", "admin"),
		Entry(nil, auth.OrganizationCreate, false, "superuser"),
		Entry(nil, auth.OrganizationRead, false, "superuser", "admin", "creator", "member", "robot", "robot-writer", "robot-repository-admin", "robot-admin"),
		Entry(nil, auth.RepositoryCreate, false, "superuser", "admin", "creator", "robot-admin"),
		Entry(nil, auth.UserManage, false, "superuser"),
		Entry(nil, auth.UserChange, false, "admin", "creator", "member", "reader", "writer", "repository-admin", "outsider"),
		Entry(nil, auth.OwnTokensRead, false, "admin", "creator", "member", "reader", "writer", "repository-admin", "outsider"),
		Entry(nil, auth.OperatorProtocol, false, "operator"),
	)

	It("gives a user's token not what needs the password", func() {
		id := callers()["member"]
		id.TokenID = "0f3c"
		Expect(id.Holds(auth.UserChange, auth.Resource{})).To(BeFalse())
		Expect(id.Holds(auth.UserRead, auth.Resource{})).To(BeTrue())
	})

	It("takes identities of different sources for different ones, whatever their names", func() {
		id := auth.Identity{Caller: domain.Caller{Name: "admin", Kind: "kubernetes", Account: 7}, Role: auth.RoleAccount}
		Expect(id.Holds(auth.UserManage, auth.Resource{})).To(BeFalse())
		robotLike := auth.Identity{Caller: domain.Caller{Name: "team-a+ci", Kind: domain.CallerUser, Account: 7}, Role: auth.RoleAccount}
		Expect(robotLike.Holds(auth.OrganizationRead, auth.Organization("team-a"))).To(BeFalse())
	})

	It("says nothing of other organizations and repositories", func() {
		for name, id := range callers() {
			if name == "superuser" {
				continue
			}
			for _, on := range []auth.Resource{
				auth.Organization("team-b"), auth.Repository(domain.RepositoryName{Organization: "team-b", Path: "app"}), {},
				// A prefix of the name is another name.
				auth.Organization("team"), auth.Repository(domain.RepositoryName{Organization: "team-a-app", Path: "x"}),
			} {
				for _, permission := range []auth.Permission{auth.RepositoryPull, auth.RepositoryPush, auth.RepositoryCreate, auth.OrganizationRead, auth.TagManage, auth.LogsRead} {
					Expect(id.Holds(permission, on)).To(BeFalse(), "%s %s %s", name, permission, on)
				}
			}
		}
	})

	It("takes the permission on a repository for none on those below and above it", func() {
		id := callers()["writer"]
		for _, path := range []string{"app/nested", "ap", "app2"} {
			Expect(id.Holds(auth.RepositoryPush, auth.Repository(domain.RepositoryName{Organization: "team-a", Path: path}))).To(BeFalse(), path)
		}
	})

	It("lets anywhere mean any organization where the caller has a role", func() {
		Expect(callers()["creator"].Holds(auth.RepositoryCreate, auth.Anywhere)).To(BeTrue())
		Expect(callers()["member"].Holds(auth.RepositoryCreate, auth.Anywhere)).To(BeFalse())
		Expect(callers()["outsider"].Holds(auth.RepositoryCreate, auth.Anywhere)).To(BeFalse())
	})

	DescribeTable("Authorize",
		func(ctx SpecContext, id auth.Identity, permission auth.Permission, code domain.Code, message string) {
			a, err := auth.New(auth.Options{})
			Expect(err).NotTo(HaveOccurred())
			err = a.Authorize(ctx, id, permission, auth.Repository(domain.RepositoryName{Organization: "team-a", Path: "app"}))
			Expect(domain.CodeOf(err)).To(Equal(code))
			if message != "" {
				Expect(err).To(MatchError(message))
			}
		},
		Entry("allows", callers()["superuser"], auth.PolicyWrite, domain.Code(""), ""),
		Entry("asks an anonymous caller for credentials", callers()["anonymous"], auth.PolicyRead, domain.CodeUnauthorized, "authentication is required"),
		Entry("denies admin the operator's endpoints", callers()["superuser"], auth.OperatorProtocol, domain.CodeDenied, `superuser "admin" does not have the permission operator:protocol on team-a/app`),
		Entry("denies the operator a pull", callers()["operator"], auth.RepositoryPull, domain.CodeDenied, ""),
		Entry("denies an unknown role", auth.Identity{Role: "root"}, auth.RepositoryPull, domain.CodeDenied, ""),
		Entry("says who lacks what", callers()["reader"], auth.RepositoryPush, domain.CodeDenied, `user "reader" does not have the permission repository:push on team-a/app`),
	)
})

// callers are one of each sort, with what they were given in team-a and on team-a/app.
func callers() map[string]auth.Identity {
	list := map[string]auth.Identity{
		"anonymous": {Caller: domain.Caller{Kind: domain.CallerAnonymous}, Role: auth.RoleAnonymous},
		"superuser": {Caller: domain.Caller{Name: "admin", Kind: domain.CallerUser}, Role: auth.RoleSuperuser},
		"operator":  {Caller: domain.Caller{Name: "operator", Kind: domain.CallerOperator}, Role: auth.RoleOperator},
	}
	add := func(name string, kind domain.CallerKind, organization domain.OrganizationRole, repository domain.RepositoryRole) {
		id := auth.Identity{Caller: domain.Caller{Name: name, Kind: kind, Account: int64(len(list))}, Role: auth.RoleAccount}
		if kind == domain.CallerRobot {
			id.Name, id.TokenID = "team-a+"+name, "0a1b"
		}
		if organization != "" {
			id.Rights.Organizations = map[string]domain.OrganizationRole{"team-a": organization}
		}
		if repository != "" {
			id.Rights.Repositories = map[string]domain.RepositoryRole{"team-a/app": repository}
		}
		list[name] = id
	}
	add("outsider", domain.CallerUser, "", "")
	add("member", domain.CallerUser, domain.OrganizationMember, "")
	add("creator", domain.CallerUser, domain.OrganizationCreator, "")
	add("admin", domain.CallerUser, domain.OrganizationAdmin, "")
	add("reader", domain.CallerUser, "", domain.RepositoryRead)
	add("writer", domain.CallerUser, "", domain.RepositoryWrite)
	add("repository-admin", domain.CallerUser, "", domain.RepositoryAdmin)
	add("robot", domain.CallerRobot, "", "")
	add("robot-writer", domain.CallerRobot, "", domain.RepositoryWrite)
	add("robot-repository-admin", domain.CallerRobot, "", domain.RepositoryAdmin)
	add("robot-admin", domain.CallerRobot, domain.OrganizationAdmin, "")
	return list
}
