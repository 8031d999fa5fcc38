package mirror

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/tidelock/tidelock/registry/domain"
)

// How long an upstream may take for what.
const (
	lookupTimeout    = 2 * time.Second
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 15 * time.Second
	headerTimeout    = time.Minute
	// idleTimeout is how long a body may bring nothing.
	idleTimeout = time.Minute
	// idleConnection is how long a connection is kept that nobody uses.
	idleConnection = 90 * time.Second
)

// Bounds of answers, in bytes.
const (
	maxHeader = 256 << 10
	maxToken  = 256 << 10
	maxPage   = 16 << 20
)

const (
	// maxRedirects is how often one request is sent elsewhere.
	maxRedirects = 5
	// maxAttempts is how often a request is tried that gets no answer, or one of 5xx.
	maxAttempts = 6
	// maxComplaints is how often a request is tried again because the upstream asked for it.
	maxComplaints = 10
)

// client sends requests to one upstream, and to where that sends it: with the mirror's credentials only where they belong.
// All of its connections are made to addresses that were checked.
type client struct {
	base        *url.URL
	networks    Networks
	budgets     *budgets
	credentials credentials
	tokens      tokens
	// upstream is for the upstream's own host, elsewhere for all others: what the mirror says of the upstream's
	// certificate says nothing of theirs.
	upstream, elsewhere *http.Transport
	proxy               func(*url.URL) (*url.URL, error)
	// slots are the transfers that may run at once.
	slots      chan struct{}
	now        func() time.Time
	retryPause time.Duration
}

// newClient makes a client for a mirror's source. The caller closes it.
func (e *Engine) newClient(source domain.MirrorSource, secrets domain.MirrorSecrets, concurrency int) (*client, error) {
	base, err := url.Parse(source.URL)
	if err != nil || base.Host == "" {
		return nil, failed(kindBroken, "the upstream's address is no URL")
	}
	base.Path, base.RawPath, base.User = "", "", nil
	c := &client{
		base: base, networks: e.Networks, budgets: e.budgets, credentials: newCredentials(source.Type, secrets), slots: make(chan struct{}, max(1, concurrency)), now: e.Now, retryPause: e.RetryPause,
	}
	if c.proxy, err = proxyFunc(source.Proxy, secrets); err != nil {
		return nil, err
	}
	own := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: source.InsecureSkipTLSVerify} //nolint:gosec // the mirror says so
	other := &tls.Config{MinVersion: tls.VersionTLS12}
	if source.CABundle != "" {
		own.RootCAs = x509.NewCertPool()
		if other.RootCAs, err = x509.SystemCertPool(); err != nil {
			other.RootCAs = x509.NewCertPool()
		}
		for _, pool := range []*x509.CertPool{own.RootCAs, other.RootCAs} {
			if !pool.AppendCertsFromPEM([]byte(source.CABundle)) {
				return nil, failed(kindBroken, "the CA bundle holds no certificate in PEM")
			}
		}
	}
	c.upstream, c.elsewhere = c.transport(own), c.transport(other)
	return c, nil
}

func (c *client) transport(config *tls.Config) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, ControlContext: c.networks.control}
	return &http.Transport{
		Proxy:           func(r *http.Request) (*url.URL, error) { return c.proxy(r.URL) },
		DialContext:     dialer.DialContext,
		TLSClientConfig: config, ForceAttemptHTTP2: true, TLSHandshakeTimeout: handshakeTimeout, ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout: idleConnection, MaxIdleConnsPerHost: cap(c.slots), MaxResponseHeaderBytes: maxHeader,
		DisableCompression: true, // blobs are what their digests say, and pages have a bound
		ReadBufferSize:     64 << 10,
	}
}

// proxyFunc finds the proxy of an address, as the environment variables of these names would, which do not count.
func proxyFunc(proxy domain.MirrorProxy, secrets domain.MirrorSecrets) (func(*url.URL) (*url.URL, error), error) {
	config := httpproxy.Config{NoProxy: proxy.NoProxy}
	for _, p := range []struct {
		from string
		to   *string
	}{{proxy.HTTP, &config.HTTPProxy}, {proxy.HTTPS, &config.HTTPSProxy}} {
		if p.from == "" {
			continue
		}
		u, err := url.Parse(p.from)
		if err != nil || u.Host == "" {
			return nil, failed(kindBroken, "a proxy's address is no URL")
		}
		if secrets.ProxyUsername != "" || secrets.ProxyPassword != "" {
			u.User = url.UserPassword(secrets.ProxyUsername, secrets.ProxyPassword)
		}
		*p.to = u.String()
	}
	return config.ProxyFunc(), nil
}

// close closes the connections.
func (c *client) close() {
	c.upstream.CloseIdleConnections()
	c.elsewhere.CloseIdleConnections()
}

// request is one request to the upstream.
type request struct {
	method string
	// target is a path with its query, escaped.
	target string
	header http.Header
	// scope is what a token must be good for; empty for requests to the upstream's API, which know no tokens of this kind.
	scope string
	// follow admits redirects to other hosts. Lists come from the upstream itself, or not at all.
	follow bool
}

// where names a request in errors.
func (c *client) where(r request) string {
	path, _, _ := strings.Cut(r.target, "?")
	return r.method + " " + c.base.Host + path
}

// send sends a request until there is an answer, and returns it if its status is one of 2xx. The caller closes its body.
func (c *client) send(ctx context.Context, r request) (*http.Response, error) {
	var last error
	complaints, challenges := 0, 0
	for attempt := 0; attempt < maxAttempts; {
		if attempt > 0 {
			if err := c.pause(ctx, attempt); err != nil {
				return nil, cmp.Or(last, err)
			}
		}
		response, err := c.once(ctx, r)
		if err != nil {
			if ctx.Err() != nil || !isKind(err, kindUnreachable) {
				return nil, err
			}
			last = err
			attempt++
			continue
		}
		status := response.StatusCode
		if status/100 == 2 {
			return response, nil
		}
		discard(response)
		_, said := retryAfter(response.Header, c.now())
		switch {
		case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && said:
			// once has told the budget, which waits.
			last = failed(kindLimited, "%s: the upstream asks again and again to be asked later (%d)", c.where(r), status)
			if complaints++; complaints > maxComplaints {
				return nil, last
			}
		case (status == http.StatusUnauthorized || (status == http.StatusForbidden && r.scope == "")) && challenges < 2 && sameOrigin(response.Request.URL, c.base):
			if again, err := c.challenged(r, response); err != nil || !again {
				return nil, cmp.Or(err, c.statusError(r, status))
			}
			challenges++
		case status >= 500 && status != http.StatusNotImplemented:
			last = failed(kindUnreachable, "%s: the upstream answered %d", c.where(r), status)
			attempt++
		default:
			return nil, c.statusError(r, status)
		}
	}
	return nil, last
}

// pause waits before a request is tried again.
func (c *client) pause(ctx context.Context, attempt int) error {
	pause := c.retryPause << (attempt - 1)
	return sleep(ctx, pause/2+rand.N(pause)) //nolint:gosec // spreads retries
}

// statusError says what a status means.
func (c *client) statusError(r request, status int) error {
	switch status {
	case http.StatusUnauthorized:
		if c.credentials.none() {
			return failed(kindCredentials, "%s: the upstream asks for credentials (401), and there are none", c.where(r))
		}
		return failed(kindCredentials, "%s: the upstream refused the credentials (401)", c.where(r))
	case http.StatusForbidden:
		return failed(kindCredentials, "%s: the upstream denied access (403)", c.where(r))
	case http.StatusNotFound, http.StatusGone:
		return failed(kindMissing, "%s: the upstream does not have it (%d)", c.where(r), status)
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return failed(kindUnsupported, "%s: the upstream does not offer this (%d)", c.where(r), status)
	}
	return failed(kindBroken, "%s: the upstream answered %d", c.where(r), status)
}

// once sends a request, follows where it is sent, and returns the answer, whatever its status.
func (c *client) once(ctx context.Context, r request) (*http.Response, error) {
	address, err := url.Parse(c.base.String() + r.target)
	if err != nil {
		return nil, failed(kindBroken, "%s: the path is none", c.where(r))
	}
	authorization, err := c.authorization(ctx, r)
	if err != nil {
		return nil, err
	}
	for range maxRedirects {
		response, err := c.exchange(ctx, r.method, address, r.header, authorization, c.where(r))
		if err != nil || !redirects[response.StatusCode] {
			return response, err
		}
		discard(response)
		next, err := address.Parse(response.Header.Get("Location"))
		if err != nil || next.Host == "" {
			return nil, failed(kindBroken, "%s: the upstream redirects to what is no address", c.where(r))
		}
		switch {
		case next.Scheme != "https" && next.Scheme != "http", address.Scheme == "https" && next.Scheme != "https":
			return nil, failed(kindRefused, "%s: the upstream redirects from %s to %s", c.where(r), address.Scheme, domain.Quote(next.Scheme))
		case !sameOrigin(next, c.base) && !r.follow:
			return nil, failed(kindRefused, "%s: the upstream redirects to another host, %s; use the address of that host, if it is the right one", c.where(r), next.Host)
		case !sameOrigin(next, c.base):
			authorization = "" // for good: it is the other host that says where to go from there
		}
		next.User, next.Fragment = nil, ""
		address = next
	}
	return nil, failed(kindBroken, "%s: the upstream redirects again and again", c.where(r))
}

var redirects = map[int]bool{
	http.StatusMovedPermanently: true, http.StatusFound: true, http.StatusSeeOther: true, http.StatusTemporaryRedirect: true, http.StatusPermanentRedirect: true,
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

// exchange sends one request to one address, in the budget of its host. It takes one of the client's slots until the
// body is closed.
func (c *client) exchange(ctx context.Context, method string, address *url.URL, header http.Header, authorization, where string) (*http.Response, error) {
	if err := c.networks.checkHost(address.Hostname()); err != nil {
		return nil, failed(kindRefused, "%s: %s", where, reason(err))
	}
	through, err := c.proxy(address)
	if err != nil {
		return nil, failed(kindBroken, "%s: the proxy's address is none", where)
	}
	proxy := ""
	if through != nil {
		proxy = through.Host
	}
	host := net.JoinHostPort(address.Hostname(), port(address))
	budget := c.budgets.of(host, proxy)
	if err := budget.wait(ctx, host); err != nil {
		return nil, err
	}
	if !take(ctx, c.slots) {
		return nil, ctx.Err()
	}
	free := func() { <-c.slots }
	// It ends with the body, or when that brings nothing for too long.
	ctx, cancel := context.WithCancelCause(ctx)
	request, err := http.NewRequestWithContext(ctx, method, address.String(), nil)
	if err != nil {
		free()
		cancel(nil)
		return nil, failed(kindBroken, "%s: the address is none", where)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("User-Agent", "tidelock/"+domain.Version)
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	transport := c.elsewhere
	if sameOrigin(address, c.base) {
		transport = c.upstream
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		err = c.transportError(ctx, where, address, proxy, err)
		free()
		cancel(nil)
		return nil, err
	}
	if _, said := retryAfter(response.Header, c.now()); response.StatusCode == http.StatusTooManyRequests || (response.StatusCode == http.StatusServiceUnavailable && said) {
		budget.complained(response.StatusCode, response.Header)
	} else {
		budget.answered()
	}
	response.Body = newBody(ctx, response.Body, func() {
		cancel(nil)
		free()
	}, cancel)
	return response, nil
}

// transportError says why there is no answer.
func (c *client) transportError(ctx context.Context, where string, address *url.URL, proxy string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var f *failure
	if errors.As(err, &f) {
		return failed(f.kind, "%s: %s", where, f.message)
	}
	var unverified *tls.CertificateVerificationError
	if errors.As(err, &unverified) {
		return failed(kindBroken, "%s: the certificate of %s is not to be trusted: %v", where, address.Host, unverified.Err)
	}
	by := ""
	if proxy != "" {
		by = " by way of the proxy " + proxy
	}
	return failed(kindUnreachable, "%s: %s cannot be reached%s: %s", where, address.Host, by, reason(err))
}

// discard closes an answer that nobody reads, so that its connection can be used again.
func discard(response *http.Response) {
	_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
	_ = response.Body.Close()
}

// body is the body of an answer: it ends its request when nothing comes for too long, and frees what the request had.
type body struct {
	io.ReadCloser
	ctx   context.Context
	timer *time.Timer
	done  func()
}

func newBody(ctx context.Context, b io.ReadCloser, done func(), stalled context.CancelCauseFunc) *body {
	return &body{ReadCloser: b, ctx: ctx, done: done, timer: time.AfterFunc(idleTimeout, func() {
		stalled(failed(kindUnreachable, "nothing came for %s", idleTimeout))
	})}
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.timer.Reset(idleTimeout)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	if b.done != nil {
		b.done()
		b.done = nil
	}
	return err
}

// getJSON sends a request whose answer is JSON, and reads it.
func (c *client) getJSON(ctx context.Context, r request, into any) (http.Header, error) {
	r.method = http.MethodGet
	response, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := readBounded(response.Body, maxPage)
	if err == nil && json.Unmarshal(content, into) != nil {
		err = errors.New("it is not the JSON that it should be")
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, failed(kindBroken, "%s: the answer cannot be read: %s", c.where(r), reason(err))
	}
	return response.Header, nil
}

// readBounded reads all, if that is not more than limit bytes.
func readBounded(r io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = failed(kindBroken, "it has more than %d bytes", limit)
	}
	return content, err
}

// nextPage finds the target of the next page in a Link header (RFC 8288); empty if there is none.
func (c *client) nextPage(r request, header http.Header) (string, error) {
	for _, line := range header.Values("Link") {
		for line != "" {
			_, rest, ok := strings.Cut(line, "<")
			target, parameters, closed := strings.Cut(rest, ">")
			if !ok || !closed {
				break
			}
			parameters, line = cutLink(parameters)
			if !isNext(parameters) {
				continue
			}
			present, err := url.Parse(c.base.String() + r.target)
			if err != nil {
				return "", failed(kindBroken, "%s: the path is none", c.where(r))
			}
			next, err := present.Parse(target)
			if err != nil || !sameOrigin(next, c.base) {
				return "", failed(kindRefused, "%s: the next page is said to be at another host", c.where(r))
			}
			if next.RequestURI() == present.RequestURI() {
				return "", failed(kindBroken, "%s: the next page is said to be the same page", c.where(r))
			}
			return next.RequestURI(), nil
		}
	}
	return "", nil
}

// cutLink cuts the parameters of one link from the links behind it.
func cutLink(text string) (parameters, rest string) {
	quoted := false
	for i, character := range []byte(text) {
		switch {
		case character == '"':
			quoted = !quoted
		case character == ',' && !quoted:
			return text[:i], text[i+1:]
		}
	}
	return text, ""
}

func isNext(parameters string) bool {
	for parameter := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
		if strings.EqualFold(strings.TrimSpace(name), "rel") {
			for relation := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
				if strings.EqualFold(relation, "next") {
					return true
				}
			}
		}
	}
	return false
}
