package mgmtapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/domain"
)

// route is one operation of the API.
type route struct {
	method string
	// path is the path in the OpenAPI document.
	path string
	// permission is what the caller needs on the organization or repository of the path.
	permission auth.Permission
	// anywhere is for calls that name the organization in the body: they check the permission there by themselves.
	anywhere bool
	// query names the parameters that may stand behind the question mark.
	query []string
	// maxBody bounds the body in bytes, maxBody by default.
	maxBody int64
	handle  func(*API, *call) (answer, error)
}

// resource is what the parameters of the path name. On what no name is, nobody has rights.
func (r *route) resource(parameters map[string]string) auth.Resource {
	if r.anywhere {
		return auth.Anywhere
	}
	if full, ok := parameters["repository"]; ok {
		name, err := domain.ParseRepositoryName(full)
		if err != nil {
			return auth.Resource{}
		}
		return auth.Repository(name)
	}
	return auth.Organization(parameters["organization"])
}

// errNoRoute and methodError are answers of the router.
var errNoRoute = domain.Errorf(domain.CodeNotFound, "there is no such endpoint; /api/v1/openapi.json lists them")

type methodError struct {
	method  string
	allowed []string
}

func (e *methodError) Error() string {
	return fmt.Sprintf("%s is not allowed here; use %s", e.method, strings.Join(e.allowed, ", "))
}

// resource is a path with its methods.
type resource struct {
	// segments are literals, or parameters in braces.
	segments []string
	// repository is the index of {repository}, which may span segments, or -1.
	repository int
	methods    map[string]*route
}

type router struct {
	resources []*resource
}

func newRouter(table []route) *router {
	byPath := map[string]*resource{}
	r := &router{}
	for i := range table {
		entry := &table[i]
		res := byPath[entry.path]
		if res == nil {
			segments := strings.Split(strings.Trim(entry.path, "/"), "/")
			res = &resource{segments: segments, repository: slices.Index(segments, "{repository}"), methods: map[string]*route{}}
			byPath[entry.path] = res
			r.resources = append(r.resources, res)
		}
		res.methods[entry.method] = entry
	}
	return r
}

// match finds the route of a request. Which resource a path means does not depend on the method, so that one address
// never means two things.
func (r *router) match(request *http.Request) (*route, map[string]string, error) {
	segments, ok := splitPath(request.URL.EscapedPath())
	if !ok {
		return nil, nil, errNoRoute
	}
	var found *resource
	var parameters map[string]string
	best := -1
	for _, res := range r.resources {
		if p, rank, ok := res.match(segments); ok && rank > best {
			found, parameters, best = res, p, rank
		}
	}
	if found == nil {
		return nil, nil, errNoRoute
	}
	method := request.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	entry := found.methods[method]
	if entry == nil {
		var allowed []string
		for name := range found.methods {
			allowed = append(allowed, name)
		}
		if found.methods[http.MethodGet] != nil {
			allowed = append(allowed, http.MethodHead)
		}
		slices.Sort(allowed)
		return nil, nil, &methodError{method: request.Method, allowed: allowed}
	}
	return entry, parameters, nil
}

// splitPath splits an escaped path into decoded segments. One slash at its end does not count.
func splitPath(escaped string) ([]string, bool) {
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(escaped, "/"), "/"), "/")
	for i, segment := range segments {
		decoded, err := url.PathUnescape(segment)
		if err != nil || decoded == "" {
			return nil, false
		}
		segments[i] = decoded
	}
	return segments, true
}

// encodedRank is above the rank of every other match.
const encodedRank = 1 << 20

// match reports whether the segments are this resource, and how surely. A repository's name ends at the rightmost
// keyword; a name whose slashes are encoded is one segment, and ends where that ends.
func (res *resource) match(segments []string) (parameters map[string]string, rank int, ok bool) {
	pattern := res.segments
	parameters = map[string]string{}
	if at := res.repository; at >= 0 {
		behind := len(pattern) - at - 1
		end := len(segments) - behind
		if end <= at {
			return nil, 0, false
		}
		encoded := end == at+1 && strings.Contains(segments[at], "/")
		// No repository has a name of one segment, so what looks like its keyword is part of another's name.
		if behind > 0 && end == at+1 && !encoded {
			return nil, 0, false
		}
		name := strings.Join(segments[at:end], "/")
		switch {
		case encoded:
			rank = encodedRank
		case behind > 0:
			rank = end
		}
		joined := make([]string, 0, len(pattern))
		joined = append(append(append(joined, segments[:at]...), name), segments[end:]...)
		segments = joined
	}
	if len(segments) != len(pattern) {
		return nil, 0, false
	}
	for i, want := range pattern {
		switch {
		case strings.HasPrefix(want, "{"):
			parameters[strings.Trim(want, "{}")] = segments[i]
		case want != segments[i]:
			return nil, 0, false
		}
	}
	return parameters, rank, true
}
