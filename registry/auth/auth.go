// Package auth finds out who sends a request and says what they may do: identities, credentials and the one permission
// table.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
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

// Challenge is the WWW-Authenticate header of a 401 answer of the management API and of the token endpoint.
const Challenge = `Basic realm="Tidelock"`

// Identity is an authenticated caller with its role and what it was given.
type Identity struct {
	domain.Caller
	// Role is RoleAnonymous, RoleAccount, RoleSuperuser, RoleLimitedSuperuser, RoleOperator or RoleExternal.
	Role Role
	// Readonly is how much a readonly superuser reads, empty for everybody else. It counts before everything else that the
	// caller is and was given.
	Readonly domain.ReadonlyAccess
	// Subject is an identity of another authority, as that knows it; nil for all others.
	Subject *Subject
	// Rights are what an account was given.
	Rights domain.Rights
	// Groups are those of who is not known by an account, but elsewhere.
	Groups []string
	// Scopes are what a token of the token endpoint is for; nil for any other credential, which is for everything.
	Scopes []Access
	// version is that of identities when an account was read.
	version int64
}

// Options are the settings of an Authenticator.
type Options struct {
	// AdminPasswordFile holds the password of the account "admin"; a line break at its end does not count. Without a
	// file nobody can log in as admin.
	AdminPasswordFile string
	// OperatorTokenFile holds the operator's bearer token, at least MinToken bytes. Without a file no operator is let in.
	OperatorTokenFile string
	// TokenKeyFile holds the private keys that sign tokens, in PEM; the first signs, all verify. Without it they are kept
	// with the accounts.
	TokenKeyFile string
	// TokenLifetime is how long tokens are good for, DefaultTokenLifetime by default.
	TokenLifetime time.Duration
	// Accounts are the users and robots; without them there are admin and the operator.
	Accounts Accounts
	// Cluster is the Kubernetes cluster whose identities are taken; nil for none.
	Cluster Cluster
	// OIDCIssuers are those whose tokens are taken. What their users may do, Cluster says.
	OIDCIssuers []OIDCIssuer
	// Superusers and ReadonlySuperusers are users of the database who administer the registry, and who read everything and
	// write nothing. Who is both is a readonly superuser.
	Superusers, ReadonlySuperusers []string
	// SuperusersFullAccess gives Superusers all that admin has. Else they manage users and read the log of everything, and
	// have in organizations what they were given there.
	SuperusersFullAccess bool
	// Installation names this registry. Replicas have the same name, so that they take each other's tokens of admin.
	Installation string
	// ExternalURL is where clients reach the registry; without it, where the request says.
	ExternalURL *url.URL
	// TrustedProxies are the addresses whose X-Forwarded-For, -Proto and -Host headers count.
	TrustedProxies []netip.Prefix
	// Logger is slog.Default by default.
	Logger *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

// Authenticator finds the identity of a request, and says what it may do. It is safe for concurrent use.
type Authenticator struct {
	admin         *secretFile[passwordHash]
	operator      *secretFile[[sha256.Size]byte]
	passwords     *passwordChecker
	throttle      *throttle
	directory     *directory
	cluster       Cluster
	issuers       map[string]*oidcIssuer
	keys          *keyRing
	tokenLifetime time.Duration
	uses          *uses
	standing      standing
	externalURL   *url.URL
	proxies       []netip.Prefix
	logger        *slog.Logger
	now           func() time.Time
}

// New makes an Authenticator. It reads all files, so that a wrong path or an empty file is an error at start; later
// it reads them again when they change.
func New(options Options) (*Authenticator, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.TokenLifetime == 0 {
		options.TokenLifetime = DefaultTokenLifetime
	}
	a := &Authenticator{
		passwords: newPasswordChecker(options.Now), throttle: newThrottle(options.Now), tokenLifetime: options.TokenLifetime,
		cluster: options.Cluster, issuers: map[string]*oidcIssuer{}, externalURL: options.ExternalURL, proxies: options.TrustedProxies, logger: options.Logger, now: options.Now,
		standing: newStanding(options),
	}
	for _, issuer := range options.OIDCIssuers {
		known, err := newOIDCIssuer(issuer, options.Now)
		if err != nil {
			return nil, err
		}
		a.issuers[issuer.URL] = known
	}
	if options.Accounts != nil {
		a.directory = newDirectory(options.Accounts, options.Now)
		a.uses = newUses(options.Accounts, options.Now)
	}
	var err error
	if a.keys, err = newKeyRing(options.TokenKeyFile, a.directory, options.Now, refreshLifetime+time.Hour, options.Logger); err != nil {
		return nil, err
	}
	if options.AdminPasswordFile != "" {
		a.admin = newSecretFile(options.AdminPasswordFile, options.Logger, func(password []byte) (passwordHash, error) {
			return hashPassword(password, saltOf(options.Installation))
		})
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

// Run records when tokens were used, until the context ends.
func (a *Authenticator) Run(ctx context.Context) {
	if a.uses != nil {
		a.uses.run(ctx, a.logger)
	}
}

// Authenticate returns the identity of a request, the anonymous one if it has no Authorization header. Wrong
// credentials are never anonymous: they give a *domain.Error with code UNAUTHORIZED. TOOMANYREQUESTS means that too many
// passwords wait to be checked, or that too many were wrong; UNAVAILABLE that the credentials cannot be read now.
func (a *Authenticator) Authenticate(r *http.Request) (Identity, error) {
	address := a.ClientAddress(r)
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return Identity{Caller: domain.Caller{Kind: domain.CallerAnonymous, Address: address}, Role: RoleAnonymous}, nil
	}
	if len(headers) > 1 {
		return Identity{}, wrongCredentials()
	}
	scheme, credentials, _ := strings.Cut(headers[0], " ")
	switch {
	case strings.EqualFold(scheme, "Basic"):
		name, password, ok := r.BasicAuth()
		if !ok {
			return Identity{}, wrongCredentials()
		}
		return a.Login(r.Context(), name, password, address)
	case strings.EqualFold(scheme, "Bearer"):
		return a.bearer(r.Context(), strings.TrimSpace(credentials), address)
	default:
		return Identity{}, wrongCredentials()
	}
}

// ClientAddress is the address of a request's client, without a port.
func (a *Authenticator) ClientAddress(r *http.Request) string { return clientAddress(r, a.proxies) }

// Login returns the identity of a name with a password or a token of that account, from an address. A token of another
// authority says by itself whose it is, whatever the name.
func (a *Authenticator) Login(ctx context.Context, name, password, address string) (Identity, error) {
	if id, foreign, err := a.external(ctx, password, address); err != nil {
		return Identity{}, err
	} else if foreign {
		return a.rank(ctx, id)
	}
	id, err := a.byToken(ctx, password, name)
	if domain.CodeOf(err) == domain.CodeUnauthorized {
		id, err = a.byPassword(ctx, name, password, address)
	}
	if err != nil {
		return Identity{}, err
	}
	id.Address = address
	return a.rank(ctx, id)
}

// byToken finds the account of a robot's or user's token. A name that is not empty must be the account's.
func (a *Authenticator) byToken(ctx context.Context, secret, name string) (Identity, error) {
	if a.directory == nil || !strings.HasPrefix(secret, SecretPrefix) {
		return Identity{}, wrongCredentials()
	}
	p, err := a.directory.principal(ctx, principalKey{hash: sha256.Sum256([]byte(secret))})
	if domain.CodeOf(err) == domain.CodeNotFound || (err == nil && name != "" && name != p.Name) {
		return Identity{}, wrongCredentials()
	}
	if err != nil {
		return Identity{}, err
	}
	if err := a.checkGrant(ctx, p); err != nil {
		return Identity{}, err
	}
	a.uses.add(p.TokenID)
	return identityOf(p), nil
}

// identityOf is an account as a caller.
func identityOf(p versioned) Identity {
	return Identity{
		Caller: domain.Caller{Name: p.Name, Kind: p.Kind, TokenID: p.TokenID, Account: p.ID, Epoch: p.Epoch},
		Role:   RoleAccount, Rights: p.Rights, version: p.version,
	}
}

// byPassword checks a password. Who comes with wrong ones again and again has to wait; a right one that was checked a
// short while ago never has to.
func (a *Authenticator) byPassword(ctx context.Context, name, password, address string) (Identity, error) {
	account := name
	if kind, possible := domain.AccountKind(name); !possible {
		account = ""
	} else if kind == domain.CallerRobot {
		password = "" // a robot has no password
	}
	id, hash, err := a.passwordOf(ctx, name)
	if err != nil {
		return Identity{}, err
	}
	// An unknown name costs as much as a wrong password, so that the time tells nothing about which names exist.
	known := id.Role != ""
	if known && a.passwords.remembered(a.passwords.identify(name, password, hash)) {
		return id, nil
	}
	if wait := a.throttle.wait(account, address); wait > 0 {
		refusal := domain.Errorf(domain.CodeTooManyRequests, "too many wrong passwords; try again later")
		refusal.RetryAfter = wait
		return Identity{}, refusal
	}
	right, err := a.passwords.check(ctx, name, password, hash, known)
	if err != nil {
		return Identity{}, err
	}
	if !right {
		a.throttle.failed(account, address)
		return Identity{}, a.failed(ctx, account, address)
	}
	a.throttle.succeeded(account, address)
	return id, nil
}

// passwordOf finds the account that logs in with a password, and the hash of that. Who has none is nobody, with a hash
// that no password has.
func (a *Authenticator) passwordOf(ctx context.Context, name string) (Identity, passwordHash, error) {
	if subtle.ConstantTimeCompare([]byte(name), []byte(AdminName)) == 1 && a.admin != nil {
		hash, err := a.admin.value()
		if err != nil {
			return Identity{}, hash, domain.Unavailable(err)
		}
		return Identity{Caller: domain.Caller{Name: AdminName, Kind: domain.CallerUser}, Role: RoleSuperuser}, hash, nil
	}
	if kind, possible := domain.AccountKind(name); a.directory == nil || !possible || kind != domain.CallerUser {
		return Identity{}, noPassword, nil
	}
	p, err := a.directory.principal(ctx, principalKey{kind: domain.CallerUser, name: name})
	if domain.CodeOf(err) == domain.CodeNotFound || (err == nil && p.PasswordHash == "") {
		return Identity{}, noPassword, nil
	}
	if err != nil {
		return Identity{}, noPassword, err
	}
	hash, err := parsePasswordHash(p.PasswordHash)
	if err != nil {
		return Identity{}, noPassword, domain.Unavailable(err)
	}
	return identityOf(p), hash, nil
}

// failed records wrong credentials, and is the answer to them. If they cannot be recorded it is UNAVAILABLE.
func (a *Authenticator) failed(ctx context.Context, account, address string) error {
	if a.directory != nil {
		if err := a.directory.source.LoginFailed(ctx, account, address); err != nil {
			return err
		}
	}
	return wrongCredentials()
}

// bearer finds the identity of a bearer token: the operator's, an account's, one of the token endpoint, or one of another
// authority.
func (a *Authenticator) bearer(ctx context.Context, token, address string) (id Identity, err error) {
	// The operator's token may look like any other.
	if id, err = a.operatorToken(token); err != nil {
		switch {
		case looksLikeJWT(token):
			var foreign bool
			if id, foreign, err = a.external(ctx, token, address); !foreign {
				id, err = a.fromToken(ctx, token, Service)
			}
		case strings.HasPrefix(token, SecretPrefix):
			id, err = a.byToken(ctx, token, "")
		}
	}
	if domain.CodeOf(err) == domain.CodeUnauthorized && !looksLikeJWT(token) {
		return Identity{}, a.failed(ctx, "", address)
	}
	if err != nil {
		return Identity{}, err
	}
	id.Address = address
	return a.rank(ctx, id)
}

func (a *Authenticator) operatorToken(token string) (Identity, error) {
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
