package core_test

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

const cluster = "cluster-1"

var namespaceA = domain.Owner{Namespace: "team-a", UID: "ns-a"}

// managed is the policy of an object "releases" in namespace team-a.
func managed(uid string, generation int64) core.ManagedPolicy {
	return core.ManagedPolicy{
		Cluster: cluster,
		Manager: domain.ManagedBy{Kind: "ImmutabilityPolicy", Namespace: "team-a", Name: "releases", UID: uid, Generation: generation},
		Scope:   teamA, Spec: releases, Claim: core.Claim{Namespace: namespaceA},
	}
}

func changed(m core.ManagedPolicy, changes ...func(*core.ManagedPolicy)) core.ManagedPolicy {
	for _, change := range changes {
		change(&m)
	}
	return m
}

var _ = eachEngine("A policy that a Kubernetes object manages", func(h *harness) {
	put := func(m core.ManagedPolicy) (core.PolicyStatus, error) { return h.PutManagedPolicy(ctx, operator, m) }
	mustPut := func(m core.ManagedPolicy) domain.Policy {
		GinkgoHelper()
		status, err := put(m)
		Expect(err).NotTo(HaveOccurred())
		return status.Policy
	}
	remove := func(uid string) {
		GinkgoHelper()
		Expect(h.DeleteManagedPolicy(ctx, operator, cluster, managed(uid, 1).Manager, false)).To(Succeed())
	}
	pattern := func(text string) func(*core.ManagedPolicy) {
		return func(m *core.ManagedPolicy) { m.Spec.TagPattern = text }
	}

	It("is put idempotently and follows the object", func() {
		p := mustPut(managed("u1", 1))
		Expect(mustPut(managed("u1", 1))).To(Equal(p))
		changedTo := mustPut(changed(managed("u1", 2), pattern("r.*")))
		Expect(changedTo.UUID).To(Equal(p.UUID))
		Expect(changedTo.Revision).To(Equal(int64(2)))
		Expect(h.entries(audit.KindCreatePolicy)).To(HaveLen(1))
		Expect(h.entries(audit.KindUpdatePolicy)).To(HaveLen(1))
		o, err := h.Organization(ctx, "team-a")
		Expect(err).NotTo(HaveOccurred())
		Expect(o.Owner).To(Equal(namespaceA))
	})

	It("cannot be changed through the REST API", func() {
		p := mustPut(managed("u1", 1))
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(And(haveCode(domain.CodeManagedByResource), MatchError(ContainSubstring("ImmutabilityPolicy team-a/releases"))))
		_, err := h.UpdatePolicy(ctx, alice, teamA, p.UUID, spec("x"))
		Expect(err).To(haveCode(domain.CodeManagedByResource))
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(haveCode(domain.CodeManagedByResource))
	})

	It("gives up retained holds by a release, though the REST API may not change it", func() {
		h.mustPush(domain.RepositoryName{Organization: "team-b", Path: "x"}, "latest")
		p := mustPut(managed("u1", 1))
		h.mustPush(app, "v1")
		h.mustPush(app, "v2")
		mustPut(changed(managed("u1", 2), pattern("v2")))
		h.swept(teamA, p.UUID)
		Expect(h.locked(app, "v1")).To(BeTrue())
		Expect(h.ReleasePolicy(ctx, alice, teamA, p.UUID)).To(Equal(1))
		Expect(h.locked(app, "v1")).To(BeFalse())
		Expect(h.locked(app, "v2")).To(BeTrue())
	})

	It("is fenced against an old leader, unless the API server was rewound", func() {
		mustPut(changed(managed("u1", 5), pattern("new")))
		_, err := put(managed("u1", 4))
		Expect(err).To(haveCode(domain.CodeStale))
		p := mustPut(changed(managed("u1", 4), func(m *core.ManagedPolicy) { m.Rewound = true }))
		Expect(p.TagPattern).To(Equal("v.*"))
	})

	It("belongs to one cluster until it is handed over", func() {
		p := mustPut(managed("u1", 1))
		other := changed(managed("u9", 1), func(m *core.ManagedPolicy) { m.Cluster, m.Claim.Namespace.UID = "cluster-2", "ns-a2" })
		_, err := put(other)
		Expect(err).To(haveCode(domain.CodeOtherCluster))
		Expect(h.Synced(ctx, operator, "cluster-2", nil)).To(haveCode(domain.CodeOtherCluster))
		Expect(h.AdoptCluster(ctx, alice, "cluster-2")).To(Succeed())
		Expect(mustPut(other).UUID).To(Equal(p.UUID), "the namespace takes over by name in the first sync")
		_, err = put(managed("u1", 1))
		Expect(err).To(haveCode(domain.CodeOtherCluster))
		Expect(h.entries(audit.KindAdoptCluster)).To(HaveLen(1))
	})

	Describe("that somebody applied", func() {
		by := func(user string, generation int64) func(*core.ManagedPolicy) {
			return func(m *core.ManagedPolicy) {
				m.Applied = domain.Applied{User: user, UserUID: user + "-uid", Generation: generation}
			}
		}
		claiming := func(revision string) func(*core.ManagedPolicy) {
			return func(m *core.ManagedPolicy) { m.Manager.RevisionClaimed = revision }
		}
		// last is what the latest entry about the policy itself says.
		last := func() map[string]any {
			GinkgoHelper()
			entries := h.entries(audit.KindCreatePolicy, audit.KindUpdatePolicy, audit.KindDeletePolicy)
			Expect(entries).NotTo(BeEmpty())
			return entries[len(entries)-1].Metadata
		}
		applied := func(user string, generation int) OmegaMatcher {
			return And(HaveKeyWithValue("applied_by", user), HaveKeyWithValue("applied_by_uid", user+"-uid"), HaveKeyWithValue("generation", BeNumerically("==", generation)))
		}

		It("names them, with what the object claims and with the values old and new", func() {
			mustPut(changed(managed("u1", 1), by("bob", 1), claiming("main@sha1:1")))
			Expect(last()).To(And(applied("bob", 1), HaveKeyWithValue("revision_claimed", "main@sha1:1"), HaveKeyWithValue("tag_pattern", "v.*"), Not(HaveKey("unseen_generations"))))
			mustPut(changed(managed("u1", 2), by("carol", 2), claiming("main@sha1:2"), pattern("r.*")))
			Expect(last()).To(And(applied("carol", 2), HaveKeyWithValue("revision_claimed", "main@sha1:2"),
				HaveKeyWithValue("previous_tag_pattern", "v.*"), HaveKeyWithValue("tag_pattern", "r.*"), HaveKeyWithValue("revision", BeNumerically("==", 2))))

			Expect(h.NoteDeletionIntent(ctx, operator, managed("u1", 2).Manager, "dave", "dave-uid")).To(Succeed())
			remove("u1")
			Expect(last()).To(And(applied("dave", 2), HaveKeyWithValue("revision_claimed", "main@sha1:2"), HaveKeyWithValue("deletion_requested", true)))
			mustPut(changed(managed("u2", 1), by("erin", 1), pattern("r.*")))
			Expect(last()).To(And(applied("erin", 1), HaveKeyWithValue("adopted_from_uid", "u1"), HaveKeyWithValue("deletion_withdrawn", true), Not(HaveKey("revision_claimed"))))
		})

		It("writes nothing again for a generation that is here, whatever it claims by now", func() {
			mustPut(changed(managed("u1", 1), by("bob", 1), claiming("one")))
			before := len(h.entries())
			mustPut(changed(managed("u1", 1), by("bob", 1), claiming("two")))
			mustPut(changed(managed("u1", 1), by("mallory", 1)))
			Expect(h.entries()).To(HaveLen(before))
			remove("u1")
			Expect(last()).To(HaveKeyWithValue("revision_claimed", "one"))
		})

		It("names nobody by the stamp of another generation, or without one", func() {
			unknown := And(HaveKeyWithValue("applied_by", "unknown"), Not(HaveKey("applied_by_uid")))
			mustPut(managed("u1", 1))
			Expect(last()).To(And(unknown, HaveKeyWithValue("generation", BeNumerically("==", 1))))
			mustPut(changed(managed("u1", 2), by("bob", 1), pattern("r.*")))
			Expect(last()).To(And(unknown, HaveKeyWithValue("generation", BeNumerically("==", 2))))
			mustPut(changed(managed("u1", 3), by("bob", 4), pattern("x")))
			Expect(last()).To(unknown)
			mustPut(changed(managed("u1", 4), func(m *core.ManagedPolicy) { m.Applied = domain.Applied{User: "bob", Generation: 4} }))
			Expect(last()).To(And(HaveKeyWithValue("applied_by", "bob"), Not(HaveKey("applied_by_uid"))))
		})

		It("tells of each generation that comes, and which ones never came", func() {
			skipped := func(generation int64, change ...func(*core.ManagedPolicy)) any {
				GinkgoHelper()
				mustPut(changed(changed(managed("u1", generation), by("bob", generation)), change...))
				Expect(last()).To(applied("bob", int(generation)))
				return last()["unseen_generations"]
			}
			Expect(skipped(3)).To(Equal("1-2"), "the first that comes")
			Expect(skipped(4, pattern("r.*"))).To(BeNil())
			Expect(skipped(6, pattern("x"))).To(Equal("5"))
			Expect(skipped(10, pattern("x"))).To(Equal("7-9"), "though nothing is different")
			Expect(last()).To(And(HaveKeyWithValue("revision", BeNumerically("==", 3)), Not(HaveKey("tag_pattern"))))
			Expect(skipped(11, pattern("x"))).To(BeNil())
			Expect(skipped(8, pattern("y"), func(m *core.ManagedPolicy) { m.Rewound = true })).To(BeNil())
			Expect(last()).To(HaveKeyWithValue("rewound_from_generation", BeNumerically("==", 11)))
			mustPut(changed(managed("u2", 2), by("carol", 2), pattern("y")))
			Expect(last()).To(And(applied("carol", 2), HaveKeyWithValue("unseen_generations", "1")))
			mustPut(changed(managed("u2", 4), by("carol", 4), func(m *core.ManagedPolicy) { m.Scope.Repository = "app" }))
			Expect(last()).To(And(applied("carol", 4), HaveKeyWithValue("unseen_generations", "3")), "of another scope")
			Expect(h.entries(audit.KindDeletePolicy)).To(ConsistOf(HaveField("Metadata", HaveKeyWithValue("applied_by", "carol"))))
		})

		It("keeps the name out of the leaf", func() {
			record, err := audit.Encode("origin", audit.Entry{Kind: audit.KindCreatePolicy, Metadata: audit.Metadata{"applied_by": "carol", "applied_by_uid": "carol-uid"}})
			Expect(err).NotTo(HaveOccurred())
			Expect(string(record.Leaf)).NotTo(ContainSubstring("carol"))
			Expect(string(record.Personal)).To(And(ContainSubstring(`"carol"`), ContainSubstring(`"carol-uid"`)))
		})

		DescribeTable("is refused with a claim that is", func(revision string) {
			_, err := put(changed(managed("u1", 1), claiming(revision)))
			Expect(err).To(And(haveCode(domain.CodeInvalid), MatchError("the claimed revision is not at most 256 printable characters")))
			mustPut(changed(managed("u1", 1), claiming(strings.Repeat("é", 256))))
		},
			Entry("too long", strings.Repeat("é", 257)),
			Entry("not printable", "main\n"),
		)
	})

	Describe("whose deletion somebody asked for", func() {
		intend := func(uid, user string) {
			GinkgoHelper()
			Expect(h.NoteDeletionIntent(ctx, operator, managed(uid, 1).Manager, user, user+"-uid")).To(Succeed())
		}
		requested := func() map[string]any {
			GinkgoHelper()
			entries := h.entries(audit.KindUpdatePolicy)
			Expect(entries).NotTo(BeEmpty())
			last := entries[len(entries)-1].Metadata
			Expect(last).To(HaveKeyWithValue("deletion_requested", true))
			return last
		}

		It("names them when it is accepted and when it takes effect", func() {
			mustPut(managed("u1", 1))
			intend("u1", "bob")
			intend("u1", "carol")
			intend("another", "mallory")
			remove("u1")
			Expect(requested()).To(And(HaveKeyWithValue("applied_by", "carol"), HaveKeyWithValue("applied_by_uid", "carol-uid")))
			intend("u1", "mallory")
			h.clock.Advance(5 * time.Minute)
			h.with(func(*core.Options) {})
			Eventually(func() []audit.View { return h.entries(audit.KindDeletePolicy) }).WithTimeout(patience).Should(ConsistOf(
				HaveField("Metadata", And(HaveKeyWithValue("applied_by", "carol"), HaveKeyWithValue("applied_by_uid", "carol-uid")))))
		})

		It("names nobody by an intent that is old or was taken back", func() {
			mustPut(managed("u1", 1))
			intend("u1", "carol")
			h.clock.Advance(5*time.Minute + time.Second)
			remove("u1")
			Expect(requested()).To(And(HaveKeyWithValue("applied_by", "unknown"), Not(HaveKey("applied_by_uid"))))

			mustPut(managed("u2", 1))
			intend("u2", "carol")
			remove("u2")
			mustPut(managed("u3", 1))
			remove("u3")
			Expect(requested()).To(HaveKeyWithValue("applied_by", "unknown"))
		})

		It("has no name where nobody can have asked", func() {
			p := mustPut(managed("u1", 1))
			Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
			Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
			Expect(h.entries(audit.KindDeletePolicy)).To(ConsistOf(HaveField("Metadata", Not(HaveKey("applied_by")))))
		})
	})

	It("stays in force for the deletion delay and is then deleted by its reclaim policy", func() {
		p := mustPut(managed("u1", 1))
		h.mustPush(app, "v1")
		remove("another")
		remove("u1")
		h.mustPush(app, "v2")
		Expect(h.locked(app, "v2")).To(BeTrue())
		h.clock.Advance(5 * time.Minute)
		h.with(func(*core.Options) {}) // the delay is kept over a restart
		Eventually(func() []audit.View { return h.entries(audit.KindDeletePolicy) }).WithTimeout(patience).Should(HaveLen(1))
		h.mustPush(app, "v3")
		Expect(h.locked(app, "v3")).To(BeFalse())
		Expect(h.locked(app, "v1")).To(BeTrue(), "Retain")
		_, err := put(managed("u1", 1))
		Expect(err).To(haveCode(domain.CodeStale), "the UID of a deleted object")
		Expect(mustPut(managed("u2", 1)).UUID).NotTo(Equal(p.UUID), "later it is a new policy")
	})

	It("is taken over by an object of the same name within the delay", func() {
		p := mustPut(managed("u1", 1))
		remove("u1")
		Expect(mustPut(managed("u2", 1)).UUID).To(Equal(p.UUID))
		h.clock.Advance(time.Hour)
		h.with(func(*core.Options) {})
		h.mustPush(app, "v1")
		Expect(h.locked(app, "v1")).To(BeTrue(), "the deletion is withdrawn")
		_, err := put(managed("u1", 1))
		Expect(err).To(haveCode(domain.CodeStale))
	})

	It("is replaced where an object of the same name has another scope", func() {
		p := mustPut(managed("u1", 1))
		q := mustPut(changed(managed("u2", 1), func(m *core.ManagedPolicy) { m.Scope.Repository = "app" }))
		Expect(q.UUID).NotTo(Equal(p.UUID))
		_, err := h.Policy(ctx, teamA, p.UUID)
		Expect(err).To(haveCode(domain.CodeNotFound))
	})

	It("is orphaned when its object is gone without a delete, and can be adopted or deleted then", func() {
		p := mustPut(managed("u1", 1))
		Expect(h.Synced(ctx, operator, cluster, []domain.ManagedBy{managed("u1", 7).Manager})).To(Succeed())
		Expect(h.AdoptPolicy(ctx, alice, teamA, p.UUID)).To(haveCode(domain.CodeConflict))
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		h.mustPush(app, "v1")
		Expect(h.locked(app, "v1")).To(BeTrue(), "it stays in force")
		Expect(h.AdoptPolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
		Expect(h.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
	})

	It("is managed again when its object comes back, with an entry that says so", func() {
		p := mustPut(managed("u1", 1))
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		Expect(mustPut(managed("u1", 1)).UUID).To(Equal(p.UUID))
		Expect(h.AdoptPolicy(ctx, alice, teamA, p.UUID)).To(haveCode(domain.CodeConflict))
		mustPut(managed("u1", 1))
		Expect(metadataOf(h.entries(audit.KindUpdatePolicy), "orphaned")).To(Equal([]any{true, false}))
	})

	Describe("under an operator", func() {
		It("is here before any client may write", func() {
			h.with(func(o *core.Options) { o.RequireSync = true })
			_, err := h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeUnavailable))
			mustPut(managed("u1", 1))
			_, err = h.push(app, "v1")
			Expect(err).To(haveCode(domain.CodeUnavailable))
			Expect(h.Synced(ctx, operator, cluster, []domain.ManagedBy{managed("u1", 1).Manager})).To(Succeed())
			h.mustPush(app, "v1")
			Expect(h.locked(app, "v1")).To(BeTrue())
			h.with(func(*core.Options) {})
			h.mustPush(app, "v2")
		})
	})

	Describe("needs a claim to its organization", func() {
		claim := func(namespace, uid string, organizations ...string) func(*core.ManagedPolicy) {
			return func(m *core.ManagedPolicy) {
				m.Manager.Namespace, m.Manager.UID = namespace, "object-in-"+uid
				m.Claim = core.Claim{Namespace: domain.Owner{Namespace: namespace, UID: uid}, Organizations: organizations}
			}
		}
		gone := func(o domain.Owner) func(*core.ManagedPolicy) {
			return func(m *core.ManagedPolicy) { m.Claim.Gone = &o }
		}
		refused := func(m core.ManagedPolicy) *domain.Error {
			GinkgoHelper()
			_, err := put(m)
			Expect(err).To(haveCode(domain.CodeOrganizationNotOwned))
			return err.(*domain.Error)
		}
		owner := func() domain.Owner {
			GinkgoHelper()
			o, err := h.Organization(ctx, "team-a")
			Expect(err).NotTo(HaveOccurred())
			return o.Owner
		}

		It("by name: only a new one or its own", func() {
			_, err := h.CreateOrganization(ctx, alice, "team-a")
			Expect(err).NotTo(HaveOccurred())
			refused(managed("u1", 1))
			mustPut(changed(managed("u1", 1), claim("team-a", "ns-a", "team-a")))
			Expect(owner()).To(Equal(namespaceA))
			refused(changed(managed("u1", 1), claim("team-a", "recreated")))
		})

		It("by annotation: a free one, or one whose owner is gone", func() {
			refused(changed(managed("u1", 1), claim("other", "ns-o", "team-b")))
			mustPut(managed("u1", 1))
			e := refused(changed(managed("u1", 1), claim("other", "ns-o", "team-a")))
			Expect(*e.Owner).To(Equal(namespaceA))
			refused(changed(managed("u1", 1), claim("other", "ns-o", "team-a"), gone(domain.Owner{Namespace: "team-a", UID: "someone"})))
			mustPut(changed(managed("u1", 1), claim("other", "ns-o", "team-a"), gone(namespaceA)))
			Expect(owner()).To(Equal(domain.Owner{Namespace: "other", UID: "ns-o"}))
			Expect(h.entries(audit.KindOrgOwner)[0].Metadata).To(And(HaveKeyWithValue("owner_namespace", "other"), HaveKeyWithValue("previous_owner_namespace", "team-a")))
		})

		It("by annotation: as long as there is one, and then it is free for another", func() {
			org := func(m *core.ManagedPolicy) { m.Scope.Organization = "team-a-mirror" }
			mustPut(changed(managed("u1", 1), claim("team-a", "ns-a", "team-a-mirror"), org))
			e := refused(changed(managed("u1", 1), claim("team-a", "ns-a"), org))
			Expect(e.Message).To(ContainSubstring("annotate the namespace with registry.tidelock.dev/organizations: team-a-mirror"))
			Expect(e.Owner).To(BeNil())
			refused(changed(managed("u1", 1), claim("team-a", "ns-a"), org))
			Expect(metadataOf(h.entries(audit.KindOrgOwner), "previous_owner_namespace")).To(Equal([]any{"team-a"}), "said once")
			o, err := h.Organization(ctx, "team-a-mirror")
			Expect(err).NotTo(HaveOccurred())
			Expect(o.Owner).To(Equal(domain.Owner{}))

			mustPut(changed(managed("u1", 1), claim("other", "ns-o", "team-a-mirror"), org))
			refused(changed(managed("u1", 1), claim("team-a", "ns-a", "team-a-mirror"), org))
			Expect(metadataOf(h.entries(audit.KindUpdatePolicy), "lost")).To(Equal([]any{true}))
		})

		It("by its own name: also without an annotation that it had", func() {
			mustPut(changed(managed("u1", 1), claim("team-a", namespaceA.UID, "team-a")))
			mustPut(changed(managed("u1", 1), claim("team-a", namespaceA.UID)))
			Expect(owner()).To(Equal(namespaceA))
		})

		It("by *: policies go on where an owner has given the organization up for it", func() {
			org := func(m *core.ManagedPolicy) { m.Scope.Organization = "team-a-mirror" }
			mustPut(changed(managed("u1", 1), claim("team-a", "ns-a", "team-a-mirror"), org))
			mustPut(changed(managed("u1", 1), claim("team-a", "ns-a", "*"), org))
			o, err := h.Organization(ctx, "team-a-mirror")
			Expect(err).NotTo(HaveOccurred())
			Expect(o.Owner).To(Equal(domain.Owner{}))
		})

		It("by *: policies, never ownership", func() {
			mustPut(managed("u1", 1))
			mustPut(changed(managed("u1", 1), claim("platform", "ns-p", "*")))
			Expect(owner()).To(Equal(namespaceA))
			mustPut(changed(managed("u1", 1), claim("platform", "ns-p", "*"), func(m *core.ManagedPolicy) { m.Manager.Name, m.Scope.Organization = "new", "fresh" }))
			o, err := h.Organization(ctx, "fresh")
			Expect(err).NotTo(HaveOccurred())
			Expect(o.Owner).To(Equal(domain.Owner{}))
		})

		It("and says when it has one again", func() {
			mustPut(managed("u1", 1))
			mustPut(changed(managed("u1", 1), claim("other", "ns-o", "team-a"), gone(namespaceA)))
			refused(managed("u1", 1))
			mustPut(changed(managed("u1", 1), claim("team-a", namespaceA.UID, "*")))
			mustPut(changed(managed("u1", 1), claim("team-a", namespaceA.UID, "*")))
			Expect(metadataOf(h.entries(audit.KindUpdatePolicy), "lost")).To(Equal([]any{true, false}))
		})

		It("and stays in force when it is lost, deletable only as Retain", func() {
			release := func(m *core.ManagedPolicy) { m.Spec.ReclaimPolicy = domain.Release }
			mustPut(changed(managed("u1", 1), release))
			h.mustPush(app, "v1")
			mustPut(changed(managed("u1", 1), claim("other", "ns-o", "team-a"), gone(namespaceA)))
			refused(changed(managed("u1", 2), pattern("x")))
			refused(changed(managed("u1", 2), pattern("x")))
			Expect(metadataOf(h.entries(audit.KindUpdatePolicy), "lost")).To(Equal([]any{true}), "said once")
			remove("u1")
			Expect(h.DeleteManagedPolicy(ctx, operator, cluster, changed(managed("", 1), claim("other", "ns-o")).Manager, false)).To(Succeed())
			h.clock.Advance(time.Hour)
			h.with(func(*core.Options) {})
			Eventually(func() []audit.View { return h.entries(audit.KindDeletePolicy) }).WithTimeout(patience).Should(HaveLen(2))
			h.idle()
			Expect(h.locked(app, "v1")).To(BeTrue())
		})
	})
})
