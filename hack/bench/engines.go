package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
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
	{name: "postgres-s3", memory: 512, provide: scaledOut},
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

// scaledOut is a PostgreSQL and an S3 server of its own, on this machine.
func scaledOut(ctx context.Context, o options, dir string) (_ *storage, err error) {
	var undo []func()
	remove := func() {
		for _, fn := range slices.Backward(undo) {
			fn()
		}
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	database, err := postgrestest.New()
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() { _ = database.Close() })
	dsn, err := database.Database("bench")
	if err != nil {
		return nil, err
	}
	address, stop, err := startObjectStore(ctx, o, dir)
	if err != nil {
		return nil, err
	}
	undo = append(undo, stop)
	key := filepath.Join(dir, "audit.key")
	if err := audit.EnsureKeyFile(key); err != nil {
		return nil, err
	}
	return &storage{
		flags: []string{"--database", dsn, "--blob-store", "s3://" + bucket + "?endpoint=http://" + address, "--audit-key-file", key},
		open: func(ctx context.Context) (meta.Store, error) {
			return postgres.Open(ctx, dsn, slog.New(slog.DiscardHandler))
		},
		remove: remove,
	}, nil
}

// bucket holds the blobs of a registry under test, accessKey and secretKey open it.
const (
	bucket    = "bench"
	accessKey = "tidelock-bench"
	secretKey = "tidelock-bench-secret"
)

// startObjectStore starts an S3 server with a bucket, and returns its address.
func startObjectStore(ctx context.Context, o options, dir string) (address string, stop func(), err error) {
	for _, name := range []string{"data", "meta"} {
		if err := os.MkdirAll(filepath.Join(dir, "s3", name), 0o700); err != nil {
			return "", nil, err
		}
	}
	// Registries find the credentials here, as they would anywhere.
	if err := errors.Join(os.Setenv("AWS_ACCESS_KEY_ID", accessKey), os.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)); err != nil {
		return "", nil, err
	}
	s, err := startServer(ctx, filepath.Join(dir, "s3"), "/healthz", func(address string) *exec.Cmd {
		return exec.Command(filepath.Join(o.bin, "versitygw"), "--port", address, "--access", accessKey, "--secret", secretKey, "--quiet", "--keep-alive", "--health", "/healthz",
			"posix", "--sidecar", filepath.Join(dir, "s3", "meta"), filepath.Join(dir, "s3", "data"))
	})
	if err != nil {
		return "", nil, err
	}
	address = strings.TrimPrefix(s.url, "http://")
	client, err := minio.New(address, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Region: "us-east-1"})
	if err == nil {
		err = client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{})
	}
	if err != nil {
		s.stop()
		return "", nil, err
	}
	return address, func() { s.stop() }, nil
}
