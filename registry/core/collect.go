package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// Collection says what garbage collection may remove, and when.
type Collection struct {
	// Grace is how long a blob, and a manifest, is kept after it was last pushed, mounted or found by a HEAD, whether or
	// not anything refers to it.
	Grace time.Duration
	// Delay is how long the bytes of a blob stay after the blob is gone: longer than anybody reads who found it before.
	Delay time.Duration
	// UntaggedManifests collects manifests without a root too. A root is a live tag, a tag that can be restored, or a
	// manifest within its grace; it keeps its children and referrers, at any distance.
	UntaggedManifests bool
}

// DefaultCollection is how garbage is collected if nobody says otherwise.
var DefaultCollection = Collection{Grace: 24 * time.Hour, Delay: time.Hour}

// RestorableFor is how long a tag that was moved or deleted keeps what it pointed to from garbage collection.
const RestorableFor = 14 * 24 * time.Hour

// Limits of one transaction and of one read of garbage collection.
const (
	collectBatch = 100
	collectPage  = 1000
	// collectSample is how many examples a dry run names of each kind.
	collectSample = 10
)

// noteShare is how exact the time of a last use is, as a share of the grace. It is added to the grace, so that nothing
// goes before that is over.
const noteShare = 24

// stale is the time up to which a note of a last use is out of date.
func (c *Core) stale(now time.Time) time.Time {
	return now.Add(-c.options.Collection.Grace / noteShare)
}

// room refuses to store content while there is no room for it.
func (c *Core) room() error { return c.options.Room() }

// Collect removes from the database what garbage collection may remove: manifests without a root, if that is switched on,
// then repositories' links to blobs, then blobs, whose keys it queues for the removal of their bytes. It works in short
// transactions beside the clients, can be stopped anywhere, and may run more than once at a time.
func (c *Core) Collect(ctx context.Context) (domain.Collected, error) {
	if err := c.checkWritable(ctx); err != nil {
		return domain.Collected{}, err
	}
	g := c.newCollection()
	g.read = func(fn func(*meta.Reader) error) error { return c.read(ctx, fn) }
	g.write = func(scope meta.Scope, fn func(*change) error) error {
		return c.writeAlways(ctx, domain.System, scope, unlessReadOnly(fn))
	}
	err := g.run(ctx)
	return g.total, err
}

// errDryRun undoes the transaction of a dry run.
var errDryRun = errors.New("a dry run")

// PlanCollect does what Collect does, but in one transaction that it undoes. The sample names some of what would go. It
// holds the database as long as it takes, so it is not for a registry that serves.
func (c *Core) PlanCollect(ctx context.Context) (total domain.Collected, sample []string, err error) {
	g := c.newCollection()
	err = c.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
		g.total, g.sample, g.sampled = domain.Collected{}, nil, map[string]int{}
		g.read = func(fn func(*meta.Reader) error) error { return fn(&tx.Reader) }
		g.write = func(_ meta.Scope, fn func(*change) error) error {
			return fn(&change{Tx: tx, caller: domain.System, now: c.now()})
		}
		if err := g.run(ctx); err != nil {
			return err
		}
		return errDryRun
	})
	if errors.Is(err, errDryRun) {
		err = nil
	}
	return g.total, g.sample, forClient(err)
}

// collection is one pass over the database.
type collection struct {
	Collection
	// before is the time of the last use before which something may go, restorable the one since which tags count.
	before, restorable time.Time
	// read and write run a transaction, or a dry run's part of one.
	read  func(func(*meta.Reader) error) error
	write func(meta.Scope, func(*change) error) error
	total domain.Collected
	// sample names the first of what was removed of each kind, and sampled counts them.
	sample  []string
	sampled map[string]int
}

func (c *Core) newCollection() *collection {
	now := c.now()
	g := &collection{Collection: *c.options.Collection, restorable: now.Add(-RestorableFor), sampled: map[string]int{}}
	g.before = c.stale(now).Add(-g.Grace)
	return g
}

func (g *collection) run(ctx context.Context) error {
	for after := int64(0); ; {
		var repos []domain.Repository
		err := g.read(func(r *meta.Reader) (err error) {
			repos, err = r.AllRepositories(after, collectPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, repo := range repos {
			if err := g.repository(ctx, repo); err != nil {
				return fmt.Errorf("repository %s: %w", repo.Name, err)
			}
		}
		if len(repos) < collectPage {
			break
		}
		after = repos[len(repos)-1].ID
	}
	return g.blobs(ctx)
}

func (g *collection) repository(ctx context.Context, repo domain.Repository) error {
	if g.UntaggedManifests {
		if err := g.manifests(ctx, repo); err != nil {
			return err
		}
	}
	return g.links(ctx, repo)
}

// batch runs one transaction that removes something. What fn returns is counted once it is committed, and in the same
// transaction for the next summary in the audit log: a crash in between loses no evidence.
func (g *collection) batch(scope meta.Scope, what string, fn func(*change) (n domain.Collected, names []string, err error)) error {
	var n domain.Collected
	var names []string
	scope.Background = true
	err := g.write(scope, func(ch *change) (err error) {
		if n, names, err = fn(ch); err != nil || n == (domain.Collected{}) {
			return err
		}
		return ch.AddCollected(n)
	})
	if err != nil {
		return err
	}
	g.total = g.total.Add(n)
	for _, name := range names[:min(len(names), collectSample-g.sampled[what])] {
		g.sample = append(g.sample, what+" "+name)
		g.sampled[what]++
	}
	return nil
}

// links removes a repository's links to blobs that no manifest of it refers to.
func (g *collection) links(ctx context.Context, repo domain.Repository) error {
	scan := func(r *meta.Reader, after digest.Digest) ([]meta.ScannedBlob, error) {
		return r.ScanLinks(repo.ID, after, g.before, collectPage)
	}
	scope := exclusiveScope(repo.Name)
	return g.unused(ctx, scan, func(digests []digest.Digest) error {
		return g.batch(scope, "link", func(ch *change) (n domain.Collected, names []string, err error) {
			for _, d := range digests {
				gone, err := ch.UnlinkUnused(repo.ID, d, g.before)
				if err != nil {
					return n, nil, err
				}
				if gone {
					n.Links++
					names = append(names, repo.Name.String()+"@"+d.String())
				}
			}
			return n, names, nil
		})
	})
}

// blobs deletes the blobs that no repository links and queues their keys, in one transaction.
func (g *collection) blobs(ctx context.Context) error {
	scan := func(r *meta.Reader, after digest.Digest) ([]meta.ScannedBlob, error) {
		return r.ScanBlobs(after, g.before, collectPage)
	}
	return g.unused(ctx, scan, func(digests []digest.Digest) error {
		return g.batch(meta.Scope{}, "blob", func(ch *change) (n domain.Collected, names []string, err error) {
			for _, d := range digests {
				blob, err := ch.DeleteUnusedBlob(d, g.before)
				if errors.Is(err, meta.ErrNotFound) {
					continue
				}
				if err != nil {
					return n, nil, err
				}
				if _, err := ch.QueueRemoval(blob, ch.now.Add(g.Delay)); err != nil {
					return n, nil, err
				}
				n.Blobs++
				n.BlobBytes += blob.Size
				names = append(names, d.String())
			}
			return n, names, nil
		})
	})
}

// unused goes through what scan lists, page by page, and gives the unused digests to remove, some at a time.
func (g *collection) unused(ctx context.Context, scan func(*meta.Reader, digest.Digest) ([]meta.ScannedBlob, error), remove func([]digest.Digest) error) error {
	after := digest.Digest("")
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var page []meta.ScannedBlob
		err := g.read(func(r *meta.Reader) (err error) {
			page, err = scan(r, after)
			return err
		})
		if err != nil {
			return err
		}
		var digests []digest.Digest
		for _, b := range page {
			if b.Unused {
				digests = append(digests, b.Digest)
			}
		}
		for from := 0; from < len(digests); from += collectBatch {
			if err := remove(digests[from:min(from+collectBatch, len(digests))]); err != nil {
				return err
			}
		}
		if len(page) < collectPage {
			return nil
		}
		after = page[len(page)-1].Digest
	}
}

// manifests deletes a repository's manifests that have no root.
func (g *collection) manifests(ctx context.Context, repo domain.Repository) error {
	after := digest.Digest("")
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var page []meta.ScannedManifest
		var rootless []domain.Manifest
		err := g.read(func(r *meta.Reader) (err error) {
			rootless = nil
			if page, err = r.ScanManifests(repo.ID, after, g.before, collectPage); err != nil {
				return err
			}
			for _, m := range page {
				if !m.Untagged {
					continue
				}
				if above, err := g.rootless(r, repo, m.Manifest); err != nil {
					return err
				} else if above != nil {
					rootless = append(rootless, m.Manifest)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for from := 0; from < len(rootless); from += collectBatch {
			if err := g.deleteManifests(repo, rootless[from:min(from+collectBatch, len(rootless))]); err != nil {
				return err
			}
		}
		if len(page) < collectPage {
			return nil
		}
		after = page[len(page)-1].Digest
	}
}

// rootless returns a manifest with all from which it can be reached, if none of them is a root, else nil.
func (g *collection) rootless(r *meta.Reader, repo domain.Repository, start domain.Manifest) ([]domain.Manifest, error) {
	seen := map[int64]bool{start.ID: true}
	queue := []domain.Manifest{start}
	for i := 0; i < len(queue); i++ {
		root, err := r.IsRoot(repo.ID, queue[i], g.restorable, g.before)
		if err != nil || root {
			return nil, err
		}
		above, err := leadTo(r, repo.ID, []meta.Node{{ID: queue[i].ID, Digest: queue[i].Digest, Subject: queue[i].Subject}})
		if err != nil {
			return nil, err
		}
		for _, n := range above {
			if seen[n.ID] {
				continue
			}
			seen[n.ID] = true
			m, err := r.ManifestByID(n.ID)
			if err != nil {
				return nil, err
			}
			queue = append(queue, m)
		}
	}
	return queue, nil
}

// deleteManifests deletes those of the manifests that still have no root. Each goes together with the indexes and subjects
// from which it can be reached: else a client could point a tag to one that has lost a part of its closure.
func (g *collection) deleteManifests(repo domain.Repository, manifests []domain.Manifest) error {
	return g.batch(exclusiveScope(repo.Name), "manifest", func(ch *change) (n domain.Collected, names []string, err error) {
		for _, m := range manifests {
			m, err := ch.Tx.Manifest(repo.ID, m.Digest)
			if errors.Is(err, meta.ErrNotFound) {
				continue
			}
			if err != nil {
				return n, nil, err
			}
			closure, err := g.rootless(&ch.Reader, repo, m)
			if err != nil {
				return n, nil, err
			}
			for _, m := range closure {
				ch.log(audit.KindDeleteManifest, aboutTag(repo.Name, ""), audit.Metadata{"manifest_digest": m.Digest.String(), "trigger": string(audit.KindGarbageCollection)})
				if err := ch.Tx.DeleteManifest(m.ID); err != nil {
					return n, nil, err
				}
				n.Manifests++
				names = append(names, repo.Name.String()+"@"+m.Digest.String())
			}
		}
		return n, names, nil
	})
}

// UnknownKeys returns those keys of the blob store that belong to no blob and are not queued for removal.
func (c *Core) UnknownKeys(ctx context.Context, keys []domain.Blob) (unknown []domain.Blob, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		unknown = nil
		for _, key := range keys {
			known, err := r.KnownKey(key.Digest, key.Key)
			if err != nil {
				return err
			}
			if !known {
				unknown = append(unknown, key)
			}
		}
		return nil
	})
	return unknown, err
}

// QueueOrphans queues keys that belong to no blob for the removal of their bytes.
func (c *Core) QueueOrphans(ctx context.Context, orphans []domain.Blob) (n domain.Collected, err error) {
	err = c.writeAlways(ctx, domain.System, meta.Scope{Background: true}, func(ch *change) error {
		n = domain.Collected{}
		for _, orphan := range orphans {
			// Whether a blob has got the key meanwhile is looked at again before the bytes go.
			queued, err := ch.QueueRemoval(orphan, ch.now.Add(c.options.Collection.Delay))
			if err != nil {
				return err
			}
			if queued {
				n.Orphans++
				n.OrphanBytes += orphan.Size
			}
		}
		return ch.AddCollected(n)
	})
	return n, err
}

// DueRemovals lists the keys whose bytes may be deleted at a time, by key, those behind after.
func (c *Core) DueRemovals(ctx context.Context, after string, at time.Time, limit int) (list []domain.Blob, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		list, err = r.DueRemovals(after, at, limit)
		return err
	})
	return list, err
}

// PendingRemovals counts the keys whose bytes wait to be deleted, due or not.
func (c *Core) PendingRemovals(ctx context.Context) (keys, bytes int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		keys, bytes, err = r.PendingRemovals()
		return err
	})
	return keys, bytes, err
}

// FinishRemovals forgets keys whose bytes are deleted.
func (c *Core) FinishRemovals(ctx context.Context, removed []domain.Blob) (n domain.Collected, err error) {
	err = c.writeAlways(ctx, domain.System, meta.Scope{Background: true}, func(ch *change) error {
		n = domain.Collected{}
		for _, blob := range removed {
			finished, err := ch.FinishRemoval(blob.Key)
			if err != nil {
				return err
			}
			if finished {
				n.Removed++
				n.RemovedBytes += blob.Size
			}
		}
		return ch.AddCollected(n)
	})
	return n, err
}

// BeginCollection reports whether it is this replica's turn to collect: whether no replica has begun less than every ago.
// It counts as begun then, whatever becomes of the run.
func (c *Core) BeginCollection(ctx context.Context, every time.Duration) (turn bool, err error) {
	err = c.writeAlways(ctx, domain.System, meta.Scope{Background: true}, func(ch *change) error {
		turn, err = ch.BeginCollection(ch.now, every)
		return err
	})
	return turn, err
}

// ScannedKeys returns when all keys of the blob store were last looked through for orphans; zero if never.
func (c *Core) ScannedKeys(ctx context.Context) (at time.Time, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		at, err = r.ScannedAt()
		return err
	})
	return at, err
}

// SetScannedKeys notes that all keys of the blob store were looked through now.
func (c *Core) SetScannedKeys(ctx context.Context) error {
	return c.writeAlways(ctx, domain.System, meta.Scope{Background: true}, func(ch *change) error { return ch.SetScannedAt(ch.now) })
}

// ReportCollection writes one entry about what was removed since the last one, by this run or by one that was
// interrupted. If that is nothing, it writes none.
func (c *Core) ReportCollection(ctx context.Context) error {
	return c.writeAlways(ctx, domain.System, meta.Scope{Background: true}, func(ch *change) error {
		n, err := ch.TakeCollected()
		if err != nil || n == (domain.Collected{}) {
			return err
		}
		ch.log(audit.KindGarbageCollection, subject{}, audit.Metadata{
			"manifests_count": n.Manifests, "links_count": n.Links, "blobs_count": n.Blobs, "blobs_bytes": n.BlobBytes,
			"orphans_count": n.Orphans, "orphans_bytes": n.OrphanBytes, "removed_count": n.Removed, "removed_bytes": n.RemovedBytes,
		})
		return nil
	})
}
