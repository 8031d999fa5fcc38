package crash

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	. "github.com/onsi/gomega"

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
}

var engines = []engine{
	{name: "sqlite", prepare: func(_ *testing.T, dataDir string) deployment {
		return deployment{open: func(ctx context.Context) (meta.Store, error) {
			return sqlite.Open(ctx, filepath.Join(dataDir, "tidelock.db"), slog.New(slog.DiscardHandler))
		}}
	}},
	{name: "postgres", prepare: func(t *testing.T, _ string) deployment {
		g := NewWithT(t)
		server, err := postgrestest.New()
		g.Expect(err).NotTo(HaveOccurred())
		t.Cleanup(func() { g.Expect(server.Close()).To(Succeed()) })
		dsn, err := server.Database("crash")
		g.Expect(err).NotTo(HaveOccurred())
		return deployment{
			flags: []string{"--database", dsn},
			open: func(ctx context.Context) (meta.Store, error) {
				return postgres.Open(ctx, dsn, slog.New(slog.DiscardHandler))
			},
			restart: func() {
				g.Expect(server.Stop()).To(Succeed())
				g.Expect(server.Start()).To(Succeed())
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
