package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

const (
	// archiveEntries bounds the entries of an archive.
	archiveEntries = 100_000
	// archiveDelay is how long entries that are due wait for others, so that a quiet log makes a file a day at most.
	archiveDelay = 24 * time.Hour
	// pruneBatch is how many entries one transaction prunes.
	pruneBatch = 250
)

// LogStart is the index of the first entry of the log that is not pruned.
func (c *Core) LogStart(ctx context.Context) (index int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		index, err = r.PrunedBefore()
		return err
	})
	return index, err
}

// LogArchive returns the archive that has a pruned entry. NOT_FOUND if the entry is in none.
func (c *Core) LogArchive(ctx context.Context, index int64) (archive domain.Archive, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		archive, err = r.Archive(index)
		if errors.Is(err, meta.ErrNotFound) {
			err = domain.Errorf(domain.CodeNotFound, "entry %d is in no archive", index)
		}
		return err
	})
	return archive, err
}

// Due says which entries are older than a time.
type Due struct {
	// First is the index of the first entry that is there, End that behind the last that can be pruned.
	First, End int64
	// Held is how many more are old enough, but a reader of the log has not read them.
	Held int64
}

// LogDue returns what may be pruned: entries older than a time that all readers have read. The newest entry of the log
// never is, since it tells the size.
func (c *Core) LogDue(ctx context.Context, before time.Time, readers []string) (due Due, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		due, err = logDue(r, before, readers)
		return err
	})
	return due, err
}

func logDue(r *meta.Reader, before time.Time, readers []string) (due Due, err error) {
	if due.First, err = r.PrunedBefore(); err != nil {
		return due, err
	}
	size, err := r.LogSize()
	if err != nil {
		return due, err
	}
	old, err := r.FirstIndexedSince(before)
	if err != nil {
		return due, err
	}
	old = max(due.First, min(old, size-1))
	read, err := r.SlowestCursor(readers, old)
	if err != nil {
		return due, err
	}
	due.End = max(due.First, read)
	due.Held = old - due.End
	return due, nil
}

// PlanArchive returns the archive to write, or to prune the entries of, next: one that was begun, or one of entries that
// are due. It reports false if there is none, or so few that they can wait.
//
// The plan is stored before the file is written, so a file that is written again has the same entries.
func (c *Core) PlanArchive(ctx context.Context, before time.Time, readers []string) (archive domain.Archive, ok bool, err error) {
	if err := c.syncLog(ctx); err != nil {
		return archive, false, err
	}
	err = c.store.Write(ctx, meta.Scope{Background: true}, func(tx *meta.Tx) error {
		ok = false
		origin, err := writableOrigin(tx)
		if err != nil {
			return err
		}
		due, err := logDue(&tx.Reader, before, readers)
		if err != nil {
			return err
		}
		archive, err = tx.Archive(due.First)
		if err == nil || !errors.Is(err, meta.ErrNotFound) {
			ok = err == nil
			return err
		}
		count := min(due.End-due.First, archiveEntries)
		if count == 0 {
			return nil
		}
		if count < archiveEntries {
			oldest, err := tx.AuditTime(due.First)
			if err != nil || oldest.After(before.Add(-archiveDelay)) {
				return err
			}
		}
		archive = domain.Archive{First: due.First, End: due.First + count, PlannedAt: c.now()}
		archive.Name = fmt.Sprintf("%s-%012d-%012d.jsonl.gz", strings.ReplaceAll(origin, "/", "-"), archive.First, archive.End-1)
		ok = true
		return tx.InsertArchive(archive)
	})
	return archive, ok, forClient(err)
}

// ExportArchive writes the export of a planned archive.
func (c *Core) ExportArchive(ctx context.Context, archive domain.Archive, w io.Writer) error {
	write, err := c.ExportLog(ctx, archive.First, archive.End)
	if err != nil {
		return err
	}
	return write(w)
}

// FinishArchive notes that a planned archive is written, to where it will stay: only now may its entries go.
func (c *Core) FinishArchive(ctx context.Context, archive domain.Archive) error {
	archive.WrittenAt = c.now()
	return forClient(c.store.Write(ctx, meta.Scope{Background: true}, func(tx *meta.Tx) error {
		return tx.FinishArchive(archive)
	}))
}

// PruneLog removes the next entries of a written archive, and reports whether that was the last of them. The pruning has an
// entry of its own, which is committed together with the first removal.
func (c *Core) PruneLog(ctx context.Context, index int64) (done bool, err error) {
	err = c.store.Write(ctx, meta.Scope{Background: true}, func(tx *meta.Tx) error {
		done = false
		origin, err := writableOrigin(tx)
		if err != nil {
			return err
		}
		archive, err := tx.Archive(index)
		if err != nil {
			return err
		}
		if archive.WrittenAt.IsZero() {
			return fmt.Errorf("archive %s is not written", archive.Name)
		}
		from, err := tx.PrunedBefore()
		if err != nil {
			return err
		}
		to := min(from+pruneBatch, archive.End)
		if done = from >= archive.End; done {
			return nil
		}
		pruned, err := tx.PruneAudit(from, to)
		if err != nil || !pruned {
			return err
		}
		if done = to == archive.End; from > archive.First {
			return nil
		}
		return appendEntries(tx, origin, []audit.Entry{pruneEntry(archive, c.now())})
	})
	c.sequencer.Notify()
	return done, forClient(err)
}

func pruneEntry(a domain.Archive, now time.Time) audit.Entry {
	return subject{}.entry(audit.KindPruneLog, now, domain.System, audit.Metadata{
		"from_index": a.First, "to_index": a.End - 1, "entries_count": a.End - a.First, "archive": a.Name, "archive_sha256": a.SHA256,
	})
}
