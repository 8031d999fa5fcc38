package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/openapi"
)

// validate applies the rules of admission once more: not everything has passed it.
func validate(policy *registryv1alpha1.ImmutabilityPolicy) error {
	if errs := registryv1alpha1.ValidateImmutabilityPolicy(policy); len(errs) > 0 {
		return &stalledError{reason: registryv1alpha1.ReasonInvalidSpec, message: errs.ToAggregate().Error()}
	}
	return nil
}

// put makes the registry's policy what the spec says, unless this process did so already a short while ago: then it
// only reads how far the policy has come.
func (r *ImmutabilityPolicyReconciler) put(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) (openapi.PolicyStatus, error) {
	managed, err := r.managed(ctx, policy)
	if err != nil {
		return openapi.PolicyStatus{}, err
	}
	key := client.ObjectKeyFromObject(policy)
	now := putState{epoch: r.Sync.Epoch(), uid: policy.UID, generation: policy.Generation, claim: fmt.Sprint(managed.Claim)}
	if last := r.visits.get(key); last.put == now && time.Now().Before(last.putAgain) {
		status, err := r.Registry.PolicyStatus(ctx, policy.Namespace, policy.Name)
		if !registryclient.IsNotFound(err) {
			return status, refusedPolicy(policy).refusalOrNil(err)
		}
	}
	var status openapi.PolicyStatus
	err = r.fence().put(ctx, refusedPolicy(policy), &managed.Claim, &managed.Rewound, func() (err error) {
		status, err = r.Registry.PutPolicy(ctx, policy.Namespace, policy.Name, managed)
		return err
	})
	if err != nil {
		r.visits.refused(key)
		return status, err
	}
	r.visits.change(key, func(v *visit) { v.put, v.putAgain = now, time.Now().Add(jitter(putInterval)) })
	return status, nil
}

// managed says what to put. The claim is by the namespace as the cache has it: the registry decides on it with what it
// knows of owners.
func (r *ImmutabilityPolicyReconciler) managed(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) (openapi.ManagedPolicy, error) {
	namespace, err := r.fence().namespaceOf(ctx, r.Client, policy)
	if err != nil {
		return openapi.ManagedPolicy{}, err
	}
	spec := policy.PolicySpec()
	var lockedUntil *time.Time
	if !spec.LockedUntil.IsZero() {
		lockedUntil = &spec.LockedUntil
	}
	return openapi.ManagedPolicy{
		Cluster: r.Cluster, UID: string(policy.UID), Generation: policy.Generation,
		Organization: policy.Organization(), Repository: policy.Spec.Repository,
		TagPattern: spec.TagPattern, TagPatternMatches: spec.TagPatternMatches,
		EnforcementMode: spec.EnforcementMode, ReclaimPolicy: spec.ReclaimPolicy, LockedUntil: lockedUntil, Events: policy.EventsMode(),
		Claim: claim(namespace), RevisionClaimed: registryv1alpha1.ClaimedRevision(policy.Annotations), Applied: applied(policy),
	}, nil
}

// follow waits for the sweep of a policy: shortly at first, then for half of the time that it took already.
func follow(status openapi.PolicyStatus) error {
	if status.Swept {
		return nil
	}
	const shortest, longest = 250 * time.Millisecond, 5 * time.Second
	wait := shortest
	if i := slices.IndexFunc(status.Sweeps, func(s openapi.Sweep) bool { return s.StartedAt != nil && s.FinishedAt == nil }); i >= 0 {
		wait = min(max(time.Since(*status.Sweeps[i].StartedAt)/2, shortest), longest)
	}
	return &waitingError{
		reason:  registryv1alpha1.ReasonSweeping,
		message: "The policy is in force; its sweep over the existing tags goes on. status.lastSweep says how far it is.",
		after:   wait,
	}
}
