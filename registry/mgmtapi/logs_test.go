package mgmtapi_test

import (
	"fmt"
	"net/url"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("Logs", func() {
	var r *registry

	BeforeEach(func() { r = newRegistry(coreOptions) })

	logs := func(path string) openapi.LogPage {
		GinkgoHelper()
		return into[openapi.LogPage](r.must("GET", path, ""))
	}
	kinds := func(page openapi.LogPage) []string {
		found := []string{}
		for _, entry := range page.Logs {
			found = append(found, entry.Kind)
		}
		return found
	}

	It("have Quay's shape", func() {
		d := r.push("team-a/app", "v1", "one")
		r.clock.Set(beginning.Add(time.Minute))
		answer := r.must("GET", "/api/v1/repository/team-a/app/logs?kind=create_tag", "")
		Expect(answer.body).To(MatchJSON(fmt.Sprintf(`{
			"start_time": "Thu, 01 Jan 1970 00:00:00 -0000", "end_time": "Sat, 14 Mar 2026 15:10:26 -0000",
			"logs": [{"index": 2, "kind": "create_tag", "ip": "192.0.2.1", "datetime": "Sat, 14 Mar 2026 15:09:26 -0000",
				"performer": {"kind": "user", "name": "admin", "is_robot": false},
				"metadata": {"namespace": "team-a", "repo": "app", "tag": "v1", "manifest_digest": %q}}]}`, d)))
		all := logs("/api/v1/superuser/logs?kind=create_tag")
		Expect(all.Logs[0].Namespace).To(Equal(&openapi.LogNamespace{Kind: "org", Name: "team-a"}))
	})

	It("are those of an organization, of a repository or of everything", func() {
		r.push("team-a/app", "v1", "one")
		r.push("team-b/app", "v1", "one")
		Expect(kinds(logs("/api/v1/repository/team-a/app/logs"))).To(Equal([]string{"create_tag", "create_repo"}))
		Expect(kinds(logs("/api/v1/organization/team-a/logs"))).To(Equal([]string{"create_tag", "create_repo", "org_create"}))
		Expect(kinds(logs("/api/v1/superuser/logs"))).To(HaveLen(6))
	})

	It("stay when their subject is gone, and are 404 for what never was", func() {
		r.push("team-a/app", "v1", "one")
		r.must("DELETE", "/api/v1/organization/team-a", "")
		Expect(kinds(logs("/api/v1/repository/team-a/app/logs"))).To(ContainElements("delete_repo", "delete_tag", "create_tag"))
		Expect(kinds(logs("/api/v1/organization/team-a/logs"))).To(ContainElement("org_delete"))
		Expect(kinds(logs("/api/v1/organization/team-a/logs?tag=nothing"))).To(BeEmpty())
		for _, path := range []string{"/api/v1/organization/nobody/", "/api/v1/repository/nobody/app/", "/api/v1/repository/team-a/nothing/"} {
			Expect(r.admin("GET", path+"logs", "").status).To(Equal(404), path)
			Expect(r.admin("GET", path+"aggregatelogs", "").status).To(Equal(404), path)
		}
		Expect(kinds(logs("/api/v1/superuser/logs?performer=nobody"))).To(BeEmpty())
	})

	It("can be filtered by kind, tag, policy and performer", func() {
		r.push("team-a/app", "v1", "one")
		r.push("team-a/app", "v2", "one")
		uuid := r.policy("team-a", "v1")
		Expect(kinds(logs("/api/v1/organization/team-a/logs?kind=create_repo&kind=org_create"))).To(Equal([]string{"create_repo", "org_create"}))
		Expect(kinds(logs("/api/v1/organization/team-a/logs?tag=v1"))).To(Equal([]string{"change_tag_immutability", "create_tag"}))
		Expect(kinds(logs("/api/v1/organization/team-a/logs?policy=" + uuid))).To(Equal([]string{
			"apply_immutability_policy_retroactive", "change_tag_immutability", "create_immutability_policy"}))
		Expect(kinds(logs("/api/v1/organization/team-a/logs?performer=admin&policy=" + uuid))).To(Equal([]string{"create_immutability_policy"}))
		Expect(kinds(logs("/api/v1/organization/team-a/logs?performer=nobody"))).To(BeEmpty())
	})

	It("can be bounded by days and by instants", func() {
		for day := range 4 {
			r.clock.Set(beginning.AddDate(0, 0, day))
			r.push("team-a/app", fmt.Sprintf("d%d", day), "one")
		}
		tags := func(query url.Values) []string {
			found := []string{}
			query.Set("kind", "create_tag")
			for _, entry := range logs("/api/v1/repository/team-a/app/logs?" + query.Encode()).Logs {
				found = append(found, entry.Metadata["tag"].(string))
			}
			return found
		}
		Expect(tags(url.Values{"starttime": {"03/15/2026"}, "endtime": {"03/16/2026"}})).To(Equal([]string{"d2", "d1"}), "the last day is included")
		Expect(tags(url.Values{"starttime": {"3/16/2026"}})).To(Equal([]string{"d3", "d2"}))
		Expect(tags(url.Values{"endtime": {"03/14/2026"}})).To(Equal([]string{"d0"}))
		Expect(tags(url.Values{"starttime": {"2026-03-15T15:09:26Z"}, "endtime": {"2026-03-16T15:09:26Z"}})).To(Equal([]string{"d1"}))
		Expect(tags(url.Values{"starttime": {"2026-03-15T17:09:26+02:00"}, "endtime": {"03/15/2026"}})).To(Equal([]string{"d1"}))
		page := logs("/api/v1/repository/team-a/app/logs?starttime=03/15/2026&endtime=03/16/2026")
		Expect(page.StartTime).To(Equal("Sun, 15 Mar 2026 00:00:00 -0000"))
		Expect(page.EndTime).To(Equal("Tue, 17 Mar 2026 00:00:00 -0000"))
	})

	It("come in pages of 20 that new entries do not shift", func() {
		for i := range 45 {
			r.push("team-a/app", fmt.Sprintf("v%02d", i), "one")
		}
		var indexes []int64
		path := "/api/v1/repository/team-a/app/logs?kind=create_tag"
		cursor := ""
		for page := 0; ; page++ {
			answer := logs(path + cursor)
			for _, entry := range answer.Logs {
				indexes = append(indexes, entry.Index)
			}
			r.push("team-a/app", fmt.Sprintf("later-%d", page), "one")
			if answer.NextPage == "" {
				break
			}
			Expect(answer.Logs).To(HaveLen(20))
			cursor = "&next_page=" + answer.NextPage
		}
		Expect(indexes).To(HaveLen(45))
		for i := 1; i < len(indexes); i++ {
			Expect(indexes[i]).To(BeNumerically("<", indexes[i-1]))
		}
	})

	It("are counted by kind and day", func() {
		r.push("team-a/app", "v1", "one")
		r.clock.Set(beginning.AddDate(0, 0, 1))
		r.push("team-a/app", "v2", "one")
		r.push("team-a/app", "v3", "one")
		for _, path := range []string{"/api/v1/repository/team-a/app/", "/api/v1/organization/team-a/", "/api/v1/superuser/"} {
			Expect(r.must("GET", path+"aggregatelogs?kind=create_tag", "").body).To(MatchJSON(`{"aggregated": [
				{"kind": "create_tag", "count": 1, "datetime": "Sat, 14 Mar 2026 00:00:00 -0000"},
				{"kind": "create_tag", "count": 2, "datetime": "Sun, 15 Mar 2026 00:00:00 -0000"}]}`))
		}
		Expect(r.must("GET", "/api/v1/superuser/aggregatelogs?kind=create_tag&starttime=03/16/2026", "").body).To(MatchJSON(`{"aggregated": []}`))
	})
})
