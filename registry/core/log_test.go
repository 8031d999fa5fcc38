package core_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = eachEngine("The log", func(h *harness) {
	var start time.Time
	BeforeEach(func() {
		start = h.clock.Now()
		for range 5 {
			h.mustPush(app, "latest")
			h.clock.Advance(time.Hour)
		}
		Expect(h.DeleteTag(ctx, domain.Caller{Name: "bob", Kind: domain.CallerUser}, app, "latest")).To(Succeed())
		h.mustPush(domain.RepositoryName{Organization: "team-b", Path: "app"}, "v1")
	})

	indices := func(q audit.Query) []int64 {
		GinkgoHelper()
		list := []int64{}
		if q.After == 0 {
			q.After = -1
		}
		q.Limit = 100
		views, err := h.Log(ctx, q)
		Expect(err).NotTo(HaveOccurred())
		for _, v := range views {
			list = append(list, v.Index)
		}
		return list
	}

	// 0 org_create, 1 create_repo, 2 create_tag, 3 to 6 move_tag, 7 delete_tag by bob, 8 to 10 the other organization.
	DescribeTable("is read by", func(q func() audit.Query, want ...int64) {
		Expect(indices(q())).To(HaveExactElements(want))
	},
		Entry("organization", func() audit.Query { return audit.Query{Organization: "team-b"} }, int64(10), int64(9), int64(8)),
		Entry("repository", func() audit.Query {
			return audit.Query{Organization: "team-b", Repository: "app", Ascending: true}
		}, int64(9), int64(10)),
		Entry("tag", func() audit.Query {
			return audit.Query{Organization: "team-a", Repository: "app", Tag: "latest", Before: 5}
		}, int64(4), int64(3), int64(2)),
		Entry("performer", func() audit.Query { return audit.Query{Performer: "bob"} }, int64(7)),
		Entry("kinds", func() audit.Query {
			return audit.Query{Kinds: []audit.Kind{audit.KindOrgCreate, audit.KindDeleteTag}}
		}, int64(8), int64(7), int64(0)),
		Entry("time, from included", func() audit.Query { return audit.Query{From: start.Add(210 * time.Minute)} }, int64(10), int64(9), int64(8), int64(7), int64(6)),
		Entry("time, to not included", func() audit.Query { return audit.Query{To: start.Add(30 * time.Minute)} }, int64(2), int64(1), int64(0)),
		Entry("a window of time", func() audit.Query {
			return audit.Query{From: start.Add(30 * time.Minute), To: start.Add(150 * time.Minute)}
		}, int64(4), int64(3)),
		Entry("a time without entries", func() audit.Query { return audit.Query{From: start.Add(100 * time.Hour)} }),
		Entry("what comes after an index", func() audit.Query { return audit.Query{After: 8} }, int64(10), int64(9)),
	)

	It("is counted by day and kind", func() {
		counts, err := h.LogCounts(ctx, audit.Query{Organization: "team-a", After: -1})
		Expect(err).NotTo(HaveOccurred())
		day := time.Date(2026, 3, 6, 0, 0, 0, 0, time.UTC)
		Expect(counts).To(Equal([]audit.Count{
			{Kind: audit.KindCreateRepo, Day: day, Count: 1}, {Kind: audit.KindCreateTag, Day: day, Count: 1}, {Kind: audit.KindDeleteTag, Day: day, Count: 1},
			{Kind: audit.KindMoveTag, Day: day, Count: 4}, {Kind: audit.KindOrgCreate, Day: day, Count: 1},
		}))
	})

	It("keeps a cursor that moves by compare-and-set", func() {
		Expect(h.LogCursor(ctx, "events")).To(BeZero())
		Expect(h.MoveLogCursor(ctx, "events", 0, 5)).To(Succeed())
		Expect(h.MoveLogCursor(ctx, "events", 0, 7)).To(haveCode(domain.CodeStale))
		Expect(h.LogCursor(ctx, "events")).To(Equal(int64(5)))
		Expect(h.LogOrigin(ctx)).To(HavePrefix("tidelock/"))
	})

	It("wakes who waits for its next entry", func() {
		woken := make(chan error, 1)
		size := int64(len(h.entries()))
		Expect(h.LogSize(ctx)).To(Equal(size))
		go func() { woken <- h.WaitLog(ctx, size-1) }()
		Consistently(woken).WithTimeout(50 * time.Millisecond).ShouldNot(Receive())
		h.mustPush(app, "next")
		Eventually(woken).WithTimeout(patience).Should(Receive(BeNil()))
	})
})
