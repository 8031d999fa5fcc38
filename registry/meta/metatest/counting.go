package metatest

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"

	"github.com/tidelock/tidelock/registry/meta"
)

// Counting is a store on SQLite that counts the statements of its readers.
type Counting struct {
	meta.Store
	db *sql.DB
	// Statements is how many there were.
	Statements atomic.Int64
}

// OpenCounting opens the database of a directory as OpenSQLite does.
func OpenCounting(dir string, logger *slog.Logger) (*Counting, error) {
	store, err := OpenSQLite(dir, logger)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "tidelock.db"))
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &Counting{Store: store, db: db}, nil
}

// Read runs fn outside of any transaction: it is for tests in which nobody writes meanwhile.
func (c *Counting) Read(ctx context.Context, fn func(*meta.Reader) error) error {
	return fn(meta.NewReader(ctx, counter{c}))
}

// Close closes the store.
func (c *Counting) Close() error { return errors.Join(c.db.Close(), c.Store.Close()) }

type counter struct{ *Counting }

func (c counter) Exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	c.Statements.Add(1)
	return c.db.ExecContext(ctx, query, args...)
}

func (c counter) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	c.Statements.Add(1)
	return c.db.QueryContext(ctx, query, args...)
}
