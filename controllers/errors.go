package controllers

import (
	"errors"
	"net/http"
	"time"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
)

// An error of a phase has one of three classes. Any other error is transient and tried again with growing pauses, and so
// is an unavailableError, which a condition tells of besides.

// stalledError means that nothing changes until somebody acts.
type stalledError struct {
	reason, message string
}

func (e *stalledError) Error() string { return e.message }

// waitingError means that all is well and not done yet. Without a reason the conditions stay as they are.
type waitingError struct {
	reason, message string
	after           time.Duration
}

func (e *waitingError) Error() string { return e.message }

// unavailableError means that the registry does not answer, or not to this operator.
type unavailableError struct {
	message string
	cause   error
}

func (e *unavailableError) Error() string { return e.cause.Error() }

func (e *unavailableError) Unwrap() error { return e.cause }

// refusal classifies an error of the registry. Messages hold nothing that changes from one attempt to the next; the
// cause is for the log.
func refusal(policy *registryv1alpha1.ImmutabilityPolicy, err error) error {
	var e *registryclient.Error
	isAnswer := errors.As(err, &e)
	meanwhile := "What was stored before stays in force."
	if !policy.DeletionTimestamp.IsZero() {
		meanwhile = "The deletion waits for it."
	}
	switch {
	case isAnswer && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden):
		return &unavailableError{cause: err, message: "The registry does not accept the operator's token: both have to read the same --operator-token-file. " + meanwhile}
	case registryclient.IsTransient(err):
		return &unavailableError{cause: err, message: "The registry does not answer; the operator goes on trying. " + meanwhile}
	case registryclient.IsNotOwned(err):
		message := e.Message
		if policy.Status.PolicyUUID != "" {
			message += "; what was stored before stays in force, and can only be deleted"
		}
		return &stalledError{reason: registryv1alpha1.ReasonOrganizationNotOwned, message: message}
	case registryclient.IsOtherCluster(err):
		return &stalledError{reason: registryv1alpha1.ReasonOtherCluster, message: e.Message}
	case registryclient.IsInvalid(err):
		return &stalledError{reason: registryv1alpha1.ReasonInvalidSpec, message: e.Message}
	}
	return &stalledError{reason: registryv1alpha1.ReasonRefused, message: e.Message}
}

// refusalOrNil is refusal for an error that may be none.
func refusalOrNil(policy *registryv1alpha1.ImmutabilityPolicy, err error) error {
	if err == nil {
		return nil
	}
	return refusal(policy, err)
}
