package auth_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = Describe("The permission table", func() {
	It("gives admin everything but the operator's endpoints, and the operator nothing else", func() {
		Expect(auth.Permissions()).NotTo(BeEmpty())
		for _, permission := range auth.Permissions() {
			Expect(auth.Allowed(auth.RoleSuperuser, permission)).To(Equal(permission != auth.OperatorProtocol), string(permission))
			Expect(auth.Allowed(auth.RoleOperator, permission)).To(Equal(permission == auth.OperatorProtocol), string(permission))
			Expect(auth.Allowed(auth.RoleAnonymous, permission)).To(Equal(permission == auth.OpenAPIRead), string(permission))
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

	DescribeTable("Check",
		func(role auth.Role, permission auth.Permission, code domain.Code) {
			err := auth.Check(auth.Identity{Caller: domain.Caller{Name: "somebody"}, Role: role}, permission)
			Expect(domain.CodeOf(err)).To(Equal(code))
		},
		Entry("allows", auth.RoleSuperuser, auth.PolicyWrite, domain.Code("")),
		Entry("asks an anonymous caller for credentials", auth.RoleAnonymous, auth.PolicyRead, domain.CodeUnauthorized),
		Entry("denies admin the operator's endpoints", auth.RoleSuperuser, auth.OperatorProtocol, domain.CodeDenied),
		Entry("denies the operator a pull", auth.RoleOperator, auth.RepositoryPull, domain.CodeDenied),
		Entry("denies an unknown role", auth.Role("root"), auth.RepositoryPull, domain.CodeDenied),
	)

	It("says who lacks what", func() {
		err := auth.Check(auth.Identity{Caller: domain.Caller{Name: "admin"}, Role: auth.RoleSuperuser}, auth.OperatorProtocol)
		Expect(err).To(MatchError(`superuser "admin" does not have the permission operator:protocol`))
	})
})
