package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
)

// Inspect opens the store of a data directory for reading only: nothing is made, and unfinished uploads stay.
func Inspect(dir *Directory) *Store {
	return newStore(dir, osDisk)
}

// Keys implements blob.Store. Files that are no blobs are left out.
func (s *Store) Keys(ctx context.Context, fn func(key string, modified time.Time) error) error {
	for _, algorithm := range []string{"sha256", "sha512"} {
		shards, err := readDirectory(filepath.Join(s.root, "blobs", algorithm))
		if err != nil {
			return err
		}
		for _, shard := range shards {
			if err := ctx.Err(); err != nil {
				return err
			}
			files, err := readDirectory(filepath.Join(s.root, "blobs", algorithm, shard.Name()))
			if err != nil {
				return err
			}
			for _, file := range files {
				if err := visit(algorithm, file, fn); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readDirectory lists a directory, or nothing if it is none.
func readDirectory(path string) ([]os.DirEntry, error) {
	entries, err := os.ReadDir(path)
	if info, e := os.Lstat(path); e != nil || !info.IsDir() {
		return nil, nil //nolint:nilerr // what is no directory holds no blobs
	}
	return entries, err
}

func visit(algorithm string, file os.DirEntry, fn func(string, time.Time) error) error {
	encoded, id, _ := strings.Cut(file.Name(), ".")
	key := blob.Key(digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded), id)
	if _, _, err := blob.ParseKey(key); err != nil {
		return nil //nolint:nilerr // not a blob
	}
	info, err := file.Info()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fn(key, info.ModTime())
}
