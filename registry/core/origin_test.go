package core_test

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// leaves returns the leaves of the log, by index, as they are stored.
func (h *harness) leaves() (list [][]byte) {
	GinkgoHelper()
	h.entries() // all that was committed has its index
	Expect(h.store.Read(ctx, func(r *meta.Reader) error {
		entries, err := r.Log(audit.Query{After: -1, Ascending: true, Limit: 1_000_000})
		for i, e := range entries {
			Expect(e.Index).To(Equal(int64(i)))
			list = append(list, e.Leaf)
		}
		return err
	})).To(Succeed())
	return list
}

// checkpoint is that of the first entries of the log, or of all with size -1, made without the stored tree.
func (h *harness) checkpoint(size int64) audit.Checkpoint {
	GinkgoHelper()
	leaves := h.leaves()
	if size >= 0 {
		leaves = leaves[:size]
	}
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (found []tlog.Hash, _ error) {
		for _, i := range indexes {
			found = append(found, hashes[i])
		}
		return found, nil
	})
	for i, leaf := range leaves {
		more, err := tlog.StoredHashes(int64(i), leaf, reader)
		Expect(err).NotTo(HaveOccurred())
		hashes = append(hashes, more...)
	}
	root, err := tlog.TreeHash(int64(len(leaves)), reader)
	Expect(err).NotTo(HaveOccurred())
	origin, err := h.LogOrigin(ctx)
	Expect(err).NotTo(HaveOccurred())
	return audit.Checkpoint{Origin: origin, Size: int64(len(leaves)), Root: root}
}

// origins lists the origins of the log's entries.
func (h *harness) origins() (list []string) {
	GinkgoHelper()
	for _, leaf := range h.leaves() {
		var fields struct{ Origin string }
		Expect(json.Unmarshal(leaf, &fields)).To(Succeed())
		list = append(list, fields.Origin)
	}
	return list
}

func (h *harness) published(c audit.Checkpoint) core.LogStatus {
	GinkgoHelper()
	status, err := h.Published(ctx, operator, cluster, c.Text())
	Expect(err).NotTo(HaveOccurred())
	return status
}

// lost is a checkpoint of entries that the log does not have any more.
func (h *harness) lost(entries int64) audit.Checkpoint {
	GinkgoHelper()
	c := h.checkpoint(-1)
	c.Size, c.Root = c.Size+entries, tlog.Hash{1}
	return c
}

var beReadOnly = And(haveCode(domain.CodeUnavailable), MatchError(ContainSubstring("tidelock audit fork --reason")))

var _ = eachEngine("A published checkpoint", func(h *harness) {
	BeforeEach(func() { h.mustPush(app, "v1") })

	It("is one of the log, as long as the log only grows", func() {
		first := h.checkpoint(-1)
		Expect(h.published(first)).To(Equal(core.LogStatus{Origin: first.Origin}))
		h.mustPush(app, "v2")
		h.mustPush(app, "v3")
		Expect(h.published(first).ReadOnly).To(BeEmpty())
		Expect(h.published(h.checkpoint(first.Size + 1)).ReadOnly).To(BeEmpty())
		Expect(h.published(h.checkpoint(-1)).ReadOnly).To(BeEmpty())
		h.mustPush(app, "v4")
	})

	It("comes from the cluster that the registry belongs to, and is one", func() {
		h.published(h.checkpoint(-1))
		_, err := h.Published(ctx, operator, "another", h.lost(1).Text())
		Expect(err).To(haveCode(domain.CodeOtherCluster))
		_, err = h.Published(ctx, operator, cluster, "tidelock/one\n-1\n\n")
		Expect(err).To(haveCode(domain.CodeInvalid))
		h.mustPush(app, "v2")
	})

	It("that has more entries than the log makes the registry read-only, till a fork", func() {
		_, err := h.expire(app, "v1")
		Expect(err).NotTo(HaveOccurred())
		d := h.tag(app, "v1")
		published := h.lost(5)
		Expect(h.published(published).ReadOnly).To(ContainSubstring("of its audit log was published, but the log has fewer"))

		writes := func() {
			GinkgoHelper()
			for what, write := range map[string]func() error{
				"push":         func() error { _, err := h.push(app, "v2"); return err },
				"same push":    func() error { _, err := h.pushContent(app, "v1", `{"image":1}`); return err },
				"delete":       func() error { return h.DeleteTag(ctx, alice, app, "v1") },
				"policy":       func() error { _, err := h.CreatePolicy(ctx, alice, teamA, releases); return err },
				"user":         func() error { return h.CreateUser(ctx, alice, core.NewUser{Name: "carol"}) },
				"organization": func() error { _, err := h.CreateOrganization(ctx, alice, "team-b"); return err },
				"upload": func() error {
					_, err := h.BeginUpload(ctx, alice, app, domain.Upload{ID: "u"}, false)
					return err
				},
				"collection": func() error { _, err := h.Collect(ctx); return err },
			} {
				Expect(write()).To(beReadOnly, what)
			}
		}
		writes()
		By("reading and writing the log on")
		Expect(h.tag(app, "v1")).To(Equal(d))
		Expect(h.LoginFailed(ctx, "carol", "192.0.2.1")).To(Succeed())
		Expect(h.entries(audit.KindLoginFailure)).To(HaveLen(1))
		Expect(h.entries(audit.KindCreateTag)).To(HaveLen(1))

		By("knowing it after a restart, also when the log has become as long as it was")
		h.with(func(*core.Options) {})
		for i := range 6 {
			Expect(h.LoginFailed(ctx, "carol", "198.51.100."+string(rune('0'+i)))).To(Succeed())
		}
		h.clock.Advance(2 * time.Hour)
		writes()
		Consistently(func() any { return h.tag(app, "v1") }).WithTimeout(100*time.Millisecond).Should(Equal(d), "it has expired, and stays")

		By("taking in what the operator brings")
		_, err = h.PutManagedPolicy(ctx, operator, changed(managed("u1", 1), func(m *core.ManagedPolicy) { m.Claim.Organizations = []string{"team-a"} }))
		Expect(err).NotTo(HaveOccurred())
		h.idle()

		By("forking the log")
		before := h.checkpoint(-1)
		fork, err := h.ForkLog(ctx, domain.System, " restored from the backup of Friday ", false)
		Expect(err).NotTo(HaveOccurred())
		Expect(fork).To(And(HaveField("Index", before.Size), HaveField("PreviousOrigin", before.Origin), HaveField("Checkpoint", published)))
		Expect(h.LogStatus(ctx)).To(Equal(core.LogStatus{Origin: fork.Origin, OriginIndex: before.Size}))
		h.mustPush(app, "other")
		Expect(h.published(published).ReadOnly).To(BeEmpty(), "the fork explains it")
		Expect(h.published(h.checkpoint(-1)).ReadOnly).To(BeEmpty())
	})

	It("with another root makes the registry read-only", func() {
		changed := h.checkpoint(-1)
		changed.Root[0] ^= 1
		h.mustPush(app, "v2")
		Expect(h.published(changed).ReadOnly).To(ContainSubstring("are not those of the checkpoint that was published"))
		_, err := h.push(app, "v3")
		Expect(err).To(beReadOnly)
		Expect(h.published(h.checkpoint(-1)).ReadOnly).NotTo(BeEmpty(), "it stays so till somebody explains it")
	})

	It("of another log makes the registry read-only", func() {
		foreign := h.checkpoint(-1)
		foreign.Origin = "tidelock/another"
		Expect(h.published(foreign).ReadOnly).To(ContainSubstring("was published for the audit log tidelock/another"))
		_, err := h.push(app, "v3")
		Expect(err).To(beReadOnly)
	})
})

var _ = eachEngine("A fork of the log", func(h *harness) {
	BeforeEach(func() { h.mustPush(app, "v1") })

	It("begins a new origin with the next index, and says what was lost", func() {
		published := h.lost(3)
		h.published(published)
		next := int64(len(h.leaves()))
		fork, err := h.ForkLog(ctx, domain.System, "restored", false)
		Expect(err).NotTo(HaveOccurred())
		Expect(fork.Lost()).To(Equal(int64(3)))
		h.mustPush(app, "v2")
		entries := h.entries(audit.KindForkLog)
		Expect(entries).To(HaveLen(1))
		Expect(entries[0]).To(And(HaveField("Index", next), HaveField("PerformerKind", domain.CallerSystem)))
		Expect(entries[0].Metadata).To(Equal(map[string]any{
			"previous_origin": published.Origin, "checkpoint": published.Text(), "reason": "restored",
			"lost_from": float64(next), "lost_to": float64(next + 2),
		}))
		for i, origin := range h.origins() {
			Expect(origin).To(Equal(map[bool]string{true: published.Origin, false: fork.Origin}[int64(i) < next]), "entry %d", i)
		}
		Expect(fork.Origin).To(And(HavePrefix("tidelock/"), HaveLen(len(published.Origin)), Not(Equal(published.Origin))))
		By("keeping the installation's name, by which replicas know each other")
		Expect(h.Name(ctx)).To(Equal(published.Origin))
	})

	It("needs something to explain, or force, and a reason", func() {
		_, err := h.ForkLog(ctx, domain.System, "no reason", false)
		Expect(err).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("nothing to explain"))))
		for _, reason := range []string{"", " ", string(make([]byte, 2000))} {
			_, err = h.ForkLog(ctx, domain.System, reason, true)
			Expect(err).To(haveCode(domain.CodeInvalid))
		}
		Expect(h.entries(audit.KindForkLog)).To(BeEmpty())
		own := h.checkpoint(-1)
		fork, err := h.ForkLog(ctx, domain.System, "restored by hand", true)
		Expect(err).NotTo(HaveOccurred())
		Expect(fork).To(And(HaveField("Checkpoint", own), HaveField("Index", own.Size)))
		metadata := h.entries(audit.KindForkLog)[0].Metadata
		Expect(metadata).To(And(HaveKeyWithValue("checkpoint", own.Text()), Not(HaveKey("lost_from"))))
	})

	It("explains one checkpoint only, and another fork the next", func() {
		first := h.lost(1)
		h.published(first)
		_, err := h.ForkLog(ctx, domain.System, "first", false)
		Expect(err).NotTo(HaveOccurred())
		second := first
		second.Size++
		Expect(h.published(second).ReadOnly).NotTo(BeEmpty())
		fork, err := h.ForkLog(ctx, domain.System, "second", false)
		Expect(err).NotTo(HaveOccurred())
		Expect(fork.Checkpoint).To(Equal(second))
		Expect(h.published(second).ReadOnly).To(BeEmpty())
		h.mustPush(app, "v2")
	})
})

// These are cores of several processes over one database.
var _ = Describe("A fork among replicas", func() {
	var a, b *harness
	BeforeEach(func() {
		a = &harness{open: engines["postgres"]}
		a.start()
		b = &harness{open: a.open, dir: a.dir, clock: a.clock, gate: newGate(), n: 1000, options: a.options}
		b.run()
		a.mustPush(app, "v1")
		b.mustPush(app, "v2")
	})
	AfterEach(func() {
		a.stop()
		b.stop()
	})

	It("and what makes it necessary are known to all of them with the next write", func() {
		a.published(a.lost(1))
		_, err := b.push(app, "v3")
		Expect(err).To(beReadOnly)
		fork, err := a.ForkLog(ctx, domain.System, "restored", false)
		Expect(err).NotTo(HaveOccurred())
		b.mustPush(app, "v4")
		origins := b.origins()
		Expect(origins[len(origins)-1]).To(Equal(fork.Origin))
	})

	It("is needed before tags expire, also at one that has not noticed yet", func() {
		at := a.clock.Now().Add(500 * time.Millisecond)
		Expect(a.ChangeTag(ctx, alice, app, "v1", core.TagChange{Expiration: &at})).To(Succeed())
		b.mustPush(app, "v3") // it will not look for a second, by its clock
		a.published(a.lost(1))
		b.clock.Advance(900 * time.Millisecond)
		Consistently(func() any { return b.tag(app, "v1") }).WithTimeout(200 * time.Millisecond).ShouldNot(BeEmpty())
	})

	It("leaves no entry of the old origin behind it, and none of the new one before", func() {
		var wg sync.WaitGroup
		var stop atomic.Bool
		var pushed atomic.Int64
		for _, h := range []*harness{a, b, a, b, a, b} {
			wg.Go(func() {
				defer GinkgoRecover()
				for i := 0; !stop.Load(); i++ {
					_, err := h.pushContent(app, "moving", `{"push":`+time.Now().Format(`"150405.000000000"`)+`}`)
					Expect(err).NotTo(HaveOccurred())
					pushed.Add(1)
				}
			})
		}
		var forks []core.Fork
		for range 10 {
			before := pushed.Load()
			Eventually(pushed.Load).WithTimeout(patience).Should(BeNumerically(">", before+20))
			fork, err := b.ForkLog(ctx, domain.System, "again", true)
			Expect(err).NotTo(HaveOccurred())
			forks = append(forks, fork)
		}
		stop.Store(true)
		wg.Wait()
		entries, origins := a.entries(audit.KindForkLog), a.origins()
		Expect(entries).To(HaveLen(len(forks)))
		forks = append(forks, core.Fork{Index: int64(len(origins)), PreviousOrigin: forks[len(forks)-1].Origin})
		var from int64
		for i, fork := range forks {
			Expect(origins[from:fork.Index]).To(HaveEach(fork.PreviousOrigin), "before fork %d", i)
			from = fork.Index
			if i < len(entries) {
				Expect(entries[i].Index).To(Equal(fork.Index))
			}
		}
	})
})
