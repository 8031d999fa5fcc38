package metatest

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
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
		return sqlite.Open(context.Background(), filepath.Join(dir, "tidelock.db"), logger)
	}
	dsn, err := postgrestest.Database(dir)
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
