package mgmtapi_test

import (
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("Organizations and repositories", func() {
	var r *registry

	BeforeEach(func() { r = newRegistry(coreOptions) })

	It("creates, reads, lists and deletes an organization", func() {
		answer := r.admin("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		Expect(answer.status).To(Equal(201))
		Expect(answer.body).To(Equal(`"Created"`))
		Expect(answer.header.Get("Content-Type")).To(Equal("application/json"))

		r.must("POST", "/api/v1/organization", `{"name": "team-b", "email": "b@example.com"}`)
		Expect(r.must("GET", "/api/v1/organization/team-a", "").body).To(MatchJSON(`{"name": "team-a", "is_admin": true}`))
		Expect(r.must("GET", "/api/v1/superuser/organizations/", "").body).To(MatchJSON(`{"organizations": [
			{"name": "team-a", "is_admin": true}, {"name": "team-b", "is_admin": true}]}`))

		answer = r.admin("DELETE", "/api/v1/organization/team-b", "")
		Expect(answer.status).To(Equal(204))
		Expect(answer.body).To(BeEmpty())
		answer = r.admin("GET", "/api/v1/organization/team-b", "")
		Expect(answer.status).To(Equal(404))
		Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeNotFound))
	})

	It("lists no organization as an empty list", func() {
		Expect(r.must("GET", "/api/v1/superuser/organizations/", "").body).To(MatchJSON(`{"organizations": []}`))
	})

	It("answers like Quay when a name is taken", func() {
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		answer := r.admin("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		Expect(answer.status).To(Equal(400))
		Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeInvalidRequest))
		Expect(answer.problem().Detail).To(ContainSubstring("team-a"))

		r.must("POST", "/api/v1/repository", `{"namespace": "team-a", "repository": "app"}`)
		answer = r.admin("POST", "/api/v1/repository", `{"namespace": "team-a", "repository": "app"}`)
		Expect(answer.status).To(Equal(400))
		Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeInvalidRequest))
	})

	It("creates, reads, changes and deletes a repository, nested too", func() {
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		answer := r.admin("POST", "/api/v1/repository", `{"namespace": "team-a", "repository": "backend/api",
			"visibility": "private", "description": "The API", "repo_kind": "image"}`)
		Expect(answer.status).To(Equal(201))
		Expect(answer.body).To(MatchJSON(`{"namespace": "team-a", "name": "backend/api", "kind": "image"}`))

		for _, path := range []string{"team-a/backend/api", "team-a%2Fbackend%2Fapi"} {
			Expect(r.must("GET", "/api/v1/repository/"+path, "").body).To(MatchJSON(`{
				"namespace": "team-a", "name": "backend/api", "description": "The API", "is_public": false, "kind": "image",
				"is_organization": true, "can_write": true, "can_admin": true}`))
		}

		Expect(r.must("PUT", "/api/v1/repository/team-a/backend/api", `{"description": "Another"}`).body).To(MatchJSON(`{"success": true}`))
		Expect(r.must("POST", "/api/v1/repository/team-a/backend/api/changevisibility", `{"visibility": "public"}`).body).To(MatchJSON(`{"success": true}`))
		repository := into[openapi.Repository](r.must("GET", "/api/v1/repository/team-a/backend/api", ""))
		Expect(repository.Description).To(Equal("Another"))
		Expect(repository.IsPublic).To(BeTrue())

		Expect(r.admin("DELETE", "/api/v1/repository/team-a/backend/api", "").status).To(Equal(204))
		answer = r.admin("GET", "/api/v1/repository/team-a/backend/api", "")
		Expect(answer.status).To(Equal(404))
		Expect(answer.problem().Code).To(Equal("NAME_UNKNOWN"))
	})

	It("takes a full name in place of the namespace", func() {
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		Expect(r.must("POST", "/api/v1/repository", `{"repository": "team-a/app"}`).body).To(MatchJSON(`{"namespace": "team-a", "name": "app", "kind": "image"}`))
	})

	It("creates no repository in an organization that is not there", func() {
		Expect(r.admin("POST", "/api/v1/repository", `{"namespace": "nobody", "repository": "app"}`).status).To(Equal(404))
	})

	It("lists repositories in pages", func() {
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		Expect(r.must("GET", "/api/v1/repository?namespace=team-a", "").body).To(MatchJSON(`{"repositories": []}`))
		for i := range 101 {
			r.must("POST", "/api/v1/repository", fmt.Sprintf(`{"namespace": "team-a", "repository": "app-%03d"}`, i))
		}
		page := into[openapi.RepositoryList](r.must("GET", "/api/v1/repository?namespace=team-a&public=true&repo_kind=image", ""))
		Expect(page.Repositories).To(HaveLen(100))
		Expect(page.Repositories[99]).To(Equal(openapi.RepositoryItem{Namespace: "team-a", Name: "app-099", Kind: "image"}))
		rest := r.must("GET", "/api/v1/repository?namespace=team-a&next_page="+page.NextPage, "")
		Expect(rest.body).To(MatchJSON(`{"repositories": [{"namespace": "team-a", "name": "app-100", "description": "", "is_public": false, "kind": "image"}]}`))
		Expect(r.admin("GET", "/api/v1/repository?namespace=nobody", "").status).To(Equal(404))
	})

	It("refuses to delete what holds locked tags, with count and sample, and deletes it once they are unlocked", func() {
		for i := range 12 {
			r.push("team-a/app", fmt.Sprintf("v%02d", i), "image")
			r.must("PUT", fmt.Sprintf("/api/v1/repository/team-a/app/tag/v%02d", i), `{"immutable": true}`)
		}
		for _, path := range []string{"/api/v1/repository/team-a/app", "/api/v1/organization/team-a"} {
			answer := r.admin("DELETE", path, "")
			Expect(answer.status).To(Equal(409))
			problem := answer.problem()
			Expect(problem.ErrorType).To(Equal(openapi.ErrorTypeTagImmutable))
			Expect(problem.Locked.Count).To(Equal(int64(12)))
			Expect(problem.Locked.Tags).To(HaveLen(10))
			Expect(problem.Detail).To(ContainSubstring("12"))
		}
		for i := range 12 {
			r.must("PUT", fmt.Sprintf("/api/v1/repository/team-a/app/tag/v%02d", i), `{"immutable": false}`)
		}
		Expect(r.admin("DELETE", "/api/v1/organization/team-a", "").status).To(Equal(204))
	})
})
