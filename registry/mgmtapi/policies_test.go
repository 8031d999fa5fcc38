package mgmtapi_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("Immutability policies", func() {
	var r *registry

	BeforeEach(func() {
		r = newRegistry(coreOptions)
		r.must("POST", "/api/v1/organization/", `{"name": "team-a"}`)
		r.must("POST", "/api/v1/repository", `{"namespace": "team-a", "repository": "backend/api"}`)
	})

	DescribeTable("are made, read, replaced and deleted as in Quay",
		func(base string) {
			Expect(r.must("GET", base, "").body).To(MatchJSON(`{"policies": []}`))

			answer := r.admin("POST", base, `{"tagPattern": "  v.*  "}`)
			Expect(answer.status).To(Equal(201))
			uuid := into[openapi.PolicyID](answer).UUID
			Expect(answer.body).To(MatchJSON(fmt.Sprintf(`{"uuid": %q}`, uuid)))

			view := fmt.Sprintf(`{"uuid": %q, "tagPattern": "v.*", "tagPatternMatches": true,
				"enforcementMode": "Enforce", "reclaimPolicy": "Retain", "locked": false, "orphaned": false}`, uuid)
			Expect(r.must("GET", base+uuid, "").body).To(MatchJSON(view))
			Expect(r.must("GET", base, "").body).To(MatchJSON(`{"policies": [` + view + `]}`))

			answer = r.admin("PUT", base+uuid, `{"tagPattern": "main", "tagPatternMatches": false, "enforcementMode": "DryRun", "reclaimPolicy": "Release"}`)
			Expect(answer.status).To(Equal(204))
			Expect(answer.body).To(BeEmpty())
			Expect(r.must("GET", base+uuid, "").body).To(MatchJSON(fmt.Sprintf(`{"uuid": %q, "tagPattern": "main", "tagPatternMatches": false,
				"enforcementMode": "DryRun", "reclaimPolicy": "Release", "locked": false, "orphaned": false}`, uuid)))

			// A PUT replaces everything: what it leaves out has its default again.
			r.must("PUT", base+uuid, `{"tagPattern": "v.*"}`)
			Expect(r.must("GET", base+uuid, "").body).To(MatchJSON(view))

			answer = r.admin("DELETE", base+uuid, "")
			Expect(answer.status).To(Equal(200))
			Expect(answer.body).To(MatchJSON(fmt.Sprintf(`{"uuid": %q}`, uuid)))
			for _, method := range []string{"GET", "DELETE"} {
				answer = r.admin(method, base+uuid, "")
				Expect(answer.status).To(Equal(404))
				Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeNotFound))
			}
			Expect(r.admin("PUT", base+uuid, `{"tagPattern": "v.*"}`).status).To(Equal(404))
		},
		Entry("of an organization", "/api/v1/organization/team-a/immutabilitypolicy/"),
		Entry("of a nested repository", "/api/v1/repository/team-a/backend/api/immutabilitypolicy/"),
		Entry("of an encoded repository", "/api/v1/repository/team-a%2Fbackend%2Fapi/immutabilitypolicy/"),
	)

	DescribeTable("are refused as invalid",
		func(body, detail string) {
			r.must("POST", "/api/v1/organization/team-a/immutabilitypolicy/", `{"tagPattern": "taken"}`)
			answer := r.admin("POST", "/api/v1/organization/team-a/immutabilitypolicy/", body)
			Expect(answer.status).To(Equal(400))
			problem := answer.problem()
			Expect(problem.ErrorType).To(Equal(openapi.ErrorTypeInvalidRequest))
			Expect(problem.Detail).To(ContainSubstring(detail))
		},
		Entry("without a pattern", `{}`, "tagPattern: the field is required"),
		Entry("with a blank pattern", `{"tagPattern": " "}`, "tag_pattern must not be empty"),
		Entry("with a long pattern", `{"tagPattern": "`+strings.Repeat("a", 257)+`"}`, "tag_pattern must be 256 characters or less"),
		Entry("with a broken pattern", `{"tagPattern": "v("}`, "Invalid regex pattern: "),
		Entry("with a lonely star", `{"tagPattern": "*"}`, "Invalid regex pattern: "),
		Entry("with a look-around", `{"tagPattern": "(?!v).*"}`, "Invalid regex pattern: look-around"),
		Entry("with the pattern of another", `{"tagPattern": "taken"}`, "A policy with the same tag_pattern already exists"),
		Entry("with the pattern of another, inverted", `{"tagPattern": "taken", "tagPatternMatches": false}`, "A policy with the same tag_pattern already exists"),
		Entry("with an unknown mode", `{"tagPattern": "v", "enforcementMode": "Off"}`, `enforcementMode "Off" is not allowed`),
		Entry("with an unknown reclaim policy", `{"tagPattern": "v", "reclaimPolicy": "Drop"}`, `reclaimPolicy "Drop" is not allowed`),
		Entry("with an unknown field", `{"tagPattern": "v", "lockedBy": "me"}`, "lockedBy: unknown field"),
		Entry("locked until no time", `{"tagPattern": "v", "lockedUntil": "tomorrow"}`, "the body is not as it should be: parsing time"),
		Entry("locked for too long", `{"tagPattern": "v", "lockedUntil": "2040-01-01T00:00:00Z"}`, "lockedUntil 2040-01-01T00:00:00Z is too far away; a policy can be locked for 1827 days at most"),
		Entry("locked on a dry run", `{"tagPattern": "v", "lockedUntil": "2027-01-01T00:00:00Z", "enforcementMode": "DryRun"}`, "lockedUntil needs enforcementMode Enforce"),
	)

	It("are not found in another scope", func() {
		uuid := r.policy("team-a", "v.*")
		Expect(r.admin("GET", "/api/v1/repository/team-a/backend/api/immutabilitypolicy/"+uuid, "").status).To(Equal(404))
		Expect(r.admin("GET", "/api/v1/organization/nobody/immutabilitypolicy/", "").status).To(Equal(404))
		Expect(r.admin("POST", "/api/v1/repository/team-a/nothing/immutabilitypolicy/", `{"tagPattern": "v"}`).status).To(Equal(404))
	})

	It("can be locked, and say until when to whoever weakens or deletes them", func() {
		base := "/api/v1/organization/team-a/immutabilitypolicy/"
		item := base + into[openapi.PolicyID](r.admin("POST", base, `{"tagPattern": "v.*", "lockedUntil": "2027-01-01T01:00:00+01:00"}`)).UUID
		view := into[openapi.PolicyView](r.must("GET", item, ""))
		Expect(view.Locked).To(BeTrue())
		until := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
		Expect(view.LockedUntil).To(HaveValue(Equal(until)))
		for _, refused := range []response{
			r.admin("PUT", item, `{"tagPattern": "v.*"}`), // what a PUT leaves out is taken away
			r.admin("PUT", item, `{"tagPattern": "main", "lockedUntil": "2027-01-01T00:00:00Z"}`),
			r.admin("DELETE", item, ""),
			r.admin("DELETE", "/api/v1/organization/team-a", ""),
		} {
			Expect(refused.status).To(Equal(409))
			problem := refused.problem()
			Expect(problem.ErrorType).To(Equal(openapi.ErrorTypePolicyLocked))
			Expect(problem.Code).To(Equal("POLICY_LOCKED"))
			Expect(problem.Detail).To(ContainSubstring("is locked until 2027-01-01T00:00:00Z"))
			Expect(problem.LockedUntil).To(HaveValue(Equal(until)))
		}
		r.must("PUT", item, `{"tagPattern": "v.*", "lockedUntil": "2027-01-02T00:00:00Z"}`)

		past := base + into[openapi.PolicyID](r.admin("POST", base, `{"tagPattern": "main", "lockedUntil": "2026-01-01T00:00:00Z"}`)).UUID
		Expect(into[openapi.PolicyView](r.must("GET", past, "")).Locked).To(BeFalse())
		r.must("DELETE", past, "")
	})

	It("leave retained holds, which a release removes", func() {
		r.push("team-a/backend/api", "v1", "one")
		r.push("team-a/backend/api", "v2", "two")
		base := "/api/v1/organization/team-a/immutabilitypolicy/"
		uuid := r.policy("team-a", "v.*")
		r.must("PUT", base+uuid, `{"tagPattern": "v1"}`)
		r.swept(core.Scope{Organization: "team-a"}, uuid)
		tag := into[openapi.TagList](r.must("GET", "/api/v1/repository/team-a/backend/api/tag/?specificTag=v2", "")).Tags[0]
		Expect(tag.Immutable).To(BeTrue())
		Expect(tag.Locks).To(HaveLen(1))
		Expect(tag.Locks[0].Retained).To(BeTrue())

		Expect(r.must("POST", base+uuid+"/release", "").body).To(MatchJSON(`{"released": 1}`))
		Expect(r.must("POST", base+uuid+"/release", "").body).To(MatchJSON(`{"released": 0}`))
		tag = into[openapi.TagList](r.must("GET", "/api/v1/repository/team-a/backend/api/tag/?specificTag=v2", "")).Tags[0]
		Expect(tag.Immutable).To(BeFalse())
		Expect(r.admin("POST", base+"nothing/release", "").status).To(Equal(404))
	})

	It("belong to their Kubernetes object until it is gone, and can then be adopted", func() {
		manager := domain.ManagedBy{Kind: "ImmutabilityPolicy", Namespace: "team-a", Name: "releases", UID: "uid-1", Generation: 1}
		operator := domain.Caller{Name: "operator", Kind: domain.CallerOperator}
		ctx := context.Background()
		status, err := r.core.PutManagedPolicy(ctx, operator, core.ManagedPolicy{
			Cluster: "cluster", Manager: manager, Scope: core.Scope{Organization: "team-a"},
			Spec:  domain.PolicySpec{TagPattern: "v.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain},
			Claim: core.Claim{Namespace: domain.Owner{Namespace: "team-a", UID: "ns-1"}, Organizations: []string{"team-a"}},
		})
		Expect(err).NotTo(HaveOccurred())
		item := "/api/v1/organization/team-a/immutabilitypolicy/" + status.Policy.UUID
		Expect(r.must("GET", item, "").body).To(MatchJSON(fmt.Sprintf(`{"uuid": %q, "tagPattern": "v.*", "tagPatternMatches": true,
			"enforcementMode": "Enforce", "reclaimPolicy": "Retain", "locked": false, "orphaned": false,
			"managedBy": {"kind": "ImmutabilityPolicy", "namespace": "team-a", "name": "releases", "uid": "uid-1"}}`, status.Policy.UUID)))
		Expect(r.must("GET", "/api/v1/organization/team-a", "").body).To(MatchJSON(
			`{"name": "team-a", "is_admin": true, "owner": {"namespace": "team-a", "uid": "ns-1"}}`))

		for _, method := range []string{"PUT", "DELETE"} {
			answer := r.admin(method, item, `{"tagPattern": "main"}`)
			Expect(answer.status).To(Equal(409))
			Expect(answer.problem().ErrorType).To(Equal(openapi.ErrorTypeManagedByResource))
			Expect(answer.problem().Detail).To(ContainSubstring("ImmutabilityPolicy team-a/releases"))
		}
		Expect(r.admin("POST", item+"/adopt", "").status).To(Equal(409))

		Expect(r.core.Synced(ctx, operator, "cluster", nil)).To(Succeed())
		Expect(into[openapi.PolicyView](r.must("GET", item, "")).Orphaned).To(BeTrue())
		answer := r.admin("POST", item+"/adopt", "")
		Expect(answer.status).To(Equal(204))
		view := into[openapi.PolicyView](r.must("GET", item, ""))
		Expect(view.Orphaned).To(BeFalse())
		Expect(view.ManagedBy).To(BeNil())
		r.must("PUT", item, `{"tagPattern": "main"}`)
		r.must("DELETE", item, "")
	})
})
