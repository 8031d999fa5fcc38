package controllers

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// describe copies what the registry says of a policy into its status.
func describe(policy *registryv1alpha1.ImmutabilityPolicy, status openapi.PolicyStatus) {
	s := &policy.Status
	if s.PolicyUUID != status.Policy.UUID {
		// Another policy in the registry has its own entries in the log.
		s.Events = nil
	}
	s.PolicyUUID = status.Policy.UUID
	s.Revision = status.Policy.Revision
	s.Covered = ptr.To(status.Coverage.Covered)
	s.Locked, s.Pending = ptr.To(status.Coverage.Held), ptr.To(status.Pending)
	s.WouldLock, s.WouldRefuse = nil, nil
	if policy.PolicySpec().EnforcementMode == domain.DryRun {
		s.WouldLock, s.WouldRefuse = ptr.To(status.WouldLock), ptr.To(status.Policy.WouldRefuse)
	}
	// The lock that the registry has, if it is the one of this spec.
	if until := policy.Spec.LockedUntil; until == nil || status.Policy.Locked {
		s.LockExpired = nil
	} else if status.Policy.LockedUntil != nil && status.Policy.LockedUntil.Equal(until.Time) {
		s.LockExpired = until
	}
	s.LastSweep = nil
	if len(status.Sweeps) > 0 {
		s.LastSweep = sweepStatus(status.Sweeps[0])
	}
}

var sweepStates = map[domain.SweepState]registryv1alpha1.SweepState{
	domain.SweepPending: registryv1alpha1.SweepPending,
	domain.SweepRunning: registryv1alpha1.SweepRunning,
	domain.SweepDone:    registryv1alpha1.SweepDone,
	domain.SweepStopped: registryv1alpha1.SweepStopped,
}

func sweepStatus(sweep openapi.Sweep) *registryv1alpha1.SweepStatus {
	s := &registryv1alpha1.SweepStatus{
		Revision: sweep.Revision, State: sweepStates[sweep.State], Total: sweep.Total, Examined: sweep.Examined, TagsChanged: sweep.Changed,
		FirstAuditIndex: sweep.FirstIndex, LastAuditIndex: sweep.LastIndex,
	}
	// A Kubernetes time has no fractions of a second; what is read back must be equal to what was written.
	if sweep.StartedAt != nil {
		s.StartTime = ptr.To(metav1.NewTime(*sweep.StartedAt).Rfc3339Copy())
	}
	if sweep.FinishedAt != nil {
		s.CompletionTime = ptr.To(metav1.NewTime(*sweep.FinishedAt).Rfc3339Copy())
	}
	return s
}

// countEvents brings the policy's Event counts up to date.
func (r *ImmutabilityPolicyReconciler) countEvents(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy) error {
	events, err := r.Ledger.Count(ctx, policy.Status.PolicyUUID, policy.Status.Events)
	if err != nil {
		return refusedPolicy(policy).refusal(err)
	}
	policy.Status.Events = events
	observeEvents(client.ObjectKeyFromObject(policy), events)
	return nil
}

// onlyCountsDiffer tells whether two statuses tell the same story with other numbers.
func onlyCountsDiffer(a, b registryv1alpha1.ImmutabilityPolicyStatus) bool {
	return equality.Semantic.DeepEqual(withoutCounts(a), withoutCounts(b))
}

func withoutCounts(status registryv1alpha1.ImmutabilityPolicyStatus) registryv1alpha1.ImmutabilityPolicyStatus {
	status.Covered, status.Locked, status.Pending, status.WouldLock, status.WouldRefuse, status.Events = nil, nil, nil, nil, nil, nil
	if sweep := status.LastSweep; sweep != nil {
		status.LastSweep = &registryv1alpha1.SweepStatus{Revision: sweep.Revision, State: sweep.State, StartTime: sweep.StartTime, CompletionTime: sweep.CompletionTime}
	}
	return status
}

// finish turns what came of the phases into conditions and into what happens next.
func (r *ImmutabilityPolicyReconciler) finish(ctx context.Context, policy *registryv1alpha1.ImmutabilityPolicy, err error) (reconcile.Result, error) {
	settled := func() { r.Sync.Settled(policy.UID) }
	if err != nil {
		return conditionsOfPolicy(policy).failed(ctx, err, settled)
	}
	settled()
	setReady(policy)
	next := jitter(putInterval)
	if events := policy.Status.Events; events != nil && events.Pending > 0 {
		next = jitter(backlogInterval)
	}
	if until := policy.Spec.LockedUntil; until != nil && !until.Equal(policy.Status.LockExpired) {
		next = min(next, untilPassed(until.Time)) // the status has to say so then
	}
	return reconcile.Result{RequeueAfter: next}, nil
}

func setReady(policy *registryv1alpha1.ImmutabilityPolicy) {
	c := conditionsOfPolicy(policy)
	if policy.PolicySpec().EnforcementMode == domain.DryRun {
		c.set(metav1.ConditionTrue, "", registryv1alpha1.ReasonDryRun,
			fmt.Sprintf("A dry run: no tag in %s is locked by this policy. Set enforcementMode to Enforce to lock those that it covers.", policy.Scope()))
		return
	}
	c.set(metav1.ConditionTrue, "", registryv1alpha1.ReasonEnforced,
		fmt.Sprintf("Every tag in %s that the policy covers is locked.", policy.Scope()))
}
