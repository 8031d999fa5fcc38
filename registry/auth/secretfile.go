package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// MinToken is the shortest token that a file may hold, in bytes: tokens are hashed once, so they have to be random.
const MinToken = 32

// secretFile is a value made from the content of a file, made again when the file changes. The content itself is not
// kept. While the file cannot be read or its content is refused there is no value: a rotated secret must not go on to
// work because its successor is broken.
type secretFile[T any] struct {
	path   string
	logger *slog.Logger
	parse  func([]byte) (T, error)

	mu     sync.Mutex
	loaded os.FileInfo
	parsed T
}

func newSecretFile[T any](path string, logger *slog.Logger, parse func([]byte) (T, error)) *secretFile[T] {
	return &secretFile[T]{path: path, logger: logger, parse: parse}
}

// value returns the value of the file's present content. Errors name the path, never the content.
func (f *secretFile[T]) value() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var none T
	info, err := os.Stat(f.path)
	if err != nil {
		return none, fmt.Errorf("secret file: %w", err)
	}
	if f.loaded != nil && os.SameFile(f.loaded, info) && f.loaded.ModTime().Equal(info.ModTime()) && f.loaded.Size() == info.Size() {
		return f.parsed, nil
	}
	// The content is read after its state: a change in between is noticed by the next call.
	content, err := os.ReadFile(f.path)
	if err != nil {
		return none, fmt.Errorf("secret file: %w", err)
	}
	value, err := f.parse(trimLineBreak(content))
	if err != nil {
		return none, fmt.Errorf("secret file %s: %w", f.path, err)
	}
	// Kubernetes mounts Secrets readable for all in the pod by default, so this cannot be refused.
	if info.Mode().Perm()&0o007 != 0 {
		f.logger.Warn("a secret file is open to every user of this machine; allow its owner only", "path", f.path, "mode", info.Mode().Perm().String())
	}
	f.loaded, f.parsed = info, value
	return value, nil
}

func trimLineBreak(content []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
}

func hashToken(token []byte) ([sha256.Size]byte, error) {
	if len(token) < MinToken {
		return [sha256.Size]byte{}, fmt.Errorf("the token has %d bytes; at least %d random ones are needed", len(token), MinToken)
	}
	return sha256.Sum256(token), nil
}

// EnsureTokenFile writes a new random token of 256 bits, in hexadecimal, to a file that only its owner may read, unless
// the file is there already. A crash leaves the whole file or none. Only one process may call it at a time.
func EnsureTokenFile(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".token-*")
	if err != nil {
		return fmt.Errorf("making a token file: %w", err)
	}
	var token [32]byte
	// It never fails: the process ends if the system has no randomness.
	_, _ = rand.Read(token[:])
	_, err = file.WriteString(hex.EncodeToString(token[:]) + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("making a token file: %w", errors.Join(err, os.Remove(file.Name())))
	}
	return nil
}
