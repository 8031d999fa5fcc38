package sqlite

import (
	"context"
	"fmt"
	"io/fs"
	"testing/fstest"

	"github.com/tidelock/tidelock/registry/meta"
)

// CreateVersion1 makes a database with the schema of the first version, and runs statements in it.
func CreateVersion1(ctx context.Context, path string, statements []string) error {
	content, err := fs.ReadFile(migrations, "migrations/00001_initial.sql")
	if err != nil {
		return err
	}
	db, err := open(path)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if err := migrate(ctx, db, fstest.MapFS{"migrations/00001_initial.sql": {Data: content}}); err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// Queued counts the writes that wait for the next transaction.
func (s *Store) Queued() int { return len(s.writer.requests) + len(s.writer.background) }

// LimitPages makes the disk full for the writer: SQLite answers SQLITE_FULL past that many pages.
func (s *Store) LimitPages(ctx context.Context, pages int) error {
	return s.writer.do(ctx, meta.Scope{}, func(*meta.Tx) error {
		rows, err := s.writer.session.conn.QueryContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", pages))
		if err != nil {
			return err
		}
		return rows.Close()
	})
}

// Synchronous returns how a running transaction will be committed: 2 waits for the disk, 1 does not. To be called by a
// member.
func (s *Store) Synchronous() (mode int, err error) {
	err = s.writer.session.conn.QueryRowContext(context.Background(), "PRAGMA synchronous").Scan(&mode)
	return mode, err
}

// Break does what SQLite does after FULL, IOERR, NOMEM or INTERRUPT: it rolls back the running transaction. To be
// called by a member.
func (s *Store) Break() { _, _ = s.writer.session.Exec(context.Background(), "ROLLBACK") }
