package ociapi

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

// answer is what a handler wants to have written.
type answer struct {
	status int
	header http.Header
	body   []byte
	// content, where there is one, is sent in place of body, from where it stands, and closed.
	content blob.Reader
	// length is how much of content to send, and for HEAD what GET would send.
	length int64
}

// write sends the answer. An error means that the client did not get all of it.
func (a answer) write(w http.ResponseWriter, r *http.Request) error {
	header := w.Header()
	maps.Copy(header, a.header)
	// Browsers must not guess that some layer is a page.
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	length := max(a.length, int64(len(a.body)))
	if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		header.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	w.WriteHeader(a.status)
	if a.content != nil {
		defer func() { _ = a.content.Close() }()
	}
	var err error
	switch {
	case r.Method == http.MethodHead:
	case a.content != nil:
		// The kernel copies a file to the connection by itself.
		_, err = io.CopyN(w, a.content, a.length)
	default:
		_, err = w.Write(a.body)
	}
	return err
}

// failure is an error with its own status or headers, where the code alone does not say enough.
type failure struct {
	status int
	header http.Header
	cause  *domain.Error
}

func (f *failure) Error() string { return f.cause.Error() }

func (f *failure) Unwrap() error { return f.cause }

// statuses are the answers to the codes.
var statuses = map[domain.Code]int{
	domain.CodeBlobUnknown:          http.StatusNotFound,
	domain.CodeBlobUploadInvalid:    http.StatusBadRequest,
	domain.CodeBlobUploadUnknown:    http.StatusNotFound,
	domain.CodeDigestInvalid:        http.StatusBadRequest,
	domain.CodeManifestBlobUnknown:  http.StatusNotFound,
	domain.CodeManifestInvalid:      http.StatusBadRequest,
	domain.CodeManifestUnknown:      http.StatusNotFound,
	domain.CodeNameInvalid:          http.StatusBadRequest,
	domain.CodeNameUnknown:          http.StatusNotFound,
	domain.CodeSizeInvalid:          http.StatusBadRequest,
	domain.CodeTagInvalid:           http.StatusBadRequest,
	domain.CodeUnauthorized:         http.StatusUnauthorized,
	domain.CodeDenied:               http.StatusForbidden,
	domain.CodeUnsupported:          http.StatusMethodNotAllowed,
	domain.CodeTooManyRequests:      http.StatusTooManyRequests,
	domain.CodeTagImmutable:         http.StatusUnprocessableEntity,
	domain.CodeInvalid:              http.StatusBadRequest,
	domain.CodeNotFound:             http.StatusNotFound,
	domain.CodeConflict:             http.StatusConflict,
	domain.CodePreconditionFailed:   http.StatusPreconditionFailed,
	domain.CodeManagedByResource:    http.StatusConflict,
	domain.CodeOrganizationNotOwned: http.StatusForbidden,
	domain.CodeStale:                http.StatusConflict,
	domain.CodeOtherCluster:         http.StatusConflict,
	domain.CodeUnavailable:          http.StatusServiceUnavailable,
	domain.CodeStorageFull:          http.StatusInsufficientStorage,
}

// retryAfter is the least Retry-After of 429 and 503.
const retryAfter = time.Second

// The error body of the specification, "Error Codes".
type (
	errorBody struct {
		Errors []errorItem `json:"errors"`
	}
	errorItem struct {
		Code    domain.Code `json:"code"`
		Message string      `json:"message"`
		Detail  any         `json:"detail,omitempty"`
	}
	lockDetail struct {
		Tags   []string      `json:"tags"`
		Count  int           `json:"count"`
		Digest digest.Digest `json:"digest,omitempty"`
		Policy *policyDetail `json:"policy,omitempty"`
	}
	policyDetail struct {
		UUID    string             `json:"uuid"`
		Pattern string             `json:"pattern"`
		Scope   domain.PolicyScope `json:"scope"`
	}
)

// failure makes the answer to an error, and logs what the client is not told.
func (a *API) failure(r *http.Request, err error) answer {
	var known *domain.Error
	if !errors.As(err, &known) {
		// No error of the machinery is an answer: whatever it was, it is not known to have worked.
		known = domain.Unavailable(err)
	}
	var special *failure
	if !errors.As(err, &special) {
		special = &failure{}
	}
	status := special.status
	if status == 0 {
		status = statuses[known.Code]
	}
	header := http.Header{"Content-Type": {"application/json"}}
	maps.Copy(header, special.header)
	switch status {
	case http.StatusUnauthorized:
		if header.Get("WWW-Authenticate") == "" {
			header.Set("WWW-Authenticate", a.challenge(r))
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		header.Set("Retry-After", strconv.Itoa(int(max(retryAfter, known.RetryAfter+time.Second-1)/time.Second)))
	}
	if status >= http.StatusInternalServerError && r.Context().Err() == nil {
		a.logger.ErrorContext(r.Context(), "a request could not be answered", "method", r.Method, "path", r.URL.Path, "error", cmp.Or(known.Cause, err))
	}
	body, err := marshal(errorBody{Errors: []errorItem{{Code: known.Code, Message: known.Message, Detail: detail(known.Lock)}}})
	if err != nil { // nothing in it can fail to marshal
		panic(err)
	}
	return answer{status: status, header: header, body: body}
}

// challenge is the WWW-Authenticate header for credentials that are wrong.
func (a *API) challenge(r *http.Request) string {
	if r.Pattern == patterns[endpointToken] {
		return auth.Challenge
	}
	kind := ""
	if scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		kind = "invalid_token"
	}
	return auth.BearerChallenge(a.auth.ExternalURL(r), kind)
}

func detail(lock *domain.LockError) any {
	if lock == nil {
		return nil
	}
	d := lockDetail{Tags: lock.Tags, Count: lock.Count, Digest: lock.Digest}
	if lock.Policy != nil {
		d.Policy = &policyDetail{UUID: lock.Policy.UUID, Pattern: lock.Policy.Pattern, Scope: lock.Policy.Scope}
	}
	return d
}

// marshal makes JSON that people can read: "<" stays what it is, since no browser takes these answers for a page.
func marshal(value any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), nil
}
