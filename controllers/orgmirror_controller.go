package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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

// mirrorKind is how the registry and Events name the kind.
const mirrorKind = "OrgMirror"

const (
	// mirrorWorkers is how many mirrors are reconciled at once.
	mirrorWorkers = 4
	// beforeSync is how long before a sync the Secrets are read and put again, so that one that was rotated is used.
	beforeSync = 20 * time.Second
	// secretInterval is how often a Secret that is missing, or has not what is needed, is looked for again. Secrets are not
	// watched: the operator may read those that mirrors name, and list none.
	secretInterval = 10 * time.Second
	// soonInterval is how often a sync that is due is looked for.
	soonInterval = 5 * time.Second
)

// MirrorRegistry is what the reconciler needs of the registry.
type MirrorRegistry interface {
	PutOrgMirror(ctx context.Context, namespace, name string, mirror openapi.ManagedMirror) (openapi.MirrorStatus, error)
	GetOrgMirror(ctx context.Context, namespace, name string) (openapi.MirrorStatus, error)
	DeleteOrgMirror(ctx context.Context, namespace, name, cluster, uid string) error
}

// OrgMirrorReconciler makes the registry's mirrors what the OrgMirrors of the cluster declare. It copies nothing: the
// registry does, and this follows it.
type OrgMirrorReconciler struct {
	client.Client
	// Uncached reads the API server itself: Secrets, and where acting on an old state would do harm.
	Uncached client.Reader
	Registry MirrorRegistry
	// Cluster is the UID of the namespace kube-system.
	Cluster string
	Sync    *Synchronizer
	// Now is the clock, which syncs are looked at by.
	Now func() time.Time
	// Evidence writes what is known of the audit log into the conditions of a mirror of the given generation.
	Evidence func(conditions *[]metav1.Condition, generation int64)

	wakeups wakeups
	visits  visits
}

// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=orgmirrors,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=orgmirrors/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=configmaps;secrets,verbs=get

// SetupWithManager adds the reconciler to the manager.
func (r *OrgMirrorReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&registryv1alpha1.OrgMirror{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{}, syncRequested(),
			predicate.NewPredicateFuncs(func(o client.Object) bool { return !controllerutil.ContainsFinalizer(o, registryv1alpha1.Finalizer) }),
		))).
		WatchesMetadata(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.affectedBy), builder.WithPredicates(claimsChanged())).
		WatchesRawSource(&r.wakeups).
		WithOptions(controller.Options{MaxConcurrentReconciles: mirrorWorkers, RateLimiter: registryRateLimiter()}).
		Complete(r)
}

// syncRequested passes mirrors whose annotation asks for a sync.
func syncRequested() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		DeleteFunc: func(event.DeleteEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			return e.ObjectOld.GetAnnotations()[registryv1alpha1.RequestedAtAnnotation] != e.ObjectNew.GetAnnotations()[registryv1alpha1.RequestedAtAnnotation]
		},
	}
}

// affectedBy lists the mirrors that a namespace's claims are about: its own, and those that wait for another owner.
func (r *OrgMirrorReconciler) affectedBy(ctx context.Context, namespace client.Object) (requests []reconcile.Request) {
	r.each(ctx, func(mirror *registryv1alpha1.OrgMirror) {
		if mirror.Namespace == namespace.GetName() || conditionsOfMirror(mirror).stalledFor(registryv1alpha1.ReasonOrganizationNotOwned) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(mirror)})
		}
	})
	return requests
}

// each visits all mirrors as the cache has them.
func (r *OrgMirrorReconciler) each(ctx context.Context, visit func(*registryv1alpha1.OrgMirror)) {
	var mirrors registryv1alpha1.OrgMirrorList
	if err := r.List(ctx, &mirrors, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "mirrors could not be listed; they follow at their next turn")
		return
	}
	for i := range mirrors.Items {
		visit(&mirrors.Items[i])
	}
}

// Reconcile implements reconcile.Reconciler.
func (r *OrgMirrorReconciler) Reconcile(ctx context.Context, request reconcile.Request) (result reconcile.Result, err error) {
	mirror := &registryv1alpha1.OrgMirror{}
	if err := r.Get(ctx, request.NamespacedName, mirror); err != nil {
		if client.IgnoreNotFound(err) == nil && r.visits.forget(request.NamespacedName) {
			r.gone(ctx, request.NamespacedName)
		}
		return result, client.IgnoreNotFound(err)
	}
	if !mirror.DeletionTimestamp.IsZero() && !controllerutil.ContainsFinalizer(mirror, registryv1alpha1.Finalizer) {
		return result, nil
	}
	if mirror.DeletionTimestamp.IsZero() {
		if err := addFinalizer(ctx, r.Client, mirror); err != nil {
			return result, client.IgnoreNotFound(err)
		}
	}
	before := mirror.DeepCopy()
	mirror.Status.Organization = mirror.Organization()
	if mirror.DeletionTimestamp.IsZero() {
		result, err = r.reconcileNormal(ctx, mirror)
	} else {
		err = r.reconcileDelete(ctx, mirror)
	}
	if err != nil {
		result, err = conditionsOfMirror(mirror).failed(ctx, err, func() { r.Sync.Settled(mirror.UID) })
	}
	if mirror.Status.ObservedGeneration == mirror.Generation {
		r.Evidence(&mirror.Status.Conditions, mirror.Generation)
	}
	return r.patchStatus(ctx, before, mirror, result, err)
}

// gone forgets a mirror. Its organization is free for another that waits.
func (r *OrgMirrorReconciler) gone(ctx context.Context, key types.NamespacedName) {
	forgetMirrorMetrics(key)
	r.Sync.Gone()
	r.each(ctx, func(mirror *registryv1alpha1.OrgMirror) {
		if conditionsOfMirror(mirror).stalledFor(registryv1alpha1.ReasonOrganizationMirrored) {
			r.wakeups.after(client.ObjectKeyFromObject(mirror), 0)
		}
	})
}

// reconcileNormal runs the phases of a mirror that is to be there. A suspended one is put as well: the registry is what
// stops its syncs.
func (r *OrgMirrorReconciler) reconcileNormal(ctx context.Context, mirror *registryv1alpha1.OrgMirror) (reconcile.Result, error) {
	if err := validateMirror(mirror); err != nil {
		return reconcile.Result{}, err
	}
	status, err := r.put(ctx, mirror)
	if err != nil {
		return reconcile.Result{}, err
	}
	r.Sync.Settled(mirror.UID)
	now := r.Now()
	describeMirror(mirror, status, now)
	observeMirror(client.ObjectKeyFromObject(mirror), status)
	if err := assess(mirror, status, now); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: lookAgain(status, now)}, nil
}

// reconcileDelete waits for nothing but the registry's word that the mirror is deleted. What it has copied stays.
func (r *OrgMirrorReconciler) reconcileDelete(ctx context.Context, mirror *registryv1alpha1.OrgMirror) error {
	if err := r.Registry.DeleteOrgMirror(ctx, mirror.Namespace, mirror.Name, r.Cluster, string(mirror.UID)); err != nil {
		return refusedMirror(mirror).refusal(err)
	}
	r.Sync.Settled(mirror.UID) // before the finalizer: where the namespace is gone, nothing can be written to the object
	return removeFinalizer(ctx, r.Client, mirror)
}

func (r *OrgMirrorReconciler) fence() fence { return fence{uncached: r.Uncached, sync: r.Sync} }

// patchStatus writes the status if it changed. While nothing but its counts changes, it is left to rest.
func (r *OrgMirrorReconciler) patchStatus(ctx context.Context, before, mirror *registryv1alpha1.OrgMirror, result reconcile.Result, failed error) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(mirror, registryv1alpha1.Finalizer) || equality.Semantic.DeepEqual(before.Status, mirror.Status) {
		return result, failed
	}
	key := client.ObjectKeyFromObject(mirror)
	if onlyMirrorCountsDiffer(before.Status, mirror.Status) {
		if rest := r.visits.rest(key); rest > 0 {
			if failed == nil && (result.RequeueAfter == 0 || rest < result.RequeueAfter) {
				result.RequeueAfter = rest
			}
			return result, failed
		}
	}
	if err := r.Status().Patch(ctx, mirror, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("writing the status: %w", err)
	}
	r.visits.change(key, func(v *visit) { v.patched = time.Now() })
	return result, failed
}

// SyncChanged tells that a sync of a mirror began, went on or ended.
func (r *OrgMirrorReconciler) SyncChanged(key types.NamespacedName) {
	r.wakeups.after(key, time.Second)
}

// PutAll has every mirror put again, for instance after the registry was away.
func (r *OrgMirrorReconciler) PutAll(ctx context.Context) error {
	var mirrors registryv1alpha1.OrgMirrorList
	if err := r.List(ctx, &mirrors, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing mirrors: %w", err)
	}
	for i := range mirrors.Items {
		r.wakeups.after(client.ObjectKeyFromObject(&mirrors.Items[i]), 0)
	}
	return nil
}
