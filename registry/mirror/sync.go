package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/selection"
)

// run is one sync of a mirror on this replica.
type run struct {
	engine *Engine
	core   *core.Core
	blobs  blob.Store
	claim  *core.MirrorClaim
	logger *slog.Logger

	up           *upstream
	repositories selection.Repositories
	tags         selection.Tags
	platforms    selection.Platforms
	// tagSlots are the tags that are copied at once.
	tagSlots chan struct{}
	// bandwidth is nil if there is no limit.
	bandwidth *rate.Limiter

	mu       sync.Mutex
	progress domain.MirrorProgress
	// away counts the failures to reach the upstream since it was last reached.
	away int
}

// count changes the progress of the sync.
func (r *run) count(change func(*domain.MirrorProgress)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.progress)
}

func (r *run) snapshot() domain.MirrorProgress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// tooAway is how many failures to reach the upstream in a row end a sync: each was tried for some time.
const tooAway = 5

// reached notes whether the upstream was reached.
func (r *run) reached(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if isKind(err, kindUnreachable) || isKind(err, kindLimited) {
		r.away++
	} else if err == nil {
		r.away = 0
	}
}

// gone reports whether the upstream is gone, so that it is no use to go on.
func (r *run) gone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.away >= tooAway
}

// beat tells core again and again that the sync goes on and how far it is, and ends it when core says so.
func (r *run) beat(ctx context.Context, stop context.CancelCauseFunc) {
	failing := false
	for {
		goOn, err := r.core.BeatMirrorSync(ctx, r.claim, r.snapshot())
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			// Without beats another replica takes over in the end; until then the database may come back.
			r.logger.Warn("cannot say that a sync goes on; trying again", "error", err)
		}
		if failing = err != nil; !failing && !goOn {
			stop(errOver)
			return
		}
		if sleep(ctx, beat) != nil {
			return
		}
	}
}

// errGone ends a sync whose upstream is gone.
var errGone = errors.New("the upstream is gone")

// sync copies all repositories that are not done. It returns how the sync ended; an error ends it too.
func (r *run) sync(ctx context.Context) (domain.SyncState, error) {
	if err := r.prepare(); err != nil {
		return domain.SyncFailed, err
	}
	defer r.up.close()
	if !r.claim.Discovered {
		if err := r.discover(ctx); err != nil {
			return domain.SyncFailed, err
		}
	}
	if err := r.copyAll(ctx); err != nil {
		return domain.SyncFailed, err
	}
	return domain.SyncSucceeded, nil
}

// prepare compiles what the mirror declares.
func (r *run) prepare() (err error) {
	spec := r.claim.Mirror.MirrorSpec
	if r.repositories, err = selection.CompileRepositories(spec.Repositories); err != nil {
		return err
	}
	if r.tags, err = selection.CompileTags(spec.Tags); err != nil {
		return err
	}
	if r.platforms, err = selection.CompilePlatforms(spec.Platforms); err != nil {
		return err
	}
	r.tagSlots = make(chan struct{}, max(1, spec.Concurrency))
	if limit := spec.BandwidthLimit; limit > 0 {
		r.bandwidth = rate.NewLimiter(rate.Limit(limit), int(min(limit, 1<<20)))
	}
	r.up, err = r.engine.newUpstream(spec, r.claim.Secrets)
	return err
}

// discover lists the upstream and records what is selected of it.
func (r *run) discover(ctx context.Context) error {
	var names []string
	page := ""
	for n := 0; ; n++ {
		listed, next, err := r.up.lister.repositories(ctx, page)
		if err != nil {
			return err
		}
		for _, name := range listed {
			if r.repositories.Selects(name) {
				names = append(names, name)
			}
		}
		if next == "" {
			break
		}
		if n > maxPages || len(names) > maxRepositories {
			return failed(kindBroken, "the upstream lists more than %d repositories, or never comes to an end", maxRepositories)
		}
		page = next
	}
	if err := r.core.DiscoverMirrorRepositories(ctx, r.claim, names); err != nil {
		return err
	}
	r.count(func(p *domain.MirrorProgress) { p.Repositories.Discovered = int64(len(names)) })
	return nil
}

// pendingPage is how many names of repositories are in memory at once.
const pendingPage = 100

// copyAll copies the repositories that are not done, several at once.
func (r *run) copyAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	names := make(chan string)
	group.Go(func() error {
		defer close(names)
		for after := ""; ; {
			page, err := r.core.PendingMirrorRepositories(ctx, r.claim, after, pendingPage)
			if err != nil {
				return err
			}
			for _, name := range page {
				select {
				case names <- name:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			if len(page) < pendingPage {
				return nil
			}
			after = page[len(page)-1]
		}
	})
	for range cap(r.tagSlots) {
		group.Go(func() error {
			for name := range names {
				if r.gone() {
					return errGone
				}
				if err := r.copyOne(ctx, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// copyOne copies a repository and records what became of it. What is recorded is done in this sync, and not looked at
// again by whoever takes it over.
func (r *run) copyOne(ctx context.Context, path string) error {
	repo := &repository{
		run: r, path: path, name: domain.RepositoryName{Organization: r.claim.Mirror.Organization, Path: path}, logger: r.logger.With("repository", path),
		known: map[digest.Digest]bool{}, done: map[string]bool{},
	}
	result, err := repo.sync(ctx)
	if err != nil {
		return err
	}
	if r.gone() && result.State == domain.SyncFailed {
		return errGone // it is left as one that was not tried
	}
	if err := r.core.FinishMirrorRepository(ctx, r.claim, result, repo.failures, repo.conflicts); err != nil {
		return err
	}
	r.count(func(p *domain.MirrorProgress) { countRepository(&p.Repositories, result) })
	return nil
}

// countRepository counts a repository that is done in exactly one way.
func countRepository(counts *domain.MirrorCounts, result domain.MirrorRepository) {
	switch tags := result.Tags; {
	case result.State == domain.SyncSkipped:
		counts.Skipped++
	case result.State == domain.SyncFailed && (tags.Failed > 0 || tags.Conflicts == 0):
		counts.Failed++
	case tags.Conflicts > 0:
		counts.Conflicts++
	case tags.Copied+tags.Pruned > 0:
		counts.Copied++
	default:
		counts.Unchanged++
	}
}

// finish records how the sync ended: an error that ended it is a failure of its own. It tries until that is recorded, or the
// sync is somebody else's.
func (r *run) finish(ctx context.Context, state domain.SyncState, err error) domain.SyncState {
	p := r.snapshot()
	if p.Tags.Failed+p.Repositories.Failed > 0 || (p.Tags.Conflicts > 0 && r.claim.Mirror.OnConflict == domain.ConflictFail) {
		state = domain.SyncFailed
	}
	message := describe(p, state)
	var failures []domain.MirrorFailure
	if errors.Is(err, errGone) {
		err = fmt.Errorf("the upstream cannot be reached any more; %d of %d repositories are done, the others come with the next sync", p.Repositories.Done(), p.Repositories.Discovered)
	}
	if err != nil {
		message = reason(err)
		failures = append(failures, domain.MirrorFailure{Reason: message})
	}
	for {
		err := r.core.FinishMirrorSync(ctx, r.claim, state, message, failures...)
		switch {
		case errors.Is(err, core.ErrSyncOver):
			return domain.SyncCancelled
		case err == nil:
			return state
		case ctx.Err() != nil:
			return state
		}
		r.logger.Error("cannot record the end of a sync; trying again", "error", err)
		if sleep(ctx, time.Second) != nil {
			return state
		}
	}
}
