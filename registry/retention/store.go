package retention

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/minio/minio-go/v7"

	"github.com/tidelock/tidelock/registry/blob/s3"
)

// Store is where archives are kept.
type Store interface {
	// Put stores a finished file under a name, replacing one of that name, and returns once it outlives a loss of power.
	Put(ctx context.Context, name string, file *os.File, size int64) error
	// Open reads a stored file.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// OpenStore opens the directory, which must be there, or the bucket "s3://…" (see s3.ParseLocation) of archives.
func OpenStore(location string) (Store, error) {
	if !IsBucket(location) {
		info, err := os.Stat(location)
		if err != nil {
			return nil, fmt.Errorf("archives: %w", err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("archives: %s is not a directory", location)
		}
		return directory(location), nil
	}
	where, err := s3.ParseLocation(location)
	if err != nil {
		return nil, fmt.Errorf("archives: %w", err)
	}
	client, err := s3.NewClient(s3.Options{Location: where})
	if err != nil {
		return nil, fmt.Errorf("archives: %w", err)
	}
	return &bucket{client: client, location: where}, nil
}

// directory keeps archives as files.
type directory string

func (d directory) Put(_ context.Context, name string, file *os.File, _ int64) (err error) {
	temporary, err := os.CreateTemp(string(d), "."+name+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(temporary.Name())))
		}
	}()
	_, err = io.Copy(temporary, file)
	if err = errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary.Name(), filepath.Join(string(d), name)); err != nil {
		return err
	}
	return syncDirectory(string(d))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDirectory(path string) error {
	handle, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(handle.Sync(), handle.Close())
}

func (d directory) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), name))
}

// bucket keeps archives as objects.
type bucket struct {
	client   *minio.Core
	location s3.Location
}

func (b *bucket) Put(ctx context.Context, name string, file *os.File, size int64) error {
	_, err := b.client.Client.PutObject(ctx, b.location.Bucket, b.location.Prefix+name, file, size, minio.PutObjectOptions{ContentType: "application/gzip"})
	return err
}

func (b *bucket) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	return b.client.Client.GetObject(ctx, b.location.Bucket, b.location.Prefix+name, minio.GetObjectOptions{})
}
