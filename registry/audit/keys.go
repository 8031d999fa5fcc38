package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// DefaultKeyName is the name of a key that nobody named.
const DefaultKeyName = "tidelock"

// Keys sign checkpoints.
type Keys struct {
	signers []note.Signer
	public  []string
}

// GenerateKey makes an Ed25519 key in the encoding of golang.org/x/mod/sumdb/note. The name is part of it, and of each
// signature: one word without "+".
func GenerateKey(name string) (private, public string, err error) {
	private, public, err = note.GenerateKey(rand.Reader, name)
	if err == nil {
		// It is GenerateKey that takes any name, and NewSigner that does not.
		_, err = note.NewSigner(private)
	}
	if err != nil {
		return "", "", fmt.Errorf("%q cannot be the name of a key: one word without \"+\" is needed", name)
	}
	return private, public, nil
}

// ParseKeys reads private keys, one a line; all of them sign. Empty lines and those that begin with # are passed over.
// Errors name the line, never what it holds.
func ParseKeys(content []byte) (*Keys, error) {
	keys := &Keys{}
	err := eachLine(content, func(line string) error {
		signer, err := note.NewSigner(line)
		if err != nil {
			return errors.New("this is not a private key of tidelock audit keygen")
		}
		public, err := publicKey(signer.Name(), line)
		if err != nil {
			return err
		}
		keys.signers, keys.public = append(keys.signers, signer), append(keys.public, public)
		return nil
	})
	if err == nil && len(keys.signers) == 0 {
		err = errors.New("there is no key in it; tidelock audit keygen makes one")
	}
	return keys, err
}

// publicKey returns the public half of a private key that is known to be one.
func publicKey(name, private string) (string, error) {
	// PRIVATE+KEY+<name>+<hash>+<base64 of the algorithm and the seed>, whose last part may have a "+".
	parts := strings.SplitN(private, "+", 5)
	key, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(key) != 1+ed25519.SeedSize {
		return "", errors.New("this is not an Ed25519 key")
	}
	return note.NewEd25519VerifierKey(name, ed25519.NewKeyFromSeed(key[1:]).Public().(ed25519.PublicKey))
}

// Sign signs a checkpoint with all keys.
func (k *Keys) Sign(c Checkpoint) ([]byte, error) {
	return note.Sign(&note.Note{Text: c.Text()}, k.signers...)
}

// Public lists the public keys.
func (k *Keys) Public() []string { return k.public }

// ParsePublicKeys reads public keys, one a line, like ParseKeys.
func ParsePublicKeys(content []byte) (note.Verifiers, error) {
	var list []note.Verifier
	seen := map[string]bool{}
	err := eachLine(content, func(line string) error {
		verifier, err := note.NewVerifier(line)
		if err != nil {
			return errors.New("this is not a public key of tidelock audit keygen")
		}
		if !seen[line] {
			seen[line] = true
			list = append(list, verifier)
		}
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errors.New("there is no public key")
	}
	return note.VerifierList(list...), err
}

func eachLine(content []byte, fn func(line string) error) error {
	number := 0
	for line := range bytes.Lines(content) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if err := fn(string(line)); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return nil
}

// KeyFile is a file of private keys. It is read for each signature, so that keys are rotated by changing it.
type KeyFile string

// Keys reads the file.
func (f KeyFile) Keys() (*Keys, error) {
	content, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("keys of the audit log: %w", err)
	}
	keys, err := ParseKeys(content)
	if err != nil {
		return nil, fmt.Errorf("keys of the audit log: %s: %w", string(f), err)
	}
	return keys, nil
}

// EnsureKeyFile makes the file with a new key, for its owner only, unless it is there. A crash leaves the whole file or
// none. Only one process may call it at a time.
func EnsureKeyFile(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	private, _, err := GenerateKey(DefaultKeyName)
	if err != nil {
		return err
	}
	return WriteKeyFile(path, private)
}

// WriteKeyFile writes a private key to a new file that only its owner may read.
func WriteKeyFile(path, private string) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".audit-key-*")
	if err != nil {
		return fmt.Errorf("writing a key of the audit log: %w", err)
	}
	_, err = file.WriteString(private + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		// Not a rename, which would take the place of a key that is there.
		err = os.Link(file.Name(), path)
	}
	if err = errors.Join(err, os.Remove(file.Name())); err != nil {
		return fmt.Errorf("writing a key of the audit log: %w", err)
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes a new name in a directory outlive the power.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
