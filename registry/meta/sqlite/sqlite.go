// Package sqlite is the embedded engine of meta: one file, one writer, many readers.
//
// Writes are committed in groups: the requests that wait while a transaction is written to disk share the next one,
// each in a savepoint of its own. Nobody is answered before COMMIT, which is durable (WAL, synchronous=FULL).
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
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
	idle chan *session
	// writer is nil if the file is open for reading only.
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
	s, err := openReaders(ctx, path)
	if err != nil {
		_ = write.Close()
		return nil, err
	}
	if s.writer, err = newWriter(ctx, write, logger); err != nil {
		_ = s.readers.Close()
		_ = write.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// openReaders opens a file for reading only.
func openReaders(ctx context.Context, path string) (*Store, error) {
	readers, err := open(path, "_pragma=query_only(1)", "_pragma=cache_size(-16384)")
	if err != nil {
		return nil, err
	}
	s := &Store{readers: readers, idle: make(chan *session, 4+2*runtime.NumCPU())}
	for range cap(s.idle) {
		reader, err := newSession(ctx, readers)
		if err != nil {
			_ = readers.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		s.idle <- reader
	}
	return s, nil
}

// Inspect opens the database file for reading only: its schema must be up to date, and nothing in it changes. The caller
// must hold the lock that Open needs.
func Inspect(ctx context.Context, path string) (*Store, error) {
	s, err := openReaders(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := current(ctx, s.readers); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.Close())
	}
	return s, nil
}

// current reports an error unless the schema is this version's.
func current(ctx context.Context, db *sql.DB) error {
	provider, err := migrationsOf(db, migrations)
	if err != nil {
		return err
	}
	is, want, err := provider.GetVersions(ctx)
	if err == nil && is != want {
		err = fmt.Errorf("the schema is of version %d, this program's of %d; start the registry once to bring it up to date", is, want)
	}
	return err
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
	provider, err := migrationsOf(db, all)
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

func migrationsOf(db *sql.DB, all fs.FS) (*goose.Provider, error) {
	files, err := fs.Sub(all, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithLogger(goose.NopLogger()))
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
	return s.write(ctx, scope, fn)
}

// OnFull sets what makes room when a transaction fails because the disk is full; it is then tried once more. It must be
// called before the first write.
func (s *Store) OnFull(makeRoom func()) { s.writer.full = makeRoom }

func (s *Store) write(ctx context.Context, scope meta.Scope, fn func(*meta.Tx) error) error {
	if s.writer == nil {
		return domain.Unavailable(errReadOnly)
	}
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

// SequenceAudit gives entries their index. With one writer, ids are in the order of commits. What needs no lock is done
// before the writer is asked.
func (s *Store) SequenceAudit(ctx context.Context, limit int) (done audit.Sequenced, err error) {
	for {
		var plan meta.Sequence
		err = s.Read(ctx, func(r *meta.Reader) (err error) {
			plan, err = r.PlanSequence(limit)
			return err
		})
		if err != nil {
			return done, err
		}
		err = s.write(ctx, meta.Scope{Background: true}, func(tx *meta.Tx) (err error) {
			done, err = tx.ApplySequence(plan)
			return err
		})
		if !errors.Is(err, meta.ErrStale) {
			return done, err
		}
	}
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
	var err error
	if s.writer != nil {
		err = s.writer.close()
	}
	return errors.Join(err, s.readers.Close())
}
