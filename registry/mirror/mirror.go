// Package mirror fills organizations from other registries and keeps them current: it lists what an upstream has, copies
// what is not here through registry/core, under the locks and with the evidence of every push, and says what it did.
//
// A sync belongs to one replica at a time, by a lease that core keeps, and goes on at another one, or after a restart, at
// the repositories that are not done. Nothing that it writes counts once it is not its mirror's any more.
package mirror

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/selection"
)

// maxSyncs is how many mirrors one replica syncs at once.
const maxSyncs = 8

// Options are what an engine needs. Core and Blobs are required.
type Options struct {
	Core  *core.Core
	Blobs blob.Store
	// Logger is slog.Default by default.
	Logger *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Networks are the addresses that mirrors may reach although they are not public.
	Networks Networks
	// RetryPause is how long after no answer a request is sent again; it doubles each time. Half a second if 0, so that all
	// tries take about 15 seconds.
	RetryPause time.Duration
}

// Engine syncs mirrors. It is safe for concurrent use.
type Engine struct {
	Options
	holder   string
	budgets  *budgets
	flights  *flights
	partials *partials
	metrics  *metrics
	large    large
}

// New makes an engine. Run lets it work.
func New(options Options) *Engine {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.RetryPause == 0 {
		options.RetryPause = 500 * time.Millisecond
	}
	return &Engine{
		Options: options, holder: rand.Text(), budgets: newBudgets(options.Now), flights: newFlights(), partials: newPartials(), metrics: newMetrics(),
		large: newLarge(),
	}
}

// Metrics are the engine's numbers, to be registered.
func (e *Engine) Metrics() []prometheus.Collector { return append(e.metrics.all(), newBehind(e.Core)) }

// Run syncs the mirrors that are due, and those that another replica let go, several at once, until the context ends. What
// runs then is given back: another replica goes on with it, or this one after its restart.
func (e *Engine) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, maxSyncs)
	wake := make(chan struct{}, 1)
	for ctx.Err() == nil {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		claim, wait, err := e.Core.ClaimMirrorSync(ctx, e.holder)
		if err != nil && ctx.Err() == nil {
			e.Logger.Error("cannot look for mirrors to sync; trying again", "error", err)
			wait = max(wait, time.Second)
		}
		if claim != nil {
			running.Go(func() {
				e.carryOut(ctx, claim)
				<-free
				select {
				case wake <- struct{}{}:
				default:
				}
			})
			continue
		}
		<-free
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-e.Core.WakeMirrors():
		case <-wake:
		}
		timer.Stop()
	}
	return nil
}

// errOver ends a sync that is not this replica's any more.
var errOver = errors.New("the sync is over")

// beat is how often a sync asks whether it is to go on: so often that it ends within a second after it was cancelled.
const beat = 200 * time.Millisecond

// carryOut syncs a mirror whose claim this replica has.
func (e *Engine) carryOut(ctx context.Context, claim *core.MirrorClaim) {
	m := claim.Mirror
	logger := e.Logger.With("organization", m.Organization, "sync", claim.Sync.Number, "upstream", m.Source.URL, "namespace", m.Source.Namespace)
	logger.Info("a mirror syncs", "trigger", claim.Sync.Trigger, "taken_over", !claim.Fresh)
	started := e.Now()
	e.metrics.running.Inc()
	defer e.metrics.running.Dec()
	r := &run{engine: e, core: e.Core, blobs: e.Blobs, claim: claim, logger: logger, progress: claim.Sync.MirrorProgress}
	working, stop := context.WithCancelCause(ctx)
	beating := make(chan struct{})
	go func() {
		defer close(beating)
		r.beat(working, stop)
	}()
	state, err := r.sync(working)
	over := errors.Is(err, core.ErrSyncOver) || errors.Is(context.Cause(working), errOver)
	stop(nil)
	<-beating
	switch {
	case over:
		state = domain.SyncCancelled
	case ctx.Err() != nil:
		// Its context is over, but the sync must be given back.
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := e.Core.LeaveMirrorSync(short, claim); err != nil {
			logger.Warn("cannot give a sync back; another replica takes it over when its lease ends", "error", err)
		}
		return
	default:
		state = r.finish(ctx, state, err)
	}
	p := r.snapshot()
	e.metrics.observe(state, e.Now().Sub(started))
	logger.Info("a mirror's sync ended", "state", state, "duration", e.Now().Sub(started), "repositories", p.Repositories.Discovered, "tags", p.Tags.Discovered,
		"copied", p.Tags.Copied, "unchanged", p.Tags.Unchanged, "failed", p.Tags.Failed, "conflicts", p.Tags.Conflicts, "pruned", p.Tags.Pruned,
		"bytes_copied", p.BytesCopied, "bytes_saved", p.BytesSaved)
}

// verifyTimeout bounds Verify.
const verifyTimeout = 30 * time.Second

// Verify asks an upstream for the first page of its list, and returns INVALID with what is wrong, or nil.
func (e *Engine) Verify(ctx context.Context, spec domain.MirrorSpec, secrets domain.MirrorSecrets) error {
	spec = selection.WithDefaults(spec)
	if err := selection.Validate(spec); err != nil {
		return err
	}
	u, err := e.newUpstream(spec, secrets)
	if err != nil {
		return domain.Errorf(domain.CodeInvalid, "%s", reason(err))
	}
	defer u.close()
	within, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	names, _, err := u.repositories(within, "")
	if err == nil && spec.Source.Type == domain.UpstreamOCI && len(names) > 0 {
		// Names that the mirror itself gave say nothing.
		_, err = u.tags(within, names[0])
	}
	if err != nil && ctx.Err() == nil {
		return domain.Errorf(domain.CodeInvalid, "%s", reason(err))
	}
	return ctx.Err()
}

// describe says how a sync went.
func describe(p domain.MirrorProgress, state domain.SyncState) string {
	if state == domain.SyncSucceeded && p.Tags.Copied+p.Tags.Pruned+p.Tags.Conflicts == 0 {
		return fmt.Sprintf("%d tags in %d repositories are current", p.Tags.Unchanged, p.Repositories.Discovered)
	}
	text := fmt.Sprintf("copied %d tags, %d were current", p.Tags.Copied, p.Tags.Unchanged)
	for _, more := range []struct {
		count int64
		what  string
	}{
		{p.Tags.Pruned, "were deleted"}, {p.Tags.Conflicts, "are locked and differ from the upstream's"}, {p.Tags.Failed, "failed"}, {p.Repositories.Failed, "repositories failed"},
	} {
		if more.count > 0 {
			text += fmt.Sprintf(", %d %s", more.count, more.what)
		}
	}
	return text
}
