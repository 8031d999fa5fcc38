package gc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/gc"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

func TestGC(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/gc")
}

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	alice = domain.Caller{Name: "alice", Kind: domain.CallerUser}
	app   = domain.RepositoryName{Organization: "team-a", Path: "app"}
)

// clock is a clock that tests move. It begins now, since files have the time of the machine.
type clock struct {
	mu    sync.Mutex
	shift time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.shift)
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shift += d
}

// failing is a blob store that cannot remove some keys.
type failing struct {
	blob.Store
	mu   sync.Mutex
	keys map[string]bool
}

func (f *failing) Remove(ctx context.Context, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys[key] {
		return errors.New("input/output error")
	}
	return f.Store.Remove(ctx, key)
}

var _ = Describe("a collector", func() {
	var (
		clk       *clock
		c         *core.Core
		blobs     *failing
		collector *gc.Collector
		options   gc.Options
	)
	BeforeEach(func() {
		clk = &clock{}
		directory, err := fs.Lock(GinkgoT().TempDir())
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(directory.Release)
		store, err := sqlite.Open(ctx, filepath.Join(directory.Path(), "tidelock.db"), quiet)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(store.Close)
		files, err := fs.Open(directory)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(files.Close)
		blobs = &failing{Store: files, keys: map[string]bool{}}
		c = core.New(store, core.Options{Logger: quiet, Now: clk.Now})
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- c.Run(running) }()
		DeferCleanup(func() {
			stop()
			Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))
		})
		options = gc.Options{Core: c, Blobs: blobs, Logger: quiet, Now: clk.Now}
		collector = gc.New(options)
	})
	// store makes bytes durable; link also makes them a blob.
	store := func(content string) domain.Blob {
		GinkgoHelper()
		u, err := blobs.Append(ctx, blobs.Begin(blob.NewUploadID(), digest.SHA256), strings.NewReader(content), nil)
		Expect(err).NotTo(HaveOccurred())
		stored, err := blobs.Commit(ctx, u, digest.FromString(content))
		Expect(err).NotTo(HaveOccurred())
		return stored
	}
	link := func(content string) domain.Blob {
		GinkgoHelper()
		stored := store(content)
		kept, err := c.LinkBlob(ctx, alice, app, stored, core.CreateOrganization)
		Expect(kept, err).To(BeTrue())
		return stored
	}
	has := func(b domain.Blob) bool {
		GinkgoHelper()
		reader, err := blobs.Open(ctx, b.Key)
		if errors.Is(err, blob.ErrUnknown) {
			return false
		}
		Expect(err).NotTo(HaveOccurred())
		Expect(reader.Close()).To(Succeed())
		return true
	}
	collect := func() domain.Collected {
		GinkgoHelper()
		n, err := collector.Collect(ctx)
		Expect(err).NotTo(HaveOccurred())
		return n
	}
	metrics := func() string {
		GinkgoHelper()
		gatherer := prometheus.NewRegistry()
		gatherer.MustRegister(collector.Metrics()...)
		answer := httptest.NewRecorder()
		promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
		content, err := io.ReadAll(answer.Body)
		Expect(err).NotTo(HaveOccurred())
		return string(content)
	}

	It("deletes the bytes of a blob an hour after the blob, and counts it", func() {
		b := link("layer")
		clk.Advance(26 * time.Hour)
		Expect(collect()).To(Equal(domain.Collected{Links: 1, Blobs: 1, BlobBytes: 5}))
		Expect(has(b)).To(BeTrue(), "somebody may be reading them")
		Expect(metrics()).To(And(ContainSubstring("tidelock_gc_pending_bytes 5\n"), ContainSubstring("tidelock_gc_freed_bytes_total 0\n")))
		clk.Advance(time.Hour + time.Minute)
		Expect(collect()).To(Equal(domain.Collected{Removed: 1, RemovedBytes: 5}))
		Expect(has(b)).To(BeFalse())
		Expect(metrics()).To(And(
			ContainSubstring("tidelock_gc_pending_bytes 0\n"), ContainSubstring("tidelock_gc_pending_keys 0\n"), ContainSubstring("tidelock_gc_freed_bytes_total 5\n"),
			ContainSubstring(`tidelock_gc_removed_total{kind="link"} 1`), ContainSubstring(`tidelock_gc_removed_total{kind="blob"} 1`), ContainSubstring(`tidelock_gc_removed_total{kind="key"} 1`),
			ContainSubstring(`tidelock_gc_runs_total{result="success"} 2`)))
		entries, err := c.Log(ctx, audit.Query{Kinds: []audit.Kind{audit.KindGarbageCollection}, After: -1, Ascending: true, Limit: 10})
		Expect(err).NotTo(HaveOccurred())
		Expect(entries).To(HaveLen(2), "one for each run that removed something")
	})

	It("deletes bytes that never became a blob's, when they are a day old", func() {
		orphan, kept := store("orphan"), link("kept")
		m := domain.Manifest{Digest: digest.FromString("{}"), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 2, Content: []byte("{}"), Blobs: []digest.Digest{kept.Digest}}
		_, err := c.PutManifest(ctx, alice, app, core.Push{Reference: domain.Reference{Tag: "v1"}, Manifest: m})
		Expect(err).NotTo(HaveOccurred())
		clk.Advance(23 * time.Hour)
		Expect(collect()).To(Equal(domain.Collected{}))
		clk.Advance(30 * time.Minute)
		young := store("young")
		Expect(os.Chtimes(fileOf(blobs, young), time.Time{}, clk.Now())).To(Succeed())
		Expect(collect().Orphans).To(BeZero(), "it looked for them within a day")
		clk.Advance(23*time.Hour + 30*time.Minute)
		Expect(collect()).To(Equal(domain.Collected{Orphans: 1, OrphanBytes: 6}))
		Expect(has(orphan)).To(BeTrue(), "who has just linked it is not harmed")
		clk.Advance(time.Hour + time.Minute)
		Expect(collect()).To(Equal(domain.Collected{Removed: 1, RemovedBytes: 6}))
		Expect(has(orphan)).To(BeFalse())
		Expect(has(kept)).To(BeTrue())
		Expect(has(young)).To(BeTrue())
	})

	It("goes on with other keys where one cannot be removed, and tries that again", func() {
		var list []domain.Blob
		for i := range 250 {
			list = append(list, link(fmt.Sprint(i)))
		}
		blobs.keys[list[7].Key] = true
		clk.Advance(26 * time.Hour)
		collect()
		clk.Advance(2 * time.Hour)
		n, err := collector.Collect(ctx)
		Expect(err).To(MatchError(ContainSubstring(list[7].Key)))
		Expect(n.Removed).To(Equal(int64(249)))
		Expect(metrics()).To(ContainSubstring(`tidelock_gc_runs_total{result="failure"} 1`))
		delete(blobs.keys, list[7].Key)
		Expect(collect().Removed).To(Equal(int64(1)))
	})

	It("does no harm at twice", func() {
		var list []domain.Blob
		for i := range 300 {
			list = append(list, link(fmt.Sprint(i)))
		}
		clk.Advance(26 * time.Hour)
		other := gc.New(options)
		both := func() (total domain.Collected) {
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, one := range []*gc.Collector{collector, other} {
				wg.Go(func() {
					defer GinkgoRecover()
					n, err := one.Collect(ctx)
					Expect(err).NotTo(HaveOccurred())
					mu.Lock()
					defer mu.Unlock()
					total = total.Add(n)
				})
			}
			wg.Wait()
			return total
		}
		Expect(both().Blobs).To(Equal(int64(300)))
		clk.Advance(2 * time.Hour)
		Expect(both().Removed).To(Equal(int64(300)))
		for _, b := range list {
			Expect(has(b)).To(BeFalse())
		}
	})

	It("plans for a registry that does not serve, and then does as planned at once", func() {
		b, orphan := link("layer"), store("orphan")
		clk.Advance(26 * time.Hour)
		options.Offline = true
		collector = gc.New(options)
		plan, err := collector.Plan(ctx)
		Expect(err).NotTo(HaveOccurred())
		Expect(plan).To(Equal(gc.Plan{
			Collected: domain.Collected{Links: 1, Blobs: 1, BlobBytes: 5, Orphans: 1, OrphanBytes: 6, Removed: 2, RemovedBytes: 11},
			Sample:    []string{"link team-a/app@" + b.Digest.String(), "blob " + b.Digest.String(), "orphan " + orphan.Key},
		}))
		Expect(has(b)).To(BeTrue())
		Expect(has(orphan)).To(BeTrue())
		Expect(collect()).To(Equal(plan.Collected))
		Expect(has(b)).To(BeFalse())
		Expect(has(orphan)).To(BeFalse())
	})

	It("works on its schedule, and when it is woken", func() {
		options.Interval = time.Hour
		collector = gc.New(options)
		b := link("layer")
		clk.Advance(26 * time.Hour)
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- collector.Run(running) }()
		collector.Wake()
		gone := func() bool {
			_, err := c.Blob(ctx, app, b.Digest)
			return domain.CodeOf(err) == domain.CodeBlobUnknown
		}
		Eventually(gone).WithTimeout(time.Minute).Should(BeTrue())
		stop()
		Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))

		options.Interval = 10 * time.Millisecond
		b = link("layer again")
		clk.Advance(26 * time.Hour)
		running, stop = context.WithCancel(ctx)
		go func() { done <- gc.New(options).Run(running) }()
		Eventually(gone).WithTimeout(time.Minute).Should(BeTrue())
		stop()
		Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))
	})
})

// fileOf is the file of a blob.
func fileOf(blobs blob.Store, b domain.Blob) string {
	GinkgoHelper()
	reader, err := blobs.Open(ctx, b.Key)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = reader.Close() }()
	return reader.(interface{ Name() string }).Name()
}
