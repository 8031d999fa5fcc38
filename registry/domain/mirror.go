package domain

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Limits of mirrors.
const (
	// MinMirrorInterval is the shortest time between two syncs.
	MinMirrorInterval = time.Minute
	// MaxMirrorFilters bounds each list of filters, MaxMirrorFilter each of their entries, in bytes.
	MaxMirrorFilters = 100
	MaxMirrorFilter  = 256
	// MaxMirrorNamespace bounds the name of an upstream namespace, in bytes.
	MaxMirrorNamespace = 255
	// MaxMirrorFailures bounds the failures and the conflicts that a sync names; it counts all of them.
	MaxMirrorFailures = 10
)

// KindOrgMirror is the kind of the Kubernetes objects that manage mirrors.
const KindOrgMirror = "OrgMirror"

// UpstreamType is the kind of registry that a mirror copies from: it decides how repositories are listed.
type UpstreamType string

// The types of upstreams.
const (
	// UpstreamQuay lists repositories by Quay's API.
	UpstreamQuay UpstreamType = "Quay"
	// UpstreamHarbor lists repositories by Harbor's API, version 2.0; the namespace is the project.
	UpstreamHarbor UpstreamType = "Harbor"
	// UpstreamOCI lists repositories by the catalog of the OCI Distribution Specification. Where there is none, the
	// mirror names its repositories.
	UpstreamOCI UpstreamType = "OCI"
)

// ReferrersMode says what a mirror does with what refers to an image: signatures, SBOMs, attestations.
type ReferrersMode string

// The modes of referrers.
const (
	// ReferrersCopy copies referrers, of the referrers API and of cosign's tag scheme.
	ReferrersCopy ReferrersMode = "Copy"
	// ReferrersIgnore copies none.
	ReferrersIgnore ReferrersMode = "Ignore"
)

// ConflictMode says what becomes of a sync that finds a locked tag whose upstream has another digest. The tag is never
// overwritten.
type ConflictMode string

// The modes of conflicts.
const (
	// ConflictSkip reports the conflict; the sync can succeed.
	ConflictSkip ConflictMode = "Skip"
	// ConflictFail reports the conflict, copies everything else, and the sync fails.
	ConflictFail ConflictMode = "Fail"
)

// PruneMode says what becomes of tags that the mirror made and the upstream has no more.
type PruneMode string

// The modes of pruning.
const (
	// PruneNever keeps them.
	PruneNever PruneMode = "Never"
	// PruneVanished deletes them, unless something locks them.
	PruneVanished PruneMode = "Vanished"
)

// MirrorSpec is what somebody may declare of a mirror: an upstream namespace that fills an organization. It is stored as
// JSON under the names of its fields, which therefore stay.
type MirrorSpec struct {
	Source MirrorSource
	// Repositories selects repositories by their name below the upstream namespace.
	Repositories RepositoryFilter
	Tags         TagFilter
	// Platforms are those of an index that are copied, as os/architecture[/variant]; all if empty. The index itself stays
	// byte for byte.
	Platforms []string
	Referrers ReferrersMode
	Schedule  MirrorSchedule
	// Visibility is that of repositories that the mirror makes.
	Visibility Visibility
	OnConflict ConflictMode
	Prune      PruneMode
	// Suspend stops scheduled syncs, and a sync that runs.
	Suspend bool
	// Timeout is how long the copy of one tag, with all that hangs on it, may take.
	Timeout time.Duration
	// Concurrency is how many transfers run at once.
	Concurrency int
	// BandwidthLimit bounds what is fetched, in bytes a second; 0 is no limit.
	BandwidthLimit int64
	// Robot is the full name of a robot of the organization that may push beside the mirror, or empty. Mirrors that the
	// REST API makes have one, as in Quay.
	Robot string
}

// MirrorSource is where a mirror copies from. It holds no secrets.
type MirrorSource struct {
	Type UpstreamType
	// URL is the upstream's base address, http or https, without user, query and fragment.
	URL string
	// Namespace is the upstream's: Quay's organization, Harbor's project, or the prefix of repository names, which may be
	// empty for OCI.
	Namespace string
	// CABundle is PEM of certificates that the upstream's must lead to; the system's if empty.
	CABundle              string
	InsecureSkipTLSVerify bool
	Proxy                 MirrorProxy
}

// MirrorProxy are the proxies on the way to an upstream, as URLs without user parts; empty ones are none. The environment's
// proxies do not count.
type MirrorProxy struct {
	HTTP, HTTPS string
	// NoProxy lists the hosts that are reached without a proxy, comma-separated, as in the environment variable NO_PROXY.
	NoProxy string
}

// RepositoryFilter selects repositories: those that an Include matches, all if there is none, and no Exclude does. They are
// globs in which "*" does not match "/" and "**" does. For an OCI upstream without a catalog, Include has plain names.
type RepositoryFilter struct{ Include, Exclude []string }

// TagFilter selects tags: those that an Include matches, all if there is none, and no Exclude does.
type TagFilter struct {
	Include, Exclude []TagMatch
	// Newest keeps that many of the selected tags, the highest by version, then those that are no version by name; 0 keeps
	// all.
	Newest int
}

// TagMatch matches tags in one way: exactly one field is set.
type TagMatch struct {
	// Glob matches the whole name; "*" matches any characters.
	Glob string
	// Regexp is RE2 and matches the whole name.
	Regexp string
	// Semver is a constraint such as ">=1.2 <2" that a tag which is a version meets; a leading "v" is ignored.
	Semver string
}

// MirrorSchedule says when a mirror syncs: exactly one of Interval and Cron is set.
type MirrorSchedule struct {
	// Interval is the time from the start of one sync to the start of the next, at least MinMirrorInterval.
	Interval time.Duration
	// Cron is a standard expression of five fields, in UTC.
	Cron string
	// StartAt is the time before which nothing is synced by schedule; the zero time: at once.
	StartAt time.Time
}

// MirrorSecrets are a mirror's credentials. They are sealed where they are stored and never shown; Redacted stands for a
// secret that is kept as it is stored.
type MirrorSecrets struct {
	Username, Password string
	// Token is a bearer token that is used in place of user name and password, or empty.
	Token                        string
	ProxyUsername, ProxyPassword string
}

// Mirror is a stored mirror.
type Mirror struct {
	ID   int64
	UUID string
	// Organization is the name of the organization that the mirror fills. An organization has one mirror at most.
	Organization   string
	OrganizationID int64
	MirrorSpec
	// Username is the upstream's user, which is no secret. HasPassword tells whether there is a password or token,
	// HasProxyCredentials whether there are a user and password for the proxies.
	Username                         string
	HasPassword, HasProxyCredentials bool
	// Manager is nil for a mirror made through the REST API.
	Manager *ManagedBy
	// Orphaned is true where the manager went away without deleting the mirror. It goes on.
	Orphaned bool
	// Lost is true where the manager's namespace may not manage the organization any more. It syncs no more.
	Lost      bool
	CreatedAt time.Time
	// Requested is true while a sync was asked for that has not begun. RequestedAt is the last value of the object's
	// annotation that asked for one.
	Requested   bool
	RequestedAt string
	// NextSync is when the schedule wants the next sync, zero if it wants none.
	NextSync time.Time
	// Failures counts syncs that failed since the last one that did not.
	Failures int
	// Last is the sync that runs, or else the last one; nil before the first.
	Last *MirrorSync
	// LastSuccess is when the last sync that succeeded ended; zero if none did.
	LastSuccess time.Time
}

// KeptSecrets are secrets that change nothing of those that are stored.
func (m *Mirror) KeptSecrets() MirrorSecrets {
	return MirrorSecrets{Username: m.Username, Password: Redacted, Token: Redacted, ProxyUsername: Redacted, ProxyPassword: Redacted}
}

// SyncState is the state of a sync.
type SyncState string

// The states of a sync.
const (
	SyncRunning   SyncState = "running"
	SyncSucceeded SyncState = "succeeded"
	SyncFailed    SyncState = "failed"
	SyncCancelled SyncState = "cancelled"
	// SyncSkipped is of repositories only: the upstream has it no more, or the filters select it no more.
	SyncSkipped SyncState = "skipped"
)

// SyncTrigger says what began a sync.
type SyncTrigger string

// The triggers of syncs.
const (
	SyncScheduled SyncTrigger = "schedule"
	SyncRequested SyncTrigger = "request"
)

// MirrorSync is one sync of a mirror.
type MirrorSync struct {
	// Number counts the mirror's syncs.
	Number  int64
	State   SyncState
	Trigger SyncTrigger
	// StartedAt and FinishedAt are zero until then.
	StartedAt, FinishedAt time.Time
	MirrorProgress
	// Message says in a sentence how it ended.
	Message string
	// Failures and Conflicts are the first ones, MaxMirrorFailures at most.
	Failures  []MirrorFailure
	Conflicts []MirrorConflict
}

// MirrorProgress counts what a sync did.
type MirrorProgress struct {
	Repositories MirrorCounts
	Tags         MirrorCounts
	// BytesCopied came from the upstream; BytesSaved are those of blobs that were here already.
	BytesCopied, BytesSaved int64
}

// MirrorCounts counts repositories or tags. Of a repository that was only partly copied, Failed counts.
type MirrorCounts struct {
	// Discovered are those that the filters select.
	Discovered int64
	Copied     int64
	Unchanged  int64
	// Skipped are those that vanished meanwhile or that nothing could be done about.
	Skipped   int64
	Failed    int64
	Conflicts int64
	// Pruned are tags that were deleted because the upstream has them no more.
	Pruned int64
}

// Done counts those of the discovered that the sync is through with.
func (c MirrorCounts) Done() int64 {
	return c.Copied + c.Unchanged + c.Skipped + c.Failed + c.Conflicts
}

// MirrorFailure is something that could not be copied.
type MirrorFailure struct {
	// Repository is the path in the organization; Tag is empty where the whole repository failed. Both are empty where
	// the upstream could not be listed.
	Repository, Tag string
	Reason          string
}

// MirrorConflict is a locked tag that differs from the upstream's.
type MirrorConflict struct {
	Repository, Tag string
	// Upstream is the digest there, Standing the one that is locked here.
	Upstream, Standing digest.Digest
	// Reason names what locks the tag.
	Reason string
}

// MirrorRepository is a repository of a mirror's upstream.
type MirrorRepository struct {
	// Name is the name below the upstream namespace, and the path in the organization.
	Name string
	// State is empty before the first sync of it.
	State        SyncState
	DiscoveredAt time.Time
	// SyncedAt is when it was last synced.
	SyncedAt time.Time
	Message  string
	MirrorProgress
}
