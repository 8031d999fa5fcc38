package registry

import (
	"context"
	"log/slog"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/blob/s3"
)

// openBlobs opens the blob store of a location, s3://…, or with an empty one that of the data directory.
func openBlobs(location string, directory *fs.Directory, logger *slog.Logger) (store blob.Store, closeStore func() error, err error) {
	if location == "" {
		files, err := fs.Open(directory)
		if err != nil {
			return nil, nil, err
		}
		return files, files.Close, nil
	}
	where, err := s3.ParseLocation(location)
	if err != nil {
		return nil, nil, err
	}
	bucket, err := s3.Open(context.Background(), s3.Options{Location: where, Logger: logger})
	return bucket, func() error { return nil }, err
}
