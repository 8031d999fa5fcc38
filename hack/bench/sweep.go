package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// sweepRepositories is among how many repositories the tags are spread.
const sweepRepositories = 20

// sweepRounds is how often a policy is swept with pushes beside it.
const sweepRounds = 3

// sweep measures a policy that covers all tags there are: from the call that makes it to the end of its sweep, when
// every tag has its hold and its entry in the log.
//
// It runs the core on its database in this process. A push is the write of its tag here, without HTTP and without the
// bytes of a layer: they would hide in their own time what a sweep does to it.
func sweep(ctx context.Context, o options, t *table) error {
	b, err := openCore(ctx, filepath.Join(o.dir, "sweep"))
	if err != nil {
		return err
	}
	defer b.close()
	start := time.Now()
	if err := b.fill(ctx, o.tags); err != nil {
		return err
	}
	elapsed := time.Since(start)
	t.add("tags made first, 64 clients", fmt.Sprintf("%d, %.0f a second", o.tags, float64(o.tags)/elapsed.Seconds()))

	alone, err := b.sweepPolicy(ctx, o.tags)
	if err != nil {
		return err
	}
	var beside, quiet samples
	var times []time.Duration
	for range sweepRounds {
		// As long as the sweep will take, so that both have as many samples.
		pause, end := context.WithTimeout(ctx, alone)
		latencies, err := b.push(pause, o.rate)
		end()
		if err != nil {
			return err
		}
		quiet = append(quiet, latencies...)

		pushing, end := context.WithCancel(ctx)
		group, pushing := errgroup.WithContext(pushing)
		group.Go(func() error {
			latencies, err = b.push(pushing, o.rate)
			return err
		})
		took, err := b.sweepPolicy(ctx, o.tags)
		end()
		if err := errors.Join(err, group.Wait()); err != nil {
			return err
		}
		beside = append(beside, latencies...)
		times = append(times, took)
	}
	t.limit(fmt.Sprintf("policy over %d tags, all covered, alone", o.tags), alone.Seconds(), 5, " s")
	t.add(fmt.Sprintf("the same beside %d pushes a second, median of %d", o.rate, sweepRounds), figure(median(times).Seconds(), " s"))
	t.add("push without a sweep: p50, p99", shortest(quiet.quantile(0.5))+", "+shortest(quiet.quantile(0.99)))
	t.add("push beside a sweep: p50, p99", shortest(beside.quantile(0.5))+", "+shortest(beside.quantile(0.99)))
	t.limit("ratio of the p99", float64(beside.quantile(0.99))/float64(quiet.quantile(0.99)), 5, "×")
	return nil
}

// coreBench is a core on a database of its own.
type coreBench struct {
	*core.Core
	store  meta.Store
	cancel context.CancelFunc
	done   chan error
	// pushed counts pushes, for names that were never used.
	pushed   atomic.Int64
	policies int
}

// benchOrganization is where everything is pushed to.
const benchOrganization = "bench"

func openCore(ctx context.Context, dir string) (*coreBench, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := sqlite.Open(ctx, filepath.Join(dir, "tidelock.db"), logger)
	if err != nil {
		return nil, err
	}
	b := &coreBench{Core: core.New(store, core.Options{Logger: logger}), store: store, done: make(chan error, 1)}
	ctx, b.cancel = context.WithCancel(ctx)
	go func() { b.done <- b.Run(ctx) }()
	return b, nil
}

func (b *coreBench) close() {
	b.cancel()
	<-b.done
	_ = b.store.Close()
}

// pushTag writes a new manifest under a new tag.
func (b *coreBench) pushTag(ctx context.Context, repository, tag string) error {
	content := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"n":"%d"}}`, b.pushed.Add(1))
	name := domain.RepositoryName{Organization: benchOrganization, Path: repository}
	_, err := b.PutManifest(ctx, domain.Caller{Name: "bench", Kind: domain.CallerUser, Address: "192.0.2.1"}, name, core.Push{
		Reference: domain.Reference{Tag: tag},
		Manifest: domain.Manifest{
			Digest: digest.FromString(content), MediaType: "application/vnd.oci.image.index.v1+json", Size: int64(len(content)), Content: []byte(content),
		},
		Create: core.CreateOrganization,
	})
	return err
}

// fill makes tags named v1.0.0, v1.0.1, …
func (b *coreBench) fill(ctx context.Context, tags int) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range 64 {
		group.Go(func() error {
			for i := int(next.Add(1)) - 1; i < tags; i = int(next.Add(1)) - 1 {
				if err := b.pushTag(ctx, fmt.Sprintf("app-%d", i%sweepRepositories), fmt.Sprintf("v1.%d.%d", i/1000, i%1000)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// sweepPolicy makes one more policy that covers all tags of fill and waits until its sweep is done.
func (b *coreBench) sweepPolicy(ctx context.Context, tags int) (time.Duration, error) {
	b.policies++
	start := time.Now()
	p, err := b.CreatePolicy(ctx, domain.System, core.Scope{Organization: benchOrganization}, domain.PolicySpec{
		TagPattern: fmt.Sprintf(`v[0-9]+\.[0-9]+\.[0-9]{1,%d}`, b.policies+2), TagPatternMatches: true,
		EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
	})
	if err != nil {
		return 0, err
	}
	for {
		var open []meta.Sweep
		err := b.store.Read(ctx, func(r *meta.Reader) (err error) {
			open, err = r.OpenSweepsOfPolicy(p.ID)
			return err
		})
		if err != nil {
			return 0, err
		}
		if len(open) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	took := time.Since(start)
	var holds int64
	err = b.store.Read(ctx, func(r *meta.Reader) (err error) {
		holds, err = r.CountHolds(p.ID)
		return err
	})
	if err == nil && holds != int64(tags) {
		err = fmt.Errorf("the policy holds %d of %d tags", holds, tags)
	}
	return took, err
}

// push pushes at a fixed rate until the context ends. A push counts from when it was due: one that waits behind a slow
// one has its wait counted.
func (b *coreBench) push(ctx context.Context, rate int) (samples, error) {
	const pushers = 16
	due := make(chan time.Time, rate) // a second of backlog, more than which is a failure of its own
	go func() {
		defer close(due)
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case at := <-ticker.C:
				due <- at
			}
		}
	}()
	var mu sync.Mutex
	var latencies samples
	var group errgroup.Group
	for range pushers {
		group.Go(func() error {
			for at := range due {
				if err := b.pushTag(context.WithoutCancel(ctx), "pushed", fmt.Sprintf("push-%d", b.pushed.Add(1))); err != nil {
					for range due { // let the clock go
					}
					return err
				}
				mu.Lock()
				latencies = append(latencies, time.Since(at))
				mu.Unlock()
			}
			return nil
		})
	}
	err := group.Wait()
	return latencies, err
}
