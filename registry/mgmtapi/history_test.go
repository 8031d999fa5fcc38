package mgmtapi_test

import (
	"context"
	"fmt"
	"net/url"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("The history of a tag", func() {
	const path = "/api/v1/repository/team-a/app/tag/v1.0.0/history"
	var r *registry
	BeforeEach(func() {
		r = newRegistry(coreOptions)
	})

	read := func(query string) openapi.TagHistory {
		GinkgoHelper()
		return into[openapi.TagHistory](r.admin("GET", path+query, ""))
	}

	It("says when, why and by which policy one of 847 tags was locked", func() {
		var standing string
		for i := range 847 {
			tag := fmt.Sprintf("v1.%d.0", i)
			d := r.push("team-a/app", tag, "image "+tag)
			if i == 0 {
				standing = d.String()
			}
		}
		r.clock.Set(beginning.Add(time.Hour))
		uuid := r.policy("team-a", "^v.*$")
		r.clock.Set(beginning.Add(time.Hour + 5*time.Minute))
		for range 2 {
			_, err := r.core.PutManifest(context.Background(), user, domain.RepositoryName{Organization: "team-a", Path: "app"}, core.Push{
				Reference: domain.Reference{Tag: "v1.0.0"}, Manifest: domain.Manifest{Digest: "sha256:4355a46b19d348dc2f57c046f8ef63d4538ebb936000f3c9ee954a27460dd865", MediaType: "application/vnd.oci.image.manifest.v1+json", Content: []byte("1"), Size: 1},
			})
			Expect(domain.CodeOf(err)).To(Equal(domain.CodeTagImmutable))
		}
		history := read("")
		Expect(history.Digests).To(HaveExactElements(And(HaveField("ManifestDigest", standing), HaveField("To", BeNil()), HaveField("Kind", "create_tag"), HaveField("By.Kind", "user"))))
		Expect(history.Locks).To(HaveLen(1))
		lock := history.Locks[0]
		Expect(lock.From.Time).To(BeTemporally("==", beginning.Add(time.Hour)))
		Expect(lock.From.Index).To(Equal(int64(849)), "org_create, create_repo, 847 create_tag: the policy's entry is next")
		Expect(lock.To).To(BeNil())
		Expect(lock.Refused).To(Equal(int64(1)), "the repeat is counted when its window closes")
		Expect(lock.Reasons).To(HaveLen(1))
		Expect(lock.Reasons[0]).To(And(HaveField("Cause", openapi.TagLockReasonCausePolicy), HaveField("PolicyUUID", HaveValue(Equal(uuid))), HaveField("PolicyPattern", HaveValue(Equal("^v.*$")))))
		Expect(history.Refusals).To(HaveExactElements(And(HaveField("Of", openapi.TagRefusalOfTag), HaveField("Count", int64(1)), HaveField("PolicyUUID", HaveValue(Equal(uuid))))))
		Expect(history.Basis).To(BeEmpty())

		var tags []openapi.TagCoverage
		for next := ""; ; {
			page := into[openapi.PolicyCoverage](r.admin("GET", "/api/v1/superuser/immutabilitypolicy/"+uuid+"/coverage?limit=400"+next, ""))
			tags = append(tags, page.Tags...)
			if next == "" {
				Expect(page.Revisions).To(HaveExactElements(And(HaveField("PolicyPattern", "^v.*$"), HaveField("EnforcementMode", "Enforce"), HaveField("To", BeNil()))))
			}
			if page.NextPage == "" {
				break
			}
			next = "&next_page=" + page.NextPage
		}
		Expect(tags).To(HaveLen(847))
		for _, t := range tags {
			Expect(t.Locked).To(HaveExactElements(And(HaveField("From.Index", int64(849)), HaveField("To", BeNil()))), t.Tag)
			Expect(t.Unprotected).To(BeEmpty())
		}
	})

	It("comes in pages, of a period, and as the log was at a size", func() {
		for i := range 5 {
			r.clock.Set(beginning.AddDate(0, 0, i))
			r.push("team-a/app", "v1.0.0", fmt.Sprint("image ", i))
		}
		Expect(read("").Digests).To(HaveLen(5))
		first := read("?limit=2")
		Expect(first.Digests).To(HaveLen(2))
		Expect(first.Digests[1].To).To(BeNil(), "the page does not know of its end")
		second := read("?limit=2&next_page=" + first.NextPage)
		Expect(second.Digests).To(HaveLen(3))
		Expect(second.Digests[0].From).To(Equal(first.Digests[1].From))
		Expect(second.Digests[0].To).NotTo(BeNil())

		period := read("?since=2026-03-15&until=2026-03-16")
		Expect(period.Period).To(Equal(openapi.LogPeriod{From: 3, To: 5}))
		Expect(period.Digests).To(HaveLen(3), "the one that stood, and those of two days")
		Expect(period.Basis).To(HaveExactElements(int64(2)))
		Expect(period.Entries).To(HaveLen(2))
		Expect(read("?until=" + url.QueryEscape(beginning.Add(time.Minute).Format(time.RFC3339))).Digests).To(HaveLen(1))
		Expect(read("?size=4").Digests).To(HaveLen(2))
	})

	It("is there when tag, repository and organization are gone", func() {
		r.push("team-a/app", "v1.0.0", "image")
		r.must("DELETE", "/api/v1/repository/team-a/app", "")
		r.must("DELETE", "/api/v1/organization/team-a", "")
		history := read("")
		Expect(history.Digests).To(HaveExactElements(HaveField("To", Not(BeNil()))))
		Expect(history.Entries).To(HaveLen(4), "create_tag, delete_tag, delete_repo, org_delete")
	})

	DescribeTable("refuses", func(query, detail string) {
		r.push("team-a/app", "v1.0.0", "image")
		answer := r.admin("GET", path+query, "")
		Expect(answer.status).To(Equal(400), answer.body)
		Expect(answer.problem().Detail).To(ContainSubstring(detail))
	},
		Entry("a bad since", "?since=yesterday", `since: "yesterday" is neither a date (YYYY-MM-DD) nor a time (RFC 3339`),
		Entry("a bad until", "?until=2026-02-30", `until: "2026-02-30" is neither`),
		Entry("an until before since", "?since=2026-03-02&until=2026-03-01", "until: 2026-03-01 is before since"),
		Entry("a page that is none", "?next_page=abc", "next_page: it is not what the page before gave"),
		Entry("a state that none can be", "?next_page=eyJzdGF0ZSI6eyJsYXN0Ijp7ImZyb20iOnsiaW5kZXgiOjB9fX19", "next_page: it is not what the page before gave"),
		Entry("a period with a page", "?since=2026-03-01&next_page=e30", "next_page: it has since, until and size in it"),
		Entry("a limit", "?limit=1001", "limit"),
	)

	It("is 404 for what the log does not know", func() {
		r.push("team-a/app", "v1", "image")
		Expect(r.admin("GET", path, "").status).To(Equal(404))
		Expect(r.admin("GET", "/api/v1/superuser/immutabilitypolicy/5e0c4b1e-0000-4000-8000-000000000000/coverage", "").status).To(Equal(404))
	})
})
