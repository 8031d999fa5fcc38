package controllers

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// describeMirror copies what the registry says of a mirror into its status.
func describeMirror(mirror *registryv1alpha1.OrgMirror, status openapi.MirrorStatus, now time.Time) {
	s := &mirror.Status
	s.MirrorUUID = status.UUID
	s.NextSyncTime, s.LastSuccessTime = kubeTime(status.NextSync), kubeTime(status.LastSuccess)
	s.LastHandledRequestedAt = status.RequestedAt
	s.LastSync = nil
	if status.Sync != nil {
		s.LastSync = syncStatus(*status.Sync, now)
	}
}

// kubeTime is a time as Kubernetes has it, without fractions of a second: what is read back must be equal to what was
// written.
func kubeTime(t *time.Time) *metav1.Time {
	if t == nil || t.IsZero() {
		return nil
	}
	written := metav1.NewTime(*t).Rfc3339Copy()
	return &written
}

var syncStates = map[domain.SyncState]registryv1alpha1.MirrorSyncState{
	domain.SyncRunning:   registryv1alpha1.SyncRunning,
	domain.SyncSucceeded: registryv1alpha1.SyncSucceeded,
	domain.SyncFailed:    registryv1alpha1.SyncFailed,
	domain.SyncCancelled: registryv1alpha1.SyncCancelled,
}

var syncTriggers = map[domain.SyncTrigger]registryv1alpha1.MirrorSyncTrigger{
	domain.SyncScheduled: registryv1alpha1.SyncScheduled,
	domain.SyncRequested: registryv1alpha1.SyncRequested,
}

func syncStatus(sync openapi.MirrorSync, now time.Time) *registryv1alpha1.MirrorSyncStatus {
	s := &registryv1alpha1.MirrorSyncStatus{
		Number: sync.Number, State: syncStates[sync.State], Trigger: syncTriggers[sync.Trigger],
		StartTime: kubeTime(sync.StartedAt), CompletionTime: kubeTime(sync.FinishedAt), Message: sync.Message,
		Repositories: mirrorCounts(sync.Progress.Repositories), Tags: mirrorCounts(sync.Progress.Tags),
		BytesCopied: sync.Progress.BytesCopied, BytesSaved: sync.Progress.BytesSaved,
	}
	for _, f := range sync.Failures {
		s.Failures = append(s.Failures, registryv1alpha1.MirrorFailure{Repository: f.Repository, Tag: f.Tag, Reason: f.Reason})
	}
	for _, c := range sync.Conflicts {
		s.Conflicts = append(s.Conflicts, registryv1alpha1.MirrorConflict{
			Repository: c.Repository, Tag: c.Tag, UpstreamDigest: c.Upstream, StandingDigest: c.Standing, Reason: c.Reason,
		})
	}
	part := fraction(sync.Progress)
	s.Progress = int32(100 * part)
	switch {
	case sync.State == domain.SyncSucceeded:
		s.Progress = 100
	case sync.State == domain.SyncRunning && sync.StartedAt != nil:
		s.Progress = min(s.Progress, 99)
		if elapsed := now.Sub(*sync.StartedAt); part >= leastPart && elapsed >= leastElapsed {
			if left := time.Duration(float64(elapsed) * (1 - part) / part).Round(time.Second); left > 0 {
				s.Remaining = &metav1.Duration{Duration: left}
			}
		}
	}
	return s
}

func mirrorCounts(c openapi.MirrorCounts) registryv1alpha1.MirrorCounts {
	return registryv1alpha1.MirrorCounts{
		Discovered: c.Discovered, Copied: c.Copied, Unchanged: c.Unchanged, Skipped: c.Skipped, Failed: c.Failed, Conflicts: c.Conflicts, Pruned: c.Pruned,
	}
}

// An estimate of what is left of a sync needs that much to go by.
const (
	leastPart    = 0.02
	leastElapsed = 5 * time.Second
)

// fraction estimates how much of a sync is done. How many tags there are is known of the repositories only that it has
// come to; the others are taken to have as many.
func fraction(p openapi.MirrorProgress) float64 {
	through := func(c openapi.MirrorCounts) int64 { return c.Copied + c.Unchanged + c.Skipped + c.Failed + c.Conflicts }
	done, repositories := through(p.Tags), through(p.Repositories)
	all := float64(p.Tags.Discovered)
	if repositories > 0 {
		all = max(all, float64(done)*float64(p.Repositories.Discovered)/float64(repositories))
	} else if p.Repositories.Discovered > 1 {
		all *= float64(p.Repositories.Discovered) // at least one of them is known
	}
	if all == 0 {
		return 0
	}
	return min(1, float64(done)/all)
}

// assess says in the conditions how the syncs of a mirror are doing.
func assess(mirror *registryv1alpha1.OrgMirror, status openapi.MirrorStatus, now time.Time) error {
	c := conditionsOfMirror(mirror)
	sync := status.Sync
	succeeded := sync != nil && sync.State == domain.SyncSucceeded
	switch {
	case status.Lost:
		return &stalledError{
			reason:  registryv1alpha1.ReasonOrganizationNotOwned,
			message: fmt.Sprintf("namespace %s may not manage organization %s any more; %s", mirror.Namespace, mirror.Organization(), refusedMirror(mirror).lost),
		}
	case status.Suspended:
		ready, before := metav1.ConditionFalse, "No sync has succeeded yet."
		if succeeded {
			ready, before = metav1.ConditionTrue, "The last sync succeeded."
		} else if status.LastSuccess != nil {
			before = "The last sync did not succeed."
		}
		c.set(ready, "", registryv1alpha1.ReasonSuspended, "Nothing is synced until spec.suspend is removed. "+before)
	case underWay(status, now):
		assessRunning(mirror, c, status)
	case succeeded:
		c.set(metav1.ConditionTrue, "", registryv1alpha1.ReasonSynced, synced(mirror, *sync))
	case sync == nil:
		c.set(metav1.ConditionFalse, "", registryv1alpha1.ReasonScheduled, "Nothing was synced yet: status.nextSyncTime says when the schedule begins. "+
			"To sync now, set the annotation "+registryv1alpha1.RequestedAtAnnotation+" to another value.")
	case sync.State == domain.SyncCancelled:
		c.set(metav1.ConditionFalse, "", registryv1alpha1.ReasonSyncCancelled, "The last sync was cancelled; status.nextSyncTime says when the next one is due. "+
			"To sync now, set the annotation "+registryv1alpha1.RequestedAtAnnotation+" to another value.")
	default:
		c.set(metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncFailed, failedSync(*sync))
	}
	return nil
}

// assessRunning says in the conditions that a sync runs or is about to. It takes nothing back that a sync of the same spec
// has achieved.
func assessRunning(mirror *registryv1alpha1.OrgMirror, c conditions, status openapi.MirrorStatus) {
	ready := meta.FindStatusCondition(mirror.Status.Conditions, registryv1alpha1.ConditionReady)
	switch {
	case ready != nil && ready.ObservedGeneration == mirror.Generation && ready.Reason == registryv1alpha1.ReasonSynced:
		c.set(metav1.ConditionTrue, "", registryv1alpha1.ReasonSynced, ready.Message)
	case status.Failures > 0:
		c.set(metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncFailed,
			"The last sync failed and is repeated now; status.lastSync says how far it is.")
	default:
		c.set(metav1.ConditionFalse, registryv1alpha1.ConditionReconciling, registryv1alpha1.ReasonSyncing,
			"The first sync of this spec runs or is about to begin; status.lastSync says how far it is.")
	}
}

// underWay tells that a sync runs, was asked for or is due.
func underWay(status openapi.MirrorStatus, now time.Time) bool {
	return status.Sync != nil && status.Sync.State == domain.SyncRunning || status.Requested || status.NextSync != nil && !status.NextSync.After(now)
}

// synced says what a sync that succeeded has achieved.
func synced(mirror *registryv1alpha1.OrgMirror, sync openapi.MirrorSync) string {
	source := mirror.Spec.Source
	upstream := source.URL
	if source.Namespace != "" {
		upstream = source.Namespace + " at " + upstream
	}
	message := fmt.Sprintf("Organization %s has what is selected of %s.", mirror.Organization(), upstream)
	if n := sync.Progress.Tags.Conflicts; n > 0 {
		message += fmt.Sprintf(" Locked tags that differ from the upstream's stay as they are: %d, listed in status.lastSync.conflicts.", n)
	}
	return message
}

// failedSync says what to do about a sync that failed.
func failedSync(sync openapi.MirrorSync) string {
	message := cmp.Or(strings.TrimSuffix(sync.Message, "."), "The last sync failed")
	if len(sync.Failures) > 0 {
		message += "; status.lastSync.failures has the first reasons"
	}
	return message + ". It is repeated with growing pauses; status.nextSyncTime says when."
}

// lookAgain is when to look at a mirror again, if nothing tells of it before.
func lookAgain(status openapi.MirrorStatus, now time.Time) time.Duration {
	pause := jitter(putInterval)
	switch {
	case status.Suspended:
		return pause
	case status.Sync != nil && status.Sync.State == domain.SyncRunning:
		return jitter(countsInterval)
	case underWay(status, now):
		return jitter(soonInterval)
	}
	if status.NextSync != nil {
		for _, at := range []time.Time{status.NextSync.Add(-beforeSync), *status.NextSync} {
			// Some time later, so that clocks that differ a little do no harm.
			if until := at.Sub(now) + time.Second; until > time.Second {
				return min(pause, until)
			}
		}
	}
	return pause
}

// onlyMirrorCountsDiffer tells whether two statuses tell the same story with other numbers.
func onlyMirrorCountsDiffer(a, b registryv1alpha1.OrgMirrorStatus) bool {
	return equality.Semantic.DeepEqual(withoutMirrorCounts(a), withoutMirrorCounts(b))
}

func withoutMirrorCounts(status registryv1alpha1.OrgMirrorStatus) registryv1alpha1.OrgMirrorStatus {
	if sync := status.LastSync; sync != nil {
		status.LastSync = &registryv1alpha1.MirrorSyncStatus{
			Number: sync.Number, State: sync.State, Trigger: sync.Trigger, StartTime: sync.StartTime, CompletionTime: sync.CompletionTime, Message: sync.Message,
		}
		if sync.State != registryv1alpha1.SyncRunning { // what it came to is no mere count
			*status.LastSync = *sync
		}
	}
	return status
}
