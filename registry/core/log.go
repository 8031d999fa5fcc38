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

// Log reads the audit log, everything committed before the call included.
func (c *Core) Log(ctx context.Context, q audit.Query) (views []audit.View, err error) {
	if err := c.syncLog(ctx); err != nil {
		return nil, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		views, err = decodeLog(r, q)
		return err
	})
	return views, err
}

func decodeLog(r *meta.Reader, q audit.Query) ([]audit.View, error) {
	entries, err := r.Log(q)
	if err != nil {
		return nil, err
	}
	views := make([]audit.View, len(entries))
	for i, e := range entries {
		if views[i], err = audit.Decode(e); err != nil {
			return nil, err
		}
	}
	return views, nil
}

// ReadLog returns up to limit entries from an index on, the oldest first. It waits for nothing: what is not indexed yet is
// left to the next call.
func (c *Core) ReadLog(ctx context.Context, from int64, limit int) (views []audit.View, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		views, err = decodeLog(r, audit.Query{After: from - 1, Ascending: true, Limit: limit})
		return err
	})
	return views, err
}

// LogCounts counts entries by day and kind.
func (c *Core) LogCounts(ctx context.Context, q audit.Query) (counts []audit.Count, err error) {
	if err := c.syncLog(ctx); err != nil {
		return nil, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		counts, err = r.LogCounts(q)
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
func (c *Core) LogOrigin(ctx context.Context) (string, error) { return c.logOrigin(ctx) }

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
