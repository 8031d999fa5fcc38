package controllers

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
)

// conditions are those of an object of any kind, with the generation that they are about.
type conditions struct {
	generation int64
	observed   *int64
	list       *[]metav1.Condition
}

func conditionsOfPolicy(policy *registryv1alpha1.ImmutabilityPolicy) conditions {
	return conditions{generation: policy.Generation, observed: &policy.Status.ObservedGeneration, list: &policy.Status.Conditions}
}

func conditionsOfMirror(mirror *registryv1alpha1.OrgMirror) conditions {
	return conditions{generation: mirror.Generation, observed: &mirror.Status.ObservedGeneration, list: &mirror.Status.Conditions}
}

func conditionsOfReadonly(readonly *registryv1alpha1.ReadonlySuperuser) conditions {
	return conditions{generation: readonly.Generation, observed: &readonly.Status.ObservedGeneration, list: &readonly.Status.Conditions}
}

// set sets Ready and beside it, with the same reason and message, the one condition that explains it. Only then has the
// status something to say about the present generation.
func (c conditions) set(ready metav1.ConditionStatus, beside, reason, message string) {
	*c.observed = c.generation
	set := func(kind string, status metav1.ConditionStatus) {
		meta.SetStatusCondition(c.list, metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: c.generation,
		})
	}
	set(registryv1alpha1.ConditionReady, ready)
	for _, kind := range []string{registryv1alpha1.ConditionReconciling, registryv1alpha1.ConditionStalled} {
		if kind == beside {
			set(kind, metav1.ConditionTrue)
		} else {
			meta.RemoveStatusCondition(c.list, kind)
		}
	}
}

// stalledFor tells whether the object waits for somebody to act, for that reason.
func (c conditions) stalledFor(reason string) bool {
	stalled := meta.FindStatusCondition(*c.list, registryv1alpha1.ConditionStalled)
	return stalled != nil && stalled.Reason == reason
}

// failed turns the error of a phase into conditions and into what happens next. settled is called if the object was put,
// or refused for good.
func (c conditions) failed(ctx context.Context, err error, settled func()) (reconcile.Result, error) {
	var stalled *stalledError
	var waiting *waitingError
	var unavailable *unavailableError
	switch {
	case errors.As(err, &stalled):
		ctrl.LoggerFrom(ctx).Info("the object is stalled", "reason", stalled.reason, "message", stalled.message)
		settled()
		c.set(metav1.ConditionFalse, registryv1alpha1.ConditionStalled, stalled.reason, stalled.message)
		next := jitter(putInterval)
		if !stalled.until.IsZero() {
			next = min(next, untilPassed(stalled.until))
		}
		return reconcile.Result{RequeueAfter: next}, nil
	case errors.As(err, &waiting):
		if waiting.reason != "" {
			settled()
			c.set(metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, waiting.reason, waiting.message)
		}
		return reconcile.Result{RequeueAfter: jitter(waiting.after)}, nil
	case errors.As(err, &unavailable):
		c.set(metav1.ConditionUnknown, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonRegistryUnavailable, unavailable.message)
	}
	return reconcile.Result{}, err
}

// addFinalizer writes the finalizer of a new object.
func addFinalizer[T client.Object](ctx context.Context, c client.Client, object T) error {
	return changeFinalizer(ctx, c, object, controllerutil.AddFinalizer)
}

// removeFinalizer lets an object go.
func removeFinalizer[T client.Object](ctx context.Context, c client.Client, object T) error {
	return client.IgnoreNotFound(changeFinalizer(ctx, c, object, controllerutil.RemoveFinalizer))
}

func changeFinalizer(ctx context.Context, c client.Client, object client.Object, change func(client.Object, string) bool) error {
	before := object.DeepCopyObject().(client.Object) //nolint:errcheck,forcetypeassert // a copy is of the same type
	if !change(object, registryv1alpha1.Finalizer) {
		return nil
	}
	// A merge patch replaces the whole list, so it must be about the list that was read.
	return c.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// rest tells how long the status of an object has to rest while nothing but its counts changes.
func (v *visits) rest(key client.ObjectKey) time.Duration {
	return countsInterval - time.Since(v.get(key).patched)
}
