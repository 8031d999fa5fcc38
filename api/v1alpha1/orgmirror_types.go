package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// UpstreamType is the kind of registry that a mirror copies from: it decides how repositories are listed.
//
// +kubebuilder:validation:Enum=Quay;Harbor;OCI
type UpstreamType string

const (
	// UpstreamQuay lists repositories by Quay's API; another Tidelock is one.
	UpstreamQuay UpstreamType = "Quay"
	// UpstreamHarbor lists repositories by Harbor's API, version 2.0; the namespace is the project.
	UpstreamHarbor UpstreamType = "Harbor"
	// UpstreamOCI lists repositories by the catalog of the OCI Distribution Specification. Where there is none,
	// repositories.include names them.
	UpstreamOCI UpstreamType = "OCI"
)

// Visibility says whether a repository may be read without permission.
//
// +kubebuilder:validation:Enum=private;public
type Visibility string

const (
	// VisibilityPrivate repositories are read by those who have the right to.
	VisibilityPrivate Visibility = "private"
	// VisibilityPublic repositories are read by everybody.
	VisibilityPublic Visibility = "public"
)

// ReferrersMode says what a mirror does with what refers to an image: signatures, SBOMs, attestations.
//
// +kubebuilder:validation:Enum=Copy;Ignore
type ReferrersMode string

const (
	// ReferrersCopy copies them, those of the referrers API and those of cosign's tag scheme.
	ReferrersCopy ReferrersMode = "Copy"
	// ReferrersIgnore copies none.
	ReferrersIgnore ReferrersMode = "Ignore"
)

// ConflictMode says what becomes of a sync that finds a locked tag whose upstream has another digest.
//
// +kubebuilder:validation:Enum=Skip;Fail
type ConflictMode string

const (
	// ConflictSkip reports the conflict; the sync can succeed.
	ConflictSkip ConflictMode = "Skip"
	// ConflictFail reports the conflict, copies everything else, and the sync fails.
	ConflictFail ConflictMode = "Fail"
)

// PruneMode says what becomes of tags that the mirror made and the upstream has no more.
//
// +kubebuilder:validation:Enum=Never;Vanished
type PruneMode string

const (
	// PruneNever keeps them.
	PruneNever PruneMode = "Never"
	// PruneVanished deletes them, unless something locks them.
	PruneVanished PruneMode = "Vanished"
)

// BundleKind is the kind of an object that holds certificates.
//
// +kubebuilder:validation:Enum=ConfigMap;Secret
type BundleKind string

const (
	// BundleConfigMap is a ConfigMap.
	BundleConfigMap BundleKind = "ConfigMap"
	// BundleSecret is a Secret.
	BundleSecret BundleKind = "Secret"
)

// SecretReference names a Secret in the namespace of the object that refers to it.
type SecretReference struct {
	// name is the name of the Secret.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// BundleReference names a key with certificates (PEM) of a ConfigMap or Secret in the namespace of the object that refers
// to it.
type BundleReference struct {
	// kind is ConfigMap or Secret.
	//
	// +optional
	// +kubebuilder:default=ConfigMap
	Kind BundleKind `json:"kind,omitempty"`

	// name is the name of the ConfigMap or Secret.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`

	// key is the key in it that holds the certificates.
	//
	// +optional
	// +kubebuilder:default=ca.crt
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key,omitempty"`
}

// MirrorProxy are the proxies on the way to an upstream.
//
// +kubebuilder:validation:XValidation:rule="!has(self.credentialsSecretRef) || has(self.httpProxy) || has(self.httpsProxy)",message="credentialsSecretRef is for httpProxy and httpsProxy: set one of them, or remove it"
type MirrorProxy struct {
	// httpProxy is the proxy for http addresses, for instance http://proxy.example.com:3128.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule=`isURL(self) && url(self).getScheme() in ["http", "https"] && url(self).getHostname() != "" && url(self).getEscapedPath() in ["", "/"]`,message="must be an address such as http://proxy.example.com:3128, without a path"
	// +kubebuilder:validation:XValidation:rule=`!self.matches("^[^/?#]*//[^/?#]*@")`,message="must not contain a user: many can read this object; put user and password into a Secret, and name it in credentialsSecretRef"
	// +kubebuilder:validation:XValidation:rule=`!self.contains("?") && !self.contains("#")`,message="must not have a query or fragment"
	HTTPProxy string `json:"httpProxy,omitempty"`

	// httpsProxy is the proxy for https addresses.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule=`isURL(self) && url(self).getScheme() in ["http", "https"] && url(self).getHostname() != "" && url(self).getEscapedPath() in ["", "/"]`,message="must be an address such as http://proxy.example.com:3128, without a path"
	// +kubebuilder:validation:XValidation:rule=`!self.matches("^[^/?#]*//[^/?#]*@")`,message="must not contain a user: many can read this object; put user and password into a Secret, and name it in credentialsSecretRef"
	// +kubebuilder:validation:XValidation:rule=`!self.contains("?") && !self.contains("#")`,message="must not have a query or fragment"
	HTTPSProxy string `json:"httpsProxy,omitempty"`

	// noProxy lists hosts that are reached without a proxy, comma-separated, as in the environment variable NO_PROXY.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	NoProxy string `json:"noProxy,omitempty"`

	// credentialsSecretRef names a Secret of type kubernetes.io/basic-auth, or Opaque with the keys username and password,
	// for the proxies.
	//
	// +optional
	CredentialsSecretRef *SecretReference `json:"credentialsSecretRef,omitempty"`
}

// MirrorSource is where a mirror copies from.
//
// +kubebuilder:validation:XValidation:rule=`self.type == "OCI" || has(self.__namespace__) && self.__namespace__ != ""`,fieldPath=".namespace",message="is required for Quay (the organization) and Harbor (the project)"
// +kubebuilder:validation:XValidation:rule=`self.type == "OCI" || !has(self.__namespace__) || !self.__namespace__.contains("/")`,fieldPath=".namespace",message="is one segment for Quay (the organization) and Harbor (the project)"
// +kubebuilder:validation:XValidation:rule="!has(self.caBundleRef) || !has(self.insecureSkipTLSVerify) || !self.insecureSkipTLSVerify",fieldPath=".insecureSkipTLSVerify",message="trusts every certificate: remove it, or caBundleRef"
type MirrorSource struct {
	// type is Quay (another Tidelock, too), Harbor, or OCI for any other registry.
	//
	// +required
	Type UpstreamType `json:"type"`

	// url is the registry's address, for instance https://quay.io, without user, path, query and fragment. Addresses in private
	// networks are reached only if the registry's setting mirror-allow-networks has them.
	//
	// +required
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule=`isURL(self) && url(self).getScheme() in ["http", "https"] && url(self).getHostname() != "" && url(self).getEscapedPath() in ["", "/"]`,message="must be an address such as https://registry.example.com, without a path"
	// +kubebuilder:validation:XValidation:rule=`!self.matches("^[^/?#]*//[^/?#]*@")`,message="must not contain a user: many can read this object; put user and password into a Secret, and name it in credentialsSecretRef"
	// +kubebuilder:validation:XValidation:rule=`!self.contains("?") && !self.contains("#")`,message="must not have a query or fragment"
	URL string `json:"url"`

	// namespace is what is mirrored: Quay's organization, Harbor's project, or for OCI the beginning of the repositories'
	// names, which may be left out.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule=`self == "" || self.matches("^[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*)*$")`,message="must be segments of lower-case letters and digits, separated by '.', '_', '__' or '-', joined by '/'"
	Namespace string `json:"namespace,omitempty"`

	// credentialsSecretRef names a Secret of type kubernetes.io/basic-auth, of type kubernetes.io/dockerconfigjson with an
	// entry for the upstream's host, or Opaque with token, or with username and password. Without it the upstream is read
	// anonymously. The operator reads it shortly before each sync.
	//
	// +optional
	CredentialsSecretRef *SecretReference `json:"credentialsSecretRef,omitempty"`

	// caBundleRef names the certificates that the upstream's must lead to, in place of the system's.
	//
	// +optional
	CABundleRef *BundleReference `json:"caBundleRef,omitempty"`

	// insecureSkipTLSVerify trusts every certificate of the upstream.
	//
	// +optional
	InsecureSkipTLSVerify *bool `json:"insecureSkipTLSVerify,omitempty"`

	// proxy are the proxies on the way to the upstream. Those of the operator's and the registry's environment do not count.
	//
	// +optional
	Proxy *MirrorProxy `json:"proxy,omitempty"`
}

// RepositoryFilter selects repositories by their name below the upstream's namespace: those that an include matches, all
// if there is none, and no exclude does.
type RepositoryFilter struct {
	// include are globs in which "*" does not match "/" and "**" does. For an OCI registry without a catalog they are names.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	Include []string `json:"include,omitempty"`

	// exclude are globs like those of include.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	// +listType=atomic
	Exclude []string `json:"exclude,omitempty"`
}

// TagMatch matches tags in exactly one way.
//
// +kubebuilder:validation:XValidation:rule="[has(self.glob), has(self.regexp), has(self.semver)].exists_one(is, is)",message="must have exactly one of glob, regexp and semver"
type TagMatch struct {
	// glob matches the whole name of a tag; "*" matches any characters.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Glob string `json:"glob,omitempty"`

	// regexp is a regular expression in RE2 syntax (https://golang.org/s/re2syntax) that has to match the whole name of a tag.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule=`type("".matches(self)) == bool`,message="must be a regular expression in RE2 syntax; look-arounds and back-references are not supported, put what is not wanted into exclude"
	Regexp string `json:"regexp,omitempty"`

	// semver is a constraint such as ">=1.2 <2" that a tag which is a version meets; a leading "v" of the tag is ignored.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Semver string `json:"semver,omitempty"`
}

// TagFilter selects tags: those that an include matches, all if there is none, and no exclude does. Signatures and
// attestations follow their image, whatever the filter says of their tags.
type TagFilter struct {
	// include are the tags that are mirrored; all if it is empty.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +listType=atomic
	Include []TagMatch `json:"include,omitempty"`

	// exclude are the tags of those that are not mirrored.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=100
	// +listType=atomic
	Exclude []TagMatch `json:"exclude,omitempty"`

	// newest keeps that many of the selected tags of each repository: the highest versions, then, where there are not as many,
	// tags that are no version, by name. Without it all are kept.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	Newest *int32 `json:"newest,omitempty"`
}

// MirrorSchedule says when a mirror syncs.
//
// +kubebuilder:validation:XValidation:rule="has(self.interval) != has(self.cron)",message="must have exactly one of interval and cron"
type MirrorSchedule struct {
	// interval is the time from the start of one sync to the start of the next, at least 60s. It is spread a little.
	//
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule=`self.matches("^([0-9]+[smh])+$") && duration(self) >= duration("60s") && duration(self) <= duration("8784h")`,message="must be a duration from 60s to 8784h, for instance 1h30m"
	Interval *metav1.Duration `json:"interval,omitempty"`

	// cron is an expression of five fields in UTC: minute, hour, day of month, month, day of week.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule=`self.matches("^\\S+( +\\S+){4}$")`,message="must have five fields: minute, hour, day of month, month, day of week"
	Cron string `json:"cron,omitempty"`

	// startAt is the time before which nothing is synced by schedule.
	//
	// +optional
	StartAt *metav1.Time `json:"startAt,omitempty"`
}

// OrgMirrorSpec declares an upstream namespace that fills an organization of the registry and keeps it current.
//
// +kubebuilder:validation:XValidation:rule=`(has(self.organization) ? self.organization : "") == (has(oldSelf.organization) ? oldSelf.organization : "")`,message="organization cannot be changed, set or removed: create another mirror, and delete this one"
type OrgMirrorSpec struct {
	// organization is the registry's organization that the mirror fills: the first segment of its images' names. If it is
	// empty, it is the name of the namespace; status.organization says which one it is. Another organization than that has
	// to be claimed with the annotation registry.tidelock.dev/organizations on the namespace. Nobody but the mirror pushes
	// to it. It cannot be changed.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule=`self == "" || self.matches("^[a-z0-9]+(([.]|_|__|-+)[a-z0-9]+)*$")`,message="must be lower-case letters and digits, separated by '.', '_', '__' or '-'"
	Organization string `json:"organization,omitempty"`

	// source is where the mirror copies from.
	//
	// +required
	Source MirrorSource `json:"source"`

	// repositories selects the repositories; all if it is empty.
	//
	// +optional
	Repositories RepositoryFilter `json:"repositories,omitzero"`

	// tags selects the tags of each repository; all if it is empty.
	//
	// +optional
	Tags TagFilter `json:"tags,omitzero"`

	// platforms are those of a multi-platform image that are copied, as os/architecture or os/architecture/variant; all if
	// it is empty. The index stays byte for byte as it is, so that its digest and signatures do, and is stored sparse.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=64
	// +kubebuilder:validation:items:XValidation:rule=`self.matches("^[a-z0-9]+/[a-z0-9]+(/[a-z0-9.]+)?$")`,message="must be os/architecture or os/architecture/variant, for instance linux/arm64/v8"
	// +listType=atomic
	Platforms []string `json:"platforms,omitempty"`

	// referrers is Copy to copy what refers to an image with it, signatures, SBOMs and attestations, or Ignore.
	//
	// +optional
	// +kubebuilder:default=Copy
	Referrers ReferrersMode `json:"referrers,omitempty"`

	// schedule says when to sync. The annotation registry.tidelock.dev/requestedAt asks for a sync beside it: each new value
	// for one.
	//
	// +required
	Schedule MirrorSchedule `json:"schedule"`

	// visibility is that of the repositories that the mirror makes: private or public.
	//
	// +optional
	// +kubebuilder:default=private
	Visibility Visibility `json:"visibility,omitempty"`

	// onConflict says what becomes of a sync that finds a locked tag whose upstream has another digest. The tag is never
	// overwritten; status.lastSync.conflicts reports it. Under Skip the sync can succeed, under Fail it copies everything
	// else and fails.
	//
	// +optional
	// +kubebuilder:default=Skip
	OnConflict ConflictMode `json:"onConflict,omitempty"`

	// prune says what becomes of tags that the mirror made and the upstream has no more: Never keeps them, Vanished
	// deletes those that nothing locks.
	//
	// +optional
	// +kubebuilder:default=Never
	Prune PruneMode `json:"prune,omitempty"`

	// suspend stops scheduled syncs, and a sync that runs. What was mirrored stays.
	//
	// +optional
	Suspend *bool `json:"suspend,omitempty"`

	// timeout is how long the copy of one tag, with all that hangs on it, may take, from 30s to 1h.
	//
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule=`self.matches("^([0-9]+[smh])+$") && duration(self) >= duration("30s") && duration(self) <= duration("1h")`,message="must be a duration from 30s to 1h, for instance 10m"
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// concurrency is how many transfers run at once, over all repositories.
	//
	// +optional
	// +kubebuilder:default=4
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	Concurrency *int32 `json:"concurrency,omitempty"`

	// bandwidthLimit bounds what is fetched from the upstream, in bytes a second, for instance 10Mi. Without it there is no
	// limit.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule=`isQuantity(string(self)) && quantity(string(self)).isInteger() && quantity(string(self)).compareTo(quantity("1Ki")) >= 0`,message="must be whole bytes a second, at least 1Ki, for instance 10Mi"
	BandwidthLimit *resource.Quantity `json:"bandwidthLimit,omitempty"`
}

// MirrorSyncState says how far a sync is.
//
// +kubebuilder:validation:Enum=Running;Succeeded;Failed;Cancelled
type MirrorSyncState string

const (
	// SyncRunning copies.
	SyncRunning MirrorSyncState = "Running"
	// SyncSucceeded has copied everything that the filters select, but for conflicts under onConflict Skip.
	SyncSucceeded MirrorSyncState = "Succeeded"
	// SyncFailed has ended without all; failures and message say why.
	SyncFailed MirrorSyncState = "Failed"
	// SyncCancelled was stopped by somebody, or by suspend.
	SyncCancelled MirrorSyncState = "Cancelled"
)

// MirrorSyncTrigger says what began a sync.
//
// +kubebuilder:validation:Enum=Schedule;Request
type MirrorSyncTrigger string

const (
	// SyncScheduled is by schedule, a repetition after a failure included.
	SyncScheduled MirrorSyncTrigger = "Schedule"
	// SyncRequested was asked for.
	SyncRequested MirrorSyncTrigger = "Request"
)

// MirrorCounts counts repositories or tags.
type MirrorCounts struct {
	// discovered is how many the filters select.
	Discovered int64 `json:"discovered"`

	// copied is how many were new or changed upstream.
	Copied int64 `json:"copied"`

	// unchanged is how many were here already as the upstream has them.
	Unchanged int64 `json:"unchanged"`

	// skipped is how many vanished meanwhile, or could not be copied for a reason that lies in what they are.
	Skipped int64 `json:"skipped"`

	// failed is how many could not be copied; of a repository, that it was not copied completely.
	Failed int64 `json:"failed"`

	// conflicts is how many are locked here and have another digest upstream.
	Conflicts int64 `json:"conflicts"`

	// pruned is how many were deleted because the upstream has them no more.
	Pruned int64 `json:"pruned"`
}

// MirrorFailure is something that could not be copied.
type MirrorFailure struct {
	// repository is the path in the organization; it is empty where the upstream could not be listed.
	// +optional
	Repository string `json:"repository,omitempty"`

	// tag is empty where the whole repository failed.
	// +optional
	Tag string `json:"tag,omitempty"`

	// reason says why.
	Reason string `json:"reason"`
}

// MirrorConflict is a locked tag that differs from the upstream's.
type MirrorConflict struct {
	// repository is the path in the organization.
	Repository string `json:"repository"`

	// tag is the tag's name.
	Tag string `json:"tag"`

	// upstreamDigest is the digest that the upstream has.
	UpstreamDigest string `json:"upstreamDigest"`

	// standingDigest is the digest that is locked here, and stays.
	StandingDigest string `json:"standingDigest"`

	// reason names what locks the tag.
	// +optional
	Reason string `json:"reason,omitempty"`
}

// MirrorSyncStatus is one sync of a mirror.
type MirrorSyncStatus struct {
	// number counts the mirror's syncs.
	Number int64 `json:"number"`

	// state is Running, Succeeded, Failed or Cancelled.
	State MirrorSyncState `json:"state"`

	// trigger is Schedule or Request.
	Trigger MirrorSyncTrigger `json:"trigger"`

	// startTime is when the sync began.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// completionTime is when the sync ended.
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// message says how it ended.
	// +optional
	Message string `json:"message,omitempty"`

	// repositories counts repositories. The list of them is behind the registry's API:
	// /api/v1/organization/<organization>/mirror/repositories.
	Repositories MirrorCounts `json:"repositories"`

	// tags counts tags.
	Tags MirrorCounts `json:"tags"`

	// bytesCopied came from the upstream.
	BytesCopied int64 `json:"bytesCopied"`

	// bytesSaved are those of blobs that were here already.
	BytesSaved int64 `json:"bytesSaved"`

	// progress is how many per cent of the tags that were discovered so far are done.
	Progress int32 `json:"progress"`

	// remaining is an estimate of the time that is left, while the sync runs and there is enough to tell by.
	// +optional
	Remaining *metav1.Duration `json:"remaining,omitempty"`

	// failures are the first things that could not be copied, ten at most.
	// +optional
	// +listType=atomic
	Failures []MirrorFailure `json:"failures,omitempty"`

	// conflicts are the first locked tags that differ from the upstream's, ten at most.
	// +optional
	// +listType=atomic
	Conflicts []MirrorConflict `json:"conflicts,omitempty"`
}

// OrgMirrorStatus is what the registry makes of a mirror.
type OrgMirrorStatus struct {
	// observedGeneration is the generation of the spec that this status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions are Ready, which is True once a sync has succeeded and for as long as syncs do, and while they are true
	// Reconciling and Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// organization is the organization that the mirror fills.
	// +optional
	Organization string `json:"organization,omitempty"`

	// mirrorUUID is the mirror's identity in the registry, as its API and its audit log name it.
	// +optional
	MirrorUUID string `json:"mirrorUUID,omitempty"`

	// lastSync is the sync that runs, or else the last one.
	// +optional
	LastSync *MirrorSyncStatus `json:"lastSync,omitempty"`

	// nextSyncTime is when the next sync is due by schedule, or a failed one is repeated.
	// +optional
	NextSyncTime *metav1.Time `json:"nextSyncTime,omitempty"`

	// lastSuccessTime is when the last sync that succeeded ended.
	// +optional
	LastSuccessTime *metav1.Time `json:"lastSuccessTime,omitempty"`

	// lastHandledRequestedAt is the last value of the annotation registry.tidelock.dev/requestedAt that the registry has
	// taken as a request for a sync.
	// +optional
	LastHandledRequestedAt string `json:"lastHandledRequestedAt,omitempty"`
}

// OrgMirror mirrors a whole namespace of another registry, Quay, Harbor or any OCI registry, into an organization of this
// one, and keeps it current. Immutability policies hold for what is mirrored as for everything: a locked tag is never
// overwritten, and each change is an entry in the audit log.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=orgmirrors,scope=Namespaced,shortName=orgmir,categories=tidelock
// +kubebuilder:printcolumn:name="Organization",type=string,JSONPath=`.status.organization`,description="The organization that the mirror fills"
// +kubebuilder:printcolumn:name="Source",type=string,JSONPath=`.spec.source.url`,description="The upstream registry"
// +kubebuilder:printcolumn:name="Namespace",type=string,priority=1,JSONPath=`.spec.source.namespace`,description="What is mirrored of it"
// +kubebuilder:printcolumn:name="Suspended",type=boolean,priority=1,JSONPath=`.spec.suspend`,description="Whether scheduled syncs are stopped"
// +kubebuilder:printcolumn:name="Sync",type=string,JSONPath=`.status.lastSync.state`,description="The state of the sync that runs, or else of the last one"
// +kubebuilder:printcolumn:name="%",type=integer,JSONPath=`.status.lastSync.progress`,description="How many per cent of the tags it is through with"
// +kubebuilder:printcolumn:name="Tags",type=integer,JSONPath=`.status.lastSync.tags.discovered`,description="Tags that the filters select"
// +kubebuilder:printcolumn:name="Copied",type=integer,priority=1,JSONPath=`.status.lastSync.tags.copied`,description="Tags that were new or changed upstream"
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.lastSync.tags.failed`,description="Tags that could not be copied"
// +kubebuilder:printcolumn:name="Conflicts",type=integer,JSONPath=`.status.lastSync.tags.conflicts`,description="Locked tags whose upstream has another digest"
// +kubebuilder:printcolumn:name="Last success",type=date,JSONPath=`.status.lastSuccessTime`,description="When the last sync that succeeded ended"
// +kubebuilder:printcolumn:name="Next sync",type=string,priority=1,JSONPath=`.status.nextSyncTime`,description="When the next sync is due"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="Whether the organization is what the upstream was at the last sync"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="Why it is ready or not"
// +kubebuilder:printcolumn:name="Status",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,description="What there is to know or to do"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type OrgMirror struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec declares what is mirrored, from where and when.
	// +required
	Spec OrgMirrorSpec `json:"spec"`

	// status is what the registry makes of the mirror. The operator writes it.
	//
	// +optional
	// +kubebuilder:default:={"observedGeneration":-1}
	Status OrgMirrorStatus `json:"status,omitempty"`
}

// OrgMirrorList is a list of mirrors.
//
// +kubebuilder:object:root=true
type OrgMirrorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []OrgMirror `json:"items"`
}

// Organization returns the organization that the mirror fills: by default the one of its namespace's name.
func (m *OrgMirror) Organization() string {
	if m.Spec.Organization != "" {
		return m.Spec.Organization
	}
	return m.Namespace
}
