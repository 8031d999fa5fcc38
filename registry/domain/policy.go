package domain

import "time"

// Limits of policies.
const (
	// MaxPattern is the longest tag pattern, in bytes.
	MaxPattern = 256
	// MaxPoliciesPerScope bounds the live policies of one organization, and of one repository.
	MaxPoliciesPerScope = 100
	// MaxRevisionClaimed is the longest ManagedBy.RevisionClaimed, in characters.
	MaxRevisionClaimed = 256
)

// EnforcementMode says what a policy does with the tags that it covers.
type EnforcementMode string

// The modes of a policy.
const (
	// Enforce locks covered tags.
	Enforce EnforcementMode = "Enforce"
	// DryRun locks nothing and reports what it would have locked and refused.
	DryRun EnforcementMode = "DryRun"
)

// ReclaimPolicy says what becomes of a policy's holds when the policy goes or no longer covers a tag.
type ReclaimPolicy string

// The reclaim policies.
const (
	// Retain keeps the holds: the tags stay locked until an administrator releases them.
	Retain ReclaimPolicy = "Retain"
	// Release removes this policy's holds, never another's.
	Release ReclaimPolicy = "Release"
)

// EventsMode says what becomes a Kubernetes Event of the tags that a policy locks and releases.
type EventsMode string

// The modes of Events.
const (
	// EventsPerTag makes an Event of each tag.
	EventsPerTag EventsMode = "PerTag"
	// EventsSummary makes one Event of each sweep that changed something, and none of a pushed tag.
	EventsSummary EventsMode = "Summary"
)

// PolicyScope is Quay's word for what a policy hangs on.
type PolicyScope string

// The scopes of a policy.
const (
	ScopeOrganization PolicyScope = "namespace"
	ScopeRepository   PolicyScope = "repository"
)

// PolicySpec is what somebody may declare of a policy.
type PolicySpec struct {
	// TagPattern is an RE2 expression that must match a tag's whole name, case-sensitively.
	TagPattern string
	// TagPatternMatches false inverts the pattern: the policy covers each tag that it does not match.
	TagPatternMatches bool
	EnforcementMode   EnforcementMode
	ReclaimPolicy     ReclaimPolicy
	// LockedUntil is when the policy can be weakened or deleted again, in UTC and whole microseconds; the zero time for a
	// policy that can at any time. It has no say about tags, so it belongs to the policy and to none of its revisions.
	LockedUntil time.Time
}

// Rules is the spec without what has no say about tags.
func (s PolicySpec) Rules() PolicySpec {
	s.LockedUntil = time.Time{}
	return s
}

// ManagedBy identifies the Kubernetes object that a policy, mirror or grant was made from.
type ManagedBy struct {
	Kind string
	// Namespace is empty for an object without one.
	Namespace  string
	Name       string
	UID        string
	Generation int64
	// RevisionClaimed is the source revision, a Git commit for instance, that the object named when the generation was put.
	// Nobody has checked it. At most MaxRevisionClaimed printable characters.
	RevisionClaimed string
}

// String names the object for people.
func (m ManagedBy) String() string {
	if m.Namespace == "" {
		return m.Kind + " " + m.Name
	}
	return m.Kind + " " + m.Namespace + "/" + m.Name
}

// Applied is what admission stamped an object with when its spec was changed. The zero value is none.
type Applied struct {
	// User and UserUID are the Kubernetes user's name and UID; the UID can be empty.
	User, UserUID string
	// Generation is the object's generation that the change made.
	Generation int64
}

// Policy is a stored policy with its current revision.
type Policy struct {
	ID   int64
	UUID string
	// Organization is the organization's name, Repository the path in it, empty for the whole organization.
	Organization   string
	OrganizationID int64
	Repository     string
	Revision       int64
	PolicySpec
	// Events can be changed without a new revision: it has no say about locks.
	Events EventsMode
	// Manager is nil for a policy made through the REST API.
	Manager *ManagedBy
	// Orphaned is true where the manager went away without deleting the policy.
	Orphaned bool
	// Lost is true where the manager's namespace may not manage the organization any more. The policy stays in force
	// and can only be deleted, as if it were Retain.
	Lost bool
	// UnlockedUntil is the latest LockedUntil that was broken by hand: locks up to it bind nobody.
	UnlockedUntil time.Time
	// RefusedChange names the latest attempt of the manager that the lock refused.
	RefusedChange string
	// DeleteAt is when a requested deletion takes effect, zero if none is requested.
	DeleteAt time.Time
	// DeletionIntent is who asked the cluster to delete the manager, as far as the registry was told.
	DeletionIntent DeletionIntent
	// Deleted is true for a policy that is gone and only remembered for its retained holds.
	Deleted bool
	// WouldRefuse counts what a dry run would have refused since its last change.
	WouldRefuse int64
	CreatedAt   time.Time
}

// DeletionIntent is what admission saw of the deletion of a Kubernetes object. It is told at best effort, and says nothing
// about whether the deletion came to be. The zero value is none.
type DeletionIntent struct {
	// User and UserUID are the Kubernetes user's name and UID; the UID can be empty.
	User, UserUID string
	// ToldAt is when the registry was told.
	ToldAt time.Time
}

// Locked reports whether the policy can neither be weakened nor deleted.
func (p *Policy) Locked(now time.Time) bool {
	return p.LockedUntil.After(now) && p.LockedUntil.After(p.UnlockedUntil)
}

// Scope is the policy's scope in audit entries.
func (p *Policy) Scope() PolicyScope {
	if p.Repository == "" {
		return ScopeOrganization
	}
	return ScopeRepository
}

// Ref names the policy with its current revision.
func (p *Policy) Ref() *PolicyRef {
	return &PolicyRef{UUID: p.UUID, Revision: p.Revision, Pattern: p.TagPattern, Scope: p.Scope()}
}

// RevisionState says what a revision of a policy still does.
type RevisionState string

// The states of a revision.
const (
	// RevisionCurrent is the revision in force.
	RevisionCurrent RevisionState = "current"
	// RevisionClosing is an old revision that keeps the tags it covered locked until its sweep has placed their holds.
	RevisionClosing RevisionState = "closing"
	// RevisionPast has no effect any more.
	RevisionPast RevisionState = "past"
)

// PolicyRevision is one revision of a policy that is in force.
type PolicyRevision struct {
	PolicyID int64
	UUID     string
	// Repository is the path that the policy is bound to, empty for the whole organization.
	Repository string
	Revision   int64
	PolicySpec
	// Events is the policy's present mode, whatever the revision.
	Events EventsMode
	State  RevisionState
	// TagBound is the highest id of a tag that a closing revision covers.
	TagBound int64
	// PolicyDeleted is true where only this closing revision is left of the policy.
	PolicyDeleted bool
}

// Ref names the policy with this revision.
func (r *PolicyRevision) Ref() *PolicyRef {
	scope := ScopeRepository
	if r.Repository == "" {
		scope = ScopeOrganization
	}
	return &PolicyRef{UUID: r.UUID, Revision: r.Revision, Pattern: r.TagPattern, Scope: scope}
}

// SweepState is the state of a sweep.
type SweepState string

// The states of a sweep.
const (
	SweepPending SweepState = "pending"
	SweepRunning SweepState = "running"
	// SweepDone has visited every tag.
	SweepDone SweepState = "done"
	// SweepStopped was overtaken by a newer revision.
	SweepStopped SweepState = "stopped"
)
