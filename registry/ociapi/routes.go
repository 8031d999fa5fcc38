package ociapi

import (
	"net/http"
	"strings"

	"github.com/tidelock/tidelock/registry/auth"
)

// route is an endpoint with a method: who may call it, and what does it.
type route struct {
	endpoint   endpoint
	method     string
	permission auth.Permission
	handle     func(*API, *request) (answer, error)
}

// routes is all that /v2 can do. HEAD is served by the handler of GET.
var routes = []route{
	{endpointBase, http.MethodGet, auth.RegistryPing, (*API).ping},
	{endpointCatalog, http.MethodGet, auth.CatalogRead, (*API).catalog},
	{endpointToken, http.MethodGet, auth.TokenIssue, (*API).getToken},
	{endpointToken, http.MethodPost, auth.TokenIssue, (*API).postToken},
	{endpointKeys, http.MethodGet, auth.TokenKeysRead, (*API).keys},
	{endpointTags, http.MethodGet, auth.RepositoryPull, (*API).tags},
	{endpointReferrers, http.MethodGet, auth.RepositoryPull, (*API).referrers},
	{endpointManifest, http.MethodGet, auth.RepositoryPull, (*API).getManifest},
	{endpointManifest, http.MethodPut, auth.RepositoryPush, (*API).putManifest},
	{endpointManifest, http.MethodDelete, auth.RepositoryDelete, (*API).deleteManifest},
	{endpointBlob, http.MethodGet, auth.BlobPull, (*API).getBlob},
	{endpointBlob, http.MethodDelete, auth.RepositoryDelete, (*API).deleteBlob},
	{endpointUploads, http.MethodPost, auth.RepositoryPush, (*API).postUpload},
	{endpointUpload, http.MethodGet, auth.RepositoryPush, (*API).getUpload},
	{endpointUpload, http.MethodPatch, auth.RepositoryPush, (*API).patchUpload},
	{endpointUpload, http.MethodPut, auth.RepositoryPush, (*API).putUpload},
	{endpointUpload, http.MethodDelete, auth.RepositoryPush, (*API).deleteUpload},
}

// findRoute returns the route of a method on an endpoint, or nil and the methods that the endpoint has.
func findRoute(at endpoint, method string) (found *route, allowed string) {
	var methods []string
	for i, r := range routes {
		if r.endpoint != at {
			continue
		}
		if r.method == method || (r.method == http.MethodGet && method == http.MethodHead) {
			return &routes[i], ""
		}
		methods = append(methods, r.method)
		if r.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	return nil, strings.Join(methods, ", ")
}

// patterns name the endpoints without anything that a client chose.
var patterns = map[endpoint]string{
	0:            "/v2/{unknown}",
	endpointBase: "/v2/", endpointCatalog: "/v2/_catalog", endpointToken: "/v2/auth", endpointKeys: "/v2/auth/jwks.json", endpointTags: "/v2/{name}/tags/list",
	endpointReferrers: "/v2/{name}/referrers/{digest}", endpointManifest: "/v2/{name}/manifests/{reference}",
	endpointBlob: "/v2/{name}/blobs/{digest}", endpointUploads: "/v2/{name}/blobs/uploads/",
	endpointUpload: "/v2/{name}/blobs/uploads/{id}",
}

// Endpoints lists what the API serves.
func Endpoints() []auth.Endpoint {
	list := make([]auth.Endpoint, len(routes))
	for i, r := range routes {
		list[i] = auth.Endpoint{Method: r.method, Path: patterns[r.endpoint], Permission: r.permission}
	}
	return list
}
