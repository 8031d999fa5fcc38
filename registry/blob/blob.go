// Package blob keeps the bytes of blobs. Which repository may see a blob, and where its bytes are, is known to
// registry/meta alone: a store only turns an upload into a key and a key into bytes.
//
// Each upload's bytes live under a key of their own, "<digest>.<upload id>", which is never used again. Two uploads of
// one digest are two keys, so that removing the one can never take bytes that the other was just acknowledged for.
package blob

import (
	"context"
	"crypto/rand"
	_ "crypto/sha256" // for the digests
	_ "crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// Errors of a Store. Everything else that a Store returns is a failure of the machinery beneath it, or of the reader
// that it was given.
var (
	// ErrUnknown means that the store has nothing under the key, or has lost bytes of the upload.
	ErrUnknown = errors.New("no such upload or blob")
	// ErrMismatch means that the upload's bytes do not have the digest.
	ErrMismatch = errors.New("the bytes do not have the digest")
	// ErrTooLarge means that the store cannot take a blob of this size in these pieces.
	ErrTooLarge = errors.New("the upload is too large for the store")
	// ErrFull means that there is no room for more bytes.
	ErrFull = errors.New("the store is full")
)

// Store keeps bytes. It is safe for concurrent use.
//
// An upload is a value that its caller keeps and hands back: a store knows nothing of whose uploads there are, or who
// writes to which. One upload is written by one call at a time. A writer that was believed to be gone, and goes on all
// the same, may spoil its upload, but never a blob.
type Store interface {
	// Begin starts an empty upload under an id of NewUploadID. The digest that is to come is best of the algorithm; one
	// of another takes reading the bytes again.
	Begin(id string, algorithm digest.Algorithm) domain.Upload
	// Append writes the reader's bytes behind an upload and returns the upload that has them. Bytes that were read
	// before the reader failed stay. After any other error the upload is as far as its bytes are stored; after
	// ErrUnknown and ErrFull it can only be cancelled. Where bytes are safe before the end, Append hands the upload to
	// save, whose error ends it: another process can go on from what was saved last.
	Append(ctx context.Context, u domain.Upload, r io.Reader, save func(domain.Upload) error) (domain.Upload, error)
	// Commit makes an upload a blob and returns it under its new key. When it returns, the bytes survive a loss of
	// power. After ErrMismatch the upload can be committed under another digest. After another error Commit may be
	// tried again, until it says ErrUnknown.
	Commit(ctx context.Context, u domain.Upload, d digest.Digest) (domain.Blob, error)
	// Cancel drops the bytes of an upload that was not made a blob. There may be none.
	Cancel(ctx context.Context, u domain.Upload) error
	// Open opens the bytes under a key; ErrUnknown if there are none. The caller closes the reader.
	Open(ctx context.Context, key string) (Reader, error)
	// Remove deletes the bytes under a key, which must be linked nowhere. A key without bytes is no error.
	Remove(ctx context.Context, key string) error
	// Keys calls fn with each key that has bytes, in no order, and with when it was stored. Open uploads are not
	// among them. A key that comes or goes meanwhile may be missed. An error of fn ends Keys.
	Keys(ctx context.Context, fn func(key string, modified time.Time) error) error
}

// Presigner is a store whose blobs can be had elsewhere.
type Presigner interface {
	// Presign returns a URL under which everybody can read the key's bytes for so long.
	Presign(ctx context.Context, key string, lifetime time.Duration) (*url.URL, error)
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
