package controllers

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// describe copies what the registry says of a grant into the status, and what the Secret holds.
func (r *ReadonlySuperuserReconciler) describe(readonly *registryv1alpha1.ReadonlySuperuser, status openapi.ReadonlySuperuserStatus, held *heldCredentials) {
	s := &readonly.Status
	s.GrantUUID, s.LastSeenTime = status.UUID, kubeTime(status.LastSeen)
	s.ExpiredTime = nil
	if status.State == openapi.ReadonlySuperuserStateExpired {
		s.ExpiredTime = kubeTime(status.ExpiresAt)
	}
	s.Credentials = nil
	if held == nil {
		return
	}
	ends := held.rotateAt(readonly)
	if end := readonly.Spec.ExpiresAt; end != nil && end.Time.Before(ends) {
		ends = end.Time
	}
	s.Credentials = &registryv1alpha1.ReadonlyCredentialsStatus{
		Namespace: held.secret.Namespace, SecretName: held.secret.Name, TokenID: held.tokenID,
		IssuedTime: *kubeTime(&held.issuedAt), ExpirationTime: *kubeTime(&ends),
	}
}

// assessReadonly says in the conditions whether the subject reads everything and writes nothing.
func assessReadonly(readonly *registryv1alpha1.ReadonlySuperuser, status openapi.ReadonlySuperuserStatus, conflict *waitingError) error {
	c := conditionsOfReadonly(readonly)
	subject := readonly.Spec.Subject
	switch {
	case status.State == openapi.ReadonlySuperuserStateExpired:
		c.set(metav1.ConditionFalse, "", registryv1alpha1.ReasonExpired,
			fmt.Sprintf("The access of %s has ended at its time; a later spec.expiresAt grants it again.", subject))
	case conflict != nil:
		return conflict
	case !status.Resolved:
		return &waitingError{
			reason: registryv1alpha1.ReasonSubjectNotFound,
			message: fmt.Sprintf("The registry has no user %s. Make one there, or set spec.credentials, so that the operator does. "+
				"The access is granted to whoever gets that name.", subject.Name),
			after: seenInterval,
		}
	default:
		reads := "reads everything"
		if readonly.Access() == registryv1alpha1.ReadonlyMetadataOnly {
			reads = "reads everything but blobs"
		}
		until := ""
		if end := readonly.Spec.ExpiresAt; end != nil {
			until = ", until " + end.UTC().Format(time.RFC3339)
		}
		c.set(metav1.ConditionTrue, "", registryv1alpha1.ReasonGranted, fmt.Sprintf("%s %s and writes nothing%s.", subject, reads, until))
	}
	return nil
}

// lookAgain is when to look at a readonly superuser again, if nothing tells of it before: when it was last seen is of
// interest, and what has its time happens at it.
func (r *ReadonlySuperuserReconciler) lookAgain(readonly *registryv1alpha1.ReadonlySuperuser, status openapi.ReadonlySuperuserStatus, held *heldCredentials, now time.Time) time.Duration {
	pause := jitter(seenInterval)
	if status.State == openapi.ReadonlySuperuserStateExpired {
		return jitter(putInterval)
	}
	soon := func(at time.Time) {
		// Some time later, so that clocks that differ a little do no harm.
		if until := at.Sub(now) + time.Second; until > 0 {
			pause = min(pause, until)
		}
	}
	if end := readonly.Spec.ExpiresAt; end != nil {
		soon(end.Time)
	}
	if held != nil {
		soon(held.rotateAt(readonly))
		if held.previous != "" {
			soon(held.issuedAt.Add(rotationGrace))
		}
	}
	return pause
}
