package crash

import (
	"context"
	"io/fs"
	"log/slog"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// engine is what a registry keeps its data in.
type engine struct {
	name string
	// prepare makes the engine's servers, if it has any, for a registry with the given data directory.
	prepare func(t *testing.T, dataDir string) deployment
}

// deployment is one engine that is ready for a registry.
type deployment struct {
	// flags are what the registry is started with beside its data directory.
	flags []string
	// open opens the database beside the registry, which does not run meanwhile.
	open func(context.Context) (meta.Store, error)
	// restart restarts the database while the registry runs; nil if the database is a part of the registry.
	restart func()
	// keys counts the blobs whose bytes are stored; nil where those that no blob has are kept for a while.
	keys func() int
}

var engines = []engine{
	{name: "sqlite", prepare: func(t *testing.T, dataDir string) deployment {
		return deployment{
			open: func(ctx context.Context) (meta.Store, error) {
				return sqlite.Open(ctx, filepath.Join(dataDir, "tidelock.db"), slog.New(slog.DiscardHandler))
			},
			keys: func() (n int) {
				NewWithT(t).Expect(filepath.WalkDir(filepath.Join(dataDir, "blobs"), func(_ string, entry fs.DirEntry, err error) error {
					if err == nil && !entry.IsDir() {
						n++
					}
					return err
				})).To(Succeed())
				return n
			},
		}
	}},
	{name: "postgres-s3", prepare: func(t *testing.T, _ string) deployment {
		g := NewWithT(t)
		server, err := postgrestest.New()
		g.Expect(err).NotTo(HaveOccurred())
		t.Cleanup(func() { g.Expect(server.Close()).To(Succeed()) })
		dsn, err := server.Database("crash")
		g.Expect(err).NotTo(HaveOccurred())
		objects := s3test.New(t)
		bucket := objects.Bucket()
		t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		key := filepath.Join(t.TempDir(), "audit.key")
		g.Expect(audit.EnsureKeyFile(key)).To(Succeed())
		return deployment{
			flags: []string{"--database", dsn, "--blob-store", "s3://" + bucket + "?endpoint=http://" + objects.Address, "--audit-key-file", key},
			open: func(ctx context.Context) (meta.Store, error) {
				return postgres.Open(ctx, dsn, slog.New(slog.DiscardHandler))
			},
			restart: func() {
				g.Expect(server.Stop()).To(Succeed())
				objects.Kill()
				g.Expect(server.Start()).To(Succeed())
				objects.Start()
			},
		}
	}},
}

// onEachEngine runs a test with a registry of its own, with further flags, for each engine.
func onEachEngine(t *testing.T, run func(t *testing.T, p *process), flags ...string) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) { run(t, newProcess(t, e, flags...)) })
	}
}
