package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/tidelock/tidelock/registry/domain"
)

// The costs of argon2id, one of the sets that OWASP recommends: about 25 ms and 19 MiB a check.
const (
	argonTime    = 2
	argonMemory  = 19 * 1024 // KiB
	argonThreads = 1
	argonLength  = 32
)

const (
	// passwordTTL is how long a checked password is taken on the strength of its keyed hash.
	passwordTTL = time.Minute
	// passwordSlots bounds the checks at once, and with them the memory and CPU that a flood of guesses can take.
	passwordSlots = 2
	// passwordWait bounds how long a request waits for a slot.
	passwordWait = 5 * time.Second
)

// passwordHash is a salted argon2id hash.
type passwordHash struct {
	salt [16]byte
	sum  [argonLength]byte
}

// noPassword is the hash of those who have none: nothing hashes to it.
var noPassword passwordHash

func hashPassword(password []byte, salt [16]byte) (passwordHash, error) {
	h := passwordHash{salt: salt}
	if len(password) == 0 {
		return h, errors.New("the password is empty")
	}
	copy(h.sum[:], h.derive(password))
	return h, nil
}

// randomSalt never fails: the process ends if the system has no randomness.
func randomSalt() (salt [16]byte) {
	_, _ = rand.Read(salt[:])
	return salt
}

// saltOf is the salt that all replicas of an installation have for the password that they read from a file; without the
// installation's name it is a random one.
func saltOf(installation string) [16]byte {
	if installation == "" {
		return randomSalt()
	}
	sum := sha256.Sum256([]byte("tidelock admin password\x00" + installation))
	return [16]byte(sum[:16])
}

func (h passwordHash) derive(password []byte) []byte {
	return argon2.IDKey(password, h.salt[:], argonTime, argonMemory, argonThreads, argonLength)
}

// passwordFormat is the PHC string format, with the costs of this package.
var passwordFormat = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$", argon2.Version, argonMemory, argonTime, argonThreads)

// HashPassword makes what is stored of a user's password.
func HashPassword(password string) (string, error) {
	h, err := hashPassword([]byte(password), randomSalt())
	if err != nil {
		return "", err
	}
	return passwordFormat + base64.RawStdEncoding.EncodeToString(h.salt[:]) + "$" + base64.RawStdEncoding.EncodeToString(h.sum[:]), nil
}

// parsePasswordHash reads what HashPassword made. The error holds nothing of it.
func parsePasswordHash(text string) (h passwordHash, err error) {
	values, ok := strings.CutPrefix(text, passwordFormat)
	salt, sum, _ := strings.Cut(values, "$")
	saltBytes, saltErr := base64.RawStdEncoding.DecodeString(salt)
	sumBytes, sumErr := base64.RawStdEncoding.DecodeString(sum)
	if !ok || saltErr != nil || sumErr != nil || len(saltBytes) != len(h.salt) || len(sumBytes) != len(h.sum) {
		return h, errors.New("a stored password hash cannot be read")
	}
	copy(h.salt[:], saltBytes)
	copy(h.sum[:], sumBytes)
	return h, nil
}

// passwordChecker checks passwords and remembers for a short while which were right, so that not each request of a
// client pays for argon2id. It remembers only keyed hashes, under a key that never leaves the process.
type passwordChecker struct {
	key   [32]byte
	now   func() time.Time
	slots chan struct{}

	mu    sync.Mutex
	right map[[sha256.Size]byte]time.Time // until when
}

func newPasswordChecker(now func() time.Time) *passwordChecker {
	c := &passwordChecker{now: now, slots: make(chan struct{}, passwordSlots), right: map[[sha256.Size]byte]time.Time{}}
	_, _ = rand.Read(c.key[:])
	return c
}

// check reports whether the password has the hash and the account is known. It takes as long for an unknown account.
func (c *passwordChecker) check(ctx context.Context, name, password string, hash passwordHash, known bool) (bool, error) {
	id := c.identify(name, password, hash)
	if c.remembered(id) {
		return true, nil
	}
	wait, cancel := context.WithTimeout(ctx, passwordWait)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-wait.Done():
		return false, domain.Errorf(domain.CodeTooManyRequests, "too many logins at once; try again")
	}
	// A client's first requests come together: the first of them has done the work for the others.
	if c.remembered(id) {
		return true, nil
	}
	same := subtle.ConstantTimeCompare(hash.derive([]byte(password)), hash.sum[:]) == 1
	if !same || !known {
		return false, nil
	}
	c.remember(id)
	return true, nil
}

// identify makes the key of a credential in the cache. The stored hash is part of it, so that a changed password is
// forgotten at once.
func (c *passwordChecker) identify(name, password string, hash passwordHash) (id [sha256.Size]byte) {
	h := hmac.New(sha256.New, c.key[:])
	h.Write(hash.salt[:])
	h.Write(hash.sum[:])
	nameSum := sha256.Sum256([]byte(name))
	h.Write(nameSum[:])
	h.Write([]byte(password))
	h.Sum(id[:0])
	return id
}

func (c *passwordChecker) remembered(id [sha256.Size]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.right[id]
	return ok && c.now().Before(until)
}

func (c *passwordChecker) remember(id [sha256.Size]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for old, until := range c.right {
		if !now.Before(until) {
			delete(c.right, old)
		}
	}
	c.right[id] = now.Add(passwordTTL)
}
