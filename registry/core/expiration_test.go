package core_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// expire lets a tag expire in an hour and returns when that is.
func (h *harness) expire(name domain.RepositoryName, tag string) (time.Time, error) {
	at := h.clock.Now().Add(time.Hour).Truncate(time.Second)
	return at, h.ChangeTag(ctx, alice, name, tag, core.TagChange{Expiration: &at})
}

// expiration is when a tag expires, as the list of tags shows it.
func (h *harness) expiration(name domain.RepositoryName, tag string) time.Time {
	GinkgoHelper()
	views, err := h.ListTags(ctx, name, core.TagQuery{Tag: tag})
	Expect(err).NotTo(HaveOccurred())
	Expect(views).To(HaveLen(1))
	return views[0].ExpiresAt
}

// gone waits until a tag is no longer there.
func (h *harness) gone(name domain.RepositoryName, tag string) {
	GinkgoHelper()
	Eventually(func() digest.Digest { return h.tag(name, tag) }).WithTimeout(patience).Should(BeEmpty())
}

var _ = eachEngine("An expiration", func(h *harness) {
	It("deletes the tag once it has come, with an entry", func() {
		d := h.mustPush(app, "nightly")
		h.mustPush(app, "stays")
		at, err := h.expire(app, "nightly")
		Expect(err).NotTo(HaveOccurred())
		Expect(h.expiration(app, "nightly")).To(BeTemporally("==", at))
		_, err = h.expire(app, "stays")
		Expect(err).NotTo(HaveOccurred())
		h.clock.Advance(time.Hour - time.Minute)
		Expect(h.ChangeTag(ctx, alice, app, "stays", core.TagChange{Expiration: &time.Time{}})).To(Succeed())
		Expect(h.tag(app, "nightly")).To(Equal(d), "live until it is deleted")
		h.clock.Advance(time.Hour)
		h.gone(app, "nightly")
		Expect(h.tag(app, "stays")).NotTo(BeEmpty())
		deleted := h.entries(audit.KindDeleteTag)
		Expect(deleted).To(HaveLen(1))
		Expect(deleted[0].PerformerKind).To(Equal(domain.CallerSystem))
		Expect(deleted[0].Metadata).To(And(HaveKeyWithValue("tag", "nightly"), HaveKeyWithValue("trigger", "expiration"),
			HaveKeyWithValue("manifest_digest", d.String()), HaveKeyWithValue("expiration_date", BeNumerically("==", at.Unix()))))
		By("keeping the manifest, and what the tag was")
		_, err = h.Manifest(ctx, app, domain.Reference{Digest: d}, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.RestoreTag(ctx, alice, app, "nightly", d)).To(Succeed())
		Expect(h.expiration(app, "nightly")).To(BeZero())
	})

	It("leaves an entry for each change of it, and none where nothing changes", func() {
		h.mustPush(app, "nightly")
		first, err := h.expire(app, "nightly")
		Expect(err).NotTo(HaveOccurred())
		Expect(h.ChangeTag(ctx, alice, app, "nightly", core.TagChange{Expiration: &first})).To(Succeed())
		h.clock.Advance(time.Minute)
		second, err := h.expire(app, "nightly")
		Expect(err).NotTo(HaveOccurred())
		for range 2 {
			Expect(h.ChangeTag(ctx, alice, app, "nightly", core.TagChange{Expiration: &time.Time{}})).To(Succeed())
		}
		changes := h.entries(audit.KindChangeExpiry)
		Expect(metadataOf(changes, "old_expiration_date")).To(HaveExactElements(BeNil(), BeNumerically("==", first.Unix()), BeNumerically("==", second.Unix())))
		Expect(metadataOf(changes, "expiration_date")).To(HaveExactElements(BeNumerically("==", first.Unix()), BeNumerically("==", second.Unix()), BeNil()))
		Expect(metadataOf(changes, "username")).To(HaveEach("alice"))
		Expect(metadataOf(changes, "trigger")).To(HaveEach("manual"))
	})

	It("goes when the tag moves", func() {
		before := h.mustPush(app, "nightly")
		_, err := h.expire(app, "nightly")
		Expect(err).NotTo(HaveOccurred())
		_, err = h.pushContent(app, "nightly", `{"image":1}`)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.expiration(app, "nightly")).NotTo(BeZero(), "the same digest again changes nothing")
		h.mustPush(app, "nightly")
		Expect(h.expiration(app, "nightly")).To(BeZero())
		changes := h.entries(audit.KindChangeExpiry)
		Expect(metadataOf(changes, "trigger")).To(Equal([]any{"manual", "move"}))
		By("saying so of what the tag points to until then")
		Expect(changes[1].Index).To(BeNumerically("<", h.entries(audit.KindMoveTag)[0].Index))
		Expect(changes[1].Metadata).To(HaveKeyWithValue("manifest_digest", before.String()))
	})

	It("is refused for a tag that a policy covers, also the one that it has until the sweep comes", func() {
		h.mustPush(app, "v1")
		at, err := h.expire(app, "v1")
		Expect(err).NotTo(HaveOccurred())
		Expect(h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Expiration: &at})).To(Succeed())
		h.gate.allow(0)
		defer h.gate.open()
		h.mustCreate(teamA, releases)
		Expect(h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Expiration: &at})).To(haveCode(domain.CodeTagImmutable))
		Expect(h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Expiration: &time.Time{}})).To(Succeed())
	})

	It("is refused where it makes no sense", func() {
		h.mustPush(app, "nightly")
		past := h.clock.Now()
		Expect(h.ChangeTag(ctx, alice, app, "nightly", core.TagChange{Expiration: &past})).To(haveCode(domain.CodeInvalid))
		_, err := h.expire(app, "nothing")
		Expect(err).To(haveCode(domain.CodeManifestUnknown))
		at, yes := past.Add(time.Hour), true
		Expect(h.ChangeTag(ctx, alice, app, "nightly", core.TagChange{Expiration: &at, Immutable: &yes})).To(haveCode(domain.CodeInvalid))
		Expect(h.locked(app, "nightly")).To(BeFalse())
		Expect(h.entries(audit.KindChangeExpiry)).To(BeEmpty())
	})

	It("is refused for a locked tag, with an entry", func() {
		d := h.mustPush(app, "v1")
		p := h.mustCreate(teamA, releases)
		_, err := h.expire(app, "v1")
		Expect(err).To(And(haveCode(domain.CodeTagImmutable), MatchError(ContainSubstring("cannot set an expiration of immutable tag 'v1'"))))
		failed := h.entries(audit.KindDeleteTagFailed)
		Expect(failed).To(HaveLen(1))
		Expect(failed[0].Metadata).To(And(HaveKeyWithValue("tag", "v1"), HaveKeyWithValue("operation", "set an expiration of"),
			HaveKeyWithValue("manifest_digest", d.String()), HaveKeyWithValue("policy_uuid", p.UUID)))
		Expect(h.expiration(app, "v1")).To(BeZero())
	})

	It("goes when the tag is locked, by a sweep and by hand, with an entry", func() {
		for _, tag := range []string{"v1", "by-hand"} {
			h.mustPush(app, tag)
			_, err := h.expire(app, tag)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(h.hold(app, "by-hand", true)).To(Succeed())
		p := h.mustCreate(teamA, releases)
		Expect(h.expiration(app, "v1")).To(BeZero(), "from the moment on that the policy is stored")
		h.swept(teamA, p.UUID)
		cleared := h.entries(audit.KindChangeExpiry)[2:]
		Expect(metadataOf(cleared, "tag")).To(Equal([]any{"by-hand", "v1"}))
		Expect(metadataOf(cleared, "trigger")).To(Equal([]any{"manual", "policy"}))
		Expect(metadataOf(cleared, "policy_uuid")).To(Equal([]any{nil, p.UUID}))
		Expect(metadataOf(cleared, "expiration_date")).To(HaveEach(BeNil()))
		By("not coming back with the release")
		Expect(h.hold(app, "by-hand", false)).To(Succeed())
		Expect(h.expiration(app, "by-hand")).To(BeZero())
		h.clock.Advance(2 * time.Hour)
		h.mustPush(app, "nightly")
		_, err := h.expire(app, "nightly")
		Expect(err).NotTo(HaveOccurred())
		h.clock.Advance(2 * time.Hour)
		h.gone(app, "nightly")
		Expect(h.tag(app, "v1")).NotTo(BeEmpty())
		Expect(h.tag(app, "by-hand")).NotTo(BeEmpty())
	})

	// held lets a tag expire while the deletion waits at the gate, in the middle of its way: found, not yet begun.
	held := func(tag string) {
		GinkgoHelper()
		_, err := h.expire(app, tag)
		Expect(err).NotTo(HaveOccurred())
		h.gate.allow(0)
		h.clock.Advance(2 * time.Hour)
		Eventually(h.gate.waiting).WithTimeout(patience).Should(BeTrue())
	}

	It("that has come loses against a policy that is stored before the deletion", func() {
		d := h.mustPush(app, "v1")
		h.mustPush(app, "nightly")
		_, err := h.expire(app, "nightly")
		Expect(err).NotTo(HaveOccurred())
		held("v1")
		h.mustCreate(teamA, releases)
		h.gate.open()
		h.gone(app, "nightly")
		h.idle()
		Expect(h.tag(app, "v1")).To(Equal(d))
		cleared := h.entries(audit.KindChangeExpiry)
		Expect(cleared).To(HaveLen(3))
		Expect(cleared[2].Tag).To(Equal("v1"))
	})

	It("that has come loses against a hold by hand, and against the expiration being taken back", func() {
		for _, tag := range []string{"locked", "kept", "nightly"} {
			h.mustPush(app, tag)
			_, err := h.expire(app, tag)
			Expect(err).NotTo(HaveOccurred())
		}
		held("nightly")
		Expect(h.hold(app, "locked", true)).To(Succeed())
		Expect(h.ChangeTag(ctx, alice, app, "kept", core.TagChange{Expiration: &time.Time{}})).To(Succeed())
		h.gate.open()
		h.gone(app, "nightly")
		Expect(h.tag(app, "locked")).NotTo(BeEmpty())
		Expect(h.tag(app, "kept")).NotTo(BeEmpty())
	})

	It("that has come loses against a tag of the same name that is made anew", func() {
		h.mustPush(app, "again")
		h.mustPush(app, "nightly")
		_, err := h.expire(app, "again")
		Expect(err).NotTo(HaveOccurred())
		held("nightly")
		Expect(h.DeleteTag(ctx, alice, app, "again")).To(Succeed())
		d := h.mustPush(app, "again")
		h.gate.open()
		h.gone(app, "nightly")
		Expect(h.tag(app, "again")).To(Equal(d))
	})

	It("of a signature tag goes when the subject is locked in time", func() {
		subject := h.mustPush(app, "v1")
		sig := signatureTag(subject, ".sig")
		d := h.mustPut(app, sig, imageOf("1", signature("a")))
		h.mustPush(app, "nightly")
		h.gate.holdDeletes(true) // a signature tag's repository is locked as for those
		_, err := h.expire(app, sig)
		Expect(err).NotTo(HaveOccurred())
		held("nightly")
		h.mustCreate(teamA, releases)
		h.gate.open()
		h.gone(app, "nightly")
		Expect(h.tag(app, sig)).To(Equal(d))
		Expect(h.expiration(app, sig)).To(BeZero())
		Expect(h.entries(audit.KindChangeExpiry)[2].Metadata).To(And(HaveKeyWithValue("tag", sig), HaveKeyWithValue("trigger", "expiration")))
	})

	It("comes for hundreds of tags in many repositories, once for each with two registries on one store", func() {
		other := core.New(h.store, h.options)
		at := h.clock.Now().Add(time.Hour)
		const repositories, tags = 5, 60
		for i := range repositories {
			name := domain.RepositoryName{Organization: "team-a", Path: string(rune('a' + i))}
			for j := range tags {
				tag := "nightly-" + string(rune('A'+j))
				h.mustPush(name, tag)
				Expect(h.ChangeTag(ctx, alice, name, tag, core.TagChange{Expiration: &at})).To(Succeed())
			}
		}
		stop := h.beside(other)
		h.clock.Advance(2 * time.Hour)
		Eventually(func() int { return len(h.entries(audit.KindDeleteTag)) }).WithTimeout(patience).Should(Equal(repositories * tags))
		stop()
		Expect(h.entries(audit.KindDeleteTag)).To(HaveLen(repositories * tags))
	})

	It("waits while the operator has yet to bring its policies", func() {
		d := h.mustPush(app, "v1")
		_, err := h.expire(app, "v1")
		Expect(err).NotTo(HaveOccurred())
		h.with(func(o *core.Options) { o.RequireSync = true })
		h.clock.Advance(2 * time.Hour)
		Consistently(func() digest.Digest { return h.tag(app, "v1") }).WithTimeout(20 * h.options.ExpirationPoll).Should(Equal(d))
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		h.gone(app, "v1")
	})
})
