package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	registryclient "github.com/tidelock/tidelock/registry/client"
	"github.com/tidelock/tidelock/registry/domain"
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
			return status, refusalOrNil(policy, err)
		}
	}
	status, err := r.putFenced(ctx, policy, managed)
	if err != nil {
		return status, err
	}
	r.visits.change(key, func(v *visit) { v.put, v.putAgain = now, time.Now().Add(jitter(putInterval)) })
	return status, nil
}

// managed says what to put. The claim is by the namespace as the cache has it: the registry decides on it with what it
// knows of owners.
func (r *ImmutabilityPolicyReconciler) managed(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) (openapi.ManagedPolicy, error) {
	namespace, err := namespaceByName(ctx, r.Client, policy.Namespace)
	if err != nil {
		return openapi.ManagedPolicy{}, fmt.Errorf("reading the policy's namespace: %w", err)
	}
	spec := policy.PolicySpec()
	managed := openapi.ManagedPolicy{
		Cluster: r.Cluster, UID: string(policy.UID), Generation: policy.Generation,
		Organization: policy.Organization(), Repository: policy.Spec.Repository,
		TagPattern: spec.TagPattern, TagPatternMatches: spec.TagPatternMatches,
		EnforcementMode: spec.EnforcementMode, ReclaimPolicy: spec.ReclaimPolicy, Events: policy.EventsMode(),
		Claim: openapi.Claim{
			NamespaceUID:  string(namespace.UID),
			Organizations: registryv1alpha1.ClaimedOrganizations(namespace.Annotations),
		},
		RevisionClaimed: registryv1alpha1.ClaimedRevision(policy.Annotations),
	}
	if applied, ok := registryv1alpha1.ParseApplied(policy.Annotations); ok {
		managed.Applied = &openapi.Applied{User: applied.Username, UserUID: applied.UID, Generation: applied.Generation}
	}
	return managed, nil
}

// putFenced puts the policy. Where the registry holds something against it that only the cluster can tell, the API
// server is asked, past the cache, and the put repeated with the answer: once for an owner that is gone, and once for
// an object that is as old as it seems (etcd was restored).
func (r *ImmutabilityPolicyReconciler) putFenced(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, managed openapi.ManagedPolicy) (openapi.PolicyStatus, error) {
	for {
		status, err := r.Sync.Put(func() (openapi.PolicyStatus, error) {
			return r.Registry.PutPolicy(ctx, policy.Namespace, policy.Name, managed)
		})
		switch {
		case registryclient.IsNotOwned(err) && managed.Claim.Gone == nil:
			owner := ownerOf(err)
			gone, lookup := r.ownerIsGone(ctx, owner)
			if lookup != nil {
				return status, lookup
			}
			if !gone {
				return status, refusal(policy, err)
			}
			managed.Claim.Gone = &openapi.Owner{Namespace: owner.Namespace, UID: owner.UID}
		case registryclient.IsStale(err) && !managed.Rewound:
			if err := r.confirm(ctx, policy); err != nil {
				return status, err
			}
			managed.Rewound = true
		default:
			return status, refusalOrNil(policy, err)
		}
	}
}

func ownerOf(err error) *domain.Owner {
	var e *registryclient.Error
	if errors.As(err, &e) {
		return e.Owner
	}
	return nil
}

// ownerIsGone tells whether the namespace that owns an organization exists no more. One of the same name that was made
// anew is another namespace.
func (r *ImmutabilityPolicyReconciler) ownerIsGone(ctx context.Context, owner *domain.Owner) (bool, error) {
	if owner == nil {
		return false, nil
	}
	namespace, err := namespaceByName(ctx, r.Uncached, owner.Namespace)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking up the owner of the organization: %w", err)
	}
	return string(namespace.UID) != owner.UID, nil
}

// confirm asks the API server whether the policy really is at the generation that the registry found too old.
func (r *ImmutabilityPolicyReconciler) confirm(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) error {
	current := &registryv1alpha1.ImmutabilityPolicy{}
	if err := r.Uncached.Get(ctx, client.ObjectKeyFromObject(policy), current); err != nil {
		return fmt.Errorf("confirming the policy's generation: %w", err)
	}
	if current.UID != policy.UID || current.Generation != policy.Generation || !current.DeletionTimestamp.IsZero() {
		return &waitingError{after: time.Second}
	}
	ctrl.LoggerFrom(ctx).Info("the registry knew a newer state of the policy; the cluster was rewound", "generation", policy.Generation, "uid", policy.UID)
	return nil
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

func namespaceByName(ctx context.Context, reader client.Reader, name string) (*metav1.PartialObjectMetadata, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	return namespace, reader.Get(ctx, client.ObjectKey{Name: name}, namespace)
}
