// Package seal encrypts secrets that the registry has to give to others, such as the passwords of upstreams, before they
// are stored. Who has the database has none of them without the key, which is kept elsewhere.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// KeySize is the size of a key, in bytes: AES-256.
const KeySize = 32

// format is the first byte of what is sealed: AES-256-GCM, as
//
//	format (1 byte) || id of the key (8) || nonce (12) || ciphertext and tag
const format = 1

// idSize is how many bytes name a key. They tell nothing of it.
const idSize = 8

// ErrNoKey means that none of the keys is the one that sealed a secret.
var ErrNoKey = errors.New("none of the keys is the one that sealed this")

// errBroken means that a sealed secret was changed, or is another's.
var errBroken = errors.New("what is sealed was changed, or belongs to something else")

// Keys seal with the first of them and open with all.
type Keys struct{ list []key }

type key struct {
	id   [idSize]byte
	aead cipher.AEAD
}

// GenerateKey makes a key, as a line of a file of keys.
func GenerateKey() (string, error) {
	secret := make([]byte, KeySize)
	if _, err := rand.Read(secret); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(secret), nil
}

// ParseKeys reads keys, one a line, each 32 bytes in base64. Empty lines and those that begin with # are passed over.
// Errors name the line, never what it holds.
func ParseKeys(content []byte) (*Keys, error) {
	keys, number := &Keys{}, 0
	for line := range bytes.Lines(content) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		keys.list = append(keys.list, k)
	}
	if len(keys.list) == 0 {
		return nil, errors.New("there is no key in it; openssl rand -base64 32 makes one")
	}
	return keys, nil
}

func parseKey(line []byte) (k key, err error) {
	secret := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Decode(secret, line)
	if err != nil || n != KeySize {
		return k, errors.New("this is not a key of 32 bytes in base64; openssl rand -base64 32 makes one")
	}
	block, err := aes.NewCipher(secret[:n])
	if err != nil {
		return k, err
	}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return k, err
	}
	sum := sha256.Sum256(append([]byte("tidelock seal key id\x00"), secret[:n]...))
	copy(k.id[:], sum[:])
	return k, nil
}

// Seal encrypts a secret. It opens only where the same binding is given, which says what it belongs to.
func (k *Keys) Seal(secret []byte, binding string) ([]byte, error) {
	first := k.list[0]
	sealed := append([]byte{format}, first.id[:]...)
	nonce := make([]byte, first.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	sealed = append(sealed, nonce...)
	return first.aead.Seal(sealed, nonce, secret, []byte(binding)), nil
}

// Open decrypts what Seal made with any of the keys: ErrNoKey if it was with none of them.
func (k *Keys) Open(sealed []byte, binding string) ([]byte, error) {
	id, rest, err := split(sealed)
	if err != nil {
		return nil, err
	}
	for _, candidate := range k.list {
		if candidate.id != id {
			continue
		}
		size := candidate.aead.NonceSize()
		if len(rest) < size {
			return nil, errBroken
		}
		secret, err := candidate.aead.Open(nil, rest[:size], rest[size:], []byte(binding))
		if err != nil {
			return nil, errBroken
		}
		return secret, nil
	}
	return nil, ErrNoKey
}

// Current reports whether a secret is sealed with the first key.
func (k *Keys) Current(sealed []byte) bool {
	id, _, err := split(sealed)
	return err == nil && id == k.list[0].id
}

// split takes the id of the key off what is sealed.
func split(sealed []byte) (id [idSize]byte, rest []byte, err error) {
	if len(sealed) < 1+idSize || sealed[0] != format {
		return id, nil, errBroken
	}
	copy(id[:], sealed[1:])
	return id, sealed[1+idSize:], nil
}

// KeyFile is a file of keys. It is read each time, so that keys are rotated by changing it.
type KeyFile string

// Keys reads the file.
func (f KeyFile) Keys() (*Keys, error) {
	content, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("keys of secrets: %w", err)
	}
	keys, err := ParseKeys(content)
	if err != nil {
		return nil, fmt.Errorf("keys of secrets: %s: %w", string(f), err)
	}
	return keys, nil
}

// Seal is Keys.Seal with the keys of the file.
func (f KeyFile) Seal(secret []byte, binding string) ([]byte, error) {
	keys, err := f.Keys()
	if err != nil {
		return nil, err
	}
	return keys.Seal(secret, binding)
}

// Open is Keys.Open with the keys of the file.
func (f KeyFile) Open(sealed []byte, binding string) ([]byte, error) {
	keys, err := f.Keys()
	if err != nil {
		return nil, err
	}
	return keys.Open(sealed, binding)
}

// Current is Keys.Current with the keys of the file.
func (f KeyFile) Current(sealed []byte) (bool, error) {
	keys, err := f.Keys()
	if err != nil {
		return false, err
	}
	return keys.Current(sealed), nil
}

// EnsureKeyFile makes the file with a new key, for its owner only, unless it is there. A crash leaves the whole file or
// none. Only one process may call it at a time.
func EnsureKeyFile(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	line, err := GenerateKey()
	if err != nil {
		return err
	}
	if err := write(path, line); err != nil {
		return fmt.Errorf("writing a key of secrets: %w", err)
	}
	return nil
}

func write(path, line string) error {
	directory := filepath.Dir(path)
	file, err := os.CreateTemp(directory, ".secret-key-*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(line + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		// Not a rename, which would take the place of a key that is there.
		err = os.Link(file.Name(), path)
	}
	if err = errors.Join(err, os.Remove(file.Name())); err != nil {
		return err
	}
	opened, err := os.Open(directory)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}
