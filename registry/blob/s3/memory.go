package s3

import (
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// buffer holds the bytes of one part. Its memory is not the garbage collector's, which would let the garbage of other
// work grow as large as all buffers together; pages that were never written take no memory.
type buffer struct {
	mu     sync.Mutex
	memory []byte // nil once freed
	size   int
	offset int
}

func newBuffer(capacity int) (*buffer, error) {
	memory, err := unix.Mmap(-1, 0, capacity, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	return &buffer{memory: memory}, err
}

// free gives the memory back. A reader that comes later, as an HTTP client may that gave up on a request, gets an error.
func (b *buffer) free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = unix.Munmap(b.memory)
	b.memory = nil
}

var errFreed = errors.New("the part was given up")

// Read implements io.Reader.
func (b *buffer) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.memory == nil {
		return 0, errFreed
	}
	if b.offset >= b.size {
		return 0, io.EOF
	}
	n := copy(p, b.memory[b.offset:b.size])
	b.offset += n
	return n, nil
}

// Seek implements io.Seeker, for requests that are sent again.
func (b *buffer) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += int64(b.offset)
	case io.SeekEnd:
		offset += int64(b.size)
	}
	if offset < 0 {
		return 0, errors.New("seek before the part's begin")
	}
	b.offset = int(offset)
	return offset, nil
}
