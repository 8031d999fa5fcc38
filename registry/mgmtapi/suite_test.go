package mgmtapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/metatest"
	"github.com/tidelock/tidelock/registry/mgmtapi"
	"github.com/tidelock/tidelock/registry/openapi"
	"github.com/tidelock/tidelock/registry/seal"
)

func TestMgmtAPI(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "mgmtapi")
}

func TestMgmtAPIOnPostgreSQL(t *testing.T) { metatest.AgainOnPostgreSQL(t, "TestMgmtAPI") }

const (
	adminPassword = "a password for tests"
	operatorToken = "a token for tests, long enough for one"
	// soon is how long the core may take for what it does in the background.
	soon = 10 * time.Second
)

var (
	document *openapi3.T
	// superusers knows admin's password and the operator's token.
	superusers *auth.Authenticator
)

// authenticator has accounts, and shares what checks of admin's password cost with all other specs.
type authenticator struct{ *auth.Authenticator }

func (a authenticator) Authenticate(r *http.Request) (auth.Identity, error) {
	name, _, _ := r.BasicAuth()
	if name == "admin" || r.Header.Get("Authorization") == "Bearer "+operatorToken {
		return superusers.Authenticate(r)
	}
	return a.Authenticator.Authenticate(r)
}

var _ = BeforeSuite(func() {
	var err error
	document, err = openapi3.NewLoader().LoadFromData(openapi.YAML)
	Expect(err).NotTo(HaveOccurred())
	openapi3filter.RegisterBodyDecoder("application/jsonl", openapi3filter.PlainBodyDecoder)
	dir := GinkgoT().TempDir()
	secrets := auth.Options{AdminPasswordFile: filepath.Join(dir, "password"), OperatorTokenFile: filepath.Join(dir, "token")}
	Expect(os.WriteFile(secrets.AdminPasswordFile, []byte(adminPassword), 0o600)).To(Succeed())
	Expect(os.WriteFile(secrets.OperatorTokenFile, []byte(operatorToken), 0o600)).To(Succeed())
	superusers, err = auth.New(secrets)
	Expect(err).NotTo(HaveOccurred())
	coreOptions.AuditKeys = audit.KeyFile(filepath.Join(dir, "audit.key"))
	Expect(audit.EnsureKeyFile(string(coreOptions.AuditKeys))).To(Succeed())
	secretKey := filepath.Join(dir, "secret.key")
	Expect(seal.EnsureKeyFile(secretKey)).To(Succeed())
	coreOptions.Sealer = seal.KeyFile(secretKey)
})

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// beginning is when each test begins.
var beginning = time.Date(2026, time.March, 14, 15, 9, 26, 0, time.UTC)

// registry is the API on a real core.
type registry struct {
	server    *httptest.Server
	core      *core.Core
	auth      *auth.Authenticator
	upstreams *upstreams
	clock     *clock
	log       *lines
}

func newRegistry(options core.Options) *registry {
	GinkgoHelper()
	r := &registry{upstreams: &upstreams{}, clock: &clock{now: beginning}, log: &lines{}}
	logger := slog.New(slog.NewTextHandler(io.MultiWriter(GinkgoWriter, r.log), &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	store, err := metatest.Open(GinkgoT().TempDir(), logger)
	Expect(err).NotTo(HaveOccurred())
	options.Logger, options.Now = logger, r.clock.Now
	r.core = core.New(store, options)
	done := make(chan error, 1)
	go func() { done <- r.core.Run(ctx) }()
	r.server, r.auth = serveAccounts(r.core, r.upstreams, r.core, logger, r.clock.Now)
	DeferCleanup(func() {
		r.server.Close()
		cancel()
		Eventually(done).WithTimeout(soon).Should(Receive(BeNil()))
		Expect(store.Close()).To(Succeed())
	})
	return r
}

// serve serves the API on any core to admin and the operator.
func serve(core mgmtapi.Core, now func() time.Time) *httptest.Server {
	GinkgoHelper()
	return serveWith(core, &upstreams{}, now)
}

// serveWith serves the API on any core and engine of mirrors, or on none, to admin and the operator.
func serveWith(core mgmtapi.Core, engine *upstreams, now func() time.Time) *httptest.Server {
	GinkgoHelper()
	server, _ := serveAccounts(core, engine, nil, slog.New(slog.NewTextHandler(GinkgoWriter, nil)), now)
	return server
}

// serveAs serves the API on a core that does something else than the one that has the accounts.
func serveAs(core mgmtapi.Core, accounts auth.Accounts, now func() time.Time) *httptest.Server {
	GinkgoHelper()
	server, _ := serveAccounts(core, &upstreams{}, accounts, slog.New(slog.NewTextHandler(GinkgoWriter, nil)), now)
	return server
}

// serveAccounts serves the API on any core and engine.
func serveAccounts(core mgmtapi.Core, engine *upstreams, accounts auth.Accounts, logger *slog.Logger, now func() time.Time) (*httptest.Server, *auth.Authenticator) {
	GinkgoHelper()
	a, err := auth.New(auth.Options{Accounts: accounts, Superusers: []string{"limited"}, ReadonlySuperusers: []string{"configured"}, Logger: logger, Now: now})
	Expect(err).NotTo(HaveOccurred())
	options := mgmtapi.Options{Core: core, Authenticator: authenticator{a}, ReadonlySuperusers: []string{"configured"}, Logger: logger, Now: now}
	if engine != nil {
		options.Mirrors = engine
	}
	return httptest.NewServer(mgmtapi.New(options)), a
}

// lines is a log that can be read while it is written.
type lines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// response is an answer, read whole.
type response struct {
	status int
	header http.Header
	body   string
}

// problem reads the body as a problem.
func (r response) problem() openapi.Problem {
	GinkgoHelper()
	var problem openapi.Problem
	Expect(json.Unmarshal([]byte(r.body), &problem)).To(Succeed(), r.body)
	return problem
}

// into reads the body.
func into[T any](r response) T {
	GinkgoHelper()
	var value T
	Expect(r.status).To(And(BeNumerically(">=", 200), BeNumerically("<", 300)), r.body)
	Expect(json.Unmarshal([]byte(r.body), &value)).To(Succeed(), r.body)
	return value
}

// caller sends requests as somebody.
type caller func(*http.Request)

func anonymous(*http.Request)  {}
func admin(r *http.Request)    { r.SetBasicAuth("admin", adminPassword) }
func operator(r *http.Request) { r.Header.Set("Authorization", "Bearer "+operatorToken) }

// send sends a request and holds the answer against the OpenAPI document.
func send(server *httptest.Server, as caller, method, path, body string) response {
	GinkgoHelper()
	request, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	as(request)
	answer, err := server.Client().Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = answer.Body.Close() }()
	content, err := io.ReadAll(answer.Body)
	Expect(err).NotTo(HaveOccurred())
	Expect(answer.Header.Get("Cache-Control")).To(Equal("no-store"))
	if method != http.MethodHead {
		checkAgainstDocument(request, answer, content)
	}
	return response{status: answer.StatusCode, header: answer.Header, body: strings.TrimSuffix(string(content), "\n")}
}

func checkAgainstDocument(request *http.Request, answer *http.Response, content []byte) {
	GinkgoHelper()
	path, _ := mgmtapi.Match(request)
	operation := &openapi3.Operation{Responses: openapi3.NewResponses(openapi3.WithName("default", document.Components.Responses["Failed"].Value))}
	if path != "" {
		item := document.Paths.Value(path)
		Expect(item).NotTo(BeNil(), path)
		operation = item.GetOperation(request.Method)
		Expect(operation).NotTo(BeNil(), request.Method+" "+path)
	}
	err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: request, Route: &routers.Route{Spec: document, Path: path, Method: request.Method, Operation: operation},
		},
		Status: answer.StatusCode, Header: answer.Header, Body: io.NopCloser(bytes.NewReader(content)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		Fail(fmt.Sprintf("%s %s: %d %s: %s", request.Method, request.URL, answer.StatusCode, content, err))
	}
	if answer.StatusCode >= 400 {
		Expect(answer.Header.Get("Content-Type")).To(Equal("application/problem+json"))
	}
}

// as sends a request as somebody, admin as admin.
func (r *registry) as(who caller, method, path, body string) response {
	GinkgoHelper()
	return send(r.server, who, method, path, body)
}

func (r *registry) admin(method, path, body string) response {
	GinkgoHelper()
	return r.as(admin, method, path, body)
}

// must sends a request that has to succeed.
func (r *registry) must(method, path, body string) response {
	GinkgoHelper()
	answer := r.admin(method, path, body)
	Expect(answer.status).To(And(BeNumerically(">=", 200), BeNumerically("<", 300)), "%s %s: %s", method, path, answer.body)
	return answer
}

// user is who pushes in tests.
var user = domain.Caller{Name: "admin", Kind: domain.CallerUser, Address: "192.0.2.1"}

// push pushes a manifest with this content under a tag; organization and repository are created.
func (r *registry) push(repository, tag, content string) digest.Digest {
	GinkgoHelper()
	name, err := domain.ParseRepositoryName(repository)
	Expect(err).NotTo(HaveOccurred())
	d := digest.FromString(content)
	_, err = r.core.PutManifest(context.Background(), user, name, core.Push{
		Reference: domain.Reference{Tag: tag},
		Manifest:  domain.Manifest{Digest: d, MediaType: "application/vnd.oci.image.manifest.v1+json", Size: int64(len(content)), Content: []byte(content)},
		Create:    core.CreateOrganization,
	})
	Expect(err).NotTo(HaveOccurred())
	return d
}

// swept waits until a policy's sweeps are done.
func (r *registry) swept(scope core.Scope, uuid string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		status, err := r.core.PolicyStatus(context.Background(), scope, uuid)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(status.Swept).To(BeTrue())
	}).WithTimeout(soon).Should(Succeed())
}

// policy makes a policy and waits for its sweep.
func (r *registry) policy(organization, pattern string) string {
	GinkgoHelper()
	body := fmt.Sprintf(`{"tagPattern": %q}`, pattern)
	id := into[openapi.PolicyID](r.admin("POST", "/api/v1/organization/"+organization+"/immutabilitypolicy/", body))
	r.swept(core.Scope{Organization: organization}, id.UUID)
	return id.UUID
}

// coreOptions are the core's defaults, with keys that sign checkpoints and seal secrets.
var coreOptions core.Options
