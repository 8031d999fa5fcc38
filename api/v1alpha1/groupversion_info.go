// Package v1alpha1 holds the Kubernetes API of Tidelock: what a platform team declares about image tags,
// mirrors and auditors.
//
// +kubebuilder:object:generate=true
// +groupName=registry.tidelock.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is the group and version of the types in this package.
	GroupVersion = schema.GroupVersion{Group: "registry.tidelock.dev", Version: "v1alpha1"}

	schemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
		scheme.AddKnownTypes(GroupVersion, &ImmutabilityPolicy{}, &ImmutabilityPolicyList{}, &OrgMirror{}, &OrgMirrorList{},
			&ReadonlySuperuser{}, &ReadonlySuperuserList{})
		metav1.AddToGroupVersion(scheme, GroupVersion)
		return nil
	})

	// AddToScheme registers the types in this package with a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)

const (
	// OrganizationsAnnotation on a Namespace lists, separated by commas, the organizations that the namespace claims
	// beside the one of its own name. "*" permits policies for every organization but makes the namespace the owner of none.
	// Setting it needs the verb "own" on "organizations" in the API group access.tidelock.dev for each listed name.
	OrganizationsAnnotation = "registry.tidelock.dev/organizations"

	// AppliedByAnnotation on an object says in JSON who made the latest change of its spec, and which generation that was:
	// {"generation":2,"username":"alice","uid":"…"}. Admission writes it and lets nobody else change it. It belongs into no
	// manifest.
	AppliedByAnnotation = "registry.tidelock.dev/applied-by"

	// RevisionAnnotation on an object names the source revision that it comes from, for instance a Git commit. Whatever
	// applies the object sets it, and nobody checks it. The audit log has the first 256 printable characters, as a claim.
	RevisionAnnotation = "registry.tidelock.dev/revision"

	// RequestedAtAnnotation on an OrgMirror asks for a sync now, beside its schedule: each new value for one, of which the
	// first 256 printable characters count. Any text will do, a time is usual.
	RequestedAtAnnotation = "registry.tidelock.dev/requestedAt"

	// ReadonlySuperuserAnnotation on a Secret names the ReadonlySuperuser that the operator made it for.
	ReadonlySuperuserAnnotation = "registry.tidelock.dev/readonlysuperuser"

	// Finalizer holds a deleted object until the registry has accepted the deletion.
	Finalizer = "registry.tidelock.dev/registry"
)

// Types of conditions that every kind of this group uses. They follow kstatus: Ready is always there, the others only
// while they are true.
const (
	// ConditionReady is True once the registry does what the spec of the observed generation asks for, completely.
	ConditionReady = "Ready"
	// ConditionReconciling is True while the operator or the registry still works towards the spec.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when nothing will change until somebody acts; the message says how.
	ConditionStalled = "Stalled"
	// ConditionAuditLogConsistent says whether the registry's audit log, the evidence of every policy and mirror, still holds
	// all that was published of it. It is the same for all objects, and there as soon as the operator knows.
	ConditionAuditLogConsistent = "AuditLogConsistent"
)

// Reasons of conditions. Those that name neither policies nor syncs nor access are for all kinds.
const (
	// ReasonEnforced (Ready=True): every tag that the policy covers is locked and has its evidence.
	ReasonEnforced = "Enforced"
	// ReasonDryRun (Ready=True): the policy locks nothing and reports what it would do.
	ReasonDryRun = "DryRun"
	// ReasonSweeping (Ready=False, Reconciling=True): the policy is in force, and its sweep over the tags that were there
	// before still places or removes holds.
	ReasonSweeping = "Sweeping"
	// ReasonSynced (Ready=True): the last sync of the spec has succeeded. It stays while the next one runs.
	ReasonSynced = "Synced"
	// ReasonSyncing (Ready=False, Reconciling=True): the first sync of the spec runs, or is about to.
	ReasonSyncing = "Syncing"
	// ReasonScheduled (Ready=False): nothing was synced yet, and the schedule has the first sync later.
	ReasonScheduled = "Scheduled"
	// ReasonSyncFailed (Ready=False, Reconciling=True): the last sync has failed; it is repeated with growing pauses.
	ReasonSyncFailed = "SyncFailed"
	// ReasonSyncCancelled (Ready=False): the last sync of the spec was cancelled; the schedule has the next one.
	ReasonSyncCancelled = "SyncCancelled"
	// ReasonSuspended (Ready=True if the last sync has succeeded, otherwise False): nothing is synced until suspend is taken
	// away.
	ReasonSuspended = "Suspended"
	// ReasonSecretNotFound (Ready=False, Reconciling=True): a Secret that the spec refers to is not there. The operator looks
	// again; meanwhile the registry goes on with what it had.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonSecretInvalid (Ready=False, Reconciling=True): a Secret that the spec refers to has not what is needed. The
	// operator looks again; meanwhile the registry goes on with what it had.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonCABundleNotFound (Ready=False, Reconciling=True): the ConfigMap or Secret with the certificates is not there.
	ReasonCABundleNotFound = "CABundleNotFound"
	// ReasonCABundleInvalid (Ready=False, Reconciling=True): what caBundleRef refers to has no certificates.
	ReasonCABundleInvalid = "CABundleInvalid"
	// ReasonOrganizationMirrored (Ready=False, Stalled=True): the organization has another mirror.
	ReasonOrganizationMirrored = "OrganizationMirrored"

	// ReasonGranted (Ready=True): the subject reads everything and writes nothing.
	ReasonGranted = "Granted"
	// ReasonExpired (Ready=False): the access has ended at its time.
	ReasonExpired = "Expired"
	// ReasonSubjectNotFound (Ready=False, Reconciling=True): the registry has no user of that name. Whoever gets it has the
	// access.
	ReasonSubjectNotFound = "SubjectNotFound"
	// ReasonSubjectConflict (Ready=False, Stalled=True): the registry has something else for the subject, as the message
	// says: the grant of another object, the rights of a superuser, or a password where credentials are asked for.
	ReasonSubjectConflict = "SubjectConflict"
	// ReasonSecretConflict (Ready=False, Reconciling=True): the Secret for the credentials is there and is not the
	// operator's. The access is granted; the operator looks again.
	ReasonSecretConflict = "SecretConflict"
	// ReasonRegistryUnavailable (Ready=Unknown, Reconciling=True): the registry does not answer, or not to this operator.
	// What it stored before stays in force; the operator goes on trying.
	ReasonRegistryUnavailable = "RegistryUnavailable"
	// ReasonInvalidSpec (Ready=False, Stalled=True): the spec breaks a rule that admission would have refused.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonOrganizationNotOwned (Ready=False, Stalled=True): the namespace may not manage the organization.
	ReasonOrganizationNotOwned = "OrganizationNotOwned"
	// ReasonOtherCluster (Ready=False, Stalled=True): the registry belongs to another cluster until it is adopted.
	ReasonOtherCluster = "OtherCluster"
	// ReasonPolicyLocked (Ready=False, Stalled=True): the spec, or the deletion, weakens a policy that is locked until
	// lockedUntil. What the registry has stays in force.
	ReasonPolicyLocked = "PolicyLocked"
	// ReasonRefused (Ready=False, Stalled=True): the registry refused the object for the reason that the message gives.
	ReasonRefused = "Refused"

	// ReasonLogConsistent (AuditLogConsistent=True): the log begins with all that was published of it.
	ReasonLogConsistent = "LogConsistent"
	// ReasonLogUnproven (AuditLogConsistent=Unknown): the registry has not proven its log for ten minutes.
	ReasonLogUnproven = "LogUnproven"
	// ReasonLogRegressed (AuditLogConsistent=False): the log has fewer entries than were published.
	ReasonLogRegressed = "LogRegressed"
	// ReasonLogChanged (AuditLogConsistent=False): entries that were published are gone, or others than they were.
	ReasonLogChanged = "LogChanged"
	// ReasonOriginUnexplained (AuditLogConsistent=False): the registry has another log, and no entry in it explains what
	// became of the one that was published.
	ReasonOriginUnexplained = "OriginUnexplained"
	// ReasonSignatureInvalid (AuditLogConsistent=False): no known key has signed the log's checkpoint.
	ReasonSignatureInvalid = "SignatureInvalid"
	// ReasonPublishedInvalid (AuditLogConsistent=False): a published checkpoint is not one that the operator has made.
	ReasonPublishedInvalid = "PublishedInvalid"
	// ReasonRegistryReadOnly (AuditLogConsistent=False): the registry has found its log to contradict what was published.
	ReasonRegistryReadOnly = "RegistryReadOnly"
)
