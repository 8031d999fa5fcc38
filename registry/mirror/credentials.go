package mirror

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// credentials are what the upstream takes at its registry: user and password, or a token.
type credentials struct {
	username, password string
	token              string
	// api are the Authorization headers that its API may take, in the order in which they are tried; none if there are no
	// credentials.
	api []string
}

// quayTokenUser is the user name under which Quay's registry takes the tokens of its API.
const quayTokenUser = "$oauthtoken"

func newCredentials(upstream domain.UpstreamType, secrets domain.MirrorSecrets) credentials {
	c := credentials{username: secrets.Username, password: secrets.Password}
	if secrets.Token != "" {
		c = credentials{token: secrets.Token}
	}
	header := c.header()
	switch {
	case header == "":
	case upstream == domain.UpstreamQuay && secrets.Token != "":
		c = credentials{username: quayTokenUser, password: secrets.Token, api: []string{header}}
	case upstream == domain.UpstreamQuay:
		// Quay's API takes tokens only, which people give as a password. It must not be asked with user and password first:
		// what it answers then is what is public.
		c.api = []string{"Bearer " + c.password, header}
	default:
		c.api = []string{header}
	}
	return c
}

func (c credentials) none() bool { return c.header() == "" }

// header is the Authorization header with the credentials themselves, empty if there are none.
func (c credentials) header() string {
	switch {
	case c.token != "":
		return "Bearer " + c.token
	case c.username != "" || c.password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.username+":"+c.password))
	}
	return ""
}

// tokens are the tokens that the upstream's realm gave out, and what the upstream said about how it is to be asked.
type tokens struct {
	mu sync.Mutex
	// realm and service are those of the upstream's challenge; basic is set if it wants the credentials themselves.
	realm   *url.URL
	service string
	basic   bool
	byScope map[string]*token
	// asked is set once the upstream was asked, by whoever has asking.
	asking sync.Mutex
	asked  bool
	// api is which of the credentials for the API is tried now.
	api int
}

// token is the token for a scope. Who asks for it has it for himself meanwhile.
type token struct {
	mu      sync.Mutex
	value   string
	expires time.Time
}

const (
	// maxTokens bounds the tokens that are remembered: the repositories that are worked on at once are fewer.
	maxTokens = 256
	// defaultLifetime is that of a token whose answer does not say (the Docker token specification).
	defaultLifetime = time.Minute
)

// of is the token of a scope, of which there may be no value yet.
func (t *tokens) of(scope string) *token {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byScope == nil || len(t.byScope) >= maxTokens {
		t.byScope = map[string]*token{}
	}
	found := t.byScope[scope]
	if found == nil {
		found = &token{}
		t.byScope[scope] = found
	}
	return found
}

// authorization is the Authorization header of a request, as far as it is known what the upstream wants.
func (c *client) authorization(ctx context.Context, r request) (string, error) {
	if r.scope == "" {
		return c.apiHeader(), nil
	}
	if err := c.ping(ctx); err != nil {
		return "", err
	}
	c.tokens.mu.Lock()
	realm, service, basic := c.tokens.realm, c.tokens.service, c.tokens.basic
	c.tokens.mu.Unlock()
	switch {
	case realm != nil:
		return c.bearer(ctx, realm, service, r.scope)
	case basic || c.credentials.token != "":
		return c.credentials.header(), nil
	}
	return "", nil
}

// ping asks the upstream's registry once what it wants, before many requests at once do.
func (c *client) ping(ctx context.Context) error {
	c.tokens.asking.Lock()
	defer c.tokens.asking.Unlock()
	if c.tokens.asked {
		return nil
	}
	r := request{method: http.MethodGet, target: "/v2/", scope: "ping"}
	address := *c.base
	address.Path = "/v2/"
	response, err := c.exchange(ctx, r.method, &address, nil, "", c.where(r))
	if err != nil {
		if isKind(err, kindUnreachable) {
			err = nil // the request itself is tried more often
		}
		return err
	}
	discard(response)
	if response.StatusCode == http.StatusUnauthorized {
		if _, err := c.challenged(r, response); err != nil {
			return err
		}
	}
	c.tokens.asked = true
	return nil
}

// challenged learns from a 401 what the upstream wants, and reports whether it is worth trying again.
func (c *client) challenged(r request, response *http.Response) (again bool, err error) {
	sent := response.Request.Header.Get("Authorization")
	if r.scope == "" {
		return c.nextAPIHeader(sent), nil
	}
	for _, challenge := range response.Header.Values("Www-Authenticate") {
		scheme, parameters := parseChallenge(challenge)
		switch {
		case strings.EqualFold(scheme, "Bearer") && parameters["realm"] != "":
			realm, err := c.checkRealm(parameters["realm"])
			if err != nil {
				return false, err
			}
			// The token that was used, if any, is not good any more.
			t := c.tokens.of(r.scope)
			t.mu.Lock()
			if sent == "Bearer "+t.value {
				t.value = ""
			}
			t.mu.Unlock()
			c.tokens.mu.Lock()
			defer c.tokens.mu.Unlock()
			c.tokens.realm, c.tokens.service, c.tokens.basic = realm, parameters["service"], false
			return true, nil
		case strings.EqualFold(scheme, "Basic"):
			c.tokens.mu.Lock()
			defer c.tokens.mu.Unlock()
			c.tokens.basic = true
			return sent == "" && !c.credentials.none(), nil
		}
	}
	return false, nil
}

// checkRealm checks where tokens are said to be had. Only the upstream itself says so, never a host that it redirects to.
// The credentials go to it: to another host only by https, and nowhere by http where the upstream speaks https.
func (c *client) checkRealm(text string) (*url.URL, error) {
	realm, err := url.Parse(text)
	if err != nil || realm.Host == "" || (realm.Scheme != "https" && realm.Scheme != "http") {
		return nil, failed(kindBroken, "%s names a realm for tokens that is no address", c.base.Host)
	}
	realm.User, realm.Fragment = nil, ""
	switch {
	case c.base.Scheme == "https" && realm.Scheme != "https":
		return nil, failed(kindRefused, "%s sends for tokens to %s by http, where everybody could read the credentials", c.base.Host, realm.Host)
	case !c.credentials.none() && realm.Scheme != "https" && !sameOrigin(realm, c.base):
		return nil, failed(kindRefused, "%s sends for tokens to another host, %s, by http, where everybody could read the credentials", c.base.Host, realm.Host)
	}
	return realm, nil
}

// bearer is the Authorization header with a token for a scope, which is got from the realm if need be.
func (c *client) bearer(ctx context.Context, realm *url.URL, service, scope string) (string, error) {
	t := c.tokens.of(scope)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value != "" && c.now().Before(t.expires) {
		return "Bearer " + t.value, nil
	}
	address := *realm
	query := address.Query()
	query.Set("scope", scope)
	if service != "" {
		query.Set("service", service)
	}
	address.RawQuery = query.Encode()
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := c.getToken(ctx, &address, &answer); err != nil {
		return "", err
	}
	t.value = answer.Token
	if t.value == "" {
		t.value = answer.AccessToken
	}
	if t.value == "" || strings.ContainsAny(t.value, "\r\n") {
		t.value = ""
		return "", failed(kindBroken, "the realm %s gives out no token", realm.Host)
	}
	lifetime := defaultLifetime
	if answer.ExpiresIn > 0 {
		lifetime = time.Duration(min(answer.ExpiresIn, 24*60*60)) * time.Second
	}
	t.expires = c.now().Add(lifetime * 9 / 10)
	return "Bearer " + t.value, nil
}

// getToken asks the realm. It follows no redirects: they would need the credentials.
func (c *client) getToken(ctx context.Context, address *url.URL, into any) error {
	where := "GET " + address.Host + address.Path
	for attempt := range maxAttempts {
		if attempt > 0 {
			if err := c.pause(ctx, attempt); err != nil {
				return err
			}
		}
		response, err := c.exchange(ctx, http.MethodGet, address, nil, c.credentials.header(), where)
		if isKind(err, kindUnreachable) && attempt+1 < maxAttempts {
			continue
		}
		if err != nil {
			return err
		}
		status := response.StatusCode
		if status == http.StatusOK {
			defer func() { _ = response.Body.Close() }()
			content, err := readBounded(response.Body, maxToken)
			if err != nil || json.Unmarshal(content, into) != nil {
				return failed(kindBroken, "%s: the realm's answer is no token", where)
			}
			return nil
		}
		discard(response)
		switch {
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			if c.credentials.none() {
				return failed(kindCredentials, "%s: the upstream's realm gives no token without credentials (%d)", where, status)
			}
			return failed(kindCredentials, "%s: the upstream's realm refused the credentials (%d)", where, status)
		case (status >= 500 || status == http.StatusTooManyRequests) && attempt+1 < maxAttempts:
		default:
			return failed(kindBroken, "%s: the upstream's realm answered %d", where, status)
		}
	}
	return failed(kindUnreachable, "%s: the upstream's realm does not answer", where)
}

// apiHeader is the Authorization header of requests to the upstream's API.
func (c *client) apiHeader() string {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	if len(c.credentials.api) == 0 {
		return ""
	}
	return c.credentials.api[c.tokens.api]
}

// nextAPIHeader goes on from the header that was refused to the next one, if there is one.
func (c *client) nextAPIHeader(refused string) bool {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	next := slices.Index(c.credentials.api, refused) + 1
	if next == 0 || next >= len(c.credentials.api) {
		return false
	}
	c.tokens.api = max(c.tokens.api, next)
	return true
}

// parseChallenge reads a challenge of a WWW-Authenticate header (RFC 9110, section 11.6.1).
func parseChallenge(text string) (scheme string, parameters map[string]string) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	parameters = map[string]string{}
	for rest != "" {
		name, behind, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		name = strings.ToLower(strings.Trim(name, " ,"))
		var value string
		if behind = strings.TrimLeft(behind, " "); strings.HasPrefix(behind, `"`) {
			value, rest = unquoteParameter(behind[1:])
		} else {
			value, rest, _ = strings.Cut(behind, ",")
			value = strings.TrimSpace(value)
		}
		parameters[name] = value
	}
	return scheme, parameters
}

// unquoteParameter reads a quoted string behind its first quote.
func unquoteParameter(text string) (value, rest string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), text[i+1:]
		case '\\':
			if i++; i < len(text) {
				b.WriteByte(text[i])
			}
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String(), ""
}
