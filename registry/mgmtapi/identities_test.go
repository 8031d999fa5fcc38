package mgmtapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// kinds are the kinds and metadata of a log, the oldest first.
func (r *registry) kinds(path string) (list []string) {
	GinkgoHelper()
	page := into[openapi.LogPage](r.admin("GET", path, ""))
	for _, item := range page.Logs {
		metadata, err := json.Marshal(item.Metadata)
		Expect(err).NotTo(HaveOccurred())
		list = append([]string{item.Kind + " " + string(metadata)}, list...)
	}
	return list
}

func withPassword[T ~string](name string, password T) caller {
	return func(r *http.Request) { r.SetBasicAuth(name, string(password)) }
}

var _ = Describe("Robots", func() {
	const robots = "/api/v1/organization/team-a/robots"

	It("are made, rotated and deleted, and show their token once", func() {
		r := newRegistry(coreOptions)
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		Expect(r.admin("GET", robots, "").body).To(Equal(`{"robots":[]}`))

		answer := r.admin("PUT", robots+"/ci", `{"description": "pushes", "unstructured_metadata": {"owner": "x"}}`)
		Expect(answer.status).To(Equal(http.StatusCreated))
		robot := into[openapi.Robot](answer)
		Expect(robot.Name).To(Equal("team-a+ci"))
		Expect(string(robot.Token)).To(MatchRegexp(`^tdl_[0-9a-f]{64}$`))
		Expect(robot.UnstructuredMetadata).To(Equal(map[string]any{"owner": "x"}))
		bare := into[openapi.Robot](r.admin("PUT", robots+"/bare", ""))
		Expect(bare.Token).NotTo(Equal(robot.Token))
		Expect(r.as(withPassword("team-a+ci", robot.Token), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusOK))

		Expect(r.admin("PUT", robots+"/ci", "").status).To(Equal(http.StatusBadRequest), "as in Quay")
		for _, path := range []string{robots, robots + "?permissions=true&token=true&limit=5", robots + "/ci"} {
			Expect(r.admin("GET", path, "").body).To(And(ContainSubstring(`"token":"***REDACTED***"`), Not(ContainSubstring("tdl_"))))
		}

		next := into[openapi.Robot](r.admin("POST", robots+"/ci/regenerate", ""))
		Expect(next.Token).NotTo(Equal(robot.Token))
		Expect(r.as(withPassword("team-a+ci", robot.Token), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		Expect(r.as(withPassword("team-a+ci", next.Token), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusOK))

		Expect(r.admin("DELETE", robots+"/ci", "").status).To(Equal(http.StatusNoContent))
		for _, call := range [][2]string{{"GET", "/ci"}, {"DELETE", "/ci"}, {"POST", "/ci/regenerate"}} {
			Expect(r.admin(call[0], robots+call[1], "").status).To(Equal(http.StatusNotFound))
		}
		Expect(r.as(withPassword("team-a+ci", next.Token), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		Expect(r.kinds("/api/v1/organization/team-a/logs")).To(HaveExactElements(
			HavePrefix("org_create "),
			`create_robot {"description":"pushes","namespace":"team-a","robot":"team-a+ci"}`,
			`create_robot {"description":"","namespace":"team-a","robot":"team-a+bare"}`,
			`regenerate_robot_token {"namespace":"team-a","robot":"team-a+ci"}`,
			`delete_robot {"namespace":"team-a","robot":"team-a+ci"}`,
		))
	})

	DescribeTable("are refused with", func(name, body string, status int) {
		r := newRegistry(coreOptions)
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		Expect(r.admin("PUT", robots+"/"+name, body).status).To(Equal(status))
	},
		Entry("a name in capitals", "CI", "", http.StatusBadRequest),
		Entry("a name with a plus", "c+i", "", http.StatusBadRequest),
		Entry("an unknown field", "ci", `{"token": "x"}`, http.StatusBadRequest),
		Entry("too long a description", "ci", `{"description": "`+strings.Repeat("x", 256)+`"}`, http.StatusBadRequest),
		Entry("too much metadata", "ci", `{"unstructured_metadata": {"x": "`+strings.Repeat("x", 5000)+`"}}`, http.StatusBadRequest),
	)

	It("go with their organization", func() {
		r := newRegistry(coreOptions)
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		robot := into[openapi.Robot](r.admin("PUT", robots+"/ci", ""))
		r.must("DELETE", "/api/v1/organization/team-a", "")
		Expect(r.as(withPassword("team-a+ci", robot.Token), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		Expect(r.admin("GET", robots, "").status).To(Equal(http.StatusNotFound))
	})

	It("are robots in the log", func() {
		r := newRegistry(coreOptions)
		r.push("team-a/app", "v1", "one")
		robot := into[openapi.Robot](r.admin("PUT", robots+"/ci", ""))
		r.must("PUT", "/api/v1/repository/team-a/app/permissions/user/team-a+ci", `{"role": "write"}`)
		Expect(r.as(withPassword("team-a+ci", robot.Token), "DELETE", "/api/v1/repository/team-a/app/tag/v1", "").status).To(Equal(http.StatusNoContent))
		page := into[openapi.LogPage](r.admin("GET", "/api/v1/repository/team-a/app/logs", ""))
		Expect(page.Logs[0].Kind).To(Equal("delete_tag"))
		Expect(page.Logs[0].Performer).To(Equal(&openapi.Performer{Kind: "user", Name: "team-a+ci", IsRobot: true}))
	})
})

var _ = Describe("Members and permissions", func() {
	It("are given, changed and taken, with entries", func() {
		r := newRegistry(coreOptions)
		r.push("team-a/app", "v1", "one")
		r.must("POST", "/api/v1/superuser/users/", `{"username": "alice", "password": "alice's password"}`)
		r.must("PUT", "/api/v1/organization/team-a/robots/ci", "")
		alice := withPassword("alice", "alice's password")
		const members, permissions = "/api/v1/organization/team-a/members", "/api/v1/repository/team-a/app/permissions/user/"

		Expect(r.as(alice, "GET", members, "").status).To(Equal(http.StatusForbidden))
		Expect(r.admin("PUT", members+"/alice", `{"role": "creator"}`).body).To(Equal(`{"is_robot":false,"kind":"user","name":"alice","role":"creator"}`))
		r.must("PUT", members+"/alice", `{"role": "admin"}`)
		r.must("PUT", members+"/alice", `{"role": "admin"}`)
		Expect(r.as(alice, "GET", members, "").body).To(Equal(`{"members":[{"is_robot":false,"kind":"user","name":"alice","role":"admin"}]}`))
		Expect(r.admin("GET", members+"/alice", "").status).To(Equal(http.StatusOK))

		Expect(r.admin("PUT", permissions+"alice", `{"role": "write"}`).body).To(Equal(`{"is_org_member":true,"is_robot":false,"name":"alice","role":"write"}`))
		r.must("PUT", permissions+"alice", `{"role": "read"}`)
		r.must("PUT", permissions+"team-a+ci", `{"role": "admin"}`)
		Expect(r.admin("GET", permissions, "").body).To(MatchJSON(`{"permissions": {
			"alice": {"role": "read", "name": "alice", "is_robot": false, "is_org_member": true},
			"team-a+ci": {"role": "admin", "name": "team-a+ci", "is_robot": true, "is_org_member": true}}}`))
		Expect(r.admin("GET", permissions+"team-a+ci", "").status).To(Equal(http.StatusOK))
		Expect(r.admin("DELETE", permissions+"team-a+ci", "").status).To(Equal(http.StatusNoContent))
		for _, method := range []string{"GET", "DELETE"} {
			Expect(r.admin(method, permissions+"team-a+ci", "").status).To(Equal(http.StatusNotFound))
		}

		Expect(r.admin("DELETE", members+"/alice", "").status).To(Equal(http.StatusNoContent))
		for _, method := range []string{"GET", "DELETE"} {
			Expect(r.admin(method, members+"/alice", "").status).To(Equal(http.StatusNotFound))
		}
		Expect(r.admin("GET", permissions, "").body).To(Equal(`{"permissions":{}}`), "they go with the membership")
		Expect(r.as(alice, "GET", members, "").status).To(Equal(http.StatusForbidden))
		Expect(r.kinds("/api/v1/organization/team-a/logs")[4:]).To(HaveExactElements(
			`org_add_team_member {"namespace":"team-a","role":"creator","username":"alice"}`,
			`org_set_team_role {"namespace":"team-a","role":"admin","username":"alice"}`,
			`add_repo_permission {"namespace":"team-a","repo":"app","role":"write","username":"alice"}`,
			`change_repo_permission {"namespace":"team-a","repo":"app","role":"read","username":"alice"}`,
			`add_repo_permission {"namespace":"team-a","repo":"app","role":"admin","username":"team-a+ci"}`,
			`delete_repo_permission {"namespace":"team-a","repo":"app","role":"admin","username":"team-a+ci"}`,
			`org_remove_team_member {"namespace":"team-a","role":"admin","username":"alice"}`,
		))
	})

	DescribeTable("are refused", func(path, body string, status int) {
		r := newRegistry(coreOptions)
		r.push("team-a/app", "v1", "one")
		r.push("team-b/app", "v1", "one")
		r.must("PUT", "/api/v1/organization/team-b/robots/ci", "")
		Expect(r.admin("PUT", path, body).status).To(Equal(status))
	},
		Entry("to a robot of another organization", "/api/v1/organization/team-a/members/team-b+ci", `{"role": "member"}`, http.StatusBadRequest),
		Entry("to a robot of another organization, on a repository", "/api/v1/repository/team-a/app/permissions/user/team-b+ci", `{"role": "read"}`, http.StatusBadRequest),
		Entry("to an unknown user", "/api/v1/organization/team-a/members/bob", `{"role": "member"}`, http.StatusNotFound),
		Entry("to an unknown user, on a repository", "/api/v1/repository/team-a/app/permissions/user/bob", `{"role": "read"}`, http.StatusNotFound),
		Entry("to a name that nobody can have", "/api/v1/repository/team-a/app/permissions/user/Bob!", `{"role": "read"}`, http.StatusBadRequest),
		Entry("of another role", "/api/v1/organization/team-a/members/bob", `{"role": "owner"}`, http.StatusBadRequest),
		Entry("of another role, on a repository", "/api/v1/repository/team-a/app/permissions/user/bob", `{"role": "owner"}`, http.StatusBadRequest),
		Entry("on a repository that is not there", "/api/v1/repository/team-a/none/permissions/user/bob", `{"role": "read"}`, http.StatusNotFound),
	)
})

var _ = Describe("Users", func() {
	It("are made, changed, disabled and deleted by admin", func() {
		r := newRegistry(coreOptions)
		const users = "/api/v1/superuser/users/"
		made := into[openapi.UserCreated](r.admin("POST", users, `{"username": "alice", "email": "alice@example.com"}`))
		Expect(made.Password).NotTo(BeEmpty())
		Expect(r.admin("POST", users, `{"username": "bob", "password": "bob's password"}`).body).To(Equal(`{"email":"","password":"***REDACTED***","username":"bob"}`))
		Expect(r.admin("POST", users, `{"username": "bob", "password": "bob's password"}`).status).To(Equal(http.StatusBadRequest))
		for _, body := range []string{`{"username": "admin"}`, `{"username": "Bob"}`, `{"username": "a+b"}`, `{"username": "carol", "password": "short"}`, `{"username": "carol", "password": "***REDACTED***"}`} {
			Expect(r.admin("POST", users, body).status).To(Equal(http.StatusBadRequest), body)
		}
		Expect(r.as(withPassword("alice", made.Password), "GET", "/api/v1/user/", "").body).To(MatchJSON(`{
			"anonymous": false, "username": "alice", "email": "alice@example.com", "is_me": true, "is_robot": false, "super_user": false, "global_readonly_super_user": false, "organizations": []}`))
		Expect(r.admin("GET", "/api/v1/user/", "").body).To(ContainSubstring(`"super_user":true`))

		Expect(r.admin("PUT", users+"alice", `{"password": "***REDACTED***", "email": "a@example.com"}`).status).To(Equal(http.StatusOK))
		Expect(r.as(withPassword("alice", made.Password), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusOK), "the password stays")
		r.must("PUT", users+"alice", `{"password": "another password"}`)
		Expect(r.as(withPassword("alice", made.Password), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		Expect(r.admin("PUT", users+"alice", `{"enabled": false}`).body).To(ContainSubstring(`"enabled":false`))
		Expect(r.as(withPassword("alice", "another password"), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		Expect(r.admin("GET", users+"?disabled=false", "").body).NotTo(ContainSubstring("alice"))
		r.must("PUT", users+"alice", `{"enabled": true}`)
		Expect(r.as(withPassword("alice", "another password"), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusOK))

		first := into[openapi.UserList](r.admin("GET", users+"?limit=1", ""))
		Expect(first.Users).To(HaveLen(1))
		second := into[openapi.UserList](r.admin("GET", users+"?limit=1&next_page="+first.NextPage, ""))
		Expect(second.Users[0].Username).To(Equal("bob"))
		Expect(second.NextPage).To(BeEmpty())

		Expect(r.admin("DELETE", users+"alice", "").status).To(Equal(http.StatusNoContent))
		Expect(r.admin("GET", users+"alice", "").status).To(Equal(http.StatusNotFound))
		Expect(r.as(withPassword("alice", "another password"), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		var kinds []string
		for _, entry := range r.kinds("/api/v1/superuser/logs") {
			if !strings.HasPrefix(entry, "login_failure") {
				kinds = append(kinds, entry)
			}
		}
		Expect(kinds).To(HaveExactElements(
			`user_create {"username":"alice"}`, `user_create {"username":"bob"}`, `user_change_email {"username":"alice"}`, `user_change_password {"username":"alice"}`,
			`user_disable {"username":"alice"}`, `user_enable {"username":"alice"}`, `user_delete {"username":"alice"}`,
		))
	})

	It("change their own password, and make and revoke their tokens, with the password only", func() {
		r := newRegistry(coreOptions)
		r.must("POST", "/api/v1/superuser/users/", `{"username": "alice", "password": "alice's password"}`)
		alice := withPassword("alice", "alice's password")
		const tokens = "/api/v1/user/apptoken"
		Expect(r.as(alice, "GET", tokens, "").body).To(Equal(`{"tokens":[]}`))
		made := into[openapi.AppTokenAnswer](r.as(alice, "POST", tokens, `{"title": "laptop"}`)).Token
		Expect(string(made.TokenCode)).To(MatchRegexp(`^tdl_[0-9a-f]{64}$`))
		for _, path := range []string{tokens, tokens + "/" + made.UUID} {
			Expect(r.as(alice, "GET", path, "").body).To(And(ContainSubstring(`"token_code":"***REDACTED***"`), ContainSubstring(`"title":"laptop"`), Not(ContainSubstring("tdl_"))))
		}
		Expect(r.as(alice, "POST", tokens, `{"title": ""}`).status).To(Equal(http.StatusBadRequest))
		bearer := func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+string(made.TokenCode)) }
		Expect(r.as(bearer, "GET", "/api/v1/user/", "").status).To(Equal(http.StatusOK))
		Expect(r.as(bearer, "POST", tokens, `{"title": "another"}`).status).To(Equal(http.StatusForbidden))
		Expect(r.as(bearer, "PUT", "/api/v1/user/", `{"password": "taken over by now"}`).status).To(Equal(http.StatusForbidden))

		Expect(r.as(alice, "PUT", "/api/v1/user/", `{"password": "short"}`).status).To(Equal(http.StatusBadRequest))
		Expect(r.as(alice, "PUT", "/api/v1/user/", `{"password": "alice's new password"}`).status).To(Equal(http.StatusOK))
		Expect(r.as(alice, "GET", tokens, "").status).To(Equal(http.StatusUnauthorized))
		alice = withPassword("alice", "alice's new password")
		Expect(r.as(alice, "DELETE", tokens+"/"+made.UUID, "").status).To(Equal(http.StatusNoContent))
		for _, method := range []string{"GET", "DELETE"} {
			Expect(r.as(alice, method, tokens+"/"+made.UUID, "").status).To(Equal(http.StatusNotFound))
		}
		Expect(r.as(bearer, "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
	})

	It("wait after many wrong passwords, and are told for how long", func() {
		r := newRegistry(coreOptions)
		r.must("POST", "/api/v1/superuser/users/", `{"username": "alice", "password": "alice's password"}`)
		for range 10 {
			Expect(r.as(withPassword("alice", "wrong"), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		}
		r.clock.Set(beginning.Add(2_000_000_000))
		Expect(r.as(withPassword("alice", "wrong"), "GET", "/api/v1/user/", "").status).To(Equal(http.StatusUnauthorized))
		answer := r.as(withPassword("alice", "wrong"), "GET", "/api/v1/user/", "")
		Expect(answer.status).To(Equal(http.StatusTooManyRequests))
		Expect(answer.header.Get("Retry-After")).To(Equal("2"))
	})
})

var _ = Describe("Signing keys", func() {
	It("are rotated and removed by admin, and never shown", func() {
		r := newRegistry(coreOptions)
		const keys = "/api/v1/superuser/signingkeys/"
		ctx := context.Background()
		anonymous := auth.Identity{Caller: domain.Caller{Kind: domain.CallerAnonymous}, Role: auth.RoleAnonymous}
		answer, err := r.auth.Issue(ctx, anonymous, auth.TokenRequest{})
		Expect(err).NotTo(HaveOccurred())
		first := into[openapi.SigningKeyList](r.admin("GET", keys, "")).Keys
		Expect(first).To(HaveLen(1))
		Expect(first[0].PrivateKey).To(BeEquivalentTo(domain.Redacted))
		r.clock.Set(beginning.Add(1_000_000_000))
		second := into[openapi.SigningKeyList](r.admin("POST", keys, "")).Keys
		Expect(second).To(HaveLen(2))
		Expect(second[1]).To(Equal(first[0]))
		bearer := httptest.NewRequest("GET", "/v2/", nil)
		bearer.Header.Set("Authorization", "Bearer "+answer.Token)
		_, err = r.auth.Authenticate(bearer)
		Expect(err).NotTo(HaveOccurred())
		Expect(r.admin("DELETE", keys+first[0].Kid, "").status).To(Equal(http.StatusNoContent))
		Expect(r.admin("DELETE", keys+first[0].Kid, "").status).To(Equal(http.StatusNotFound))
		_, err = r.auth.Authenticate(bearer)
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeUnauthorized))
		Expect(r.kinds("/api/v1/superuser/logs")).To(HaveExactElements(
			fmt.Sprintf(`create_signing_key {"key_id":%q}`, first[0].Kid), fmt.Sprintf(`create_signing_key {"key_id":%q}`, second[0].Kid),
			fmt.Sprintf(`delete_signing_key {"key_id":%q}`, first[0].Kid),
		))
	})
})
