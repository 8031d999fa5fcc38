// Package s3 keeps blobs in a bucket of S3, or of a server that speaks its protocol:
//
//	PREFIXdata/<object id>                     the bytes of a blob; random, and never used again
//	PREFIXkeys/<object id>.<algorithm>.<hex>   empty: the blob "<algorithm>:<hex>.<object id>" has its bytes there
//
// An object is written under its name from the start, when nobody knows its digest yet, and is never copied. The key is
// written before the object comes to be, and removed after it: so no object is without one, and Keys finds all.
//
// Bytes of an open upload are parts of a multipart upload, or in the upload's state as long as they are too few for
// one. Each attempt to store a blob of less than one part has an object of its own, and so has each multipart upload: a
// writer that was taken over finds nothing that it could overwrite.
package s3

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // see etagOf
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

const (
	contentType = "application/octet-stream"
	// memoryLimit bounds the memory of all parts that are read or sent at once: 64 of the smallest.
	memoryLimit = 64 * minPart
	// retries is how often a request is sent, with up to a second in between.
	retries = 4
	// slowest is how slow S3 may take a body, in bytes a second.
	slowest = 256 << 10
)

// Options are what a store needs.
type Options struct {
	Location
	// Credentials are those of the AWS environment variables, else of the AWS credentials file, else of the machine or
	// the web identity, by default.
	Credentials *credentials.Credentials
	// Timeout is how long S3 may take for a request beside its body; 30 seconds by default.
	Timeout time.Duration
	Logger  *slog.Logger
}

// Store is a blob.Store on a bucket. Several processes may use one bucket.
type Store struct {
	client  *minio.Core
	bucket  string
	prefix  string
	timeout time.Duration
	memory  *semaphore.Weighted
}

var _ blob.Presigner = (*Store)(nil)

// NewClient returns a client for the location of options, with its credentials.
func NewClient(options Options) (*minio.Core, error) {
	if options.Credentials == nil {
		options.Credentials = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		})
	}
	transport, err := minio.DefaultTransport(options.TLS)
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost = 128
	transport.ResponseHeaderTimeout = 0 // each request has its own time
	client, err := minio.NewCore(options.Endpoint, &minio.Options{
		Creds: options.Credentials, Secure: options.TLS, Region: options.Region, BucketLookup: options.Lookup, Transport: transport, MaxRetries: retries,
	})
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", options.Endpoint, err)
	}
	return client, nil
}

// Open returns the store of a bucket. A bucket that is not there or not to be used is an error; a server that does not
// answer is one of each call that needs it, as later.
func Open(ctx context.Context, options Options) (*Store, error) {
	if options.Timeout == 0 {
		options.Timeout = 30 * time.Second
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	client, err := NewClient(options)
	if err != nil {
		return nil, fmt.Errorf("blob store: %w", err)
	}
	s := &Store{client: client, bucket: options.Bucket, prefix: options.Prefix, timeout: options.Timeout, memory: semaphore.NewWeighted(memoryLimit)}
	short, cancel := s.within(ctx, 0)
	defer cancel()
	there, err := client.BucketExists(short, options.Bucket)
	switch response := minio.ToErrorResponse(err); {
	case err == nil && !there:
		return nil, fmt.Errorf("blob store: there is no bucket %s at %s; make it first", options.Bucket, options.Endpoint)
	case err != nil && response.StatusCode >= 400 && response.StatusCode < 500:
		return nil, fmt.Errorf("blob store: bucket %s at %s: %w", options.Bucket, options.Endpoint, err)
	case err != nil:
		options.Logger.Warn("the blob store does not answer; requests that need it get 503 until it does", "endpoint", options.Endpoint, "error", err)
	}
	return s, nil
}

// within bounds a request that sends so many bytes.
func (s *Store) within(ctx context.Context, size int) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.timeout+time.Duration(size/slowest)*time.Second)
}

// acquire waits for memory.
func (s *Store) acquire(ctx context.Context, size int) error {
	waiting, cancel := s.within(ctx, 0)
	defer cancel()
	err := s.memory.Acquire(waiting, int64(size))
	if err != nil && ctx.Err() == nil {
		return errors.New("too many parts of uploads are in memory")
	}
	return err
}

func (s *Store) dataName(object string) string { return s.prefix + "data/" + object }

func (s *Store) keyName(d digest.Digest, object string) string {
	return s.keyPrefix(object) + d.Algorithm().String() + "." + d.Encoded()
}

func (s *Store) keyPrefix(object string) string { return s.prefix + "keys/" + object + "." }

// Commit implements blob.Store.
func (s *Store) Commit(ctx context.Context, u domain.Upload, d digest.Digest) (domain.Blob, error) {
	st, h, err := decode(u)
	if err != nil {
		return domain.Blob{}, err
	}
	hashed := st.Algorithm == d.Algorithm()
	if hashed && digest.NewDigest(st.Algorithm, h) != d {
		return domain.Blob{}, blob.ErrMismatch
	}
	if !d.Algorithm().Available() {
		return domain.Blob{}, fmt.Errorf("digest algorithm %q is not supported", d.Algorithm())
	}
	if len(st.Parts) == 0 {
		stored, err := s.put(ctx, st.tail, d)
		if err == nil && st.Multipart != "" {
			err = s.abort(ctx, st) // its first part never arrived
		}
		return stored, err
	}
	if u.Interrupted { // as in Append
		st.Next++
	}
	stored := domain.Blob{Digest: d, Size: u.Size, Key: blob.Key(d, st.Object)}
	if hashed {
		if err := s.putKey(ctx, d, st.Object); err != nil {
			return domain.Blob{}, err
		}
	}
	sure, err := s.complete(ctx, st)
	if err != nil {
		return domain.Blob{}, err
	}
	if !sure || !hashed {
		err := s.verify(ctx, stored)
		if hashed && errors.Is(err, blob.ErrMismatch) {
			err = blob.ErrUnknown // the bytes that had the digest are not to be had any more
		}
		if err != nil {
			return domain.Blob{}, err
		}
	}
	if !hashed {
		if err := s.putKey(ctx, d, st.Object); err != nil {
			return domain.Blob{}, err
		}
	}
	return stored, nil
}

// put stores a blob in one piece.
func (s *Store) put(ctx context.Context, content []byte, d digest.Digest) (domain.Blob, error) {
	if d.Algorithm().FromBytes(content) != d {
		return domain.Blob{}, blob.ErrMismatch
	}
	object := blob.NewUploadID()
	if err := s.putKey(ctx, d, object); err != nil {
		return domain.Blob{}, err
	}
	if err := s.putObject(ctx, s.dataName(object), content); err != nil {
		return domain.Blob{}, err
	}
	return domain.Blob{Digest: d, Size: int64(len(content)), Key: blob.Key(d, object)}, nil
}

func (s *Store) putKey(ctx context.Context, d digest.Digest, object string) error {
	return s.putObject(ctx, s.keyName(d, object), nil)
}

func (s *Store) putObject(ctx context.Context, name string, content []byte) error {
	ctx, cancel := s.within(ctx, len(content))
	defer cancel()
	// Signed as a whole: there are servers that lose their place in a connection after an empty body that is signed in
	// pieces.
	_, err := s.client.PutObject(ctx, s.bucket, name, bytes.NewReader(content), int64(len(content)), "", digest.SHA256.FromBytes(content).Encoded(),
		minio.PutObjectOptions{ContentType: contentType, DisableContentSha256: true})
	if err != nil {
		return fmt.Errorf("storing %s: %w", name, err)
	}
	return nil
}

// complete makes the parts an object, the tail being the last one. It is not sure that the object has these parts if it
// was complete before: by an earlier Commit whose answer was lost, or by a writer that was taken over. S3 then answers
// that there is no such upload, or as if it had done it now: so it is the object that is asked.
func (s *Store) complete(ctx context.Context, st state) (sure bool, err error) {
	parts := make([]minio.CompletePart, 0, len(st.Parts)+1)
	for _, p := range st.Parts {
		parts = append(parts, minio.CompletePart{PartNumber: p.Number, ETag: p.ETag})
	}
	if len(st.tail) > 0 {
		if st.Next > maxParts {
			return false, blob.ErrTooLarge
		}
		sent, err := s.sendPart(ctx, st, bytes.NewReader(st.tail), len(st.tail))
		if errors.Is(err, blob.ErrUnknown) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		parts = append(parts, minio.CompletePart{PartNumber: st.Next, ETag: sent.ETag})
	}
	// Some servers copy all parts now.
	ctx, cancel := s.within(ctx, len(parts)*minPart)
	defer cancel()
	_, err = s.client.CompleteMultipartUpload(ctx, s.bucket, s.dataName(st.Object), st.Multipart, parts, minio.PutObjectOptions{})
	if isCode(err, minio.NoSuchUpload) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("completing a multipart upload: %w", err)
	}
	info, err := s.client.StatObject(ctx, s.bucket, s.dataName(st.Object), minio.StatObjectOptions{})
	if err != nil {
		return false, fmt.Errorf("looking for a blob: %w", err)
	}
	return info.ETag == etagOf(parts), nil
}

// etagOf is the ETag of an object of these parts: the MD5 of their MD5s, and their number. Where encryption makes ETags
// something else, no object has it.
func etagOf(parts []minio.CompletePart) string {
	sum := md5.New() //nolint:gosec // S3's own choice; digests are what blobs are known by
	for _, p := range parts {
		bytesOf, _ := hex.DecodeString(p.ETag)
		_, _ = sum.Write(bytesOf)
	}
	return fmt.Sprintf("%x-%d", sum.Sum(nil), len(parts))
}

// verify reads a blob and compares its digest.
func (s *Store) verify(ctx context.Context, b domain.Blob) error {
	r, err := s.Open(ctx, b.Key)
	if err != nil {
		return err
	}
	verifier := b.Digest.Verifier()
	n, err := io.Copy(verifier, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("reading a blob: %w", err)
	}
	if n != b.Size || !verifier.Verified() {
		return blob.ErrMismatch
	}
	return nil
}

// Cancel implements blob.Store.
func (s *Store) Cancel(ctx context.Context, u domain.Upload) error {
	st, _, err := decode(u)
	if err != nil || st.Object == "" {
		return err
	}
	return errors.Join(s.abort(ctx, st), s.removeObject(ctx, s.dataName(st.Object)))
}

func (s *Store) removeObject(ctx context.Context, name string) error {
	ctx, cancel := s.within(ctx, 0)
	defer cancel()
	if err := s.client.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{}); err != nil && !isCode(err, minio.NoSuchKey) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

// Open implements blob.Store.
func (s *Store) Open(ctx context.Context, key string) (blob.Reader, error) {
	_, object, err := blob.ParseKey(key)
	if err != nil {
		return nil, err
	}
	short, cancel := s.within(ctx, 0)
	defer cancel()
	info, err := s.client.StatObject(short, s.bucket, s.dataName(object), minio.StatObjectOptions{})
	if isCode(err, minio.NoSuchKey) {
		return nil, blob.ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("looking for a blob: %w", err)
	}
	return &reader{store: s, ctx: ctx, name: s.dataName(object), etag: info.ETag, size: info.Size}, nil
}

// Presign implements blob.Presigner.
func (s *Store) Presign(ctx context.Context, key string, lifetime time.Duration) (*url.URL, error) {
	_, object, err := blob.ParseKey(key)
	if err != nil {
		return nil, err
	}
	return s.client.PresignedGetObject(ctx, s.bucket, s.dataName(object), lifetime, url.Values{"response-content-type": {contentType}})
}

// Remove implements blob.Store. An object that has another key too, which takes a client that changes its mind about the
// digest in the middle of a failure, keeps its bytes.
func (s *Store) Remove(ctx context.Context, key string) error {
	d, object, err := blob.ParseKey(key)
	if err != nil {
		return err
	}
	short, cancel := s.within(ctx, 0)
	defer cancel()
	for info := range s.client.ListObjectsIter(short, s.bucket, minio.ListObjectsOptions{Prefix: s.keyPrefix(object)}) {
		if info.Err != nil {
			return fmt.Errorf("listing the keys of a blob: %w", info.Err)
		}
		if info.Key != s.keyName(d, object) {
			return s.removeObject(ctx, s.keyName(d, object))
		}
	}
	if err := s.removeObject(ctx, s.dataName(object)); err != nil {
		return err
	}
	return s.removeObject(ctx, s.keyName(d, object))
}

// Keys implements blob.Store.
func (s *Store) Keys(ctx context.Context, fn func(key string, modified time.Time) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for info := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + "keys/", Recursive: true}) {
		if info.Err != nil {
			return fmt.Errorf("listing blobs: %w", info.Err)
		}
		object, text, _ := strings.Cut(strings.TrimPrefix(info.Key, s.prefix+"keys/"), ".")
		algorithm, hex, _ := strings.Cut(text, ".")
		key := algorithm + ":" + hex + "." + object
		if _, _, err := blob.ParseKey(key); err != nil {
			continue // not ours
		}
		if err := fn(key, info.LastModified); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func isCode(err error, code string) bool {
	return err != nil && minio.ToErrorResponse(err).Code == code
}
