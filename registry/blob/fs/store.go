// Package fs is the embedded blob store: files below one data directory.
//
//	DIR/lock                                      held while a process uses the directory; its process id
//	DIR/reserve                                   space that is given up when the disk is full
//	DIR/uploads/<upload id>                       an open upload
//	DIR/blobs/<algorithm>/<2 digits>/<hex>.<id>   a blob: the key is "<algorithm>:<hex>.<id>", the upload's id is <id>,
//	                                              the directory the first two digits of <hex>
//
// A blob is there, under its name, only when all of its bytes are on disk. An upload's bytes may be lost with the power:
// a process that did not write them itself reads them again before it goes on with them.
package fs

import (
	"context"
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

// writebackSize is after how many bytes of an upload the kernel is told to begin to write them to the disk.
const writebackSize = 8 << 20

// Store is a blob.Store on files.
type Store struct {
	root string
	// dir knows whether the disk is full: then no bytes are taken.
	dir   *Directory
	disk  disk
	mu    sync.Mutex
	files map[string]*upload // the uploads that this process writes, by id

	// durable holds the directories that are known to survive a loss of power.
	durable sync.Map
}

// disk is what may fail for want of a disk.
type disk struct {
	write func(*os.File, []byte, int64) (int, error)
	sync  func(*os.File) error
}

var osDisk = disk{write: (*os.File).WriteAt, sync: (*os.File).Sync}

// upload is the file of an upload. It stays open until the end, so that no write error can get lost between two requests.
type upload struct {
	file *os.File
	hash hash.Hash // of the first size bytes, by algorithm
	size int64
	// writeback is how far the kernel has been told.
	writeback int64

	algorithm digest.Algorithm
}

// Open opens the store in a data directory, which stays locked as long as the store is used.
func Open(dir *Directory) (*Store, error) {
	return open(dir, osDisk)
}

func newStore(dir *Directory, disk disk) *Store {
	return &Store{root: dir.Path(), dir: dir, disk: disk, files: map[string]*upload{}}
}

func open(dir *Directory, disk disk) (*Store, error) {
	s := newStore(dir, disk)
	for _, path := range []string{s.uploadPath(""), filepath.Join(s.root, "blobs", "sha256"), filepath.Join(s.root, "blobs", "sha512")} {
		if err := makeDirectories(path, disk.sync); err != nil {
			return nil, fmt.Errorf("blob store: %w", err)
		}
	}
	return s, nil
}

// Prune removes what an earlier process left of uploads that are not open any more.
func (s *Store) Prune(isOpen func(id string) (bool, error)) error {
	leftovers, err := os.ReadDir(s.uploadPath(""))
	if err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	for _, leftover := range leftovers {
		keep, err := isOpen(leftover.Name())
		if err == nil && !keep {
			err = os.RemoveAll(s.uploadPath(leftover.Name()))
		}
		if err != nil {
			return fmt.Errorf("blob store: removing an upload that is not open: %w", err)
		}
	}
	return nil
}

// Close closes the files of open uploads. No call may be running or follow.
func (s *Store) Close() error {
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.file.Close())
	}
	s.files = map[string]*upload{}
	return errors.Join(errs...)
}

func (s *Store) uploadPath(id string) string { return filepath.Join(s.root, "uploads", id) }

func (s *Store) blobPath(d digest.Digest, id string) string {
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded()+"."+id)
}

func (s *Store) path(key string) (string, error) {
	d, id, err := blob.ParseKey(key)
	if err != nil {
		return "", err
	}
	return s.blobPath(d, id), nil
}

// Begin implements blob.Store. The file is made by the first write.
func (s *Store) Begin(id string, algorithm digest.Algorithm) domain.Upload {
	return domain.Upload{ID: id, State: []byte(algorithm)}
}

// load returns the file of an upload. If it is not what this process has just written, its bytes are read and hashed.
func (s *Store) load(u domain.Upload) (*upload, error) {
	if !blob.ValidUploadID(u.ID) {
		return nil, fmt.Errorf("upload id %q is malformed", u.ID)
	}
	s.mu.Lock()
	known := s.files[u.ID]
	s.mu.Unlock()
	if known != nil && known.size == u.Size {
		return known, nil
	}
	algorithm := digest.Algorithm(u.State)
	if !algorithm.Available() {
		return nil, fmt.Errorf("upload %s has the unknown algorithm %q", u.ID, algorithm)
	}
	flags := os.O_RDWR
	if u.Size == 0 {
		flags |= os.O_CREATE
	}
	file, err := os.OpenFile(s.uploadPath(u.ID), flags, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil, blob.ErrUnknown
	}
	if err != nil {
		return nil, s.full(fmt.Errorf("opening an upload: %w", err))
	}
	loaded := &upload{file: file, hash: algorithm.Hash(), size: u.Size, writeback: u.Size, algorithm: algorithm}
	n, err := io.Copy(loaded.hash, io.NewSectionReader(file, 0, u.Size))
	if err == nil && n < u.Size {
		err = blob.ErrUnknown
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s.mu.Lock()
	s.files[u.ID] = loaded
	s.mu.Unlock()
	if known != nil {
		_ = known.file.Close() // what it wrote beyond u.Size does not count
	}
	return loaded, nil
}

// forget closes the file of an upload.
func (s *Store) forget(id string) error {
	s.mu.Lock()
	known := s.files[id]
	delete(s.files, id)
	s.mu.Unlock()
	if known == nil {
		return nil
	}
	return known.file.Close()
}

// Append implements blob.Store. It never calls save: until the commit, nothing is safe.
func (s *Store) Append(ctx context.Context, u domain.Upload, r io.Reader, _ func(domain.Upload) error) (domain.Upload, error) {
	if err := s.dir.Room(); err != nil {
		return u, errors.Join(err, s.Cancel(ctx, u))
	}
	f, err := s.load(u)
	if err != nil {
		return u, err
	}
	err = s.full(f.write(ctx, r, s.disk.write, s.dir.Room))
	u.Size = f.size
	if errors.Is(err, blob.ErrFull) {
		err = errors.Join(err, s.Cancel(ctx, u)) // the room is for others
	}
	return u, err
}

func (u *upload) write(ctx context.Context, r io.Reader, write func(*os.File, []byte, int64) (int, error), room func() error) error {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, readErr := fill(r, buffer[:])
		if err := room(); err != nil {
			return err
		}
		// What a write that failed half way put behind size is overwritten, or cut off by the commit.
		if _, err := write(u.file, buffer[:n], u.size); err != nil {
			return fmt.Errorf("writing an upload: %w", err)
		}
		u.hash.Write(buffer[:n])
		u.size += int64(n)
		if u.size-u.writeback >= writebackSize {
			startWriteback(u.file, u.writeback, u.size-u.writeback)
			u.writeback = u.size
		}
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

// Commit implements blob.Store: the file, then its name and the directory of the name, are on disk when it returns. After
// another error than ErrMismatch nothing is left of the upload, since nobody knows what the disk has of it.
func (s *Store) Commit(_ context.Context, u domain.Upload, d digest.Digest) (domain.Blob, error) {
	stored := domain.Blob{Digest: d, Size: u.Size, Key: blob.Key(d, u.ID)}
	f, err := s.load(u)
	if errors.Is(err, blob.ErrUnknown) || (err == nil && u.Size == 0) {
		if done, err := s.committed(stored); done || err != nil {
			return stored, errors.Join(err, s.drop(u.ID))
		}
	}
	if err != nil {
		return domain.Blob{}, err
	}
	if err = f.verify(d); err == nil {
		err = s.publish(u.ID, f, d)
	}
	if errors.Is(err, blob.ErrMismatch) {
		return domain.Blob{}, err
	}
	// After the fsync an error of close says nothing about the bytes.
	closeErr := s.forget(u.ID)
	if err != nil {
		err = s.full(fmt.Errorf("storing a blob: %w", err))
		return domain.Blob{}, errors.Join(err, closeErr, remove(s.uploadPath(u.ID)), remove(s.blobPath(d, u.ID)))
	}
	return stored, nil
}

// committed reports whether an earlier commit of the upload has made the blob. Perhaps that one ended before it had
// synced the directory.
func (s *Store) committed(b domain.Blob) (bool, error) {
	path, err := s.path(b.Key)
	if err != nil {
		return false, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() != b.Size) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for a blob: %w", err)
	}
	return true, syncDirectory(filepath.Dir(path), s.disk.sync)
}

func (u *upload) verify(d digest.Digest) error {
	if d.Algorithm() == u.algorithm {
		if digest.NewDigest(u.algorithm, u.hash) != d {
			return blob.ErrMismatch
		}
		return nil
	}
	if !d.Algorithm().Available() {
		return fmt.Errorf("digest algorithm %q is not supported", d.Algorithm())
	}
	// Clients say beforehand which algorithm it will be, so it is rare that the bytes are read once more.
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
	if err := s.disk.sync(u.file); err != nil {
		return err
	}
	if err := s.ensureDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Rename(s.uploadPath(id), path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path), s.disk.sync)
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
	if err := syncDirectory(filepath.Dir(path), s.disk.sync); err != nil {
		return err
	}
	s.durable.Store(path, struct{}{})
	return nil
}

// Cancel implements blob.Store.
func (s *Store) Cancel(_ context.Context, u domain.Upload) error { return s.drop(u.ID) }

func (s *Store) drop(id string) error {
	if !blob.ValidUploadID(id) {
		return fmt.Errorf("upload id %q is malformed", id)
	}
	return errors.Join(s.forget(id), remove(s.uploadPath(id)))
}

// Open implements blob.Store.
func (s *Store) Open(_ context.Context, key string) (blob.Reader, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
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
	path, err := s.path(key)
	if err != nil {
		return err
	}
	return remove(path)
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
