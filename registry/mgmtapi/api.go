// Package mgmtapi serves /api/v1: the management API with the shapes of Quay's, and the operator's endpoints. The
// document in registry/openapi describes it.
package mgmtapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// Prefix is the path that the API serves everything under.
const Prefix = "/api/"

// Authenticator finds out who sends a request and what they may do. Errors are *domain.Error. *auth.Authenticator is one.
type Authenticator interface {
	Authenticate(*http.Request) (auth.Identity, error)
	Authorize(ctx context.Context, id auth.Identity, permission auth.Permission, on auth.Resource) error
	SigningKeys(ctx context.Context) ([]domain.SigningKey, error)
	RotateSigningKey(ctx context.Context, caller domain.Caller) error
}

// Options are what the API works with.
type Options struct {
	Core          Core
	Authenticator Authenticator
	// Mirrors knows upstreams. Without it calls that need it are 503.
	Mirrors MirrorEngine
	// ReadonlySuperusers are the users of the configuration who read everything.
	ReadonlySuperusers []string
	// Settings are the registry's, without what is secret.
	Settings []openapi.Setting
	// Logger is slog.Default by default.
	Logger *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Draining ends when the server begins to shut down. Calls that wait for log entries then answer at once. Without it
	// they wait as long as they were asked to.
	Draining context.Context
}

// API is the handler of /api/v1. Mount it without a ServeMux that cleans or redirects paths: it reads the escaped path.
type API struct {
	core          Core
	authenticator Authenticator
	mirrors       MirrorEngine
	readonly      []string
	settings      []openapi.Setting
	logger        *slog.Logger
	now           func() time.Time
	draining      context.Context
	router        *router
	crossOrigin   *http.CrossOriginProtection
}

// New makes the handler from the one table of routes.
func New(options Options) *API {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Draining == nil {
		options.Draining = context.Background()
	}
	return &API{
		core: options.Core, authenticator: options.Authenticator, mirrors: options.Mirrors,
		readonly: append([]string{}, options.ReadonlySuperusers...), settings: append([]openapi.Setting{}, options.Settings...),
		logger: options.Logger, now: options.Now,
		draining: options.Draining, router: newRouter(routes), crossOrigin: http.NewCrossOriginProtection(),
	}
}

// call is one request on its way through its route.
type call struct {
	*http.Request
	writer   http.ResponseWriter
	route    *route
	identity auth.Identity
	// parameters are the decoded parameters of the path.
	parameters map[string]string
	query      query
}

// answer is what a call has to say. A nil body is no body.
type answer struct {
	status int
	body   any
	// raw is sent as it is, as contentType, instead of body.
	raw         []byte
	contentType string
	// stream writes a body of any length. If it fails, the connection is cut off: nobody takes a part for the whole.
	stream func(io.Writer) error
}

func ok(body any) answer      { return answer{status: http.StatusOK, body: body} }
func created(body any) answer { return answer{status: http.StatusCreated, body: body} }

var noContent = answer{status: http.StatusNoContent}

// ServeHTTP answers in this order: who calls (401), is there such a route (404, 405), may they (401, 403); only then is
// the request read further.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := a.serve(w, r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	a.write(w, r, answer)
}

func (a *API) serve(w http.ResponseWriter, r *http.Request) (answer, error) {
	identity, err := a.authenticator.Authenticate(r)
	if err != nil {
		return answer{}, err
	}
	route, parameters, err := a.router.match(r)
	if err != nil {
		return answer{}, err
	}
	if err := a.authenticator.Authorize(r.Context(), identity, route.permission, route.resource(parameters)); err != nil {
		return answer{}, err
	}
	// Browsers send Basic credentials along with requests that another site makes them send.
	if err := a.crossOrigin.Check(r); err != nil {
		return answer{}, domain.Errorf(domain.CodeDenied, "a request from another site is not allowed: %w", err)
	}
	query, err := parseQuery(r, route.query)
	if err != nil {
		return answer{}, err
	}
	c := &call{Request: r, writer: w, route: route, identity: identity, parameters: parameters, query: query}
	if err := a.recordView(c); err != nil {
		return answer{}, err
	}
	return route.handle(a, c)
}

func (a *API) write(w http.ResponseWriter, r *http.Request, answer answer) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	content := answer.raw
	if answer.body != nil {
		var buffer bytes.Buffer
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(answer.body); err != nil {
			a.logger.ErrorContext(r.Context(), "encoding an answer failed", "method", r.Method, "path", r.URL.Path, "error", err)
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		content = buffer.Bytes()
		if answer.contentType == "" {
			answer.contentType = "application/json"
		}
	}
	if content != nil {
		header.Set("Content-Type", answer.contentType)
		header.Set("Content-Length", strconv.Itoa(len(content)))
	}
	if answer.stream != nil {
		header.Set("Content-Type", answer.contentType)
	}
	w.WriteHeader(answer.status)
	switch {
	case r.Method == http.MethodHead:
	case answer.stream != nil:
		if err := answer.stream(w); err != nil {
			a.logger.WarnContext(r.Context(), "an answer was cut off", "method", r.Method, "path", r.URL.Path, "error", err)
			panic(http.ErrAbortHandler)
		}
	default:
		// A client that went away is its own affair.
		_, _ = w.Write(content)
	}
}

// repository reads the repository's name from the path.
func (c *call) repository() (domain.RepositoryName, error) {
	return domain.ParseRepositoryName(c.parameters["repository"])
}

// organization reads the organization's name from the path.
func (c *call) organization() (string, error) {
	name := c.parameters["organization"]
	return name, domain.ValidateOrganization(name)
}

// authorize checks a permission that a call needs beside that of its route.
func (a *API) authorize(c *call, permission auth.Permission, on auth.Resource) error {
	return a.authenticator.Authorize(c.Context(), c.identity, permission, on)
}
