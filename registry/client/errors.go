package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// Error is what the registry answered instead of what was asked for.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is the registry's code; empty if something else than the registry answered.
	Code domain.Code
	// Message says what is wrong and what to do.
	Message string
	// Owner is who owns the organization, with ORGANIZATION_NOT_OWNED.
	Owner *domain.Owner
	// LockedUntil is when the policy can be changed again, with POLICY_LOCKED.
	LockedUntil time.Time
	// RetryAfter is how long the registry asks to wait; zero if it does not.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("registry answered %d: %s", e.Status, e.Message)
	}
	return fmt.Sprintf("registry answered %s: %s", e.Code, e.Message)
}

// maxProblem bounds what is read of an error's body, in bytes.
const maxProblem = 1 << 20

func readError(response *http.Response, body io.Reader) error {
	e := &Error{Status: response.StatusCode, Message: http.StatusText(response.StatusCode)}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	var problem openapi.Problem
	if json.NewDecoder(io.LimitReader(body, maxProblem)).Decode(&problem) == nil && problem.Code != "" {
		e.Code, e.Message = domain.Code(problem.Code), problem.Detail
		if problem.LockedUntil != nil {
			e.LockedUntil = *problem.LockedUntil
		}
		if problem.Owner != nil {
			e.Owner = &domain.Owner{Namespace: problem.Owner.Namespace, UID: problem.Owner.UID}
		}
	}
	return e
}

// IsNotOwned tells that the organization belongs to another namespace; Error.Owner says to which.
func IsNotOwned(err error) bool { return hasCode(err, domain.CodeOrganizationNotOwned) }

// IsPolicyLocked tells that the policy cannot be weakened or deleted; Error.LockedUntil says until when.
func IsPolicyLocked(err error) bool { return hasCode(err, domain.CodePolicyLocked) }

// IsStale tells that the registry has seen a newer state than the caller's.
func IsStale(err error) bool { return hasCode(err, domain.CodeStale) }

// IsOtherCluster tells that the registry belongs to another cluster.
func IsOtherCluster(err error) bool { return hasCode(err, domain.CodeOtherCluster) }

// IsLogInconsistent tells that the audit log was changed by somebody else than the registry.
func IsLogInconsistent(err error) bool { return hasCode(err, domain.CodeLogInconsistent) }

// IsInvalid tells that the request can never be taken as it is.
func IsInvalid(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code != "" && (e.Status == http.StatusBadRequest || e.Status == http.StatusRequestEntityTooLarge)
}

// IsNotFound tells that what was asked for is not in the registry.
func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code != "" && e.Status == http.StatusNotFound
}

// IsTransient tells that the same call may succeed later without a change of its arguments: the registry was not
// reached, is busy or starting, or does not take the operator's token yet. Every other error lasts until the
// Kubernetes object or the state of the registry changes.
func IsTransient(err error) bool {
	var e *Error
	switch {
	case err == nil:
		return false
	case !errors.As(err, &e) || e.Code == "":
		return true
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= http.StatusInternalServerError
}

func hasCode(err error, code domain.Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
