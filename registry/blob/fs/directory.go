package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Directory is a data directory that this process has for itself until Release. A process that ends, however it ends,
// releases it.
type Directory struct {
	path string
	lock *os.File
	// checking guards the reserve; full is set while the disk is full.
	checking sync.Mutex
	full     atomic.Bool
}

// Lock makes a data directory if there is none and takes it for this process. It refuses a directory that another
// process uses, naming that process, and one on a network file system, where neither locks nor fsync can be relied on.
func Lock(path string) (*Directory, error) { return lock(path, networkFilesystem) }

func lock(path string, network func(path string) (name string, err error)) (*Directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := makeDirectories(path, (*os.File).Sync); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	switch name, err := network(path); {
	case err != nil:
		return nil, fmt.Errorf("data directory %s: %w", path, err)
	case name != "":
		return nil, fmt.Errorf("data directory %s is on %s; use a local file system", path, name)
	}
	file, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = file.Close() }()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s: flock: %w", path, err)
		}
		holder := make([]byte, 32)
		n, _ := file.ReadAt(holder, 0)
		return nil, fmt.Errorf("data directory %s is in use by another registry (process %s)", path, strings.TrimSpace(string(holder[:n])))
	}
	// The text is for the message above only; the lock is the kernel's.
	if err := errors.Join(file.Truncate(0), writePID(file)); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory: %w", err), file.Close())
	}
	return &Directory{path: path, lock: file}, nil
}

func writePID(file *os.File) error {
	_, err := fmt.Fprintf(file, "%d\n", os.Getpid())
	return err
}

// Path is the directory's absolute path.
func (d *Directory) Path() string { return d.path }

// Release gives the directory free for other processes.
func (d *Directory) Release() error { return d.lock.Close() }

// makeDirectories makes a directory and those above it, and makes sure that each new one survives a loss of power: that
// takes an fsync of the directory that it stands in.
func makeDirectories(path string, sync func(*os.File) error) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeDirectories(filepath.Dir(path), sync); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
	}
	if errors.Is(err, os.ErrExist) {
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			err = &os.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
		}
		return err
	}
	if err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path), sync)
}

func syncDirectory(path string, sync func(*os.File) error) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(sync(dir), dir.Close())
}
