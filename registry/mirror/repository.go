package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/policy"
)

// repository is the copy of one repository in one sync.
type repository struct {
	*run
	// path is the name below the upstream's namespace, name the repository here.
	path   string
	name   domain.RepositoryName
	logger *slog.Logger

	// standing are the tags that are here, by name.
	standing map[string]core.TagView
	// signatures are the upstream's signature tags, by the beginning of their subject's digest.
	signatures map[string][]tag

	mu sync.Mutex
	// known are blobs that are in the repository.
	known map[digest.Digest]bool
	// done are the signature tags that were dealt with.
	done      map[string]bool
	progress  domain.MirrorProgress
	failures  []domain.MirrorFailure
	conflicts []domain.MirrorConflict
}

func (r *repository) isKnown(d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known[d]
}

func (r *repository) know(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[d] = true
}

// count changes the progress of the repository, and of the sync.
func (r *repository) count(change func(*domain.MirrorProgress)) {
	r.mu.Lock()
	change(&r.progress)
	r.mu.Unlock()
	r.run.count(change)
}

func (r *repository) saved(bytes int64) {
	r.count(func(p *domain.MirrorProgress) { p.BytesSaved += bytes })
	r.engine.metrics.saved.Add(float64(bytes))
}

// slow counts bytes that were fetched, and waits as the bandwidth limit says.
func (r *repository) slow(ctx context.Context, n int) error {
	r.count(func(p *domain.MirrorProgress) { p.BytesCopied += int64(n) })
	r.engine.metrics.copied.Add(float64(n))
	if r.bandwidth == nil {
		return nil
	}
	for n > 0 {
		part := min(n, r.bandwidth.Burst())
		if err := r.bandwidth.WaitN(ctx, part); err != nil {
			return cmp.Or(context.Cause(ctx), context.DeadlineExceeded) // it would be
		}
		n -= part
	}
	return nil
}

// fail notes that a tag, or with an empty one the repository, could not be copied.
func (r *repository) fail(tag string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.failures) < domain.MaxMirrorFailures {
		r.failures = append(r.failures, domain.MirrorFailure{Repository: r.path, Tag: tag, Reason: reason(err)})
	}
	r.logger.Warn("a mirror could not copy", "tag", tag, "reason", reason(err))
}

// sync copies the repository. Its error is one that ends the whole sync; everything else is in the result.
func (r *repository) sync(ctx context.Context) (result domain.MirrorRepository, err error) {
	result = domain.MirrorRepository{Name: r.path, State: domain.SyncSucceeded}
	err = r.syncTags(ctx)
	if ctx.Err() != nil {
		return result, ctx.Err()
	}
	switch {
	case isKind(err, kindMissing):
		result.State, result.Message = domain.SyncSkipped, "the upstream does not have it any more"
	case err != nil:
		r.fail("", err)
		result.State, result.Message = domain.SyncFailed, reason(err)
	case r.progress.Tags.Failed > 0:
		result.State = domain.SyncFailed
		result.Message = fmt.Sprintf("%d of %d tags could not be copied, first %s: %s", r.progress.Tags.Failed, r.progress.Tags.Discovered, r.failures[0].Tag, r.failures[0].Reason)
	case r.progress.Tags.Conflicts > 0:
		result.Message = fmt.Sprintf("%d locked tags differ from the upstream's, first %s", r.progress.Tags.Conflicts, r.conflicts[0].Tag)
		if r.claim.Mirror.OnConflict == domain.ConflictFail {
			result.State = domain.SyncFailed
		}
	}
	result.MirrorProgress = r.progress
	if errors.Is(err, core.ErrSyncOver) {
		return result, err
	}
	return result, nil
}

func (r *repository) syncTags(ctx context.Context) error {
	if _, err := domain.ParseRepositoryName(r.name.String()); err != nil {
		return err
	}
	listed, err := r.up.tags(ctx, r.path)
	r.reached(err)
	if err != nil {
		return err
	}
	if err := r.readStanding(ctx); err != nil {
		return err
	}
	selected := r.choose(listed)
	r.count(func(p *domain.MirrorProgress) { p.Tags.Discovered += int64(len(selected)) })
	group, working := errgroup.WithContext(ctx)
	for _, t := range selected {
		if !take(working, r.tagSlots) {
			break
		}
		group.Go(func() error {
			defer func() { <-r.tagSlots }()
			return r.syncTag(working, t)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := r.syncSignatures(ctx); err != nil {
		return err
	}
	if r.claim.Mirror.Prune == domain.PruneVanished {
		return r.prune(ctx, listed)
	}
	return nil
}

// take waits for a slot, unless the context ends.
func take(ctx context.Context, slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// standingPage is how many tags are read at once.
const standingPage = 1000

func (r *repository) readStanding(ctx context.Context) error {
	r.standing = map[string]core.TagView{}
	for after := ""; ; {
		page, err := r.core.ListTags(ctx, r.name, core.TagQuery{After: after, Limit: standingPage})
		if domain.CodeOf(err) == domain.CodeNameUnknown {
			return nil // it comes to be with its first content
		}
		if err != nil {
			return err
		}
		for _, t := range page {
			r.standing[t.Name] = t
		}
		if len(page) < standingPage {
			return nil
		}
		after = page[len(page)-1].Name
	}
}

// choose selects of the upstream's tags, and sets signature tags apart, which follow what they belong to.
func (r *repository) choose(listed []tag) (selected []tag) {
	byName := map[string]tag{}
	var names []string
	r.signatures = map[string][]tag{}
	for _, t := range listed {
		if signature, ok := policy.ParseSignatureTag(t.name); ok {
			if r.claim.Mirror.Referrers == domain.ReferrersCopy {
				r.signatures[signature.Subject] = append(r.signatures[signature.Subject], t)
			}
			continue
		}
		if _, twice := byName[t.name]; !twice {
			names = append(names, t.name)
		}
		byName[t.name] = t
	}
	for _, name := range r.tags.Select(names) {
		selected = append(selected, byName[name])
	}
	return selected
}

// prune deletes the tags that the mirror made and the upstream has no more. Locked ones stay, and so do signatures of
// images whose tags are locked.
func (r *repository) prune(ctx context.Context, listed []tag) error {
	there := map[string]bool{}
	for _, t := range listed {
		there[t.name] = true
	}
	for _, t := range r.standing {
		if there[t.Name] || t.MirrorID != r.claim.Mirror.ID {
			continue
		}
		if keep, err := r.keeps(ctx, t); err != nil {
			return err
		} else if keep {
			continue
		}
		switch err := r.core.DeleteTag(ctx, r.claim.Caller, r.name, t.Name); domain.CodeOf(err) {
		case "":
			if err != nil {
				return err
			}
			r.count(func(p *domain.MirrorProgress) { p.Tags.Pruned++ })
		case domain.CodeTagImmutable, domain.CodeManifestUnknown: // it was locked, or deleted, a moment ago
		default:
			return err
		}
	}
	return nil
}

// keeps reports whether something locks a tag that vanished.
func (r *repository) keeps(ctx context.Context, t core.TagView) (bool, error) {
	names := []string{t.Name}
	if signature, ok := policy.ParseSignatureTag(t.Name); ok {
		for _, other := range r.standing {
			if strings.HasPrefix(other.Digest.String(), signature.Subject) {
				names = append(names, other.Name)
			}
		}
	}
	for _, name := range names {
		if locked, err := r.locked(ctx, name); err != nil || locked {
			return locked, err
		}
	}
	return false, nil
}
