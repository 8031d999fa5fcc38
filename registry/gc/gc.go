// Package gc collects garbage while the registry serves: what registry/core may remove from the database, the bytes in the
// blob store that no blob has any more, and bytes that never became a blob's.
//
// A run is many short steps, each of which leaves everything right: it can be killed anywhere, and two at once do no harm.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// Defaults of Options.
const (
	DefaultInterval  = time.Hour
	DefaultOrphanAge = 24 * time.Hour
	// firstRun is how long after the start the first run comes at the latest: a registry that is started again and
	// again collects too, but not before those who start it are served.
	firstRun = 5 * time.Minute
	// removeBatch is how many keys are read, removed, and forgotten together.
	removeBatch = 100
)

// Options are what a collector needs. Core and Blobs are required.
type Options struct {
	Core  *core.Core
	Blobs blob.Store
	// Logger is slog.Default by default.
	Logger *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Interval is the time between two runs; DefaultInterval if 0.
	Interval time.Duration
	// OrphanAge is how old bytes must be that no blob has: much older than any upload between its last byte and its
	// answer. It is also the time between two looks for them, which go through all keys. DefaultOrphanAge if 0.
	OrphanAge time.Duration
	// Offline says that nobody else uses the database and the blob store: no delay is waited for, and bytes that belong
	// to no blob are orphans at any age.
	Offline bool
}

// Collector collects garbage. It is safe for concurrent use.
type Collector struct {
	Options
	metrics *metrics
	wake    chan struct{}
}

// New makes a collector. Run lets it work on a schedule.
func New(options Options) *Collector {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Interval == 0 {
		options.Interval = DefaultInterval
	}
	if options.OrphanAge == 0 {
		options.OrphanAge = DefaultOrphanAge
	}
	return &Collector{Options: options, metrics: newMetrics(), wake: make(chan struct{}, 1)}
}

// Run collects every interval, and when Wake asks for it, until the context ends. Of several replicas one collects in each
// interval; if it dies on the way, what it left is for the next one.
func (c *Collector) Run(ctx context.Context) error {
	timer := time.NewTimer(min(c.Interval, firstRun))
	defer timer.Stop()
	for {
		every := c.Interval * 9 / 10 // replicas' clocks and timers differ
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-c.wake:
			every = 0
		}
		turn, err := c.Core.BeginCollection(ctx, every)
		if turn {
			_, err = c.Collect(ctx)
		}
		if err != nil && ctx.Err() == nil {
			c.Logger.Error("collecting garbage failed; trying again at the next run", "error", err)
		}
		timer.Reset(c.Interval)
	}
}

// Wake asks for a run now. It never waits.
func (c *Collector) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Collect does one run and returns what it removed, also if it fails on the way.
func (c *Collector) Collect(ctx context.Context) (total domain.Collected, err error) {
	started := time.Now()
	defer func() {
		c.metrics.observe(total, time.Since(started), err)
		if total != (domain.Collected{}) {
			c.Logger.Info("collected garbage", "manifests", total.Manifests, "links", total.Links, "blobs", total.Blobs, "blob_bytes", total.BlobBytes,
				"orphans", total.Orphans, "removed", total.Removed, "removed_bytes", total.RemovedBytes, "duration", time.Since(started))
		}
	}()
	total, err = c.Core.Collect(ctx)
	if err != nil {
		return total, err
	}
	var steps []error
	for _, step := range []func(context.Context) (domain.Collected, error){c.collectOrphans, c.removeBytes} {
		n, err := step(ctx)
		total = total.Add(n)
		steps = append(steps, err)
	}
	// What was removed is in the log even if the rest failed.
	steps = append(steps, c.Core.ReportCollection(context.WithoutCancel(ctx)))
	keys, bytes, err := c.Core.PendingRemovals(ctx)
	c.metrics.pending(keys, bytes)
	return total, errors.Join(append(steps, err)...)
}

// Plan is what a run would do.
type Plan struct {
	domain.Collected
	// Sample names some of what would go.
	Sample []string `json:"sample,omitempty"`
}

// Plan says what a run would remove, all delays over, and changes nothing. It is for a registry that does not serve.
func (c *Collector) Plan(ctx context.Context) (plan Plan, err error) {
	if plan.Collected, plan.Sample, err = c.Core.PlanCollect(ctx); err != nil {
		return plan, err
	}
	err = c.orphans(ctx, func(found []domain.Blob) error {
		for _, orphan := range found {
			plan.Orphans++
			plan.OrphanBytes += orphan.Size
			if plan.Orphans <= 10 {
				plan.Sample = append(plan.Sample, "orphan "+orphan.Key)
			}
		}
		return nil
	})
	if err != nil {
		return plan, err
	}
	keys, bytes, err := c.Core.PendingRemovals(ctx)
	plan.Removed, plan.RemovedBytes = keys+plan.Blobs+plan.Orphans, bytes+plan.BlobBytes+plan.OrphanBytes
	return plan, err
}

// collectOrphans queues the bytes that no blob has, if nobody has looked for them for as long as they must be old.
func (c *Collector) collectOrphans(ctx context.Context) (total domain.Collected, err error) {
	last, err := c.Core.ScannedKeys(ctx)
	if err != nil || !c.Offline && c.Now().Sub(last) < c.OrphanAge {
		return total, err
	}
	err = c.orphans(ctx, func(found []domain.Blob) error {
		n, err := c.Core.QueueOrphans(ctx, found)
		total = total.Add(n)
		return err
	})
	if err != nil {
		return total, fmt.Errorf("looking for bytes that belong to no blob: %w", err)
	}
	return total, c.Core.SetScannedKeys(ctx)
}

// orphans calls fn with the keys that are old and belong to no blob, some at a time.
func (c *Collector) orphans(ctx context.Context, fn func([]domain.Blob) error) error {
	before := c.Now().Add(-c.OrphanAge)
	var old []domain.Blob
	flush := func() error {
		unknown, err := c.Core.UnknownKeys(ctx, old)
		old = old[:0]
		if err != nil || len(unknown) == 0 {
			return err
		}
		for i := range unknown {
			if unknown[i].Size, err = c.size(ctx, unknown[i].Key); err != nil {
				return err
			}
		}
		return fn(unknown)
	}
	err := c.Blobs.Keys(ctx, func(key string, modified time.Time) error {
		if !c.Offline && !modified.Before(before) {
			return nil
		}
		d, _, err := blob.ParseKey(key)
		if err != nil {
			return err
		}
		if old = append(old, domain.Blob{Digest: d, Key: key}); len(old) < removeBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// size is how many bytes a key has; none if they went meanwhile.
func (c *Collector) size(ctx context.Context, key string) (int64, error) {
	reader, err := c.Blobs.Open(ctx, key)
	if errors.Is(err, blob.ErrUnknown) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return reader.Size(), reader.Close()
}

// removeBytes deletes the bytes of the keys that are due. They are deleted before the key is forgotten: after a crash in
// between they are deleted once more, which is no error.
func (c *Collector) removeBytes(ctx context.Context) (total domain.Collected, err error) {
	var failed []error
	now := c.Now()
	if c.Offline {
		now = now.AddDate(100, 0, 0) // whatever delay the keys were queued with
	}
	for after := ""; ctx.Err() == nil; {
		due, err := c.Core.DueRemovals(ctx, after, now, removeBatch)
		if err != nil {
			return total, errors.Join(append(failed, err)...)
		}
		var removed []domain.Blob
		for _, b := range due {
			// One that cannot be removed does not hold up the others.
			if err := c.Blobs.Remove(ctx, b.Key); err != nil {
				failed = append(failed, fmt.Errorf("removing the bytes of %s: %w", b.Key, err))
				continue
			}
			removed = append(removed, b)
		}
		if len(removed) > 0 {
			n, err := c.Core.FinishRemovals(ctx, removed)
			if err != nil {
				return total, errors.Join(append(failed, err)...)
			}
			total = total.Add(n)
		}
		if len(due) < removeBatch {
			break
		}
		after = due[len(due)-1].Key
	}
	return total, errors.Join(append(failed, ctx.Err())...)
}
