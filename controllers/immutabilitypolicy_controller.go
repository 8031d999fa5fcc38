// Package controllers brings what the objects of the cluster declare into the registry, and what the registry did back
// into the cluster: as status, and as Events.
package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// policyKind is how the registry and Events name the kind.
const policyKind = "ImmutabilityPolicy"

const (
	// putInterval is how often everything is put into the registry again, so that nothing drifts for longer.
	putInterval = 10 * time.Minute
	// countsInterval is how long the status rests while nothing but its counts changes.
	countsInterval = 10 * time.Second
	// backlogInterval is how often the status says how fast Events are made while some are pending, also if none is.
	backlogInterval = time.Minute
	// policyWorkers is how many policies are reconciled at once.
	policyWorkers = 4
)

// PolicyRegistry is what the reconciler needs of the registry.
type PolicyRegistry interface {
	PutPolicy(ctx context.Context, namespace, name string, policy openapi.ManagedPolicy) (openapi.PolicyStatus, error)
	PolicyStatus(ctx context.Context, namespace, name string) (openapi.PolicyStatus, error)
	DeletePolicy(ctx context.Context, namespace, name, cluster, uid string, namespaceGoes bool) error
}

// ImmutabilityPolicyReconciler makes the registry's policies what the ImmutabilityPolicies of the cluster declare.
type ImmutabilityPolicyReconciler struct {
	client.Client
	// Uncached reads the API server itself, where acting on an old state would do harm.
	Uncached client.Reader
	Registry PolicyRegistry
	// Cluster is the UID of the namespace kube-system.
	Cluster string
	Sync    *Synchronizer
	Ledger  *EventLedger
	// Evidence writes what is known of the audit log into the conditions of a policy of the given generation.
	Evidence func(conditions *[]metav1.Condition, generation int64)

	wakeups wakeups
	visits  visits
}

// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=immutabilitypolicies,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=immutabilitypolicies/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch

// SetupWithManager adds the reconciler to the manager.
func (r *ImmutabilityPolicyReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&registryv1alpha1.ImmutabilityPolicy{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{},
			predicate.NewPredicateFuncs(func(o client.Object) bool { return !controllerutil.ContainsFinalizer(o, registryv1alpha1.Finalizer) }),
		))).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.affectedBy), builder.WithPredicates(claimsChanged())).
		WatchesRawSource(&r.wakeups).
		WithOptions(controller.Options{MaxConcurrentReconciles: policyWorkers, RateLimiter: registryRateLimiter()}).
		Complete(r)
}

// claimsChanged passes namespaces whose claims to organizations may have changed.
func claimsChanged() predicate.Predicate {
	return predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return e.ObjectOld.GetAnnotations()[registryv1alpha1.OrganizationsAnnotation] != e.ObjectNew.GetAnnotations()[registryv1alpha1.OrganizationsAnnotation]
		},
		// The policies of a new namespace come after it. Its predecessor may have owned what another one claims, though,
		// and it is the deletion that tells.
		CreateFunc: func(event.CreateEvent) bool { return false },
	}
}

// affectedBy lists the policies that a namespace's claims are about: its own, and those that wait for another owner.
func (r *ImmutabilityPolicyReconciler) affectedBy(ctx context.Context, namespace client.Object) []reconcile.Request {
	var policies registryv1alpha1.ImmutabilityPolicyList
	if err := r.List(ctx, &policies, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "policies could not be listed; they follow the namespace's claims at their next turn")
		return nil
	}
	var requests []reconcile.Request
	for i := range policies.Items {
		policy := &policies.Items[i]
		if policy.Namespace == namespace.GetName() || conditionsOfPolicy(policy).stalledFor(registryv1alpha1.ReasonOrganizationNotOwned) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(policy)})
		}
	}
	return requests
}

// Reconcile implements reconcile.Reconciler.
func (r *ImmutabilityPolicyReconciler) Reconcile(ctx context.Context, request reconcile.Request) (result reconcile.Result, err error) {
	policy := &registryv1alpha1.ImmutabilityPolicy{}
	if err := r.Get(ctx, request.NamespacedName, policy); err != nil {
		if client.IgnoreNotFound(err) == nil && r.visits.forget(request.NamespacedName) {
			forgetEventMetrics(request.NamespacedName)
			r.Sync.Gone()
		}
		return result, client.IgnoreNotFound(err)
	}
	if !policy.DeletionTimestamp.IsZero() && !controllerutil.ContainsFinalizer(policy, registryv1alpha1.Finalizer) {
		return result, nil
	}
	if policy.DeletionTimestamp.IsZero() {
		if err := addFinalizer(ctx, r.Client, policy); err != nil {
			return result, client.IgnoreNotFound(err)
		}
	}
	before := policy.DeepCopy()
	policy.Status.Organization = policy.Organization()
	if policy.DeletionTimestamp.IsZero() {
		err = r.reconcileNormal(ctx, policy)
	} else {
		err = r.reconcileDelete(ctx, policy)
	}
	if isStalled(err, registryv1alpha1.ReasonInvalidSpec) {
		// What is not in force locks nothing. A lock that is in force the registry holds itself.
		policy.Status.LockExpired = policy.Spec.LockedUntil
	}
	result, err = r.finish(ctx, policy, err)
	if policy.Status.ObservedGeneration == policy.Generation {
		r.Evidence(&policy.Status.Conditions, policy.Generation)
	}
	return r.patchStatus(ctx, before, policy, result, err)
}

// reconcileNormal runs the phases of a policy that is to be there.
func (r *ImmutabilityPolicyReconciler) reconcileNormal(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) error {
	if err := validate(policy); err != nil {
		return err
	}
	status, err := r.put(ctx, policy)
	if err != nil {
		return err
	}
	describe(policy, status)
	if err := r.countEvents(ctx, policy); err != nil {
		return err
	}
	return follow(status)
}

// reconcileDelete waits for nothing but the registry's word that it will delete the policy.
func (r *ImmutabilityPolicyReconciler) reconcileDelete(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) error {
	namespaceGoes, err := r.namespaceGoes(ctx, policy)
	if err != nil {
		return err
	}
	if err := r.Registry.DeletePolicy(ctx, policy.Namespace, policy.Name, r.Cluster, string(policy.UID), namespaceGoes); err != nil {
		return refusedPolicy(policy).refusal(err)
	}
	r.Sync.Settled(policy.UID) // before the finalizer: where the namespace is gone, nothing can be written to the object
	return removeFinalizer(ctx, r.Client, policy)
}

// namespaceGoes reports whether the policy is deleted because its namespace is, in which nobody can hold it.
func (r *ImmutabilityPolicyReconciler) namespaceGoes(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) (bool, error) {
	namespace, err := namespaceByName(ctx, r.Client, policy.Namespace)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the policy's namespace: %w", err)
	}
	return !namespace.DeletionTimestamp.IsZero(), nil
}

func (r *ImmutabilityPolicyReconciler) fence() fence {
	return fence{uncached: r.Uncached, sync: r.Sync}
}

// patchStatus writes the status if it changed. While nothing but its counts changes, it is left to rest.
func (r *ImmutabilityPolicyReconciler) patchStatus(ctx context.Context, before, policy *registryv1alpha1.ImmutabilityPolicy, result reconcile.Result, failed error) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(policy, registryv1alpha1.Finalizer) || equality.Semantic.DeepEqual(before.Status, policy.Status) {
		return result, failed
	}
	key := client.ObjectKeyFromObject(policy)
	if onlyCountsDiffer(before.Status, policy.Status) {
		if rest := r.visits.rest(key); rest > 0 {
			if failed == nil && (result.RequeueAfter == 0 || rest < result.RequeueAfter) {
				result.RequeueAfter = rest
			}
			return result, failed
		}
	}
	if err := r.Status().Patch(ctx, policy, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("writing the status: %w", err)
	}
	r.visits.change(key, func(v *visit) { v.patched = time.Now() })
	return result, failed
}

// CountsChanged tells that something happened to a policy's tags: its status is due, but not in a hurry.
func (r *ImmutabilityPolicyReconciler) CountsChanged(key types.NamespacedName) {
	r.wakeups.after(key, max(time.Second, r.visits.rest(key)))
}

// PutAll has every policy put again, for instance after the registry was away.
func (r *ImmutabilityPolicyReconciler) PutAll(ctx context.Context) error {
	var policies registryv1alpha1.ImmutabilityPolicyList
	if err := r.List(ctx, &policies, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing policies: %w", err)
	}
	for i := range policies.Items {
		r.wakeups.after(client.ObjectKeyFromObject(&policies.Items[i]), 0)
	}
	return nil
}
