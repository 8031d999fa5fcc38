package core_test

import (
	"context"
	"fmt"
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
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
)

// These are cores of several processes over one database: nothing but the database tells one of the other.
var _ = Describe("Replicas", func() {
	var a, b *harness
	BeforeEach(func() {
		a = &harness{open: engines["postgres"]}
		a.start()
		b = &harness{open: a.open, dir: a.dir, clock: a.clock, gate: newGate(), n: 1000}
		b.run()
	})
	AfterEach(func() {
		a.stop()
		b.stop()
	})

	It("end an expired readonly superuser once, both of them at it, and never one that was given a later time meanwhile", func() {
		const grants = 30
		put := func(i int, generation int64, at time.Time) {
			GinkgoHelper()
			m := granted(fmt.Sprintf("u%d", i), generation, until(at), to(domain.Subject{Kind: domain.SubjectGroup, Name: fmt.Sprintf("group-%d", i)}))
			m.Manager.Name = fmt.Sprintf("audit-%d", i)
			_, err := a.PutManagedReadonlySuperuser(ctx, operator, m)
			Expect(err).NotTo(HaveOccurred())
		}
		end := a.clock.Now().Add(time.Hour)
		for i := range grants {
			put(i, 1, end)
		}
		later := end.Add(time.Hour)
		var wg sync.WaitGroup
		wg.Go(func() {
			defer GinkgoRecover()
			for i := range grants / 2 {
				put(i, 2, later)
			}
		})
		a.clock.Advance(time.Hour)
		wg.Wait()
		ended := func() map[string]int {
			times := map[string]int{}
			for _, e := range a.entries(audit.KindExpireReadonly) {
				times[e.Metadata["username"].(string)]++
			}
			return times
		}
		// Those that were given a later time may have ended before.
		Eventually(ended).WithTimeout(patience).Should(HaveKey(fmt.Sprintf("group-%d", grants-1)))
		Consistently(ended, "50ms").Should(And(Not(BeEmpty()), HaveEach(1)))
		for i := range grants / 2 {
			status, err := b.ManagedReadonlySuperuser(ctx, domain.KindReadonlySuperuser, fmt.Sprintf("audit-%d", i))
			Expect(err).NotTo(HaveOccurred())
			Expect(status.Active).To(BeTrue())
			Expect(status.ExpiresAt).To(BeTemporally("~", later, time.Millisecond))
		}
	})

	It("push at once: a new organization and a new repository are made once, and the log has neither gaps nor doubles", func() {
		var wg sync.WaitGroup
		for worker, h := range []*harness{a, b, a, b, a, b, a, b} {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := range 25 {
					_, err := h.pushContent(app, fmt.Sprintf("t%d", i), fmt.Sprintf(`{"worker":%d,"push":%d}`, worker, i))
					Expect(err).NotTo(HaveOccurred())
				}
			})
		}
		wg.Wait()
		entries := b.entries()
		for i, e := range entries {
			Expect(e.Index).To(Equal(int64(i)))
		}
		Expect(a.entries(audit.KindOrgCreate)).To(HaveLen(1))
		Expect(a.entries(audit.KindCreateRepo)).To(HaveLen(1))
		Expect(a.entries(audit.KindCreateTag)).To(HaveLen(25))
		By("finding in each tag's history that each push replaced the one before")
		points := map[string]string{}
		for _, e := range entries {
			if e.Kind == audit.KindMoveTag {
				Expect(e.Metadata["original_manifest_digest"]).To(Equal(points[e.Tag]))
			}
			if e.Tag != "" {
				points[e.Tag] = e.Metadata["manifest_digest"].(string)
			}
		}
		for tag, d := range points {
			Expect(a.tag(app, tag).String()).To(Equal(d))
		}
	})

	It("refuse what a policy covers that another stored: no tag moves behind the policy's entry", func() {
		const tags = 8
		a.mustPush(app, "other")
		var stop atomic.Bool
		var wg sync.WaitGroup
		for worker, h := range []*harness{a, b, a, b, b, b} {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := 0; !stop.Load(); i++ {
					_, err := h.pushContent(app, fmt.Sprintf("v%d", i%tags), fmt.Sprintf(`{"worker":%d,"push":%d}`, worker, i))
					if err != nil {
						Expect(err).To(haveCode(domain.CodeTagImmutable))
					}
				}
			})
		}
		Eventually(func() int { return len(a.entries(audit.KindMoveTag)) }).WithTimeout(patience).Should(BeNumerically(">", 50))
		a.mustCreate(teamA, releases)
		standing := map[string]digest.Digest{}
		for i := range tags {
			tag := fmt.Sprintf("v%d", i)
			standing[tag] = b.tag(app, tag)
		}
		Eventually(func() int { return len(b.entries(audit.KindPushFailed)) }).WithTimeout(patience).Should(BeNumerically(">", 0))
		b.idle()
		stop.Store(true)
		wg.Wait()
		for tag, d := range standing {
			if d != "" {
				Expect(a.tag(app, tag)).To(Equal(d))
			}
		}
		created := b.entries(audit.KindCreatePolicy)[0].Index
		for _, e := range b.entries(audit.KindMoveTag) {
			Expect(e.Index).To(BeNumerically("<", created))
		}
		Expect(sorted(holdsInLog(a.entries()))).To(HaveLen(tags))
	})

	It("sweep at once: each hold is placed once, with one entry, and there is one summary", func() {
		const tags = 400
		for _, h := range []*harness{a, b} {
			h.stop()
			h.options.SweepBatch = 2
			h.run()
		}
		for i := range tags {
			_, err := a.pushContent(app, fmt.Sprintf("v%d", i), `{"same":true}`)
			Expect(err).NotTo(HaveOccurred())
		}
		p := a.mustCreate(teamA, releases)
		// The other one is woken too, else it would look only when this one is done.
		b.mustCreate(core.Scope{Organization: "team-a", Repository: "app"}, spec("v1.*"))
		status := b.swept(teamA, p.UUID)
		b.idle()
		Expect(status.Held).To(Equal(int64(tags)))
		Expect(holdsInLog(b.entries())).To(HaveLen(tags + 111))
		Expect(b.entries(audit.KindChangeImmutability)).To(HaveLen(tags + 111))
		Expect(b.entries(audit.KindApplyPolicy)).To(HaveLen(2))
	})

	It("say of each hold that a sweep places or removes what its tag points to by then, while signatures are added", func() {
		const tags = 40
		names := make([]string, tags)
		for i := range names {
			names[i] = signatureTag(digest.FromString(fmt.Sprint(i)), ".sig")
			a.mustPut(app, names[i], imageOf("1", signature("0")))
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				defer GinkgoRecover()
				for signatures, n := []string{signature("0")}, 1; !stop.Load(); n++ {
					signatures = append(signatures[:min(n, 20)], signature(fmt.Sprint(n)))
					for i := worker; i < tags && !stop.Load(); i += 4 {
						_, err := b.put(app, names[i], imageOf("1", signatures...))
						if err != nil {
							Expect(err).To(haveCode(domain.CodeTagImmutable))
						}
					}
				}
			})
		}
		withdrawn := spec("sha256-.*")
		withdrawn.ReclaimPolicy = domain.Release
		for range 10 {
			p := a.mustCreate(teamA, withdrawn)
			Expect(a.swept(teamA, p.UUID).Held).To(BeEquivalentTo(tags))
			Expect(a.DeletePolicy(ctx, alice, teamA, p.UUID)).To(Succeed())
			a.idle()
		}
		stop.Store(true)
		wg.Wait()
		points := map[string]any{}
		for _, e := range b.entries(audit.KindCreateTag, audit.KindMoveTag, audit.KindChangeImmutability) {
			if e.Kind != audit.KindChangeImmutability {
				points[e.Tag] = e.Metadata["manifest_digest"]
			}
			Expect(e.Metadata["manifest_digest"]).To(Equal(points[e.Tag]), "entry %d", e.Index)
		}
	})

	It("go on with the sweep of one that died in the middle of it", func() {
		a.stop()
		a.options.SweepBatch = 2
		a.run()
		for i := range 100 {
			a.mustPush(app, fmt.Sprintf("v%d", i))
		}
		a.gate.allow(3)
		b.gate.allow(0)
		p := a.mustCreate(teamA, releases)
		Eventually(a.gate.used).WithTimeout(patience).Should(BeTrue())
		a.cancel()
		Eventually(a.done).WithTimeout(patience).Should(Receive(BeNil()))
		a.done <- nil // for stop
		status, err := b.PolicyStatus(ctx, teamA, p.UUID)
		Expect(err).NotTo(HaveOccurred())
		Expect(status.Held).To(And(BeNumerically(">", 0), BeNumerically("<", 100)))
		b.gate.open()
		Expect(b.swept(teamA, p.UUID).Held).To(Equal(int64(100)))
		Expect(holdsInLog(b.entries())).To(HaveLen(100))
		Expect(b.entries(audit.KindChangeImmutability)).To(HaveLen(100))
	})

	It("carry out a due deletion once", func() {
		_, err := a.PutManagedPolicy(ctx, operator, managed("u1", 1))
		Expect(err).NotTo(HaveOccurred())
		Expect(b.DeleteManagedPolicy(ctx, operator, cluster, managed("u1", 1).Manager, false)).To(Succeed())
		a.clock.Advance(time.Hour)
		Eventually(func() []audit.View { return a.entries(audit.KindDeletePolicy) }).WithTimeout(patience).Should(HaveLen(1))
		a.idle()
		Consistently(func() []audit.View { return b.entries(audit.KindDeletePolicy) }).WithTimeout(time.Second).Should(HaveLen(1))
	})

	It("show at once what another one has committed, and wake who waits for it", func() {
		a.mustPush(app, "latest")
		Expect(b.entries(audit.KindCreateTag)).To(HaveLen(1))
		size := int64(len(b.entries()))
		woken := make(chan error, 1)
		go func() { woken <- b.WaitLog(ctx, size-1) }()
		Consistently(woken).WithTimeout(50 * time.Millisecond).ShouldNot(Receive())
		a.mustPush(app, "next")
		Eventually(woken).WithTimeout(patience).Should(Receive(BeNil()))
	})

	// organizations makes those in which two operators then put policies at once.
	organizations := func() {
		GinkgoHelper()
		for i := range 2 {
			a.mustPush(domain.RepositoryName{Organization: fmt.Sprintf("team-%d", i), Path: "app"}, "latest")
		}
	}

	It("name the log alike, and agree on the first cluster", func() {
		organizations()
		var wg sync.WaitGroup
		var origins sync.Map
		var accepted atomic.Int64
		for i, h := range []*harness{a, b} {
			wg.Go(func() {
				defer GinkgoRecover()
				origin, err := h.LogOrigin(ctx)
				Expect(err).NotTo(HaveOccurred())
				origins.Store(origin, true)
				m := managed("u1", 1)
				m.Cluster, m.Manager.Name, m.Scope.Organization = fmt.Sprintf("cluster-%d", i), fmt.Sprint(i), fmt.Sprintf("team-%d", i)
				m.Claim.Organizations = []string{m.Scope.Organization}
				if _, err := h.PutManagedPolicy(ctx, operator, m); err != nil {
					Expect(err).To(haveCode(domain.CodeOtherCluster))
					return
				}
				accepted.Add(1)
			})
		}
		wg.Wait()
		Expect(accepted.Load()).To(Equal(int64(1)))
		n := 0
		origins.Range(func(any, any) bool { n++; return true })
		Expect(n).To(Equal(1))
	})

	It("keep one policy for an object, whichever organization two operators put it in at once", func() {
		organizations()
		for round := range 10 {
			var wg sync.WaitGroup
			for i, h := range []*harness{a, b} {
				m := managed(fmt.Sprintf("u-%d-%d", round, i), 1)
				m.Scope.Organization = fmt.Sprintf("team-%d", i)
				m.Claim.Organizations = []string{m.Scope.Organization}
				wg.Go(func() {
					defer GinkgoRecover()
					_, err := h.PutManagedPolicy(ctx, operator, m)
					Expect(err).NotTo(HaveOccurred())
				})
			}
			wg.Wait()
			var live []domain.Policy
			Expect(a.store.Read(ctx, func(r *meta.Reader) (err error) {
				live, err = r.ManagedPolicies()
				return err
			})).To(Succeed())
			Expect(live).To(HaveLen(1))
		}
	})

	It("notice that the registry was handed over to another cluster", func() {
		for _, h := range []*harness{a, b} {
			h.with(func(o *core.Options) { o.RequireSync = true })
		}
		_, err := b.push(app, "v1")
		Expect(err).To(haveCode(domain.CodeUnavailable))
		Expect(a.Synced(ctx, operator, cluster, nil)).To(Succeed())
		b.mustPush(app, "v1")
		Expect(a.AdoptCluster(ctx, operator, "another")).To(Succeed())
		b.clock.Advance(time.Second)
		_, err = b.push(app, "v2")
		Expect(err).To(haveCode(domain.CodeUnavailable))
	})
})

var _ = Describe("A database that is restarted in the middle of pushes", func() {
	It("loses nothing that was acknowledged, leaves nothing half done, and needs nobody", func() {
		server, err := postgrestest.New()
		Expect(err).NotTo(HaveOccurred())
		defer func() { Expect(server.Close()).To(Succeed()) }()
		h := &harness{open: func(dir string) meta.Store {
			dsn, err := server.Database(dir)
			Expect(err).NotTo(HaveOccurred())
			store, err := postgres.Open(context.Background(), dsn, quiet)
			Expect(err).NotTo(HaveOccurred())
			return store
		}}
		h.start()
		defer h.stop()
		h.mustPush(app, "other")
		h.mustCreate(teamA, releases)

		var acknowledged sync.Map
		var stop atomic.Bool
		var pushed, refused atomic.Int64
		var wg sync.WaitGroup
		for worker := range 8 {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := 0; !stop.Load(); i++ {
					tag := fmt.Sprintf("v%d.%d", worker, i)
					d, err := h.pushContent(app, tag, fmt.Sprintf(`{"tag":%q}`, tag))
					if err != nil {
						Expect(err).To(haveCode(domain.CodeUnavailable))
						refused.Add(1)
						continue
					}
					acknowledged.Store(tag, d)
					pushed.Add(1)
				}
			})
		}
		for range 3 {
			before := pushed.Load()
			Eventually(pushed.Load).WithTimeout(patience).Should(BeNumerically(">", before+50))
			Expect(server.Stop()).To(Succeed())
			away := refused.Load()
			Eventually(refused.Load).WithTimeout(patience).Should(BeNumerically(">", away+8))
			Expect(h.Ready(ctx)).To(haveCode(domain.CodeUnavailable))
			Expect(server.Start()).To(Succeed())
			Eventually(func() error { return h.Ready(ctx) }).WithTimeout(patience).Should(Succeed())
		}
		before := pushed.Load()
		Eventually(pushed.Load).WithTimeout(patience).Should(BeNumerically(">", before+50))
		stop.Store(true)
		wg.Wait()

		entries := h.entries()
		for i, e := range entries {
			Expect(e.Index).To(Equal(int64(i)))
		}
		tags, holds := tagsInLog(entries), holdsInLog(entries)
		acknowledged.Range(func(tag, d any) bool {
			Expect(tags).To(HaveKeyWithValue("app:"+tag.(string), d.(digest.Digest).String()))
			return true
		})
		By("finding for each tag, acknowledged or not, its manifest, its entry and its hold")
		views, err := h.ListTags(ctx, app, core.TagQuery{Limit: 1_000_000})
		Expect(err).NotTo(HaveOccurred())
		Expect(views).To(HaveLen(len(tags)))
		for _, v := range views {
			Expect(tags).To(HaveKeyWithValue("app:"+v.Name, v.Digest.String()))
			m, err := h.Manifest(ctx, app, domain.Reference{Tag: v.Name}, true)
			Expect(err).NotTo(HaveOccurred())
			Expect(digest.FromBytes(m.Content)).To(Equal(v.Digest))
			Expect(v.Immutable).To(Equal(v.Name != "other"))
		}
		Expect(holds).To(HaveLen(len(tags) - 1))
	})
})
