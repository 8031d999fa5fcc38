// Package sqlite is the embedded engine of meta: one file, one writer, many readers.
//
// Writes are committed in groups: the requests that wait while a transaction is written to disk share the next one,
// each in a savepoint of its own. Nobody is answered before COMMIT, which is durable (WAL, synchronous=FULL).
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"runtime"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is a database file. It is safe for concurrent use by one process.
type Store struct {
	readers *sql.DB
	// idle holds the readers' sessions that nobody uses.
	idle   chan *session
	writer *writer
}

var _ meta.Store = (*Store)(nil)

// Open opens or creates the database file and brings its schema up to date. The caller must hold a lock that keeps
// other processes away from the file.
func Open(ctx context.Context, path string, logger *slog.Logger) (*Store, error) {
	// The writer's transactions take the write lock when they begin: an upgrade in the middle could fail.
	// The page cache is small, since SQLite walks through all of it at each commit.
	write, err := open(path, "_txlock=immediate", "_pragma=synchronous(FULL)", "_pragma=wal_autocheckpoint(4000)", "_pragma=cache_size(-16384)")
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	if err := migrate(ctx, write, migrations); err != nil {
		_ = write.Close()
		return nil, fmt.Errorf("%s: bringing the schema up to date: %w", path, err)
	}
	readers, err := open(path, "_pragma=query_only(1)", "_pragma=cache_size(-16384)")
	if err != nil {
		_ = write.Close()
		return nil, err
	}
	s := &Store{readers: readers, idle: make(chan *session, 4+2*runtime.NumCPU())}
	for range cap(s.idle) {
		reader, err := newSession(ctx, readers)
		if err != nil {
			_ = readers.Close()
			_ = write.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		s.idle <- reader
	}
	if s.writer, err = newWriter(ctx, write, logger); err != nil {
		_ = readers.Close()
		_ = write.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func open(path string, options ...string) (*sql.DB, error) {
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}).String() +
		"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)&_pragma=temp_store(2)"
	for _, option := range options {
		dsn += "&" + option
	}
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB, all fs.FS) error {
	files, err := fs.Sub(all, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// Read runs fn on a snapshot.
func (s *Store) Read(ctx context.Context, fn func(*meta.Reader) error) error {
	var reader *session
	select {
	case reader = <-s.idle:
		if reader == nil {
			return domain.Unavailable(errClosed)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.idle <- reader }()
	if _, err := reader.Exec(ctx, "BEGIN"); err != nil {
		return domain.Unavailable(fmt.Errorf("begin: %w", err))
	}
	defer func() {
		// Fails where SQLite has rolled back by itself, which is as good.
		_, _ = reader.Exec(context.WithoutCancel(ctx), "ROLLBACK")
	}()
	return fn(meta.NewReader(ctx, reader))
}

// Write runs fn in the next group.
func (s *Store) Write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	return s.writer.do(ctx, scope, fn)
}

// PendingAudit returns the highest id of an entry that waits for its index.
func (s *Store) PendingAudit(ctx context.Context) (last int64, err error) {
	err = s.Read(ctx, func(r *meta.Reader) (err error) {
		last, err = r.PendingByID()
		return err
	})
	return last, err
}

// SequenceAudit gives entries their index. With one writer, ids are in the order of commits.
func (s *Store) SequenceAudit(ctx context.Context, limit int) (done audit.Sequenced, err error) {
	err = s.writer.do(ctx, meta.Scope{Background: true}, func(tx *meta.Tx) (err error) {
		done, err = tx.IndexByID(limit)
		return err
	})
	return done, err
}

// Close waits for running reads and writes and closes the file.
func (s *Store) Close() error {
	for range cap(s.idle) {
		reader := <-s.idle
		if reader == nil {
			return nil
		}
		reader.close()
	}
	close(s.idle)
	err := s.writer.close()
	if e := s.readers.Close(); err == nil {
		err = e
	}
	return err
}
