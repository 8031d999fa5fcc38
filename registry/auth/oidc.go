package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/tidelock/tidelock/registry/domain"
)

// OIDCIssuer is an issuer of OpenID Connect whose ID tokens the registry takes as passwords and bearer tokens.
type OIDCIssuer struct {
	// URL is what tokens have as iss, and where discovery begins.
	URL string
	// Audience is what tokens must be for; Service by default.
	Audience string
	// UsernameClaim is the claim that names the user, "sub" by default. Of "email", only a verified one counts.
	// GroupsClaim has the user's groups, "groups" by default.
	UsernameClaim, GroupsClaim string
	// UsernamePrefix and GroupsPrefix stand before the names, so that they are nobody else's; the URL and "#" by default.
	UsernamePrefix, GroupsPrefix string
	// CAFile holds the CA of the issuer's certificate, PEM; the system's without it.
	CAFile string
}

// ParseOIDCIssuer reads "https://issuer#name=value&name=value" with the names audience, username-claim, username-prefix,
// groups-claim, groups-prefix and ca-file.
func ParseOIDCIssuer(text string) (OIDCIssuer, error) {
	parsed, err := url.Parse(text)
	if err != nil {
		return OIDCIssuer{}, fmt.Errorf("%q is no URL", text)
	}
	settings, err := url.ParseQuery(parsed.EscapedFragment())
	if err != nil {
		return OIDCIssuer{}, fmt.Errorf("the settings behind # are not name=value, joined by &")
	}
	parsed.Fragment, parsed.RawFragment = "", ""
	if parsed.Host == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.Scheme != "https" && (parsed.Scheme != "http" || !isLoopback(parsed.Hostname())) {
		return OIDCIssuer{}, fmt.Errorf("%q is not https://issuer", parsed.Redacted())
	}
	issuer := OIDCIssuer{URL: parsed.String(), Audience: Service, UsernameClaim: "sub", GroupsClaim: "groups"}
	issuer.UsernamePrefix, issuer.GroupsPrefix = issuer.URL+"#", issuer.URL+"#"
	fields := map[string]*string{
		"audience": &issuer.Audience, "username-claim": &issuer.UsernameClaim, "groups-claim": &issuer.GroupsClaim,
		"username-prefix": &issuer.UsernamePrefix, "groups-prefix": &issuer.GroupsPrefix, "ca-file": &issuer.CAFile,
	}
	for name, values := range settings {
		field, ok := fields[name]
		switch {
		case !ok:
			return issuer, fmt.Errorf("there is no setting %q of an issuer", name)
		case len(values) != 1 || values[0] == "":
			return issuer, fmt.Errorf("%s needs one value", name)
		}
		*field = values[0]
	}
	if isSystem(issuer.UsernamePrefix) || isSystem(issuer.GroupsPrefix) {
		return issuer, errors.New("system: is the prefix of Kubernetes' own names")
	}
	return issuer, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// Limits of talking to an issuer.
const (
	issuerTimeout = 10 * time.Second
	// discoverAgain is how long after a failure the issuer is not asked anew.
	discoverAgain = 5 * time.Second
)

// oidcIssuer verifies the tokens of an issuer. It gets to know the issuer with the first of them, so that the registry
// starts without it.
type oidcIssuer struct {
	OIDCIssuer
	http *http.Client
	now  func() time.Time

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier
	failed   time.Time
	failure  error
}

func newOIDCIssuer(issuer OIDCIssuer, now func() time.Time) (*oidcIssuer, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: issuerTimeout}).DialContext,
		TLSHandshakeTimeout: issuerTimeout, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
	}
	if issuer.CAFile != "" {
		pem, err := os.ReadFile(issuer.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA of the issuer %s: %w", issuer.URL, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA of the issuer %s: %s holds no certificate", issuer.URL, issuer.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &oidcIssuer{OIDCIssuer: issuer, http: &http.Client{Transport: transport, Timeout: issuerTimeout}, now: now}, nil
}

// discover returns what verifies the issuer's tokens.
func (i *oidcIssuer) discover(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.verifier != nil {
		return i.verifier, nil
	}
	if i.failure != nil && i.now().Sub(i.failed) < discoverAgain {
		return nil, i.failure
	}
	// The keys are fetched in this context for as long as the process lives.
	provider, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), i.http), i.URL)
	if err != nil {
		i.failed, i.failure = i.now(), err
		return nil, err
	}
	i.verifier = provider.Verifier(&oidc.Config{ClientID: i.Audience, Now: i.now})
	return i.verifier, nil
}

// verify finds the subject of a token.
func (i *oidcIssuer) verify(ctx context.Context, text string) (Subject, error) {
	verifier, err := i.discover(ctx)
	if err != nil {
		return Subject{}, i.unavailable(err)
	}
	token, err := verifier.Verify(oidc.ClientContext(ctx, i.http), text)
	var expired *oidc.TokenExpiredError
	var unreachable *url.Error
	switch {
	case errors.As(err, &expired):
		return Subject{}, domain.Errorf(domain.CodeUnauthorized, "the token has expired; get another one from %s", i.URL)
	case errors.As(err, &unreachable), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Subject{}, i.unavailable(err)
	case err != nil:
		return Subject{}, domain.Errorf(domain.CodeUnauthorized, "the token is not a valid one of %s for %s", i.URL, i.Audience)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil {
		return Subject{}, wrongToken()
	}
	return i.subject(token, claims)
}

func (i *oidcIssuer) subject(token *oidc.IDToken, claims map[string]any) (Subject, error) {
	name, _ := claims[i.UsernameClaim].(string)
	if name == "" {
		return Subject{}, domain.Errorf(domain.CodeUnauthorized, "the token has no claim %s that names its user", i.UsernameClaim)
	}
	if verified, ok := claims["email_verified"].(bool); i.UsernameClaim == "email" && (!ok || !verified) {
		return Subject{}, domain.Errorf(domain.CodeUnauthorized, "the e-mail address in the token is not verified")
	}
	name = i.UsernamePrefix + name
	subject := Subject{Kind: domain.CallerOIDC, Name: name, User: name, Expires: token.Expiry}
	subject.TokenID, _ = claims["jti"].(string)
	switch groups := claims[i.GroupsClaim].(type) {
	case string:
		subject.Groups = []string{i.GroupsPrefix + groups}
	case []any:
		for _, group := range groups {
			if group, ok := group.(string); ok {
				subject.Groups = append(subject.Groups, i.GroupsPrefix+group)
			}
		}
	}
	// A prefix may end in the middle of "system:".
	if isSystem(name) || slices.ContainsFunc(subject.Groups, isSystem) {
		return Subject{}, domain.Errorf(domain.CodeUnauthorized, "the token names somebody of Kubernetes' own")
	}
	return subject, nil
}

func (i *oidcIssuer) unavailable(err error) error {
	e := domain.Unavailable(err)
	e.Message = "the registry cannot check the token now: its issuer does not answer; try again"
	return e
}
