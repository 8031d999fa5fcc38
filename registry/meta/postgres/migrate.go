package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"io/fs"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// lockSeconds is how long a replica waits, a second at a time, for another that brings the schema up to date.
const lockSeconds = 600

// migrate brings the schema up to date, under a lock of the session.
func migrate(ctx context.Context, db *sql.DB, all fs.FS) error {
	files, err := fs.Sub(all, "migrations")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, lockSeconds))
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	sources := provider.ListSources()
	current, err := version(ctx, db)
	// Without a lock where there is nothing to do: a pooler of transactions would not give it back.
	if err != nil || current >= sources[len(sources)-1].Version {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// version is the version of the schema, 0 in an empty database. A newer one than ours is left as it is: during an upgrade
// replicas of both versions run.
func version(ctx context.Context, db *sql.DB) (v int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&v)
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == undefinedTable {
		return 0, nil
	}
	return v, err
}
