package mgmtapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// retryAfter is what 429 and 503 ask clients to wait.
const retryAfter = time.Second

// problemKind is what a code means in HTTP and in Quay's words.
type problemKind struct {
	status    int
	errorType openapi.ErrorType
}

var (
	notFound = problemKind{http.StatusNotFound, openapi.ErrorTypeNotFound}
	invalid  = problemKind{http.StatusBadRequest, openapi.ErrorTypeInvalidRequest}
)

// problemKinds maps every code that is not simply bad input.
var problemKinds = map[domain.Code]problemKind{
	domain.CodeUnauthorized:         {http.StatusUnauthorized, openapi.ErrorTypeInvalidToken},
	domain.CodeDenied:               {http.StatusForbidden, openapi.ErrorTypeInsufficientScope},
	domain.CodeNotFound:             notFound,
	domain.CodeNameUnknown:          notFound,
	domain.CodeManifestUnknown:      notFound,
	domain.CodeManifestBlobUnknown:  notFound,
	domain.CodeBlobUnknown:          notFound,
	domain.CodeBlobUploadUnknown:    notFound,
	domain.CodeTagImmutable:         {http.StatusConflict, openapi.ErrorTypeTagImmutable},
	domain.CodePolicyLocked:         {http.StatusConflict, openapi.ErrorTypePolicyLocked},
	domain.CodeConflict:             {http.StatusConflict, openapi.ErrorTypeConflict},
	domain.CodeUnsupported:          {http.StatusConflict, openapi.ErrorTypeConflict},
	domain.CodeManagedByResource:    {http.StatusConflict, openapi.ErrorTypeManagedByResource},
	domain.CodeOrganizationNotOwned: {http.StatusConflict, openapi.ErrorTypeOrganizationNotOwned},
	domain.CodeStale:                {http.StatusConflict, openapi.ErrorTypeStale},
	domain.CodeOtherCluster:         {http.StatusConflict, openapi.ErrorTypeOtherCluster},
	domain.CodeTooManyRequests:      {http.StatusTooManyRequests, openapi.ErrorTypeTooManyRequests},
	domain.CodeUnavailable:          {http.StatusServiceUnavailable, openapi.ErrorTypeDownstreamIssue},
	domain.CodeStorageFull:          {http.StatusInsufficientStorage, openapi.ErrorTypeDownstreamIssue},
	domain.CodeLogInconsistent:      {http.StatusInternalServerError, openapi.ErrorTypeInternalError},
}

// Codes of failures that only HTTP knows.
const (
	codeMethodNotAllowed domain.Code = "METHOD_NOT_ALLOWED"
	codeTooLarge         domain.Code = "TOO_LARGE"
	codeInternal         domain.Code = "INTERNAL"
)

// fail writes the answer to an error: the one place where errors become HTTP.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	problem := describe(err)
	header := w.Header()
	switch problem.Status {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", auth.Challenge)
	case http.StatusMethodNotAllowed:
		var method *methodError
		if errors.As(err, &method) {
			header.Set("Allow", strings.Join(method.allowed, ", "))
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		wait := retryAfter
		var known *domain.Error
		if errors.As(err, &known) {
			wait = max(wait, known.RetryAfter+time.Second-1)
		}
		header.Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
	}
	if problem.Status >= http.StatusInternalServerError && r.Context().Err() == nil {
		a.logger.ErrorContext(r.Context(), "a call failed", "method", r.Method, "path", r.URL.Path, "error", err, "cause", errors.Unwrap(err))
	}
	a.write(w, r, answer{status: problem.Status, body: problem, contentType: "application/problem+json"})
}

// describe says what clients may know of an error.
func describe(err error) openapi.Problem {
	var method *methodError
	var tooLarge *http.MaxBytesError
	var known *domain.Error
	switch {
	case errors.As(err, &known):
		return describeDomain(known)
	case errors.As(err, &method):
		return problem(problemKind{http.StatusMethodNotAllowed, openapi.ErrorTypeMethodNotAllowed}, codeMethodNotAllowed, method.Error())
	case errors.As(err, &tooLarge):
		return problem(problemKind{http.StatusRequestEntityTooLarge, openapi.ErrorTypeTooLarge}, codeTooLarge,
			"the body is larger than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return describeDomain(domain.Unavailable(err))
	default:
		return problem(problemKind{http.StatusInternalServerError, openapi.ErrorTypeInternalError}, codeInternal,
			"the registry failed; its log says why")
	}
}

func describeDomain(e *domain.Error) openapi.Problem {
	kind, ok := problemKinds[e.Code]
	if !ok {
		kind = invalid
	}
	message := e.Message
	if e.Lock != nil {
		kind.errorType = openapi.ErrorTypeTagImmutable
		// Quay begins these with a capital letter, and clients match on it.
		message = strings.ToUpper(message[:1]) + message[1:]
	}
	p := problem(kind, e.Code, message)
	if e.Lock != nil {
		p.Locked = &openapi.Locked{
			Count: int64(e.Lock.Count), Tags: append([]string{}, e.Lock.Tags...),
			ManifestDigest: e.Lock.Digest.String(), Policy: policyRef(e.Lock.Policy),
		}
	}
	p.LockedUntil = optionalTime(e.LockedUntil)
	if e.Owner != nil {
		p.Owner = &openapi.Owner{Namespace: e.Owner.Namespace, UID: e.Owner.UID}
	}
	return p
}

func problem(kind problemKind, code domain.Code, detail string) openapi.Problem {
	return openapi.Problem{
		Type: "urn:tidelock:error:" + string(kind.errorType), Title: string(kind.errorType), Status: kind.status,
		Detail: detail, ErrorType: kind.errorType, ErrorMessage: detail, Code: string(code),
	}
}

func policyRef(ref *domain.PolicyRef) *openapi.PolicyRef {
	if ref == nil {
		return nil
	}
	return &openapi.PolicyRef{UUID: ref.UUID, TagPattern: ref.Pattern, Scope: ref.Scope}
}

// asQuay turns a conflict about a name that is taken into Quay's 400.
func asQuay(err error) error {
	var known *domain.Error
	if errors.As(err, &known) && known.Code == domain.CodeConflict && known.Lock == nil {
		return &domain.Error{Code: domain.CodeInvalid, Message: known.Message, Cause: known.Cause}
	}
	return err
}

// badField refuses the value of a field of the body or a parameter, named as the client wrote it.
func badField(name, format string, args ...any) error {
	e := domain.Errorf(domain.CodeInvalid, format, args...)
	e.Message = name + ": " + e.Message
	return e
}
