// Package blob keeps the bytes of blobs. Which repository may see a blob, and where its bytes are, is known to
// registry/meta alone: a store only turns an upload into a key and a key into bytes.
//
// Each upload's bytes live under a key of their own, "<digest>.<upload id>", which is never used again. Two uploads of
// one digest are two keys, so that removing the one can never take bytes that the other was just acknowledged for.
package blob

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// Errors of a Store. Everything else that a Store returns is a failure of the machinery beneath it, or of the reader
// that it was given.
var (
	// ErrUnknown means that there is no such upload or key.
	ErrUnknown = errors.New("no such upload or blob")
	// ErrBusy means that another call is writing to the upload now.
	ErrBusy = errors.New("the upload is being written by another request")
	// ErrOffset means that the bytes offered do not begin where the upload ends.
	ErrOffset = errors.New("the upload does not end at this offset")
	// ErrMismatch means that the upload's bytes do not have the digest.
	ErrMismatch = errors.New("the bytes do not have the digest")
)

// End is the offset that appends wherever the upload ends.
const End int64 = -1

// Store keeps bytes. It is safe for concurrent use.
type Store interface {
	// Begin starts an empty upload under an id of NewUploadID.
	Begin(ctx context.Context, id string) error
	// Append writes the reader's bytes behind the first offset bytes of an upload and returns the upload's new size.
	// The offset must be the upload's size (or End), else ErrOffset with that size. Bytes read before an error stay:
	// the upload can go on from the size that is returned with the error.
	Append(ctx context.Context, id string, offset int64, r io.Reader) (size int64, err error)
	// Size returns how many bytes an upload has.
	Size(ctx context.Context, id string) (int64, error)
	// Commit ends an upload and returns the blob under its new key. When it returns, the bytes survive a loss of power.
	// After ErrMismatch the upload is as it was; after any other error it is gone.
	Commit(ctx context.Context, id string, d digest.Digest) (domain.Blob, error)
	// Cancel drops an upload and its bytes.
	Cancel(ctx context.Context, id string) error
	// Open opens the bytes under a key; ErrUnknown if there are none. The caller closes the reader.
	Open(ctx context.Context, key string) (Reader, error)
	// Remove deletes the bytes under a key, which must be linked nowhere. A key without bytes is no error.
	Remove(ctx context.Context, key string) error
}

// Reader reads a stored blob. Readers of the file store are backed by a file, so that the kernel can send them.
type Reader interface {
	io.ReadSeekCloser
	// Size is the blob's size in bytes.
	Size() int64
}

const uploadIDBytes = 16

// NewUploadID returns an id of 128 random bits: whoever was not told it cannot guess it.
func NewUploadID() string {
	var id [uploadIDBytes]byte
	// Since Go 1.24 this cannot fail.
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// ValidUploadID reports whether the text has the form of an upload id.
func ValidUploadID(id string) bool {
	if len(id) != 2*uploadIDBytes {
		return false
	}
	return strings.Trim(id, "0123456789abcdef") == ""
}

// Key is where an upload's bytes are kept.
func Key(d digest.Digest, id string) string { return d.String() + "." + id }

// ParseKey splits a key into its digest and upload id.
func ParseKey(key string) (d digest.Digest, id string, err error) {
	text, id, _ := strings.Cut(key, ".")
	if d, err = domain.ParseDigest(text); err != nil || !ValidUploadID(id) {
		return "", "", fmt.Errorf("blob key %q is not <digest>.<upload id>", key)
	}
	return d, id, nil
}
