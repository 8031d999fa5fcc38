package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

// What a full disk means, in bytes of free space for a process that is not root.
const (
	// reserveSize is the size of the file DIR/reserve, which is given up when the disk is full: deletes and garbage
	// collection write to the database first, and free space only later.
	reserveSize = 64 << 20
	// fullBelow is how little free space makes the disk full.
	fullBelow = 16 << 20
	// roomAbove is how much free space ends that: enough for the reserve, and for not being full again at once.
	roomAbove = reserveSize + 2*fullBelow
	// watchInterval is how often the free space is looked at, beside at every write that fails for want of it.
	watchInterval = time.Second
)

func (d *Directory) reservePath() string { return filepath.Join(d.path, "reserve") }

// Room returns why no content can be stored, STORAGE_FULL, or nil if it can.
func (d *Directory) Room() error {
	if !d.full.Load() {
		return nil
	}
	return errFull(nil)
}

func errFull(cause error) error {
	return &domain.Error{
		Code: domain.CodeStorageFull, Cause: errors.Join(blob.ErrFull, cause),
		Message: "the disk of the registry is full, so it takes no pushes; pulls and deletes go on. Delete what is not needed: garbage collection frees its space",
	}
}

// full gives an error of a file its meaning, if it is that the disk is full, and sees to it that others find room for
// what matters more.
func (s *Store) full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errFull(errors.Join(err, s.dir.Check()))
	}
	return err
}

// Watch looks at the free space now, and then every second until the context ends. When the disk becomes full it calls
// onFull.
func (d *Directory) Watch(ctx context.Context, logger *slog.Logger, onFull func()) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for was := false; ; {
		if err := d.Check(); err != nil {
			logger.Error("cannot look after the reserve of disk space", "error", err)
		}
		is := d.full.Load()
		switch {
		case is && !was:
			logger.Error("the disk is full: pushes are refused, the reserve is given up for deletes and garbage collection", "path", d.path)
			onFull()
		case was && !is:
			logger.Info("there is room on the disk again: pushes are taken", "path", d.path)
		}
		was = is
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Check looks at the free space once: it gives up the reserve if the disk is full, and takes it anew if there is room.
func (d *Directory) Check() error {
	d.checking.Lock()
	defer d.checking.Unlock()
	free, err := d.Free()
	if err != nil {
		return err
	}
	held, err := d.reserved()
	if err != nil {
		return err
	}
	switch {
	case free < fullBelow:
		// Refused before the space is free, or pushes would take it.
		d.full.Store(true)
		return remove(d.reservePath())
	case held:
	case free < roomAbove:
		d.full.Store(true)
		return nil
	default:
		if err := d.takeReserve(); err != nil {
			return fmt.Errorf("reserving %d bytes of disk space: %w", reserveSize, err)
		}
	}
	d.full.Store(false)
	return nil
}

// Free returns how many bytes the disk has left.
func (d *Directory) Free() (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(d.path, &stat); err != nil {
		return 0, fmt.Errorf("data directory %s: %w", d.path, err)
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil //nolint:gosec,unconvert // the fields' types differ between systems
}

// reserved reports whether the reserve is there in full.
func (d *Directory) reserved() (bool, error) {
	info, err := os.Stat(d.reservePath())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size() == reserveSize, err
}

// takeReserve makes the file of the reserve. Its name says that it is complete.
func (d *Directory) takeReserve() error {
	unfinished := d.reservePath() + ".new"
	file, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(allocate(file, reserveSize), file.Close())
	if err == nil {
		err = os.Rename(unfinished, d.reservePath())
	}
	if err != nil {
		return errors.Join(err, remove(unfinished))
	}
	return nil
}

// fillFile writes bytes that no file system can make smaller by compressing them.
func fillFile(file *os.File, size int64) error {
	block := make([]byte, 1<<20)
	noise := rand.NewChaCha8([32]byte{})
	for written := int64(0); written < size; written += int64(len(block)) {
		_, _ = noise.Read(block) // never fails
		if _, err := file.Write(block); err != nil {
			return err
		}
	}
	return file.Sync()
}
