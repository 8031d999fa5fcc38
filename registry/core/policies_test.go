package core_test

import (
	"fmt"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

func metadataOf(entries []audit.View, key string) []any {
	values := []any{}
	for _, e := range entries {
		values = append(values, e.Metadata[key])
	}
	return values
}

var _ = eachEngine("A policy", func(h *harness) {
	It("locks the tags that are pushed after it, with an entry for each policy that covers them", func() {
		h.mustPush(app, "latest")
		org := h.mustCreate(teamA, releases)
		repo := h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, spec(`v\d`))
		d := h.mustPush(app, "v1")
		Expect(h.locked(app, "v1")).To(BeTrue())
		created := h.entries(audit.KindTagCreatedImmutable)
		Expect(metadataOf(created, "policy_uuid")).To(ConsistOf(org.UUID, repo.UUID))
		Expect(metadataOf(created, "policy_scope")).To(ConsistOf("namespace", "repository"))
		Expect(metadataOf(created, "policy_pattern")).To(ConsistOf("v.*", `v\d`))
		for _, e := range created {
			Expect(e.Metadata).To(And(HaveKeyWithValue("tag", "v1"), HaveKeyWithValue("manifest_digest", d.String()), HaveKeyWithValue("namespace", "team-a"), HaveKeyWithValue("repo", "app")))
		}
	})

	It("locks the tags that are there, retroactively, with an entry each and one summary", func() {
		for _, tag := range []string{"v1", "v2", "v3", "latest"} {
			h.mustPush(app, tag)
		}
		p := h.mustCreate(teamA, releases)
		status := h.swept(teamA, p.UUID)
		Expect(status.Coverage).To(Equal(core.Coverage{Total: 4, Covered: 3, Locked: 0, Held: 3, Sample: []string{"app:v1", "app:v2", "app:v3"}}))
		Expect(status.Pending).To(BeZero())
		changes := h.entries(audit.KindChangeImmutability)
		Expect(metadataOf(changes, "tag")).To(Equal([]any{"v1", "v2", "v3"}))
		for _, e := range changes {
			Expect(e.Performer).To(Equal("system"))
			Expect(e.Metadata).To(And(HaveKeyWithValue("username", "system"), HaveKeyWithValue("trigger", "policy"), HaveKeyWithValue("immutable", true),
				HaveKeyWithValue("hold", "placed"), HaveKeyWithValue("previous_immutable", false), HaveKeyWithValue("policy_uuid", p.UUID), HaveKeyWithValue("policy_pattern", "v.*"), HaveKeyWithValue("policy_scope", "namespace"), HaveKey("manifest_digest")))
		}
		Expect(status.Sweeps[0]).To(And(HaveField("FirstIndex", changes[0].Index), HaveField("LastIndex", changes[2].Index), HaveField("Changed", int64(3)), HaveField("Total", int64(4)), HaveField("Examined", int64(4))))
		summary := h.entries(audit.KindApplyPolicy)
		Expect(summary).To(HaveLen(1))
		Expect(summary[0].Metadata).To(And(HaveKeyWithValue("tags_affected_count", BeNumerically("==", 3)), HaveKeyWithValue("tag_pattern", "v.*"), HaveKeyWithValue("sample_tags", ConsistOf("app:v1", "app:v2", "app:v3"))))
	})

	It("writes no summary when no tag is affected", func() {
		h.mustPush(app, "latest")
		p := h.mustCreate(teamA, releases)
		h.swept(teamA, p.UUID)
		Expect(h.entries(audit.KindApplyPolicy)).To(BeEmpty())
	})

	It("sweeps more than 1,000 tags over several repositories, each to exactly one entry", func() {
		h.with(func(o *core.Options) { o.SweepBatch = 97 })
		names := []domain.RepositoryName{app, {Organization: "team-a", Path: "nested/path"}, {Organization: "team-a", Path: "z"}}
		for i := range 1100 {
			_, err := h.pushContent(names[i%3], fmt.Sprintf("v%d", i), `{"same":true}`)
			Expect(err).NotTo(HaveOccurred())
		}
		p := h.mustCreate(teamA, releases)
		status := h.swept(teamA, p.UUID)
		Expect(status.Holds).To(Equal(int64(1100)))
		seen := map[string]int{}
		for _, e := range h.entries(audit.KindChangeImmutability) {
			Expect(e.Metadata["policy_uuid"]).To(Equal(p.UUID))
			seen[e.Repository+":"+e.Tag]++
		}
		Expect(seen).To(HaveLen(1100))
		Expect(seen).To(HaveEach(1))
		Expect(h.entries(audit.KindApplyPolicy)).To(HaveLen(1))
	})

	DescribeTable("covers by whole name, case-sensitively, inverted if told so", func(pattern string, matches bool, covered, free []string) {
		s := spec(pattern)
		s.TagPatternMatches = matches
		h.mustPush(app, "seed-tag-of-the-repository")
		h.mustCreate(teamA, s)
		for _, tag := range covered {
			h.mustPush(app, tag)
			Expect(h.locked(app, tag)).To(BeTrue(), tag)
		}
		for _, tag := range free {
			h.mustPush(app, tag)
			Expect(h.locked(app, tag)).To(BeFalse(), tag)
		}
	},
		Entry("whole match", `v1`, true, []string{"v1"}, []string{"v10", "xv1", "V1"}),
		Entry("alternation binds inside", `v1|v2`, true, []string{"v1", "v2"}, []string{"v1x", "xv2"}),
		Entry("anchors are allowed", `^v.*$`, true, []string{"v1"}, []string{"dev"}),
		Entry("star without anchors", `.*rc.*`, true, []string{"1rc2", "rc"}, []string{"r-c"}),
		Entry("inverted", `latest|dev`, false, []string{"v1", "Latest"}, []string{"latest", "dev"}),
		Entry("inverted star", `.*-dev`, false, []string{"v1"}, []string{"v1-dev"}),
	)

	DescribeTable("is refused when it is bad", func(s domain.PolicySpec, message string) {
		h.mustPush(app, "latest")
		_, err := h.CreatePolicy(ctx, alice, teamA, s)
		Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring(message))))
		Expect(h.entries(audit.KindCreatePolicy)).To(BeEmpty())
	},
		Entry("invalid regex", spec(`v(`), "Invalid regex pattern: missing closing )"),
		Entry("only one between parentheses", spec(`a)|(b`), "Invalid regex pattern: unexpected )"),
		Entry("look-ahead", spec(`(?!latest).*`), "tagPatternMatches to false"),
		Entry("too long", spec(string(make([]byte, 257))), "256 characters or less"),
		Entry("empty", spec(""), "must not be empty"),
		Entry("mode", domain.PolicySpec{TagPattern: "v", EnforcementMode: "Maybe", ReclaimPolicy: domain.Retain}, `use Enforce or DryRun`),
		Entry("reclaim policy", domain.PolicySpec{TagPattern: "v", EnforcementMode: domain.Enforce, ReclaimPolicy: "Keep"}, `use Retain or Release`),
	)

	It("is refused twice in a scope, also by an update, and is not in two scopes", func() {
		h.mustPush(app, "latest")
		h.mustCreate(teamA, releases)
		inverse := releases
		inverse.TagPatternMatches = false
		_, err := h.CreatePolicy(ctx, alice, teamA, inverse)
		Expect(err).To(MatchError("A policy with the same tag_pattern already exists"))
		other := h.mustCreate(teamA, spec("x"))
		_, err = h.UpdatePolicy(ctx, alice, teamA, other.UUID, releases)
		Expect(err).To(haveCode(domain.CodeInvalid))
		h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, releases)
	})

	It("is refused past 100 in a scope, and is not by those of another", func() {
		h.mustPush(app, "latest")
		for i := range domain.MaxPoliciesPerScope {
			h.mustCreate(teamA, spec(fmt.Sprintf("tag-%d", i)))
		}
		_, err := h.CreatePolicy(ctx, alice, teamA, releases)
		Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("100 policies"))))
		h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, releases)
	})

	It("locks a tag that is restored, as one that is created", func() {
		d := h.mustPush(app, "v1")
		Expect(h.DeleteTag(ctx, alice, app, "v1")).To(Succeed())
		p := h.mustCreate(teamA, releases)
		Expect(h.RestoreTag(ctx, alice, app, "v1", d)).To(Succeed())
		Expect(h.locked(app, "v1")).To(BeTrue())
		Expect(metadataOf(h.entries(audit.KindTagCreatedImmutable), "policy_uuid")).To(Equal([]any{p.UUID}))
	})

	It("stays in force for the name of a repository that is deleted and made again", func() {
		h.mustPush(app, "latest")
		h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, releases)
		Expect(h.DeleteRepository(ctx, alice, app)).To(Succeed())
		h.mustPush(app, "v1")
		Expect(h.locked(app, "v1")).To(BeTrue())
	})

	It("leaves an entry for each revision with old and new values", func() {
		h.mustPush(app, "latest")
		p := h.mustCreate(teamA, releases)
		_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, spec(`r.*`))
		Expect(err).NotTo(HaveOccurred())
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		updates := h.entries(audit.KindUpdatePolicy)
		Expect(updates).To(HaveLen(1))
		Expect(updates[0].Metadata).To(And(HaveKeyWithValue("tag_pattern", "r.*"), HaveKeyWithValue("previous_tag_pattern", "v.*"), HaveKeyWithValue("revision", BeNumerically("==", 2))))
		Expect(h.entries(audit.KindDeletePolicy)).To(HaveLen(1))
	})

	It("names its revision in every entry about a tag, and in those of a sweep what queued it", func() {
		for _, tag := range []string{"v1", "v2", "r1"} {
			h.mustPush(app, tag)
		}
		// said is what the next entries of the kinds say, in the order of the log.
		next := 0
		said := func(kinds ...audit.Kind) (list []string) {
			GinkgoHelper()
			h.idle()
			entries := h.entries()
			for _, e := range entries[next:] {
				if slices.Contains(kinds, e.Kind) {
					list = append(list, fmt.Sprint(e.Tag, " ", e.Metadata["hold"], " revision ", e.Metadata["policy_revision"], " ", e.Metadata["cause"]))
				}
			}
			next = len(entries)
			return list
		}
		sweeping := []audit.Kind{audit.KindChangeImmutability, audit.KindApplyPolicy}

		p := h.mustCreate(teamA, releases)
		Expect(said(sweeping...)).To(Equal([]string{"v1 placed revision 1 created", "v2 placed revision 1 created", " <nil> revision 1 created"}))
		released := spec("r.*")
		released.ReclaimPolicy = domain.Release
		_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, released)
		Expect(err).NotTo(HaveOccurred())
		Expect(said(sweeping...)).To(Equal([]string{
			"r1 placed revision 2 updated", " <nil> revision 2 updated",
			"v1 removed revision 2 updated", "v2 removed revision 2 updated", " <nil> revision 2 updated",
		}))

		h.mustPush(app, "r2")
		Expect(said(audit.KindTagCreatedImmutable)).To(Equal([]string{"r2 <nil> revision 2 <nil>"}))
		_, err = h.push(app, "r2")
		Expect(err).To(haveCode(domain.CodeTagImmutable))
		Expect(said(audit.KindPushFailed)).To(Equal([]string{"r2 <nil> revision 2 <nil>"}))

		By("deleting it in the middle of its sweep, so that another places the holds")
		h.mustPush(app, "x1")
		_ = said()
		h.gate.allow(0)
		retained := spec("x.*")
		_, err = h.UpdatePolicy(ctx, alice, teamA, p.UUID, retained)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.gate.open()
		Expect(said(sweeping...)).To(Equal([]string{"x1 placed revision 3 deleted", " <nil> revision 3 deleted"}))
		Expect(h.ReleasePolicy(ctx, alice, teamA, p.UUID)).To(Equal(3))
		Expect(said(sweeping...)).To(ConsistOf("r1 removed revision 3 <nil>", "r2 removed revision 3 <nil>", "x1 removed revision 3 <nil>"), "by hand")
	})
})

var _ = eachEngine("A policy that goes or narrows", func(h *harness) {
	var p domain.Policy
	BeforeEach(func() {
		h.mustPush(app, "v1")
		h.mustPush(app, "v2")
	})
	withReclaim := func(r domain.ReclaimPolicy) {
		s := releases
		s.ReclaimPolicy = r
		p = h.mustCreate(teamA, s)
		h.swept(teamA, p.UUID)
	}

	It("retains its holds by default, until they are released", func() {
		withReclaim(domain.Retain)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.idle()
		Expect(h.DeleteTag(ctx, alice, app, "v1")).To(haveCode(domain.CodeTagImmutable))
		h.mustPush(app, "v3")
		Expect(h.locked(app, "v3")).To(BeFalse(), "new tags are not covered any more")
		By("unlocking one tag by hand")
		Expect(h.hold(app, "v1", false)).To(Succeed())
		Expect(h.locked(app, "v1")).To(BeFalse())
		By("releasing the rest")
		Expect(h.ReleasePolicy(ctx, alice, teamA, p.UUID)).To(Equal(1))
		Expect(h.locked(app, "v2")).To(BeFalse())
		released := h.entries(audit.KindChangeImmutability)[2:]
		Expect(metadataOf(released, "immutable")).To(Equal([]any{false, false}))
		Expect(metadataOf(released, "trigger")).To(Equal([]any{"manual", "manual"}))
		Expect(metadataOf(released, "policy_uuid")).To(Equal([]any{p.UUID, p.UUID}))
	})

	It("releases its own holds only, under Release", func() {
		withReclaim(domain.Release)
		other := h.mustCreate(teamA, spec("v2"))
		h.swept(teamA, other.UUID)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.idle()
		Expect(h.locked(app, "v1")).To(BeFalse())
		Expect(h.locked(app, "v2")).To(BeTrue())
		entries := h.entries(audit.KindChangeImmutability)[3:]
		Expect(metadataOf(entries, "tag")).To(Equal([]any{"v1", "v2"}))
		Expect(metadataOf(entries, "immutable")).To(Equal([]any{false, true}))
		Expect(metadataOf(entries, "previous_immutable")).To(Equal([]any{true, true}))
		Expect(metadataOf(entries, "trigger")).To(Equal([]any{"policy", "policy"}))
		Expect(metadataOf(entries, "hold")).To(Equal([]any{"removed", "removed"}))
	})

	DescribeTable("narrowed to v1", func(reclaim domain.ReclaimPolicy, v2 bool) {
		withReclaim(reclaim)
		narrow := spec("v1")
		narrow.ReclaimPolicy = reclaim
		_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, narrow)
		Expect(err).NotTo(HaveOccurred())
		h.swept(teamA, p.UUID)
		Expect(h.locked(app, "v1")).To(BeTrue())
		Expect(h.locked(app, "v2")).To(Equal(v2))
	},
		Entry("retains", domain.Retain, true),
		Entry("releases", domain.Release, false),
	)

	DescribeTable("put on a dry run", func(reclaim domain.ReclaimPolicy, stays bool) {
		withReclaim(reclaim)
		dry := releases
		dry.EnforcementMode, dry.ReclaimPolicy = domain.DryRun, reclaim
		_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, dry)
		Expect(err).NotTo(HaveOccurred())
		h.swept(teamA, p.UUID)
		Expect(h.locked(app, "v1")).To(Equal(stays))
	},
		Entry("retains", domain.Retain, true),
		Entry("releases", domain.Release, false),
	)

	It("marks nothing anew when it is widened and narrowed again", func() {
		withReclaim(domain.Retain)
		for _, pattern := range []string{".*", "v.*", "v1"} {
			_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, spec(pattern))
			Expect(err).NotTo(HaveOccurred())
		}
		h.swept(teamA, p.UUID)
		Expect(h.entries(audit.KindChangeImmutability)).To(HaveLen(2), "one entry for each hold")
	})
})

var _ = eachEngine("A policy withdrawn in the middle of its own sweep", func(h *harness) {
	const tags = 100
	names := func() (list []string) {
		for i := range tags {
			list = append(list, fmt.Sprintf("v%03d", i))
		}
		return list
	}
	BeforeEach(func() {
		for _, tag := range names() {
			_, err := h.pushContent(app, tag, `{"same":true}`)
			Expect(err).NotTo(HaveOccurred())
		}
		h.with(func(o *core.Options) { o.SweepBatch = 1 })
	})

	// lockedAll asks for every tag in one snapshot.
	lockedAll := func() {
		GinkgoHelper()
		views, err := h.ListTags(ctx, app, core.TagQuery{Limit: tags})
		Expect(err).NotTo(HaveOccurred())
		Expect(views).To(HaveLen(tags))
		Expect(views).To(HaveEach(HaveField("Immutable", true)))
	}

	// inTheMiddle creates a policy and holds its sweep after a few batches.
	inTheMiddle := func() domain.Policy {
		GinkgoHelper()
		h.gate.allow(4)
		p := h.mustCreate(teamA, releases)
		Eventually(h.gate.used).WithTimeout(patience).WithPolling(time.Millisecond).Should(BeTrue())
		Eventually(func() int { return len(h.entries(audit.KindChangeImmutability)) }).WithTimeout(patience).Should(And(BeNumerically(">", 3), BeNumerically("<", tags)))
		return p
	}

	It("releases nothing under Retain, and leaves one entry for each tag", func() {
		p := inTheMiddle()
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		lockedAll()
		h.gate.open()
		h.idle()
		lockedAll()
		Expect(h.entries(audit.KindChangeImmutability)).To(HaveLen(tags))
		summaries := h.entries(audit.KindApplyPolicy)
		Expect(metadataOf(summaries, "state")).To(Equal([]any{"stopped", "done"}), "a stopped sweep writes its summary too")
	})

	It("releases nothing when it is narrowed twice at once", func() {
		p := inTheMiddle()
		for _, pattern := range []string{"v0.*", "nothing"} {
			_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, spec(pattern))
			Expect(err).NotTo(HaveOccurred())
			lockedAll()
		}
		h.mustPush(app, "v-later")
		Expect(h.locked(app, "v-later")).To(BeFalse(), "a closing revision covers only what was there")
		Expect(h.DeleteTag(ctx, alice, app, "v-later")).To(Succeed())
		h.gate.open()
		h.swept(teamA, p.UUID)
		lockedAll()
		Expect(h.entries(audit.KindChangeImmutability)).To(HaveLen(tags))
	})

	It("goes on after a restart where it was", func() {
		p := inTheMiddle()
		h.with(func(o *core.Options) { o.SweepBatch = 50 })
		h.gate.open()
		h.swept(teamA, p.UUID)
		lockedAll()
		Expect(h.entries(audit.KindChangeImmutability)).To(HaveLen(tags))
		Expect(h.entries(audit.KindApplyPolicy)).To(HaveLen(1))
	})

	It("leaves other policies their turn, however many sweeps of one policy wait", func() {
		p := inTheMiddle()
		for n := range 70 { // more than the sweeper looks at in a round
			_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, spec(fmt.Sprintf("v.*|revision%d", n)))
			Expect(err).NotTo(HaveOccurred())
		}
		other := h.mustCreate(teamA, spec(".*"))
		h.gate.allow(20)
		h.with(func(*core.Options) {})
		Eventually(func() (int64, error) {
			status, err := h.PolicyStatus(ctx, teamA, other.UUID)
			return status.Holds, err
		}).WithTimeout(patience).Should(BeNumerically(">", 0))
	})
})

var _ = eachEngine("A policy on a dry run", func(h *harness) {
	It("locks nothing and reports what it would lock and refuse", func() {
		h.mustPush(app, "v1")
		dry := releases
		dry.EnforcementMode = domain.DryRun
		p := h.mustCreate(teamA, dry)
		h.mustPush(app, "v2")
		h.mustPush(app, "v1")
		h.mustPush(app, "v1")
		Expect(h.DeleteTag(ctx, alice, app, "v2")).To(Succeed())
		reports := h.entries(audit.KindDryRun)
		Expect(metadataOf(reports, "operation")).To(Equal([]any{"overwrite", "delete"}), "repeats are counted")
		h.clock.Advance(2 * time.Minute)
		Eventually(func(g Gomega) {
			status, err := h.PolicyStatus(ctx, teamA, p.UUID)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(status.WouldLock).To(Equal(int64(1)))
			g.Expect(status.Policy.WouldRefuse).To(Equal(int64(3)))
			g.Expect(status.Holds).To(BeZero())
		}).WithTimeout(patience).Should(Succeed())
		Expect(h.entries(audit.KindTagCreatedImmutable, audit.KindChangeImmutability)).To(BeEmpty())
	})
})

var _ = eachEngine("A preview", func(h *harness) {
	It("counts what a policy would cover, and what is locked already", func() {
		for _, tag := range []string{"v1", "v2", "latest"} {
			h.mustPush(app, tag)
		}
		Expect(h.hold(app, "v2", true)).To(Succeed())
		Expect(h.Preview(ctx, teamA, releases)).To(Equal(core.Coverage{Total: 3, Covered: 2, Locked: 1, Sample: []string{"app:v1", "app:v2"}}))
		Expect(h.Preview(ctx, core.Scope{Organization: "nowhere"}, releases)).To(Equal(core.Coverage{}))
	})
})
