package audit

import (
	"slices"
	"strings"
)

// kinds are all kinds of entries.
var kinds = []Kind{
	KindCreateTag, KindMoveTag, KindDeleteTag, KindRevertTag, KindChangeExpiry, KindPushRepo, KindDeleteManifest, KindDeleteBlob,
	KindCreateRepo, KindDeleteRepo, KindSetRepoDescription, KindChangeRepoVisibility, KindOrgCreate, KindOrgDelete, KindOrgOwner,
	KindTagCreatedImmutable, KindChangeImmutability, KindApplyPolicy, KindDryRun,
	KindCreatePolicy, KindUpdatePolicy, KindDeletePolicy, KindUnlockPolicy,
	KindPushFailed, KindDeleteTagFailed, KindDeleteRepoFailed, KindDeleteOrgFailed, KindUpdatePolicyFailed, KindDeletePolicyFailed,
	KindAdoptCluster, KindForkLog,
	KindCreateUser, KindDeleteUser, KindEnableUser, KindDisableUser, KindChangePassword, KindChangeEmail, KindCreateToken, KindRevokeToken,
	KindCreateRobot, KindDeleteRobot, KindRegenerateRobot, KindAddMember, KindChangeMember, KindRemoveMember,
	KindAddPermission, KindChangePermission, KindDeletePermission, KindLoginFailure, KindCreateSigningKey, KindDeleteSigningKey,
	KindGrantReadonly, KindChangeReadonly, KindRevokeReadonly, KindExpireReadonly,
	KindViewPolicies, KindViewMirror, KindViewRobots, KindViewMembers, KindViewPermissions, KindViewUsers, KindViewConfiguration, KindViewLogs,
	KindOrgMirrorEnabled, KindOrgMirrorDisabled, KindOrgMirrorChanged, KindOrgMirrorStarted, KindOrgMirrorFailed, KindOrgMirrorSuccess,
	KindOrgMirrorRequested, KindOrgMirrorCancelled, KindOrgMirrorRepo,
	KindGarbageCollection, KindPruneLog, KindErasePerson,
}

// Known reports whether entries can be of a kind.
func Known(kind Kind) bool { return slices.Contains(kinds, kind) }

// KindNames lists all kinds for people, in the order of the alphabet.
func KindNames() string {
	names := make([]string, len(kinds))
	for i, kind := range kinds {
		names[i] = string(kind)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
