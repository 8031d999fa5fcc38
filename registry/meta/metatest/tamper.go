package metatest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
)

// Tamper changes the database of a directory behind the back of the store that OpenSQLite or OpenPostgreSQL opened, as
// somebody does who has the file or the server. The store may be open.
func Tamper(ctx context.Context, dir, statement string, args ...any) (err error) {
	driver, dsn := "sqlite", (&url.URL{Scheme: "file", Opaque: filepath.Join(dir, "tidelock.db")}).String()+"?_pragma=busy_timeout(10000)"
	if _, err := os.Stat(filepath.Join(dir, "tidelock.db")); errors.Is(err, os.ErrNotExist) {
		driver = "pgx"
		if dsn, err = postgrestest.Database(dir); err != nil {
			return err
		}
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, statement, args...); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
