package postgres

import (
	"context"
	"io/fs"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
)

// MigrateToVersion1 makes the schema of the first version.
func MigrateToVersion1(ctx context.Context, dsn string) error {
	const first = "migrations/00001_initial.sql"
	content, err := fs.ReadFile(migrations, first)
	if err != nil {
		return err
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	db := connect(config, 1)
	defer func() { _ = db.Close() }()
	return migrate(ctx, db, fstest.MapFS{first: {Data: content}})
}

// AbandonAfter sets how long a transaction may stand still.
func (s *Store) AbandonAfter(d time.Duration) { s.abandonedAfter = d }

// IndexedUpTo is the id up to which no entry is looked at any more that may need an index.
func (s *Store) IndexedUpTo() int64 { return s.indexed.now() }

// MarkEvery sets how many ids are worth a transaction id.
func (s *Store) MarkEvery(n int64) { s.markEvery = n }
