package controllers

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/openapi"
)

// Limits of the API server for an Event, in bytes.
const (
	maxNote     = 1024
	maxInstance = 128
)

// EventController is the reporting controller of all Events.
const EventController = "registry.tidelock.dev/operator"

// AuditIndexAnnotation on an Event is the index of its entry in the registry's audit log.
const AuditIndexAnnotation = "registry.tidelock.dev/audit-index"

// Reasons of Events.
const (
	// EventTagLocked: a tag got a policy's hold, by a push or by a sweep.
	EventTagLocked = "TagLocked"
	// EventTagReleased: a tag lost a policy's hold.
	EventTagReleased = "TagReleased"
	// EventTagsLocked: a sweep of a policy that asks for summaries placed its holds.
	EventTagsLocked = "TagsLocked"
	// EventTagsReleased: a sweep of a policy that asks for summaries removed its holds.
	EventTagsReleased = "TagsReleased"
	// EventPushRefused: a push would have changed a locked tag.
	EventPushRefused = "PushRefused"
	// EventDeleteRefused: a deletion would have removed a locked tag, or the image of one.
	EventDeleteRefused = "DeleteRefused"
	// EventPolicyChangeRefused: somebody would have weakened or deleted a policy that is locked.
	EventPolicyChangeRefused = "PolicyChangeRefused"
	// EventPolicyUnlocked: somebody broke the lock of a policy.
	EventPolicyUnlocked = "PolicyUnlocked"
	// EventSyncSucceeded: a sync of a mirror ended with all that is selected.
	EventSyncSucceeded = "SyncSucceeded"
	// EventSyncFailed: a sync of a mirror ended without all.
	EventSyncFailed = "SyncFailed"
	// EventAccessGranted: somebody became a readonly superuser.
	EventAccessGranted = "AccessGranted"
	// EventAccessChanged: a readonly superuser reads more or less now, or until another time.
	EventAccessChanged = "AccessChanged"
	// EventAccessRevoked: somebody is a readonly superuser no more.
	EventAccessRevoked = "AccessRevoked"
	// EventAccessExpired: the access of a readonly superuser has ended by itself.
	EventAccessExpired = "AccessExpired"
)

// becomesEvent tells whether an entry of the audit log is one Kubernetes Event: each tag that a policy locks, releases or
// refuses to change, or in place of the first two the summary of the sweep, each refused change of a policy that is locked
// and each lock that was broken, the end of each sync of a mirror, and each change of a readonly superuser's access. Counted
// repeats of a refusal are not: their first is. The entry alone decides, so the answer is the same whenever and by whom it
// is read.
func becomesEvent(entry openapi.LogEntry) bool {
	switch kind := audit.Kind(entry.Kind); kind {
	case audit.KindTagCreatedImmutable:
		return !summarised(entry)
	case audit.KindChangeImmutability:
		return text(entry, "trigger") == audit.TriggerPolicy && !summarised(entry)
	case audit.KindApplyPolicy:
		return summarised(entry)
	case audit.KindOrgMirrorSuccess, audit.KindOrgMirrorFailed, audit.KindUnlockPolicy,
		audit.KindGrantReadonly, audit.KindRevokeReadonly, audit.KindExpireReadonly:
		return true
	case audit.KindChangeReadonly:
		_, changed := entry.Metadata["previous_access"] // else only the object did
		return changed
	default:
		_, repeat := entry.Metadata["repeat_of"]
		return strings.HasSuffix(entry.Kind, "_failed") && entry.Policy != "" && !repeat
	}
}

// summarised tells whether the entry belongs to a policy that asks for one Event of each sweep.
func summarised(entry openapi.LogEntry) bool {
	return text(entry, audit.EventsField) == string(domain.EventsSummary)
}

// origin is where Events come from.
type origin struct {
	// log is the origin of the audit log.
	log string
	// namespace is the operator's, workload what runs it, instance which of its pods.
	namespace string
	workload  corev1.ObjectReference
	instance  string
}

// newEvent makes the Event of an entry. The same entry always makes the same Event, so that one that was made before a
// crash is not made twice.
func newEvent(from origin, entry openapi.LogEntry) *eventsv1.Event {
	name := sha256.Sum256([]byte(from.log + "\x00" + entry.Hash))
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:   from.namespace,
			Name:        "tidelock-" + hex.EncodeToString(name[:20]),
			Annotations: map[string]string{AuditIndexAnnotation: strconv.FormatInt(entry.Index, 10)},
		},
		EventTime:           metav1.NewMicroTime(entry.Time),
		ReportingController: EventController,
		ReportingInstance:   from.instance,
		Regarding:           from.workload,
		Type:                corev1.EventTypeNormal,
	}
	if entry.Manager != nil {
		event.Regarding = corev1.ObjectReference{
			APIVersion: registryv1alpha1.GroupVersion.String(), Kind: entry.Manager.Kind,
			Namespace: entry.Manager.Namespace, Name: entry.Manager.Name, UID: types.UID(entry.Manager.UID),
		}
		event.Namespace = entry.Manager.Namespace
	}
	if event.Regarding.Namespace == "" {
		event.Namespace = metav1.NamespaceDefault
	}
	tell(event, entry)
	event.Note = registryv1alpha1.Shorten(event.Note, maxNote)
	return event
}

// tell says what happened, and to which tag.
func tell(event *eventsv1.Event, entry openapi.LogEntry) {
	tag := subject(entry)
	digest, pattern := text(entry, "manifest_digest"), text(entry, "policy_pattern")
	switch audit.Kind(entry.Kind) {
	case audit.KindTagCreatedImmutable:
		event.Reason, event.Action = EventTagLocked, "Push"
		event.Note = fmt.Sprintf("%s was pushed and is locked at %s by pattern %s", tag, digest, pattern)
	case audit.KindChangeImmutability:
		event.Action = "Sweep"
		if text(entry, "hold") == "removed" {
			event.Reason = EventTagReleased
			event.Note = fmt.Sprintf("%s at %s is no longer held by pattern %s", tag, digest, pattern)
			if locked, _ := entry.Metadata["immutable"].(bool); locked {
				event.Note += "; something else still locks it"
			}
			return
		}
		event.Reason = EventTagLocked
		event.Note = fmt.Sprintf("%s is locked at %s by pattern %s", tag, digest, pattern)
	case audit.KindApplyPolicy:
		tellSummary(event, entry)
	case audit.KindOrgMirrorSuccess, audit.KindOrgMirrorFailed:
		tellSync(event, entry)
	case audit.KindUpdatePolicyFailed, audit.KindDeletePolicyFailed:
		event.Type, event.Reason, event.Action = corev1.EventTypeWarning, EventPolicyChangeRefused, "Update"
		if audit.Kind(entry.Kind) == audit.KindDeletePolicyFailed {
			event.Action = "Delete"
		}
		event.Note = fmt.Sprintf("refused %s to %s policy %s of %s: %s", applicant(entry), text(entry, "operation"), entry.Policy, tag, text(entry, "reason"))
	case audit.KindUnlockPolicy:
		event.Type, event.Reason, event.Action = corev1.EventTypeWarning, EventPolicyUnlocked, "Unlock"
		event.Note = fmt.Sprintf("the lock of policy %s of %s until %s was broken: %s", entry.Policy, tag, text(entry, "locked_until"), text(entry, "reason"))
	case audit.KindGrantReadonly, audit.KindChangeReadonly, audit.KindRevokeReadonly, audit.KindExpireReadonly:
		tellAccess(event, entry)
	default:
		event.Type = corev1.EventTypeWarning
		event.Reason, event.Action = EventDeleteRefused, "Delete"
		if audit.Kind(entry.Kind) == audit.KindPushFailed {
			event.Reason, event.Action = EventPushRefused, "Push"
		}
		event.Note = fmt.Sprintf("refused %s %s to %s %s: %s", entry.Performer.Kind, entry.Performer.Name, text(entry, "operation"), tag, text(entry, "reason"))
		if attempted := text(entry, "attempted_digest"); attempted != "" {
			event.Note += "; attempted " + attempted
		}
	}
}

// applicant names who made a change: the Kubernetes user that the operator speaks for, or the registry's own caller.
func applicant(entry openapi.LogEntry) string {
	if user := text(entry, "applied_by"); user != "" {
		return "Kubernetes user " + user
	}
	return fmt.Sprintf("%s %s", entry.Performer.Kind, entry.Performer.Name)
}

// tellSummary says what a sweep did.
func tellSummary(event *eventsv1.Event, entry openapi.LogEntry) {
	event.Reason, event.Action = EventTagsLocked, "Sweep"
	did, until := "locked by", ""
	if text(entry, "sweep") == string(openapi.SweepKindRelease) {
		event.Reason, did = EventTagsReleased, "no longer held by"
	}
	if text(entry, "state") == string(domain.SweepStopped) {
		until = " before a change of the policy stopped the sweep"
	}
	count := number(entry, "tags_affected_count")
	tags, _ := entry.Metadata["sample_tags"].([]any)
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = fmt.Sprint(tag)
	}
	sample := strings.Join(names, ", ")
	if rest := int(count) - len(names); rest > 0 {
		sample += fmt.Sprintf(" and %d more", rest)
	}
	event.Note = fmt.Sprintf("tags in %s %s pattern %s%s: %d (%s)", subject(entry), did, text(entry, "tag_pattern"), until, count, sample)
}

// tellSync says how a sync of a mirror ended, and what became of the tags.
func tellSync(event *eventsv1.Event, entry openapi.LogEntry) {
	event.Reason, event.Action = EventSyncSucceeded, "Sync"
	ended := "succeeded"
	if audit.Kind(entry.Kind) == audit.KindOrgMirrorFailed {
		event.Type, event.Reason = corev1.EventTypeWarning, EventSyncFailed
		ended = "failed"
	}
	event.Note = fmt.Sprintf("sync %d of organization %s %s: tags %d", number(entry, "sync"), entry.Organization, ended, number(entry, "tags_count"))
	for _, outcome := range []string{"copied", "unchanged", "skipped", "failed", "conflicts", "pruned"} {
		if n := number(entry, "tags_"+outcome+"_count"); n > 0 {
			event.Note += fmt.Sprintf(", %s %d", outcome, n)
		}
	}
	if message := text(entry, "message"); message != "" {
		event.Note += "; " + message
	}
}

// tellAccess says what became of a readonly superuser's access.
func tellAccess(event *eventsv1.Event, entry openapi.LogEntry) {
	who := text(entry, "subject_kind") + " " + text(entry, "username")
	reads := " reads everything"
	if text(entry, "access") == string(domain.ReadonlyMetadataOnly) {
		reads += " but blobs"
	}
	reads += " and writes nothing"
	if end := text(entry, "expires_at"); end != "" {
		reads += ", until " + end
	}
	by := ""
	if user := text(entry, "applied_by"); user != "" {
		by = "; by " + user
	}
	switch audit.Kind(entry.Kind) {
	case audit.KindGrantReadonly:
		event.Reason, event.Action, event.Note = EventAccessGranted, "Grant", who+reads+by
	case audit.KindChangeReadonly:
		event.Reason, event.Action, event.Note = EventAccessChanged, "Change", who+" now"+reads+by
	case audit.KindRevokeReadonly:
		event.Reason, event.Action, event.Note = EventAccessRevoked, "Revoke", who+" is no readonly superuser any more"+by
	default:
		event.Reason, event.Action, event.Note = EventAccessExpired, "Expire", who+" has no access any more: it has ended at "+text(entry, "expires_at")
	}
}

// subject names what an entry is about as clients do, for instance "team-a/app:v1.0.0".
func subject(entry openapi.LogEntry) string {
	name := entry.Organization
	if entry.Repository != "" {
		name += "/" + entry.Repository
	}
	if entry.Tag != "" {
		name += ":" + entry.Tag
	}
	return name
}

func text(entry openapi.LogEntry, field string) string {
	value, _ := entry.Metadata[field].(string)
	return value
}

// number reads a whole number as JSON has it.
func number(entry openapi.LogEntry, field string) int64 {
	value, _ := entry.Metadata[field].(float64)
	return int64(value)
}
