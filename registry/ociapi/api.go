// Package ociapi serves /v2: the OCI Distribution Specification 1.1
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md) with its optional parts. It turns requests
// into calls of registry/core and registry/blob and decides nothing about tags by itself.
//
// A handler returns an answer or an error; respond.go alone writes them.
package ociapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// Core is what the API needs of registry/core. Its errors that clients may see are *domain.Error.
type Core interface {
	Catalog(ctx context.Context, after string, limit int) ([]string, error)
	Uploads
	MountBlob(ctx context.Context, caller domain.Caller, name, from domain.RepositoryName, d digest.Digest, create core.Create) (bool, error)
	MountAnyBlob(ctx context.Context, caller domain.Caller, name domain.RepositoryName, d digest.Digest, mayPull func(domain.Repository) (bool, error), create core.Create) (bool, error)
	Blob(ctx context.Context, name domain.RepositoryName, d digest.Digest) (domain.Blob, error)
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
	BeginUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, upload domain.Upload, take bool) (core.UploadSession, error)
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

// Authenticator finds the identity of a request. *auth.Authenticator is one.
type Authenticator interface {
	Authenticate(r *http.Request) (auth.Identity, error)
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
}

// New makes an API.
func New(options Options) *API {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	a := &API{core: options.Core, blobs: options.Blobs, auth: options.Auth, logger: options.Logger, renewal: renewal}
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
}

// create says what a push of this caller may create.
func (r *request) create() core.Create {
	switch {
	case auth.Check(r.identity, auth.OrganizationCreate) == nil:
		return core.CreateOrganization
	case auth.Check(r.identity, auth.RepositoryCreate) == nil:
		return core.CreateRepository
	}
	return core.CreateNothing
}

// mayPull reports whether the caller may pull from a repository.
func (r *request) mayPull(domain.Repository) (bool, error) {
	return auth.Check(r.identity, auth.RepositoryPull) == nil, nil
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
	identity, err := a.auth.Authenticate(r)
	if err != nil {
		return answer{}, err
	}
	t, found := splitPath(r.URL.Path)
	r.Pattern = patterns[t.endpoint]
	if !found {
		// Nobody learns more from an unknown path than from /v2/ itself.
		if err := auth.Check(identity, auth.RegistryPing); err != nil {
			return answer{}, err
		}
		return answer{}, &failure{status: http.StatusNotFound, cause: domain.Errorf(domain.CodeUnsupported, "there is nothing at this path; see the OCI Distribution Specification 1.1")}
	}
	chosen, allowed := findRoute(t.endpoint, r.Method)
	if chosen == nil {
		if err := auth.Check(identity, auth.RegistryPing); err != nil {
			return answer{}, err
		}
		return answer{}, &failure{
			status: http.StatusMethodNotAllowed, header: http.Header{"Allow": {allowed}},
			cause: domain.Errorf(domain.CodeUnsupported, "the method is not allowed here; allowed are %s", allowed),
		}
	}
	if err := auth.Check(identity, chosen.permission); err != nil {
		return answer{}, err
	}
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return answer{}, domain.Errorf(domain.CodeInvalid, "the query is malformed: use name=value, joined by '&', special characters percent-encoded")
	}
	req := &request{Request: r, identity: identity, reference: t.reference}
	if t.endpoint != endpointBase && t.endpoint != endpointCatalog {
		if err := checkPath(r.URL); err != nil {
			return answer{}, err
		}
		if req.name, err = domain.ParseRepositoryName(t.name); err != nil {
			return answer{}, err
		}
	}
	return chosen.handle(a, req)
}
