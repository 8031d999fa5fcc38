package mgmtapi_test

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("Tags", func() {
	const tags = "/api/v1/repository/team-a/backend/api/tag/"
	var r *registry

	BeforeEach(func() { r = newRegistry(coreOptions) })

	list := func(query string) openapi.TagList {
		GinkgoHelper()
		return into[openapi.TagList](r.must("GET", tags+query, ""))
	}
	names := func(page openapi.TagList) []string {
		found := []string{}
		for _, tag := range page.Tags {
			found = append(found, tag.Name)
		}
		return found
	}

	It("lists tags as Quay does, with what locks them", func() {
		d := r.push("team-a/backend/api", "latest", "image")
		r.push("team-a/backend/api", "v1", "image")
		uuid := r.policy("team-a", "v.*")
		r.must("PUT", tags+"v1", `{"immutable": true}`)
		Expect(r.must("GET", tags, "").body).To(MatchJSON(fmt.Sprintf(`{"page": 1, "has_additional": false, "tags": [
			{"name": "latest", "manifest_digest": %[1]q, "is_manifest_list": false, "size": 5, "start_ts": 1773500966,
			 "last_modified": "Sat, 14 Mar 2026 15:09:26 -0000", "immutable": false},
			{"name": "v1", "manifest_digest": %[1]q, "is_manifest_list": false, "size": 5, "start_ts": 1773500966,
			 "last_modified": "Sat, 14 Mar 2026 15:09:26 -0000", "immutable": true, "locks": [
				{"kind": "policy", "policy": {"uuid": %[2]q, "tagPattern": "v.*", "scope": "namespace"}, "retained": false},
				{"kind": "manual", "retained": false}]}]}`, d, uuid)))
	})

	It("pages and filters", func() {
		for i := range 7 {
			r.push("team-a/backend/api", fmt.Sprintf("v%d", i), "image")
		}
		r.push("team-a/backend/api", "edge", "image")
		first := list("?limit=3")
		Expect(names(first)).To(Equal([]string{"edge", "v0", "v1"}))
		Expect(first.HasAdditional).To(BeTrue())
		last := list("?limit=3&page=3")
		Expect(names(last)).To(Equal([]string{"v5", "v6"}))
		Expect(last.Page).To(Equal(int64(3)))
		Expect(last.HasAdditional).To(BeFalse())
		Expect(names(list("?page=9"))).To(BeEmpty())
		Expect(names(list("?filter_tag_name=like:dg"))).To(Equal([]string{"edge"}))
		Expect(names(list("?filter_tag_name=like:v&limit=2&page=4"))).To(Equal([]string{"v6"}))
		Expect(names(list("?filter_tag_name=eq:v3"))).To(Equal([]string{"v3"}))
		Expect(names(list("?specificTag=v3"))).To(Equal([]string{"v3"}))
		Expect(names(list("?specificTag=v3&page=2"))).To(BeEmpty())
		Expect(names(list("?specificTag=v"))).To(BeEmpty())
		Expect(names(list("?filter_tag_name=like:%25"))).To(BeEmpty(), "the text is no pattern")
	})

	It("shows what a tag was before", func() {
		one := r.push("team-a/backend/api", "latest", "one")
		r.clock.Set(beginning.Add(time.Hour))
		two := r.push("team-a/backend/api", "latest", "two")
		Expect(names(list("?specificTag=latest&onlyActiveTags=true"))).To(HaveLen(1))
		Expect(r.must("GET", tags+"?specificTag=latest&onlyActiveTags=false", "").body).To(MatchJSON(fmt.Sprintf(`{"page": 1, "has_additional": false, "tags": [
			{"name": "latest", "manifest_digest": %q, "is_manifest_list": false, "size": 3, "start_ts": 1773504566, "last_modified": "Sat, 14 Mar 2026 16:09:26 -0000", "immutable": false},
			{"name": "latest", "manifest_digest": %q, "start_ts": 1773500966, "end_ts": 1773504566, "expiration": "Sat, 14 Mar 2026 16:09:26 -0000", "last_modified": "Sat, 14 Mar 2026 15:09:26 -0000", "immutable": false}]}`, two, one)))
		r.must("DELETE", tags+"latest", "")
		Expect(names(list("?specificTag=latest&onlyActiveTags=false"))).To(HaveLen(2))
	})

	It("creates, moves, deletes and restores a tag", func() {
		one := r.push("team-a/backend/api", "one", "one")
		two := r.push("team-a/backend/api", "two", "two")
		answer := r.admin("PUT", tags+"latest", fmt.Sprintf(`{"manifest_digest": %q}`, one))
		Expect(answer.status).To(Equal(201))
		Expect(answer.body).To(Equal(`"Updated"`))
		r.must("PUT", tags+"latest", fmt.Sprintf(`{"manifest_digest": %q}`, two))
		Expect(list("?specificTag=latest").Tags[0].ManifestDigest).To(Equal(two.String()))

		answer = r.admin("POST", tags+"latest/restore", fmt.Sprintf(`{"manifest_digest": %q}`, one))
		Expect(answer.status).To(Equal(200))
		Expect(answer.body).To(Equal("{}"))
		Expect(list("?specificTag=latest").Tags[0].ManifestDigest).To(Equal(one.String()))

		answer = r.admin("DELETE", tags+"latest", "")
		Expect(answer.status).To(Equal(204))
		Expect(names(list("?specificTag=latest"))).To(BeEmpty())
		Expect(r.admin("DELETE", tags+"latest", "").status).To(Equal(404))
	})

	It("locks and unlocks by hand, and refuses every change in between", func() {
		one := r.push("team-a/backend/api", "v1", "one")
		two := r.push("team-a/backend/api", "v2", "two")
		for range 2 { // setting it twice is no error
			Expect(r.admin("PUT", tags+"v1", `{"immutable": true}`).body).To(Equal(`"Updated"`))
		}
		for _, attempt := range []struct{ method, path, body, operation string }{
			{"PUT", tags + "v1", fmt.Sprintf(`{"manifest_digest": %q}`, two), "overwrite"},
			{"PUT", tags + "v1", fmt.Sprintf(`{"manifest_digest": %q, "immutable": true}`, two), "overwrite"},
			{"DELETE", tags + "v1", "", "delete"},
			{"POST", tags + "v1/restore", fmt.Sprintf(`{"manifest_digest": %q}`, two), "restore"},
		} {
			detail := fmt.Sprintf("Cannot %s immutable tag 'v1': %s stands, locked by hand", attempt.operation, one)
			answer := r.admin(attempt.method, attempt.path, attempt.body)
			Expect(answer.status).To(Equal(409))
			Expect(answer.body).To(MatchJSON(fmt.Sprintf(`{"type": "urn:tidelock:error:tag_immutable", "title": "tag_immutable", "status": 409,
				"detail": %[1]q, "error_message": %[1]q, "error_type": "tag_immutable", "code": "TAG_IMMUTABLE",
				"locked": {"count": 1, "tags": ["v1"], "manifest_digest": %[2]q}}`, detail, one)))
		}
		// The digest that it has already is no change.
		r.must("PUT", tags+"v1", fmt.Sprintf(`{"manifest_digest": %q}`, one))

		r.must("PUT", tags+"v1", fmt.Sprintf(`{"immutable": false, "manifest_digest": %q}`, two))
		tag := list("?specificTag=v1").Tags[0]
		Expect(tag.ManifestDigest).To(Equal(two.String()))
		Expect(tag.Immutable).To(BeFalse())
		r.must("PUT", tags+"v1", fmt.Sprintf(`{"immutable": true, "manifest_digest": %q}`, one))
		tag = list("?specificTag=v1").Tags[0]
		Expect(tag.ManifestDigest).To(Equal(one.String()))
		Expect(tag.Immutable).To(BeTrue())
	})

	It("does not unlock what a policy covers, and names the policy", func() {
		r.push("team-a/backend/api", "v1", "one")
		uuid := r.policy("team-a", "v.*")
		answer := r.admin("PUT", tags+"v1", `{"immutable": false}`)
		Expect(answer.status).To(Equal(409))
		problem := answer.problem()
		Expect(problem.ErrorType).To(Equal(openapi.ErrorTypeTagImmutable))
		Expect(problem.Locked.Policy.UUID).To(Equal(uuid))
		Expect(problem.Detail).To(ContainSubstring(uuid))
		Expect(list("").Tags[0].Immutable).To(BeTrue())
	})

	It("lets a tag expire, and shows when", func() {
		one := r.push("team-a/backend/api", "nightly", "one")
		at := beginning.Add(time.Hour)
		change := fmt.Sprintf(`{"expiration": %d}`, at.Unix())
		Expect(r.admin("PUT", tags+"nightly", change).body).To(Equal(`"Updated"`))
		Expect(r.must("GET", tags, "").body).To(MatchJSON(fmt.Sprintf(`{"page": 1, "has_additional": false, "tags": [
			{"name": "nightly", "manifest_digest": %q, "is_manifest_list": false, "size": 3, "start_ts": 1773500966, "end_ts": 1773504566,
			 "expiration": "Sat, 14 Mar 2026 16:09:26 -0000", "last_modified": "Sat, 14 Mar 2026 15:09:26 -0000", "immutable": false}]}`, one)))
		r.must("PUT", tags+"nightly", `{"expiration": null}`)
		Expect(list("").Tags[0].EndTS).To(BeNil())

		r.must("PUT", tags+"nightly", change)
		r.clock.Set(at)
		Eventually(func() []string { return names(list("")) }).WithTimeout(soon).Should(BeEmpty())
		Expect(r.admin("PUT", tags+"nightly", `{"expiration": null}`).status).To(Equal(404))
	})

	It("change_tag_expiration_blocked_on_immutable_tag", func() {
		one := r.push("team-a/backend/api", "v1", "one")
		uuid := r.policy("team-a", "v.*")
		answer := r.admin("PUT", tags+"v1", fmt.Sprintf(`{"expiration": %d}`, beginning.Add(time.Hour).Unix()))
		Expect(answer.status).To(Equal(409))
		problem := answer.problem()
		Expect(problem.ErrorType).To(Equal(openapi.ErrorTypeTagImmutable))
		Expect(problem.Detail).To(Equal(fmt.Sprintf("Cannot set an expiration of immutable tag 'v1': %s stands, locked by namespace policy %s (pattern v.*)", one, uuid)))
		Expect(list("").Tags[0].EndTS).To(BeNil())
		r.must("PUT", tags+"v1", `{"expiration": null}`)
	})

	It("takes no expiration that makes no sense", func() {
		r.push("team-a/backend/api", "nightly", "one")
		for _, body := range []string{
			`{"expiration": "tomorrow"}`, `{"expiration": 1.5}`, `{"expiration": -1}`, `{"expiration": 0}`, `{"expiration": []}`, `{"expiration": 253402300800}`,
			fmt.Sprintf(`{"expiration": %d}`, beginning.Unix()), `{"immutable": true, "expiration": 1893456000}`, `{}`,
		} {
			Expect(r.admin("PUT", tags+"nightly", body).status).To(Equal(400), body)
		}
		Expect(list("").Tags[0].EndTS).To(BeNil())
	})

	It("locks no tag that is not there, and points none to a manifest that is not there", func() {
		r.push("team-a/backend/api", "v1", "one")
		Expect(r.admin("PUT", tags+"v2", `{"immutable": true}`).status).To(Equal(404))
		Expect(r.admin("PUT", tags+"v2", `{"manifest_digest": "sha256:`+fmt.Sprintf("%064d", 1)+`"}`).status).To(Equal(404))
		Expect(r.admin("GET", "/api/v1/repository/team-a/nothing/tag/", "").status).To(Equal(404))
	})
})
