package fs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives a file its size, with space on the disk for all of it.
func allocate(file *os.File, size int64) error {
	err := unix.Fallocate(int(file.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fillFile(file, size)
	}
	return err
}
