package core_test

import (
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
	"github.com/tidelock/tidelock/registry/seal"
)

var none domain.MirrorProgress

// beOver matches the error of what is written for a sync that is over.
func beOver() OmegaMatcher {
	return And(haveCode(domain.CodeConflict), MatchError(core.ErrSyncOver))
}

// synced is a repository of which so many tags were copied.
func synced(name string, tags int64) domain.MirrorRepository {
	return domain.MirrorRepository{Name: name, State: domain.SyncSucceeded, MirrorProgress: domain.MirrorProgress{Tags: domain.MirrorCounts{Discovered: tags, Copied: tags}, BytesCopied: 10 * tags}}
}

// finish carries out a sync of repositories.
func (h *harness) finish(claim *core.MirrorClaim, state domain.SyncState, names ...string) {
	GinkgoHelper()
	Expect(h.DiscoverMirrorRepositories(ctx, claim, names)).To(Succeed())
	for _, name := range names {
		Expect(h.FinishMirrorRepository(ctx, claim, synced(name, 1), nil, nil)).To(Succeed())
	}
	Expect(h.FinishMirrorSync(ctx, claim, state, "done")).To(Succeed())
}

// mirrorPush stores a new image as the mirror.
func (h *harness) mirrorPush(claim *core.MirrorClaim, tag string) error {
	h.n++
	_, err := h.PutManifest(ctx, claim.Caller, app, core.Push{Reference: domain.Reference{Tag: tag}, Manifest: manifest(fmt.Sprintf(`{"image":%d}`, h.n)), Create: core.CreateRepository})
	return err
}

func (h *harness) mustMirrorPush(claim *core.MirrorClaim, tag string) {
	GinkgoHelper()
	Expect(h.mirrorPush(claim, tag)).To(Succeed())
}

func (h *harness) pending(claim *core.MirrorClaim) []string {
	GinkgoHelper()
	names, err := h.PendingMirrorRepositories(ctx, claim, "", 100)
	Expect(err).NotTo(HaveOccurred())
	return names
}

// repositoryStates are what the mirror's repositories are in.
func (h *harness) repositoryStates() map[string]domain.SyncState {
	GinkgoHelper()
	list, total, err := h.MirrorRepositories(ctx, "team-a", core.MirrorRepositoriesQuery{Limit: 100})
	Expect(err).NotTo(HaveOccurred())
	Expect(total).To(BeEquivalentTo(len(list)))
	states := map[string]domain.SyncState{}
	for _, repo := range list {
		states[repo.Name] = repo.State
	}
	return states
}

var _ = eachEngineWithKey("A mirror's sync", func(h *harness) {
	// expectOver expects that nothing of a sync counts any more.
	expectOver := func(claim *core.MirrorClaim) {
		GinkgoHelper()
		before := len(h.entries())
		Expect(h.BeatMirrorSync(ctx, claim, none)).To(BeFalse())
		Expect(h.mirrorPush(claim, "late")).To(beOver())
		_, err := h.LinkBlob(ctx, claim.Caller, app, domain.Blob{Digest: digest.FromString("late"), Size: 4, Key: "late"}, core.CreateRepository)
		Expect(err).To(beOver())
		Expect(h.DeleteTag(ctx, claim.Caller, app, "late")).To(beOver())
		Expect(h.DiscoverMirrorRepositories(ctx, claim, []string{"late"})).To(beOver())
		Expect(h.FinishMirrorRepository(ctx, claim, synced("a", 1), nil, nil)).To(beOver())
		Expect(h.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(beOver())
		Expect(h.LeaveMirrorSync(ctx, claim)).To(Succeed())
		Expect(h.entries()).To(HaveLen(before))
		_, err = h.Repository(ctx, domain.RepositoryName{Organization: "team-a", Path: "late"})
		Expect(err).To(haveCode(domain.CodeNameUnknown))
	}

	It("begins at once, once, and then by the interval, a little later each time", func() {
		h.mustMirror(hourly, credentials)
		start := h.clock.Now()
		claim := h.mustClaim()
		Expect(claim.Fresh).To(BeTrue())
		Expect(claim.Secrets).To(Equal(credentials))
		Expect(claim.Sync).To(And(HaveField("Number", BeEquivalentTo(1)), HaveField("State", domain.SyncRunning), HaveField("Trigger", domain.SyncScheduled)))
		Expect(claim.Caller).To(And(HaveField("Kind", domain.CallerMirror), HaveField("Name", "team-a")))
		Expect(h.claim()).To(BeNil())
		Expect(h.mirror().NextSync).To(BeTemporally("~", start.Add(time.Hour+90*time.Second), 91*time.Second))
		Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorStarted), HaveField("PerformerKind", domain.CallerMirror), HaveField("Metadata", And(
			HaveKeyWithValue("started_by", "schedule"), HaveKeyWithValue("trigger", "mirror"), HaveKeyWithValue("mirror_uuid", claim.Mirror.UUID)))))
		h.finish(claim, domain.SyncSucceeded, "a", "b")
		m := h.mirror()
		Expect(m.LastSuccess).To(BeTemporally(">", start))
		Expect(m.Last.State).To(Equal(domain.SyncSucceeded))
		Expect(m.Last.MirrorProgress).To(Equal(domain.MirrorProgress{
			Repositories: domain.MirrorCounts{Discovered: 2, Copied: 2}, Tags: domain.MirrorCounts{Discovered: 2, Copied: 2}, BytesCopied: 20,
		}))
		Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorSuccess), HaveField("Metadata", And(
			HaveKeyWithValue("repositories_count", BeEquivalentTo(2)), HaveKeyWithValue("tags_copied_count", BeEquivalentTo(2)), HaveKeyWithValue("message", "done")))))
		claim, wait, err := h.ClaimMirrorSync(ctx, "replica")
		Expect(err).NotTo(HaveOccurred())
		Expect(claim).To(BeNil())
		Expect(wait).To(Equal(time.Minute))
		h.clock.Advance(time.Hour - time.Minute)
		_, wait, err = h.ClaimMirrorSync(ctx, "replica")
		Expect(err).NotTo(HaveOccurred())
		Expect(wait).To(BeNumerically("<=", time.Minute+3*time.Minute))
		h.clock.Advance(5 * time.Minute)
		Expect(h.mustClaim().Sync.Number).To(BeEquivalentTo(2))
	})

	It("is claimed once, however many ask at once", func() {
		h.mustMirror(hourly, credentials)
		for range 5 {
			var claims atomic.Int64
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					defer GinkgoRecover()
					if h.claim() != nil {
						claims.Add(1)
					}
				})
			}
			wg.Wait()
			Expect(claims.Load()).To(BeEquivalentTo(1))
			Expect(h.CancelMirrorSync(ctx, alice, "team-a")).To(Succeed())
			h.clock.Advance(2 * time.Hour)
		}
	})

	It("follows cron and a start in the future", func() {
		nightly := changedMirror(hourly, func(s *domain.MirrorSpec) { s.Schedule = domain.MirrorSchedule{Cron: "30 4 * * *"} })
		h.mustMirror(nightly, credentials)
		Expect(h.mirror().NextSync).To(Equal(time.Date(2026, 3, 7, 4, 30, 0, 0, time.UTC)))
		Expect(h.claim()).To(BeNil())
		h.clock.Advance(19 * time.Hour)
		h.finish(h.mustClaim(), domain.SyncSucceeded, "a")
		Expect(h.mirror().NextSync).To(Equal(time.Date(2026, 3, 8, 4, 30, 0, 0, time.UTC)))
		start := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
		later, err := h.UpdateMirror(ctx, alice, "team-a", changedMirror(hourly, func(s *domain.MirrorSpec) { s.Schedule.StartAt = start }), credentials)
		Expect(err).NotTo(HaveOccurred())
		Expect(later.NextSync).To(Equal(start))
		Expect(h.claim()).To(BeNil())
		h.clock.Advance(30 * 24 * time.Hour)
		h.mustClaim()
	})

	It("counts what is done even where it is told twice, and can be read page by page and by state", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		Expect(h.DiscoverMirrorRepositories(ctx, claim, []string{"c", "a", "b", "a", "d/e"})).To(Succeed())
		Expect(h.pending(claim)).To(Equal([]string{"a", "b", "c", "d/e"}))
		broken := domain.MirrorRepository{Name: "b", State: domain.SyncSucceeded, Message: "broken", MirrorProgress: domain.MirrorProgress{Tags: domain.MirrorCounts{Discovered: 3, Copied: 2, Failed: 1}, BytesSaved: 7}}
		for range 2 {
			Expect(h.FinishMirrorRepository(ctx, claim, synced("a", 4), nil, nil)).To(Succeed())
			Expect(h.FinishMirrorRepository(ctx, claim, broken, []domain.MirrorFailure{{Repository: "b", Tag: "v1", Reason: "no blob"}}, []domain.MirrorConflict{{Repository: "b", Tag: "v2"}})).To(Succeed())
		}
		Expect(h.FinishMirrorRepository(ctx, claim, domain.MirrorRepository{Name: "c", State: domain.SyncSkipped, Message: "it vanished"}, nil, nil)).To(Succeed())
		Expect(h.pending(claim)).To(Equal([]string{"d/e"}))
		Expect(h.PendingMirrorRepositories(ctx, claim, "d/e", 10)).To(BeEmpty())
		Expect(h.repositoryStates()).To(Equal(map[string]domain.SyncState{"a": domain.SyncSucceeded, "b": domain.SyncFailed, "c": domain.SyncSkipped, "d/e": ""}))
		page, total, err := h.MirrorRepositories(ctx, "team-a", core.MirrorRepositoriesQuery{States: []domain.SyncState{"", domain.SyncFailed}, Offset: 1, Limit: 1})
		Expect(err).NotTo(HaveOccurred())
		Expect(total).To(BeEquivalentTo(2))
		Expect(page).To(ConsistOf(HaveField("Name", "d/e")))
		Expect(h.MirrorRepositoryCounts(ctx, "team-a")).To(Equal(map[domain.SyncState]int64{domain.SyncSucceeded: 1, domain.SyncFailed: 1, domain.SyncSkipped: 1, "": 1}))

		Expect(h.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(Succeed())
		last := h.mirror().Last
		Expect(last.State).To(Equal(domain.SyncFailed), "success is not claimed for them")
		Expect(last.Failures).To(ConsistOf(domain.MirrorFailure{Repository: "b", Tag: "v1", Reason: "no blob"}))
		Expect(last.Conflicts).To(HaveLen(1))
		Expect(last.Repositories).To(Equal(domain.MirrorCounts{Discovered: 4, Copied: 1, Failed: 1, Skipped: 1}))
		Expect(last.Tags).To(Equal(domain.MirrorCounts{Discovered: 7, Copied: 6, Failed: 1}))
		Expect(last.BytesSaved).To(BeEquivalentTo(7))
	})

	It("names the first failures and conflicts, and takes secrets out of what upstreams say", func() {
		h.mustMirror(hourly, domain.MirrorSecrets{Password: "s3cr&t word", Token: "t0ken"})
		claim := h.mustClaim()
		Expect(h.DiscoverMirrorRepositories(ctx, claim, []string{"a", "b"})).To(Succeed())
		for _, name := range []string{"a", "b"} {
			var failures []domain.MirrorFailure
			var conflicts []domain.MirrorConflict
			for i := range 8 {
				failures = append(failures, domain.MirrorFailure{Repository: name, Tag: fmt.Sprint(i), Reason: "GET https://h/?p=s3cr%26t+word s3cr&t word t0ken"})
				conflicts = append(conflicts, domain.MirrorConflict{Repository: name, Tag: fmt.Sprint(i)})
			}
			Expect(h.FinishMirrorRepository(ctx, claim, domain.MirrorRepository{Name: name, State: domain.SyncFailed, Message: "with t0ken"}, failures, conflicts)).To(Succeed())
		}
		Expect(h.FinishMirrorSync(ctx, claim, domain.SyncFailed, "no t0ken", domain.MirrorFailure{Reason: "t0ken"})).To(Succeed())
		last := h.mirror().Last
		Expect(last.Failures).To(HaveLen(domain.MaxMirrorFailures))
		Expect(last.Failures[9]).To(And(HaveField("Repository", "b"), HaveField("Tag", "1")))
		Expect(last.Conflicts).To(HaveLen(domain.MaxMirrorFailures))
		list, _, err := h.MirrorRepositories(ctx, "team-a", core.MirrorRepositoriesQuery{Limit: 10})
		Expect(err).NotTo(HaveOccurred())
		for _, text := range []string{fmt.Sprint(last), fmt.Sprint(list), fmt.Sprint(h.lastMirrorEntry().Metadata)} {
			Expect(text).To(And(ContainSubstring(domain.Redacted), Not(ContainSubstring("t0ken")), Not(ContainSubstring("s3cr"))))
		}
	})

	It("skips what vanished upstream, and does not try it again until it is back", func() {
		h.mustMirror(hourly, credentials)
		h.finish(h.mustClaim(), domain.SyncSucceeded, "a", "b")
		h.clock.Advance(2 * time.Hour)
		claim := h.mustClaim()
		Expect(h.pending(claim)).To(BeEmpty(), "before anything was listed")
		h.finish(claim, domain.SyncSucceeded, "a")
		Expect(h.repositoryStates()).To(Equal(map[string]domain.SyncState{"a": domain.SyncSucceeded, "b": domain.SyncSkipped}))
		Expect(h.mirror().Last.Repositories).To(Equal(domain.MirrorCounts{Discovered: 1, Copied: 1}))
		h.clock.Advance(2 * time.Hour)
		claim = h.mustClaim()
		Expect(h.DiscoverMirrorRepositories(ctx, claim, []string{"a", "b"})).To(Succeed())
		Expect(h.pending(claim)).To(Equal([]string{"a", "b"}))
		Expect(h.repositoryStates()).To(HaveKeyWithValue("b", domain.SyncState("")))
	})

	It("lists thousands of repositories", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		names := make([]string, 2500)
		for i := range names {
			names[i] = fmt.Sprintf("r%04d", i)
		}
		Expect(h.DiscoverMirrorRepositories(ctx, claim, names)).To(Succeed())
		Expect(h.PendingMirrorRepositories(ctx, claim, "r2397", 100)).To(Equal(names[2398:2498]))
		Expect(h.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(Succeed())
		Expect(h.mirror().Last).To(And(HaveField("State", domain.SyncFailed), HaveField("Message", "2500 of 2500 repositories were not synced")))
	})

	It("backs off while it fails: from a minute, twice as long each time, an hour at most and never longer than the interval", func() {
		h.mustMirror(changedMirror(hourly, func(s *domain.MirrorSpec) { s.Schedule.Interval = 24 * time.Hour }), credentials)
		for n, minutes := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
			wait := time.Duration(minutes) * time.Minute
			claim := h.mustClaim()
			Expect(h.FinishMirrorSync(ctx, claim, domain.SyncFailed, "unauthorized")).To(Succeed())
			Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorFailed), HaveField("Metadata", HaveKeyWithValue("message", "unauthorized"))))
			m := h.mirror()
			Expect(m.Failures).To(Equal(n + 1))
			Expect(m.NextSync).To(Equal(m.Last.FinishedAt.Add(wait)))
			Expect(h.claim()).To(BeNil())
			h.clock.Advance(wait + time.Second)
		}
		h.finish(h.mustClaim(), domain.SyncSucceeded, "a")
		Expect(h.mirror().Failures).To(BeZero())
		Expect(h.mirror().NextSync).To(BeTemporally(">=", h.mirror().Last.StartedAt.Add(24*time.Hour)))
		_, err := h.UpdateMirror(ctx, alice, "team-a", changedMirror(hourly, func(s *domain.MirrorSpec) { s.Schedule.Interval = 3 * time.Minute }), credentials)
		Expect(err).NotTo(HaveOccurred())
		for range 4 {
			h.clock.Advance(4 * time.Minute)
			claim := h.mustClaim()
			h.clock.Advance(10 * time.Minute) // the schedule has passed meanwhile
			Expect(h.FinishMirrorSync(ctx, claim, domain.SyncFailed, "unauthorized")).To(Succeed())
			Expect(h.mirror().NextSync).To(BeTemporally("<=", h.mirror().Last.FinishedAt.Add(3*time.Minute)))
		}
	})

	It("fails by a conflict where it is to, and only there", func() {
		conflicting := synced("a", 1)
		conflicting.Tags = domain.MirrorCounts{Discovered: 2, Copied: 1, Conflicts: 1}
		sync := func(spec domain.MirrorSpec) *domain.MirrorSync {
			GinkgoHelper()
			h.mustMirror(spec, credentials)
			claim := h.mustClaim()
			Expect(h.DiscoverMirrorRepositories(ctx, claim, []string{"a"})).To(Succeed())
			Expect(h.FinishMirrorRepository(ctx, claim, conflicting, nil, []domain.MirrorConflict{{Repository: "a", Tag: "v1", Upstream: "sha256:1", Standing: "sha256:2", Reason: "a policy"}})).To(Succeed())
			Expect(h.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(Succeed())
			last := h.mirror().Last
			Expect(last.Repositories.Conflicts).To(BeEquivalentTo(1))
			Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
			return last
		}
		Expect(sync(hourly).State).To(Equal(domain.SyncSucceeded))
		conflicting.State = domain.SyncFailed
		Expect(sync(changedMirror(hourly, func(s *domain.MirrorSpec) { s.OnConflict = domain.ConflictFail }))).To(And(
			HaveField("State", domain.SyncFailed), HaveField("Message", "1 tags are locked and differ from the upstream's")))
	})

	It("has not succeeded before its repositories were listed", func() {
		h.mustMirror(hourly, credentials)
		Expect(h.FinishMirrorSync(ctx, h.mustClaim(), domain.SyncSucceeded, "all is well")).To(Succeed())
		Expect(h.mirror()).To(And(HaveField("LastSuccess", BeZero()), HaveField("Last", And(HaveField("State", domain.SyncFailed), HaveField("Message", ContainSubstring("not listed"))))))
	})

	It("is asked for once at a time, and not of a mirror that is suspended", func() {
		h.mustMirror(hourly, credentials)
		h.finish(h.mustClaim(), domain.SyncSucceeded, "a")
		busy := And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("busy")))
		Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(Succeed())
		Expect(h.WakeMirrors()).To(Receive())
		Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorRequested), HaveField("Performer", "alice")))
		Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(busy)
		claim := h.mustClaim()
		Expect(claim.Sync.Trigger).To(Equal(domain.SyncRequested))
		Expect(h.lastMirrorEntry().Metadata).To(HaveKeyWithValue("started_by", "request"))
		Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(busy)
		h.finish(claim, domain.SyncSucceeded, "a")
		Expect(h.claim()).To(BeNil())
		Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(Succeed())
		Expect(h.CancelMirrorSync(ctx, alice, "team-a")).To(Succeed())
		Expect(h.lastMirrorEntry().Kind).To(Equal(audit.KindOrgMirrorCancelled))
		Expect(h.claim()).To(BeNil())
		_, err := h.UpdateMirror(ctx, alice, "team-a", changedMirror(hourly, suspended), credentials)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.RequestMirrorSync(ctx, alice, "team-a")).To(And(haveCode(domain.CodeConflict), MatchError(ContainSubstring("suspended"))))
	})

	It("is cancelled at once, and leaves the schedule alone", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		Expect(h.DiscoverMirrorRepositories(ctx, claim, []string{"a"})).To(Succeed())
		h.mustMirrorPush(claim, "v1")
		next := h.mirror().NextSync
		Expect(h.BeatMirrorSync(ctx, claim, none)).To(BeTrue())
		Expect(h.CancelMirrorSync(ctx, alice, "team-a")).To(Succeed())
		Expect(h.WakeMirrors()).To(Receive())
		expectOver(claim)
		m := h.mirror()
		Expect(m.Last).To(And(HaveField("State", domain.SyncCancelled), HaveField("FinishedAt", Not(BeZero())), HaveField("Message", "the sync was cancelled")))
		Expect(m.NextSync).To(Equal(next))
		Expect(m.Failures).To(BeZero())
		Expect(h.lastMirrorEntry()).To(And(HaveField("Kind", audit.KindOrgMirrorCancelled), HaveField("Performer", "alice"), HaveField("Metadata", And(HaveKeyWithValue("sync", BeEquivalentTo(1)), Not(HaveKey("trigger"))))))
		entries := len(h.entries())
		Expect(h.CancelMirrorSync(ctx, alice, "team-a")).To(Succeed())
		Expect(h.entries()).To(HaveLen(entries), "there is nothing to cancel any more")
		Expect(h.claim()).To(BeNil())
		h.clock.Advance(2 * time.Hour)
		Expect(h.mustClaim().Sync.Number).To(BeEquivalentTo(2))
	})

	It("ends when the mirror is suspended, and begins at once when that is over", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		m, err := h.UpdateMirror(ctx, alice, "team-a", changedMirror(hourly, suspended), credentials)
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Last).To(And(HaveField("State", domain.SyncCancelled), HaveField("Message", "the mirror was suspended")))
		expectOver(claim)
		h.clock.Advance(3 * time.Hour)
		Expect(h.claim()).To(BeNil())
		_, err = h.UpdateMirror(ctx, alice, "team-a", hourly, credentials)
		Expect(err).NotTo(HaveOccurred())
		h.mustClaim()
	})

	It("waits out the interval when a mirror is resumed that has synced", func() {
		h.mustMirror(hourly, credentials)
		h.finish(h.mustClaim(), domain.SyncSucceeded, "a")
		for _, spec := range []domain.MirrorSpec{changedMirror(hourly, suspended), hourly} {
			_, err := h.UpdateMirror(ctx, alice, "team-a", spec, credentials)
			Expect(err).NotTo(HaveOccurred())
		}
		Expect(h.mirror().NextSync).To(Equal(h.mirror().Last.StartedAt.Add(time.Hour)))
	})

	DescribeTable("that runs when the mirror is changed", func(change func(*domain.MirrorSpec, *domain.MirrorSecrets), ends, anew bool) {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		spec, secrets := hourly, credentials
		change(&spec, &secrets)
		_, err := h.UpdateMirror(ctx, alice, "team-a", spec, secrets)
		Expect(err).NotTo(HaveOccurred())
		if ends {
			expectOver(claim)
			again := h.mustClaim()
			Expect(again.Sync).To(And(HaveField("Number", BeEquivalentTo(2)), HaveField("Trigger", domain.SyncScheduled)))
			Expect(again.Secrets).To(Equal(secrets))
			claim = again
		}
		h.finish(claim, domain.SyncSucceeded, "a")
		Expect(h.mirror().NextSync).To(BeTemporally(">", h.clock.Now()))

		By("changing it back while none runs")
		_, err = h.UpdateMirror(ctx, alice, "team-a", hourly, credentials)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.claim() != nil).To(Equal(anew))
	},
		Entry("ends, since it copies something else now, and begins again",
			func(s *domain.MirrorSpec, _ *domain.MirrorSecrets) { s.Tags.Newest = 3 }, true, true),
		Entry("ends, since its credentials may be void, and begins again",
			func(_ *domain.MirrorSpec, s *domain.MirrorSecrets) { s.Password = "rotated" }, true, true),
		Entry("ends, since it is too fast, and begins again", func(s *domain.MirrorSpec, _ *domain.MirrorSecrets) { s.Concurrency = 1 }, true, false),
		Entry("goes on under another schedule", func(s *domain.MirrorSpec, _ *domain.MirrorSecrets) { s.Schedule.Interval = 2 * time.Hour }, false, false),
		Entry("goes on where only later repositories look otherwise", func(s *domain.MirrorSpec, _ *domain.MirrorSecrets) { s.Visibility = domain.Public }, false, false),
	)

	It("ends when the mirror is deleted, or its organization", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		h.mustMirrorPush(claim, "v1")
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
		Expect(h.entries(audit.KindOrgMirrorCancelled)).To(HaveLen(1))
		expectOver(claim)
		Expect(h.tag(app, "v1")).NotTo(BeEmpty(), "content stays")
		h.mustPush(app, "v2")
		h.mustMirror(hourly, credentials)
		claim = h.mustClaim()
		Expect(claim.Sync.Number).To(BeEquivalentTo(1))
		Expect(h.DeleteOrganization(ctx, alice, "team-a")).To(Succeed())
		Expect(h.BeatMirrorSync(ctx, claim, none)).To(BeFalse())
		Expect(h.mirrorPush(claim, "late")).To(beOver())
	})

	It("of a process that is gone goes on at once in the next, at the repositories that are not done", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		Expect(h.DiscoverMirrorRepositories(ctx, claim, []string{"a", "b", "c"})).To(Succeed())
		Expect(h.FinishMirrorRepository(ctx, claim, synced("b", 2), nil, nil)).To(Succeed())
		h.with(func(*core.Options) {})
		again := h.mustClaim()
		Expect(again.Fresh).To(BeFalse())
		Expect(again.Discovered).To(BeTrue())
		Expect(again.Sync).To(And(HaveField("Number", BeEquivalentTo(1)), HaveField("StartedAt", claim.Sync.StartedAt)))
		Expect(again.Sync.MirrorProgress).To(Equal(domain.MirrorProgress{
			Repositories: domain.MirrorCounts{Discovered: 3, Copied: 1}, Tags: domain.MirrorCounts{Discovered: 2, Copied: 2}, BytesCopied: 20,
		}))
		Expect(h.pending(again)).To(Equal([]string{"a", "c"}))
		expectOver(claim)
		Expect(h.BeatMirrorSync(ctx, again, again.Sync.MirrorProgress)).To(BeTrue())
		Expect(h.entries(audit.KindOrgMirrorStarted)).To(HaveLen(1))
		Expect(h.claim()).To(BeNil())
	})

	It("that is given back is taken at once", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		Expect(h.LeaveMirrorSync(ctx, claim)).To(Succeed())
		again := h.mustClaim()
		Expect(again.Fresh).To(BeFalse())
		Expect(again.Discovered).To(BeFalse())
		expectOver(claim)
		Expect(h.BeatMirrorSync(ctx, again, none)).To(BeTrue())
	})

	It("shows how far it has come", func() {
		h.with(func(o *core.Options) { o.LeaseTerm = 30 * time.Millisecond })
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		p := domain.MirrorProgress{Tags: domain.MirrorCounts{Discovered: 20, Copied: 7}, BytesCopied: 1 << 40}
		Eventually(func(g Gomega) {
			g.Expect(h.BeatMirrorSync(ctx, claim, p)).To(BeTrue())
			g.Expect(h.mirror().Last.MirrorProgress).To(Equal(p))
		}).WithTimeout(patience).Should(Succeed())
	})

	It("does not begin while the registry waits for its operator", func() {
		h.mustMirror(hourly, credentials)
		h.with(func(o *core.Options) { o.RequireSync = true })
		Expect(h.claim()).To(BeNil())
		Expect(h.Synced(ctx, operator, cluster, nil)).To(Succeed())
		h.mustClaim()
	})
})

var _ = Describe("Replicas with mirrors", func() {
	var a, b *harness
	const term = 300 * time.Millisecond
	BeforeEach(func() {
		a = &harness{open: engines["postgres"]}
		a.start()
		Expect(seal.EnsureKeyFile(keyFile(a))).To(Succeed())
		a.with(func(o *core.Options) { o.Sealer, o.Replicas, o.LeaseTerm = seal.KeyFile(keyFile(a)), true, term })
		b = &harness{open: a.open, dir: a.dir, clock: a.clock, options: a.options, gate: newGate(), n: 1000}
		b.run()
	})
	AfterEach(func() {
		a.stop()
		b.stop()
	})

	It("claim at once: one of them gets the sync, also one that was given back", func() {
		a.mustMirror(hourly, credentials)
		for round := range 10 {
			var claims atomic.Int64
			var last atomic.Pointer[core.MirrorClaim]
			var wg sync.WaitGroup
			for _, h := range []*harness{a, b, a, b, a, b, a, b} {
				wg.Go(func() {
					defer GinkgoRecover()
					claim, _, err := h.ClaimMirrorSync(ctx, "replica")
					Expect(err).NotTo(HaveOccurred())
					if claim != nil {
						claims.Add(1)
						last.Store(claim)
					}
				})
			}
			wg.Wait()
			Expect(claims.Load()).To(BeEquivalentTo(1))
			if round%2 == 0 {
				Expect(a.LeaveMirrorSync(ctx, last.Load())).To(Succeed())
				continue
			}
			Expect(a.CancelMirrorSync(ctx, alice, "team-a")).To(Succeed())
			a.clock.Advance(2 * time.Hour)
		}
		Expect(a.entries(audit.KindOrgMirrorStarted)).To(HaveLen(5))
	})

	It("leave a sync to the one that beats, and take it over where that stands still: what it writes when it wakes does not count", func() {
		a.mustMirror(hourly, credentials)
		claim := a.mustClaim()
		Expect(a.DiscoverMirrorRepositories(ctx, claim, []string{"a", "b"})).To(Succeed())
		Expect(a.FinishMirrorRepository(ctx, claim, synced("a", 1), nil, nil)).To(Succeed())
		Consistently(func(g Gomega) {
			g.Expect(a.BeatMirrorSync(ctx, claim, claim.Sync.MirrorProgress)).To(BeTrue())
			other, wait, err := b.ClaimMirrorSync(ctx, "b")
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(other).To(BeNil())
			g.Expect(wait).To(BeNumerically("<=", term/3))
		}).WithTimeout(3 * term).WithPolling(term / 20).Should(Succeed())

		var other *core.MirrorClaim
		began := time.Now()
		Eventually(func() *core.MirrorClaim {
			other = b.claim()
			return other
		}).WithTimeout(patience).WithPolling(term / 20).ShouldNot(BeNil())
		Expect(time.Since(began)).To(BeNumerically(">=", term*8/10))
		Expect(other.Fresh).To(BeFalse())
		Expect(other.Epoch).To(BeNumerically(">", claim.Epoch))
		Expect(b.pending(other)).To(Equal([]string{"b"}))

		Expect(a.mirrorPush(claim, "late")).To(beOver())
		Expect(a.FinishMirrorRepository(ctx, claim, synced("b", 9), nil, nil)).To(beOver())
		Expect(a.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(beOver())
		Expect(a.BeatMirrorSync(ctx, claim, none)).To(BeFalse())
		b.mustMirrorPush(other, "v1")
		Expect(b.FinishMirrorRepository(ctx, other, synced("b", 1), nil, nil)).To(Succeed())
		Expect(b.FinishMirrorSync(ctx, other, domain.SyncSucceeded, "")).To(Succeed())
		Expect(a.mirror().Last).To(And(HaveField("State", domain.SyncSucceeded), HaveField("Tags.Copied", BeEquivalentTo(2))))
		Expect(a.tag(app, "late")).To(BeEmpty())
	})

	It("write nothing behind a cancellation by another, however many write at once", func() {
		a.mustMirror(hourly, credentials)
		for round := range 5 {
			claim := a.mustClaim()
			var stop atomic.Bool
			var wg sync.WaitGroup
			for worker := range 4 {
				wg.Go(func() {
					defer GinkgoRecover()
					for i := 0; !stop.Load(); i++ {
						content := fmt.Sprintf(`{"round":%d,"worker":%d,"image":%d}`, round, worker, i)
						_, err := a.PutManifest(ctx, claim.Caller, app, core.Push{Reference: domain.Reference{Tag: fmt.Sprint(worker)}, Manifest: manifest(content), Create: core.CreateRepository})
						if err != nil {
							Expect(err).To(beOver())
							return
						}
					}
				})
			}
			Eventually(func() int { return len(a.entries(audit.KindMoveTag)) }).WithTimeout(patience).Should(BeNumerically(">", 20*round))
			Expect(b.CancelMirrorSync(ctx, alice, "team-a")).To(Succeed())
			wg.Wait()
			stop.Store(true)
			a.clock.Advance(2 * time.Hour)
		}
		cancelled := false
		for _, e := range b.entries() {
			switch e.Kind {
			case audit.KindOrgMirrorStarted:
				cancelled = false
			case audit.KindOrgMirrorCancelled:
				cancelled = true
			case audit.KindMoveTag, audit.KindCreateTag:
				Expect(cancelled).To(BeFalse(), "entry %d comes behind the cancellation", e.Index)
			}
		}
	})

	It("finish repositories of one sync at once, and lose none of what failed", func() {
		a.mustMirror(hourly, credentials)
		claim := a.mustClaim()
		names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		Expect(a.DiscoverMirrorRepositories(ctx, claim, names)).To(Succeed())
		var wg sync.WaitGroup
		for _, name := range names {
			wg.Go(func() {
				defer GinkgoRecover()
				Expect(a.FinishMirrorRepository(ctx, claim, domain.MirrorRepository{Name: name, State: domain.SyncFailed}, []domain.MirrorFailure{{Repository: name, Reason: "broken"}}, nil)).To(Succeed())
				_, err := a.BeatMirrorSync(ctx, claim, none)
				Expect(err).NotTo(HaveOccurred())
			})
		}
		wg.Wait()
		Expect(a.FinishMirrorSync(ctx, claim, domain.SyncSucceeded, "")).To(Succeed())
		Expect(a.mirror().Last.Failures).To(HaveLen(8))
	})
})

var _ = eachEngineWithKey("A mirrored organization", func(h *harness) {
	denied := func(parts ...string) OmegaMatcher {
		all := []OmegaMatcher{haveCode(domain.CodeDenied)}
		for _, part := range append(parts, "team-a is mirrored from "+upstreamURL) {
			all = append(all, MatchError(ContainSubstring(part)))
		}
		return And(all...)
	}
	blob := func(content string) domain.Blob {
		return domain.Blob{Digest: digest.FromString(content), Size: int64(len(content)), Key: content}
	}
	link := func(caller domain.Caller, name domain.RepositoryName, content string) error {
		_, err := h.LinkBlob(ctx, caller, name, blob(content), core.CreateOrganization)
		return err
	}
	robot := domain.Caller{Name: "team-a+ci", Kind: domain.CallerRobot}
	other := domain.RepositoryName{Organization: "team-b", Path: "app"}

	It("refuses what others push, and says why", func() {
		old := h.mustPush(app, "v1")
		now := h.mustPush(app, "v1")
		Expect(link(alice, other, "of team-b")).To(Succeed())
		begun, err := h.BeginUpload(ctx, alice, app, domain.Upload{ID: "begun", State: []byte{}}, false)
		Expect(err).NotTo(HaveOccurred())
		h.mustMirror(changedMirror(hourly, func(s *domain.MirrorSpec) { s.Schedule.StartAt = h.clock.Now().Add(time.Hour) }), credentials)
		why := denied("its mirror configuration")

		_, err = h.push(app, "v2")
		Expect(err).To(why)
		_, err = h.push(app, "")
		Expect(err).To(why)
		_, err = h.push(domain.RepositoryName{Organization: "team-a", Path: "new/one"}, "v1")
		Expect(err).To(why)
		Expect(link(alice, app, "blob")).To(why)
		_, err = h.MountBlob(ctx, alice, app, other, blob("of team-b").Digest, core.CreateOrganization)
		Expect(err).To(why)
		_, err = h.BeginUpload(ctx, alice, app, domain.Upload{ID: "more", State: []byte{}}, false)
		Expect(err).To(why)
		_, err = h.LinkUpload(ctx, alice, app, begun, blob("uploaded"), core.CreateOrganization)
		Expect(err).To(why)
		Expect(h.setTag(app, "v1", old)).To(why)
		Expect(h.setTag(app, "new", now)).To(why)
		Expect(h.RestoreTag(ctx, alice, app, "v1", old)).To(why)
		Expect(h.tag(app, "v1")).To(Equal(now))

		By("letting people lock, expire and delete")
		Expect(h.hold(app, "v1", true)).To(Succeed())
		Expect(h.DeleteTag(ctx, alice, app, "v1")).To(haveCode(domain.CodeTagImmutable))
		Expect(h.hold(app, "v1", false)).To(Succeed())
		expiration := h.clock.Now().Add(time.Hour)
		Expect(h.ChangeTag(ctx, alice, app, "v1", core.TagChange{Expiration: &expiration})).To(Succeed())
		Expect(h.DeleteTag(ctx, alice, app, "v1")).To(Succeed())
		Expect(h.DeleteManifest(ctx, alice, app, now)).To(Succeed())
		h.mustPush(other, "v1")

		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
		h.mustPush(app, "v2")
		_, err = h.LinkUpload(ctx, alice, app, begun, blob("uploaded"), core.CreateOrganization)
		Expect(err).NotTo(HaveOccurred())
	})

	It("names the object that declares it", func() {
		_, err := h.PutManagedMirror(ctx, operator, managedMirror("u1", 1))
		Expect(err).NotTo(HaveOccurred())
		_, err = h.push(app, "v1")
		Expect(err).To(denied("OrgMirror team-a/upstream"))
		_, err = h.BeginUpload(ctx, alice, app, domain.Upload{ID: "more", State: []byte{}}, false)
		Expect(err).To(denied("OrgMirror team-a/upstream"))
	})

	It("takes what its robot pushes, and no other's", func() {
		_, err := h.CreateOrganization(ctx, alice, "team-a")
		Expect(err).NotTo(HaveOccurred())
		_, err = h.CreateRobot(ctx, alice, core.NewRobot{Organization: "team-a", Short: "ci"}, []byte("hash"))
		Expect(err).NotTo(HaveOccurred())
		h.mustMirror(changedMirror(hourly, func(s *domain.MirrorSpec) { s.Robot = "team-a+ci" }), credentials)
		Expect(link(robot, app, "blob")).To(Succeed())
		_, err = h.PutManifest(ctx, robot, app, core.Push{Reference: domain.Reference{Tag: "v1"}, Manifest: manifest(`{"by":"robot"}`), Create: core.CreateRepository})
		Expect(err).NotTo(HaveOccurred())
		_, err = h.BeginUpload(ctx, robot, app, domain.Upload{ID: "more", State: []byte{}}, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(link(domain.Caller{Name: "team-a+other", Kind: domain.CallerRobot}, app, "blob")).To(denied())
		Expect(link(domain.Caller{Name: "team-a+ci", Kind: domain.CallerUser}, app, "blob")).To(denied(), "names are never equal across kinds")
		Expect(h.entries(audit.KindCreateTag)[0].Metadata).NotTo(HaveKey("trigger"))
	})

	It("takes what its mirror writes, with entries that say so", func() {
		h.mustMirror(changedMirror(hourly, func(s *domain.MirrorSpec) { s.Visibility = domain.Public }), credentials)
		claim := h.mustClaim()
		Expect(link(claim.Caller, app, "layer")).To(Succeed())
		h.mustMirrorPush(claim, "v1")
		h.mustMirrorPush(claim, "v1")
		Expect(h.DeleteTag(ctx, claim.Caller, app, "v1")).To(Succeed())
		repo, err := h.Repository(ctx, app)
		Expect(err).NotTo(HaveOccurred())
		Expect(repo.Visibility).To(Equal(domain.Public))
		entries := h.entries(audit.KindCreateRepo, audit.KindOrgMirrorRepo, audit.KindCreateTag, audit.KindMoveTag, audit.KindDeleteTag)
		Expect(entries).To(HaveLen(5))
		Expect(entries).To(HaveEach(And(HaveField("PerformerKind", domain.CallerMirror), HaveField("Performer", "team-a"), HaveField("Repository", "app"), HaveField("Metadata", And(
			HaveKeyWithValue("trigger", "mirror"), HaveKeyWithValue("mirror_uuid", claim.Mirror.UUID))))))
		permissions, err := h.Permissions(ctx, app)
		Expect(err).NotTo(HaveOccurred())
		Expect(permissions).To(BeEmpty(), "a mirror is no account")
	})

	It("keeps its locks against the mirror too, with one entry for repeats", func() {
		h.mustPush(app, "v1")
		p := h.mustCreate(teamA, releases)
		h.swept(teamA, p.UUID)
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		for range 3 {
			Expect(h.mirrorPush(claim, "v1")).To(haveCode(domain.CodeTagImmutable))
		}
		Expect(h.entries(audit.KindPushFailed)).To(ConsistOf(And(HaveField("PerformerKind", domain.CallerMirror), HaveField("Policy", p.UUID), HaveField("Metadata", And(
			HaveKeyWithValue("trigger", "mirror"), HaveKeyWithValue("mirror_uuid", claim.Mirror.UUID), HaveKey("attempted_digest"))))))
		h.mustMirrorPush(claim, "v2")
		Expect(h.locked(app, "v2")).To(BeTrue())
		Expect(h.DeleteTag(ctx, claim.Caller, app, "v2")).To(haveCode(domain.CodeTagImmutable))
	})

	It("knows which tags the mirror made: it deletes no others", func() {
		h.mustPush(app, "mine")
		h.mustPush(app, "moved")
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		Expect(h.MirrorTags(ctx, claim, "no/such", "", 10)).To(BeEmpty())
		h.mustMirrorPush(claim, "made")
		h.mustMirrorPush(claim, "moved")
		h.mustMirrorPush(claim, "taken")
		Expect(h.FinishMirrorSync(ctx, claim, domain.SyncFailed, "")).To(Succeed())
		m := h.mirror()
		Expect(h.DeleteMirror(ctx, alice, "team-a")).To(Succeed())
		h.mustPush(app, "taken")
		again := h.mustMirror(m.MirrorSpec, credentials)
		claim = h.mustClaim()
		Expect(again.UUID).NotTo(Equal(m.UUID))
		h.mustMirrorPush(claim, "made")
		tags, err := h.MirrorTags(ctx, claim, "app", "", 10)
		Expect(err).NotTo(HaveOccurred())
		mirrored := map[string]bool{}
		for _, t := range tags {
			mirrored[t.Name] = t.Mirrored
			Expect(t.Digest).To(Equal(h.tag(app, t.Name)))
		}
		Expect(mirrored).To(Equal(map[string]bool{"made": true, "mine": false, "moved": false, "taken": false}), "another mirror's tags are not this one's")
		page, err := h.MirrorTags(ctx, claim, "app", "made", 2)
		Expect(err).NotTo(HaveOccurred())
		Expect(page).To(HaveLen(2))
		Expect(h.DeleteTag(ctx, claim.Caller, app, "mine")).To(And(haveCode(domain.CodeDenied), MatchError(ContainSubstring("not made by the mirror"))))
		Expect(h.DeleteTag(ctx, claim.Caller, app, "made")).To(Succeed())
	})

	It("is all that its mirror writes to, and gets no other tenant's private blobs by their digests", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		Expect(link(claim.Caller, app, "own")).To(Succeed())
		Expect(link(alice, other, "private")).To(Succeed())
		_, err := h.PutManifest(ctx, claim.Caller, other, core.Push{Reference: domain.Reference{Tag: "v1"}, Manifest: manifest(`{}`), Create: core.CreateOrganization})
		Expect(err).To(And(haveCode(domain.CodeDenied), MatchError("no mirror fills organization team-b")))

		web := domain.RepositoryName{Organization: "team-a", Path: "web"}
		mount := func(from domain.RepositoryName, content string) bool {
			GinkgoHelper()
			mounted, err := h.MountBlob(ctx, claim.Caller, web, from, blob(content).Digest, core.CreateRepository)
			Expect(err).NotTo(HaveOccurred())
			return mounted
		}
		Expect(mount(other, "private")).To(BeFalse())
		everything := func(domain.Repository) (bool, error) { return true, nil }
		Expect(h.MountAnyBlob(ctx, claim.Caller, web, blob("private").Digest, everything, core.CreateRepository)).To(BeFalse())
		Expect(mount(app, "own")).To(BeTrue())
		public := domain.Public
		Expect(h.UpdateRepository(ctx, alice, other, core.RepositoryChange{Visibility: &public})).To(Succeed())
		Expect(mount(other, "private")).To(BeTrue())
	})

	It("takes an index of which the mirror copies some platforms only", func() {
		h.mustMirror(hourly, credentials)
		claim := h.mustClaim()
		index := manifest(`{"manifests":[]}`)
		index.Index, index.Children = true, []digest.Digest{digest.FromString("arm64")}
		push := core.Push{Reference: domain.Reference{Tag: "v1"}, Manifest: index, Create: core.CreateRepository}
		_, err := h.PutManifest(ctx, claim.Caller, app, push)
		Expect(err).To(haveCode(domain.CodeManifestBlobUnknown))
		push.Partial = true
		_, err = h.PutManifest(ctx, claim.Caller, app, push)
		Expect(err).NotTo(HaveOccurred())
		m, err := h.Manifest(ctx, app, domain.Reference{Tag: "v1"}, false)
		Expect(err).NotTo(HaveOccurred())
		Expect(h.IsSparse(ctx, m)).To(BeTrue())
	})
})
