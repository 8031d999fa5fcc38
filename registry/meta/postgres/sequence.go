package postgres

import (
	"context"
	"database/sql"
	"sync"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/meta"
)

// indexed knows up to which id no entry needs an index any more. Without it each look for entries that do would pass all
// those that did since the last VACUUM: 8 ms for a million.
//
// An id is given before its entry is committed, so a lower one may come after a higher one. But a transaction has its
// transaction id before it gives ids to entries (takeLocks sees to that). So what gives lower ids than that of an entry
// which is there has a lower transaction id than what begins now, and once all of those have ended, no lower id can come.
type indexed struct {
	mu sync.Mutex
	// server is the server that all of this is about. On another one, or on the same one after a restart, nothing is known:
	// it may hold an older state.
	server string
	upTo   int64
	// mark is the id of an entry that was seen before the transaction id was given; zero if there is none to wait for.
	mark struct{ id, xid int64 }
}

// markEvery is how many ids are worth a transaction id.
const markEvery = 1000

// snapshot is what a transaction sees: no transaction with an id below xmin is running, and last is the highest id of an
// entry.
type snapshot struct {
	server     string
	xmin, last int64
}

// before returns up to which id a snapshot holds no entry that needs an index.
func (i *indexed) before(s snapshot) int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.server != s.server || s.last < i.upTo {
		i.server, i.upTo, i.mark.xid = s.server, 0, 0
	}
	return i.upTo
}

// note takes down that in a snapshot the lowest id without an index was first, 0 if there was none.
func (i *indexed) note(s snapshot, first int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mark.xid == 0 || i.server != s.server || s.xmin < i.mark.xid {
		return
	}
	upTo := i.mark.id
	if first > 0 {
		upTo = min(upTo, first-1)
	}
	i.upTo, i.mark.xid = max(i.upTo, upTo), 0
}

// now returns up to which id no entry needs an index.
func (i *indexed) now() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.upTo
}

// wants reports whether it is time for a mark.
func (i *indexed) wants(s snapshot, every int64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.mark.xid == 0 && s.last-i.upTo >= every
}

// setMark begins to wait for the transactions that have a lower id than xid, which was given after the snapshot.
func (i *indexed) setMark(s snapshot, xid int64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mark.xid == 0 && i.server == s.server {
		i.mark.id, i.mark.xid = s.last, xid
	}
}

// PendingAudit returns the highest id of an entry that waits for its index.
func (s *Store) PendingAudit(ctx context.Context) (last int64, err error) {
	var now snapshot
	var first, xid int64
	err = s.read(ctx, func(ctx context.Context, tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT pg_postmaster_start_time()::text, pg_snapshot_xmin(pg_current_snapshot())::text::bigint, (SELECT COALESCE(MAX(id), 0) FROM audit_entries)`).
			Scan(&now.server, &now.xmin, &now.last)
		if err == nil {
			first, last, err = meta.NewConcurrentReader(ctx, querier{tx}).Pending(s.indexed.before(now))
		}
		if err == nil && s.indexed.wants(now, s.markEvery) {
			err = tx.QueryRowContext(ctx, `SELECT pg_current_xact_id()::text::bigint`).Scan(&xid)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	s.indexed.note(now, first)
	if xid != 0 {
		s.indexed.setMark(now, xid)
	}
	return last, nil
}

// SequenceAudit gives entries their index, on one replica after the other.
func (s *Store) SequenceAudit(ctx context.Context, limit int) (done audit.Sequenced, err error) {
	err = s.retry(ctx, func(attempts int) error {
		return s.transaction(ctx, func(ctx context.Context, tx *sql.Tx) error {
			if err := s.takeLocks(ctx, tx, []advisoryLock{{class: classSequencer, exclusive: true}}, attempts); err != nil {
				return err
			}
			done, err = meta.NewConcurrentTx(ctx, querier{tx}).Sequence(s.indexed.now(), limit)
			return err
		})
	})
	return done, err
}
