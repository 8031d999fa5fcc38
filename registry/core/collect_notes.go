package core

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

const (
	// noteInterval is how long finds gather before they are noted: far below any grace.
	noteInterval = time.Second
	// noteLimit bounds the finds that wait. What comes on top is not noted: its client may have to push again what it
	// was told to be there, if nobody asked for it within the grace.
	noteLimit = 1 << 16
)

// find is content that a HEAD found, on which a client may rely now when it pushes a manifest.
type find struct {
	name     domain.RepositoryName
	digest   digest.Digest
	manifest bool
}

// notes are the finds that are not noted yet.
type notes struct {
	mu   sync.Mutex
	open map[find]struct{}
}

func newNotes() *notes { return &notes{open: map[find]struct{}{}} }

func (n *notes) add(f find) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.open) < noteLimit {
		n.open[f] = struct{}{}
	}
}

// take returns all finds by repository and begins anew.
func (n *notes) take() map[domain.RepositoryName][]find {
	n.mu.Lock()
	open := n.open
	n.open = map[find]struct{}{}
	n.mu.Unlock()
	byRepository := map[domain.RepositoryName][]find{}
	for f := range open {
		byRepository[f.name] = append(byRepository[f.name], f)
	}
	return byRepository
}

// FoundBlob says that a HEAD found a blob, which begins its grace anew. It never waits and never fails.
func (c *Core) FoundBlob(name domain.RepositoryName, d digest.Digest) {
	c.found.add(find{name: name, digest: d})
}

// FoundManifest says that a HEAD found a manifest, which begins its grace anew. It never waits and never fails.
func (c *Core) FoundManifest(name domain.RepositoryName, d digest.Digest) {
	if c.options.Collection.UntaggedManifests {
		c.found.add(find{name: name, digest: d, manifest: true})
	}
}

// runNotes notes finds until the context ends.
func (c *Core) runNotes(ctx context.Context) error {
	ticker := time.NewTicker(noteInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := c.noteFinds(ctx); err != nil && ctx.Err() == nil {
				c.logger.Warn("noting what clients found failed; garbage collection does not know of it", "error", err)
			}
		}
	}
}

// noteFinds notes the finds whose last note is out of date: as a rule that is none of them, and nothing is written.
func (c *Core) noteFinds(ctx context.Context) error {
	var errs []error
	for name, finds := range c.found.take() {
		repo, finds, err := c.staleFinds(ctx, name, finds)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for from := 0; from < len(finds); from += collectBatch {
			errs = append(errs, c.note(ctx, repo, finds[from:min(from+collectBatch, len(finds))]))
		}
	}
	return errors.Join(errs...)
}

// staleFinds returns the finds whose last note is out of date.
func (c *Core) staleFinds(ctx context.Context, name domain.RepositoryName, finds []find) (repo domain.Repository, stale []find, err error) {
	before := c.stale(c.now())
	err = c.read(ctx, func(r *meta.Reader) error {
		stale = nil
		if repo, err = r.Repository(name); errors.Is(err, meta.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		for _, f := range finds {
			look := r.StaleLink
			if f.manifest {
				look = r.StaleManifest
			}
			is, err := look(repo.ID, f.digest, before)
			if err != nil {
				return err
			}
			if is {
				stale = append(stale, f)
			}
		}
		return nil
	})
	return repo, stale, err
}

func (c *Core) note(ctx context.Context, repo domain.Repository, finds []find) error {
	scope := sharedScope(repo.Name)
	scope.Background = true
	return c.store.Write(ctx, scope, func(tx *meta.Tx) error {
		now := c.now()
		for _, f := range finds {
			note := tx.NoteLink
			if f.manifest {
				note = tx.NoteManifest
			}
			if err := note(repo.ID, f.digest, now, c.stale(now)); err != nil {
				return err
			}
		}
		return nil
	})
}
