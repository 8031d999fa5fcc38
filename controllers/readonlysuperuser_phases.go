package controllers

import (
	"context"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// validateReadonly applies the rules of admission once more: not everything has passed it.
func validateReadonly(readonly *registryv1alpha1.ReadonlySuperuser, user string) error {
	if errs := registryv1alpha1.ValidateReadonlySuperuser(readonly, user); len(errs) > 0 {
		return &stalledError{reason: registryv1alpha1.ReasonInvalidSpec, message: errs.ToAggregate().Error()}
	}
	return nil
}

// put makes the registry's grant what the spec says, and names the token that the Secret holds, which ends older ones. If
// this process did so already a short while ago, it only reads how the grant is.
func (r *ReadonlySuperuserReconciler) put(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, held *heldCredentials, at time.Time) (status openapi.ReadonlySuperuserStatus, err error) {
	key := client.ObjectKeyFromObject(readonly)
	named := held.named(at)
	now := putState{epoch: r.Sync.Epoch(), uid: readonly.UID, generation: readonly.Generation, token: named}
	if last := r.visits.get(key); last.put == now && at.Before(last.putAgain) {
		status, err = r.Registry.GetReadonlySuperuser(ctx, readonly.Name)
		if !registryclient.IsNotFound(err) { // one that is gone only a put brings back
			return status, refusedReadonly(readonly).refusalOrNil(err)
		}
	}
	managed := openapi.ManagedReadonlySuperuser{
		Cluster: r.Cluster, UID: string(readonly.UID), Generation: readonly.Generation,
		Subject: declaredSubject(readonly.Spec.Subject), Access: domain.ReadonlyAccess(readonly.Access()),
		RevisionClaimed: registryv1alpha1.ClaimedRevision(readonly.Annotations), Applied: applied(readonly),
	}
	if end := readonly.Spec.ExpiresAt; end != nil {
		managed.ExpiresAt = &end.Time
	}
	if readonly.Spec.Credentials != nil {
		managed.Credentials = &openapi.ManagedReadonlyCredentials{TokenID: named}
	}
	// A readonly superuser is about no organization, so it claims none.
	err = r.fence().put(ctx, refusedReadonly(readonly), new(openapi.Claim), &managed.Rewound, func() (err error) {
		status, err = r.Registry.PutReadonlySuperuser(ctx, readonly.Name, managed)
		return err
	})
	if err != nil {
		r.visits.refused(key)
		return status, err
	}
	r.visits.change(key, func(v *visit) { v.put, v.putAgain = now, at.Add(jitter(putInterval)) })
	return status, nil
}

// declaredSubject writes a subject as the registry's API has it.
func declaredSubject(s registryv1alpha1.ReadonlySubject) openapi.Subject {
	return openapi.Subject{Kind: domain.SubjectKind(s.Kind), Namespace: s.Namespace, Name: s.Name}
}

// wants tells whether new credentials are due: there are none, the registry does not know them, or they are old.
func (r *ReadonlySuperuserReconciler) wants(readonly *registryv1alpha1.ReadonlySuperuser, status openapi.ReadonlySuperuserStatus, held *heldCredentials, now time.Time) bool {
	if readonly.Spec.Credentials == nil || expired(readonly, status, now) {
		return false
	}
	return held == nil || !isGood(status, held.tokenID) || !now.Before(held.rotateAt(readonly))
}

// expired tells whether the access has ended, by the registry's clock or by this one: no credentials are made for what is
// about to end.
func expired(readonly *registryv1alpha1.ReadonlySuperuser, status openapi.ReadonlySuperuserStatus, now time.Time) bool {
	return status.State == openapi.ReadonlySuperuserStateExpired || readonly.Expired(now)
}

// isGood tells whether the registry knows a token.
func isGood(status openapi.ReadonlySuperuserStatus, tokenID string) bool {
	if status.Credentials == nil {
		return false
	}
	for _, token := range status.Credentials.Tokens {
		if token.ID == tokenID {
			return true
		}
	}
	return false
}

// issue has the registry make a token, and writes it to the Secret. The tokens before it go on until the registry is told
// that the Secret has it: whenever this is interrupted, what the Secret holds works.
func (r *ReadonlySuperuserReconciler) issue(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser, status openapi.ReadonlySuperuserStatus, held *heldCredentials, now time.Time) (next *heldCredentials, conflict *waitingError, err error) {
	made, err := r.Registry.CreateReadonlySuperuserCredentials(ctx, readonly.Name, r.Cluster, string(readonly.UID))
	if err != nil {
		return nil, nil, refusedReadonly(readonly).refusal(err)
	}
	next = &heldCredentials{username: made.Username, token: string(made.Token), tokenID: made.TokenID, issuedAt: now}
	if held != nil {
		next.secret = held.secret
	}
	if held != nil && isGood(status, held.tokenID) {
		next.previous = held.tokenID
	}
	conflict, err = r.write(ctx, readonly, next)
	if conflict != nil || err != nil {
		return nil, conflict, err
	}
	return next, nil, nil
}
