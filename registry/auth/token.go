package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tidelock/tidelock/registry/domain"
)

// Names in tokens and challenges.
const (
	// Service is the name of the registry in challenges and tokens. The keys tell registries apart.
	Service = "tidelock"
	// audienceRefresh is in place of Service where a token only serves to get others.
	audienceRefresh = "tidelock-refresh"
	// tokenPath is where tokens are had.
	tokenPath = "/v2/auth"
)

const (
	// DefaultTokenLifetime is how long an access token is good for, unless the settings say otherwise.
	DefaultTokenLifetime = 5 * time.Minute
	// refreshLifetime is how long a refresh token is good for.
	refreshLifetime = 30 * 24 * time.Hour
	// leeway is by how much the clocks of replicas may differ.
	leeway = 10 * time.Second
)

// SecretPrefix is how the tokens of robots and users begin, so that people and scanners know them.
const SecretPrefix = "tdl_"

// NewSecret makes the token of a robot or user: 256 random bits. The hash is what is stored.
func NewSecret() (secret string, hash []byte) {
	var random [32]byte
	// It never fails: the process ends if the system has no randomness.
	_, _ = rand.Read(random[:])
	secret = SecretPrefix + hex.EncodeToString(random[:])
	sum := sha256.Sum256([]byte(secret))
	return secret, sum[:]
}

// claims is what a token says beside the registered claims of RFC 7519.
type claims struct {
	jwt.Claims
	// Kind is whose name the subject is.
	Kind domain.CallerKind `json:"kind"`
	// Account and Epoch are of accounts in the database.
	Account int64 `json:"account,omitempty"`
	Epoch   int64 `json:"epoch,omitempty"`
	// Password binds a token of admin to the password.
	Password string `json:"password,omitempty"`
	// External is who the subject is to another authority.
	External *subjectClaims `json:"external,omitempty"`
	// Credential is the id of the token that the client came with.
	Credential string   `json:"credential,omitempty"`
	Access     []Access `json:"access"`
}

// TokenRequest is what a client asks the token endpoint for.
type TokenRequest struct {
	// Scopes are as the client wrote them.
	Scopes []string
	// Refresh asks for a refresh token too.
	Refresh bool
}

// TokenAnswer is what the token endpoint gives.
type TokenAnswer struct {
	Token string
	// Scope is what was granted, which may be less than was asked for.
	Scope     string
	ExpiresIn time.Duration
	IssuedAt  time.Time
	// RefreshToken is empty unless asked for, for anonymous callers, and for those whom another authority knows.
	RefreshToken string
}

// Issue makes a token for a caller with as much of the scopes as the caller may have.
func (a *Authenticator) Issue(ctx context.Context, id Identity, request TokenRequest) (TokenAnswer, error) {
	access, err := a.grant(ctx, id, parseScopes(request.Scopes))
	if err != nil {
		return TokenAnswer{}, err
	}
	key, err := a.keys.signer(ctx)
	if err != nil {
		return TokenAnswer{}, err
	}
	answer := TokenAnswer{Scope: formatScopes(access), ExpiresIn: a.tokenLifetime, IssuedAt: a.now().UTC().Truncate(time.Second)}
	if id.Subject != nil {
		answer.ExpiresIn = min(answer.ExpiresIn, externalLifetime, id.Subject.Expires.Sub(answer.IssuedAt))
	}
	if answer.Token, err = a.sign(key, id, Service, access, answer.IssuedAt, answer.ExpiresIn); err != nil {
		return TokenAnswer{}, err
	}
	if request.Refresh && id.Role != RoleAnonymous && id.Subject == nil {
		answer.RefreshToken, err = a.sign(key, id, audienceRefresh, []Access{}, answer.IssuedAt, refreshLifetime)
	}
	return answer, err
}

func (a *Authenticator) sign(key signingKey, id Identity, audience string, access []Access, at time.Time, lifetime time.Duration) (string, error) {
	var random [16]byte
	_, _ = rand.Read(random[:])
	c := claims{
		Claims: jwt.Claims{
			ID: hex.EncodeToString(random[:]), Issuer: Service, Subject: id.Name, Audience: jwt.Audience{audience},
			IssuedAt: jwt.NewNumericDate(at), NotBefore: jwt.NewNumericDate(at), Expiry: jwt.NewNumericDate(at.Add(lifetime)),
		},
		Kind: id.Kind, Account: id.Account, Epoch: id.Epoch, Credential: id.TokenID, Access: access,
	}
	if s := id.Subject; s != nil {
		c.External = &subjectClaims{User: s.User, UID: s.UID, Groups: s.Groups, Extra: s.Extra}
	}
	if id.Role == RoleSuperuser && id.Account == 0 {
		var err error
		if c.Password, err = a.passwordMark(key); err != nil {
			return "", err
		}
	}
	options := (&jose.SignerOptions{}).WithType("JWT")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.algorithm, Key: jose.JSONWebKey{Key: key.private, KeyID: key.id}}, options)
	if err != nil {
		return "", domain.Unavailable(err)
	}
	token, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		return "", domain.Unavailable(err)
	}
	return token, nil
}

// passwordMark tells whether admin's password is still the one under which a token was made. Nobody can guess the
// password from it who does not have the key.
func (a *Authenticator) passwordMark(key signingKey) (string, error) {
	if a.admin == nil {
		return "", wrongCredentials()
	}
	hash, err := a.admin.value()
	if err != nil {
		return "", domain.Unavailable(err)
	}
	mac := hmac.New(sha256.New, key.secret)
	mac.Write(hash.sum[:])
	return hex.EncodeToString(mac.Sum(nil)[:16]), nil
}

// Refresh returns the identity of a refresh token, from an address.
func (a *Authenticator) Refresh(ctx context.Context, token, address string) (Identity, error) {
	id, err := a.fromToken(ctx, token, audienceRefresh)
	if err != nil {
		return Identity{}, err
	}
	id.Scopes, id.Address = nil, address
	return a.rank(ctx, id)
}

// fromToken returns the identity of a token that was issued for an audience, with the token's scopes. Signature and time
// need no look-up; whether the account's epoch is still the token's is known from the directory.
func (a *Authenticator) fromToken(ctx context.Context, text, audience string) (Identity, error) {
	c, key, err := a.verify(ctx, text, audience)
	if err != nil {
		return Identity{}, err
	}
	scopes := slices.Clip(c.Access)
	if scopes == nil {
		scopes = []Access{}
	}
	switch {
	case c.Kind == domain.CallerAnonymous:
		return Identity{Caller: domain.Caller{Kind: domain.CallerAnonymous}, Role: RoleAnonymous, Scopes: scopes}, nil
	case c.External != nil:
		return a.fromSubject(c, scopes)
	case c.Account != 0:
		p, err := a.directory.principal(ctx, principalKey{id: c.Account})
		if domain.CodeOf(err) == domain.CodeNotFound || (err == nil && p.Epoch != c.Epoch) {
			return Identity{}, domain.Errorf(domain.CodeUnauthorized, "the token is void: the rights of its account have changed")
		}
		if err != nil {
			return Identity{}, err
		}
		if err := a.checkGrant(ctx, p); err != nil {
			return Identity{}, err
		}
		p.TokenID = c.Credential
		id := identityOf(p)
		id.Scopes = scopes
		return id, nil
	case c.Kind == domain.CallerUser && c.Subject == AdminName:
		mark, err := a.passwordMark(key)
		if err != nil {
			return Identity{}, err
		}
		if !hmac.Equal([]byte(mark), []byte(c.Password)) {
			return Identity{}, wrongToken()
		}
		return Identity{Caller: domain.Caller{Name: AdminName, Kind: domain.CallerUser}, Role: RoleSuperuser, Scopes: scopes}, nil
	default:
		return Identity{}, wrongToken()
	}
}

// verify checks a token's signature, audience and time.
func (a *Authenticator) verify(ctx context.Context, text, audience string) (c claims, key signingKey, err error) {
	token, err := jwt.ParseSigned(text, algorithms)
	if err != nil || len(token.Headers) != 1 {
		return c, key, wrongToken()
	}
	key, found, err := a.keys.find(ctx, token.Headers[0].KeyID)
	if err != nil {
		return c, key, err
	}
	if !found || token.Headers[0].Algorithm != string(key.algorithm) || token.Claims(key.private.Public(), &c) != nil {
		return c, key, wrongToken()
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: Service, AnyAudience: jwt.Audience{audience}, Time: a.now()}, leeway)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return c, key, domain.Errorf(domain.CodeUnauthorized, "the token has expired; get another one from %s", tokenPath)
	case err != nil || c.Expiry == nil:
		return c, key, wrongToken()
	}
	return c, key, nil
}

func wrongToken() error { return domain.Errorf(domain.CodeUnauthorized, "the token is not valid") }

// looksLikeJWT tells tokens of the token endpoint from all other bearer tokens.
func looksLikeJWT(token string) bool { return strings.Count(token, ".") == 2 }

// BearerChallenge is the WWW-Authenticate header of a 401 answer of /v2 (RFC 6750): where to get a token, and for what.
// The base is where clients reach the registry, the scopes are those of Needed. The kind of error is empty for a request
// without credentials.
func BearerChallenge(base *url.URL, kind string, scopes ...string) string {
	challenge := `Bearer realm="` + base.JoinPath(tokenPath).String() + `",service="` + Service + `"`
	if scope := strings.TrimSpace(strings.Join(scopes, " ")); scope != "" {
		challenge += `,scope="` + scope + `"`
	}
	if kind != "" {
		challenge += `,error="` + kind + `"`
	}
	return challenge
}
