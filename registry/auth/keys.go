package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// keyLifetime is how long a key signs before the next one is made.
	keyLifetime = 30 * 24 * time.Hour
	// keyReload is how often an unknown key may make a process read all keys again.
	keyReload = time.Second
)

// algorithms are the signatures that tokens may have.
var algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.EdDSA}

// signingKey is a key that signs tokens or verifies older ones.
type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
	// secret is known to whoever has the private key, and to nobody else.
	secret    []byte
	createdAt time.Time
}

// public is the key as clients may know it.
func (k signingKey) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(k.algorithm), Use: "sig"}
}

// newSigningKey makes a signingKey of a private key of one of the algorithms. Its id is the RFC 7638 thumbprint.
func newSigningKey(private any, createdAt time.Time) (signingKey, error) {
	key := signingKey{createdAt: createdAt}
	switch p := private.(type) {
	case *ecdsa.PrivateKey:
		if p.Curve != elliptic.P256() {
			return key, errors.New("of the ECDSA keys only those on P-256 are supported")
		}
		key.algorithm, key.private = jose.ES256, p
	case ed25519.PrivateKey:
		key.algorithm, key.private = jose.EdDSA, p
	default:
		return key, fmt.Errorf("keys of the type %T are not supported; use ECDSA on P-256, or Ed25519", private)
	}
	thumbprint, err := (&jose.JSONWebKey{Key: key.private.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return key, err
	}
	key.id = base64.RawURLEncoding.EncodeToString(thumbprint)
	key.secret, err = x509.MarshalPKCS8PrivateKey(private)
	return key, err
}

// parseKeyFile reads private keys in PEM: the first signs, all of them verify.
func parseKeyFile(content []byte) (keys []signingKey, err error) {
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			break
		}
		var private any
		if block.Type == "EC PRIVATE KEY" {
			private, err = x509.ParseECPrivateKey(block.Bytes)
		} else {
			private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		}
		if err != nil {
			// The parser's errors may quote what it read.
			return nil, fmt.Errorf("the PEM block %d is no private key", len(keys)+1)
		}
		key, err := newSigningKey(private, time.Time{})
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 || len(bytes.TrimSpace(content)) > 0 {
		return nil, errors.New("private keys in PEM are needed, and nothing else")
	}
	return keys, nil
}

// keyRing has the keys of tokens: those of a file, or those of the database, where one is made when there is none or it
// is old.
type keyRing struct {
	file      *secretFile[[]signingKey]
	directory *directory
	now       func() time.Time
	// verifies is how long a key verifies after another has replaced it.
	verifies time.Duration

	mu      sync.Mutex
	keys    []signingKey // the newest first
	version int64
	read    time.Time
}

func newKeyRing(path string, directory *directory, now func() time.Time, verifies time.Duration, logger *slog.Logger) (*keyRing, error) {
	ring := &keyRing{directory: directory, now: now, verifies: verifies}
	if path == "" {
		return ring, nil
	}
	ring.file = newSecretFile(path, logger, parseKeyFile)
	_, err := ring.file.value()
	return ring, err
}

// all returns the keys, the one that signs first. With again they are read again, unless that was just done.
func (r *keyRing) all(ctx context.Context, again bool) ([]signingKey, error) {
	if r.file != nil {
		keys, err := r.file.value()
		if err != nil {
			return nil, domain.Unavailable(err)
		}
		return keys, nil
	}
	if r.directory == nil {
		return nil, domain.Unavailable(errors.New("there is no database for the keys of tokens"))
	}
	version, err := r.directory.current(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if !r.read.IsZero() && r.version == version && (!again || now.Sub(r.read) < keyReload) {
		return r.keys, nil
	}
	stored, err := r.directory.source.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]signingKey, 0, len(stored))
	for _, s := range stored {
		private, err := x509.ParsePKCS8PrivateKey(s.Private)
		if err != nil {
			return nil, domain.Unavailable(fmt.Errorf("signing key %s cannot be read", s.ID))
		}
		key, err := newSigningKey(private, s.CreatedAt)
		if err != nil {
			return nil, domain.Unavailable(fmt.Errorf("signing key %s: %w", s.ID, err))
		}
		keys = append(keys, key)
	}
	r.keys, r.version, r.read = keys, version, now
	return keys, nil
}

// signer returns the key that signs now.
func (r *keyRing) signer(ctx context.Context) (signingKey, error) {
	keys, err := r.all(ctx, false)
	if err != nil {
		return signingKey{}, err
	}
	if r.file == nil && (len(keys) == 0 || r.now().Sub(keys[0].createdAt) >= keyLifetime) {
		if err := r.rotate(ctx, domain.System, r.now().Add(-keyLifetime)); err != nil {
			return signingKey{}, err
		}
		if keys, err = r.all(ctx, false); err != nil {
			return signingKey{}, err
		}
	}
	if len(keys) == 0 {
		return signingKey{}, domain.Unavailable(errors.New("there is no key to sign tokens with"))
	}
	return keys[0], nil
}

// rotate makes a key in the database, unless there is one that was made after the time given.
func (r *keyRing) rotate(ctx context.Context, caller domain.Caller, unlessAfter time.Time) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return domain.Unavailable(err)
	}
	key, err := newSigningKey(private, r.now())
	if err != nil {
		return domain.Unavailable(err)
	}
	stored := domain.SigningKey{ID: key.id, Private: key.secret}
	err = r.directory.source.AddSigningKey(ctx, caller, stored, unlessAfter, r.now().Add(-r.verifies))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read = time.Time{}
	return err
}

// find returns the key with an id; false if there is none.
func (r *keyRing) find(ctx context.Context, id string) (signingKey, bool, error) {
	for _, again := range []bool{false, true} {
		keys, err := r.all(ctx, again)
		if err != nil {
			return signingKey{}, false, err
		}
		for _, key := range keys {
			if key.id == id {
				return key, true, nil
			}
		}
	}
	return signingKey{}, false, nil
}

// Keys are the public keys of the tokens, as a JSON Web Key Set (RFC 7517).
func (a *Authenticator) Keys(ctx context.Context) (jose.JSONWebKeySet, error) {
	if _, err := a.keys.signer(ctx); err != nil {
		return jose.JSONWebKeySet{}, err
	}
	keys, err := a.keys.all(ctx, false)
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range keys {
		set.Keys = append(set.Keys, key.public())
	}
	return set, err
}

// SigningKeys lists the keys of tokens, the one that signs first, without what is secret.
func (a *Authenticator) SigningKeys(ctx context.Context) ([]domain.SigningKey, error) {
	keys, err := a.keys.all(ctx, true)
	list := []domain.SigningKey{}
	for _, key := range keys {
		list = append(list, domain.SigningKey{ID: key.id, CreatedAt: key.createdAt})
	}
	return list, err
}

// RotateSigningKey makes a new key, which signs from now on; the others go on to verify. CONFLICT if a file has the keys.
func (a *Authenticator) RotateSigningKey(ctx context.Context, caller domain.Caller) error {
	if a.keys.file != nil || a.directory == nil {
		return domain.Errorf(domain.CodeConflict, "the keys are in a file; put another one at its beginning")
	}
	return a.keys.rotate(ctx, caller, a.now())
}
