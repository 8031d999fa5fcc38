package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// engine is a database with a blob store, on which a registry under test runs.
type engine struct {
	name string
	// promised says whether the ratios that are wanted are wanted of this engine. Where they are not, the figures are
	// printed beside the others.
	promised bool
	// memory is the most that a registry on it may take for many uploads at once, in MiB.
	memory float64
	// provide makes an empty database and blob store for one registry, whose folder is dir.
	provide func(ctx context.Context, o options, dir string) (*storage, error)
}

// storage is where one registry keeps what it is given.
type storage struct {
	// flags tell `tidelock registry` about it.
	flags []string
	// open opens the database in this process; no registry may use it meanwhile.
	open func(context.Context) (meta.Store, error)
	// remove ends what was started for it.
	remove func()
}

// engines are all that a registry can be run on, the embedded default first.
var engines = []engine{
	{name: "files", promised: true, memory: 256, provide: embedded},
}

// embedded is SQLite and files.
func embedded(_ context.Context, _ options, dir string) (*storage, error) {
	data := filepath.Join(dir, "data")
	return &storage{
		flags: []string{"--data-dir", data},
		open: func(ctx context.Context) (meta.Store, error) {
			if err := os.MkdirAll(data, 0o700); err != nil {
				return nil, err
			}
			return sqlite.Open(ctx, filepath.Join(data, "tidelock.db"), slog.New(slog.DiscardHandler))
		},
		remove: func() {},
	}, nil
}
