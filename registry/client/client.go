// Package client calls the registry's management API, for the Kubernetes operator (its endpoints under /api/v1/operator
// are all that controllers know of the registry) and for the commands of an auditor.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	// DefaultTimeout bounds a call that does not wait on purpose.
	DefaultTimeout = 10 * time.Second
	// MaxLogLimit bounds the entries that one call of Log returns.
	MaxLogLimit = 500
	// MaxLogWait bounds how long one call of Log waits for an entry.
	MaxLogWait = 30 * time.Second

	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 32 << 20
)

// Options say where the registry is and who calls it.
type Options struct {
	// URL is the registry's address, such as https://tidelock-registry.tidelock-system.svc:5000.
	URL string
	// TokenFile holds the operator's token. It is read for each call, so that it can be rotated.
	TokenFile string
	// Token gives the operator's token instead of TokenFile.
	Token func() (string, error)
	// Username calls as an account of the registry, not as the operator. PasswordFile holds its password or token, and is
	// read for each call.
	Username, PasswordFile string
	// CA is a PEM bundle that the registry's certificate must lead to; without it, the system's.
	CA []byte
	// TLS is used instead of CA where more than a bundle is to be said.
	TLS *tls.Config
	// Timeout bounds each call, DefaultTimeout by default. Log may take as much longer as it is asked to wait.
	Timeout time.Duration
}

// Client calls the registry. It is safe for concurrent use. All errors that the registry answers with are an *Error;
// others mean that it could not be reached or understood, and may be tried again.
type Client struct {
	base         *url.URL
	authenticate func(*http.Request) error
	timeout      time.Duration
	http         *http.Client
}

// New makes a client. It does not call the registry.
func New(options Options) (*Client, error) {
	base, err := url.Parse(options.URL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("registry address %q is not an http or https URL", options.URL)
	}
	authenticate, err := options.authentication()
	if err != nil {
		return nil, err
	}
	base = base.JoinPath("/")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	switch {
	case options.TLS != nil && len(options.CA) > 0:
		return nil, errors.New("the registry's client takes a CA bundle or a TLS configuration, not both")
	case options.TLS != nil:
		transport.TLSClientConfig = options.TLS.Clone()
	case len(options.CA) > 0:
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(options.CA) {
			return nil, errors.New("the registry's CA bundle has no certificate in PEM")
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c := &Client{
		base: base, authenticate: authenticate, timeout: options.Timeout,
		// A redirect would carry the token to wherever it points.
		http: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	return c, nil
}

// authentication returns what puts the caller's credentials into a request.
func (o Options) authentication() (func(*http.Request) error, error) {
	given := 0
	for _, is := range []bool{o.TokenFile != "", o.Token != nil, o.Username != ""} {
		if is {
			given++
		}
	}
	switch {
	case given != 1 || (o.Username == "") != (o.PasswordFile == ""):
		return nil, errors.New("the registry's client needs a token file, a token, or a name with a password file")
	case o.Username != "":
		return func(request *http.Request) error {
			password, err := readSecret(o.PasswordFile)
			if err != nil {
				return fmt.Errorf("reading the password of %s: %w", o.Username, err)
			}
			request.SetBasicAuth(o.Username, password)
			return nil
		}, nil
	}
	token := o.Token
	if token == nil {
		token = func() (string, error) { return readSecret(o.TokenFile) }
	}
	return func(request *http.Request) error {
		value, err := token()
		if err != nil {
			return fmt.Errorf("reading the operator's token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+value)
		return nil
	}, nil
}

func readSecret(path string) (string, error) {
	content, err := os.ReadFile(path)
	return strings.TrimSpace(string(content)), err
}

// PutPolicy makes a policy what the ImmutabilityPolicy of this namespace and name declares. It is idempotent.
func (c *Client) PutPolicy(ctx context.Context, namespace, name string, policy openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
	var status openapi.PolicyStatus
	err := c.call(ctx, request{method: http.MethodPut, path: policyPath(namespace, name), body: policy, answer: &status})
	return status, err
}

// PolicyStatus reads how far a policy has come. IsNotFound tells that the registry does not know it.
func (c *Client) PolicyStatus(ctx context.Context, namespace, name string) (openapi.PolicyStatus, error) {
	var status openapi.PolicyStatus
	err := c.call(ctx, request{method: http.MethodGet, path: policyPath(namespace, name), answer: &status})
	return status, err
}

// DeletePolicy withdraws the policy of an ImmutabilityPolicy. cluster is the UID of the namespace kube-system, uid the
// object's. It is a no-op for another UID and for a policy that is not there. IsPolicyLocked tells that the policy is
// locked; where the object goes because its namespace does, it is orphaned instead.
func (c *Client) DeletePolicy(ctx context.Context, namespace, name, cluster, uid string, namespaceGoes bool) error {
	query := url.Values{"cluster": {cluster}, "uid": {uid}}
	if namespaceGoes {
		query.Set("namespaceGoes", "true")
	}
	return c.call(ctx, request{method: http.MethodDelete, path: policyPath(namespace, name), query: query})
}

// NoteDeletionIntent tells who asks the API server to delete an ImmutabilityPolicy, so that the entries about the deletion
// name them. It is a no-op for another UID and for a policy that is not there.
func (c *Client) NoteDeletionIntent(ctx context.Context, namespace, name string, intent openapi.DeletionIntent) error {
	path := append(policyPath(namespace, name), "deletion-intent")
	return c.call(ctx, request{method: http.MethodPut, path: path, body: intent})
}

// NoteRefusedChange tells that admission refused to weaken or delete an ImmutabilityPolicy that is locked. It is a no-op for
// another UID and for a policy that is not there.
func (c *Client) NoteRefusedChange(ctx context.Context, namespace, name string, change openapi.RefusedChange) error {
	path := append(policyPath(namespace, name), "refused-changes")
	return c.call(ctx, request{method: http.MethodPost, path: path, body: change})
}

// PutOrgMirror makes an organization's mirror what the OrgMirror of this namespace and name declares. It is idempotent.
func (c *Client) PutOrgMirror(ctx context.Context, namespace, name string, mirror openapi.ManagedMirror) (openapi.MirrorStatus, error) {
	var status openapi.MirrorStatus
	err := c.call(ctx, request{method: http.MethodPut, path: orgMirrorPath(namespace, name), body: mirror, answer: &status})
	return status, err
}

// GetOrgMirror reads how the syncs of a mirror are doing. IsNotFound tells that the registry does not know it.
func (c *Client) GetOrgMirror(ctx context.Context, namespace, name string) (openapi.MirrorStatus, error) {
	var status openapi.MirrorStatus
	err := c.call(ctx, request{method: http.MethodGet, path: orgMirrorPath(namespace, name), answer: &status})
	return status, err
}

// DeleteOrgMirror ends the mirror of an OrgMirror at once; what it copied stays. cluster is the UID of the namespace
// kube-system, uid the object's. It is a no-op for another UID and for a mirror that is not there.
func (c *Client) DeleteOrgMirror(ctx context.Context, namespace, name, cluster, uid string) error {
	query := url.Values{"cluster": {cluster}, "uid": {uid}}
	return c.call(ctx, request{method: http.MethodDelete, path: orgMirrorPath(namespace, name), query: query})
}

// NoteOrgMirrorDeletionIntent is NoteDeletionIntent for an OrgMirror.
func (c *Client) NoteOrgMirrorDeletionIntent(ctx context.Context, namespace, name string, intent openapi.DeletionIntent) error {
	path := append(orgMirrorPath(namespace, name), "deletion-intent")
	return c.call(ctx, request{method: http.MethodPut, path: path, body: intent})
}

// PutReadonlySuperuser makes somebody a readonly superuser, as the ReadonlySuperuser of this name declares it. It is
// idempotent. The token that credentials name revokes the older ones of the grant.
func (c *Client) PutReadonlySuperuser(ctx context.Context, name string, grant openapi.ManagedReadonlySuperuser) (openapi.ReadonlySuperuserStatus, error) {
	var status openapi.ReadonlySuperuserStatus
	err := c.call(ctx, request{method: http.MethodPut, path: readonlySuperuserPath(name), body: grant, answer: &status})
	return status, err
}

// GetReadonlySuperuser reads a grant. IsNotFound tells that the registry does not know it.
func (c *Client) GetReadonlySuperuser(ctx context.Context, name string) (openapi.ReadonlySuperuserStatus, error) {
	var status openapi.ReadonlySuperuserStatus
	err := c.call(ctx, request{method: http.MethodGet, path: readonlySuperuserPath(name), answer: &status})
	return status, err
}

// DeleteReadonlySuperuser revokes the grant of a ReadonlySuperuser at once, with the tokens and the account that were made
// for it. cluster is the UID of the namespace kube-system, uid the object's. It is a no-op for another UID and for a grant
// that is not there.
func (c *Client) DeleteReadonlySuperuser(ctx context.Context, name, cluster, uid string) error {
	query := url.Values{"cluster": {cluster}, "uid": {uid}}
	return c.call(ctx, request{method: http.MethodDelete, path: readonlySuperuserPath(name), query: query})
}

// NoteReadonlySuperuserDeletionIntent is NoteDeletionIntent for a ReadonlySuperuser.
func (c *Client) NoteReadonlySuperuserDeletionIntent(ctx context.Context, name string, intent openapi.DeletionIntent) error {
	path := append(readonlySuperuserPath(name), "deletion-intent")
	return c.call(ctx, request{method: http.MethodPut, path: path, body: intent})
}

// CreateReadonlySuperuserCredentials makes a new token for the subject of a ReadonlySuperuser that asks for credentials.
// The older ones are good until PutReadonlySuperuser names a newer one.
func (c *Client) CreateReadonlySuperuserCredentials(ctx context.Context, name, cluster, uid string) (openapi.ReadonlyCredentials, error) {
	var credentials openapi.ReadonlyCredentials
	path := append(readonlySuperuserPath(name), "credentials")
	body := openapi.NewReadonlyCredentials{Cluster: cluster, UID: uid}
	err := c.call(ctx, request{method: http.MethodPost, path: path, body: body, answer: &credentials})
	return credentials, err
}

// Preview says what a policy would mean for the tags that are there. It changes nothing.
func (c *Client) Preview(ctx context.Context, policy openapi.PreviewRequest) (openapi.Coverage, error) {
	var coverage openapi.Coverage
	err := c.call(ctx, request{method: http.MethodPost, path: []string{"preview"}, body: policy, answer: &coverage})
	return coverage, err
}

// Synced says that every object of the cluster has been put or refused for good. present lists all objects that exist;
// policies of others become orphaned.
func (c *Client) Synced(ctx context.Context, cluster string, present []openapi.Manager) error {
	if present == nil {
		present = []openapi.Manager{}
	}
	body := openapi.Present{Cluster: cluster, Present: present}
	return c.call(ctx, request{method: http.MethodPost, path: []string{"synced"}, body: body})
}

// Published tells the last checkpoint of the audit log that was published, a signed note, and returns which log the
// registry has. cluster is the UID of the namespace kube-system.
func (c *Client) Published(ctx context.Context, cluster, checkpoint string) (openapi.LogStatus, error) {
	var status openapi.LogStatus
	body := openapi.PublishedCheckpoint{Cluster: cluster, Checkpoint: checkpoint}
	err := c.call(ctx, request{method: http.MethodPut, path: []string{"published-checkpoint"}, body: body, answer: &status})
	return status, err
}

// Log reads the audit log behind the entry with index after (-1: from its beginning), oldest first, at most limit
// entries (1 to MaxLogLimit). If there is none it waits for the first, up to wait (whole seconds, up to MaxLogWait).
func (c *Client) Log(ctx context.Context, after int64, limit int, wait time.Duration) (openapi.LogSegment, error) {
	query := url.Values{
		"after": {strconv.FormatInt(after, 10)},
		"limit": {strconv.Itoa(limit)},
		"wait":  {strconv.FormatInt(int64(wait/time.Second), 10)},
	}
	var segment openapi.LogSegment
	err := c.call(ctx, request{method: http.MethodGet, path: []string{"log"}, query: query, answer: &segment, wait: wait})
	return segment, err
}

// PolicyLog reads like Log, but only the entries about one policy, and without waiting. Size still counts all entries.
func (c *Client) PolicyLog(ctx context.Context, uuid string, after int64, limit int) (openapi.LogSegment, error) {
	query := url.Values{"policy": {uuid}, "after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}}
	var segment openapi.LogSegment
	err := c.call(ctx, request{method: http.MethodGet, path: []string{"log"}, query: query, answer: &segment})
	return segment, err
}

// Checkpoint reads the signed checkpoint of the whole log: a note, whose signatures are not checked.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	return c.text(ctx, "api", "v1", "superuser", "audit", "checkpoint")
}

// AuditKeys reads the public keys of checkpoints, one a line.
func (c *Client) AuditKeys(ctx context.Context) ([]byte, error) {
	return c.text(ctx, "api", "v1", "superuser", "audit", "keys")
}

// Consistency asks for the proof that the log of size from is the beginning of that of size to, in the order of RFC 6962.
// IsNotFound tells that the log has not come to one of the sizes.
func (c *Client) Consistency(ctx context.Context, from, to int64) (tlog.TreeProof, error) {
	query := url.Values{"from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(to, 10)}}
	var answer openapi.ConsistencyProof
	if err := c.Get(ctx, []string{"api", "v1", "superuser", "audit", "proof", "consistency"}, query, &answer); err != nil {
		return nil, err
	}
	return parseHashes(answer.Proof)
}

// Inclusion asks for the proof that the entry with an index is in the log of a size, in the order of RFC 6962. IsNotFound
// tells that the log has not come to one of them.
func (c *Client) Inclusion(ctx context.Context, index, size int64) (tlog.RecordProof, error) {
	query := url.Values{"index": {strconv.FormatInt(index, 10)}, "size": {strconv.FormatInt(size, 10)}}
	var answer openapi.InclusionProof
	if err := c.Get(ctx, []string{"api", "v1", "superuser", "audit", "proof", "inclusion"}, query, &answer); err != nil {
		return nil, err
	}
	return parseHashes(answer.Proof)
}

// LogEntry reads one entry as it is hashed. IsNotFound tells that there is none with this index.
func (c *Client) LogEntry(ctx context.Context, index int64) (entry openapi.Evidence, err error) {
	err = c.Get(ctx, []string{"api", "v1", "superuser", "audit", "entries", strconv.FormatInt(index, 10)}, nil, &entry)
	return entry, err
}

func parseHashes(texts []string) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(texts))
	for i, text := range texts {
		var err error
		if hashes[i], err = tlog.ParseHash(text); err != nil {
			return nil, fmt.Errorf("reading the registry's answer: a hash of the proof: %w", err)
		}
	}
	return hashes, nil
}

// LogCursor returns the index of the next entry that the named reader has to read, 0 at first.
func (c *Client) LogCursor(ctx context.Context, name string) (int64, error) {
	var cursor openapi.Cursor
	err := c.call(ctx, request{method: http.MethodGet, path: []string{"cursors", name}, answer: &cursor})
	return cursor.Next, err
}

// MoveLogCursor moves the named reader on. IsStale tells that it was not at from any more.
func (c *Client) MoveLogCursor(ctx context.Context, name string, from, to int64) error {
	body := openapi.CursorMove{From: from, To: to}
	return c.call(ctx, request{method: http.MethodPut, path: []string{"cursors", name}, body: body})
}

// Ready returns nil if the registry answers that it is ready.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, request{method: http.MethodGet, path: []string{"readyz"}})
}

func policyPath(namespace, name string) []string {
	return []string{"immutabilitypolicies", namespace, name}
}

func orgMirrorPath(namespace, name string) []string {
	return []string{"orgmirrors", namespace, name}
}

func readonlySuperuserPath(name string) []string { return []string{"readonlysuperusers", name} }

type request struct {
	method string
	path   []string
	query  url.Values
	body   any
	answer any
	wait   time.Duration
}

// call calls an endpoint of the operator.
func (c *Client) call(ctx context.Context, r request) error {
	r.path = append([]string{"api", "v1", "operator"}, r.path...)
	return c.do(ctx, r)
}

// target is the address of a request. url.JoinPath would resolve "." and ".." in names.
func (c *Client) target(r request) *url.URL {
	target := *c.base
	var escaped []string
	for _, segment := range r.path {
		escaped = append(escaped, url.PathEscape(segment))
	}
	target.RawPath = target.EscapedPath() + strings.Join(escaped, "/")
	target.Path += strings.Join(r.path, "/")
	target.RawQuery = r.query.Encode()
	return &target
}

// Get reads the JSON answer of an endpoint, whose path is given by its segments.
func (c *Client) Get(ctx context.Context, path []string, query url.Values, answer any) error {
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query, answer: answer})
}

// Send calls an endpoint, whose path is given by its segments, with a JSON body, and reads the JSON answer. Body and answer
// may be nil.
func (c *Client) Send(ctx context.Context, method string, path []string, body, answer any) error {
	return c.do(ctx, request{method: method, path: path, body: body, answer: answer})
}

// FollowLog reads entries of the log of everything (path "superuser"), of an organization ("organization", its name) or of a
// repository ("repository", its name): the newest ones, or with "after" in the query those behind that index. If there is
// none it waits for one, up to wait (whole seconds, up to MaxLogWait). What else the query may hold, docs/api.md says.
func (c *Client) FollowLog(ctx context.Context, path []string, query url.Values, wait time.Duration) (openapi.LogTail, error) {
	path = append(append([]string{"api", "v1"}, path...), "logs", "follow")
	query = maps.Clone(query)
	query.Set("wait", strconv.FormatInt(int64(wait/time.Second), 10))
	var tail openapi.LogTail
	err := c.do(ctx, request{method: http.MethodGet, path: path, query: query, answer: &tail, wait: wait})
	return tail, err
}

// Stream begins to read an answer of any length, for as long as ctx lasts. The caller closes it.
func (c *Client) Stream(ctx context.Context, path []string, query url.Values) (io.ReadCloser, error) {
	target := c.target(request{path: path, query: query})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("calling the registry: %w", err)
	}
	if err := c.authenticate(request); err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("calling the registry: %w", err)
	}
	if response.StatusCode/100 != 2 {
		defer func() { _ = response.Body.Close() }()
		return nil, readError(response, io.LimitReader(response.Body, maxAnswer))
	}
	return response.Body, nil
}

// text reads a short answer that is not JSON.
func (c *Client) text(ctx context.Context, path ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	body, err := c.Stream(ctx, path, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	content, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the registry's answer: %w", err)
	}
	return content, nil
}

func (c *Client) do(ctx context.Context, r request) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout+r.wait)
	defer cancel()
	target := c.target(r)
	var body io.Reader
	if r.body != nil {
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("encoding a request to the registry: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return fmt.Errorf("calling the registry: %w", err)
	}
	if err := c.authenticate(request); err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("calling the registry: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer := io.LimitReader(response.Body, maxAnswer)
	if response.StatusCode/100 != 2 {
		return readError(response, answer)
	}
	if r.answer == nil {
		// What is left unread would keep the connection from being used again.
		_, err = io.Copy(io.Discard, answer)
	} else {
		err = json.NewDecoder(answer).Decode(r.answer)
	}
	if err != nil {
		return fmt.Errorf("reading the registry's answer to %s %s: %w", r.method, target.Path, err)
	}
	return nil
}
