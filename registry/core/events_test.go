package core_test

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = eachEngine("A policy that wants one Event of each sweep", func(h *harness) {
	const tags = 60
	summary := func(m *core.ManagedPolicy) { m.Events = domain.EventsSummary }
	covers := func(pattern string) func(*core.ManagedPolicy) {
		return func(m *core.ManagedPolicy) { m.Spec.TagPattern = pattern }
	}
	put := func(m core.ManagedPolicy) core.PolicyStatus {
		GinkgoHelper()
		m.Claim.Organizations = []string{"team-a"}
		status, err := h.PutManagedPolicy(ctx, operator, m)
		Expect(err).NotTo(HaveOccurred())
		return status
	}
	pushAll := func() {
		GinkgoHelper()
		for n := range tags {
			_, err := h.pushContent(app, fmt.Sprintf("v%02d", n), `{"same":true}`)
			Expect(err).NotTo(HaveOccurred())
		}
	}
	// marks are what the entries of the kinds say of Events, nil for one that says nothing.
	marks := func(kinds ...audit.Kind) []any {
		GinkgoHelper()
		return metadataOf(h.entries(kinds...), "events")
	}

	It("says so in the entry of each of its tags and in that of the sweep, and in that of no refusal", func() {
		pushAll()
		p := put(changed(managed("u1", 1), summary)).Policy
		h.swept(teamA, p.UUID)
		h.mustPush(app, "v-later")
		_, err := h.pushContent(app, "v-later", `{"another":true}`)
		Expect(err).To(haveCode(domain.CodeTagImmutable))

		Expect(marks(audit.KindChangeImmutability)).To(And(HaveLen(tags), HaveEach("Summary")))
		Expect(marks(audit.KindTagCreatedImmutable)).To(ConsistOf("Summary"))
		Expect(marks(audit.KindApplyPolicy)).To(ConsistOf("Summary"))
		Expect(marks(audit.KindPushFailed)).To(ConsistOf(BeNil()))
	})

	It("says nothing of it by default", func() {
		pushAll()
		p := put(managed("u1", 1)).Policy
		h.swept(teamA, p.UUID)
		h.mustPush(app, "v-later")
		Expect(p.Events).To(Equal(domain.EventsPerTag))
		Expect(marks(audit.KindChangeImmutability, audit.KindTagCreatedImmutable, audit.KindApplyPolicy)).To(And(HaveLen(tags+2), HaveEach(BeNil())))
	})

	It("makes neither a revision nor a sweep when that alone changes, which is an entry", func() {
		pushAll()
		p := put(managed("u1", 1)).Policy
		before := h.swept(teamA, p.UUID)
		after := put(changed(managed("u1", 2), summary))
		Expect(after.Policy.Events).To(Equal(domain.EventsSummary))
		Expect(after.Policy.Revision).To(Equal(before.Policy.Revision))
		Expect(after.Sweeps).To(Equal(before.Sweeps))
		Expect(after.Coverage).To(Equal(before.Coverage))
		put(changed(managed("u1", 2), summary))
		Expect(h.entries(audit.KindUpdatePolicy)).To(ConsistOf(HaveField("Metadata", And(
			HaveKeyWithValue("events", "Summary"), HaveKeyWithValue("previous_events", "PerTag"), HaveKeyWithValue("revision", BeEquivalentTo(1))))))
		h.mustPush(app, "v-later")
		Expect(marks(audit.KindTagCreatedImmutable)).To(ConsistOf("Summary"), "what is pushed from then on follows")
	})

	It("cannot be anything else", func() {
		_, err := h.PutManagedPolicy(ctx, operator, changed(managed("u1", 1), func(m *core.ManagedPolicy) { m.Events = "Never" }))
		Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring(`events "Never" is not allowed; use PerTag or Summary`))))
	})

	It("goes back to an Event of each tag when an organization adopts it", func() {
		p := put(changed(managed("u1", 1), summary)).Policy
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		Expect(h.AdoptPolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		Expect(h.Policy(ctx, teamA, p.UUID)).To(HaveField("Events", domain.EventsPerTag))
		h.mustPush(app, "v1")
		Expect(marks(audit.KindTagCreatedImmutable)).To(ConsistOf(BeNil()))
	})

	Describe("in the middle of a sweep", func() {
		BeforeEach(func() {
			pushAll()
			h.with(func(o *core.Options) { o.SweepBatch = 1 })
		})
		// begin puts a policy and holds its sweep after a few batches.
		begin := func(m core.ManagedPolicy) {
			GinkgoHelper()
			h.gate.allow(4)
			put(m)
			Eventually(h.gate.used).WithTimeout(patience).WithPolling(time.Millisecond).Should(BeTrue())
			Eventually(func() int { return len(h.entries(audit.KindChangeImmutability)) }).WithTimeout(patience).Should(And(BeNumerically(">", 2), BeNumerically("<", tags)))
		}

		DescribeTable("keeps to what the sweep was queued with", func(first, then domain.EventsMode, mark any) {
			mode := func(events domain.EventsMode) func(*core.ManagedPolicy) {
				return func(m *core.ManagedPolicy) { m.Events = events }
			}
			begin(changed(managed("u1", 1), mode(first)))
			put(changed(managed("u1", 2), mode(then)))
			h.gate.open()
			h.idle()
			Expect(marks(audit.KindChangeImmutability)).To(And(HaveLen(tags), HaveEach(mark)))
			Expect(marks(audit.KindApplyPolicy)).To(HaveExactElements(mark))
		},
			Entry("summaries: no tag that has none would be left without its summary", domain.EventsSummary, domain.EventsPerTag, Equal("Summary")),
			Entry("each tag: no summary would repeat those that have theirs", domain.EventsPerTag, domain.EventsSummary, BeNil()),
		)

		DescribeTable("leaves no tag out when it is overtaken", func(overtake func()) {
			begin(changed(managed("u1", 1), summary))
			overtake()
			h.gate.open()
			h.idle()
			summaries := h.entries(audit.KindApplyPolicy)
			Expect(metadataOf(summaries, "state")).To(HaveExactElements("stopped", "done"))
			Expect(metadataOf(summaries, "events")).To(HaveEach("Summary"))
			var sum float64
			for _, count := range metadataOf(summaries, "tags_affected_count") {
				sum += count.(float64)
			}
			Expect(marks(audit.KindChangeImmutability)).To(And(HaveLen(int(sum)), HaveEach("Summary")))
		},
			Entry("by another pattern", func() { put(changed(managed("u1", 2), summary, covers("nothing"))) }),
			Entry("by its deletion", func() {
				put(changed(managed("u2", 1), summary, func(m *core.ManagedPolicy) { m.Scope.Repository = "another" }))
				Expect(h.entries(audit.KindDeletePolicy)).To(HaveLen(1))
			}),
		)
	})
})
