package core_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// layer is a blob of a few bytes under a key of its own.
func (h *harness) layer(content string) domain.Blob {
	h.n++
	d := digest.FromString(content)
	return domain.Blob{Digest: d, Size: int64(len(content)), Key: fmt.Sprintf("%s.%032d", d, h.n)}
}

// upload links a blob to a repository and reports whether its bytes are kept.
func (h *harness) upload(name domain.RepositoryName, b domain.Blob) bool {
	GinkgoHelper()
	kept, err := h.LinkBlob(ctx, alice, name, b, core.CreateOrganization)
	Expect(err).NotTo(HaveOccurred())
	return kept
}

// image is a manifest with layers, or an index with children.
func image(content string, layers []digest.Digest, children ...digest.Digest) domain.Manifest {
	m := manifest(content)
	m.Blobs, m.Children = layers, children
	return m
}

// collect is one run over the database.
func (h *harness) collect() domain.Collected {
	GinkgoHelper()
	n, err := h.Collect(ctx)
	Expect(err).NotTo(HaveOccurred())
	return n
}

func (h *harness) hasBlob(name domain.RepositoryName, d digest.Digest) bool {
	GinkgoHelper()
	_, err := h.Blob(ctx, name, d)
	if err != nil {
		Expect(domain.CodeOf(err)).To(BeElementOf(domain.CodeBlobUnknown, domain.CodeNameUnknown))
	}
	return err == nil
}

func (h *harness) hasManifest(name domain.RepositoryName, d digest.Digest) bool {
	GinkgoHelper()
	_, err := h.Manifest(ctx, name, domain.Reference{Digest: d}, false)
	if err != nil {
		Expect(err).To(haveCode(domain.CodeManifestUnknown))
	}
	return err == nil
}

// due lists the keys whose bytes may be deleted now.
func (h *harness) due() (keys []string) {
	GinkgoHelper()
	list, err := h.DueRemovals(ctx, "", h.clock.Now(), 1000)
	Expect(err).NotTo(HaveOccurred())
	for _, b := range list {
		keys = append(keys, b.Key)
	}
	return keys
}

// noted waits until a find is noted: it says that a link is as good as new.
func (h *harness) noted(fresh func(*meta.Reader, domain.Repository) (bool, error)) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(h.store.Read(ctx, func(r *meta.Reader) error {
			repo, err := r.Repository(app)
			if err != nil {
				return err
			}
			stale, err := fresh(r, repo)
			g.Expect(stale).To(BeFalse())
			return err
		})).To(Succeed())
	}).WithTimeout(patience).WithPolling(20 * time.Millisecond).Should(Succeed())
}

// collectOnce lets a run do one transaction, whose effect is told, and ends it there.
func (h *harness) collectOnce(done func() bool) {
	GinkgoHelper()
	interrupted, interrupt := context.WithCancel(ctx)
	defer interrupt()
	h.gate.holdDeletes(true)
	defer h.gate.holdDeletes(false)
	h.gate.allow(1)
	ended := make(chan error, 1)
	go func() {
		_, err := h.Collect(interrupted)
		ended <- err
	}()
	Eventually(done).WithTimeout(patience).Should(BeTrue())
	interrupt()
	Eventually(ended).WithTimeout(patience).Should(Receive(HaveOccurred()))
	h.gate.open()
}

var web = domain.RepositoryName{Organization: "team-a", Path: "web"}

var _ = eachEngine("Garbage collection", func(h *harness) {
	It("keeps a blob for its grace, then takes it from clients, and lets its bytes go an hour later", func() {
		b := h.layer("layer")
		Expect(h.upload(app, b)).To(BeTrue())
		h.clock.Advance(24*time.Hour - time.Minute)
		Expect(h.collect()).To(Equal(domain.Collected{}))
		h.clock.Advance(time.Hour + 2*time.Minute)
		Expect(h.collect()).To(Equal(domain.Collected{Links: 1, Blobs: 1, BlobBytes: 5}))
		Expect(h.hasBlob(app, b.Digest)).To(BeFalse())

		Expect(h.due()).To(BeEmpty())
		h.clock.Advance(time.Hour + time.Minute)
		Expect(h.due()).To(Equal([]string{b.Key}))
		n, err := h.FinishRemovals(ctx, []domain.Blob{b})
		Expect(n, err).To(Equal(domain.Collected{Removed: 1, RemovedBytes: 5}))
		Expect(h.due()).To(BeEmpty())

		By("writing one entry about it, and none where nothing was removed")
		Expect(h.ReportCollection(ctx)).To(Succeed())
		Expect(h.ReportCollection(ctx)).To(Succeed())
		entries := h.entries(audit.KindGarbageCollection)
		Expect(entries).To(HaveLen(1))
		Expect(entries[0].Performer).To(Equal(domain.System.Name))
		Expect(entries[0].Metadata).To(And(HaveKeyWithValue("links_count", float64(1)), HaveKeyWithValue("blobs_count", float64(1)),
			HaveKeyWithValue("blobs_bytes", float64(5)), HaveKeyWithValue("removed_count", float64(1)), HaveKeyWithValue("removed_bytes", float64(5))))
	})

	It("is one replica's turn in each interval", func() {
		for _, turn := range []bool{true, false, false} {
			Expect(h.BeginCollection(ctx, time.Hour)).To(Equal(turn))
		}
		h.clock.Advance(time.Hour)
		Expect(h.BeginCollection(ctx, time.Hour)).To(BeTrue())
		Expect(h.BeginCollection(ctx, 0)).To(BeTrue(), "whoever is told to")
	})

	DescribeTable("counts the grace anew from", func(use func(b domain.Blob)) {
		b := h.layer("layer")
		h.upload(app, b)
		h.clock.Advance(23 * time.Hour)
		use(b)
		h.clock.Advance(23 * time.Hour)
		Expect(h.collect()).To(Equal(domain.Collected{}))
		Expect(h.hasBlob(app, b.Digest)).To(BeTrue())
		h.clock.Advance(3 * time.Hour)
		Expect(h.collect().Blobs).To(Equal(int64(1)))
	},
		Entry("an upload, whose bytes are not needed", func(b domain.Blob) {
			Expect(h.upload(app, h.layer("layer"))).To(BeFalse())
		}),
		Entry("a mount onto itself", func(b domain.Blob) {
			mounted, err := h.MountBlob(ctx, alice, app, app, b.Digest, core.CreateNothing)
			Expect(mounted, err).To(BeTrue())
		}),
		Entry("a HEAD", func(b domain.Blob) {
			h.FoundBlob(app, b.Digest)
			h.noted(func(r *meta.Reader, repo domain.Repository) (bool, error) {
				return r.StaleLink(repo.ID, b.Digest, h.clock.Now().Add(-time.Hour))
			})
		}),
	)

	It("writes no note for a HEAD within an hour of the last", func() {
		older, newer := h.layer("older"), h.layer("newer")
		h.upload(app, older)
		h.clock.Advance(30 * time.Minute)
		h.upload(app, newer)
		h.clock.Advance(50 * time.Minute)
		h.FoundBlob(app, newer.Digest)
		h.FoundBlob(app, older.Digest)
		h.noted(func(r *meta.Reader, repo domain.Repository) (bool, error) {
			return r.StaleLink(repo.ID, older.Digest, h.clock.Now().Add(-time.Hour))
		})
		Expect(h.store.Read(ctx, func(r *meta.Reader) error {
			repo, err := r.Repository(app)
			Expect(err).NotTo(HaveOccurred())
			Expect(r.StaleLink(repo.ID, newer.Digest, h.clock.Now().Add(-49*time.Minute))).To(BeTrue())
			return nil
		})).To(Succeed())
	})

	It("keeps what a manifest refers to, in the repositories where it does", func() {
		b := h.layer("layer")
		h.upload(app, b)
		mounted, err := h.MountBlob(ctx, alice, web, app, b.Digest, core.CreateOrganization)
		Expect(mounted, err).To(BeTrue())
		h.mustPut(web, "v1", image("image", []digest.Digest{b.Digest}))
		h.clock.Advance(100 * time.Hour)
		Expect(h.collect()).To(Equal(domain.Collected{Links: 1}))
		Expect(h.hasBlob(app, b.Digest)).To(BeFalse())
		Expect(h.hasBlob(web, b.Digest)).To(BeTrue())
	})

	It("takes the blobs of a deleted repository and organization", func() {
		inApp, inWeb := h.layer("app"), h.layer("web")
		h.upload(app, inApp)
		h.mustPut(app, "v1", image("app", []digest.Digest{inApp.Digest}))
		h.upload(web, inWeb)
		h.mustPut(web, "v1", image("web", []digest.Digest{inWeb.Digest}))
		h.clock.Advance(100 * time.Hour)
		Expect(h.DeleteRepository(ctx, alice, app)).To(Succeed())
		Expect(h.collect()).To(Equal(domain.Collected{Blobs: 1, BlobBytes: 3}))
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(Succeed())
		Expect(h.collect()).To(Equal(domain.Collected{Blobs: 1, BlobBytes: 3}))
	})

	It("never harms who uploads again: the bytes of an acknowledged link stay", func() {
		old := h.layer("layer")
		h.upload(app, old)
		h.clock.Advance(100 * time.Hour)
		Expect(h.collect().Blobs).To(Equal(int64(1)))
		again := h.layer("layer")
		Expect(h.upload(app, again)).To(BeTrue(), "the old bytes are about to go, so the new ones are kept")
		h.clock.Advance(2 * time.Hour)
		Expect(h.due()).To(Equal([]string{old.Key}))
		stored, err := h.Blob(ctx, app, again.Digest)
		Expect(err).NotTo(HaveOccurred())
		Expect(stored.Key).To(Equal(again.Key))
	})

	It("queues bytes that belong to no blob, and spares a key that a blob has got meanwhile", func() {
		orphan, late := h.layer("orphan"), h.layer("late")
		unknown, err := h.UnknownKeys(ctx, []domain.Blob{orphan, late})
		Expect(unknown, err).To(Equal([]domain.Blob{orphan, late}))
		n, err := h.QueueOrphans(ctx, unknown)
		Expect(n, err).To(Equal(domain.Collected{Orphans: 2, OrphanBytes: 10}))
		n, err = h.QueueOrphans(ctx, unknown)
		Expect(n, err).To(Equal(domain.Collected{}), "they are queued already")
		h.upload(app, late)
		h.clock.Advance(2 * time.Hour)
		Expect(h.due()).To(Equal([]string{orphan.Key}))
		Expect(h.UnknownKeys(ctx, []domain.Blob{orphan, late})).To(BeEmpty())
	})

	It("waits for the operator: a registry that was restored does not know yet what is locked", func() {
		h.with(func(o *core.Options) { o.RequireSync = true })
		_, err := h.Collect(ctx)
		Expect(err).To(haveCode(domain.CodeUnavailable))
	})

	It("says in a dry run what a run would do, and does nothing", func() {
		h.with(func(o *core.Options) {
			o.Collection = &core.Collection{Grace: 24 * time.Hour, Delay: time.Hour, UntaggedManifests: true}
		})
		b := h.layer("layer")
		h.upload(app, b)
		d := h.mustPut(app, "", image("image", []digest.Digest{b.Digest}))
		h.mustPush(app, "v1")
		h.clock.Advance(100 * time.Hour)
		before := len(h.entries())
		plan, sample, err := h.PlanCollect(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(plan).To(Equal(domain.Collected{Manifests: 1, Links: 1, Blobs: 1, BlobBytes: 5}))
		Expect(sample).To(Equal([]string{"manifest team-a/app@" + d.String(), "link team-a/app@" + b.Digest.String(), "blob " + b.Digest.String()}))
		Expect(h.hasManifest(app, d)).To(BeTrue())
		Expect(h.hasBlob(app, b.Digest)).To(BeTrue())
		Expect(h.entries()).To(HaveLen(before))
		Expect(h.collect()).To(Equal(plan))
		Expect(h.entries(audit.KindDeleteManifest)).To(HaveLen(1))
	})

	It("reports what an interrupted run removed with the next one", func() {
		first := digest.FromString("0")
		for i := range 250 {
			b := h.layer(fmt.Sprint(i))
			h.upload(app, b)
			first = min(first, b.Digest)
		}
		h.clock.Advance(100 * time.Hour)
		h.collectOnce(func() bool { return !h.hasBlob(app, first) })
		Expect(h.collect().Links).To(Equal(int64(150)))
		Expect(h.ReportCollection(ctx)).To(Succeed())
		entries := h.entries(audit.KindGarbageCollection)
		Expect(entries).To(HaveLen(1))
		Expect(entries[0].Metadata).To(And(HaveKeyWithValue("links_count", float64(250)), HaveKeyWithValue("blobs_count", float64(250))))
	})
})

var _ = eachEngine("Untagged manifests", func(h *harness) {
	const longAgo = 100 * time.Hour
	on := func() {
		GinkgoHelper()
		h.with(func(o *core.Options) {
			o.Collection = &core.Collection{Grace: 24 * time.Hour, Delay: time.Hour, UntaggedManifests: true}
		})
	}
	It("stay by default", func() {
		d := h.mustPut(app, "", image("image", nil))
		h.clock.Advance(longAgo)
		Expect(h.collect()).To(Equal(domain.Collected{}))
		Expect(h.hasManifest(app, d)).To(BeTrue())
	})

	It("go with their blobs where that is switched on, with an entry each, and after their grace", func() {
		on()
		b := h.layer("layer")
		h.upload(app, b)
		d := h.mustPut(app, "", image("image", []digest.Digest{b.Digest}))
		h.clock.Advance(24*time.Hour - time.Minute)
		Expect(h.collect()).To(Equal(domain.Collected{}))
		h.clock.Advance(2 * time.Hour)
		Expect(h.collect()).To(Equal(domain.Collected{Manifests: 1, Links: 1, Blobs: 1, BlobBytes: 5}))
		Expect(h.hasManifest(app, d)).To(BeFalse())
		entries := h.entries(audit.KindDeleteManifest)
		Expect(entries).To(HaveLen(1))
		Expect(entries[0].Repository).To(Equal("app"))
		Expect(entries[0].Metadata).To(And(HaveKeyWithValue("manifest_digest", d.String()), HaveKeyWithValue("trigger", "garbage_collection")))
	})

	DescribeTable("are kept by", func(protect func() digest.Digest) {
		on()
		d := protect()
		Expect(h.collect().Manifests).To(BeZero())
		Expect(h.hasManifest(app, d)).To(BeTrue())
	},
		Entry("a live tag", func() digest.Digest {
			d := h.mustPush(app, "v1")
			h.clock.Advance(longAgo)
			return d
		}),
		Entry("an index with a tag", func() digest.Digest {
			d := h.mustPut(app, "", image("child", nil))
			h.mustPut(app, "v1", image("index", nil, d))
			h.clock.Advance(longAgo)
			return d
		}),
		Entry("an index inside of an index with a tag", func() digest.Digest {
			d := h.mustPut(app, "", image("child", nil))
			inner := h.mustPut(app, "", image("inner", nil, d))
			h.mustPut(app, "v1", image("outer", nil, inner))
			h.clock.Advance(longAgo)
			return d
		}),
		Entry("a subject with a tag", func() digest.Digest {
			signature := image("signature", nil)
			signature.Subject = h.mustPush(app, "v1")
			d := h.mustPut(app, "", signature)
			h.clock.Advance(longAgo)
			return d
		}),
		Entry("a locked tag, at any distance", func() digest.Digest {
			child := h.mustPut(app, "", image("child", nil))
			h.mustPut(app, "v1", image("index", nil, child))
			Expect(h.hold(app, "v1", true)).To(Succeed())
			signature := image("signature", nil)
			signature.Subject = child
			attestation := image("attestation", nil)
			attestation.Subject = h.mustPut(app, "", signature)
			d := h.mustPut(app, "", attestation)
			h.clock.Advance(longAgo)
			return d
		}),
		Entry("a tag that was deleted less than 14 days ago", func() digest.Digest {
			d := h.mustPush(app, "v1")
			h.clock.Advance(longAgo)
			Expect(h.DeleteTag(ctx, alice, app, "v1")).To(Succeed())
			h.clock.Advance(14*24*time.Hour - time.Minute)
			return d
		}),
		Entry("a tag that was moved less than 14 days ago", func() digest.Digest {
			d := h.mustPush(app, "v1")
			h.mustPush(app, "v1")
			h.clock.Advance(13 * 24 * time.Hour)
			return d
		}),
		Entry("an index that was pushed within the grace", func() digest.Digest {
			d := h.mustPut(app, "", image("child", nil))
			h.clock.Advance(longAgo)
			h.mustPut(app, "", image("index", nil, d))
			return d
		}),
		Entry("being pushed again within the grace", func() digest.Digest {
			m := image("image", nil)
			h.mustPut(app, "", m)
			h.clock.Advance(longAgo)
			return h.mustPut(app, "", m)
		}),
		Entry("a HEAD that found them within the grace", func() digest.Digest {
			d := h.mustPut(app, "", image("image", nil))
			h.clock.Advance(longAgo)
			h.FoundManifest(app, d)
			h.noted(func(r *meta.Reader, repo domain.Repository) (bool, error) {
				return r.StaleManifest(repo.ID, d, h.clock.Now().Add(-time.Hour))
			})
			return d
		}),
	)

	It("go when no tag can be restored to them any more", func() {
		on()
		d := h.mustPush(app, "v1")
		h.mustPush(app, "v1")
		h.clock.Advance(14*24*time.Hour + time.Minute)
		Expect(h.collect().Manifests).To(Equal(int64(1)))
		Expect(h.hasManifest(app, d)).To(BeFalse())
		Expect(h.RestoreTag(ctx, alice, app, "v1", d)).To(haveCode(domain.CodeManifestUnknown))
	})

	It("never go before an index or a subject that leads to them, wherever a run ends", func() {
		on()
		var children []digest.Digest
		for i := range 150 {
			children = append(children, h.mustPut(app, "", image(fmt.Sprintf("child %d", i), nil)))
		}
		// An index behind all of them in the order in which they are looked at.
		var index domain.Manifest
		for i := 0; !strings.HasPrefix(index.Digest.String(), "sha256:fff"); i++ {
			index = image(fmt.Sprintf("index %d", i), nil, children...)
		}
		h.mustPut(app, "", index)
		h.clock.Advance(longAgo)
		h.collectOnce(func() bool { return !h.hasManifest(app, slices.Min(children)) })
		Expect(h.hasManifest(app, slices.Max(children))).To(BeTrue(), "the run ended in the middle")
		Expect(h.hasManifest(app, index.Digest)).To(BeFalse(), "a client could point a tag to it")
	})
})

var _ = eachEngine("At once, garbage collection", func(h *harness) {
	It("and clients that push what it collects: no acknowledged blob is without its bytes, and no bytes are left", func() {
		workers, rounds := 8, 60
		if os.Getenv("TIDELOCK_SOAK") != "" {
			rounds = 2000
		}
		h.with(func(o *core.Options) { o.Collection = &core.Collection{UntaggedManifests: true} })
		h.mustPush(app, "other")
		h.mustPush(web, "other")
		var bytes sync.Map // the keys that have bytes
		var keys, again atomic.Int64
		digests := []digest.Digest{digest.FromString("a"), digest.FromString("b"), digest.FromString("c")}
		upload := func(name domain.RepositoryName, d digest.Digest) {
			b := domain.Blob{Digest: d, Size: 1, Key: fmt.Sprintf("%s.%032d", d, keys.Add(1))}
			bytes.Store(b.Key, true)
			kept, err := h.LinkBlob(ctx, alice, name, b, core.CreateNothing)
			Expect(err).NotTo(HaveOccurred())
			if !kept {
				bytes.Delete(b.Key)
			}
		}
		// intact checks a blob that a manifest refers to.
		intact := func(name domain.RepositoryName, d digest.Digest) {
			GinkgoHelper()
			b, err := h.Blob(ctx, name, d)
			Expect(err).NotTo(HaveOccurred())
			_, ok := bytes.Load(b.Key)
			Expect(ok).To(BeTrue(), "the bytes of %s", b.Key)
		}
		collecting, stop := context.WithCancel(ctx)
		var total domain.Collected
		collected := make(chan struct{})
		collect := func(ctx context.Context) {
			n, err := h.Collect(ctx)
			if err != nil && ctx.Err() != nil {
				return
			}
			Expect(err).NotTo(HaveOccurred())
			total = total.Add(n)
			due, err := h.DueRemovals(context.Background(), "", h.clock.Now(), 1000)
			Expect(err).NotTo(HaveOccurred())
			for _, b := range due {
				bytes.Delete(b.Key)
			}
			_, err = h.FinishRemovals(context.Background(), due)
			Expect(err).NotTo(HaveOccurred())
		}
		go func() {
			defer GinkgoRecover()
			defer close(collected)
			for collecting.Err() == nil {
				collect(collecting)
			}
		}()
		var wg sync.WaitGroup
		for worker := range workers {
			wg.Go(func() {
				defer GinkgoRecover()
				name := []domain.RepositoryName{app, web}[worker%2]
				other := []domain.RepositoryName{web, app}[worker%2]
				for round := range rounds {
					d := digests[(worker+round)%len(digests)]
					m := image(fmt.Sprintf(`{"worker":%d,"round":%d}`, worker, round), []digest.Digest{d})
					ref := core.Push{Reference: domain.Reference{Tag: fmt.Sprintf("t%d", worker)}, Manifest: m}
					for {
						if mounted, err := h.MountBlob(ctx, alice, name, other, d, core.CreateNothing); err != nil || !mounted {
							Expect(err).NotTo(HaveOccurred())
							upload(name, d)
						}
						_, err := h.PutManifest(ctx, alice, name, ref)
						if err == nil {
							break
						}
						// There is no grace: the blob may be collected between the two requests.
						Expect(err).To(haveCode(domain.CodeManifestBlobUnknown))
						again.Add(1)
					}
					intact(name, d)
					Expect(h.DeleteTag(ctx, alice, name, ref.Reference.Tag)).To(Succeed())
					intact(name, d)
					Expect(h.DeleteManifest(ctx, alice, name, m.Digest)).To(Succeed())
				}
			})
		}
		wg.Wait()
		stop()
		<-collected
		collect(ctx)
		left := 0
		bytes.Range(func(any, any) bool { left++; return true })
		Expect(left).To(BeZero())
		Expect(total.Blobs).To(BeNumerically(">", 0), "it was a race")
		GinkgoWriter.Printf("%d uploads, %d blobs collected, %d pushes had to begin again\n", keys.Load(), total.Blobs, again.Load())
	})
})

var _ = eachEngine("Without room", func(h *harness) {
	It("content is refused, deletes and policies are taken, and sweeps wait until there is room", func() {
		var full atomic.Bool
		h.with(func(o *core.Options) {
			o.Room = func() error {
				if full.Load() {
					return domain.Errorf(domain.CodeStorageFull, "the disk is full")
				}
				return nil
			}
		})
		b := h.layer("layer")
		h.upload(app, b)
		d := h.mustPush(app, "v1")
		h.mustPush(app, "other")
		full.Store(true)
		_, err := h.LinkBlob(ctx, alice, app, h.layer("more"), core.CreateNothing)
		Expect(err).To(haveCode(domain.CodeStorageFull))
		_, err = h.MountBlob(ctx, alice, web, app, b.Digest, core.CreateRepository)
		Expect(err).To(haveCode(domain.CodeStorageFull))
		_, err = h.push(app, "v2")
		Expect(err).To(haveCode(domain.CodeStorageFull))
		Expect(h.DeleteTag(ctx, alice, app, "other")).To(Succeed())
		Expect(h.DeleteBlob(ctx, alice, app, b.Digest)).To(Succeed())

		p := h.mustCreate(teamA, releases)
		Expect(h.locked(app, "v1")).To(BeTrue(), "the policy is in force")
		Consistently(func() []audit.View { return h.entries(audit.KindChangeImmutability) }).WithTimeout(300 * time.Millisecond).Should(BeEmpty())
		full.Store(false)
		h.swept(teamA, p.UUID)
		Expect(h.entries(audit.KindChangeImmutability)).To(HaveLen(1))
		Expect(h.tag(app, "v1")).To(Equal(d))
	})
})
