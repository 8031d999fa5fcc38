package mgmtapi

import (
	"net/http"

	"github.com/tidelock/tidelock/registry/auth"
)

// RouteInfo is an entry of the table as tests see it.
type RouteInfo struct {
	Method, Path string
	Permission   auth.Permission
	Query        []string
}

// Routes lists the table.
func Routes() []RouteInfo {
	var list []RouteInfo
	for _, r := range routes {
		list = append(list, RouteInfo{Method: r.method, Path: r.path, Permission: r.permission, Query: r.query})
	}
	return list
}

// Match tells which entry a request is for, and its parameters; empty for none.
func Match(r *http.Request) (path string, parameters map[string]string) {
	found, parameters, err := newRouter(routes).match(r)
	if err != nil {
		return "", nil
	}
	return found.path, parameters
}
