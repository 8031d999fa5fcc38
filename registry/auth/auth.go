// Package auth finds out who sends a request and says what they may do: identities, credentials and the one permission
// table.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// AdminName is the name of the account that is a superuser with full access.
const AdminName = "admin"

// OperatorName is the name of the operator's identity, and OperatorToken names its credential.
const (
	OperatorName  = "operator"
	OperatorToken = "operator-token"
)

// Challenge is the WWW-Authenticate header of a 401 answer.
const Challenge = `Basic realm="Tidelock"`

// Identity is an authenticated caller with its role.
type Identity struct {
	domain.Caller
	Role Role
}

// Options are the settings of an Authenticator.
type Options struct {
	// AdminPasswordFile holds the password of the account "admin"; a line break at its end does not count. Without a
	// file nobody can log in as admin.
	AdminPasswordFile string
	// OperatorTokenFile holds the operator's bearer token, at least MinToken bytes. Without a file no operator is let in.
	OperatorTokenFile string
	// TrustedProxies are the addresses whose X-Forwarded-For header counts.
	TrustedProxies []netip.Prefix
	// Logger is slog.Default by default.
	Logger *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// Authenticator finds the identity of a request. It is safe for concurrent use.
type Authenticator struct {
	admin     *secretFile[passwordHash]
	operator  *secretFile[[sha256.Size]byte]
	passwords *passwordChecker
	proxies   []netip.Prefix
}

// New makes an Authenticator. It reads both files, so that a wrong path or an empty file is an error at start; later
// it reads them again when they change.
func New(options Options) (*Authenticator, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	a := &Authenticator{passwords: newPasswordChecker(options.Now), proxies: options.TrustedProxies}
	if options.AdminPasswordFile != "" {
		a.admin = newSecretFile(options.AdminPasswordFile, options.Logger, hashPassword)
		if _, err := a.admin.value(); err != nil {
			return nil, err
		}
	}
	if options.OperatorTokenFile != "" {
		a.operator = newSecretFile(options.OperatorTokenFile, options.Logger, hashToken)
		if _, err := a.operator.value(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Authenticate returns the identity of a request, the anonymous one if it has no Authorization header. Wrong
// credentials are never anonymous: they give a *domain.Error with code UNAUTHORIZED. TOOMANYREQUESTS means that too many
// passwords wait to be checked, UNAVAILABLE that the credentials cannot be read now.
func (a *Authenticator) Authenticate(r *http.Request) (Identity, error) {
	address := clientAddress(r, a.proxies)
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return Identity{Caller: domain.Caller{Kind: domain.CallerAnonymous, Address: address}, Role: RoleAnonymous}, nil
	}
	if len(headers) > 1 {
		return Identity{}, wrongCredentials()
	}
	scheme, credentials, _ := strings.Cut(headers[0], " ")
	var id Identity
	var err error
	switch {
	case strings.EqualFold(scheme, "Basic"):
		id, err = a.basic(r)
	case strings.EqualFold(scheme, "Bearer"):
		id, err = a.bearer(strings.TrimSpace(credentials))
	default:
		err = wrongCredentials()
	}
	if err != nil {
		return Identity{}, err
	}
	id.Address = address
	return id, nil
}

func (a *Authenticator) basic(r *http.Request) (Identity, error) {
	name, password, ok := r.BasicAuth()
	if !ok || a.admin == nil {
		return Identity{}, wrongCredentials()
	}
	hash, err := a.admin.value()
	if err != nil {
		return Identity{}, domain.Unavailable(err)
	}
	// An unknown name costs as much as a wrong password, so that the time tells nothing about which names exist.
	known := subtle.ConstantTimeCompare([]byte(name), []byte(AdminName)) == 1
	right, err := a.passwords.check(r.Context(), name, password, hash, known)
	if err != nil {
		return Identity{}, err
	}
	if !right {
		return Identity{}, wrongCredentials()
	}
	return Identity{Caller: domain.Caller{Name: AdminName, Kind: domain.CallerUser}, Role: RoleSuperuser}, nil
}

func (a *Authenticator) bearer(token string) (Identity, error) {
	if a.operator == nil {
		return Identity{}, wrongCredentials()
	}
	want, err := a.operator.value()
	if err != nil {
		return Identity{}, domain.Unavailable(err)
	}
	got := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		return Identity{}, wrongCredentials()
	}
	return Identity{
		Caller: domain.Caller{Name: OperatorName, Kind: domain.CallerOperator, TokenID: OperatorToken},
		Role:   RoleOperator,
	}, nil
}

func wrongCredentials() error {
	return domain.Errorf(domain.CodeUnauthorized, "the credentials are wrong")
}
