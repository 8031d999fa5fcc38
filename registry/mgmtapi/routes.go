package mgmtapi

import (
	"net/http"

	"github.com/tidelock/tidelock/registry/auth"
)

const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	remove = http.MethodDelete
)

var (
	countQuery  = []string{"starttime", "endtime", "performer", "kind", "tag", "policy"}
	searchQuery = append([]string{"search"}, countQuery...)
	logQuery    = append([]string{"next_page", "limit"}, searchQuery...)
	exportQuery = append([]string{"format"}, searchQuery...)
	followQuery = append([]string{"after", "limit", "wait"}, searchQuery...)
)

// routes is the one table of what the API serves. A request that has no entry here is 404 or 405.
var routes = []route{
	{method: post, path: "/api/v1/organization/", permission: auth.OrganizationCreate, handle: (*API).createOrganization},
	{method: get, path: "/api/v1/organization/{organization}", permission: auth.OrganizationRead, handle: (*API).getOrganization},
	{method: remove, path: "/api/v1/organization/{organization}", permission: auth.OrganizationAdmin, handle: (*API).deleteOrganization},
	{method: get, path: "/api/v1/superuser/organizations/", permission: auth.OrganizationList, handle: (*API).listOrganizations},

	{method: get, path: "/api/v1/repository", permission: auth.RepositoryList, query: []string{"namespace", "next_page", "public", "repo_kind"}, handle: (*API).listRepositories},
	{method: post, path: "/api/v1/repository", permission: auth.RepositoryCreate, anywhere: true, handle: (*API).createRepository},
	{method: get, path: "/api/v1/repository/{repository}", permission: auth.RepositoryRead, handle: (*API).getRepository},
	{method: put, path: "/api/v1/repository/{repository}", permission: auth.RepositoryAdmin, handle: (*API).updateRepository},
	{method: remove, path: "/api/v1/repository/{repository}", permission: auth.RepositoryAdmin, handle: (*API).deleteRepository},
	{method: post, path: "/api/v1/repository/{repository}/changevisibility", permission: auth.RepositoryAdmin, handle: (*API).changeVisibility},

	{method: get, path: "/api/v1/repository/{repository}/tag/", permission: auth.TagRead, query: []string{"page", "limit", "specificTag", "filter_tag_name", "onlyActiveTags"}, handle: (*API).listTags},
	{method: put, path: "/api/v1/repository/{repository}/tag/{tag}", permission: auth.TagWrite, handle: (*API).changeTag},
	{method: remove, path: "/api/v1/repository/{repository}/tag/{tag}", permission: auth.TagDelete, handle: (*API).deleteTag},
	{method: post, path: "/api/v1/repository/{repository}/tag/{tag}/restore", permission: auth.TagWrite, handle: (*API).restoreTag},

	{method: get, path: "/api/v1/organization/{organization}/immutabilitypolicy/", permission: auth.PolicyRead, handle: (*API).listPolicies},
	{method: post, path: "/api/v1/organization/{organization}/immutabilitypolicy/", permission: auth.PolicyWrite, handle: (*API).createPolicy},
	{method: get, path: "/api/v1/organization/{organization}/immutabilitypolicy/{uuid}", permission: auth.PolicyRead, handle: (*API).getPolicy},
	{method: put, path: "/api/v1/organization/{organization}/immutabilitypolicy/{uuid}", permission: auth.PolicyWrite, handle: (*API).updatePolicy},
	{method: remove, path: "/api/v1/organization/{organization}/immutabilitypolicy/{uuid}", permission: auth.PolicyWrite, handle: (*API).deletePolicy},
	{method: post, path: "/api/v1/organization/{organization}/immutabilitypolicy/{uuid}/release", permission: auth.PolicyWrite, handle: (*API).releasePolicy},
	{method: post, path: "/api/v1/organization/{organization}/immutabilitypolicy/{uuid}/adopt", permission: auth.PolicyWrite, handle: (*API).adoptPolicy},
	{method: get, path: "/api/v1/repository/{repository}/immutabilitypolicy/", permission: auth.PolicyRead, handle: (*API).listPolicies},
	{method: post, path: "/api/v1/repository/{repository}/immutabilitypolicy/", permission: auth.PolicyWrite, handle: (*API).createPolicy},
	{method: get, path: "/api/v1/repository/{repository}/immutabilitypolicy/{uuid}", permission: auth.PolicyRead, handle: (*API).getPolicy},
	{method: put, path: "/api/v1/repository/{repository}/immutabilitypolicy/{uuid}", permission: auth.PolicyWrite, handle: (*API).updatePolicy},
	{method: remove, path: "/api/v1/repository/{repository}/immutabilitypolicy/{uuid}", permission: auth.PolicyWrite, handle: (*API).deletePolicy},
	{method: post, path: "/api/v1/repository/{repository}/immutabilitypolicy/{uuid}/release", permission: auth.PolicyWrite, handle: (*API).releasePolicy},
	{method: post, path: "/api/v1/repository/{repository}/immutabilitypolicy/{uuid}/adopt", permission: auth.PolicyWrite, handle: (*API).adoptPolicy},

	{method: get, path: "/api/v1/organization/{organization}/mirror", permission: auth.MirrorRead, handle: (*API).getMirror},
	{method: post, path: "/api/v1/organization/{organization}/mirror", permission: auth.MirrorWrite, handle: (*API).createMirror},
	{method: put, path: "/api/v1/organization/{organization}/mirror", permission: auth.MirrorWrite, handle: (*API).updateMirror},
	{method: remove, path: "/api/v1/organization/{organization}/mirror", permission: auth.MirrorWrite, handle: (*API).deleteMirror},
	{method: post, path: "/api/v1/organization/{organization}/mirror/sync-now", permission: auth.MirrorWrite, handle: (*API).syncMirror},
	{method: post, path: "/api/v1/organization/{organization}/mirror/sync-cancel", permission: auth.MirrorWrite, handle: (*API).cancelMirrorSync},
	{method: post, path: "/api/v1/organization/{organization}/mirror/verify", permission: auth.MirrorWrite, handle: (*API).verifyMirror},
	{method: get, path: "/api/v1/organization/{organization}/mirror/repositories", permission: auth.MirrorRead, query: []string{"page", "limit", "status"}, handle: (*API).listMirrorRepositories},
	{method: post, path: "/api/v1/organization/{organization}/mirror/adopt", permission: auth.MirrorWrite, handle: (*API).adoptMirror},

	{method: get, path: "/api/v1/organization/{organization}/logs", permission: auth.LogsRead, query: logQuery, handle: (*API).listLogs},
	{method: get, path: "/api/v1/repository/{repository}/logs", permission: auth.LogsRead, query: logQuery, handle: (*API).listLogs},
	{method: get, path: "/api/v1/superuser/logs", permission: auth.SuperuserLogs, query: logQuery, handle: (*API).listLogs},
	{method: get, path: "/api/v1/organization/{organization}/logs/export", permission: auth.LogsRead, query: exportQuery, handle: (*API).exportLogs},
	{method: get, path: "/api/v1/repository/{repository}/logs/export", permission: auth.LogsRead, query: exportQuery, handle: (*API).exportLogs},
	{method: get, path: "/api/v1/superuser/logs/export", permission: auth.SuperuserLogs, query: exportQuery, handle: (*API).exportLogs},
	{method: get, path: "/api/v1/organization/{organization}/logs/follow", permission: auth.LogsRead, query: followQuery, handle: (*API).followLogs},
	{method: get, path: "/api/v1/repository/{repository}/logs/follow", permission: auth.LogsRead, query: followQuery, handle: (*API).followLogs},
	{method: get, path: "/api/v1/superuser/logs/follow", permission: auth.SuperuserLogs, query: followQuery, handle: (*API).followLogs},
	{method: get, path: "/api/v1/organization/{organization}/aggregatelogs", permission: auth.LogsRead, query: countQuery, handle: (*API).countLogs},
	{method: get, path: "/api/v1/repository/{repository}/aggregatelogs", permission: auth.LogsRead, query: countQuery, handle: (*API).countLogs},
	{method: get, path: "/api/v1/superuser/aggregatelogs", permission: auth.SuperuserLogs, query: countQuery, handle: (*API).countLogs},

	{method: get, path: "/api/v1/repository/{repository}/tag/{tag}/history", permission: auth.LogsRead, query: []string{"since", "until", "size", "limit", "next_page"}, handle: (*API).tagHistory},
	{method: get, path: "/api/v1/superuser/immutabilitypolicy/{uuid}/coverage", permission: auth.SuperuserLogs, query: []string{"since", "until", "size", "limit", "next_page"}, handle: (*API).policyCoverage},
	{method: get, path: "/api/v1/superuser/audit/checkpoint", permission: auth.LogsProve, handle: (*API).getCheckpoint},
	{method: get, path: "/api/v1/superuser/audit/keys", permission: auth.LogsProve, handle: (*API).listAuditKeys},
	{method: get, path: "/api/v1/superuser/audit/entries/{index}", permission: auth.LogsProve, handle: (*API).getEvidence},
	{method: get, path: "/api/v1/superuser/audit/proof/inclusion", permission: auth.LogsProve, query: []string{"index", "size"}, handle: (*API).proveInclusion},
	{method: get, path: "/api/v1/superuser/audit/proof/consistency", permission: auth.LogsProve, query: []string{"from", "to"}, handle: (*API).proveConsistency},
	{method: get, path: "/api/v1/superuser/audit/export", permission: auth.LogsProve, query: []string{"from", "to"}, handle: (*API).exportEvidence},
	{method: post, path: "/api/v1/superuser/audit/erasures", permission: auth.PersonErase, handle: (*API).erasePerson},
	{method: get, path: "/api/v1/superuser/audit/erasures/{uuid}", permission: auth.ErasureRead, handle: (*API).getErasure},

	{method: get, path: "/api/v1/organization/{organization}/robots", permission: auth.RobotRead, query: []string{"permissions", "token", "limit"}, handle: (*API).listRobots},
	{method: get, path: "/api/v1/organization/{organization}/robots/{robot}", permission: auth.RobotRead, handle: (*API).getRobot},
	{method: put, path: "/api/v1/organization/{organization}/robots/{robot}", permission: auth.RobotManage, handle: (*API).createRobot},
	{method: remove, path: "/api/v1/organization/{organization}/robots/{robot}", permission: auth.RobotManage, handle: (*API).deleteRobot},
	{method: post, path: "/api/v1/organization/{organization}/robots/{robot}/regenerate", permission: auth.RobotManage, handle: (*API).regenerateRobot},
	{method: get, path: "/api/v1/organization/{organization}/members", permission: auth.MemberRead, handle: (*API).listMembers},
	{method: get, path: "/api/v1/organization/{organization}/members/{member}", permission: auth.MemberRead, handle: (*API).getMember},
	{method: put, path: "/api/v1/organization/{organization}/members/{member}", permission: auth.MemberManage, handle: (*API).setMember},
	{method: remove, path: "/api/v1/organization/{organization}/members/{member}", permission: auth.MemberManage, handle: (*API).removeMember},
	{method: get, path: "/api/v1/repository/{repository}/permissions/user/", permission: auth.PermissionRead, handle: (*API).listPermissions},
	{method: get, path: "/api/v1/repository/{repository}/permissions/user/{account}", permission: auth.PermissionRead, handle: (*API).getPermission},
	{method: put, path: "/api/v1/repository/{repository}/permissions/user/{account}", permission: auth.PermissionManage, handle: (*API).setPermission},
	{method: remove, path: "/api/v1/repository/{repository}/permissions/user/{account}", permission: auth.PermissionManage, handle: (*API).removePermission},

	{method: get, path: "/api/v1/user/", permission: auth.UserRead, handle: (*API).getOwnUser},
	{method: put, path: "/api/v1/user/", permission: auth.UserChange, handle: (*API).changeOwnUser},
	{method: get, path: "/api/v1/user/apptoken", permission: auth.OwnTokensRead, handle: (*API).listAppTokens},
	{method: post, path: "/api/v1/user/apptoken", permission: auth.UserChange, handle: (*API).createAppToken},
	{method: get, path: "/api/v1/user/apptoken/{uuid}", permission: auth.OwnTokensRead, handle: (*API).getAppToken},
	{method: remove, path: "/api/v1/user/apptoken/{uuid}", permission: auth.UserChange, handle: (*API).revokeAppToken},

	{method: get, path: "/api/v1/superuser/users/", permission: auth.UserList, query: []string{"next_page", "limit", "disabled"}, handle: (*API).listUsers},
	{method: post, path: "/api/v1/superuser/users/", permission: auth.UserManage, handle: (*API).createUser},
	{method: get, path: "/api/v1/superuser/users/{user}", permission: auth.UserList, handle: (*API).getUser},
	{method: put, path: "/api/v1/superuser/users/{user}", permission: auth.UserManage, handle: (*API).updateUser},
	{method: remove, path: "/api/v1/superuser/users/{user}", permission: auth.UserManage, handle: (*API).deleteUser},
	{method: get, path: "/api/v1/superuser/signingkeys/", permission: auth.SigningKeyRead, handle: (*API).listSigningKeys},
	{method: post, path: "/api/v1/superuser/signingkeys/", permission: auth.SigningKeyManage, handle: (*API).rotateSigningKey},
	{method: remove, path: "/api/v1/superuser/signingkeys/{key}", permission: auth.SigningKeyManage, handle: (*API).deleteSigningKey},
	{method: get, path: "/api/v1/superuser/readonlysuperusers/", permission: auth.ReadonlySuperuserRead, handle: (*API).listReadonlySuperusers},
	{method: get, path: "/api/v1/superuser/config", permission: auth.ConfigurationRead, handle: (*API).getConfiguration},

	{method: put, path: "/api/v1/operator/immutabilitypolicies/{namespace}/{name}", permission: auth.OperatorProtocol, handle: (*API).putManagedPolicy},
	{method: get, path: "/api/v1/operator/immutabilitypolicies/{namespace}/{name}", permission: auth.OperatorProtocol, handle: (*API).getManagedPolicy},
	{method: remove, path: "/api/v1/operator/immutabilitypolicies/{namespace}/{name}", permission: auth.OperatorProtocol, query: []string{"cluster", "uid", "namespaceGoes"}, handle: (*API).deleteManagedPolicy},
	{method: put, path: "/api/v1/operator/immutabilitypolicies/{namespace}/{name}/deletion-intent", permission: auth.OperatorProtocol, handle: (*API).noteDeletionIntent},
	{method: post, path: "/api/v1/operator/immutabilitypolicies/{namespace}/{name}/refused-changes", permission: auth.OperatorProtocol, handle: (*API).noteRefusedChange},
	{method: put, path: "/api/v1/operator/orgmirrors/{namespace}/{name}", permission: auth.OperatorProtocol, handle: (*API).putManagedMirror},
	{method: get, path: "/api/v1/operator/orgmirrors/{namespace}/{name}", permission: auth.OperatorProtocol, handle: (*API).getManagedMirror},
	{method: remove, path: "/api/v1/operator/orgmirrors/{namespace}/{name}", permission: auth.OperatorProtocol, query: []string{"cluster", "uid"}, handle: (*API).deleteManagedMirror},
	{method: put, path: "/api/v1/operator/orgmirrors/{namespace}/{name}/deletion-intent", permission: auth.OperatorProtocol, handle: (*API).noteMirrorDeletionIntent},
	{method: put, path: "/api/v1/operator/readonlysuperusers/{name}", permission: auth.OperatorProtocol, handle: (*API).putManagedReadonlySuperuser},
	{method: get, path: "/api/v1/operator/readonlysuperusers/{name}", permission: auth.OperatorProtocol, handle: (*API).getManagedReadonlySuperuser},
	{method: remove, path: "/api/v1/operator/readonlysuperusers/{name}", permission: auth.OperatorProtocol, query: []string{"cluster", "uid"}, handle: (*API).deleteManagedReadonlySuperuser},
	{method: put, path: "/api/v1/operator/readonlysuperusers/{name}/deletion-intent", permission: auth.OperatorProtocol, handle: (*API).noteReadonlySuperuserDeletionIntent},
	{method: post, path: "/api/v1/operator/readonlysuperusers/{name}/credentials", permission: auth.OperatorProtocol, handle: (*API).createReadonlySuperuserCredentials},
	{method: post, path: "/api/v1/operator/preview", permission: auth.OperatorProtocol, handle: (*API).previewPolicy},
	{method: post, path: "/api/v1/operator/synced", permission: auth.OperatorProtocol, maxBody: 16 << 20, handle: (*API).synced},
	{method: put, path: "/api/v1/operator/published-checkpoint", permission: auth.OperatorProtocol, handle: (*API).putPublishedCheckpoint},
	{method: get, path: "/api/v1/operator/log", permission: auth.OperatorProtocol, query: []string{"after", "limit", "wait", "policy"}, handle: (*API).followLog},
	{method: get, path: "/api/v1/operator/cursors/{cursor}", permission: auth.OperatorProtocol, handle: (*API).getCursor},
	{method: put, path: "/api/v1/operator/cursors/{cursor}", permission: auth.OperatorProtocol, handle: (*API).moveCursor},

	{method: get, path: "/api/v1/openapi.json", permission: auth.OpenAPIRead, handle: (*API).openAPIJSON},
	{method: get, path: "/api/v1/openapi.yaml", permission: auth.OpenAPIRead, handle: (*API).openAPIYAML},
}

// Endpoints lists what the API serves.
func Endpoints() []auth.Endpoint {
	list := make([]auth.Endpoint, len(routes))
	for i, r := range routes {
		list[i] = auth.Endpoint{Method: r.method, Path: r.path, Permission: r.permission}
	}
	return list
}
