package mgmtapi_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// buynlarge is the organization of the third seed with the callers that its tests name.
type buynlarge struct {
	*registry
	// readonly are the readonly superusers, by how each came to be one.
	readonly map[string]caller
	// admin of the organization, and the superuser with full access, which is admin.
	devtable caller
}

const (
	buynlargeMirror = "/api/v1/organization/buynlarge/mirror"
	harborBody      = `{"external_registry_type": "harbor", "external_registry_url": "https://harbor.example.com", "external_namespace": "my-project",
		"external_registry_username": "puller", "external_registry_password": "harbor-password-1",
		"robot_username": "buynlarge+mirror", "visibility": "private", "sync_interval": 3600, "sync_start_date": "2026-03-15T00:00:00Z"}`
)

func newBuynlarge() *buynlarge {
	GinkgoHelper()
	ctx := context.Background()
	b := &buynlarge{registry: newRegistry(coreOptions), readonly: map[string]caller{}}
	b.must("POST", "/api/v1/organization/", `{"name": "buynlarge"}`)
	b.must("PUT", "/api/v1/organization/buynlarge/robots/mirror", "")
	b.push("buynlarge/app", "v1", "one")
	account := func(name string) caller {
		GinkgoHelper()
		Expect(b.core.CreateUser(ctx, user, core.NewUser{Name: name})).To(Succeed())
		secret, hash := auth.NewSecret()
		_, err := b.core.CreateToken(ctx, user, name, "test", hash)
		Expect(err).NotTo(HaveOccurred())
		return func(r *http.Request) { r.SetBasicAuth(name, secret) }
	}
	makeAdmin := func(name string) {
		GinkgoHelper()
		_, err := b.core.SetMember(ctx, user, "buynlarge", name, domain.OrganizationAdmin)
		Expect(err).NotTo(HaveOccurred())
	}
	b.devtable = account("devtable")
	makeAdmin("devtable")
	b.readonly["by the configuration"] = account("configured")
	b.readonly["by a grant"] = account("globalreadonlysuperuser")
	b.grant("globalreadonlysuperuser", domain.ReadonlyFull)
	b.readonly["by a grant, MetadataOnly"] = account("metadata")
	b.grant("metadata", domain.ReadonlyMetadataOnly)
	b.readonly["by a grant, an organization admin before"] = account("was-admin")
	makeAdmin("was-admin")
	b.grant("was-admin", domain.ReadonlyFull)
	return b
}

// mirror makes the organization's mirror, as the seed's _create_org_mirror_config does.
func (b *buynlarge) mirror() {
	GinkgoHelper()
	b.must("POST", buynlargeMirror, harborBody)
}

// each runs fn for each readonly superuser.
func (b *buynlarge) each(fn func(as caller, who string)) {
	GinkgoHelper()
	for who, as := range b.readonly {
		fn(as, who)
	}
}

// blocked checks that a call is refused with a body that says why, and changes nothing.
func (b *buynlarge) blocked(as caller, who, method, path, body string) {
	GinkgoHelper()
	before := len(b.changes())
	answer := b.as(as, method, path, body)
	Expect(answer.status).To(Equal(http.StatusForbidden), "%s %s %s: %s", who, method, path, answer.body)
	Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeInsufficientScope))
	Expect(answer.problem().Detail).To(ContainSubstring("is a readonly superuser: it reads everything and writes nothing"))
	Expect(b.changes()).To(HaveLen(before))
}

// changes are the entries of the log that are of no view.
func (r *registry) changes() (changes []audit.View) {
	GinkgoHelper()
	entries, err := r.core.Log(context.Background(), audit.Query{After: -1, Limit: 100_000})
	Expect(err).NotTo(HaveOccurred())
	for _, entry := range entries {
		if !strings.HasPrefix(string(entry.Kind), "view_") {
			changes = append(changes, entry)
		}
	}
	return changes
}

var _ = Describe("TestOrgMirrorGlobalReadonly", func() {
	var b *buynlarge
	BeforeEach(func() { b = newBuynlarge() })

	It("test_global_readonly_can_read_org_mirror_config", func() {
		b.mirror()
		b.each(func(as caller, who string) {
			view := into[openapi.OrganizationMirror](b.as(as, "GET", buynlargeMirror, ""))
			Expect(view.ExternalRegistryURL).To(Equal("https://harbor.example.com"), who)
			Expect(view.ExternalNamespace).To(Equal("my-project"), who)
		})
	})

	It("test_global_readonly_password_is_masked", func() {
		b.mirror()
		b.each(func(as caller, who string) {
			answer := b.as(as, "GET", buynlargeMirror, "")
			Expect(into[openapi.OrganizationMirror](answer).ExternalRegistryPassword).To(BeEquivalentTo("***REDACTED***"), who)
			Expect(answer.body).NotTo(ContainSubstring("harbor-password-1"), who)
		})
		for _, as := range []caller{b.devtable, admin} {
			Expect(b.as(as, "GET", buynlargeMirror, "").body).NotTo(ContainSubstring("harbor-password-1"), "masked for everybody")
		}
	})

	It("test_global_readonly_blocked_from_create", func() {
		b.each(func(as caller, who string) {
			b.blocked(as, who, "POST", buynlargeMirror, harborBody)
			b.blocked(as, who, "POST", buynlargeMirror, `{"external_registry_url": "https://example.com"}`)
		})
		Expect(b.admin("GET", buynlargeMirror, "").status).To(Equal(http.StatusNotFound))
	})

	It("test_global_readonly_blocked_from_update", func() {
		b.mirror()
		b.each(func(as caller, who string) { b.blocked(as, who, "PUT", buynlargeMirror, `{"is_enabled": false}`) })
		Expect(into[openapi.OrganizationMirror](b.admin("GET", buynlargeMirror, "")).IsEnabled).To(BeTrue())
	})

	It("test_global_readonly_blocked_from_delete", func() {
		b.mirror()
		b.each(func(as caller, who string) { b.blocked(as, who, "DELETE", buynlargeMirror, "") })
		Expect(b.admin("GET", buynlargeMirror, "").status).To(Equal(http.StatusOK))
	})

	It("is blocked from syncs, cancelling, trying and adopting too", func() {
		b.mirror()
		b.each(func(as caller, who string) {
			for _, action := range []string{"sync-now", "sync-cancel", "verify", "adopt"} {
				b.blocked(as, who, "POST", buynlargeMirror+"/"+action, "")
			}
			Expect(b.as(as, "GET", buynlargeMirror+"/repositories", "").status).To(Equal(http.StatusOK), who)
		})
	})
})

var _ = Describe("Global readonly superusers and organization mirrors", func() {
	var b *buynlarge
	BeforeEach(func() { b = newBuynlarge() })

	It("test_global_readonly_org_mirror_read_only_access", func() {
		Expect(b.as(b.devtable, "POST", buynlargeMirror, harborBody).status).To(Equal(http.StatusCreated))
		b.each(func(as caller, who string) {
			Expect(b.as(as, "GET", buynlargeMirror, "").status).To(Equal(http.StatusOK), who)
			b.blocked(as, who, "PUT", buynlargeMirror, `{"is_enabled": false}`)
		})
	})

	It("AC1: Global readonly superuser can GET organization mirror configurations", func() {
		b.mirror()
		b.each(func(as caller, who string) {
			Expect(b.as(as, "GET", buynlargeMirror, "").status).To(Equal(http.StatusOK), who)
			Expect(b.as(as, "HEAD", buynlargeMirror, "").status).To(Equal(http.StatusOK), who)
			Expect(b.as(as, "GET", "/api/v1/organization/no-such-org/mirror", "").status).To(Equal(http.StatusNotFound), who)
		})
	})

	It("AC2: Passwords are masked", func() {
		b.must("POST", buynlargeMirror, with(harborBody, `external_registry_config={"proxy": {"https_proxy": "http://carol:proxy-password-1@proxy.example.com:3128"}}`))
		b.each(func(as caller, who string) {
			answer := b.as(as, "GET", buynlargeMirror, "")
			Expect(answer.body).To(And(ContainSubstring(`"external_registry_password":"***REDACTED***"`), ContainSubstring("http://***REDACTED***@proxy.example.com")), who)
			Expect(answer.body).NotTo(Or(ContainSubstring("harbor-password-1"), ContainSubstring("proxy-password-1")), who)
		})
		Expect(b.log.String()).NotTo(Or(ContainSubstring("harbor-password-1"), ContainSubstring("proxy-password-1")))
		for _, entry := range b.changes() {
			Expect(fmt.Sprint(entry.Metadata)).NotTo(Or(ContainSubstring("harbor-password-1"), ContainSubstring("proxy-password-1")))
		}
	})

	It("AC3: Global readonly superuser is blocked from POST/PUT/DELETE operations (403 Forbidden)", func() {
		b.mirror()
		b.each(func(as caller, who string) {
			for _, method := range []string{"POST", "PUT", "DELETE"} {
				b.blocked(as, who, method, buynlargeMirror, harborBody)
			}
		})
	})

	full := func(as caller) {
		GinkgoHelper()
		Expect(b.as(as, "POST", buynlargeMirror, harborBody).status).To(Equal(http.StatusCreated))
		Expect(b.as(as, "GET", buynlargeMirror, "").status).To(Equal(http.StatusOK))
		Expect(b.as(as, "PUT", buynlargeMirror, `{"is_enabled": false}`).status).To(Equal(http.StatusOK))
		Expect(b.as(as, "DELETE", buynlargeMirror, "").status).To(Equal(http.StatusNoContent))
	}

	It("AC4: Organization admins still have full access (no regression)", func() { full(b.devtable) })

	It("AC5: Superusers with full access still have full access (no regression)", func() { full(admin) })

	It("AC6: all permission scenarios: outsiders and the anonymous get nothing", func() {
		b.mirror()
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			Expect(b.as(anonymous, method, buynlargeMirror, "").status).To(Equal(http.StatusUnauthorized))
			Expect(b.as(operator, method, buynlargeMirror, "").status).To(Equal(http.StatusForbidden))
		}
	})

	// Who may what is equal for policies and mirrors: the comparison table of the seed has equal rows.
	It("immutability policies and organization mirrors have the same permissions for each caller", func() {
		b.mirror()
		made := into[openapi.PolicyID](b.admin("POST", "/api/v1/organization/buynlarge/immutabilitypolicy/", `{"tagPattern": "locked.*"}`))
		callers := map[string]caller{"anonymous": anonymous, "operator": operator, "org admin": b.devtable, "superuser": admin}
		b.each(func(as caller, who string) { callers[who] = as })
		through := func(answer response) bool {
			return answer.status != http.StatusUnauthorized && answer.status != http.StatusForbidden
		}
		for who, as := range callers {
			for _, method := range []string{"GET", "PUT", "DELETE"} {
				// A parameter that nobody has is refused behind the permission.
				policy := b.as(as, method, "/api/v1/organization/buynlarge/immutabilitypolicy/"+made.UUID+"?nonsense=1", "")
				mirror := b.as(as, method, buynlargeMirror+"?nonsense=1", "")
				Expect(mirror.status).To(Equal(policy.status), "%s %s", who, method)
				_, readonly := b.readonly[who]
				Expect(through(policy)).To(Equal(who == "org admin" || who == "superuser" || readonly && method == "GET"), "%s %s", who, method)
			}
		}
	})
})

var _ = Describe("A readonly superuser of the management API", func() {
	var b *buynlarge
	BeforeEach(func() { b = newBuynlarge() })

	It("can_access_org_logs_team_members_org_members_without_full_access, and org_robot_list_get_hides_token", func() {
		b.each(func(as caller, who string) {
			for _, path := range []string{"logs", "aggregatelogs", "members", "members/devtable", "robots", "robots/mirror", "immutabilitypolicy/"} {
				answer := b.as(as, "GET", "/api/v1/organization/buynlarge/"+path, "")
				Expect(answer.status).To(Equal(http.StatusOK), "%s %s: %s", who, path, answer.body)
				Expect(answer.body).NotTo(ContainSubstring(auth.SecretPrefix), who)
			}
			Expect(b.as(as, "GET", "/api/v1/organization/buynlarge/robots", "").body).To(ContainSubstring("***REDACTED***"))
		})
	})

	It("create_token_rejects_global_readonly_superuser, and its own tokens are listed without what is secret", func() {
		b.each(func(as caller, who string) {
			b.blocked(as, who, "POST", "/api/v1/user/apptoken", `{"title": "laptop"}`)
			answer := b.as(as, "GET", "/api/v1/user/apptoken", "")
			Expect(answer.body).To(And(ContainSubstring(`"title":"test"`), ContainSubstring("***REDACTED***")), who)
			b.blocked(as, who, "PUT", "/api/v1/user/", `{"password": "another password"}`)
		})
	})

	It("is never told that it may what it may not", func() {
		b.each(func(as caller, who string) {
			me := into[openapi.OwnUser](b.as(as, "GET", "/api/v1/user/", ""))
			Expect(me.SuperUser).To(BeFalse(), who)
			Expect(me.GlobalReadonlySuperUser).To(BeTrue(), who)
			Expect(me.ReadonlyAccess).NotTo(BeNil())
			for _, organization := range me.Organizations {
				Expect(organization.IsOrgAdmin).To(BeFalse(), who)
				Expect(organization.CanCreateRepo).To(BeFalse(), who)
				Expect(organization.Role).To(Equal(domain.OrganizationMember), who)
			}
			repository := into[openapi.Repository](b.as(as, "GET", "/api/v1/repository/buynlarge/app", ""))
			Expect(repository.CanWrite).To(BeFalse(), who)
			Expect(repository.CanAdmin).To(BeFalse(), who)
			Expect(into[openapi.Organization](b.as(as, "GET", "/api/v1/organization/buynlarge", "")).IsAdmin).To(BeFalse(), who)
			for _, organization := range into[openapi.OrganizationList](b.as(as, "GET", "/api/v1/superuser/organizations/", "")).Organizations {
				Expect(organization.IsAdmin).To(BeFalse(), who)
			}
			Expect(b.as(as, "GET", "/api/v1/repository?namespace=buynlarge", "").body).To(ContainSubstring(`"app"`), who)
		})
		Expect(into[openapi.OwnUser](b.as(b.devtable, "GET", "/api/v1/user/", "")).GlobalReadonlySuperUser).To(BeFalse())
	})

	It("reads who else reads everything, and the settings", func() {
		as := b.readonly["by a grant"]
		list := into[openapi.ReadonlySuperuserList](b.as(as, "GET", "/api/v1/superuser/readonlysuperusers/", ""))
		Expect(list.Configured).To(Equal([]string{"configured"}))
		Expect(list.ReadonlySuperusers).To(HaveLen(3))
		Expect(list.ReadonlySuperusers[0].Subject).To(Equal(openapi.Subject{Kind: domain.SubjectRegistryUser, Name: "globalreadonlysuperuser"}))
		Expect(b.as(as, "GET", "/api/v1/superuser/config", "").status).To(Equal(http.StatusOK))
		Expect(b.as(b.devtable, "GET", "/api/v1/superuser/readonlysuperusers/", "").status).To(Equal(http.StatusForbidden))
	})

	It("leaves an entry of what it looks at, repeats counted, before it sees it", func() {
		b.mirror()
		as := b.readonly["by a grant"]
		views := func(kinds ...audit.Kind) []audit.View {
			GinkgoHelper()
			entries, err := b.core.Log(context.Background(), audit.Query{After: -1, Kinds: kinds, Limit: 1000})
			Expect(err).NotTo(HaveOccurred())
			return entries
		}
		for range 5 {
			Expect(b.as(as, "GET", buynlargeMirror, "").status).To(Equal(http.StatusOK))
		}
		Expect(views(audit.KindViewMirror)).To(HaveLen(1))
		entry := views(audit.KindViewMirror)[0]
		Expect(entry.Organization).To(Equal("buynlarge"))
		Expect(entry.Performer).To(Equal("globalreadonlysuperuser"))
		Expect(entry.PerformerKind).To(Equal(domain.CallerUser))
		b.clock.Set(beginning.Add(2 * time.Minute))
		Eventually(func() []audit.View { return views(audit.KindViewMirror) }).WithTimeout(soon).Should(HaveLen(2))
		Expect(views(audit.KindViewMirror)[0].Metadata).To(HaveKeyWithValue("count", BeNumerically("==", 4)))

		for path, kind := range map[string]audit.Kind{
			"/api/v1/organization/buynlarge/immutabilitypolicy/":   audit.KindViewPolicies,
			"/api/v1/organization/buynlarge/robots":                audit.KindViewRobots,
			"/api/v1/organization/buynlarge/members":               audit.KindViewMembers,
			"/api/v1/repository/buynlarge/app/permissions/user/":   audit.KindViewPermissions,
			"/api/v1/repository/buynlarge/app/logs":                audit.KindViewLogs,
			"/api/v1/superuser/users/":                             audit.KindViewUsers,
			"/api/v1/superuser/config":                             audit.KindViewConfiguration,
			"/api/v1/superuser/audit/checkpoint":                   audit.KindViewLogs,
			"/api/v1/repository/buynlarge/app/immutabilitypolicy/": audit.KindViewPolicies,
		} {
			before := len(views(kind))
			Expect(b.as(as, "GET", path, "").status).To(Equal(http.StatusOK), path)
			Expect(views(kind)).To(HaveLen(before+1), path)
		}
		Expect(views(audit.KindViewPermissions)[0].Repository).To(Equal("app"))

		By("and not of what others look at")
		all := len(views())
		Expect(b.as(b.devtable, "GET", buynlargeMirror, "").status).To(Equal(http.StatusOK))
		Expect(b.as(as, "GET", "/api/v1/organization/buynlarge", "").status).To(Equal(http.StatusOK))
		Expect(views()).To(HaveLen(all))
	})

	It("sees nothing if that cannot be recorded", func() {
		server := serveAs(unrecorded{b.core}, b.core, b.clock.Now)
		defer server.Close()
		b.mirror()
		answer := send(server, b.readonly["by a grant"], "GET", buynlargeMirror, "")
		Expect(answer.status).To(Equal(http.StatusServiceUnavailable))
		Expect(send(server, b.devtable, "GET", buynlargeMirror, "").status).To(Equal(http.StatusOK))
	})
})

// unrecorded is a core that cannot record views.
type unrecorded struct{ *core.Core }

func (unrecorded) Viewed(context.Context, domain.Caller, audit.Kind, string, string) error {
	return domain.Unavailable(context.DeadlineExceeded)
}

var _ = Describe("The operator's endpoints of readonly superusers", func() {
	const path = "/api/v1/operator/readonlysuperusers/audit"
	body := func(extra string) string {
		return `{"cluster": "cluster", "uid": "u1", "generation": 1, "subject": {"kind": "RegistryUser", "name": "auditor"}, "access": "Full"` + extra + `}`
	}

	It("make, show and revoke a grant with credentials, which are shown once", func() {
		r := newRegistry(coreOptions)
		Expect(r.as(operator, "GET", path, "").status).To(Equal(http.StatusNotFound))
		status := into[openapi.ReadonlySuperuserStatus](r.as(operator, "PUT", path, body(`, "credentials": {}, "expiresAt": "2026-04-01T00:00:00Z"`)))
		Expect(status.State).To(Equal(openapi.ReadonlySuperuserStateActive))
		Expect(status.Credentials.Username).To(Equal("auditor"))
		Expect(status.Credentials.Tokens).To(BeEmpty())
		made := into[openapi.ReadonlyCredentials](r.as(operator, "POST", path+"/credentials", `{"cluster": "cluster", "uid": "u1"}`))
		Expect(string(made.Token)).To(HavePrefix(auth.SecretPrefix))
		as := func(request *http.Request) { request.SetBasicAuth(made.Username, string(made.Token)) }
		Expect(r.as(as, "GET", "/api/v1/superuser/logs", "").status).To(Equal(http.StatusOK))
		answer := r.as(operator, "PUT", path, body(fmt.Sprintf(`, "credentials": {"tokenID": %q}, "expiresAt": "2026-04-01T00:00:00Z"`, made.TokenID)))
		Expect(answer.body).NotTo(ContainSubstring(string(made.Token)))
		status = into[openapi.ReadonlySuperuserStatus](answer)
		Expect(status.Credentials.TokenID).To(Equal(made.TokenID))
		Expect(status.Credentials.Tokens).To(HaveLen(1))
		Expect(r.as(operator, "PUT", path+"/deletion-intent", `{"uid": "u1", "user": "dave"}`).status).To(Equal(http.StatusNoContent))
		Expect(r.as(operator, "DELETE", path+"?cluster=cluster&uid=other", "").status).To(Equal(http.StatusNoContent))
		Expect(r.as(as, "GET", "/api/v1/superuser/logs", "").status).To(Equal(http.StatusOK))
		Expect(r.as(operator, "DELETE", path+"?cluster=cluster&uid=u1", "").status).To(Equal(http.StatusNoContent))
		Expect(r.as(as, "GET", "/api/v1/superuser/logs", "").status).To(Equal(http.StatusUnauthorized))
		Expect(r.log.String()).NotTo(ContainSubstring(string(made.Token)))

		segment := into[openapi.LogSegment](r.as(operator, "GET", "/api/v1/operator/log", ""))
		var managers []string
		for _, entry := range segment.Entries {
			if strings.HasSuffix(entry.Kind, "_readonly_superuser") {
				managers = append(managers, entry.Kind+" of "+entry.Manager.Name)
			}
		}
		Expect(managers).To(Equal([]string{"grant_readonly_superuser of audit", "revoke_readonly_superuser of audit"}))
	})

	DescribeTable("refuse", func(given string, status int, field string) {
		r := newRegistry(coreOptions)
		answer := r.as(operator, "PUT", path, given)
		Expect(answer.status).To(Equal(status), answer.body)
		Expect(answer.problem().Detail).To(ContainSubstring(field))
	},
		Entry("no cluster", `{"cluster": "", "uid": "u1", "generation": 1, "subject": {"kind": "User", "name": "x"}, "access": "Full"}`, 400, "cluster"),
		Entry("no generation", `{"cluster": "c", "uid": "u1", "generation": 0, "subject": {"kind": "User", "name": "x"}, "access": "Full"}`, 400, "generation"),
		Entry("no name", `{"cluster": "c", "uid": "u1", "generation": 1, "subject": {"kind": "User", "name": ""}, "access": "Full"}`, 400, "subject.name"),
		Entry("another access", `{"cluster": "c", "uid": "u1", "generation": 1, "subject": {"kind": "User", "name": "x"}, "access": "Some"}`, 400, "access"),
		Entry("a robot", `{"cluster": "c", "uid": "u1", "generation": 1, "subject": {"kind": "RegistryUser", "name": "a+b"}, "access": "Full"}`, 400, "robot"),
	)
})

var _ = Describe("Secrets in the OpenAPI document", func() {
	// What looks like a secret by its name.
	suspicious := []string{"pass", "secret", "token", "credential", "private", "key", "auth", "cookie", "session", "webhook", "proxy", "salt", "signature"}
	// types are the Go types that keep each mark.
	types := map[string][]string{
		"given": {"domain.GivenSecret", "domain.RawSecret"}, "masked": {"domain.MaskedSecret"}, "new": {"domain.NewSecret"}, "partly": {""}, "none": {""},
	}
	looks := func(name string) bool {
		for _, word := range suspicious {
			if strings.Contains(strings.ToLower(name), word) {
				return true
			}
		}
		return false
	}
	var walk func(ref *openapi3.SchemaRef, path string, visit func(name string, schema *openapi3.Schema, path string))
	walk = func(ref *openapi3.SchemaRef, path string, visit func(string, *openapi3.Schema, string)) {
		if ref == nil || ref.Value == nil || (ref.Ref != "" && path != "") {
			return
		}
		schema := ref.Value
		for name, property := range schema.Properties {
			visit(name, property.Value, path+"."+name)
			walk(property, path+"."+name, visit)
		}
		walk(schema.Items, path+"[]", visit)
		walk(schema.AdditionalProperties.Schema, path+"{}", visit)
		for _, list := range []openapi3.SchemaRefs{schema.AllOf, schema.AnyOf, schema.OneOf} {
			for _, part := range list {
				walk(part, path, visit)
			}
		}
	}
	all := func(visit func(name string, schema *openapi3.Schema, path string)) {
		for name, schema := range document.Components.Schemas {
			walk(&openapi3.SchemaRef{Value: schema.Value}, name, visit)
		}
		for path, item := range document.Paths.Map() {
			for method, operation := range item.Operations() {
				if operation.RequestBody != nil {
					for _, media := range operation.RequestBody.Value.Content {
						walk(media.Schema, method+" "+path, visit)
					}
				}
				for status, answer := range operation.Responses.Map() {
					for _, media := range answer.Value.Content {
						walk(media.Schema, method+" "+path+" "+status, visit)
					}
				}
			}
		}
	}

	It("are marked, each field that looks like one, and kept by the type that the mark asks for", func() {
		marked := map[string]int{}
		all(func(name string, schema *openapi3.Schema, path string) {
			mark, _ := schema.Extensions["x-secret"].(string)
			if mark == "" {
				Expect(looks(name) && schema.Type.Is("string")).To(BeFalse(), "%s looks like a secret: mark it with x-secret: given, masked, new, partly or none", path)
				return
			}
			marked[mark]++
			Expect(types).To(HaveKey(mark), path)
			kind, _ := schema.Extensions["x-go-type"].(string)
			Expect(kind).To(BeElementOf(toAny(types[mark])...), "%s: the type must keep what the mark %s says", path, mark)
		})
		Expect(marked).To(HaveLen(len(types)), "there is one of each")
	})

	It("are given in requests only, and masked or new in answers only", func() {
		usedIn := func(request bool) map[string]bool {
			found := map[string]bool{}
			var visit func(ref *openapi3.SchemaRef, seen map[*openapi3.Schema]bool)
			visit = func(ref *openapi3.SchemaRef, seen map[*openapi3.Schema]bool) {
				if ref == nil || seen[ref.Value] {
					return
				}
				seen[ref.Value] = true
				for _, property := range ref.Value.Properties {
					if mark, _ := property.Value.Extensions["x-secret"].(string); mark != "" {
						found[mark] = true
					}
					visit(property, seen)
				}
				visit(ref.Value.Items, seen)
			}
			for _, item := range document.Paths.Map() {
				for _, operation := range item.Operations() {
					seen := map[*openapi3.Schema]bool{}
					if request && operation.RequestBody != nil {
						for _, media := range operation.RequestBody.Value.Content {
							visit(media.Schema, seen)
						}
					}
					if !request {
						for _, answer := range operation.Responses.Map() {
							for _, media := range answer.Value.Content {
								visit(media.Schema, seen)
							}
						}
					}
				}
			}
			return found
		}
		Expect(usedIn(true)).To(And(HaveKey("given"), Not(HaveKey("masked")), Not(HaveKey("new"))))
		Expect(usedIn(false)).To(And(HaveKey("masked"), HaveKey("new"), Not(HaveKey("given"))))
	})
})
