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
	"github.com/tidelock/tidelock/registry/seal"
)

// databaseFile is the name of the database in the data directory.
const databaseFile = "tidelock.db"

// auditKeyFile is the name of the file in the data directory with the keys of the audit log.
const auditKeyFile = "audit.key"

// secretKeyFile is the name of the file in the data directory with the keys that seal secrets.
const secretKeyFile = "secret.key"

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

// sealer returns what seals secrets, whose keys are made in a data directory without; that must be locked. It is nil where
// there are neither.
func (c *Config) sealer() (core.Sealer, error) {
	file := seal.KeyFile(c.SecretKeyFile)
	switch {
	case file != "":
	case !c.usesDirectory():
		return nil, nil
	default:
		file = seal.KeyFile(filepath.Join(c.DataDir, secretKeyFile))
		if err := seal.EnsureKeyFile(string(file)); err != nil {
			return nil, err
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

// withCore runs a command on the registry's data. An embedded database must not be in use.
func (c *Config) withCore(ctx context.Context, fn func(*core.Core) error) (err error) {
	if err := c.validateDatabase(); err != nil {
		return err
	}
	if c.embedded() {
		directory, failed := c.lockDirectory()
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, directory.Release()) }()
	}
	return c.withDatabase(ctx, func() (meta.Store, error) { return c.openDatabase(ctx, c.Logger) }, func(store meta.Store) error {
		return fn(core.New(store, core.Options{Logger: c.Logger}))
	})
}

// AdoptCluster hands a registry over to another Kubernetes cluster, named by the UID of its namespace kube-system. An
// embedded database must not be in use; replicas over another notice within a second.
func AdoptCluster(ctx context.Context, cfg Config, cluster string) error {
	return cfg.withCore(ctx, func(c *core.Core) error { return c.AdoptCluster(ctx, domain.System, cluster) })
}

// UnlockPolicy breaks the lock of a policy, as core.UnlockPolicy does. An embedded database must not be in use; replicas over
// another take it up at once.
func UnlockPolicy(ctx context.Context, cfg Config, uuid, reason string) (p domain.Policy, err error) {
	err = cfg.withCore(ctx, func(c *core.Core) error {
		p, err = c.UnlockPolicy(ctx, domain.System, uuid, reason)
		return err
	})
	return p, err
}

// ForkLog begins a new origin of the audit log, as core.ForkLog does. An embedded database must not be in use; replicas
// over another write under the new origin at once.
func ForkLog(ctx context.Context, cfg Config, reason string, force bool) (fork core.Fork, err error) {
	err = cfg.withCore(ctx, func(c *core.Core) error {
		fork, err = c.ForkLog(ctx, domain.System, reason, force)
		return err
	})
	return fork, err
}

func installation(ctx context.Context, store meta.Store) (i meta.Installation, err error) {
	err = store.Read(ctx, func(r *meta.Reader) error {
		i, err = r.Installation()
		return err
	})
	return i, err
}
