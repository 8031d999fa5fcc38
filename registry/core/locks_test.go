package core_test

import (
	"github.com/opencontainers/go-digest"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

var _ = eachEngine("Deleting a manifest by digest", func(h *harness) {
	It("blocks_if_immutable_tag_exists", func() {
		d := h.mustPush(app, "v1.0.0")
		h.mustCreate(teamA, releases)
		err := h.DeleteManifest(ctx, alice, app, d)
		Expect(err).To(haveCode(domain.CodeTagImmutable))
		Expect(err).To(MatchError(ContainSubstring("'v1.0.0'")))
		Expect(h.tag(app, "v1.0.0")).To(Equal(d))
	})

	It("succeeds_if_all_tags_mutable", func() {
		d := h.mustPush(app, "latest")
		_, err := h.pushContent(app, "dev", `{"image":1}`)
		Expect(err).NotTo(HaveOccurred())
		h.mustCreate(teamA, releases)
		Expect(h.DeleteManifest(ctx, alice, app, d)).To(Succeed())
		Expect(h.tag(app, "latest")).To(BeEmpty())
		Expect(h.tag(app, "dev")).To(BeEmpty())
		Expect(h.entries(audit.KindDeleteTag)).To(HaveLen(2))
		_, err = h.Manifest(ctx, app, domain.Reference{Digest: d}, false)
		Expect(err).To(haveCode(domain.CodeManifestUnknown))
	})

	It("with_mixed_tags", func() {
		d := h.mustPush(app, "v1.0.0")
		for _, tag := range []string{"latest", "v1.0", "v1"} {
			Expect(h.setTag(app, tag, d)).To(Succeed())
		}
		h.mustCreate(teamA, releases)
		err := h.DeleteManifest(ctx, alice, app, d)
		Expect(err).To(haveCode(domain.CodeTagImmutable))
		Expect(err.(*domain.Error).Lock.Tags).To(Equal([]string{"v1", "v1.0", "v1.0.0"}))
		Expect(h.tag(app, "latest")).To(Equal(d), "all or nothing")
	})

	It("leaves an entry for each locked tag, with the policy that locks it", func() {
		d := h.mustPush(app, "v1.0.0")
		Expect(h.setTag(app, "lts-2026", d)).To(Succeed())
		Expect(h.setTag(app, "by-hand", d)).To(Succeed())
		v, lts := h.mustCreate(teamA, releases), h.mustCreate(teamA, spec("lts-.*"))
		Expect(h.hold(app, "by-hand", true)).To(Succeed())
		Expect(h.DeleteManifest(ctx, alice, app, d)).To(haveCode(domain.CodeTagImmutable))
		policies := map[string]string{}
		for _, e := range h.entries(audit.KindDeleteTagFailed) {
			policies[e.Tag] = e.Policy
		}
		Expect(policies).To(Equal(map[string]string{"v1.0.0": v.UUID, "lts-2026": lts.UUID, "by-hand": ""}))
	})

	It("delete_by_tag_still_blocks_immutable", func() {
		d := h.mustPush(app, "v1.0.0")
		h.mustCreate(teamA, releases)
		Expect(h.DeleteTag(ctx, alice, app, "v1.0.0")).To(haveCode(domain.CodeTagImmutable))
		Expect(h.tag(app, "v1.0.0")).To(Equal(d))
	})

	index := func(tag string, children ...digest.Digest) domain.Manifest {
		m := manifest(`{"index":"` + tag + `"}`)
		m.MediaType = "application/vnd.oci.image.index.v1+json"
		m.Children = children
		return m
	}

	It("is refused for a child of a locked index, at any depth", func() {
		child, err := h.put(app, "", manifest(`{"child":1}`))
		Expect(err).NotTo(HaveOccurred())
		inner, err := h.put(app, "", index("inner", child))
		Expect(err).NotTo(HaveOccurred())
		_, err = h.put(app, "v1", index("outer", inner))
		Expect(err).NotTo(HaveOccurred())
		Expect(h.hold(app, "v1", true)).To(Succeed())
		for _, d := range []digest.Digest{child, inner} {
			Expect(h.DeleteManifest(ctx, alice, app, d)).To(And(haveCode(domain.CodeTagImmutable), MatchError(ContainSubstring("'v1'"))))
		}
	})

	It("is refused for a referrer of a locked image and for a child of such a referrer", func() {
		subject := h.mustPush(app, "v1")
		leaf, err := h.put(app, "", manifest(`{"leaf":1}`))
		Expect(err).NotTo(HaveOccurred())
		referrer := index("referrer", leaf)
		referrer.Subject = subject
		signature, err := h.put(app, "", referrer)
		Expect(err).NotTo(HaveOccurred())
		h.mustCreate(teamA, releases)
		Expect(h.DeleteManifest(ctx, alice, app, signature)).To(haveCode(domain.CodeTagImmutable))
		Expect(h.DeleteManifest(ctx, alice, app, leaf)).To(haveCode(domain.CodeTagImmutable))
	})

	It("is not refused for the parent of a locked child", func() {
		child := h.mustPush(app, "v1")
		parent, err := h.put(app, "nightly", index("parent", child))
		Expect(err).NotTo(HaveOccurred())
		h.mustCreate(teamA, releases)
		Expect(h.DeleteManifest(ctx, alice, app, parent)).To(Succeed())
		Expect(h.tag(app, "v1")).To(Equal(child))
	})
})

var _ = eachEngine("A locked tag", func(h *harness) {
	BeforeEach(func() {
		h.mustPush(app, "v1")
		h.mustPush(app, "latest")
	})

	It("takes the digest that it has again, without an entry", func() {
		h.mustCreate(teamA, releases)
		h.idle()
		before := len(h.entries())
		_, err := h.pushContent(app, "v1", `{"image":1}`)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.entries()).To(HaveLen(before))
	})

	It("refuses another digest, naming tag, digest and policy, and stores nothing of the push", func() {
		p := h.mustCreate(teamA, releases)
		standing := h.tag(app, "v1")
		attempted, err := h.push(app, "v1")
		Expect(err).To(haveCode(domain.CodeTagImmutable))
		lock := err.(*domain.Error).Lock
		Expect(lock.Tags).To(Equal([]string{"v1"}))
		Expect(lock.Digest).To(Equal(standing))
		Expect(lock.Policy).To(Equal(&domain.PolicyRef{UUID: p.UUID, Revision: 1, Pattern: "v.*", Scope: domain.ScopeOrganization}))
		_, err = h.Manifest(ctx, app, domain.Reference{Digest: attempted}, false)
		Expect(err).To(haveCode(domain.CodeManifestUnknown), "the refused manifest is not kept")
		failed := h.entries(audit.KindPushFailed)
		Expect(failed).To(HaveLen(1))
		Expect(failed[0].Metadata).To(And(
			HaveKeyWithValue("tag", "v1"), HaveKeyWithValue("manifest_digest", standing.String()), HaveKeyWithValue("attempted_digest", attempted.String()),
			HaveKeyWithValue("policy_uuid", p.UUID), HaveKey("reason")))
		Expect(failed[0].Performer).To(Equal("alice"))
		Expect(failed[0].Address).To(Equal("192.0.2.7"))
	})

	It("is neither moved nor restored through the REST API", func() {
		h.mustCreate(teamA, releases)
		other := h.tag(app, "latest")
		Expect(h.setTag(app, "v1", other)).To(haveCode(domain.CodeTagImmutable))
		Expect(h.RestoreTag(ctx, alice, app, "v1", other)).To(haveCode(domain.CodeTagImmutable))
	})

	It("keeps its repository and its organization", func() {
		h.mustCreate(teamA, releases)
		err := h.DeleteRepository(ctx, alice, app)
		Expect(err).To(haveCode(domain.CodeConflict))
		Expect(err.(*domain.Error).Lock).To(HaveField("Tags", []string{"v1"}))
		err = h.DeleteOrganization(ctx, alice, "team-a")
		Expect(err).To(haveCode(domain.CodeConflict))
		Expect(err.(*domain.Error).Lock).To(And(HaveField("Tags", []string{"app:v1"}), HaveField("Count", 1)))
		Expect(h.entries(audit.KindDeleteRepoFailed, audit.KindDeleteOrgFailed)).To(HaveLen(2))
	})

	It("keeps the blobs of its image", func() {
		blob := digest.FromString("layer")
		_, err := h.LinkBlob(ctx, alice, app, domain.Blob{Digest: blob, Size: 5, Key: "k1"}, core.CreateNothing)
		Expect(err).NotTo(HaveOccurred())
		m := manifest(`{"with":"layer"}`)
		m.Blobs = []digest.Digest{blob}
		_, err = h.put(app, "v2", m)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.DeleteBlob(ctx, alice, app, blob)).To(haveCode(domain.CodeUnsupported))
		h.mustCreate(teamA, releases)
		Expect(h.DeleteBlob(ctx, alice, app, blob)).To(haveCode(domain.CodeTagImmutable))
	})

	It("is locked and unlocked by hand, idempotently, with an entry each", func() {
		for range 2 {
			Expect(h.hold(app, "latest", true)).To(Succeed())
		}
		Expect(h.locked(app, "latest")).To(BeTrue())
		Expect(h.DeleteTag(ctx, alice, app, "latest")).To(haveCode(domain.CodeTagImmutable))
		for range 2 {
			Expect(h.hold(app, "latest", false)).To(Succeed())
		}
		Expect(h.DeleteTag(ctx, alice, app, "latest")).To(Succeed())
		changes := h.entries(audit.KindChangeImmutability)
		Expect(changes).To(HaveLen(2))
		Expect(changes[0].Metadata).To(And(HaveKeyWithValue("immutable", true), HaveKeyWithValue("previous_immutable", false), HaveKeyWithValue("trigger", "manual"), HaveKeyWithValue("username", "alice")))
		Expect(changes[1].Metadata).To(And(HaveKeyWithValue("immutable", false), HaveKeyWithValue("previous_immutable", true)))
	})

	It("is moved and locked in one transaction, or not at all", func() {
		other, yes, no := h.tag(app, "latest"), true, false
		Expect(h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Digest: digest.FromString("nowhere"), Immutable: &yes})).To(haveCode(domain.CodeManifestUnknown))
		Expect(h.locked(app, "v1")).To(BeFalse())
		Expect(h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Digest: other, Immutable: &yes})).To(Succeed())
		Expect(h.tag(app, "v1")).To(Equal(other))
		Expect(h.locked(app, "v1")).To(BeTrue())
		Expect(h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Digest: h.mustPush(app, "third"), Immutable: &no})).To(Succeed())
		Expect(h.locked(app, "v1")).To(BeFalse())
	})

	It("is not unlocked by hand while a policy covers it", func() {
		p := h.mustCreate(teamA, releases)
		Expect(h.hold(app, "v1", false)).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring(p.UUID))))
	})
})

var _ = eachEngine("A mutable tag", func(h *harness) {
	It("leaves an entry for each transition", func() {
		first := h.mustPush(app, "latest")
		second := h.mustPush(app, "latest")
		Expect(h.RestoreTag(ctx, alice, app, "latest", first)).To(Succeed())
		Expect(h.DeleteTag(ctx, alice, app, "latest")).To(Succeed())
		var kinds []audit.Kind
		for _, e := range h.entries() {
			kinds = append(kinds, e.Kind)
		}
		Expect(kinds).To(Equal([]audit.Kind{audit.KindOrgCreate, audit.KindCreateRepo, audit.KindCreateTag, audit.KindMoveTag, audit.KindRevertTag, audit.KindDeleteTag}))
		past, err := h.TagHistory(ctx, app, "latest", 10)
		Expect(err).NotTo(HaveOccurred())
		Expect(past).To(HaveLen(3))
		Expect([]digest.Digest{past[2].Digest, past[1].Digest, past[0].Digest}).To(Equal([]digest.Digest{first, second, first}))
	})

	It("needs what its manifest refers to", func() {
		h.mustPush(app, "latest")
		m := manifest(`{"x":1}`)
		m.Blobs = []digest.Digest{digest.FromString("nowhere"), digest.FromString("neither")}
		_, err := h.put(app, "new", m)
		Expect(err).To(And(haveCode(domain.CodeManifestBlobUnknown), MatchError(ContainSubstring("and 1 more"))))
		m.Blobs, m.Children = nil, []digest.Digest{digest.FromString("nowhere")}
		_, err = h.put(app, "new", m)
		Expect(err).To(haveCode(domain.CodeManifestBlobUnknown))
	})

	It("goes with its repository, with an entry", func() {
		h.mustPush(app, "a")
		h.mustPush(app, "b")
		Expect(h.DeleteRepository(ctx, alice, app)).To(Succeed())
		Expect(h.entries(audit.KindDeleteTag)).To(HaveLen(2))
		_, err := h.Repository(ctx, app)
		Expect(err).To(haveCode(domain.CodeNameUnknown))
	})
})
