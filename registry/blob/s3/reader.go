package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"
)

// attempts is how often the reading of an object may break.
const attempts = 3

// reader reads an object, by requests that begin where it stands.
type reader struct {
	store  *Store
	ctx    context.Context //nolint:containedctx // that of Open: whoever reads has none
	name   string
	etag   string
	size   int64
	offset int64
	failed int

	// body is the answer of the present request, nil if there is none; cancel ends the request.
	body   io.ReadCloser
	cancel context.CancelFunc
}

// Size implements blob.Reader.
func (r *reader) Size() int64 { return r.size }

// Read implements io.Reader. A request that breaks is made again from where it broke.
func (r *reader) Read(p []byte) (int, error) {
	for r.offset < r.size {
		n, err := r.read(p)
		r.offset += int64(n)
		if err != nil {
			err = errors.Join(err, r.Close())
		}
		if err == nil || n > 0 {
			return n, nil // an error that lasts comes again
		}
		if r.failed++; r.failed >= attempts || r.ctx.Err() != nil {
			return 0, fmt.Errorf("reading %s: %w", r.name, err)
		}
	}
	return 0, io.EOF
}

func (r *reader) read(p []byte) (int, error) {
	var ctx context.Context
	if r.body == nil {
		ctx, r.cancel = context.WithCancel(r.ctx)
	}
	stalled := time.AfterFunc(r.store.timeout, r.cancel)
	defer stalled.Stop()
	if r.body == nil {
		options := minio.GetObjectOptions{}
		if err := options.SetMatchETag(r.etag); err != nil {
			return 0, err
		}
		if r.offset > 0 {
			if err := options.SetRange(r.offset, r.size-1); err != nil {
				return 0, err
			}
		}
		var err error
		if r.body, _, _, err = r.store.client.GetObject(ctx, r.store.bucket, r.name, options); err != nil {
			return 0, err
		}
	}
	n, err := r.body.Read(p)
	if errors.Is(err, io.EOF) {
		err = nil
		if r.offset+int64(n) < r.size {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the blob's begin")
	}
	if offset == r.offset {
		return offset, nil
	}
	r.offset = offset
	return offset, r.Close()
}

// Close ends the present request. The next Read would make another one.
func (r *reader) Close() error {
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
	}
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
