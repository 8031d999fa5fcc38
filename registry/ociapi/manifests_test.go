package ociapi

import (
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// put is a manifest's PUT; contentType may be empty.
func put(reference, contentType, body string) exchange {
	e := exchange{method: "PUT", path: repo + "/manifests/" + reference, body: body, status: 201}
	if contentType != "" {
		e.header = map[string]string{"Content-Type": contentType}
	}
	return e
}

var _ = Describe("manifests", Ordered, ContinueOnFailure, func() {
	var h *harness
	BeforeAll(func() { h = withContent() })

	etag := `"` + sha(image) + `"`
	whole := map[string]string{
		"Content-Type": imageType, "Content-Length": fmt.Sprint(len(image)), "Docker-Content-Digest": sha(image), "ETag": etag,
	}
	DescribeTable("GET and HEAD", func(e exchange) { h.check(e) },
		Entry("by tag", exchange{method: "GET", path: repo + "/manifests/v1", status: 200, want: whole, answer: image}),
		Entry("by digest", exchange{method: "GET", path: repo + "/manifests/" + sha(image), status: 200, want: whole, answer: image}),
		Entry("HEAD by tag", exchange{method: "HEAD", path: repo + "/manifests/v1", status: 200, want: whole}),
		Entry("HEAD by digest", exchange{method: "HEAD", path: repo + "/manifests/" + sha(image), status: 200, want: whole}),
		Entry("an index", exchange{method: "GET", path: repo + "/manifests/multi", status: 200, want: map[string]string{"Content-Type": indexType}, answer: index}),
		Entry("whatever the client accepts", exchange{method: "GET", path: repo + "/manifests/v1", header: map[string]string{"Accept": "text/html"}, status: 200, want: whole, answer: image}),
		Entry("If-None-Match", exchange{method: "GET", path: repo + "/manifests/v1", header: map[string]string{"If-None-Match": etag}, status: 304,
			want: map[string]string{"ETag": etag, "Docker-Content-Digest": sha(image), "Content-Length": ""}}),
		Entry("If-None-Match of what the tag pointed to before", exchange{method: "GET", path: repo + "/manifests/v1", header: map[string]string{"If-None-Match": `"` + sha(index) + `"`}, status: 200, want: whole, answer: image}),
		Entry("an unknown tag", exchange{method: "GET", path: repo + "/manifests/v2", status: 404, answer: refusal("MANIFEST_UNKNOWN", "manifest v2 is not in repository team-a/app")}),
		Entry("an unknown digest", exchange{method: "GET", path: repo + "/manifests/" + sha("x"), status: 404, answer: refusal("MANIFEST_UNKNOWN", "manifest "+sha("x")+" is not in repository team-a/app")}),
		Entry("HEAD of an unknown tag", exchange{method: "HEAD", path: repo + "/manifests/v2", status: 404}),
		Entry("what can be no tag", exchange{method: "GET", path: repo + "/manifests/.v1", status: 404, answer: refusal("MANIFEST_UNKNOWN", `there is no manifest ".v1" in team-a/app`)}),
		Entry("a bad digest", exchange{method: "GET", path: repo + "/manifests/sha256:00", status: 400, answer: refusal("DIGEST_INVALID", `digest "sha256:00" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`)}),
		Entry("an unknown repository", exchange{method: "GET", path: "/v2/team-a/other/manifests/v1", status: 404, answer: refusal("NAME_UNKNOWN", "repository team-a/other does not exist")}),
	)

	DescribeTable("PUT", func(e exchange, digests ...string) {
		e.want = map[string]string{"Content-Length": "0"}
		if len(digests) > 0 {
			e.want["Docker-Content-Digest"], e.want["Location"] = digests[0], repo+"/manifests/"+digests[0]
		}
		h.check(e)
		h.check(exchange{method: "GET", path: e.path, status: 200, answer: e.body})
	},
		Entry("by tag", put("by-tag", imageType, image), sha(image)),
		Entry("by digest", put(sha(image), imageType, image), sha(image)),
		Entry("by sha512", put(digest.SHA512.FromString(image).String(), imageType, image), digest.SHA512.FromString(image).String()),
		Entry("with a parameter of the media type", put("v1", imageType+"; charset=utf-8", image), sha(image)),
		Entry("without Content-Type", put("v1", "", image), sha(image)),
		Entry("without mediaType", put("bare", imageType, strings.Replace(image, `"mediaType":"`+imageType+`",`, "", 1))),
		Entry("an image without layers", put("empty", imageType, imageManifest("application/vnd.oci.image.config.v1+json", config))),
		Entry("one layer twice", put("twice", imageType, imageManifest("application/vnd.oci.image.config.v1+json", config, layer, layer))),
		Entry("an index without manifests", put("none", indexType, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)),
		Entry("an index of an index", put("nested", indexType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, describe(indexType, index)))),
		Entry("a BuildKit cache, an index of layers", put("cache", indexType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s,%s]}`, indexType,
			describe(layerType, layer), describe("application/vnd.buildkit.cacheconfig.v0", config)))),
		Entry("a foreign layer that was not pushed", put("windows", dockerManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, dockerManifest,
			describe("application/vnd.docker.container.image.v1+json", config), describe("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "far away")))),
		Entry("Docker's schema 2", put("docker", dockerManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, dockerManifest,
			describe("application/vnd.docker.container.image.v1+json", config), describe("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)))),
		Entry("Docker's manifest list", put("docker-list", dockerManifestList, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, dockerManifestList, describe(imageType, image)))),
		Entry("the largest", put("large", imageType, fill(imageManifest("application/vnd.oci.image.config.v1+json", config), domain.MaxManifest))),
	)

	DescribeTable("PUT is refused", func(e exchange, status int, code, message string) {
		e.status, e.answer = status, refusal(code, message)
		h.check(e)
	},
		Entry("a tag that is none", put(".v1", imageType, image), 400, "TAG_INVALID", `tag ".v1" is invalid: a letter, digit or '_', then at most 127 letters, digits, '.', '_' or '-'`),
		Entry("a bad digest", put("sha256:00", imageType, image), 400, "DIGEST_INVALID", `digest "sha256:00" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`),
		Entry("another digest", put(sha(index), imageType, image), 400, "DIGEST_INVALID", "the manifest's digest is "+sha(image)+", not "+sha(index)),
		Entry("another media type", put("v1", indexType, image), 400, "MANIFEST_INVALID", "Content-Type is "+indexType+", but the manifest's mediaType is "+imageType),
		Entry("no media type", put("v1", "", strings.Replace(image, `"mediaType":"`+imageType+`",`, "", 1)), 400, "MANIFEST_INVALID", "neither the Content-Type header nor the manifest's mediaType says what the manifest is"),
		Entry("a malformed media type", put("v1", "a/b/c", image), 400, "MANIFEST_INVALID", `Content-Type "a/b/c" is malformed`),
		Entry("an unknown media type", put("v1", "application/json", `{"schemaVersion":2}`), 400, "MANIFEST_INVALID",
			`media type "application/json" is not supported; use an OCI image manifest or index, or a Docker schema 2 manifest or manifest list (artifacts are OCI image manifests with an artifactType)`),
		Entry("schema 1", put("v1", dockerSchema1JWS, `{"schemaVersion":1,"name":"team-a/app"}`), 400, "MANIFEST_INVALID",
			"Docker's image manifest schema 1 is not supported; push the image again with a client that writes schema 2 or OCI manifests"),
		Entry("schema 1 in the clothes of OCI", put("v1", imageType, `{"schemaVersion":1}`), 400, "MANIFEST_INVALID", "schemaVersion is 1; it must be 2"),
		Entry("no JSON", put("v1", imageType, `image`), 400, "MANIFEST_INVALID", "the manifest is not acceptable JSON: it is malformed near byte 0"),
		Entry("nothing", put("v1", imageType, ``), 400, "MANIFEST_INVALID", "the manifest does not have the form of one: unexpected end of JSON input"),
		Entry("something behind", put("v1", imageType, image+"{}"), 400, "MANIFEST_INVALID", "the manifest does not have the form of one: invalid character '{' after top-level value"),
		Entry("a missing blob", put("v1", imageType, imageManifest("application/vnd.oci.image.config.v1+json", config, "x")), 404, "MANIFEST_BLOB_UNKNOWN",
			"blob "+sha("x")+" is not in repository team-a/app; push it first"),
		Entry("a missing child", put("v1", indexType, fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`, describe(imageType, "x"))), 404, "MANIFEST_BLOB_UNKNOWN",
			"manifest "+sha("x")+" is not in repository team-a/app; push it first"),
		Entry("a repository of another name", exchange{method: "PUT", path: "/v2/team-a/App/manifests/v1", body: image}, 400, "NAME_INVALID",
			`repository name "team-a/App" is invalid: each segment is lower-case letters and digits, separated by '.', '_', '__' or '-'`),
		Entry("too large", put("v1", imageType, fill(image, domain.MaxManifest+1)), 413, "SIZE_INVALID", "a manifest has at most 4194304 bytes"),
	)

	It("refuses what is too large and does not say so", func() {
		e := put("v1", imageType, "")
		e.status, e.answer = 413, refusal("SIZE_INVALID", "a manifest has at most 4194304 bytes")
		checkStream(h, e, strings.NewReader(fill(image, domain.MaxManifest+1)))
	})

	It("refuses a body that was cut off", func() {
		e := put("v1", imageType, "")
		e.status, e.answer = 400, refusal("MANIFEST_INVALID", "the body ended early")
		checkStream(h, e, cutOff{strings.NewReader(image[:100])})
	})

	It("takes an index as large as the limit allows", func() {
		var children strings.Builder
		for n := 0; children.Len() < domain.MaxManifest-400; n++ {
			if n > 0 {
				children.WriteByte(',')
			}
			children.WriteString(describe(imageType, fmt.Sprint(n)))
		}
		w := h.do(put("huge", indexType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, &children)))
		Expect(w.Code).To(Equal(404))
		Expect(w.Body.String()).To(MatchRegexp(`manifest sha256:[0-9a-f]{64} and [0-9]{5} more are not in repository team-a/app; push them first`))
	})

	It("tells that it has seen the subject, whether that is there or not", func() {
		signature := imageWith(`"subject":`+describe(imageType, "not there")+`,`, "application/vnd.example.sig", config)
		e := put(sha(signature), imageType, signature)
		e.want = map[string]string{"OCI-Subject": sha("not there")}
		h.check(e)
		e = put("v1", imageType, image)
		e.want = map[string]string{"OCI-Subject": ""}
		h.check(e)
	})
})

var _ = Describe("locked tags", func() {
	var h *harness
	var lock string
	BeforeEach(func() {
		h = withContent()
		h.pushManifest(repo, "latest", image)
		lock = h.lock("v.*")
	})
	other := imageManifest("application/vnd.oci.image.config.v1+json", config)
	refused := func(operation string) string {
		detail := fmt.Sprintf(`{"tags":["v1"],"count":1,"digest":%q,"policy":{"uuid":%q,"pattern":"v.*","scope":"namespace"}}`, sha(image), lock)
		return fmt.Sprintf(`{"errors":[{"code":"TAG_IMMUTABLE","message":"cannot %s immutable tag 'v1': %s stands, locked by namespace policy %s (pattern v.*)","detail":%s}]}`,
			operation, sha(image), lock, detail)
	}

	It("are refused with 422 and what stands in the way", func() {
		overwrite := put("v1", imageType, other)
		overwrite.status, overwrite.answer = 422, refused("overwrite")
		h.check(overwrite)
		h.check(exchange{method: "DELETE", path: repo + "/manifests/v1", status: 422, answer: refused("delete")})
		h.check(exchange{method: "DELETE", path: repo + "/manifests/" + sha(image), status: 422, answer: refused("delete")})
		h.check(exchange{method: "DELETE", path: repo + "/blobs/" + sha(layer), status: 422, answer: refused("delete a blob of")})
		h.check(exchange{method: "GET", path: repo + "/manifests/v1", status: 200, answer: image})
		h.check(exchange{method: "GET", path: repo + "/manifests/latest", status: 200, answer: image})
	})

	It("take the digest that they have", func() {
		h.check(put("v1", imageType, image))
	})
})

var _ = Describe("DELETE of manifests", func() {
	It("deletes a tag and leaves the manifest, or deletes both", func() {
		h := withContent()
		h.pushManifest(repo, "v2", image)
		h.check(exchange{method: "DELETE", path: repo + "/manifests/multi", status: 202})
		h.check(exchange{method: "DELETE", path: repo + "/manifests/multi", status: 404, answer: refusal("MANIFEST_UNKNOWN", "tag multi is not in repository team-a/app")})
		h.check(exchange{method: "GET", path: repo + "/manifests/" + sha(index), status: 200, answer: index})
		h.check(exchange{method: "DELETE", path: repo + "/manifests/" + sha(index), status: 202})
		h.check(exchange{method: "DELETE", path: repo + "/manifests/" + sha(image), status: 202})
		for _, reference := range []string{"v1", "v2", sha(image)} {
			h.check(exchange{method: "GET", path: repo + "/manifests/" + reference, status: 404,
				answer: refusal("MANIFEST_UNKNOWN", "manifest "+reference+" is not in repository team-a/app")})
		}
		h.check(exchange{method: "DELETE", path: repo + "/manifests/.x", status: 404, answer: refusal("MANIFEST_UNKNOWN", `there is no manifest ".x" in team-a/app`)})
	})
})
