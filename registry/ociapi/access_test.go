package ociapi

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("access", Ordered, ContinueOnFailure, func() {
	var h *harness
	BeforeAll(func() { h = withContent() })

	DescribeTable("is decided before anything else", func(e exchange) { h.check(e) },
		Entry("the base, with credentials", exchange{method: "GET", path: "/v2/", status: 200, answer: "{}",
			want: map[string]string{"Docker-Distribution-Api-Version": "registry/2.0", "Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}}),
		Entry("the base, without its slash", exchange{method: "GET", path: "/v2", status: 200, answer: "{}"}),
		Entry("the base, HEAD", exchange{method: "HEAD", path: "/v2/", status: 200, want: map[string]string{"Content-Length": "2"}}),
		Entry("the base, anonymous", exchange{as: "-", method: "GET", path: "/v2/", status: 401,
			want:   map[string]string{"WWW-Authenticate": `Bearer realm="http://example.com/v2/auth",service="tidelock"`, "Content-Type": "application/json", "Docker-Distribution-Api-Version": "registry/2.0"},
			answer: refusal("UNAUTHORIZED", "authentication is required")}),
		Entry("wrong credentials", exchange{as: "wrong", method: "GET", path: "/v2/", status: 401,
			want: map[string]string{"WWW-Authenticate": `Bearer realm="http://example.com/v2/auth",service="tidelock"`}, answer: refusal("UNAUTHORIZED", "the credentials are wrong")}),
		Entry("somebody without the right", exchange{as: "operator", method: "GET", path: repo + "/manifests/v1", status: 403,
			want: map[string]string{"WWW-Authenticate": ""}, answer: refusal("DENIED", `operator "operator" does not have the permission repository:pull on team-a/app`)}),
		Entry("an anonymous pull of what is there", exchange{as: "-", method: "GET", path: repo + "/manifests/v1", status: 401, answer: refusal("UNAUTHORIZED", "authentication is required")}),
		Entry("an anonymous pull of what is not there", exchange{as: "-", method: "GET", path: "/v2/team-b/app/manifests/v1", status: 401, answer: refusal("UNAUTHORIZED", "authentication is required")}),
		Entry("an anonymous request with a bad name", exchange{as: "-", method: "GET", path: "/v2/UPPER/app/manifests/v1", status: 401, answer: refusal("UNAUTHORIZED", "authentication is required")}),
		Entry("an anonymous request of an unknown path", exchange{as: "-", method: "GET", path: "/v2/nothing", status: 401, answer: refusal("UNAUTHORIZED", "authentication is required")}),
		Entry("an anonymous request with an unknown method", exchange{as: "-", method: "PATCH", path: repo + "/manifests/v1", status: 401, answer: refusal("UNAUTHORIZED", "authentication is required")}),
		Entry("an unknown path", exchange{method: "GET", path: "/v2/team-a/app/nothing/v1", status: 404,
			answer: refusal("UNSUPPORTED", "there is nothing at this path; see the OCI Distribution Specification 1.1")}),
		Entry("an unknown method", exchange{method: "PATCH", path: repo + "/manifests/v1", status: 405,
			want: map[string]string{"Allow": "GET, HEAD, PUT, DELETE"}, answer: refusal("UNSUPPORTED", "the method is not allowed here; allowed are GET, HEAD, PUT, DELETE")}),
		Entry("a method of another endpoint", exchange{method: "GET", path: repo + "/blobs/uploads/", status: 405,
			want: map[string]string{"Allow": "POST"}, answer: refusal("UNSUPPORTED", "the method is not allowed here; allowed are POST")}),
		Entry("a name of one segment", exchange{method: "GET", path: "/v2/app/manifests/v1", status: 400,
			answer: refusal("NAME_INVALID", `repository name "app" has one segment; use organization/repository`)}),
		Entry("a name that climbs", exchange{method: "GET", path: "/v2/team-a/../../etc/manifests/v1", status: 400,
			answer: refusal("NAME_INVALID", `repository name "team-a/../../etc" is invalid: each segment is lower-case letters and digits, separated by '.', '_', '__' or '-'`)}),
		Entry("a name with an empty segment", exchange{method: "GET", path: "/v2/team-a//app/manifests/v1", status: 400,
			answer: refusal("NAME_INVALID", `repository name "team-a//app" is invalid: each segment is lower-case letters and digits, separated by '.', '_', '__' or '-'`)}),
	)

	It("has a permission and a pattern for each route", func() {
		for _, r := range routes {
			Expect(r.permission).NotTo(BeEmpty())
			Expect(patterns).To(HaveKey(r.endpoint))
		}
	})
})

var _ = DescribeTable("splitPath", func(path string, want target) {
	t, ok := splitPath(path)
	Expect(ok).To(Equal(want.endpoint != 0))
	if ok {
		Expect(t).To(Equal(want))
	}
},
	Entry(nil, "/v2", target{endpoint: endpointBase}),
	Entry(nil, "/v2/", target{endpoint: endpointBase}),
	Entry(nil, "/v2/_catalog", target{endpoint: endpointCatalog}),
	Entry(nil, "/v2/a/b/tags/list", target{endpointTags, "a/b", ""}),
	Entry(nil, "/v2/a/b/manifests/v1", target{endpointManifest, "a/b", "v1"}),
	Entry(nil, "/v2/a/b/blobs/sha256:00", target{endpointBlob, "a/b", "sha256:00"}),
	Entry(nil, "/v2/a/b/referrers/sha256:00", target{endpointReferrers, "a/b", "sha256:00"}),
	Entry("uploads with a slash", "/v2/a/b/blobs/uploads/", target{endpointUploads, "a/b", ""}),
	Entry("uploads without a slash", "/v2/a/b/blobs/uploads", target{endpointUploads, "a/b", ""}),
	Entry("an upload", "/v2/a/b/blobs/uploads/0af3", target{endpointUpload, "a/b", "0af3"}),
	Entry("a repository called manifests", "/v2/a/manifests/manifests/v1", target{endpointManifest, "a/manifests", "v1"}),
	Entry("a repository called tags", "/v2/a/tags/manifests/list", target{endpointManifest, "a/tags", "list"}),
	Entry("the tags of a repository called manifests", "/v2/a/manifests/tags/list", target{endpointTags, "a/manifests", ""}),
	Entry("a repository called blobs/uploads", "/v2/a/blobs/uploads/manifests/v1", target{endpointManifest, "a/blobs/uploads", "v1"}),
	Entry("an upload in a repository called blobs", "/v2/a/blobs/blobs/uploads/0af3", target{endpointUpload, "a/blobs", "0af3"}),
	Entry("a blob called uploads", "/v2/a/blobs/blobs/uploads", target{endpointUploads, "a/blobs", ""}),
	Entry("no name", "/v2/manifests/v1", target{}),
	Entry("no name before an upload", "/v2/blobs/uploads/0af3", target{}),
	Entry("uploads of nothing", "/v2/a/uploads/0af3", target{}),
	Entry("no keyword", "/v2/a/b", target{}),
	Entry("one segment", "/v2/a", target{}),
	Entry("another version", "/v1/a/manifests/v1", target{}),
	Entry("an empty reference", "/v2/a/b/manifests/", target{endpointManifest, "a/b", ""}),
)
