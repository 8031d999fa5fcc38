package core_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = eachEngine("A policy that is locked", func(h *harness) {
	const day = 24 * time.Hour
	var until time.Time
	BeforeEach(func() { until = h.clock.Now().Add(30 * day).Truncate(time.Second) })

	type specChange = func(*domain.PolicySpec)
	lockedTo := func(at time.Time) specChange { return func(s *domain.PolicySpec) { s.LockedUntil = at } }
	mode := func(m domain.EnforcementMode) specChange { return func(s *domain.PolicySpec) { s.EnforcementMode = m } }
	reclaim := func(r domain.ReclaimPolicy) specChange { return func(s *domain.PolicySpec) { s.ReclaimPolicy = r } }
	of := func(s domain.PolicySpec, changes ...specChange) domain.PolicySpec {
		for _, f := range changes {
			f(&s)
		}
		return s
	}
	lock := func(changes ...specChange) domain.PolicySpec { return of(of(releases, lockedTo(until)), changes...) }
	change := func(p domain.Policy, s domain.PolicySpec) error {
		_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, s)
		return err
	}
	current := func(uuid string) domain.Policy {
		GinkgoHelper()
		p, err := h.Policy(ctx, teamA, uuid)
		Expect(err).NotTo(HaveOccurred())
		return p
	}
	refused := haveCode(domain.CodePolicyLocked)

	DescribeTable("refuses to be weakened before its time, with an entry that says by whom and how, and takes it after",
		func(weaken func() specChange, field string) {
			h.mustPush(app, "latest")
			p := h.mustCreate(teamA, lock())
			weaker := lock(weaken())
			err := change(p, weaker)
			Expect(err).To(And(refused, MatchError(ContainSubstring("locked until "+until.Format(time.RFC3339))), MatchError(ContainSubstring(field))))
			Expect(err).To(HaveField("LockedUntil", until))
			Expect(current(p.UUID)).To(Equal(p), "nothing changed")
			entries := h.entries(audit.KindUpdatePolicyFailed)
			Expect(entries).To(HaveLen(1))
			Expect(entries[0]).To(And(HaveField("Performer", "alice"), HaveField("Policy", p.UUID), HaveField("Organization", "team-a")))
			Expect(entries[0].Metadata).To(And(HaveKeyWithValue("operation", "update"), HaveKeyWithValue("locked_until", until.Format(time.RFC3339)),
				HaveKeyWithValue("reason", ContainSubstring(field)), HaveKeyWithValue("policy_pattern", "v.*"), HaveKeyWithValue("policy_scope", "namespace")))

			h.clock.Advance(31 * day)
			Expect(change(p, weaker)).To(Succeed())
		},
		Entry("by another pattern", func() specChange { return func(s *domain.PolicySpec) { s.TagPattern = "v1" } }, "tagPattern"),
		Entry("even by a wider pattern", func() specChange { return func(s *domain.PolicySpec) { s.TagPattern = ".*" } }, "tagPattern"),
		Entry("by the opposite selection", func() specChange { return func(s *domain.PolicySpec) { s.TagPatternMatches = false } }, "tagPatternMatches"),
		Entry("by a dry run", func() specChange {
			return func(s *domain.PolicySpec) { s.EnforcementMode, s.LockedUntil = domain.DryRun, time.Time{} }
		}, "enforcementMode"),
		Entry("by Release", func() specChange { return reclaim(domain.Release) }, "reclaimPolicy"),
		Entry("by an earlier time", func() specChange { return lockedTo(until.Add(-time.Second)) }, "lockedUntil"),
		Entry("by no time", func() specChange { return lockedTo(time.Time{}) }, "lockedUntil"),
	)

	It("can be strengthened and extended; a later time is an entry, and neither a revision nor a sweep", func() {
		h.mustPush(app, "v1")
		p := h.mustCreate(teamA, lock(reclaim(domain.Release)))
		h.swept(teamA, p.UUID)
		sweeps := len(h.swept(teamA, p.UUID).Sweeps)
		later := until.Add(day)
		Expect(change(p, lock(reclaim(domain.Release), lockedTo(later)))).To(Succeed())
		Expect(current(p.UUID)).To(And(HaveField("LockedUntil", later), HaveField("Revision", p.Revision)))
		Expect(h.swept(teamA, p.UUID).Sweeps).To(HaveLen(sweeps))
		updates := h.entries(audit.KindUpdatePolicy)
		Expect(updates).To(HaveLen(1))
		Expect(updates[0].Metadata).To(And(HaveKeyWithValue("locked_until", later.Format(time.RFC3339)), HaveKeyWithValue("previous_locked_until", until.Format(time.RFC3339)), Not(HaveKey("previous_tag_pattern"))))

		Expect(change(p, lock(lockedTo(later)))).To(Succeed(), "Retain holds more than Release")
		Expect(change(p, lock(reclaim(domain.Release), lockedTo(later)))).To(refused)
		Expect(change(p, lock(lockedTo(later)))).To(Succeed(), "what is there already")
		_, err := h.CreatePolicy(ctx, alice, teamA, spec("r.*"))
		Expect(err).NotTo(HaveOccurred(), "another policy covers more")
	})

	It("is not deleted before its time, neither by itself nor with its organization", func() {
		h.mustPush(app, "latest")
		p := h.mustCreate(teamA, lock())
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(And(refused, MatchError(ContainSubstring(until.Format(time.RFC3339)))))
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(And(refused, MatchError(ContainSubstring("organization team-a"))))
		Expect(h.DeleteRepository(ctx, alice, app)).To(Succeed(), "no tag in it is locked; the policy goes on for who uses the name again")
		Expect(current(p.UUID)).To(Equal(p))
		Expect(h.entries(audit.KindDeletePolicyFailed)).To(HaveLen(1))
		Expect(h.entries(audit.KindDeleteOrgFailed)).To(ConsistOf(HaveField("Policy", p.UUID)))

		h.clock.Advance(31 * day)
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
	})

	It("counts repeats of an attempt", func() {
		h.with(func(o *core.Options) { o.RefusalWindow = 200 * time.Millisecond })
		h.mustPush(app, "latest")
		p := h.mustCreate(teamA, lock())
		for range 3 {
			Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(refused)
		}
		h.clock.Advance(time.Second)
		Eventually(func() []any { return metadataOf(h.entries(audit.KindDeletePolicyFailed), "count") }).WithTimeout(patience).Should(HaveExactElements(BeNil(), BeNumerically("==", 2)))
	})

	It("is locked for five years at most, or as long as the settings say, and not by a dry run", func() {
		h.mustPush(app, "latest")
		at := func(d time.Duration) domain.PolicySpec { return of(releases, lockedTo(h.clock.Now().Add(d))) }
		_, err := h.CreatePolicy(ctx, alice, teamA, at(1828*day))
		Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("1827 days at most"))))
		_, err = h.CreatePolicy(ctx, alice, teamA, lock(mode(domain.DryRun)))
		Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError("lockedUntil needs enforcementMode Enforce")))
		p := h.mustCreate(teamA, at(1826*day))
		Expect(change(p, of(p.PolicySpec, lockedTo(p.LockedUntil.Add(10*day))))).To(haveCode(domain.CodeInvalid))

		h.with(func(o *core.Options) { o.MaxLock = day })
		_, err = h.CreatePolicy(ctx, alice, core.Scope{Organization: "team-a", Repository: "app"}, at(25*time.Hour))
		Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError(ContainSubstring("1 days at most"))))
		Expect(change(p, p.PolicySpec)).To(Succeed(), "what was taken before stays")
	})

	It("takes a time that has passed, which locks nothing", func() {
		h.mustPush(app, "latest")
		past := h.clock.Now().Add(-time.Hour)
		p := h.mustCreate(teamA, lock(lockedTo(past)))
		Expect(p.Locked(h.clock.Now())).To(BeFalse())
		Expect(change(p, spec("v1"))).To(Succeed())
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
	})

	Describe("and that a Kubernetes object manages", func() {
		spec := func(s domain.PolicySpec) func(*core.ManagedPolicy) {
			return func(m *core.ManagedPolicy) { m.Spec = s }
		}
		by := func(user string, generation int64) func(*core.ManagedPolicy) {
			return func(m *core.ManagedPolicy) {
				m.Applied = domain.Applied{User: user, UserUID: user + "-uid", Generation: generation}
			}
		}
		put := func(m core.ManagedPolicy) (domain.Policy, error) {
			status, err := h.PutManagedPolicy(ctx, operator, m)
			return status.Policy, err
		}
		mustPut := func(m core.ManagedPolicy) domain.Policy {
			GinkgoHelper()
			p, err := put(m)
			Expect(err).NotTo(HaveOccurred())
			return p
		}
		remove := func(uid string, namespaceGoes bool) error {
			return h.DeleteManagedPolicy(ctx, operator, cluster, managed(uid, 1).Manager, namespaceGoes)
		}

		It("refuses what gets past admission, with one entry for each generation that names who applied it", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			for range 3 {
				_, err := put(changed(managed("u1", 2), spec(lock(mode(domain.DryRun), lockedTo(time.Time{}))), by("mallory", 2)))
				Expect(err).To(refused)
			}
			_, err := put(changed(managed("u1", 3), spec(lock(lockedTo(time.Time{})))))
			Expect(err).To(refused)
			entries := h.entries(audit.KindUpdatePolicyFailed)
			Expect(metadataOf(entries, "applied_by")).To(Equal([]any{"mallory", "unknown"}))
			Expect(entries[0].Metadata).To(And(HaveKeyWithValue("reason", ContainSubstring("enforcementMode: a locked policy stays Enforce; lockedUntil")), HaveKey("managed_by")))
			Expect(current(p.UUID).PolicySpec).To(Equal(p.PolicySpec))

			extended := lock(lockedTo(until.Add(day)))
			Expect(mustPut(changed(managed("u1", 4), spec(extended))).LockedUntil).To(Equal(until.Add(day)))
			h.clock.Advance(40 * day)
			Expect(mustPut(changed(managed("u1", 5), spec(releases))).LockedUntil).To(BeZero())
		})

		It("is not moved by an object of the same name for another scope, and is taken over by one for the same", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			elsewhere := func(m *core.ManagedPolicy) { m.Scope.Repository = "app" }
			_, err := put(changed(managed("u2", 1), spec(lock()), elsewhere))
			Expect(err).To(And(refused, MatchError(ContainSubstring("it covers organization team-a and cannot move"))))
			_, err = put(changed(managed("u2", 1)))
			Expect(err).To(refused)
			Expect(mustPut(changed(managed("u2", 1), spec(lock()))).UUID).To(Equal(p.UUID))
		})

		It("refuses the deletion of its object, once in the log, until its time", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			Expect(h.NoteDeletionIntent(ctx, operator, *p.Manager, "mallory", "")).To(Succeed())
			for range 2 {
				Expect(remove("u1", false)).To(And(refused, MatchError(ContainSubstring("it cannot be deleted before that time, and stays in force"))))
			}
			Expect(metadataOf(h.entries(audit.KindDeletePolicyFailed), "applied_by")).To(Equal([]any{"mallory"}))
			Expect(current(p.UUID).DeleteAt).To(BeZero())
			Expect(remove("another", false)).To(Succeed(), "a no-op")

			h.clock.Advance(31 * day)
			Expect(remove("u1", false)).To(Succeed())
			Expect(current(p.UUID).DeleteAt).NotTo(BeZero())
		})

		It("stays as an orphan where its object goes with the namespace, which its organization adopts and nobody deletes", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			for range 2 {
				Expect(remove("u1", true)).To(Succeed())
			}
			Expect(current(p.UUID)).To(And(HaveField("Orphaned", true), HaveField("DeleteAt", BeZero())))
			updates := h.entries(audit.KindUpdatePolicy)
			Expect(updates).To(HaveLen(1))
			Expect(updates[0].Metadata).To(And(HaveKeyWithValue("orphaned", true), HaveKeyWithValue("namespace_deleted", true), HaveKeyWithValue("applied_by", "unknown")))
			Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(refused)
			h.mustPush(app, "v1")
			_, err := h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeTagImmutable))

			Expect(h.AdoptPolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
			Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(refused)
			Expect(change(p, lock(mode(domain.DryRun), lockedTo(time.Time{})))).To(refused)
		})

		It("stays as an orphan where the finalizer was removed by hand", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
			Expect(current(p.UUID).Orphaned).To(BeTrue())
			Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(refused)
			Expect(mustPut(changed(managed("u2", 1), spec(lock())))).To(And(HaveField("UUID", p.UUID), HaveField("Orphaned", false)))
		})

		It("stays locked where its namespace lost the organization", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			Expect(h.AdoptCluster(ctx, alice, cluster)).To(Succeed())
			claim := func(m *core.ManagedPolicy) {
				m.Claim.Namespace = domain.Owner{Namespace: "other", UID: "ns-o"}
				m.Claim.Organizations = []string{"team-a"}
			}
			other := changed(managed("u9", 1), claim)
			other.Manager.Namespace = "other"
			mustPut(other)
			_, err := put(changed(managed("u1", 2), spec(lock())))
			Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
			Expect(current(p.UUID).Lost).To(BeTrue())
			Expect(remove("u1", false)).To(refused)
		})

		It("records what admission refused, repeats counted for each user, and nothing of another object", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			note := func(m domain.ManagedBy, user string, deletes bool) {
				GinkgoHelper()
				Expect(h.NoteRefusedChange(ctx, operator, m, core.RefusedChange{Delete: deletes, User: user, UserUID: user + "-uid", Reason: "it is locked"})).To(Succeed())
			}
			note(*p.Manager, "mallory", true)
			note(*p.Manager, "mallory", true)
			note(*p.Manager, "carol", true)
			note(*p.Manager, "mallory", false)
			another := *p.Manager
			another.UID = "another"
			note(another, "mallory", true)
			another.Name = "nothing"
			note(another, "mallory", true)
			entries := h.entries(audit.KindDeletePolicyFailed)
			Expect(metadataOf(entries, "applied_by")).To(Equal([]any{"mallory", "carol"}))
			Expect(entries[0].Metadata).To(And(HaveKeyWithValue("applied_by_uid", "mallory-uid"), HaveKeyWithValue("reason", "it is locked"), HaveKeyWithValue("policy_uuid", p.UUID)))
			Expect(metadataOf(h.entries(audit.KindUpdatePolicyFailed), "applied_by")).To(Equal([]any{"mallory"}))
			Expect(h.NoteRefusedChange(ctx, operator, *p.Manager, core.RefusedChange{User: "x", Reason: "line\nbreak"})).To(haveCode(domain.CodeInvalid))
		})

		It("is unlocked by hand with an entry that says why, stays in force, and is not locked again by the same declaration", func() {
			p := mustPut(changed(managed("u1", 1), spec(lock())))
			for _, reason := range []string{"", "  "} {
				_, err := h.UnlockPolicy(ctx, domain.System, p.UUID, reason)
				Expect(err).To(haveCode(domain.CodeInvalid))
			}
			unlocked, err := h.UnlockPolicy(ctx, domain.System, p.UUID, "the pattern was wrong")
			Expect(err).NotTo(HaveOccurred())
			Expect(unlocked.LockedUntil).To(Equal(until))
			entries := h.entries(audit.KindUnlockPolicy)
			Expect(entries).To(HaveLen(1))
			Expect(entries[0].Metadata).To(And(HaveKeyWithValue("reason", "the pattern was wrong"), HaveKeyWithValue("locked_until", until.Format(time.RFC3339)), HaveKeyWithValue("policy_uuid", p.UUID), HaveKey("managed_by")))
			_, err = h.UnlockPolicy(ctx, domain.System, p.UUID, "again")
			Expect(err).To(haveCode(domain.CodeConflict))
			_, err = h.UnlockPolicy(ctx, domain.System, "nothing", "why")
			Expect(err).To(haveCode(domain.CodeNotFound))

			again := mustPut(changed(managed("u1", 1), spec(lock())))
			Expect(again.Locked(h.clock.Now())).To(BeFalse())
			Expect(again.LockedUntil).To(Equal(until))
			h.mustPush(app, "v1")
			_, err = h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeTagImmutable), "the policy is in force")

			later := mustPut(changed(managed("u1", 2), spec(lock(lockedTo(until.Add(time.Second))))))
			Expect(later.Locked(h.clock.Now())).To(BeTrue(), "a later time is another lock")
		})
	})
})
