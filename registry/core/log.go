package core

import (
	"context"
	"errors"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// syncTimeout bounds how long a reader of the log waits for the sequencer.
const syncTimeout = 5 * time.Second

// syncLog waits until every entry that was committed before is indexed.
func (c *Core) syncLog(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, syncTimeout, errors.New("the audit log is behind"))
	defer cancel()
	return forClient(c.sequencer.Sync(ctx))
}

// Log reads the audit log, everything committed before the call included, however long it takes.
func (c *Core) Log(ctx context.Context, q audit.Query) ([]audit.View, error) {
	page, err := c.LogPage(ctx, q, audit.Budget{})
	return page.Entries, err
}

// ReadLog returns up to limit entries from an index on, the oldest first. It waits for nothing: what is not indexed yet is
// left to the next call.
func (c *Core) ReadLog(ctx context.Context, from int64, limit int) (views []audit.View, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		entries, err := r.Log(audit.Query{After: from - 1, Ascending: true, Limit: limit})
		if err != nil {
			return err
		}
		views = make([]audit.View, len(entries))
		for i, e := range entries {
			if views[i], err = audit.Decode(e); err != nil {
				return err
			}
		}
		return nil
	})
	return views, err
}

// LogPage reads like Log, but does no more than the budget allows.
func (c *Core) LogPage(ctx context.Context, q audit.Query, budget audit.Budget) (page audit.Page, err error) {
	if err := c.syncLog(ctx); err != nil {
		return audit.Page{}, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		page = audit.Page{}
		page.Progress, err = r.WalkLog(q, budget, func(e audit.Indexed) (bool, error) {
			view, err := audit.Decode(e)
			if err != nil || (q.Text != "" && !view.Says(q.Text)) {
				return false, err
			}
			page.Entries = append(page.Entries, view)
			return true, nil
		})
		return err
	})
	return page, err
}

// maxCounted bounds the entries that are counted at once.
const maxCounted = 1_000_000

// LogCounts counts entries by day and kind. INVALID if there are too many.
func (c *Core) LogCounts(ctx context.Context, q audit.Query) (counts []audit.Count, err error) {
	if err := c.syncLog(ctx); err != nil {
		return nil, err
	}
	err = c.read(ctx, func(r *meta.Reader) (err error) {
		var counted bool
		if counts, counted, err = r.LogCounts(q, maxCounted); err == nil && !counted {
			err = domain.Errorf(domain.CodeInvalid, "more than %d entries would have to be counted; give a shorter time or another filter", maxCounted)
		}
		return err
	})
	return counts, err
}

// WaitLog returns once an entry with an index above after can be read, or with the context's error.
func (c *Core) WaitLog(ctx context.Context, after int64) error {
	for {
		indexed := c.sequencer.Indexed()
		size, err := c.LogSize(ctx)
		if err != nil || size > after+1 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-indexed:
		}
	}
}

// LogSize returns the number of entries that can be read: the index of the next one.
func (c *Core) LogSize(ctx context.Context) (size int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		size, err = r.LogSize()
		return err
	})
	return size, err
}

// LogOrigin names the audit log.
func (c *Core) LogOrigin(ctx context.Context) (string, error) {
	i, err := c.installation(ctx)
	return i.LogOrigin, err
}

// Name is the installation's, random and the same for all of its replicas.
func (c *Core) Name(ctx context.Context) (string, error) {
	i, err := c.installation(ctx)
	return i.Name, err
}

// LogCursor returns the index of the entry that a reader of the log reads next.
func (c *Core) LogCursor(ctx context.Context, name string) (position int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		position, err = r.LogCursor(name)
		return err
	})
	return position, err
}

// MoveLogCursor moves a reader's position. STALE if another moved it meanwhile.
func (c *Core) MoveLogCursor(ctx context.Context, name string, from, to int64) error {
	return forClient(c.store.Write(ctx, meta.Scope{}, func(tx *meta.Tx) error {
		moved, err := tx.MoveLogCursor(name, from, to)
		if err == nil && !moved {
			err = domain.Errorf(domain.CodeStale, "cursor %s is not at %d any more; read it again", name, from)
		}
		return err
	}))
}
