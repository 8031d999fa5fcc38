package forward_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/forward"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/metatest"
)

func TestForward(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/forward")
}

func TestForwardOnPostgreSQL(t *testing.T) { metatest.AgainOnPostgreSQL(t, "TestForward") }

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	alice = domain.Caller{Name: "alice", Kind: domain.CallerUser, Address: "192.0.2.7"}
	app   = domain.RepositoryName{Organization: "team-a", Path: "app"}
)

// patience is how long a test waits for what takes milliseconds on a machine that has nothing else to do.
const patience = time.Minute

// mortalStore is a store that its process may lose.
type mortalStore struct {
	meta.Store
	dead atomic.Bool
}

var errDead = errors.New("the database does not answer")

func (s *mortalStore) Read(ctx context.Context, fn func(*meta.Reader) error) error {
	if s.dead.Load() {
		return errDead
	}
	return s.Store.Read(ctx, fn)
}

func (s *mortalStore) Write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	if s.dead.Load() {
		return errDead
	}
	return s.Store.Write(ctx, scope, fn)
}

// replica is a core on the store of a directory.
type replica struct {
	*core.Core
	store *mortalStore
	stop  func()
}

// newReplica starts a core. Stop ends it, once.
func newReplica(dir string, options core.Options) *replica {
	GinkgoHelper()
	store, err := metatest.Open(dir, quiet)
	Expect(err).NotTo(HaveOccurred())
	options.Logger = quiet
	r := &replica{store: &mortalStore{Store: store}}
	r.Core = core.New(r.store, options)
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()
	var stopped atomic.Bool
	r.stop = func() {
		GinkgoHelper()
		if stopped.Swap(true) {
			return
		}
		cancel()
		Eventually(done).WithTimeout(patience).Should(Receive(BeNil()))
		Expect(store.Close()).To(Succeed())
	}
	DeferCleanup(func() { r.stop() })
	return r
}

// push moves a tag, which is an entry of the log.
func (r *replica) push(n int) error {
	content := fmt.Sprintf(`{"image":%d}`, n)
	_, err := r.PutManifest(ctx, alice, app, core.Push{Reference: domain.Reference{Tag: "latest"}, Create: core.CreateOrganization, Manifest: domain.Manifest{
		Digest: digest.FromString(content), MediaType: "application/vnd.oci.image.manifest.v1+json", Size: int64(len(content)), Content: []byte(content),
	}})
	return err
}

// pushes pushes so many times.
func (r *replica) pushes(from, to int) {
	GinkgoHelper()
	for n := from; n < to; n++ {
		Expect(r.push(n)).To(Succeed())
	}
}

// size is the number of entries of the log.
func (r *replica) size() int {
	GinkgoHelper()
	views, err := r.ReadLog(ctx, 0, 1_000_000)
	Expect(err).NotTo(HaveOccurred())
	size, err := r.LogSize(ctx)
	Expect(err).NotTo(HaveOccurred())
	Expect(views).To(HaveLen(int(size)))
	return int(size)
}

// indexed waits until every push is in the log, and returns its size.
func (r *replica) indexed() int {
	GinkgoHelper()
	_, err := r.LogCounts(ctx, everything)
	Expect(err).NotTo(HaveOccurred())
	return r.size()
}

// forwarding runs a forwarder until stop.
func forwarding(log forward.Log, options forward.Options, targets ...string) (f *forward.Forwarder, stop func()) {
	GinkgoHelper()
	var err error
	options.Log, options.Logger = log, quiet
	if options.Targets, err = forward.ParseTargets(targets); err != nil {
		Expect(err).NotTo(HaveOccurred())
	}
	if options.Backoff == 0 {
		options.Backoff = time.Millisecond
	}
	f, err = forward.New(options)
	Expect(err).NotTo(HaveOccurred())
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- f.Run(running)
		close(done)
	}()
	stop = func() {
		GinkgoHelper()
		cancel()
		Eventually(done).WithTimeout(patience).Should(Or(Receive(BeNil()), BeClosed()))
	}
	DeferCleanup(func() { stop() })
	return f, stop
}
