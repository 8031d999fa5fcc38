package fs

import "os"

// allocate gives a file its size, with space on the disk for all of it.
func allocate(file *os.File, size int64) error { return fillFile(file, size) }
