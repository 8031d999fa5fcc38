package controllers

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// readonlyKind is how the registry and Events name the kind.
const readonlyKind = domain.KindReadonlySuperuser

const (
	// readonlyWorkers is how many readonly superusers are reconciled at once.
	readonlyWorkers = 2
	// seenInterval is how often a Secret is looked after, and the status told when the subject was last seen.
	seenInterval = time.Minute
	// rotationGrace is how long credentials go on after a rotation: those who mount the Secret see the new ones a moment
	// later.
	rotationGrace = 5 * time.Minute
)

// ReadonlyRegistry is what the reconciler needs of the registry.
type ReadonlyRegistry interface {
	PutReadonlySuperuser(ctx context.Context, name string, readonly openapi.ManagedReadonlySuperuser) (openapi.ReadonlySuperuserStatus, error)
	GetReadonlySuperuser(ctx context.Context, name string) (openapi.ReadonlySuperuserStatus, error)
	DeleteReadonlySuperuser(ctx context.Context, name, cluster, uid string) error
	// CreateReadonlySuperuserCredentials makes another token; those that there are go on until a put names a newer one.
	CreateReadonlySuperuserCredentials(ctx context.Context, name, cluster, uid string) (openapi.ReadonlyCredentials, error)
}

// ReadonlySuperuserReconciler makes the registry's grants what the ReadonlySuperusers of the cluster declare, and keeps
// credentials in Secrets of its own namespace.
type ReadonlySuperuserReconciler struct {
	client.Client
	// Uncached reads the API server itself: Secrets, and where acting on an old state would do harm.
	Uncached client.Reader
	Registry ReadonlyRegistry
	// Cluster is the UID of the namespace kube-system.
	Cluster string
	// Namespace is the operator's, and User who it is to the API server.
	Namespace, User string
	// Hosts are the registry's, as clients know them: those that the Secrets have credentials for.
	Hosts []string
	Sync  *Synchronizer
	// Now is the clock, which credentials and ends are looked at by.
	Now func() time.Time
	// Evidence writes what is known of the audit log into the conditions of an object of the given generation.
	Evidence func(conditions *[]metav1.Condition, generation int64)

	wakeups wakeups
	visits  visits
}

// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=readonlysuperusers,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=registry.tidelock.dev,resources=readonlysuperusers/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;create;patch;delete,namespace=tidelock-system

// SetupWithManager adds the reconciler to the manager.
func (r *ReadonlySuperuserReconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		For(&registryv1alpha1.ReadonlySuperuser{}, builder.WithPredicates(predicate.Or(
			predicate.GenerationChangedPredicate{},
			predicate.NewPredicateFuncs(func(o client.Object) bool { return !controllerutil.ContainsFinalizer(o, registryv1alpha1.Finalizer) }),
		))).
		WatchesRawSource(&r.wakeups).
		WithOptions(controller.Options{MaxConcurrentReconciles: readonlyWorkers, RateLimiter: registryRateLimiter()}).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler.
func (r *ReadonlySuperuserReconciler) Reconcile(ctx context.Context, request reconcile.Request) (result reconcile.Result, err error) {
	readonly := &registryv1alpha1.ReadonlySuperuser{}
	if err := r.Get(ctx, request.NamespacedName, readonly); err != nil {
		if client.IgnoreNotFound(err) == nil && r.visits.forget(request.NamespacedName) {
			r.gone(ctx, request.NamespacedName)
		}
		return result, client.IgnoreNotFound(err)
	}
	if !readonly.DeletionTimestamp.IsZero() && !controllerutil.ContainsFinalizer(readonly, registryv1alpha1.Finalizer) {
		return result, nil
	}
	if readonly.DeletionTimestamp.IsZero() {
		if err := addFinalizer(ctx, r.Client, readonly); err != nil {
			return result, client.IgnoreNotFound(err)
		}
	}
	before := readonly.DeepCopy()
	readonly.Status.Subject = readonly.Spec.Subject.String()
	if readonly.DeletionTimestamp.IsZero() {
		result, err = r.reconcileNormal(ctx, readonly)
	} else {
		err = r.reconcileDelete(ctx, readonly)
	}
	if err != nil {
		result, err = conditionsOfReadonly(readonly).failed(ctx, err, func() { r.Sync.Settled(readonly.UID) })
	}
	if readonly.Status.ObservedGeneration == readonly.Generation {
		r.Evidence(&readonly.Status.Conditions, readonly.Generation)
	}
	return result, r.patchStatus(ctx, before, readonly, err)
}

// gone forgets a readonly superuser. Its subject is free for another object that waits.
func (r *ReadonlySuperuserReconciler) gone(ctx context.Context, key types.NamespacedName) {
	forgetReadonlyMetrics(key.Name)
	r.Sync.Gone()
	var all registryv1alpha1.ReadonlySuperuserList
	if err := r.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "readonly superusers could not be listed; those that wait follow at their next turn")
		return
	}
	for i := range all.Items {
		if conditionsOfReadonly(&all.Items[i]).stalledFor(registryv1alpha1.ReasonSubjectConflict) {
			r.wakeups.after(client.ObjectKeyFromObject(&all.Items[i]), 0)
		}
	}
}

// reconcileNormal runs the phases of a readonly superuser that is to be there. The grant waits for no Secret: it takes
// rights away, too.
func (r *ReadonlySuperuserReconciler) reconcileNormal(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) (reconcile.Result, error) {
	if err := validateReadonly(readonly, r.User); err != nil {
		return reconcile.Result{}, err
	}
	now := r.Now()
	held, conflict, err := r.held(ctx, readonly)
	if err != nil {
		return reconcile.Result{}, err
	}
	status, err := r.put(ctx, readonly, held, now)
	if err != nil {
		return reconcile.Result{}, err
	}
	r.Sync.Settled(readonly.UID)
	if conflict == nil && r.wants(readonly, status, held, now) {
		if held, conflict, err = r.issue(ctx, readonly, status, held, now); err != nil {
			return reconcile.Result{}, err
		}
		if status, err = r.put(ctx, readonly, held, now); err != nil {
			return reconcile.Result{}, err
		}
	}
	if conflict == nil {
		if held, err = r.keep(ctx, readonly, status, held, now); err != nil {
			return reconcile.Result{}, err
		}
	}
	if err := r.discard(ctx, readonly, held); err != nil {
		return reconcile.Result{}, err
	}
	r.describe(readonly, status, held)
	observeReadonly(readonly)
	if err := assessReadonly(readonly, status, conflict); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: r.lookAgain(readonly, status, held, now)}, nil
}

// reconcileDelete waits for the registry's word that the access has ended, and removes the Secret that is worth nothing
// then.
func (r *ReadonlySuperuserReconciler) reconcileDelete(ctx context.Context, readonly *registryv1alpha1.ReadonlySuperuser) error {
	if err := r.Registry.DeleteReadonlySuperuser(ctx, readonly.Name, r.Cluster, string(readonly.UID)); err != nil {
		return refusedReadonly(readonly).refusal(err)
	}
	for _, name := range secretNames(readonly) {
		if err := r.deleteSecret(ctx, readonly, name); err != nil {
			return err
		}
	}
	return removeFinalizer(ctx, r.Client, readonly)
}

func (r *ReadonlySuperuserReconciler) fence() fence { return fence{uncached: r.Uncached, sync: r.Sync} }

// patchStatus writes the status if it changed.
func (r *ReadonlySuperuserReconciler) patchStatus(ctx context.Context, before, readonly *registryv1alpha1.ReadonlySuperuser, failed error) error {
	if !controllerutil.ContainsFinalizer(readonly, registryv1alpha1.Finalizer) || equality.Semantic.DeepEqual(before.Status, readonly.Status) {
		return failed
	}
	if err := r.Status().Patch(ctx, readonly, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return failed
}

// AccessChanged tells that something happened to the grant of a readonly superuser.
func (r *ReadonlySuperuserReconciler) AccessChanged(key types.NamespacedName) {
	r.wakeups.after(key, time.Second)
}

// PutAll has every readonly superuser put again, for instance after the registry was away.
func (r *ReadonlySuperuserReconciler) PutAll(ctx context.Context) error {
	var all registryv1alpha1.ReadonlySuperuserList
	if err := r.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("listing readonly superusers: %w", err)
	}
	for i := range all.Items {
		r.wakeups.after(client.ObjectKeyFromObject(&all.Items[i]), 0)
	}
	return nil
}
