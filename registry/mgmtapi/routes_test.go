package mgmtapi_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/mgmtapi"
	"github.com/tidelock/tidelock/registry/openapi"
)

// example puts values into the parameters of a path.
var example = strings.NewReplacer("{organization}", "no-such-org", "{repository}", "no-such-org/no/such", "{tag}", "v1",
	"{uuid}", "5e0c4b1e-0000-4000-8000-000000000000", "{robot}", "ci", "{member}", "nobody", "{account}", "nobody", "{user}", "nobody", "{key}", "none", "{namespace}", "team-a", "{name}", "releases", "{cursor}", "events", "{index}", "1000000")

var _ = Describe("The table of routes", func() {
	It("is the OpenAPI document, which is valid", func() {
		Expect(document.Validate(context.Background())).To(Succeed())
		described := map[string]*openapi3.Operation{}
		inherited := map[string]openapi3.Parameters{}
		for path, item := range document.Paths.Map() {
			for method, operation := range item.Operations() {
				described[method+" "+path] = operation
				inherited[method+" "+path] = item.Parameters
			}
		}
		served := map[string]bool{}
		for _, route := range mgmtapi.Routes() {
			key := route.Method + " " + route.Path
			Expect(served).NotTo(HaveKey(key), "twice in the table")
			served[key] = true
			Expect(described).To(HaveKey(key))
			operation := described[key]
			var query, path []string
			for _, parameter := range append(inherited[key], operation.Parameters...) {
				switch parameter.Value.In {
				case "query":
					query = append(query, parameter.Value.Name)
				case "path":
					path = append(path, "{"+parameter.Value.Name+"}")
				}
			}
			Expect(route.Query).To(ConsistOf(toAny(query)...), key)
			for _, name := range path {
				Expect(route.Path).To(ContainSubstring(name))
			}
			Expect(strings.Count(route.Path, "{")).To(Equal(len(path)), key)
			byOperator := operation.Security != nil && len(*operation.Security) == 1 && (*operation.Security)[0]["operatorToken"] != nil
			Expect(byOperator).To(Equal(route.Permission == auth.OperatorProtocol), key)
			open := operation.Security != nil && len(*operation.Security) == 1 && len((*operation.Security)[0]) == 0
			Expect(open).To(Equal(auth.Allowed(auth.RoleAnybody, route.Permission)), key)
		}
		for key := range described {
			Expect(served).To(HaveKey(key), "in the document and not served")
		}
	})

	It("is found by each of its paths, with and without a slash at the end", func() {
		for _, route := range mgmtapi.Routes() {
			path := strings.TrimSuffix(example.Replace(route.Path), "/")
			for _, ending := range []string{"", "/"} {
				found, _ := mgmtapi.Match(httptest.NewRequest(route.Method, path+ending, nil))
				Expect(found).To(Equal(route.Path), path+ending)
			}
		}
	})

	// No core stands behind this server: a request that reached one would panic.
	It("refuses whoever lacks the permission, whatever the request holds", func() {
		server := serve(nil, nil)
		defer server.Close()
		for role, as := range map[auth.Role]caller{auth.RoleAnonymous: anonymous, auth.RoleOperator: operator} {
			for _, route := range mgmtapi.Routes() {
				if auth.Allowed(role, route.Permission) || (role == auth.RoleAnonymous && auth.Allowed(auth.RoleAnybody, route.Permission)) {
					continue
				}
				for _, query := range []string{"", "?nonsense=1"} {
					for _, body := range []string{"", "{", `{"nonsense": 1}`} {
						answer := send(server, as, route.Method, example.Replace(route.Path)+query, body)
						problem := answer.problem()
						Expect(answer.body).NotTo(ContainSubstring("nonsense"))
						if role == auth.RoleAnonymous {
							Expect(answer.status).To(Equal(http.StatusUnauthorized), route.Path)
							Expect(answer.header.Get("WWW-Authenticate")).To(Equal(`Basic realm="Tidelock"`))
							Expect(problem.ErrorType).To(Equal(openapi.ErrorTypeInvalidToken))
						} else {
							Expect(answer.status).To(Equal(http.StatusForbidden), route.Path)
							Expect(problem.ErrorType).To(Equal(openapi.ErrorTypeInsufficientScope))
						}
					}
				}
			}
		}
	})

	It("lets admin through to all but the operator's endpoints and its own account", func() {
		r := newRegistry(coreOptions)
		for _, route := range mgmtapi.Routes() {
			answer := r.admin(route.Method, example.Replace(route.Path), "")
			if auth.Allowed(auth.RoleSuperuser, route.Permission) || auth.Allowed(auth.RoleAnybody, route.Permission) {
				Expect(answer.status).To(BeElementOf(http.StatusOK, http.StatusNoContent, http.StatusBadRequest, http.StatusNotFound), "%s %s: %s", route.Method, route.Path, answer.body)
			} else {
				Expect(answer.status).To(Equal(http.StatusForbidden), route.Path)
				Expect(route.Permission).To(BeElementOf(auth.OperatorProtocol, auth.UserChange, auth.OwnTokensRead))
			}
		}
	})

	It("refuses wrong credentials before it looks at the path", func() {
		server := serve(nil, nil)
		defer server.Close()
		wrong := func(r *http.Request) { r.SetBasicAuth("admin", "wrong") }
		for _, path := range []string{"/api/v1/openapi.json", "/api/v1/nowhere", "/api/v1/superuser/logs"} {
			answer := send(server, wrong, "GET", path, "")
			Expect(answer.status).To(Equal(http.StatusUnauthorized))
			Expect(answer.body).To(MatchJSON(`{
				"type": "urn:tidelock:error:invalid_token", "title": "invalid_token", "status": 401,
				"detail": "the credentials are wrong", "error_message": "the credentials are wrong",
				"error_type": "invalid_token", "code": "UNAUTHORIZED"}`))
		}
	})

	It("refuses what another site makes a browser send", func() {
		server := serve(nil, nil)
		defer server.Close()
		crossSite := func(r *http.Request) {
			admin(r)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}
		answer := send(server, crossSite, "DELETE", "/api/v1/organization/team-a", "")
		Expect(answer.status).To(Equal(http.StatusForbidden))
	})

	DescribeTable("answers what it does not serve",
		func(method, path string, status int, allow string) {
			server := serve(nil, nil)
			defer server.Close()
			answer := send(server, admin, method, path, "")
			Expect(answer.status).To(Equal(status))
			Expect(answer.header.Get("Allow")).To(Equal(allow))
		},
		Entry("an unknown path", "GET", "/api/v1/nowhere", 404, ""),
		Entry("the prefix", "GET", "/api/", 404, ""),
		Entry("an empty segment", "GET", "/api/v1//organization", 404, ""),
		Entry("two slashes at the end", "GET", "/api/v1/superuser/logs//", 404, ""),
		Entry("a path that would be cleaned", "GET", "/api/v1/x/../superuser/logs", 404, ""),
		Entry("a list without the organization", "GET", "/api/v1/organization/", 405, "POST"),
		Entry("a method that is not there", "POST", "/api/v1/superuser/logs", 405, "GET, HEAD"),
		Entry("several methods", "PATCH", "/api/v1/repository/a/b/tag/v1", 405, "DELETE, PUT"),
		Entry("OPTIONS", "OPTIONS", "/api/v1/organization/a", 405, "DELETE, GET, HEAD"),
		Entry("a tag with the name of a keyword, slashes not encoded", "DELETE", "/api/v1/repository/a/b/tag/logs", 405, "GET, HEAD"),
	)

	It("answers HEAD like GET, without the body", func() {
		server := serve(nil, nil)
		defer server.Close()
		full := send(server, anonymous, "GET", "/api/v1/openapi.json", "")
		head := send(server, anonymous, "HEAD", "/api/v1/openapi.json", "")
		Expect(head.status).To(Equal(http.StatusOK))
		Expect(head.body).To(BeEmpty())
		Expect(head.header.Get("Content-Length")).To(Equal(full.header.Get("Content-Length")))
	})
})

var _ = DescribeTable("Matching a path",
	func(path, want string, parameters map[string]string) {
		found, got := mgmtapi.Match(httptest.NewRequest(http.MethodPut, path, nil))
		if found == "" {
			found, got = mgmtapi.Match(httptest.NewRequest(http.MethodGet, path, nil))
		}
		Expect(found).To(Equal(want))
		Expect(got).To(Equal(parameters))
	},
	Entry("of a repository", "/api/v1/repository/a/b", "/api/v1/repository/{repository}", repo("a/b")),
	Entry("of a nested repository", "/api/v1/repository/a/b/c/d", "/api/v1/repository/{repository}", repo("a/b/c/d")),
	Entry("of a repository, encoded", "/api/v1/repository/a%2Fb%2fc", "/api/v1/repository/{repository}", repo("a/b/c")),
	Entry("of a tag", "/api/v1/repository/a/b/tag/v1", "/api/v1/repository/{repository}/tag/{tag}", repo("a/b", "tag", "v1")),
	Entry("of a tag in a nested repository", "/api/v1/repository/a/b/c/tag/v1", "/api/v1/repository/{repository}/tag/{tag}", repo("a/b/c", "tag", "v1")),
	Entry("of a tag, encoded", "/api/v1/repository/a%2Fb%2Fc/tag/v1", "/api/v1/repository/{repository}/tag/{tag}", repo("a/b/c", "tag", "v1")),
	Entry("at the rightmost keyword", "/api/v1/repository/a/tag/b/tag/v1", "/api/v1/repository/{repository}/tag/{tag}", repo("a/tag/b", "tag", "v1")),
	Entry("of the tags of a repository called tag", "/api/v1/repository/a/tag/tag", "/api/v1/repository/{repository}/tag/", repo("a/tag")),
	Entry("of a repository called tag", "/api/v1/repository/a/tag", "/api/v1/repository/{repository}", repo("a/tag")),
	Entry("of a repository that begins like a tag's", "/api/v1/repository/a/tag/v1", "/api/v1/repository/{repository}", repo("a/tag/v1")),
	Entry("of a repository that ends in a keyword, encoded", "/api/v1/repository/a%2Fb%2Flogs", "/api/v1/repository/{repository}", repo("a/b/logs")),
	Entry("of a tag called logs, the repository encoded", "/api/v1/repository/a%2Fb/tag/logs", "/api/v1/repository/{repository}/tag/{tag}", repo("a/b", "tag", "logs")),
	Entry("of a tag called logs, not encoded", "/api/v1/repository/a/b/tag/logs", "/api/v1/repository/{repository}/logs", repo("a/b/tag")),
	Entry("of a name that is encoded in part", "/api/v1/repository/a%2Fb/c/tag/v1", "/api/v1/repository/{repository}/tag/{tag}", repo("a/b/c", "tag", "v1")),
	Entry("of a policy", "/api/v1/repository/a/b/immutabilitypolicy/u", "/api/v1/repository/{repository}/immutabilitypolicy/{uuid}", repo("a/b", "uuid", "u")),
	Entry("of an organization", "/api/v1/organization/a", "/api/v1/organization/{organization}", map[string]string{"organization": "a"}),
	Entry("of an organization called logs", "/api/v1/organization/logs/logs", "/api/v1/organization/{organization}/logs", map[string]string{"organization": "logs"}),
	Entry("of an encoded keyword", "/api/v1/organization/a/lo%67s", "/api/v1/organization/{organization}/logs", map[string]string{"organization": "a"}),
	Entry("of no repository", "/api/v1/repository/", "/api/v1/repository", map[string]string{}),
	Entry("of nothing", "/api/v1", "", nil),
)

// repo are the parameters of a path with a repository.
func repo(name string, others ...string) map[string]string {
	parameters := map[string]string{"repository": name}
	for i := 0; i < len(others); i += 2 {
		parameters[others[i]] = others[i+1]
	}
	return parameters
}

func toAny(list []string) []any {
	var all []any
	for _, item := range list {
		all = append(all, item)
	}
	return all
}
