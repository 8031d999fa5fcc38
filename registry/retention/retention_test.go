package retention_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
	"github.com/tidelock/tidelock/registry/retention"
)

func TestRetention(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/retention")
}

func TestRetentionOnPostgreSQL(t *testing.T) { metatest.AgainOnPostgreSQL(t, "TestRetention") }

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	alice = domain.Caller{Name: "alice", Kind: domain.CallerUser, Address: "192.0.2.7"}
	app   = domain.RepositoryName{Organization: "team-a", Path: "app"}
)

const (
	patience = time.Minute
	period   = 400 * 24 * time.Hour
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Microsecond)
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var errCrash = errors.New("the process ended here")

// fragileStore fails each write of background work once so many have succeeded; a negative number fails none. The
// sequencer writes in another way.
type fragileStore struct {
	meta.Store
	mu   sync.Mutex
	left int
}

func (s *fragileStore) Write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	s.mu.Lock()
	if scope.Background && s.left == 0 {
		s.mu.Unlock()
		return errCrash
	}
	if scope.Background {
		s.left--
	}
	s.mu.Unlock()
	return s.Store.Write(ctx, scope, fn)
}

func (s *fragileStore) lasts(writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = writes
}

// log is a core on a database of its own.
type log struct {
	*core.Core
	store *fragileStore
	clock *clock
	dir   string
	keys  audit.KeyFile
	n     int
}

func newLog() *log {
	GinkgoHelper()
	l := &log{clock: &clock{now: time.Date(2025, 1, 1, 10, 0, 0, 0, time.UTC)}, dir: GinkgoT().TempDir()}
	l.keys = audit.KeyFile(filepath.Join(l.dir, "audit.key"))
	Expect(audit.EnsureKeyFile(string(l.keys))).To(Succeed())
	store, err := metatest.Open(l.dir, quiet)
	Expect(err).NotTo(HaveOccurred())
	l.store = &fragileStore{Store: store, left: -1}
	DeferCleanup(func() { Expect(store.Close()).To(Succeed()) })
	l.Core = l.another()
	return l
}

// another is one more core on the database, as of another replica.
func (l *log) another() *core.Core {
	c := core.New(l.store, core.Options{Logger: quiet, Now: l.clock.Now, AuditKeys: l.keys})
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(running) }()
	DeferCleanup(func() {
		cancel()
		Eventually(done).WithTimeout(patience).Should(Receive())
	})
	return c
}

// pushes moves a tag so many times: an entry each, and two more the first time.
func (l *log) pushes(n int) {
	GinkgoHelper()
	for range n {
		l.n++
		content := fmt.Sprintf(`{"image":%d}`, l.n)
		_, err := l.PutManifest(ctx, alice, app, core.Push{Reference: domain.Reference{Tag: "latest"}, Create: core.CreateOrganization, Manifest: domain.Manifest{
			Digest: digest.FromString(content), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: int64(len(content)), Content: []byte(content),
		}})
		Expect(err).NotTo(HaveOccurred())
	}
}

// entries are those that are there, the oldest first.
func (l *log) entries() []audit.View {
	GinkgoHelper()
	views, err := l.Log(ctx, audit.Query{After: -1, Ascending: true, Limit: 1_000_000})
	Expect(err).NotTo(HaveOccurred())
	return views
}

func (l *log) pruner(store retention.Store, readers ...string) *retention.Pruner {
	return retention.New(retention.Options{Core: l.Core, Store: store, Period: period, Readers: readers, Now: l.clock.Now, Logger: quiet})
}

// directory is a store of archives in a directory of its own.
func directory() (retention.Store, string) {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	store, err := retention.OpenStore(dir)
	Expect(err).NotTo(HaveOccurred())
	return store, dir
}

// files are the archives in a directory by name.
func files(dir string) map[string][]byte {
	GinkgoHelper()
	entries, err := os.ReadDir(dir)
	Expect(err).NotTo(HaveOccurred())
	all := map[string][]byte{}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		Expect(err).NotTo(HaveOccurred())
		all[entry.Name()] = content
	}
	return all
}

// line is what a line of an archive has.
type line struct {
	Format     string
	Checkpoint string
	Index      int64
	Hash       string
	Leaf       string
	Personal   *audit.Personal
}

func unpack(content []byte) (header line, lines []line) {
	GinkgoHelper()
	unzipped, err := gzip.NewReader(bytes.NewReader(content))
	Expect(err).NotTo(HaveOccurred())
	decoder := json.NewDecoder(unzipped)
	Expect(decoder.Decode(&header)).To(Succeed())
	for {
		var l line
		err := decoder.Decode(&l)
		if errors.Is(err, io.EOF) {
			return header, lines
		}
		Expect(err).NotTo(HaveOccurred())
		if l.Checkpoint == "" {
			lines = append(lines, l)
		} else {
			header.Checkpoint = l.Checkpoint
		}
	}
}

// expectPruned checks that the entries before were archived up to an index, and that nothing else changed.
func (l *log) expectPruned(before []audit.View, upTo int64, archives map[string][]byte) {
	GinkgoHelper()
	Expect(l.LogStart(ctx)).To(Equal(upTo))
	archived := map[int64]line{}
	for _, content := range archives {
		_, lines := unpack(content)
		for _, line := range lines {
			Expect(archived).NotTo(HaveKey(line.Index))
			archived[line.Index] = line
		}
	}
	Expect(archived).To(HaveLen(int(upTo)))
	for _, e := range before[:upTo] {
		a := archived[e.Index]
		Expect(a.Hash).To(Equal(e.Hash.String()))
		Expect(audit.LeafHash([]byte(a.Leaf))).To(Equal(e.Hash))
		Expect(a.Personal.Values["performer"]).To(Equal(e.Performer))
	}
	after := l.entries()
	Expect(after[0].Index).To(Equal(upTo))
	for i, e := range before[upTo:] {
		Expect(after[i].Hash).To(Equal(e.Hash))
	}
}

// prunings are the entries about prunings.
func (l *log) prunings() []audit.View {
	GinkgoHelper()
	views, err := l.Log(ctx, audit.Query{Kinds: []audit.Kind{audit.KindPruneLog}, After: -1, Ascending: true, Limit: 100})
	Expect(err).NotTo(HaveOccurred())
	return views
}

var _ = Describe("Pruning", func() {
	It("archives what is older than the period, then removes it, and every proof goes on to verify", func() {
		l := newLog()
		store, dir := directory()
		l.pushes(600)
		old := len(l.entries())
		earlier, err := l.Checkpoint(ctx)
		Expect(err).NotTo(HaveOccurred())
		between := l.clock.Now()
		l.clock.advance(period + 48*time.Hour)
		l.pushes(10)
		before := l.entries()

		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		archives := files(dir)
		Expect(archives).To(HaveLen(1))
		l.expectPruned(before, int64(old), archives)

		origin, err := l.LogOrigin(ctx)
		Expect(err).NotTo(HaveOccurred())
		name := strings.ReplaceAll(origin, "/", "-") + fmt.Sprintf("-000000000000-%012d.jsonl.gz", old-1)
		Expect(archives).To(HaveKey(name))
		header, _ := unpack(archives[name])
		public, err := l.AuditPublicKeys()
		Expect(err).NotTo(HaveOccurred())
		known, err := audit.ParsePublicKeys([]byte(strings.Join(public, "\n")))
		Expect(err).NotTo(HaveOccurred())
		signed, _, err := audit.OpenCheckpoint([]byte(header.Checkpoint), known)
		Expect(err).NotTo(HaveOccurred())
		Expect(signed.Origin).To(Equal(origin))
		Expect(signed.Size).To(Equal(int64(old)))

		By("proving entries that are not here any more, and that the log only grew")
		checkpoint, err := l.Checkpoint(ctx)
		Expect(err).NotTo(HaveOccurred())
		for _, index := range []int64{0, 1, int64(old) - 1, int64(old), checkpoint.Size - 1} {
			proof, err := l.InclusionProof(ctx, index, 0)
			Expect(err).NotTo(HaveOccurred())
			Expect(audit.VerifyInclusion(checkpoint, index, proof.Hash, proof.Proof)).To(Succeed())
			if index < int64(len(before)) {
				Expect(proof.Hash).To(Equal(before[index].Hash))
			}
		}
		consistency, err := l.ConsistencyProof(ctx, earlier.Size, 0)
		Expect(err).NotTo(HaveOccurred())
		Expect(audit.VerifyConsistency(earlier, checkpoint, consistency.Proof)).To(Succeed())
		evidence, err := l.LogEntry(ctx, 3)
		Expect(err).NotTo(HaveOccurred())
		Expect(evidence.Hash).To(Equal(before[3].Hash))
		Expect(evidence.Leaf).To(BeEmpty())

		By("verifying the export of all, and the archive by itself")
		write, err := l.ExportLog(ctx, 0, 0)
		Expect(err).NotTo(HaveOccurred())
		var export bytes.Buffer
		Expect(write(&export)).To(Succeed())
		report, err := audit.Verify(&export, audit.VerifyOptions{Known: known, Against: []audit.Checkpoint{earlier, signed}})
		Expect(err).NotTo(HaveOccurred())
		Expect(report.Problem).To(BeNil())
		Expect(report.Pruned).To(Equal(int64(old)))
		report, err = audit.Verify(bytes.NewReader(archives[name]), audit.VerifyOptions{Known: known})
		Expect(err).NotTo(HaveOccurred())
		Expect(report.Problem).To(BeNil())
		Expect(report.Pruned).To(BeZero())

		By("writing an entry about it")
		prunings := l.prunings()
		Expect(prunings).To(HaveLen(1))
		sum := sha256.Sum256(archives[name])
		Expect(prunings[0].Performer).To(Equal("system"))
		Expect(prunings[0].Metadata).To(Equal(map[string]any{
			"from_index": 0.0, "to_index": float64(old - 1), "entries_count": float64(old), "archive": name, "archive_sha256": hex.EncodeToString(sum[:]),
		}))
		archive, err := l.LogArchive(ctx, 17)
		Expect(err).NotTo(HaveOccurred())
		Expect(archive.Name).To(Equal(name))
		_, err = l.LogArchive(ctx, int64(old))
		Expect(domain.CodeOf(err)).To(Equal(domain.CodeNotFound))

		By("reading what is left as before")
		Expect(l.Log(ctx, audit.Query{From: between, After: -1, Limit: 100})).To(HaveLen(11))
		Expect(l.Log(ctx, audit.Query{To: between, After: -1, Limit: 100})).To(BeEmpty())
		Expect(l.Log(ctx, audit.Query{Tag: "latest", Organization: "team-a", Repository: "app", After: -1, Limit: 100})).To(HaveLen(10))
		Expect(l.ReadLog(ctx, 0, 1)).To(HaveExactElements(HaveField("Index", int64(old))))
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		Expect(files(dir)).To(Equal(archives))
	})

	It("is told of by the histories of tags and the reports of policies, which lack what was pruned", func() {
		l := newLog()
		store, _ := directory()
		l.pushes(1)
		policy, err := l.CreatePolicy(ctx, alice, core.Scope{Organization: app.Organization}, domain.PolicySpec{TagPattern: "v.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain})
		Expect(err).NotTo(HaveOccurred())
		l.pushes(600)
		l.clock.advance(period + 48*time.Hour)
		l.pushes(10)
		whole, err := l.History(ctx, app, "latest", core.HistoryQuery{Limit: 1000})
		Expect(err).NotTo(HaveOccurred())
		Expect(whole.Period.PrunedBefore).To(BeZero())
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())

		Expect(l.UpdatePolicy(ctx, alice, core.Scope{Organization: app.Organization}, policy.UUID, domain.PolicySpec{TagPattern: "w.*", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain})).Error().NotTo(HaveOccurred())
		newest := l.entries()
		pruned := newest[0].Index
		Expect(pruned).To(BeNumerically(">", 0))
		for _, e := range newest {
			if e.Tag == "" {
				continue
			}
			left, err := l.History(ctx, app, e.Tag, core.HistoryQuery{Limit: 1000})
			Expect(err).NotTo(HaveOccurred())
			Expect(left.Period.PrunedBefore).To(Equal(pruned))
			Expect(left.Statements(app, e.Tag, left.Period)[0]).To(ContainSubstring("archived and pruned"))
		}
		report, err := l.PolicyCoverage(ctx, policy.UUID, core.CoverageQuery{Limit: 1000})
		Expect(err).NotTo(HaveOccurred())
		Expect(report.Period.PrunedBefore).To(Equal(pruned))
	})

	It("leaves the newest entry, so that indices go on", func() {
		l := newLog()
		store, _ := directory()
		l.pushes(5)
		before := l.entries()
		l.clock.advance(period + 48*time.Hour)
		due, err := l.LogDue(ctx, l.clock.Now().Add(-period), nil)
		Expect(err).NotTo(HaveOccurred())
		Expect(due).To(Equal(core.Due{First: 0, End: int64(len(before) - 1)}))
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		l.pushes(1)
		left := l.entries()
		Expect(left[len(left)-1].Index).To(Equal(int64(len(before) + len(l.prunings()))))
	})

	It("waits until there is a day's worth", func() {
		l := newLog()
		store, dir := directory()
		l.pushes(5)
		l.clock.advance(period + 23*time.Hour)
		l.pushes(1)
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		Expect(files(dir)).To(BeEmpty())
		l.clock.advance(2 * time.Hour)
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		Expect(files(dir)).To(HaveLen(1))
	})

	It("leaves what a reader of the log has not read", func() {
		l := newLog()
		store, dir := directory()
		l.pushes(20)
		before := l.entries()
		l.clock.advance(period + 48*time.Hour)
		l.pushes(1)
		pruner := l.pruner(store, audit.EventsCursor, "forward.siem")
		Expect(pruner.Prune(ctx)).To(Succeed())
		Expect(files(dir)).To(BeEmpty(), "nobody has read anything")
		Expect(l.MoveLogCursor(ctx, audit.EventsCursor, 0, 15)).To(Succeed())
		Expect(l.MoveLogCursor(ctx, "forward.siem", 0, 7)).To(Succeed())
		Expect(pruner.Prune(ctx)).To(Succeed())
		l.expectPruned(before, 7, files(dir))
		Expect(l.MoveLogCursor(ctx, "forward.siem", 7, 22)).To(Succeed())
		Expect(pruner.Prune(ctx)).To(Succeed())
		l.expectPruned(before, 15, files(dir))
	})

	DescribeTable("removes nothing that is not safely in an archive", func(broken func(retention.Store) retention.Store, problem string) {
		l := newLog()
		store, dir := directory()
		l.pushes(5)
		before := l.entries()
		l.clock.advance(period + 48*time.Hour)
		l.pushes(1)
		Expect(l.pruner(broken(store)).Prune(ctx)).To(MatchError(ContainSubstring(problem)))
		Expect(l.LogStart(ctx)).To(BeZero())
		Expect(l.entries()[:len(before)]).To(Equal(before))
		Expect(l.prunings()).To(BeEmpty())
		By("doing so once the store works")
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		l.expectPruned(before, int64(len(before)), files(dir))
	},
		Entry("the store takes nothing", func(s retention.Store) retention.Store { return refusing{s} }, "the bucket is full"),
		Entry("the store loses it", func(s retention.Store) retention.Store { return forgetting{s} }, "reading it again"),
		Entry("the store cuts it", func(s retention.Store) retention.Store { return cutting{s} }, "its SHA-256 is"),
	)

	It("leaves a log that an auditor can check as a whole, with its archives", func() {
		l := newLog()
		store, dir := directory()
		for range 3 {
			l.pushes(300)
			l.clock.advance(period + 48*time.Hour)
			Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		}
		l.pushes(1)
		public, err := l.AuditPublicKeys()
		Expect(err).NotTo(HaveOccurred())
		options := audit.VerifyOptions{}
		options.Known, err = audit.ParsePublicKeys([]byte(strings.Join(public, "\n")))
		Expect(err).NotTo(HaveOccurred())
		var archives []audit.Report
		for _, name := range slices.Sorted(maps.Keys(files(dir))) {
			report, err := audit.Verify(bytes.NewReader(files(dir)[name]), audit.VerifyOptions{Known: options.Known})
			Expect(err).NotTo(HaveOccurred())
			Expect(report.Problem).To(BeNil())
			archives = append(archives, report)
			options.Against = append(options.Against, report.Checkpoint())
		}
		Expect(len(archives)).To(BeNumerically(">=", 3))
		write, err := l.ExportLog(ctx, 0, 0)
		Expect(err).NotTo(HaveOccurred())
		var export bytes.Buffer
		Expect(write(&export)).To(Succeed())
		report, err := audit.Verify(&export, options)
		Expect(err).NotTo(HaveOccurred())
		Expect(report.Problem).To(BeNil())
		Expect(report.Cover(archives)).To(Equal(int64(-1)))
		Expect(report.Archived).To(Equal(report.Pruned))
		By("naming what is missing")
		first, second := archives[0], archives[1]
		Expect(report.Cover(archives[1:])).To(BeZero())
		Expect(report.Archived).To(Equal(report.Pruned - first.Size))
		Expect(report.Cover(append(archives[:1:1], archives[2:]...))).To(Equal(first.Size))
		Expect(report.Archived).To(Equal(report.Pruned - (second.Size - second.From)))
		Expect(report.Cover(nil)).To(BeZero())
	})

	It("writes an archive again that was lost before its entries were removed", func() {
		l := newLog()
		store, dir := directory()
		l.pushes(5)
		before := l.entries()
		l.clock.advance(period + 48*time.Hour)
		l.pushes(1)
		l.store.lasts(2) // planned and written, but not pruned
		Expect(l.pruner(store).Prune(ctx)).NotTo(Succeed())
		for name := range files(dir) {
			Expect(os.Remove(filepath.Join(dir, name))).To(Succeed())
		}
		l.store.lasts(-1)
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		l.expectPruned(before, int64(len(before)), files(dir))
	})

	It("can be killed between any two of its steps", func() {
		for survived := 0; ; survived++ {
			l := newLog()
			store, dir := directory()
			l.pushes(520)
			before := l.entries()
			l.clock.advance(period + 48*time.Hour)
			l.pushes(1)
			l.store.lasts(survived)
			err := l.pruner(store).Prune(ctx)
			left := files(dir)
			l.store.lasts(-1)
			l.clock.advance(time.Hour)
			l.pushes(3)
			l.Core = l.another()
			Expect(l.pruner(store).Prune(ctx)).To(Succeed())
			for name, content := range left {
				Expect(files(dir)).To(HaveKeyWithValue(name, content), "after %d writes", survived)
			}
			l.expectPruned(before, int64(len(before)), files(dir))
			Expect(l.prunings()).To(HaveLen(1), "after %d writes", survived)
			if err == nil {
				Expect(survived).To(BeNumerically(">", 4))
				return
			}
		}
	})

	It("runs beside pushes, and loses nothing where replicas meet", func() {
		l := newLog()
		store, dir := directory()
		l.pushes(700)
		before := l.entries()
		l.clock.advance(period + 48*time.Hour)
		l.pushes(1)
		other := &log{Core: l.another(), store: l.store, clock: l.clock}
		var wg sync.WaitGroup
		for _, replica := range []*log{l, other, l, other} {
			wg.Go(func() {
				defer GinkgoRecover()
				// One that is late finds the entries pruned: then it stores nothing.
				Eventually(replica.pruner(store).Prune).WithArguments(ctx).WithTimeout(patience).Should(Succeed())
			})
		}
		l.pushes(50)
		wg.Wait()
		l.expectPruned(before, int64(len(before)), files(dir))
		Expect(l.prunings()).To(HaveLen(1))
	})

	It("removes nothing of a log that somebody has changed", func() {
		l := newLog()
		store, _ := directory()
		l.pushes(10)
		before := l.entries()
		l.clock.advance(period + 48*time.Hour)
		l.pushes(1)
		Expect(metatest.Tamper(ctx, l.dir, `UPDATE audit_entries SET leaf = (SELECT leaf FROM audit_entries WHERE idx = 7) WHERE idx = 5`)).To(Succeed())
		Expect(l.pruner(store).Prune(ctx)).To(MatchError(ContainSubstring("entry 5: its leaf does not have the hash")))
		Expect(l.LogStart(ctx)).To(BeZero())
		Expect(l.entries()[:5]).To(Equal(before[:5]))
	})

	It("archives entries without the persons who were erased before", func() {
		l := newLog()
		store, dir := directory()
		l.pushes(5)
		e, err := l.ErasePerson(ctx, domain.Caller{Name: "admin", Kind: domain.CallerUser}, "alice")
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() (domain.Erasure, error) { return l.Erasure(ctx, e.UUID) }).WithTimeout(patience).Should(HaveField("FinishedAt", Not(BeZero())))
		l.clock.advance(period + 48*time.Hour)
		l.pushes(1)
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		for _, content := range files(dir) {
			_, lines := unpack(content)
			Expect(lines).To(HaveLen(8))
			for _, line := range lines[:7] {
				Expect(line.Personal).To(BeNil())
			}
		}
	})

	It("leaves the status of policies whose entries are gone", func() {
		l := newLog()
		store, _ := directory()
		l.pushes(1)
		scope := core.Scope{Organization: "team-a"}
		policy, err := l.CreatePolicy(ctx, alice, scope, domain.PolicySpec{TagPattern: "latest", TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain})
		Expect(err).NotTo(HaveOccurred())
		status := func() (core.PolicyStatus, error) { return l.PolicyStatus(ctx, scope, policy.UUID) }
		Eventually(status).WithTimeout(patience).Should(HaveField("Swept", true))
		l.entries()
		l.clock.advance(period + 48*time.Hour)
		_, err = l.CreateOrganization(ctx, alice, "team-b")
		Expect(err).NotTo(HaveOccurred())
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		after, err := status()
		Expect(err).NotTo(HaveOccurred())
		Expect(after.Sweeps[0].FirstIndex).To(Equal(int64(-1)))
		Expect(after.Sweeps[0].Changed).To(Equal(int64(1)))
	})

	It("keeps archives in S3", func() {
		server := s3test.New(GinkgoT())
		bucket := server.Bucket()
		GinkgoT().Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		GinkgoT().Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		store, err := retention.OpenStore("s3://" + bucket + "/audit?endpoint=http://" + server.Address)
		Expect(err).NotTo(HaveOccurred())
		l := newLog()
		l.pushes(50)
		before := l.entries()
		l.clock.advance(period + 48*time.Hour)
		l.pushes(1)
		Expect(l.pruner(store).Prune(ctx)).To(Succeed())
		archive, err := l.LogArchive(ctx, 0)
		Expect(err).NotTo(HaveOccurred())
		stored, err := store.Open(ctx, archive.Name)
		Expect(err).NotTo(HaveOccurred())
		content, err := io.ReadAll(stored)
		Expect(err).NotTo(HaveOccurred())
		l.expectPruned(before, int64(len(before)), map[string][]byte{archive.Name: content})
	})

	It("is refused at start where archives cannot be", func() {
		_, err := retention.OpenStore(filepath.Join(GinkgoT().TempDir(), "missing"))
		Expect(err).To(MatchError(os.ErrNotExist))
		file := filepath.Join(GinkgoT().TempDir(), "file")
		Expect(os.WriteFile(file, nil, 0o600)).To(Succeed())
		_, err = retention.OpenStore(file)
		Expect(err).To(MatchError(ContainSubstring("is not a directory")))
		_, err = retention.OpenStore("s3://bucket?region")
		Expect(err).NotTo(HaveOccurred())
		_, err = retention.OpenStore("s3://")
		Expect(err).To(HaveOccurred())
	})
})

type refusing struct{ retention.Store }

func (refusing) Put(context.Context, string, *os.File, int64) error {
	return errors.New("the bucket is full")
}

type forgetting struct{ retention.Store }

func (forgetting) Put(context.Context, string, *os.File, int64) error { return nil }

type cutting struct{ retention.Store }

func (s cutting) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	stored, err := s.Store.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(stored, 100), stored}, nil
}
