package core

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// Create says what a push may create on its way, as authorisation found.
type Create int

// The levels of Create; each includes those before it.
const (
	CreateNothing Create = iota
	// CreateOwnRepository is for callers who have no right on the repository but that of making it: should somebody else
	// have made it meanwhile, they need a permission.
	CreateOwnRepository
	CreateRepository
	CreateOrganization
)

// NewRepository describes a repository to create.
type NewRepository struct {
	Visibility  domain.Visibility
	Description string
}

// RepositoryChange changes the fields that are not nil.
type RepositoryChange struct {
	Description *string
	Visibility  *domain.Visibility
}

// Push is a manifest to store, under a tag or under its digest.
type Push struct {
	Reference domain.Reference
	// Tags are more tags that are to point to the manifest.
	Tags     []string
	Manifest domain.Manifest
	Create   Create
	// Partial admits an index before all of its manifests, whatever the options say: a mirror may copy some platforms
	// only.
	Partial bool
	// Precondition, if there is one, says whether the push may go on, by the digest that the reference stands for now,
	// which is empty if nothing is there.
	Precondition func(standing digest.Digest) bool
}

// tags are all tags of a push, in order and each once.
func (p Push) tags() []string {
	tags := slices.Clone(p.Tags)
	if p.Reference.Tag != "" {
		tags = append(tags, p.Reference.Tag)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

// Sparse says what may be pushed before all that it refers to: indexes without some of their manifests, images without
// some of their blobs.
type Sparse struct{ Indexes, Images bool }

// ReferrersQuery selects a page of referrers.
type ReferrersQuery struct {
	Subject digest.Digest
	// ArtifactType selects the referrers of one type; empty selects all.
	ArtifactType string
	After        digest.Digest
	// Limit bounds the page in manifests, Size in bytes of what describes them.
	Limit, Size int
}

// Scope is what a policy hangs on: a repository, or with an empty Repository the whole organization.
type Scope struct {
	Organization string
	// Repository is the path in the organization.
	Repository string
}

// TagChange changes a tag; what is empty stays.
type TagChange struct {
	Digest digest.Digest
	// Expiration is when the tag is to be deleted, the zero time for never.
	Expiration *time.Time
	// Immutable places the hold by hand, or removes it.
	Immutable *bool
}

// TagQuery selects tags of a repository, ordered by name.
type TagQuery struct {
	// After skips the names up to and including it, Offset that many of the matching names behind.
	After  string
	Offset int
	// Tag selects one name, Contains the names with that text.
	Tag      string
	Contains string
	Limit    int
}

// TagView is a tag with what locks it.
type TagView struct {
	domain.Tag
	Immutable bool
	Locks     []Lock
}

// Lock is one reason why a tag cannot change.
type Lock struct {
	// Policy is nil for a hold by hand.
	Policy *domain.PolicyRef
	// Retained is true for the hold of a policy that is gone or no longer covers the tag.
	Retained bool
}

// Coverage is what a policy means for the tags that are there.
type Coverage struct {
	// Total counts the live tags in the scope, Covered those that the policy covers, Locked those covered ones that
	// something else locks already, Held those covered ones that have this policy's hold.
	Total, Covered, Locked, Held int64
	// Sample names the first covered tags as "path:tag", at most domain.LockSample.
	Sample []string
}

// PolicyStatus is a policy and how far it has come.
type PolicyStatus struct {
	Policy domain.Policy
	Coverage
	// Holds counts all tags that the policy holds, retained ones included.
	Holds int64
	// Pending counts the covered tags without this policy's hold (0 under DryRun).
	Pending int64
	// WouldLock is Covered minus Locked under DryRun, else 0.
	WouldLock int64
	// Swept is true when no sweep of the policy is pending or running.
	Swept bool
	// Sweeps are the latest sweeps, newest first, at most 5.
	Sweeps []Sweep
}

// SweepKind says what a sweep does.
type SweepKind string

// The kinds of sweeps.
const (
	// SweepApply places a hold on each tag that the revision covers; under Release it removes the policy's other holds.
	SweepApply SweepKind = "apply"
	// SweepClose places holds on the tags that an old revision covered when it was replaced or withdrawn.
	SweepClose SweepKind = "close"
	// SweepRelease removes the holds of a withdrawn policy.
	SweepRelease SweepKind = "release"
)

// SweepCause says what queued a sweep.
type SweepCause string

// The causes of sweeps.
const (
	CausePolicyCreated SweepCause = "created"
	CausePolicyUpdated SweepCause = "updated"
	CausePolicyDeleted SweepCause = "deleted"
)

// Sweep is one pass of a policy's revision over its tags.
type Sweep struct {
	ID        int64
	PolicyID  int64
	Revision  int64
	Kind      SweepKind
	State     domain.SweepState
	CreatedAt time.Time
	// StartedAt and FinishedAt are zero until then.
	StartedAt, FinishedAt time.Time
	// Total is how many tags there were to visit when it began; Examined and Changed count on.
	Total, Examined, Changed int64
	// FirstIndex and LastIndex are the audit entries of its first and last change, -1 if there is none yet.
	FirstIndex, LastIndex int64
}

// unindexed reports whether a sweep is over whose entries have no index yet.
func (s Sweep) unindexed() bool { return !s.FinishedAt.IsZero() && s.Changed > 0 && s.LastIndex < 0 }

// ManagedPolicy is a policy as a Kubernetes object declares it.
type ManagedPolicy struct {
	// Cluster is the UID of the cluster's kube-system namespace.
	Cluster string
	Manager domain.ManagedBy
	// Applied names who applied the spec, if it is about the manager's generation.
	Applied domain.Applied
	// Rewound marks an older generation that an uncached read of the API server confirmed (a restored etcd).
	Rewound bool
	Scope   Scope
	Spec    domain.PolicySpec
	// Events is domain.EventsPerTag if it is empty.
	Events domain.EventsMode
	Claim  Claim
}

// Claim is the ground on which a namespace manages an organization.
type Claim struct {
	// Namespace is the object's own namespace.
	Namespace domain.Owner
	// Organizations are the names that the namespace's annotation claims; "*" permits policies but no ownership.
	Organizations []string
	// Gone is an owner whose namespace was looked up, uncached, and does not exist any more, or claims the organization no
	// more.
	Gone *domain.Owner
}

// PushResult is what a push has to answer.
type PushResult struct {
	// Digest is the manifest's; for a tag that has the same bytes already, the one that it has.
	Digest digest.Digest
	// Subject is the manifest's subject, empty if it has none.
	Subject digest.Digest
}
