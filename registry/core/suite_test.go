package core_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
)

func TestCore(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "core")
}

// engines are the stores that every behaviour is tested on.
var engines = map[string]func(dir string) meta.Store{
	"sqlite":                       opener(metatest.OpenSQLite),
	"sqlite, each write run twice": func(dir string) meta.Store { return repeatingStore{opener(metatest.OpenSQLite)(dir)} },
	"postgres":                     opener(metatest.OpenPostgreSQL),
}

func opener(open func(dir string, logger *slog.Logger) (meta.Store, error)) func(dir string) meta.Store {
	return func(dir string) meta.Store {
		store, err := open(dir, quiet)
		Expect(err).NotTo(HaveOccurred())
		return store
	}
}

var quiet = slog.New(slog.DiscardHandler)

// repeatingStore runs each write once in vain before it runs it, as engines do whose transactions meet.
type repeatingStore struct{ meta.Store }

func (s repeatingStore) Write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	inVain := errors.New("in vain")
	err := s.Store.Write(ctx, scope, func(tx *meta.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return inVain
	})
	if !errors.Is(err, inVain) {
		return err
	}
	return s.Store.Write(ctx, scope, fn)
}

// eachEngine declares specs for every engine.
func eachEngine(text string, specs func(h *harness)) bool {
	return Describe(text, func() {
		for name, open := range engines {
			Context("on "+name, func() {
				h := &harness{open: open}
				BeforeEach(h.start)
				AfterEach(h.stop)
				specs(h)
			})
		}
	})
}

// clock is a clock that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Microsecond) // no two readings are the same
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

var (
	alice    = domain.Caller{Name: "alice", Kind: domain.CallerUser, Address: "192.0.2.7"}
	operator = domain.Caller{Name: "operator", Kind: domain.CallerOperator}
	app      = domain.RepositoryName{Organization: "team-a", Path: "app"}
	releases = spec(`v.*`)
)

func spec(pattern string) domain.PolicySpec {
	return domain.PolicySpec{TagPattern: pattern, TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain}
}

// gate lets background work do so many transactions and then holds it, so that a test finds it in the middle.
type gate struct {
	mu     sync.Mutex
	passes chan struct{}
	// deletes says that what removes content is held too: clients' deletes look like the collector's.
	deletes bool
	// held counts those that wait.
	held atomic.Int64
}

func newGate() *gate {
	g := &gate{}
	g.allow(0)
	g.open()
	return g
}

func (g *gate) holdDeletes(held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deletes = held
}

func (g *gate) allow(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passes = make(chan struct{}, n)
	for range n {
		g.passes <- struct{}{}
	}
}

// used reports whether all that was allowed is used up.
func (g *gate) used() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.passes) == 0
}

// waiting reports whether anybody waits for a pass.
func (g *gate) waiting() bool { return g.held.Load() > 0 }

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.passes)
}

// gatedStore is a store whose background work goes through a gate.
type gatedStore struct {
	meta.Store
	gate *gate
	// fail, if it holds an error, makes every write fail with it when all of its statements have run.
	fail *atomic.Pointer[error]
}

func (s gatedStore) Write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	s.gate.mu.Lock()
	passes, deletes := s.gate.passes, s.gate.deletes
	s.gate.mu.Unlock()
	if scope.Background && (deletes || !scope.RepositoryExclusive) {
		s.gate.held.Add(1)
		select {
		case <-passes:
			s.gate.held.Add(-1)
		case <-ctx.Done():
			s.gate.held.Add(-1)
			return ctx.Err()
		}
	}
	return s.Store.Write(ctx, scope, func(tx *meta.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if err := s.fail.Load(); err != nil {
			return *err
		}
		return nil
	})
}

// harness is a core with its background work on a store of its own.
type harness struct {
	open    func(dir string) meta.Store
	dir     string
	options core.Options
	clock   *clock

	*core.Core
	store  meta.Store
	gate   *gate
	fail   atomic.Pointer[error]
	cancel context.CancelFunc
	done   chan error
	n      int
}

func (h *harness) start() {
	h.dir, h.clock, h.n = GinkgoT().TempDir(), &clock{now: time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC)}, 0
	h.options, h.gate = core.Options{ExpirationPoll: 20 * time.Millisecond}, newGate()
	h.run()
}

// run opens the store and starts a core on it.
func (h *harness) run() {
	h.store = gatedStore{Store: h.open(h.dir), gate: h.gate, fail: &h.fail}
	h.options.Logger, h.options.Now = quiet, h.clock.Now
	h.Core = core.New(h.store, h.options)
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.done = cancel, make(chan error, 1)
	go func(c *core.Core, done chan error) { done <- c.Run(ctx) }(h.Core, h.done)
}

// beside runs another core on the same store, and returns what stops it.
func (h *harness) beside(other *core.Core) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- other.Run(ctx) }()
	return func() {
		GinkgoHelper()
		cancel()
		Eventually(done).WithTimeout(patience).Should(Receive(BeNil()))
	}
}

func (h *harness) stop() {
	h.cancel()
	Eventually(h.done).WithTimeout(patience).Should(Receive(BeNil()))
	Expect(h.store.Close()).To(Succeed())
}

// with restarts the core with other options.
func (h *harness) with(change func(*core.Options)) {
	h.stop()
	change(&h.options)
	h.run()
}

var ctx = context.Background()

// patience is how long a test waits for what takes milliseconds on a machine that has nothing else to do.
const patience = time.Minute

// push stores a new image under a tag.
func (h *harness) push(name domain.RepositoryName, tag string) (digest.Digest, error) {
	h.n++
	return h.pushContent(name, tag, fmt.Sprintf(`{"image":%d}`, h.n))
}

func (h *harness) pushContent(name domain.RepositoryName, tag, content string) (digest.Digest, error) {
	return h.put(name, tag, manifest(content))
}

func manifest(content string) domain.Manifest {
	return domain.Manifest{
		Digest: digest.FromString(content), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: int64(len(content)), Content: []byte(content),
	}
}

// put stores a manifest under a tag, or with an empty tag under its digest.
func (h *harness) put(name domain.RepositoryName, tag string, m domain.Manifest) (digest.Digest, error) {
	ref := domain.Reference{Tag: tag}
	if tag == "" {
		ref.Digest = m.Digest
	}
	result, err := h.PutManifest(ctx, alice, name, core.Push{Reference: ref, Manifest: m, Create: core.CreateOrganization})
	return result.Digest, err
}

// setTag points a tag to a digest.
func (h *harness) setTag(name domain.RepositoryName, tag string, d digest.Digest) error {
	return h.ChangeTag(ctx, alice, name, tag, core.TagChange{Digest: d})
}

// hold places or removes the hold by hand.
func (h *harness) hold(name domain.RepositoryName, tag string, immutable bool) error {
	return h.ChangeTag(ctx, alice, name, tag, core.TagChange{Immutable: &immutable})
}

func (h *harness) mustPush(name domain.RepositoryName, tag string) digest.Digest {
	GinkgoHelper()
	d, err := h.push(name, tag)
	Expect(err).NotTo(HaveOccurred())
	return d
}

// tag returns the digest of a tag, or empty.
func (h *harness) tag(name domain.RepositoryName, tag string) digest.Digest {
	GinkgoHelper()
	m, err := h.Manifest(ctx, name, domain.Reference{Tag: tag}, false)
	if domain.CodeOf(err) == domain.CodeManifestUnknown {
		return ""
	}
	Expect(err).NotTo(HaveOccurred())
	return m.Digest
}

// swept waits until a policy has no sweep left.
func (h *harness) swept(scope core.Scope, id string) core.PolicyStatus {
	GinkgoHelper()
	var status core.PolicyStatus
	Eventually(func(g Gomega) {
		var err error
		status, err = h.PolicyStatus(ctx, scope, id)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(status.Swept).To(BeTrue())
	}).WithTimeout(patience).WithPolling(5 * time.Millisecond).Should(Succeed())
	return status
}

// idle waits until no sweep at all is open.
func (h *harness) idle() {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(h.store.Read(ctx, func(r *meta.Reader) error {
			open, err := r.OpenSweeps(1)
			g.Expect(open).To(BeEmpty())
			return err
		})).To(Succeed())
	}).WithTimeout(patience).WithPolling(5 * time.Millisecond).Should(Succeed())
}

// entries returns the log, the oldest first, of the given kinds or of all.
func (h *harness) entries(kinds ...audit.Kind) []audit.View {
	GinkgoHelper()
	views, err := h.Log(ctx, audit.Query{Kinds: kinds, After: -1, Ascending: true, Limit: 1_000_000})
	Expect(err).NotTo(HaveOccurred())
	return views
}

func (h *harness) locked(name domain.RepositoryName, tag string) bool {
	GinkgoHelper()
	views, err := h.ListTags(ctx, name, core.TagQuery{Tag: tag})
	Expect(err).NotTo(HaveOccurred())
	Expect(views).To(HaveLen(1))
	return views[0].Immutable
}

func (h *harness) mustCreate(scope core.Scope, spec domain.PolicySpec) domain.Policy {
	GinkgoHelper()
	p, err := h.CreatePolicy(ctx, alice, scope, spec)
	Expect(err).NotTo(HaveOccurred())
	return p
}

var teamA = core.Scope{Organization: "team-a"}

// haveCode matches an error with a code.
func haveCode(code domain.Code) OmegaMatcher {
	return WithTransform(domain.CodeOf, Equal(code))
}

// metric adds up the values of the core's metric that have all of these labels.
func (h *harness) metric(name string, labels ...string) (sum float64) {
	GinkgoHelper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(h.Metrics()...)
	families, err := registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			has := map[string]bool{}
			for _, label := range m.GetLabel() {
				has[label.GetValue()] = true
			}
			if !slices.ContainsFunc(labels, func(label string) bool { return !has[label] }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
