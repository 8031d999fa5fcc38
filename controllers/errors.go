package controllers

import (
	"errors"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
)

// An error of a phase has one of three classes. Any other error is transient and tried again with growing pauses, and so
// is an unavailableError, which a condition tells of besides.

// stalledError means that nothing changes until somebody acts, or until a time if there is one.
type stalledError struct {
	reason, message string
	until           time.Time
}

// isStalled tells whether an error is a stalledError with that reason.
func isStalled(err error, reason string) bool {
	var stalled *stalledError
	return errors.As(err, &stalled) && stalled.reason == reason
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

// refused is an object that the registry does not take, as messages need it.
type refused struct {
	object client.Object
	// organization is what the object is about; empty for none.
	organization string
	// stored is true where the registry has had the object before. meanwhile says what becomes of that while the registry
	// does not answer, lost what becomes of it once the organization is another's.
	stored          bool
	meanwhile, lost string
	// conflict is the reason of the condition where the registry has something else in the object's place; empty for none of
	// its own.
	conflict string
}

func refusedPolicy(policy *registryv1alpha1.ImmutabilityPolicy) refused {
	return refused{
		object: policy, organization: policy.Organization(), stored: policy.Status.PolicyUUID != "", meanwhile: "What was stored before stays in force.",
		lost: "what was stored before stays in force, and can only be deleted",
	}
}

func refusedMirror(mirror *registryv1alpha1.OrgMirror) refused {
	return refused{
		object: mirror, organization: mirror.Organization(), stored: mirror.Status.MirrorUUID != "", meanwhile: "What was mirrored before stays as it is.",
		lost:     "nothing is synced any more, and the mirror can only be deleted",
		conflict: registryv1alpha1.ReasonOrganizationMirrored,
	}
}

func refusedReadonly(readonly *registryv1alpha1.ReadonlySuperuser) refused {
	return refused{
		object: readonly, stored: readonly.Status.GrantUUID != "", meanwhile: "What was granted before stays in force until its time.",
		conflict: registryv1alpha1.ReasonSubjectConflict,
	}
}

// refusal classifies an error of the registry. Messages hold nothing that changes from one attempt to the next; the
// cause is for the log.
func (r refused) refusal(err error) error {
	var e *registryclient.Error
	isAnswer := errors.As(err, &e)
	meanwhile := r.meanwhile
	if !r.object.GetDeletionTimestamp().IsZero() {
		meanwhile = "The deletion waits for it."
	}
	switch {
	case isAnswer && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden):
		return &unavailableError{cause: err, message: "The registry does not accept the operator's token: both have to read the same --operator-token-file. " + meanwhile}
	case registryclient.IsTransient(err):
		return &unavailableError{cause: err, message: "The registry does not answer; the operator goes on trying. " + meanwhile}
	case registryclient.IsNotOwned(err):
		message := e.Message
		if r.stored {
			message += "; " + r.lost
		}
		return &stalledError{reason: registryv1alpha1.ReasonOrganizationNotOwned, message: message}
	case registryclient.IsPolicyLocked(err):
		return &stalledError{reason: registryv1alpha1.ReasonPolicyLocked, message: e.Message, until: e.LockedUntil}
	case registryclient.IsOtherCluster(err):
		return &stalledError{reason: registryv1alpha1.ReasonOtherCluster, message: e.Message}
	case registryclient.IsInvalid(err):
		return &stalledError{reason: registryv1alpha1.ReasonInvalidSpec, message: e.Message}
	case r.conflict != "" && isAnswer && e.Code == domain.CodeConflict:
		return &stalledError{reason: r.conflict, message: e.Message}
	}
	return &stalledError{reason: registryv1alpha1.ReasonRefused, message: e.Message}
}

// refusalOrNil is refusal for an error that may be none.
func (r refused) refusalOrNil(err error) error {
	if err == nil {
		return nil
	}
	return r.refusal(err)
}
