package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// databaseFile is the name of the database in the data directory.
const databaseFile = "tidelock.db"

// auditKeyFile is the name of the file in the data directory with the keys of the audit log.
const auditKeyFile = "audit.key"

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

// usesDirectory reports whether anything is kept in the data directory.
func (c *Config) usesDirectory() bool { return c.embedded() || c.BlobStore == "" }

// openDatabase opens the database of a configuration. The data directory of an embedded one must be locked.
func (c *Config) openDatabase(ctx context.Context, logger *slog.Logger) (meta.Store, error) {
	if c.embedded() {
		return sqlite.Open(ctx, filepath.Join(c.DataDir, databaseFile), logger)
	}
	return postgres.Open(ctx, c.Database, logger)
}

// auditKeys returns the keys of the audit log, which are made in a data directory without. That must be locked.
func (c *Config) auditKeys() (audit.KeyFile, error) {
	file := audit.KeyFile(c.AuditKeyFile)
	if file == "" {
		file = audit.KeyFile(filepath.Join(c.DataDir, auditKeyFile))
		if err := audit.EnsureKeyFile(string(file)); err != nil {
			return "", err
		}
	}
	_, err := file.Keys()
	return file, err
}

// lockDirectory locks the data directory of a registry that does not run, for a command.
func (c *Config) lockDirectory() (*fs.Directory, error) {
	if c.DataDir == "" {
		return nil, errors.New("--data-dir is required")
	}
	if c.embedded() {
		// Else a mistyped path would make an empty registry.
		if _, err := os.Stat(filepath.Join(c.DataDir, databaseFile)); err != nil {
			return nil, fmt.Errorf("%s holds no registry: %w", c.DataDir, err)
		}
	}
	return fs.Lock(c.DataDir)
}

// withDatabase opens a database, which must hold a registry, for as long as fn runs.
func (c *Config) withDatabase(ctx context.Context, open func() (meta.Store, error), fn func(meta.Store) error) (err error) {
	store, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	// A mistyped name of a database leads to an empty one.
	if _, err := installation(ctx, store); errors.Is(err, meta.ErrNotFound) && !c.embedded() {
		return errors.New("the database holds no registry")
	}
	return fn(store)
}

// AdoptCluster hands a registry over to another Kubernetes cluster, named by the UID of its namespace kube-system. An
// embedded database must not be in use; replicas over another notice within a second.
func AdoptCluster(ctx context.Context, cfg Config, cluster string) (err error) {
	if err := cfg.validateDatabase(); err != nil {
		return err
	}
	if cfg.embedded() {
		directory, err := cfg.lockDirectory()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, directory.Release()) }()
	}
	return cfg.withDatabase(ctx, func() (meta.Store, error) { return cfg.openDatabase(ctx, cfg.Logger) }, func(store meta.Store) error {
		return core.New(store, core.Options{Logger: cfg.Logger}).AdoptCluster(ctx, domain.System, cluster)
	})
}

func installation(ctx context.Context, store meta.Store) (i meta.Installation, err error) {
	err = store.Read(ctx, func(r *meta.Reader) error {
		i, err = r.Installation()
		return err
	})
	return i, err
}
