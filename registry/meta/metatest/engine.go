package metatest

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// onPostgreSQL marks the process that AgainOnPostgreSQL starts.
const onPostgreSQL = "TIDELOCK_TEST_ON_POSTGRESQL"

// Open opens a store of its own for a directory: on SQLite, or on PostgreSQL in a process of AgainOnPostgreSQL.
func Open(dir string, logger *slog.Logger) (meta.Store, error) {
	if os.Getenv(onPostgreSQL) == "" {
		return OpenSQLite(dir, logger)
	}
	return OpenPostgreSQL(dir, logger)
}

// emptySQLite is the file of an empty database with the schema, which takes its time to make.
var emptySQLite = sync.OnceValues(func() (content []byte, err error) {
	dir, err := os.MkdirTemp("", "tidelock-empty-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "tidelock.db")
	store, err := sqlite.Open(context.Background(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	if err := store.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// OpenSQLite opens the database of a directory. It is empty the first time.
func OpenSQLite(dir string, logger *slog.Logger) (meta.Store, error) {
	path := filepath.Join(dir, "tidelock.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		content, err := emptySQLite()
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
	}
	return sqlite.Open(context.Background(), path, logger)
}

// emptyPostgreSQL is the name of an empty database with the schema on the shared server.
var emptyPostgreSQL = sync.OnceValues(func() (name string, err error) {
	dsn, err := postgrestest.Database("empty")
	if err != nil {
		return "", err
	}
	store, err := postgres.Open(context.Background(), dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	address, err := url.Parse(dsn)
	return strings.TrimPrefix(address.Path, "/"), errors.Join(err, store.Close())
})

// OpenPostgreSQL opens a database of its own for a directory. It is empty the first time.
func OpenPostgreSQL(dir string, logger *slog.Logger) (meta.Store, error) {
	template, err := emptyPostgreSQL()
	if err != nil {
		return nil, err
	}
	server, err := postgrestest.Shared()
	if err != nil {
		return nil, err
	}
	dsn, err := server.Database(dir, "TEMPLATE "+template)
	if err != nil {
		return nil, err
	}
	return postgres.Open(context.Background(), dsn, logger)
}

// AgainOnPostgreSQL runs a test of this package once more, in a process of its own in which Open gives PostgreSQL.
func AgainOnPostgreSQL(t *testing.T, test string) {
	t.Helper()
	if os.Getenv(onPostgreSQL) != "" {
		t.Fatal("it runs on PostgreSQL already")
	}
	again := exec.CommandContext(t.Context(), os.Args[0], append(os.Args[1:], "-test.run=^"+test+"$", "-test.testlogfile=")...) //nolint:gosec // this program
	again.Env = append(os.Environ(), onPostgreSQL+"=1")
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("on PostgreSQL: %v\n%s", err, out)
	}
}
