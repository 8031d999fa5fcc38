// Package fs is the embedded blob store: files below one data directory.
//
//	DIR/lock                                      held while a process uses the directory; its process id
//	DIR/uploads/<upload id>                       an upload that goes on; removed at start
//	DIR/blobs/<algorithm>/<2 digits>/<hex>.<id>   a blob: the key is "<algorithm>:<hex>.<id>", the upload's id is <id>,
//	                                              the directory the first two digits of <hex>
//
// An upload is known to the process that began it, and ends with it. A blob is there, under its name, only when all of
// its bytes are on disk.
package fs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

// bufferSize is how much of an upload is in memory at once.
const bufferSize = 256 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Store is a blob.Store on files.
type Store struct {
	root string
	sync func(*os.File) error

	mu      sync.Mutex
	uploads map[string]*upload

	// durable holds the directories that are known to survive a loss of power.
	durable sync.Map
}

// upload is one upload. Its file stays open until the end, so that no write error can get lost between two requests.
type upload struct {
	mu   sync.Mutex
	file *os.File
	hash hash.Hash // SHA-256 of the first size bytes
	size int64
	over bool
}

// Open opens the store in a data directory, which stays locked as long as the store is used. Uploads that an earlier
// process left are removed.
func Open(dir *Directory) (*Store, error) { return open(dir, (*os.File).Sync) }

func open(dir *Directory, sync func(*os.File) error) (*Store, error) {
	s := &Store{root: dir.Path(), sync: sync, uploads: map[string]*upload{}}
	leftovers, err := os.ReadDir(s.uploadPath(""))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("blob store: %w", err)
	}
	for _, leftover := range leftovers {
		if err := os.RemoveAll(s.uploadPath(leftover.Name())); err != nil {
			return nil, fmt.Errorf("blob store: removing an unfinished upload: %w", err)
		}
	}
	for _, path := range []string{s.uploadPath(""), filepath.Join(s.root, "blobs", "sha256"), filepath.Join(s.root, "blobs", "sha512")} {
		if err := makeDirectories(path, s.sync); err != nil {
			return nil, fmt.Errorf("blob store: %w", err)
		}
	}
	return s, nil
}

// Close drops the uploads that go on. No call may be running or follow.
func (s *Store) Close() error {
	var errs []error
	for id := range s.uploads {
		errs = append(errs, s.Cancel(context.Background(), id))
	}
	return errors.Join(errs...)
}

func (s *Store) uploadPath(id string) string { return filepath.Join(s.root, "uploads", id) }

func (s *Store) blobPath(d digest.Digest, id string) string {
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded()+"."+id)
}

// Begin implements blob.Store.
func (s *Store) Begin(_ context.Context, id string) error {
	if !blob.ValidUploadID(id) {
		return fmt.Errorf("upload id %q is malformed", id)
	}
	file, err := os.OpenFile(s.uploadPath(id), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("beginning an upload: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploads[id] = &upload{file: file, hash: sha256.New()}
	return nil
}

// acquire returns an upload for the caller alone; it must unlock it.
func (s *Store) acquire(id string) (*upload, error) {
	s.mu.Lock()
	u, ok := s.uploads[id]
	s.mu.Unlock()
	if !ok {
		return nil, blob.ErrUnknown
	}
	if !u.mu.TryLock() {
		return nil, blob.ErrBusy
	}
	if u.over { // ended between the two locks
		u.mu.Unlock()
		return nil, blob.ErrUnknown
	}
	return u, nil
}

// forget ends an upload that the caller has acquired.
func (s *Store) forget(id string, u *upload) error {
	s.mu.Lock()
	delete(s.uploads, id)
	s.mu.Unlock()
	u.over = true
	return u.file.Close()
}

// Append implements blob.Store.
func (s *Store) Append(ctx context.Context, id string, offset int64, r io.Reader) (int64, error) {
	u, err := s.acquire(id)
	if err != nil {
		return 0, err
	}
	defer u.mu.Unlock()
	if offset != blob.End && offset != u.size {
		return u.size, blob.ErrOffset
	}
	return u.size, u.write(ctx, r)
}

func (u *upload) write(ctx context.Context, r io.Reader) error {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, readErr := fill(r, buffer[:])
		// What a write that failed half way put behind size is overwritten, or cut off by the commit.
		if _, err := u.file.WriteAt(buffer[:n], u.size); err != nil {
			return fmt.Errorf("writing an upload: %w", err)
		}
		u.hash.Write(buffer[:n])
		u.size += int64(n)
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

// fill reads until the buffer is full or the reader fails. Unlike io.ReadFull it keeps io.EOF apart from the
// io.ErrUnexpectedEOF of a request's body that was cut off.
func fill(r io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var more int
		more, err = r.Read(buffer[n:])
		n += more
	}
	return n, err
}

// Size implements blob.Store.
func (s *Store) Size(_ context.Context, id string) (int64, error) {
	u, err := s.acquire(id)
	if err != nil {
		return 0, err
	}
	defer u.mu.Unlock()
	return u.size, nil
}

// Commit implements blob.Store: the file, then its name and the directory of the name, are on disk when it returns.
func (s *Store) Commit(_ context.Context, id string, d digest.Digest) (domain.Blob, error) {
	u, err := s.acquire(id)
	if err != nil {
		return domain.Blob{}, err
	}
	defer u.mu.Unlock()
	err = u.verify(d)
	if errors.Is(err, blob.ErrMismatch) {
		return domain.Blob{}, err
	}
	if err == nil {
		err = s.publish(id, u, d)
	}
	// After the fsync an error of close says nothing about the bytes.
	closeErr := s.forget(id, u)
	if err != nil {
		err = fmt.Errorf("storing a blob: %w", err)
		return domain.Blob{}, errors.Join(err, closeErr, remove(s.uploadPath(id)), remove(s.blobPath(d, id)))
	}
	return domain.Blob{Digest: d, Size: u.size, Key: blob.Key(d, id)}, nil
}

func (u *upload) verify(d digest.Digest) error {
	if d.Algorithm() == digest.SHA256 {
		if digest.NewDigest(digest.SHA256, u.hash) != d {
			return blob.ErrMismatch
		}
		return nil
	}
	if d.Algorithm() != digest.SHA512 {
		return fmt.Errorf("digest algorithm %q is not supported", d.Algorithm())
	}
	// So rare that hashing every upload twice would cost more than reading these once more.
	verifier := d.Verifier()
	if _, err := io.Copy(verifier, io.NewSectionReader(u.file, 0, u.size)); err != nil {
		return fmt.Errorf("reading an upload: %w", err)
	}
	if !verifier.Verified() {
		return blob.ErrMismatch
	}
	return nil
}

func (s *Store) publish(id string, u *upload, d digest.Digest) error {
	path := s.blobPath(d, id)
	if err := u.file.Truncate(u.size); err != nil {
		return err
	}
	if err := s.sync(u.file); err != nil {
		return err
	}
	if err := s.ensureDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Rename(s.uploadPath(id), path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path), s.sync)
}

// ensureDirectory makes one of the directories that blobs are spread over. It is not enough that the directory is there:
// another upload may have made it a moment ago and not have synced it yet, so everybody syncs until it is known.
func (s *Store) ensureDirectory(path string) error {
	if _, ok := s.durable.Load(path); ok {
		return nil
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := syncDirectory(filepath.Dir(path), s.sync); err != nil {
		return err
	}
	s.durable.Store(path, struct{}{})
	return nil
}

// Cancel implements blob.Store.
func (s *Store) Cancel(_ context.Context, id string) error {
	u, err := s.acquire(id)
	if err != nil {
		return err
	}
	defer u.mu.Unlock()
	return errors.Join(s.forget(id, u), remove(s.uploadPath(id)))
}

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, key string) (blob.Reader, error) {
	d, id, err := blob.ParseKey(key)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(s.blobPath(d, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, blob.ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("opening a blob: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening a blob: %w", err), file.Close())
	}
	return reader{File: file, size: info.Size()}, nil
}

// Remove implements blob.Store.
func (s *Store) Remove(_ context.Context, key string) error {
	d, id, err := blob.ParseKey(key)
	if err != nil {
		return err
	}
	return remove(s.blobPath(d, id))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing a file: %w", err)
	}
	return nil
}

// reader keeps all of the file's methods: net/http needs its system connection to let the kernel send it.
type reader struct {
	*os.File
	size int64
}

func (r reader) Size() int64 { return r.size }
