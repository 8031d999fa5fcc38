package fs

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback lets the kernel begin to write a part of a file to the disk, so that the fsync at the end finds little
// left to do. It promises nothing: a failure shows in that fsync.
func startWriteback(file *os.File, from, length int64) {
	_ = unix.SyncFileRange(int(file.Fd()), from, length, unix.SYNC_FILE_RANGE_WRITE)
}
