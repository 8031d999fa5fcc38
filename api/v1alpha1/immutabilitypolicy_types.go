package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EnforcementMode says what a policy does with the tags that it covers.
//
// +kubebuilder:validation:Enum=Enforce;DryRun
type EnforcementMode string

const (
	// Enforce locks covered tags: nobody can move or delete them.
	Enforce EnforcementMode = "Enforce"
	// DryRun locks nothing; the status and the audit log say what would have been locked and refused.
	DryRun EnforcementMode = "DryRun"
)

// ReclaimPolicy says what becomes of the locks when a policy is deleted, narrowed or no longer enforced.
//
// +kubebuilder:validation:Enum=Retain;Release
type ReclaimPolicy string

const (
	// Retain keeps tags locked until an administrator of the organization releases them.
	Retain ReclaimPolicy = "Retain"
	// Release unlocks tags that nothing else locks.
	Release ReclaimPolicy = "Release"
)

// EventsMode says what becomes a Kubernetes Event of the tags that a policy locks and releases.
//
// +kubebuilder:validation:Enum=PerTag;Summary
type EventsMode string

const (
	// EventsPerTag makes an Event of each tag.
	EventsPerTag EventsMode = "PerTag"
	// EventsSummary makes one Event of each sweep that changed something, and none of a pushed tag.
	EventsSummary EventsMode = "Summary"
)

// ImmutabilityPolicySpec declares which tags may never change again.
//
// +kubebuilder:validation:XValidation:rule=`(has(self.organization) ? self.organization : "") == (has(oldSelf.organization) ? oldSelf.organization : "")`,message="organization cannot be changed, set or removed: create another policy beside this one"
// +kubebuilder:validation:XValidation:rule=`(has(self.repository) ? self.repository : "") == (has(oldSelf.repository) ? oldSelf.repository : "")`,message="repository cannot be changed, set or removed: create another policy beside this one"
// +kubebuilder:validation:XValidation:rule="(has(self.organization) ? size(self.organization) : 0) + (has(self.repository) ? size(self.repository) : 0) < 255",message="organization and repository together are at most 254 characters long"
// +kubebuilder:validation:XValidation:rule=`!has(self.lockedUntil) || !has(self.enforcementMode) || self.enforcementMode == "Enforce"`,message="lockedUntil needs enforcementMode Enforce"
type ImmutabilityPolicySpec struct {
	// organization is the registry's organization whose tags the policy covers: the first segment of an image's name.
	// If it is empty, it is the name of the namespace; status.organization says which one it is. Another organization than
	// that has to be claimed with the annotation registry.tidelock.dev/organizations on the namespace. It cannot be changed.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=254
	// +kubebuilder:validation:XValidation:rule=`self == "" || self.matches("^[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*$")`,message="must be lower-case letters and digits, separated by '.', '_', '__' or '-'"
	Organization string `json:"organization,omitempty"`

	// repository narrows the policy to one repository: its path inside the organization, for instance "backend/api" for
	// images named team-a/backend/api. If it is empty, the policy covers all repositories of the organization, also those
	// that are created later. It cannot be changed.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule=`self == "" || self.matches("^[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*$")`,message="must be segments of lower-case letters and digits, separated by '.', '_', '__' or '-', joined by '/'"
	Repository string `json:"repository,omitempty"`

	// tagPattern is a regular expression in RE2 syntax (https://golang.org/s/re2syntax) that has to match the whole name of
	// a tag, case-sensitively: "v1" covers v1 but not v1.0. Look-arounds and back-references are not supported.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule=`type("".matches(self)) == bool`,message="must be a regular expression in RE2 syntax; look-arounds and back-references are not supported, set tagPatternMatches to false to cover what a pattern does not match"
	TagPattern string `json:"tagPattern"`

	// tagPatternMatches set to false inverts the pattern: the policy covers each tag whose name does not match.
	//
	// +optional
	// +kubebuilder:default=true
	TagPatternMatches *bool `json:"tagPatternMatches,omitempty"`

	// enforcementMode is Enforce to lock the covered tags, those that exist already included, or DryRun to lock nothing
	// and only report in status.wouldLock, status.wouldRefuse and the audit log.
	//
	// +optional
	// +kubebuilder:default=Enforce
	EnforcementMode EnforcementMode `json:"enforcementMode,omitempty"`

	// reclaimPolicy says what becomes of the locks when the policy is deleted, narrowed or no longer enforced. Retain keeps
	// the tags locked until an administrator of the organization releases them. Release unlocks those that nothing else
	// locks. A deletion takes effect 5 minutes later under either: re-creating the policy in the meantime undoes it.
	//
	// +optional
	// +kubebuilder:default=Retain
	ReclaimPolicy ReclaimPolicy `json:"reclaimPolicy,omitempty"`

	// events is PerTag to make a Kubernetes Event of each tag that the policy locks or releases, or Summary to make one of
	// each sweep in place of those; a refused attempt is one under both. The audit log has every tag in any case. A change
	// counts for what happens from then on: a sweep keeps to what the policy said when it was queued.
	//
	// +optional
	// +kubebuilder:default=PerTag
	Events EventsMode `json:"events,omitempty"`

	// lockedUntil locks the policy itself. Until then nobody weakens or deletes it, neither here nor through the registry's
	// API: tagPattern and tagPatternMatches are fixed (cover more with another policy), enforcementMode stays Enforce,
	// reclaimPolicy can only become Retain, and lockedUntil can only be moved to a later time. At most 5 years away, unless
	// the operator says otherwise (--policies-max-lock). A time that has passed is taken, and locks nothing. In UTC and whole
	// seconds, for instance 2030-01-31T00:00:00Z.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Format=date-time
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$`
	LockedUntil *metav1.Time `json:"lockedUntil,omitempty"`
}

// SweepState says how far a sweep is.
//
// +kubebuilder:validation:Enum=Pending;Running;Done;Stopped
type SweepState string

const (
	// SweepPending has not begun.
	SweepPending SweepState = "Pending"
	// SweepRunning visits the tags in small batches.
	SweepRunning SweepState = "Running"
	// SweepDone has visited every tag.
	SweepDone SweepState = "Done"
	// SweepStopped was overtaken by a newer revision of the policy.
	SweepStopped SweepState = "Stopped"
)

// SweepStatus is one pass of the registry over the tags that were there when the policy was made or changed. The policy
// protects from the moment the registry has it; the sweep places the holds and writes the evidence for each tag.
type SweepStatus struct {
	// revision is the revision of the policy that the sweep carries out.
	Revision int64 `json:"revision"`

	// state is Pending, Running, Done, or Stopped where a newer revision overtook it.
	State SweepState `json:"state"`

	// startTime is when the sweep began.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// completionTime is when the sweep ended.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// total is how many tags there were to visit when the sweep began.
	Total int64 `json:"total"`

	// examined is how many tags the sweep has visited.
	Examined int64 `json:"examined"`

	// tagsChanged is how many holds the sweep has placed or removed.
	TagsChanged int64 `json:"tagsChanged"`

	// firstAuditIndex is the index in the registry's audit log of the first change that the sweep made; unset if it made
	// none.
	// +optional
	FirstAuditIndex *int64 `json:"firstAuditIndex,omitempty"`

	// lastAuditIndex is the index in the registry's audit log of the last change that the sweep made; unset if it made
	// none.
	// +optional
	LastAuditIndex *int64 `json:"lastAuditIndex,omitempty"`
}

// EventsStatus counts the Kubernetes Events about tags that the policy locked, released or refused to change: one for each
// such entry of the audit log, or under Summary one for each sweep and each refusal.
type EventsStatus struct {
	// emitted is how many entries of the audit log have become Events.
	Emitted int64 `json:"emitted"`

	// pending is how many entries of the audit log still have to become Events.
	Pending int64 `json:"pending"`

	// rate is how many Events a second the operator makes at present, those of other policies included, for as long as
	// some of this one are pending.
	// +optional
	Rate *int64 `json:"rate,omitempty"`

	// nextAuditIndex is the index in the audit log up to which emitted counts: it goes on from there after a restart.
	NextAuditIndex int64 `json:"nextAuditIndex"`
}

// ImmutabilityPolicyStatus is what the registry makes of a policy.
type ImmutabilityPolicyStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, which is True once every covered tag is locked, and while they are true Reconciling and Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// organization is the organization that the policy is about.
	// +optional
	Organization string `json:"organization,omitempty"`

	// policyUUID is the policy's identity in the registry, as its API and its audit log name it.
	// +optional
	PolicyUUID string `json:"policyUUID,omitempty"`

	// revision counts the changes of the policy in the registry.
	// +optional
	Revision int64 `json:"revision,omitempty"`

	// covered is how many tags the policy covers.
	// +optional
	Covered *int64 `json:"covered,omitempty"`

	// locked is how many of the covered tags have the policy's hold.
	// +optional
	Locked *int64 `json:"locked,omitempty"`

	// pending is how many of the covered tags still wait for their hold. They are protected all the same.
	// +optional
	Pending *int64 `json:"pending,omitempty"`

	// wouldLock is, under DryRun, how many tags the policy would lock that nothing else locks.
	// +optional
	WouldLock *int64 `json:"wouldLock,omitempty"`

	// wouldRefuse is, under DryRun, how many changes the policy would have refused since its spec was last changed.
	// +optional
	WouldRefuse *int64 `json:"wouldRefuse,omitempty"`

	// lockExpired is spec.lockedUntil once that binds nobody any more: the time has passed, the lock was broken with
	// "tidelock registry unlock", or the registry has refused the spec. The operator writes it; admission, which has no clock
	// while the operator is away, lets the policy be weakened and deleted only if it is equal to spec.lockedUntil.
	// +optional
	LockExpired *metav1.Time `json:"lockExpired,omitempty"`

	// lastSweep is the latest pass of the registry over the tags of the policy's scope.
	// +optional
	LastSweep *SweepStatus `json:"lastSweep,omitempty"`

	// events counts the Kubernetes Events of the policy.
	// +optional
	Events *EventsStatus `json:"events,omitempty"`
}

// ImmutabilityPolicy locks image tags in the registry: a tag whose name the pattern covers can neither be moved to
// another image nor deleted, by nobody and by no way, and its image cannot be deleted either. It protects from the moment
// the registry has it, tags that exist already included; each locked tag is an entry in the audit log and, unless
// events is Summary, a Kubernetes Event.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=immutabilitypolicies,scope=Namespaced,shortName=impol,categories=tidelock
// +kubebuilder:printcolumn:name="Organization",type=string,JSONPath=`.status.organization`,description="The organization that the policy is about"
// +kubebuilder:printcolumn:name="Repository",type=string,priority=1,JSONPath=`.spec.repository`,description="The repository inside the organization; empty for all"
// +kubebuilder:printcolumn:name="Pattern",type=string,JSONPath=`.spec.tagPattern`,description="The regular expression for tag names"
// +kubebuilder:printcolumn:name="Matches",type=boolean,priority=1,JSONPath=`.spec.tagPatternMatches`,description="Whether tags that match are covered, or those that do not"
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.enforcementMode`,description="Enforce or DryRun"
// +kubebuilder:printcolumn:name="Reclaim",type=string,priority=1,JSONPath=`.spec.reclaimPolicy`,description="What becomes of the locks when the policy goes"
// +kubebuilder:printcolumn:name="Locked",type=integer,JSONPath=`.status.locked`,description="Covered tags with the policy's hold"
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.pending`,description="Covered tags that still wait for their hold"
// +kubebuilder:printcolumn:name="Would lock",type=integer,priority=1,JSONPath=`.status.wouldLock`,description="Tags that a dry run would lock"
// +kubebuilder:printcolumn:name="Locked until",type=string,priority=1,JSONPath=`.spec.lockedUntil`,description="Until when the policy can be neither weakened nor deleted"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether every covered tag is locked"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready or not"
// +kubebuilder:printcolumn:name="Status",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,description="What there is to know or to do"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ImmutabilityPolicy struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec declares which tags may never change again.
	// +required
	Spec ImmutabilityPolicySpec `json:"spec"`

	// status is what the registry makes of the policy. The operator writes it.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status ImmutabilityPolicyStatus `json:"status,omitempty"`
}

// ImmutabilityPolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type ImmutabilityPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ImmutabilityPolicy `json:"items"`
}

// Organization returns the organization that the policy is about: by default the one of its namespace's name.
func (p *ImmutabilityPolicy) Organization() string {
	if p.Spec.Organization != "" {
		return p.Spec.Organization
	}
	return p.Namespace
}

// Scope says in words what the policy is about: an organization, or one repository of it.
func (p *ImmutabilityPolicy) Scope() string {
	if p.Spec.Repository != "" {
		return "repository " + p.Organization() + "/" + p.Spec.Repository
	}
	return "organization " + p.Organization()
}
