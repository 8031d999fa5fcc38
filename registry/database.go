package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// databaseFile is the name of the database in the data directory.
const databaseFile = "tidelock.db"

// embeddedDatabase is the value of Config.Database for the file in the data directory.
const embeddedDatabase = "sqlite"

func (c *Config) embedded() bool { return c.Database == "" || c.Database == embeddedDatabase }

func (c *Config) validateDatabase() error {
	if c.embedded() || strings.HasPrefix(c.Database, "postgres://") || strings.HasPrefix(c.Database, "postgresql://") {
		return nil
	}
	// The value stays out of the message: it may hold a password.
	return errors.New("--database must be sqlite, or a URL that begins with postgres://")
}

// openDatabase opens the database of a configuration, in the directory if it is an embedded one.
func (c *Config) openDatabase(ctx context.Context, directory string, logger *slog.Logger) (meta.Store, error) {
	if c.embedded() {
		return sqlite.Open(ctx, filepath.Join(directory, databaseFile), logger)
	}
	return postgres.Open(ctx, c.Database, logger)
}

// AdoptCluster hands a registry over to another Kubernetes cluster, named by the UID of its namespace kube-system. An
// embedded database must not be in use; replicas over another notice within a second.
func AdoptCluster(ctx context.Context, cfg Config, cluster string) (err error) {
	if err := cfg.validateDatabase(); err != nil {
		return err
	}
	if !cfg.embedded() {
		return cfg.adoptCluster(ctx, "", cluster)
	}
	if cfg.DataDir == "" {
		return errors.New("--data-dir is required")
	}
	// Else a mistyped path would make, and adopt, an empty registry.
	if _, err := os.Stat(filepath.Join(cfg.DataDir, databaseFile)); err != nil {
		return fmt.Errorf("%s holds no registry: %w", cfg.DataDir, err)
	}
	directory, err := fs.Lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, directory.Release()) }()
	return cfg.adoptCluster(ctx, directory.Path(), cluster)
}

func (c *Config) adoptCluster(ctx context.Context, directory, cluster string) (err error) {
	store, err := c.openDatabase(ctx, directory, c.Logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	// As above, for a mistyped name of a database.
	if _, err := installation(ctx, store); errors.Is(err, meta.ErrNotFound) && !c.embedded() {
		return errors.New("the database holds no registry")
	}
	return core.New(store, core.Options{Logger: c.Logger}).AdoptCluster(ctx, domain.System, cluster)
}

func installation(ctx context.Context, store meta.Store) (i meta.Installation, err error) {
	err = store.Read(ctx, func(r *meta.Reader) error {
		i, err = r.Installation()
		return err
	})
	return i, err
}
