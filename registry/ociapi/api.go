// Package ociapi serves /v2: the OCI Distribution Specification 1.1
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md) with its optional parts. It turns requests
// into calls of registry/core and registry/blob and decides nothing about tags by itself.
//
// A handler returns an answer or an error; respond.go alone writes them.
package ociapi

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// Core is what the API needs of registry/core. Its errors that clients may see are *domain.Error.
type Core interface {
	Catalog(ctx context.Context, to domain.Audience, after string, limit int) ([]string, error)
	Uploads
	MountBlob(ctx context.Context, caller domain.Caller, name, from domain.RepositoryName, d digest.Digest, create core.Create) (bool, error)
	MountAnyBlob(ctx context.Context, caller domain.Caller, name domain.RepositoryName, d digest.Digest, mayPull func(domain.Repository) (bool, error), create core.Create) (bool, error)
	Blob(ctx context.Context, name domain.RepositoryName, d digest.Digest) (domain.Blob, error)
	// FoundBlob and FoundManifest say that a HEAD found something, on which its client may rely.
	FoundBlob(name domain.RepositoryName, d digest.Digest)
	FoundManifest(name domain.RepositoryName, d digest.Digest)
	DeleteBlob(ctx context.Context, caller domain.Caller, name domain.RepositoryName, d digest.Digest) error
	PutManifest(ctx context.Context, caller domain.Caller, name domain.RepositoryName, push core.Push) (core.PushResult, error)
	Manifest(ctx context.Context, name domain.RepositoryName, ref domain.Reference, withContent bool) (domain.Manifest, error)
	Tags(ctx context.Context, name domain.RepositoryName, after string, limit int) ([]string, error)
	Referrers(ctx context.Context, name domain.RepositoryName, query core.ReferrersQuery) (list []domain.Manifest, more bool, err error)
	DeleteTag(ctx context.Context, caller domain.Caller, name domain.RepositoryName, tag string) error
	DeleteManifest(ctx context.Context, caller domain.Caller, name domain.RepositoryName, d digest.Digest) error
}

// Uploads is what the API needs of registry/core for uploads.
type Uploads interface {
	BeginUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, upload domain.Upload, whole bool) (core.UploadSession, error)
	Upload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, id string) (domain.Upload, error)
	TakeUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, id string) (core.UploadSession, error)
	IdleUploads(ctx context.Context) (ids []string, err error)
	TakeIdleUpload(ctx context.Context, id string) (core.UploadSession, error)
	LeaveUpload(s core.UploadSession)
	SaveUpload(ctx context.Context, s core.UploadSession, giveBack bool) error
	RenewUpload(ctx context.Context, s core.UploadSession) error
	EndUpload(ctx context.Context, s core.UploadSession) error
	LinkUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, s core.UploadSession, blob domain.Blob, create core.Create) (kept bool, err error)
}

// Authenticator finds the identity of a request, says what it may do, and issues tokens. *auth.Authenticator is one.
type Authenticator interface {
	Authenticate(r *http.Request) (auth.Identity, error)
	Authorize(ctx context.Context, id auth.Identity, permission auth.Permission, on auth.Resource) error
	Login(ctx context.Context, name, password, address string) (auth.Identity, error)
	Refresh(ctx context.Context, token, address string) (auth.Identity, error)
	Issue(ctx context.Context, id auth.Identity, request auth.TokenRequest) (auth.TokenAnswer, error)
	Keys(ctx context.Context) (jose.JSONWebKeySet, error)
	ClientAddress(r *http.Request) string
	ExternalURL(r *http.Request) *url.URL
}

// Options are what an API needs. Core, Blobs and Auth are required.
type Options struct {
	Core  Core
	Blobs blob.Store
	Auth  Authenticator
	// Logger is slog.Default by default. Records of a request are logged with its context.
	Logger *slog.Logger
	// Redirect answers a GET of a blob with the address of its bytes, which must be in a blob.Presigner.
	Redirect bool
}

// API serves /v2. How long a client may take is the server's to say: bodies are read and written as they come.
type API struct {
	core    Core
	blobs   blob.Store
	auth    Authenticator
	logger  *slog.Logger
	renewal time.Duration
	// presigner is nil where blobs are not redirected.
	presigner blob.Presigner
	// large has the large manifests that are worked on.
	large chan struct{}
}

// New makes an API.
func New(options Options) *API {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	a := &API{
		core: options.Core, blobs: options.Blobs, auth: options.Auth, logger: options.Logger, renewal: renewal,
		large: make(chan struct{}, maxLarge),
	}
	if options.Redirect {
		a.presigner, _ = options.Blobs.(blob.Presigner)
	}
	return a
}

// request is a request for which everything but the operation itself is decided: its route, the permission for it, and
// that the repository's name is one.
type request struct {
	*http.Request
	identity  auth.Identity
	name      domain.RepositoryName
	reference string
	// external is what a push may create of a caller whose rights are not the registry's to know.
	external core.Create
}

// create says what a push of this caller may create.
func (r *request) create() core.Create {
	if r.identity.Role == auth.RoleExternal {
		return r.external
	}
	on := auth.Repository(r.name)
	switch {
	case r.identity.Holds(auth.OrganizationCreate, on):
		return core.CreateOrganization
	case !r.identity.Holds(auth.RepositoryCreate, on):
		return core.CreateNothing
	case r.identity.Holds(auth.RepositoryPush, on):
		return core.CreateRepository
	}
	return core.CreateOwnRepository
}

// digest reads the reference as a digest.
func (r *request) digest() (digest.Digest, error) { return domain.ParseDigest(r.reference) }

// ServeHTTP serves every path under /v2/, and /v2 itself. It sets the request's Pattern, for metrics.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	result, err := a.handle(r)
	if err != nil {
		result = a.failure(r, err)
	}
	if err := result.write(w, r); err != nil {
		a.logger.InfoContext(r.Context(), "an answer was cut off", "error", err)
	}
}

func (a *API) handle(r *http.Request) (answer, error) {
	t, found := splitPath(r.URL.Path)
	r.Pattern = patterns[t.endpoint]
	identity, err := a.auth.Authenticate(r)
	if err != nil {
		return answer{}, err
	}
	if !found {
		// Nobody learns more from an unknown path than from /v2/ itself.
		if err := a.authorize(r, identity, auth.RegistryPing, auth.Resource{}); err != nil {
			return answer{}, err
		}
		return answer{}, &failure{status: http.StatusNotFound, cause: domain.Errorf(domain.CodeUnsupported, "there is nothing at this path; see the OCI Distribution Specification 1.1")}
	}
	chosen, allowed := findRoute(t.endpoint, r.Method)
	if chosen == nil {
		if err := a.authorize(r, identity, auth.RegistryPing, auth.Resource{}); err != nil {
			return answer{}, err
		}
		return answer{}, &failure{
			status: http.StatusMethodNotAllowed, header: http.Header{"Allow": {allowed}},
			cause: domain.Errorf(domain.CodeUnsupported, "the method is not allowed here; allowed are %s", allowed),
		}
	}
	req := &request{Request: r, identity: identity, reference: t.reference}
	var resource auth.Resource
	if t.endpoint.named() {
		if err = checkPath(r.URL); err == nil {
			req.name, err = domain.ParseRepositoryName(t.name)
		}
		if err != nil {
			// Nobody has rights on what cannot be, but whoever is known may know why.
			return answer{}, cmp.Or(a.authorize(r, identity, auth.RegistryPing, auth.Resource{}), err)
		}
		resource = auth.Repository(req.name)
	}
	if err := a.authorize(r, identity, chosen.permission, resource); err != nil {
		return answer{}, err
	}
	if chosen.permission == auth.RepositoryPush && identity.Role == auth.RoleExternal {
		if req.external, err = a.createsExternal(r.Context(), identity, resource); err != nil {
			return answer{}, err
		}
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return answer{}, domain.Errorf(domain.CodeInvalid, "the query is malformed: use name=value, joined by '&', special characters percent-encoded")
	}
	return chosen.handle(a, req)
}

// createsExternal says what a push may create of a caller whose cluster decides it: a repository, never an organization.
func (a *API) createsExternal(ctx context.Context, identity auth.Identity, on auth.Resource) (core.Create, error) {
	// A token of the token endpoint says what it is for in words of pushing only.
	identity.Scopes = nil
	switch err := a.auth.Authorize(ctx, identity, auth.RepositoryCreate, on); {
	case err == nil:
		return core.CreateRepository, nil
	case domain.CodeOf(err) == domain.CodeDenied:
		return core.CreateNothing, nil
	default:
		return core.CreateNothing, err
	}
}

// insufficientScope is RFC 6750's error for a token that is not for what it came with.
const insufficientScope = "insufficient_scope"

// unauthorized is the answer to whoever may try again with a token for the scopes.
func (a *API) unauthorized(r *http.Request, cause *domain.Error, kind string, scopes ...string) error {
	challenge := auth.BearerChallenge(a.auth.ExternalURL(r), kind, scopes...)
	return &failure{header: http.Header{"Www-Authenticate": {challenge}}, cause: cause}
}

// authorize checks a permission. Whoever may try again with other credentials is told where to get a token, and for what.
func (a *API) authorize(r *http.Request, identity auth.Identity, permission auth.Permission, on auth.Resource) error {
	err := a.auth.Authorize(r.Context(), identity, permission, on)
	var known *domain.Error
	if !errors.As(err, &known) || known.Code != domain.CodeUnauthorized {
		return err
	}
	kind := ""
	if identity.Scopes != nil {
		kind = insufficientScope
	}
	return a.unauthorized(r, known, kind, auth.Needed(permission, on))
}
