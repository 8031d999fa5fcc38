package core_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/history"
)

// pageSize makes every history take several pages.
const pageSize = 3

// history reads a tag's whole history page by page, and checks it against that from one page and from its entries alone.
func (h *harness) history(name domain.RepositoryName, tag string, q core.HistoryQuery) (whole core.HistoryPage) {
	GinkgoHelper()
	log := h.entries()
	if q.Limit = pageSize; q.Size == 0 {
		q.Size = int64(len(log))
	}
	for {
		page, err := h.History(ctx, name, tag, q)
		Expect(err).NotTo(HaveOccurred())
		whole.Add(page.History)
		whole.Entries, whole.Basis = append(whole.Entries, page.Entries...), append(whole.Basis, page.Basis...)
		whole.Period = page.Period
		if page.Next == nil {
			break
		}
		stored, err := json.Marshal(page.Next)
		Expect(err).NotTo(HaveOccurred())
		q.Cursor = &core.HistoryCursor{}
		Expect(json.Unmarshal(stored, q.Cursor)).To(Succeed())
	}
	q.Cursor, q.Limit = nil, 1_000_000
	atOnce, err := h.History(ctx, name, tag, q)
	Expect(err).NotTo(HaveOccurred())
	Expect(atOnce.Next).To(BeNil())
	Expect(whole.History).To(Equal(atOnce.History))
	Expect(whole.Entries).To(Equal(atOnce.Entries))
	Expect(whole.Basis).To(ConsistOf(atOnce.Basis))

	var rests []audit.View
	for _, entry := range log {
		for _, index := range append(indicesOf(whole.Entries), whole.Basis...) {
			if entry.Index == index {
				rests = append(rests, entry)
			}
		}
	}
	rebuilt, err := history.Build(name, tag, whole.Period, rests)
	Expect(err).NotTo(HaveOccurred())
	Expect(rebuilt).To(Equal(whole.History))
	return whole
}

func indicesOf(entries []audit.View) (list []int64) {
	for _, e := range entries {
		list = append(list, e.Index)
	}
	return list
}

// kindAt names an entry by its kind, and how many of its kind came before it.
func kindAt(log []audit.View, at *history.Moment) string {
	if at == nil {
		return "now"
	}
	n := 0
	for _, entry := range log[:at.Index] {
		if entry.Kind == log[at.Index].Kind {
			n++
		}
	}
	return fmt.Sprintf("%s %d", log[at.Index].Kind, n)
}

// locks lists the spans in which a tag was locked, and their reasons, as "reason: from - to".
func (h *harness) locks(name domain.RepositoryName, tag string) (list []string) {
	GinkgoHelper()
	log := h.entries()
	for _, lock := range h.history(name, tag, core.HistoryQuery{Size: int64(len(log))}).Locks {
		list = append(list, fmt.Sprintf("locked, %d refused: %s - %s", lock.Refused, kindAt(log, &lock.From), kindAt(log, lock.To)))
		for _, r := range lock.Reasons {
			reason := strings.TrimSpace(string(r.Cause) + " " + r.Pattern)
			if r.Revision > 1 {
				reason += fmt.Sprintf(" r%d", r.Revision)
			}
			list = append(list, fmt.Sprintf("  %s: %s - %s", reason, kindAt(log, &r.From), kindAt(log, r.To)))
		}
	}
	return list
}

var _ = eachEngine("The history of a tag", func(h *harness) {
	dryRun := releases
	dryRun.EnforcementMode = domain.DryRun
	releasing := releases
	releasing.ReclaimPolicy = domain.Release
	narrow := spec(`v2.*`)

	JustAfterEach(func() {
		// Whatever a spec does, what the log says of the present is what is.
		views, err := h.ListTags(ctx, app, core.TagQuery{Limit: 100})
		if domain.CodeOf(err) == domain.CodeNameUnknown {
			return
		}
		Expect(err).NotTo(HaveOccurred())
		for _, v := range views {
			told := h.history(app, v.Name, core.HistoryQuery{})
			Expect(told.Digests[len(told.Digests)-1]).To(And(HaveField("Digest", v.Digest.String()), HaveField("To", BeNil())))
			n := len(told.Locks)
			Expect(n > 0 && told.Locks[n-1].To == nil).To(Equal(v.Immutable), "%s: %+v", v.Name, told.Locks)
		}
	})

	It("has every digest, from when to when, and who moved it", func() {
		one, two := h.mustPush(app, "latest"), h.mustPush(app, "latest")
		Expect(h.ChangeTag(ctx, domain.Caller{Name: "bob", Kind: domain.CallerUser}, app, "latest", core.TagChange{Digest: one})).To(Succeed())
		Expect(h.DeleteTag(ctx, alice, app, "latest")).To(Succeed())
		Expect(h.RestoreTag(ctx, alice, app, "latest", two)).To(Succeed())
		told := h.history(app, "latest", core.HistoryQuery{})
		var list []string
		log := h.entries()
		for _, p := range told.Digests {
			list = append(list, fmt.Sprintf("%s %s %s: %s - %s", p.Digest, p.By, p.Kind, kindAt(log, &p.From), kindAt(log, p.To)))
		}
		Expect(list).To(HaveExactElements(
			one.String()+" user alice create_tag: create_tag 0 - move_tag 0",
			two.String()+" user alice move_tag: move_tag 0 - move_tag 1",
			one.String()+" user bob move_tag: move_tag 1 - delete_tag 0",
			two.String()+" user alice revert_tag: revert_tag 0 - now",
		))
		Expect(told.Locks).To(BeEmpty())
	})

	It("is locked from the push on that a policy covers", func() {
		h.mustPush(app, "latest")
		h.mustCreate(teamA, releases)
		h.mustPush(app, "v1")
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 0 refused: create_tag 1 - now",
			"  policy v.*: create_tag 1 - now",
		))
	})

	It("is locked from the policy's entry on, not from that of its hold", func() {
		h.mustPush(app, "v1")
		h.mustPush(app, "latest")
		p := h.mustCreate(teamA, releases)
		h.swept(teamA, p.UUID)
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 0 refused: create_immutability_policy 0 - now",
			"  policy v.*: create_immutability_policy 0 - now",
		))
		Expect(h.locks(app, "latest")).To(BeEmpty())
		reason := h.history(app, "v1", core.HistoryQuery{}).Locks[0].Reasons[0]
		Expect(reason).To(And(HaveField("Policy", p.UUID), HaveField("Scope", domain.ScopeOrganization), HaveField("Revision", int64(1)), HaveField("By", Equal(&history.Performer{Kind: "user", Name: "alice"}))))
	})

	It("knows whom a policy of a repository, and an inverted one, covers", func() {
		other := domain.RepositoryName{Organization: "team-a", Path: "other"}
		h.mustPush(app, "v1")
		h.mustPush(other, "v1")
		h.mustPush(app, "latest")
		h.mustCreate(core.Scope{Organization: "team-a", Repository: "other"}, releases)
		inverted := releases
		inverted.TagPatternMatches = false
		h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, inverted)
		h.idle()
		Expect(h.locks(app, "v1")).To(BeEmpty())
		Expect(h.locks(other, "v1")).To(HaveLen(2))
		Expect(h.history(app, "latest", core.HistoryQuery{}).Locks[0].Reasons[0]).To(And(HaveField("Inverted", true), HaveField("Scope", domain.ScopeRepository)))
	})

	It("stays locked by the holds of a policy that is deleted with Retain, until they are released", func() {
		h.mustPush(app, "v1")
		p := h.mustCreate(teamA, releases)
		h.swept(teamA, p.UUID)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.idle()
		Expect(h.ReleasePolicy(ctx, alice, teamA, p.UUID)).To(Equal(1))
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 0 refused: create_immutability_policy 0 - change_tag_immutability 1",
			"  policy v.*: create_immutability_policy 0 - delete_immutability_policy 0",
			"  hold v.*: delete_immutability_policy 0 - change_tag_immutability 1",
		))
	})

	It("stays locked where a policy is withdrawn before its sweep came", func() {
		h.mustPush(app, "v1")
		h.gate.allow(0)
		p := h.mustCreate(teamA, releases)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		withdrawn := []string{
			"locked, 0 refused: create_immutability_policy 0 - now",
			"  policy v.*: create_immutability_policy 0 - delete_immutability_policy 0",
			"  hold v.*: delete_immutability_policy 0 - now",
		}
		Expect(h.locks(app, "v1")).To(Equal(withdrawn))
		Expect(h.locked(app, "v1")).To(BeTrue())
		h.mustPush(app, "v2")
		Expect(h.locks(app, "v2")).To(BeEmpty(), "it came after the policy had gone")
		h.gate.open()
		h.idle()
		Expect(h.locks(app, "v1")).To(Equal(withdrawn))
	})

	It("stays locked where a policy stops to cover it, or to lock, before its sweep came", func() {
		h.mustPush(app, "v1")
		h.gate.allow(0)
		p := h.mustCreate(teamA, releases)
		for _, to := range []domain.PolicySpec{narrow, releases, dryRun} {
			_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, to)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(h.locked(app, "v1")).To(BeTrue())
		locks := []string{
			"locked, 0 refused: create_immutability_policy 0 - now",
			"  policy v.*: create_immutability_policy 0 - update_immutability_policy 0",
			"  hold v.*: update_immutability_policy 0 - update_immutability_policy 1",
			"  policy v.* r3: update_immutability_policy 1 - update_immutability_policy 2",
			"  hold v.* r3: update_immutability_policy 2 - now",
		}
		Expect(h.locks(app, "v1")).To(Equal(locks))
		h.gate.open()
		h.idle()
		Expect(h.locks(app, "v1")).To(Equal(locks))
	})

	It("is unlocked where a policy with Release goes before its sweep came", func() {
		h.mustPush(app, "v1")
		h.gate.allow(0)
		p := h.mustCreate(teamA, releasing)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 0 refused: create_immutability_policy 0 - delete_immutability_policy 0",
			"  policy v.*: create_immutability_policy 0 - delete_immutability_policy 0",
		))
		h.gate.open()
		h.idle()
	})

	It("is locked by the hold of a policy with Release until the sweep removes it", func() {
		h.mustPush(app, "v1")
		p := h.mustCreate(teamA, releasing)
		h.swept(teamA, p.UUID)
		h.gate.allow(0)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 0 refused: create_immutability_policy 0 - now",
			"  policy v.*: create_immutability_policy 0 - delete_immutability_policy 0",
			"  hold v.*: delete_immutability_policy 0 - now",
		))
		h.gate.open()
		h.idle()
		Expect(h.locks(app, "v1")).To(ContainElement("locked, 0 refused: create_immutability_policy 0 - change_tag_immutability 1"))
	})

	It("knows each revision: narrowed, on a dry run, in force again", func() {
		h.mustPush(app, "v1")
		h.mustPush(app, "v2")
		p := h.mustCreate(teamA, dryRun)
		change := func(to domain.PolicySpec) {
			GinkgoHelper()
			_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, to)
			Expect(err).NotTo(HaveOccurred())
			h.swept(teamA, p.UUID)
		}
		Expect(h.locks(app, "v1")).To(BeEmpty())
		change(releases)
		change(narrow)
		Expect(h.ReleasePolicy(ctx, alice, teamA, p.UUID)).To(Equal(1))
		change(dryRun)
		change(releasing)
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 0 refused: update_immutability_policy 0 - change_tag_immutability 2",
			"  policy v.* r2: update_immutability_policy 0 - update_immutability_policy 1",
			"  hold v.* r2: update_immutability_policy 1 - change_tag_immutability 2",
			"locked, 0 refused: update_immutability_policy 3 - now",
			"  policy v.* r5: update_immutability_policy 3 - now",
		))
		Expect(h.locks(app, "v2")).To(HaveExactElements(
			"locked, 0 refused: update_immutability_policy 0 - now",
			"  policy v.* r2: update_immutability_policy 0 - update_immutability_policy 1",
			"  policy v2.* r3: update_immutability_policy 1 - update_immutability_policy 2",
			"  hold v2.* r3: update_immutability_policy 2 - update_immutability_policy 3",
			"  policy v.* r5: update_immutability_policy 3 - now",
		))
	})

	It("knows holds by hand, and that one lock follows another without interruption", func() {
		h.mustPush(app, "v1")
		Expect(h.hold(app, "v1", true)).To(Succeed())
		p := h.mustCreate(teamA, releasing)
		h.swept(teamA, p.UUID)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.idle()
		Expect(h.hold(app, "v1", false)).To(Succeed())
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 0 refused: change_tag_immutability 0 - change_tag_immutability 3",
			"  manual: change_tag_immutability 0 - change_tag_immutability 3",
			"  policy v.*: create_immutability_policy 0 - delete_immutability_policy 0",
			"  hold v.*: delete_immutability_policy 0 - change_tag_immutability 2",
		))
		Expect(h.hold(app, "v1", true)).To(Succeed())
		Expect(h.locks(app, "v1")).To(ContainElement("locked, 0 refused: change_tag_immutability 4 - now"))
	})

	It("knows that a hold by hand and retained holds go together", func() {
		h.mustPush(app, "v1")
		p := h.mustCreate(teamA, releases)
		h.swept(teamA, p.UUID)
		Expect(h.hold(app, "v1", true)).To(Succeed())
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.idle()
		Expect(h.hold(app, "v1", false)).To(Succeed())
		Expect(h.locks(app, "v1")[0]).To(Equal("locked, 0 refused: create_immutability_policy 0 - change_tag_immutability 3"))
	})

	It("counts refused attempts, their repeats, and those of a caller with too many windows", func() {
		d := h.mustPush(app, "v1")
		h.mustCreate(teamA, releases)
		for range 3 {
			_, err := h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeTagImmutable))
		}
		Expect(h.DeleteTag(ctx, alice, app, "v1")).To(haveCode(domain.CodeTagImmutable))
		Expect(h.DeleteRepository(ctx, alice, app)).To(haveCode(domain.CodeConflict))
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(haveCode(domain.CodeConflict))
		h.clock.Advance(2 * time.Minute)
		var told core.HistoryPage
		Eventually(func() int {
			told = h.history(app, "v1", core.HistoryQuery{})
			return len(told.Refusals)
		}).WithTimeout(patience).Should(Equal(5))
		var list []string
		for _, r := range told.Refusals {
			Expect(r.By.Name).To(Equal("alice"))
			list = append(list, fmt.Sprintf("%s %s %d %d", r.Operation, r.Of, r.Count, len(r.Attempted)))
		}
		Expect(list).To(HaveExactElements("overwrite tag 1 1", "delete tag 1 0", "delete repository 1 0", "delete organization 1 0", "overwrite tag 2 2"))
		Expect(told.Refusals[4].RepeatOf).To(Equal(firstOf(told.Entries, audit.KindPushFailed).Hash.String()))
		Expect(told.Locks[0].Refused).To(Equal(int64(6)))
		Expect(told.Digests).To(HaveExactElements(HaveField("Digest", d.String())))
	})

	It("counts what the window of a whole repository counted", func() {
		h.mustPush(app, "latest")
		h.mustCreate(teamA, releases)
		for i := range 120 {
			h.mustPush(app, fmt.Sprintf("v%d", i))
		}
		for range 2 {
			for i := range 120 {
				_, err := h.push(app, fmt.Sprintf("v%d", i))
				Expect(err).To(haveCode(domain.CodeTagImmutable))
			}
		}
		h.clock.Advance(2 * time.Minute)
		Eventually(func(g Gomega) {
			g.Expect(h.entries(audit.KindPushFailed)).To(ContainElement(HaveField("Tag", BeEmpty())))
		}).WithTimeout(patience).Should(Succeed())
		Expect(h.history(app, "v119", core.HistoryQuery{}).Locks[0].Refused).To(Equal(int64(2)))
		Expect(h.history(app, "v0", core.HistoryQuery{}).Locks[0].Refused).To(Equal(int64(2)))
	})

	It("gives repeats that are counted after the lock's end to the lock that refused them", func() {
		h.mustPush(app, "v1")
		Expect(h.hold(app, "v1", true)).To(Succeed())
		for range 3 {
			Expect(h.DeleteTag(ctx, alice, app, "v1")).To(haveCode(domain.CodeTagImmutable))
		}
		h.clock.Advance(2 * time.Second)
		Expect(h.hold(app, "v1", false)).To(Succeed())
		h.clock.Advance(2 * time.Minute)
		Eventually(func() []audit.View { return h.entries(audit.KindDeleteTagFailed) }).WithTimeout(patience).Should(HaveLen(2))
		Expect(h.hold(app, "v1", true)).To(Succeed())
		Expect(h.locks(app, "v1")).To(HaveExactElements(
			"locked, 3 refused: change_tag_immutability 0 - change_tag_immutability 1",
			"  manual: change_tag_immutability 0 - change_tag_immutability 1",
			"locked, 0 refused: change_tag_immutability 2 - now",
			"  manual: change_tag_immutability 2 - now",
		))
	})

	It("has expirations, and that a tag expired", func() {
		h.mustPush(app, "latest")
		at := h.clock.Now().Add(time.Hour)
		Expect(h.ChangeTag(ctx, alice, app, "latest", core.TagChange{Expiration: &at})).To(Succeed())
		h.clock.Advance(2 * time.Hour)
		Eventually(func() any { return h.tag(app, "latest") }).WithTimeout(patience).Should(BeEquivalentTo(""))
		told := h.history(app, "latest", core.HistoryQuery{})
		Expect(kindsOf(told.Entries)).To(HaveExactElements(audit.KindCreateTag, audit.KindChangeExpiry, audit.KindDeleteTag))
		Expect(told.Digests).To(HaveExactElements(HaveField("To", Not(BeNil()))))
	})

	It("tells of appends to a locked signature tag", func() {
		image := h.mustPush(app, "v1")
		h.mustCreate(teamA, spec(`.*`))
		name := "sha256-" + image.Encoded() + ".sig"
		first, err := h.put(app, name, imageOf("c", signature("one")))
		Expect(err).NotTo(HaveOccurred())
		second, err := h.put(app, name, imageOf("c", signature("one"), signature("two")))
		Expect(err).NotTo(HaveOccurred())
		told := h.history(app, name, core.HistoryQuery{})
		Expect(told.Digests).To(HaveExactElements(
			And(HaveField("Digest", first.String()), HaveField("Append", false)), And(HaveField("Digest", second.String()), HaveField("Append", true))))
		Expect(told.Locks).To(HaveExactElements(HaveField("To", BeNil())))
		Expect(told.Statements(app, name, told.Period)[0]).To(ContainSubstring("was added to 1 times"))
	})

	Context("of which a period is asked for", func() {
		It("keeps what lasts, and leaves out what was before and comes after", func() {
			one := h.mustPush(app, "v1")
			h.mustPush(app, "v1")
			Expect(h.hold(app, "v1", true)).To(Succeed())
			Expect(h.hold(app, "v1", false)).To(Succeed())
			Expect(h.setTag(app, "v1", one)).To(Succeed())
			p := h.mustCreate(teamA, releases)
			h.swept(teamA, p.UUID)
			_, err := h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeTagImmutable))
			h.clock.Advance(time.Hour)
			from := h.clock.Now()
			Expect(h.DeleteTag(ctx, alice, app, "v1")).To(haveCode(domain.CodeTagImmutable))
			h.clock.Advance(time.Hour)
			to := h.clock.Now()
			Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
			h.idle()
			log := h.entries()
			told := h.history(app, "v1", core.HistoryQuery{From: from, To: to})
			Expect(told.Digests).To(HaveExactElements(And(HaveField("Digest", one.String()), HaveField("From.Time.Hour()", 10))))
			Expect(told.Locks).To(HaveLen(1))
			Expect(kindAt(log, &told.Locks[0].From) + kindAt(log, told.Locks[0].To)).To(Equal("create_immutability_policy 0now"))
			Expect(told.Locks[0].Refused).To(Equal(int64(1)), "of two, one was before")
			Expect(kindsOf(told.Entries)).To(ConsistOf(audit.KindDeleteTagFailed))
			var basis []audit.View
			for _, index := range told.Basis {
				basis = append(basis, log[index])
			}
			Expect(kindsOf(basis)).To(ConsistOf(audit.KindCreateTag, audit.KindMoveTag, audit.KindCreatePolicy, audit.KindChangeImmutability))
			Expect(h.history(app, "v1", core.HistoryQuery{To: from}).Locks[1].Refused).To(Equal(int64(1)))
			Expect(h.history(app, "v1", core.HistoryQuery{From: to.Add(time.Hour)}).Entries).To(BeEmpty())
		})
	})

	Context("after all is gone", func() {
		BeforeEach(func() {
			h.mustPush(app, "v1")
			p := h.mustCreate(teamA, releases)
			h.swept(teamA, p.UUID)
			_, err := h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeTagImmutable))
			Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
			h.idle()
			Expect(h.hold(app, "v1", false)).To(Succeed())
		})
		locks := []string{
			"locked, 1 refused: create_immutability_policy 0 - change_tag_immutability 1",
			"  policy v.*: create_immutability_policy 0 - delete_immutability_policy 0",
			"  hold v.*: delete_immutability_policy 0 - change_tag_immutability 1",
		}

		It("is told without the tag", func() {
			Expect(h.DeleteTag(ctx, alice, app, "v1")).To(Succeed())
			Expect(h.locks(app, "v1")).To(Equal(locks))
		})
		It("is told without the repository", func() {
			Expect(h.DeleteRepository(ctx, alice, app)).To(Succeed())
			Expect(h.locks(app, "v1")).To(Equal(locks))
			Expect(kindsOf(h.history(app, "v1", core.HistoryQuery{}).Entries)).To(ContainElements(audit.KindDeleteTag, audit.KindDeleteRepo))
		})
		It("is told without the organization, and another one of its name has policies of its own", func() {
			Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(Succeed())
			Expect(h.locks(app, "v1")).To(Equal(locks))
			Expect(kindsOf(h.history(app, "v1", core.HistoryQuery{}).Entries)).To(ContainElements(audit.KindDeleteTag, audit.KindDeleteRepo, audit.KindOrgDelete))
			h.mustPush(app, "v1")
			Expect(h.locks(app, "v1")).To(Equal(locks))
			h.mustCreate(teamA, spec(`v1`))
			h.idle()
			Expect(h.locks(app, "v1")).To(HaveExactElements(append(locks[:3:3],
				"locked, 0 refused: create_immutability_policy 1 - now",
				"  policy v1: create_immutability_policy 1 - now",
			)))
		})
	})

	It("is told of objects of Kubernetes: deleted, and re-created in time", func() {
		m := core.ManagedPolicy{
			Cluster: "c", Manager: domain.ManagedBy{Kind: "ImmutabilityPolicy", Namespace: "team-a", Name: "releases", UID: "1", Generation: 1}, Scope: teamA, Spec: releases,
			Claim: core.Claim{Namespace: domain.Owner{Namespace: "team-a", UID: "n"}}, Applied: domain.Applied{User: "alice", Generation: 1},
		}
		_, err := h.PutManagedPolicy(ctx, operator, m)
		Expect(err).NotTo(HaveOccurred())
		h.mustPush(app, "v1")
		Expect(h.DeleteManagedPolicy(ctx, operator, "c", m.Manager, false)).To(Succeed())
		m.Manager.UID = "2"
		_, err = h.PutManagedPolicy(ctx, operator, m)
		Expect(err).NotTo(HaveOccurred())
		h.idle()
		Expect(h.locks(app, "v1")).To(HaveLen(2), "one lock with one reason")
		reason := h.history(app, "v1", core.HistoryQuery{}).Locks[0].Reasons[0]
		Expect(reason.By.String()).To(Equal("Kubernetes user alice with ImmutabilityPolicy team-a/releases"))
		Expect(h.DeleteManagedPolicy(ctx, operator, "c", m.Manager, false)).To(Succeed())
		h.clock.Advance(time.Hour)
		Eventually(func() []string { return h.locks(app, "v1") }).WithTimeout(patience).Should(ContainElement("  hold v.*: delete_immutability_policy 0 - now"))
		h.idle()
	})

	It("does not know what the log does not", func() {
		h.mustPush(app, "v1")
		_, err := h.History(ctx, app, "v2", core.HistoryQuery{Limit: 1})
		Expect(err).To(haveCode(domain.CodeNotFound))
	})
})

// coverage reads a policy's whole report, one tag a page, as "repository:tag cause: from - to".
func (h *harness) coverage(uuid string, q core.CoverageQuery) (list []string) {
	GinkgoHelper()
	log := h.entries()
	q.Limit = 1
	if q.Size == 0 {
		q.Size = int64(len(log))
	}
	for {
		page, err := h.PolicyCoverage(ctx, uuid, q)
		Expect(err).NotTo(HaveOccurred())
		for _, t := range page.Tags {
			name := t.Repository + ":" + t.Tag
			for _, s := range t.Locked {
				list = append(list, fmt.Sprintf("%s locked: %s - %s", name, kindAt(log, &s.From), kindAt(log, s.To)))
			}
			for _, w := range t.Unprotected {
				list = append(list, fmt.Sprintf("%s %s: %s - %s", name, w.Cause, kindAt(log, &w.From), kindAt(log, w.To)))
			}
		}
		if page.Next == nil {
			return list
		}
		q.Behind = *page.Next
	}
}

var _ = eachEngine("The report of a policy", func(h *harness) {
	other := domain.RepositoryName{Organization: "team-a", Path: "other"}
	dryRun := releases
	dryRun.EnforcementMode = domain.DryRun
	releasing := releases
	releasing.ReclaimPolicy = domain.Release

	change := func(id string, to domain.PolicySpec) {
		GinkgoHelper()
		_, err := h.UpdatePolicy(ctx, alice, teamA, id, to)
		Expect(err).NotTo(HaveOccurred())
		h.swept(teamA, id)
	}

	It("has the tags that it locked, and no window before it was there", func() {
		h.mustPush(other, "v1")
		h.mustPush(app, "v1")
		h.mustPush(app, "latest")
		p := h.mustCreate(teamA, releases)
		h.swept(teamA, p.UUID)
		h.mustPush(app, "v2")
		Expect(h.coverage(p.UUID, core.CoverageQuery{})).To(HaveExactElements(
			"app:v1 locked: create_immutability_policy 0 - now",
			"app:v2 locked: create_tag 3 - now",
			"other:v1 locked: create_immutability_policy 0 - now",
		))
	})

	It("has tags that it locked for a moment, which no sweep saw", func() {
		h.mustPush(app, "v1")
		h.gate.allow(0)
		p := h.mustCreate(teamA, releasing)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		Expect(h.coverage(p.UUID, core.CoverageQuery{})).To(HaveExactElements(
			"app:v1 locked: create_immutability_policy 0 - delete_immutability_policy 0",
			"app:v1 deleted: delete_immutability_policy 0 - now",
		))
		h.gate.open()
		h.idle()
	})

	It("has a window for a dry run, where no other policy and no hold locked the tag", func() {
		h.mustPush(app, "v1")
		h.mustPush(app, "v2")
		p := h.mustCreate(teamA, dryRun)
		Expect(h.hold(app, "v2", true)).To(Succeed())
		second := h.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, spec(`v1`))
		h.idle()
		change(p.UUID, releases)
		Expect(h.coverage(p.UUID, core.CoverageQuery{})).To(HaveExactElements(
			"app:v1 locked: update_immutability_policy 0 - now",
			"app:v1 dry_run: create_immutability_policy 0 - create_immutability_policy 1",
			"app:v2 locked: update_immutability_policy 0 - now",
			"app:v2 dry_run: create_immutability_policy 0 - change_tag_immutability 0",
		))
		// The second policy is one of a repository.
		h.mustPush(app, "w1")
		h.mustPush(other, "v1")
		Expect(h.coverage(second.UUID, core.CoverageQuery{})).To(HaveExactElements("app:v1 locked: create_immutability_policy 1 - now"))
	})

	It("has windows for names that it came to cover, or covered once, and for tags that came while it did not", func() {
		_, err := h.CreateOrganization(ctx, alice, "team-a")
		Expect(err).NotTo(HaveOccurred())
		p := h.mustCreate(teamA, spec(`v2.*`))
		h.mustPush(app, "v1")
		h.mustPush(app, "v2")
		h.mustPush(app, "other")
		change(p.UUID, releasing)
		withV1 := spec(`v1.*`)
		withV1.ReclaimPolicy = domain.Release
		change(p.UUID, withV1)
		Expect(h.DeleteTag(ctx, alice, app, "v2")).To(Succeed())
		h.mustPush(app, "v3")
		Expect(h.coverage(p.UUID, core.CoverageQuery{})).To(HaveExactElements(
			"app:v1 locked: update_immutability_policy 0 - now",
			"app:v1 not_covered: create_tag 0 - update_immutability_policy 0",
			"app:v2 locked: create_tag 1 - change_tag_immutability 1",
			"app:v2 not_covered: change_tag_immutability 1 - delete_tag 0",
			"app:v3 not_covered: create_tag 3 - now",
		))
	})

	It("has the window between a deletion and its successor, after all is gone", func() {
		h.mustPush(app, "v1")
		p := h.mustCreate(teamA, releasing)
		h.swept(teamA, p.UUID)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		h.idle()
		again := h.mustCreate(teamA, releasing)
		h.swept(teamA, again.UUID)
		Expect(h.DeletePolicy(ctx, alice, teamA, again.UUID)).To(Succeed())
		h.idle()
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(Succeed())
		Expect(h.coverage(p.UUID, core.CoverageQuery{})).To(HaveExactElements(
			"app:v1 locked: create_immutability_policy 0 - change_tag_immutability 1",
			"app:v1 deleted: change_tag_immutability 1 - create_immutability_policy 1",
			"app:v1 deleted: change_tag_immutability 3 - delete_tag 0",
		))
		Expect(h.coverage(again.UUID, core.CoverageQuery{})).To(HaveExactElements(
			"app:v1 locked: create_immutability_policy 1 - change_tag_immutability 3",
			"app:v1 deleted: change_tag_immutability 3 - delete_tag 0",
		))
	})

	It("tells of a period only", func() {
		h.mustPush(app, "v1")
		h.mustPush(app, "w1")
		p := h.mustCreate(teamA, dryRun)
		h.clock.Advance(time.Hour)
		second := h.clock.Now()
		wide := spec(`w.*`)
		change(p.UUID, wide)
		h.clock.Advance(time.Hour)
		third := h.clock.Now()
		h.mustPush(app, "w2")
		Expect(h.coverage(p.UUID, core.CoverageQuery{To: second})).To(HaveExactElements("app:v1 dry_run: create_immutability_policy 0 - now"))
		Expect(h.coverage(p.UUID, core.CoverageQuery{From: third})).To(HaveExactElements(
			"app:w1 locked: update_immutability_policy 0 - now", "app:w2 locked: create_tag 2 - now"))
	})

	It("reads long histories, and skips those of tags that the policy does not concern", func() {
		h.mustPush(app, "latest")
		ofLatest := spec(`latest`)
		ofLatest.EnforcementMode = domain.DryRun
		long := h.mustCreate(teamA, ofLatest)
		for range 1100 {
			h.mustPush(app, "latest")
		}
		Expect(h.hold(app, "latest", true)).To(Succeed())
		h.mustPush(app, "v1")
		p := h.mustCreate(teamA, releases)
		h.swept(teamA, p.UUID)
		Expect(h.coverage(p.UUID, core.CoverageQuery{})).To(HaveExactElements("app:v1 locked: create_immutability_policy 1 - now"))
		Expect(h.coverage(long.UUID, core.CoverageQuery{})).To(HaveExactElements("app:latest dry_run: create_immutability_policy 0 - change_tag_immutability 0"))
	})
})

func kindsOf(entries []audit.View) (list []audit.Kind) {
	for _, e := range entries {
		list = append(list, e.Kind)
	}
	return list
}

func firstOf(entries []audit.View, kind audit.Kind) (none audit.View) {
	for _, e := range entries {
		if e.Kind == kind {
			return e
		}
	}
	return none
}
