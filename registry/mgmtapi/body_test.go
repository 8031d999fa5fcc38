package mgmtapi_test

import (
	"context"
	"errors"
	"net/http"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/mgmtapi"
	"github.com/tidelock/tidelock/registry/openapi"
)

// broken is a core whose every look at an organization fails.
type broken struct {
	mgmtapi.Core
	err error
}

func (b broken) Organization(context.Context, string) (domain.Organization, error) {
	return domain.Organization{}, b.err
}

var _ = DescribeTable("A body is refused",
	func(method, path, body, detail string) {
		server := serve(nil, nil)
		defer server.Close()
		answer := send(server, admin, method, path, body)
		Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
		Expect(answer.problem()).To(Equal(openapi.Problem{
			Type: "urn:tidelock:error:invalid_request", Title: "invalid_request", Status: 400, Detail: detail,
			ErrorType: openapi.ErrorTypeInvalidRequest, ErrorMessage: detail, Code: "INVALID",
		}))
	},
	Entry("that is missing", "POST", "/api/v1/organization/", "", "the body is missing; a JSON object is needed"),
	Entry("that is blank", "POST", "/api/v1/organization/", " \n", "the body is missing; a JSON object is needed"),
	Entry("that is null", "POST", "/api/v1/organization/", "null", "the body must be a JSON object"),
	Entry("that is a list", "POST", "/api/v1/organization/", "[]", "the body must be a JSON object"),
	Entry("that is a string", "POST", "/api/v1/organization/", `"a"`, "the body must be a JSON object"),
	Entry("that ends too early", "POST", "/api/v1/organization/", `{"name": "a"`, "the body is not one JSON object: unexpected end of JSON input (byte 12)"),
	Entry("that is not JSON", "POST", "/api/v1/organization/", `{name: "a"}`, "the body is not one JSON object: invalid character 'n' looking for beginning of object key string (byte 2)"),
	Entry("with something behind it", "POST", "/api/v1/organization/", `{"name": "a"} {}`, "the body is not one JSON object: invalid character '{' after top-level value (byte 15)"),
	Entry("with rubbish behind it", "POST", "/api/v1/organization/", `{"name": "a"}]`, "the body is not one JSON object: invalid character ']' after top-level value (byte 14)"),
	Entry("with an unknown field", "POST", "/api/v1/organization/", `{"name": "a", "quota": 1}`, "quota: unknown field; the fields are email, name"),
	Entry("with a field in other letters", "POST", "/api/v1/organization/", `{"Name": "a"}`, "Name: unknown field; the fields are email, name"),
	Entry("with a field twice", "POST", "/api/v1/organization/", `{"name": "a", "name": "b"}`, "name: the field stands more than once"),
	Entry("without a required field", "POST", "/api/v1/organization/", `{}`, "name: the field is required"),
	Entry("with null for a required field", "POST", "/api/v1/organization/", `{"name": null}`, "name: the field must not be null"),
	Entry("with a number for a string", "POST", "/api/v1/organization/", `{"name": 1}`, "name: a string is needed, not a JSON number"),
	Entry("with a string for a boolean", "PUT", "/api/v1/repository/a/b/tag/v1", `{"immutable": "true"}`, "immutable: a boolean is needed, not a JSON string"),
	Entry("with an object for a string", "PUT", "/api/v1/repository/a/b/tag/v1", `{"manifest_digest": {}}`, "manifest_digest: a string is needed, not a JSON object"),
	Entry("with nothing to change", "PUT", "/api/v1/repository/a/b/tag/v1", `{}`, "nothing to change; give immutable, manifest_digest or expiration"),
	Entry("with an expiration that is a date", "PUT", "/api/v1/repository/a/b/tag/v1", `{"expiration": "2030-01-01"}`, "expiration: a time in whole Unix seconds is needed, or null for never"),
	Entry("with an unknown visibility", "POST", "/api/v1/repository", `{"namespace": "a", "repository": "b", "visibility": "hidden"}`, `visibility: "hidden" is not allowed; use public or private`),
	Entry("with an empty visibility", "POST", "/api/v1/repository/a/b/changevisibility", `{"visibility": ""}`, `visibility: "" is not allowed; use public or private`),
	Entry("with an unknown kind", "POST", "/api/v1/repository", `{"namespace": "a", "repository": "b", "repo_kind": "chart"}`, `repo_kind: "chart" is not allowed; every repository is of the kind "image"`),
	Entry("with a long description", "PUT", "/api/v1/repository/a/b", `{"description": "`+strings.Repeat("ä", 4097)+`"}`, "description: 4097 characters are too many; at most 4096 are allowed"),
)

var _ = DescribeTable("A name is refused",
	func(method, path, body, code, detail string) {
		server := serve(nil, nil)
		defer server.Close()
		answer := send(server, admin, method, path, body)
		Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
		problem := answer.problem()
		Expect(problem.ErrorType).To(Equal(openapi.ErrorTypeInvalidRequest))
		Expect(problem.Code).To(Equal(code))
		Expect(problem.Detail).To(ContainSubstring(detail))
	},
	Entry("of an organization", "GET", "/api/v1/organization/Team", "", "NAME_INVALID", `organization name "Team" is invalid`),
	Entry("of an organization with a slash", "GET", "/api/v1/organization/a%2Fb", "", "NAME_INVALID", `organization name "a/b" is invalid`),
	Entry("of a new organization", "POST", "/api/v1/organization/", `{"name": "a/b"}`, "NAME_INVALID", `organization name "a/b" is invalid`),
	Entry("of a repository with one segment", "GET", "/api/v1/repository/app", "", "NAME_INVALID", "use organization/repository"),
	Entry("of a new repository with one segment", "POST", "/api/v1/repository", `{"repository": "app"}`, "NAME_INVALID", "use organization/repository"),
	Entry("of a new repository in an organization with a slash", "POST", "/api/v1/repository", `{"namespace": "a/b", "repository": "app"}`, "NAME_INVALID", `organization name "a/b" is invalid`),
	Entry("of a repository", "DELETE", "/api/v1/repository/a/B", "", "NAME_INVALID", `repository name "a/B" is invalid`),
	Entry("of a tag", "DELETE", "/api/v1/repository/a/b/tag/.v1", "", "TAG_INVALID", `tag ".v1" is invalid`),
	Entry("of a digest", "PUT", "/api/v1/repository/a/b/tag/v1", `{"manifest_digest": "sha256:1"}`, "INVALID", `manifest_digest: digest "sha256:1" is invalid`),
	Entry("of a restored digest", "POST", "/api/v1/repository/a/b/tag/v1/restore", `{"manifest_digest": ""}`, "INVALID", `manifest_digest: digest "" is invalid`),
)

var _ = It("refuses a body that is too large", func() {
	server := serve(nil, nil)
	defer server.Close()
	answer := send(server, admin, "POST", "/api/v1/organization/", `{"name": "`+strings.Repeat("a", 1<<20)+`"}`)
	Expect(answer.status).To(Equal(http.StatusRequestEntityTooLarge))
	Expect(answer.problem().Code).To(Equal("TOO_LARGE"))
	Expect(answer.problem().Detail).To(Equal("the body is larger than 1048576 bytes"))
})

var _ = DescribeTable("A query is refused",
	func(path, detail string) {
		server := serve(nil, nil)
		defer server.Close()
		answer := send(server, admin, "GET", path, "")
		Expect(answer.status).To(Equal(http.StatusBadRequest), answer.body)
		Expect(answer.problem().Detail).To(Equal(detail))
	},
	Entry("with an unknown parameter", "/api/v1/superuser/logs?startime=01/02/2026", "startime: unknown parameter; allowed are next_page, limit, search, starttime, endtime, performer, kind, tag, policy"),
	Entry("with a parameter where none is allowed", "/api/v1/organization/a?x=1", "x: unknown parameter; none is allowed here"),
	Entry("with a parameter twice", "/api/v1/superuser/logs?tag=a&tag=b", "tag: the parameter stands more than once"),
	Entry("with an empty parameter", "/api/v1/superuser/logs?performer=", "performer: the parameter must not be empty"),
	Entry("that cannot be read", "/api/v1/superuser/logs?tag=%zz", `the query cannot be read: invalid URL escape "%zz"`),
	Entry("with a bad starttime", "/api/v1/superuser/logs?starttime=2026-13-01", `starttime: "2026-13-01" is neither a date (MM/DD/YYYY) nor a time (RFC 3339, such as 2026-01-31T00:00:00Z)`),
	Entry("with a day first", "/api/v1/organization/a/logs?starttime=31/01/2026", `starttime: "31/01/2026" is neither a date (MM/DD/YYYY) nor a time (RFC 3339, such as 2026-01-31T00:00:00Z)`),
	Entry("with a bad endtime", "/api/v1/repository/a/b/aggregatelogs?starttime=01/01/2026&endtime=02/30/2026", `endtime: "02/30/2026" is neither a date (MM/DD/YYYY) nor a time (RFC 3339, such as 2026-01-31T00:00:00Z)`),
	Entry("that ends before it begins", "/api/v1/superuser/logs?starttime=01/02/2026&endtime=12/31/2025", "endtime: 12/31/2025 is before starttime"),
	Entry("with a cursor that is none", "/api/v1/superuser/logs?next_page=x", `next_page: "x" is not the next_page of a page of this log`),
	Entry("with a page of 0", "/api/v1/repository/a/b/tag/?page=0", `page: "0" is not a whole number from 1 to 1000000`),
	Entry("with too large a page", "/api/v1/repository/a/b/tag/?limit=101", `limit: "101" is not a whole number from 1 to 100`),
	Entry("with an unknown filter", "/api/v1/repository/a/b/tag/?filter_tag_name=v1", `filter_tag_name: "v1" is neither like:<text> nor eq:<name>`),
	Entry("with an empty filter", "/api/v1/repository/a/b/tag/?filter_tag_name=like:", `filter_tag_name: "like:" is neither like:<text> nor eq:<name>`),
	Entry("with two filters", "/api/v1/repository/a/b/tag/?filter_tag_name=like:v&specificTag=v1", "filter_tag_name: cannot stand beside specificTag"),
	Entry("with history of everything", "/api/v1/repository/a/b/tag/?onlyActiveTags=false", "onlyActiveTags: false needs specificTag: the history is kept by tag"),
	Entry("with a boolean that is none", "/api/v1/repository/a/b/tag/?onlyActiveTags=yes", `onlyActiveTags: "yes" is neither true nor false`),
	Entry("without a namespace", "/api/v1/repository", "namespace: the parameter is required"),
)

var _ = DescribeTable("An error of the core is answered",
	func(err error, status int, body string) {
		server := serve(broken{err: err}, nil)
		defer server.Close()
		answer := send(server, admin, "GET", "/api/v1/organization/a", "")
		Expect(answer.status).To(Equal(status))
		Expect(answer.body).To(MatchJSON(body))
		retry := ""
		if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
			retry = "1"
		}
		Expect(answer.header.Get("Retry-After")).To(Equal(retry))
	},
	Entry("not found", domain.Errorf(domain.CodeNotFound, "there is no organization a"), 404, `{
		"type": "urn:tidelock:error:not_found", "title": "not_found", "status": 404, "error_type": "not_found", "code": "NOT_FOUND",
		"detail": "there is no organization a", "error_message": "there is no organization a"}`),
	Entry("unavailable, without the cause", domain.Unavailable(errors.New("disk /dev/sda1 is full")), 503, `{
		"type": "urn:tidelock:error:downstream_issue", "title": "downstream_issue", "status": 503, "error_type": "downstream_issue", "code": "UNAVAILABLE",
		"detail": "the registry cannot answer this now; try again", "error_message": "the registry cannot answer this now; try again"}`),
	Entry("too many requests", domain.Errorf(domain.CodeTooManyRequests, "slower"), 429, `{
		"type": "urn:tidelock:error:too_many_requests", "title": "too_many_requests", "status": 429, "error_type": "too_many_requests", "code": "TOOMANYREQUESTS",
		"detail": "slower", "error_message": "slower"}`),
	Entry("of no known kind, without its text", errors.New("nil pointer at 0x42"), 500, `{
		"type": "urn:tidelock:error:internal_error", "title": "internal_error", "status": 500, "error_type": "internal_error", "code": "INTERNAL",
		"detail": "the registry failed; its log says why", "error_message": "the registry failed; its log says why"}`),
	Entry("of a context", context.DeadlineExceeded, 503, `{
		"type": "urn:tidelock:error:downstream_issue", "title": "downstream_issue", "status": 503, "error_type": "downstream_issue", "code": "UNAVAILABLE",
		"detail": "the registry cannot answer this now; try again", "error_message": "the registry cannot answer this now; try again"}`),
	Entry("managed by a resource", domain.Errorf(domain.CodeManagedByResource, "managed by ImmutabilityPolicy team-a/releases"), 409, `{
		"type": "urn:tidelock:error:managed_by_resource", "title": "managed_by_resource", "status": 409, "error_type": "managed_by_resource", "code": "MANAGED_BY_RESOURCE",
		"detail": "managed by ImmutabilityPolicy team-a/releases", "error_message": "managed by ImmutabilityPolicy team-a/releases"}`),
	Entry("a lock by a policy", domain.Immutable("overwrite", &domain.LockError{
		Tags: []string{"v1"}, Count: 1, Digest: "sha256:1", Policy: &domain.PolicyRef{UUID: "u", Pattern: "v.*", Scope: domain.ScopeOrganization},
	}), 409, `{
		"type": "urn:tidelock:error:tag_immutable", "title": "tag_immutable", "status": 409, "error_type": "tag_immutable", "code": "TAG_IMMUTABLE",
		"detail": "Cannot overwrite immutable tag 'v1': sha256:1 stands, locked by namespace policy u (pattern v.*)",
		"error_message": "Cannot overwrite immutable tag 'v1': sha256:1 stands, locked by namespace policy u (pattern v.*)",
		"locked": {"count": 1, "tags": ["v1"], "manifest_digest": "sha256:1", "policy": {"uuid": "u", "tagPattern": "v.*", "scope": "namespace"}}}`),
	Entry("an organization of somebody else", &domain.Error{Code: domain.CodeOrganizationNotOwned, Message: "no", Owner: &domain.Owner{Namespace: "team-b", UID: "1"}}, 409, `{
		"type": "urn:tidelock:error:organization_not_owned", "title": "organization_not_owned", "status": 409, "error_type": "organization_not_owned", "code": "ORGANIZATION_NOT_OWNED",
		"detail": "no", "error_message": "no", "owner": {"namespace": "team-b", "uid": "1"}}`),
)
