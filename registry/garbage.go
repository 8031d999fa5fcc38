package registry

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/fsck"
	"github.com/tidelock/tidelock/registry/gc"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// GarbageCollection says what garbage is collected, and when.
type GarbageCollection struct {
	// Interval is the time between two runs; 0 switches them off.
	Interval time.Duration
	// Grace is how long what nothing refers to is kept after it was last pushed, mounted or found by a HEAD.
	Grace time.Duration
	// Delay is how long the bytes of a blob stay after the blob is gone.
	Delay time.Duration
	// UntaggedManifests collects manifests that no tag leads to.
	UntaggedManifests bool
}

func (g *GarbageCollection) addFlags(flags *pflag.FlagSet) {
	flags.DurationVar(&g.Interval, "gc-interval", cmp.Or(g.Interval, gc.DefaultInterval), "time between two runs of garbage collection; 0 for none")
	flags.DurationVar(&g.Grace, "gc-grace", cmp.Or(g.Grace, core.DefaultCollection.Grace), "how long garbage collection keeps what nothing refers to after it was last pushed, mounted or found")
	flags.DurationVar(&g.Delay, "gc-delay", cmp.Or(g.Delay, core.DefaultCollection.Delay), "how long the bytes of a blob stay after garbage collection has removed it; longer than a download that begins just before")
	flags.BoolVar(&g.UntaggedManifests, "gc-untagged-manifests", g.UntaggedManifests, "collect manifests that no tag leads to, and led to for 14 days")
}

func (g *GarbageCollection) validate() error {
	if g.Interval < 0 || g.Grace < 0 || g.Delay < 0 {
		return errors.New("--gc-interval, --gc-grace and --gc-delay must not be negative")
	}
	return nil
}

func (g *GarbageCollection) collection() *core.Collection {
	return &core.Collection{Grace: g.Grace, Delay: g.Delay, UntaggedManifests: g.UntaggedManifests}
}

// beside opens what a registry is kept in for a command, for as long as fn runs. What is in a data directory must not be
// in use.
func (c *Config) beside(ctx context.Context, open func() (meta.Store, error), fn func(meta.Store, blob.Store) error) (err error) {
	if err := c.validateDatabase(); err != nil {
		return err
	}
	var directory *fs.Directory
	if c.usesDirectory() {
		if directory, err = c.lockDirectory(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, directory.Release()) }()
		// On a full disk the reserve is what the database can write to.
		if err := directory.Check(); err != nil {
			return err
		}
	}
	return c.withDatabase(ctx, open, func(store meta.Store) error {
		if c.BlobStore == "" {
			return fn(store, fs.Inspect(directory))
		}
		blobs, closeBlobs, err := openBlobs(c.BlobStore, nil, c.Logger)
		if err != nil {
			return err
		}
		return errors.Join(fn(store, blobs), closeBlobs())
	})
}

// CollectGarbage collects garbage. In a data directory, which no registry may use meanwhile, it removes the bytes that wait
// for their delay too; over another database, replicas may go on, and the delay stays. A dry run only says what would go.
func CollectGarbage(ctx context.Context, cfg Config, dryRun bool) (plan gc.Plan, err error) {
	if err := cfg.GC.validate(); err != nil {
		return plan, err
	}
	open := func() (meta.Store, error) { return cfg.openDatabase(ctx, cfg.Logger) }
	err = cfg.beside(ctx, open, func(store meta.Store, blobs blob.Store) (err error) {
		collector := gc.New(gc.Options{
			Core:  core.New(store, core.Options{Logger: cfg.Logger, Collection: cfg.GC.collection()}),
			Blobs: blobs, Logger: cfg.Logger, Offline: cfg.embedded(),
		})
		if dryRun {
			plan, err = collector.Plan(ctx)
			return err
		}
		plan.Collected, err = collector.Collect(ctx)
		return err
	})
	return plan, err
}

// CheckFiles checks that the closure of every tag is there, and has the bytes that its digests say. It changes nothing.
// What is in a data directory must not be in use.
func CheckFiles(ctx context.Context, cfg Config, options fsck.Options) (summary fsck.Summary, err error) {
	open := func() (meta.Store, error) {
		if cfg.embedded() {
			return sqlite.Inspect(ctx, filepath.Join(cfg.DataDir, databaseFile))
		}
		return cfg.openDatabase(ctx, cfg.Logger)
	}
	err = cfg.beside(ctx, open, func(store meta.Store, blobs blob.Store) (err error) {
		options.Core, options.Blobs = core.New(store, core.Options{Logger: cfg.Logger}), blobs
		summary, err = fsck.Check(ctx, options)
		return err
	})
	return summary, err
}
