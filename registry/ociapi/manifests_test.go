package ociapi

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
)

// put is a manifest's PUT; contentType may be empty.
func put(reference, contentType, body string) exchange {
	e := exchange{method: "PUT", path: repo + "/manifests/" + reference, body: body, status: 201}
	if contentType != "" {
		e.header = map[string]string{"Content-Type": contentType}
	}
	return e
}

// fill makes a manifest longer, up to a size, by white space.
func fill(text string, size int) string {
	return text[:len(text)-1] + strings.Repeat(" ", size-len(text)) + "}"
}

// checkStream sends a body whose length is not announced.
func checkStream(h *harness, e exchange, body io.Reader) {
	GinkgoHelper()
	r := httptest.NewRequest(e.method, e.path, body)
	r.ContentLength = -1
	r.SetBasicAuth("admin", "")
	for name, value := range e.header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	Expect(w.Body.String()).To(Equal(e.answer))
	Expect(w.Code).To(Equal(e.status))
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
		Entry("If-Match", exchange{method: "GET", path: repo + "/manifests/v1", header: map[string]string{"If-Match": etag}, status: 200, want: whole, answer: image}),
		Entry("If-Match of what the tag pointed to before", exchange{method: "GET", path: repo + "/manifests/v1", header: map[string]string{"If-Match": `"` + sha(index) + `"`}, status: 412,
			answer: refusal("PRECONDITION_FAILED", `If-Match does not name `+etag+`, which is there`)}),
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
		Entry("a foreign layer that was not pushed", put("windows", manifest.DockerManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, manifest.DockerManifest,
			describe("application/vnd.docker.container.image.v1+json", config), describe("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "far away")))),
		Entry("Docker's schema 2", put("docker", manifest.DockerManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, manifest.DockerManifest,
			describe("application/vnd.docker.container.image.v1+json", config), describe("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)))),
		Entry("Docker's manifest list", put("docker-list", manifest.DockerManifestList, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, manifest.DockerManifestList, describe(imageType, image)))),
		Entry("the largest", put("large", imageType, fill(imageManifest("application/vnd.oci.image.config.v1+json", config), domain.MaxManifest))),
	)

	DescribeTable("PUT is refused", func(e exchange, status int, code, message string) {
		e.status, e.answer = status, refusal(code, message)
		h.check(e)
	},
		Entry("a tag that is none", put(".v1", imageType, image), 400, "TAG_INVALID", `tag ".v1" is invalid: a letter, digit or '_', then at most 127 letters, digits, '.', '_' or '-'`),
		Entry("a bad digest", put("sha256:00", imageType, image), 400, "DIGEST_INVALID", `digest "sha256:00" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`),
		Entry("another digest", put(sha(index), imageType, image), 400, "DIGEST_INVALID", "the manifest's digest is "+sha(image)+", not "+sha(index)),
		Entry("another media type", put("v1", indexType, image), 400, "MANIFEST_INVALID", `Content-Type is "`+indexType+`", but the manifest's mediaType is "`+imageType+`"`),
		Entry("no media type", put("v1", "", strings.Replace(image, `"mediaType":"`+imageType+`",`, "", 1)), 400, "MANIFEST_INVALID", "neither the Content-Type header nor the manifest's mediaType says what the manifest is"),
		Entry("a malformed media type", put("v1", "a/b/c", image), 400, "MANIFEST_INVALID", `Content-Type "a/b/c" is malformed`),
		Entry("an unknown media type", put("v1", "application/json", `{"schemaVersion":2}`), 400, "MANIFEST_INVALID",
			`media type "application/json" is not supported; use an OCI image manifest or index, or a Docker schema 2 manifest or manifest list (artifacts are OCI image manifests with an artifactType)`),
		Entry("schema 1", put("v1", manifest.DockerSchema1JWS, `{"schemaVersion":1,"name":"team-a/app"}`), 400, "MANIFEST_INVALID",
			"Docker's image manifest schema 1 is not supported; push the image again with a client that writes schema 2 or OCI manifests"),
		Entry("schema 1 without Content-Type", put("v1", "", `{"schemaVersion":1,"name":"team-a/app"}`), 400, "MANIFEST_INVALID",
			"Docker's image manifest schema 1 is not supported; push the image again with a client that writes schema 2 or OCI manifests"),
		Entry("schema 1 unsigned", put("v1", manifest.DockerSchema1, `{"schemaVersion":1,"name":"team-a/app"}`), 400, "MANIFEST_INVALID",
			"Docker's image manifest schema 1 is not supported; push the image again with a client that writes schema 2 or OCI manifests"),
		Entry("what is no UTF-8", put("v1", imageType, "{\"a\":\"\xff\"}"), 400, "MANIFEST_INVALID", "the manifest is not acceptable JSON: it is not UTF-8"),
		Entry("an artifact type that never ends", put("v1", imageType, imageWith(`"artifactType":"`+strings.Repeat("a", 256)+`",`, "a/b", config)), 400, "MANIFEST_INVALID",
			"the artifactType is 256 bytes long; at most 255 are allowed"),
		Entry("a media type that is not ASCII", put("v1", imageType, imageManifest(`a/é`, config)), 400, "MANIFEST_INVALID",
			`the config's mediaType "a/é" must consist of printable ASCII characters`),
		Entry("schema 1 in the clothes of OCI", put("v1", imageType, `{"schemaVersion":1}`), 400, "MANIFEST_INVALID", "schemaVersion is 1; it must be 2"),
		Entry("no JSON", put("v1", imageType, `image`), 400, "MANIFEST_INVALID", "the manifest does not have the form of one: invalid character 'i' looking for beginning of value"),
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

	It("reads an index as large as the limit allows", func() {
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

var _ = Describe("a push by digest with tags", func() {
	var h *harness
	BeforeEach(func() { h = withContent() })
	other := imageManifest("application/vnd.oci.image.config.v1+json", config)
	pointsTo := func(tag, want string) {
		GinkgoHelper()
		Expect(h.do(exchange{method: "HEAD", path: repo + "/manifests/" + tag}).Header().Get("Docker-Content-Digest")).To(Equal(want))
	}
	// push names the tags of a query in a push of other.
	push := func(query string) exchange {
		e := put(sha(other), imageType, other)
		e.path += "?" + query
		return e
	}

	It("sets all of them, each once, and says so", func() {
		e := push("tag=1.2.3&tag=latest&tag=1.2.3&tag=v1")
		e.want = map[string]string{"Docker-Content-Digest": sha(other), "Location": repo + "/manifests/" + sha(other)}
		for range 2 { // the second changes nothing
			w := h.check(e)
			Expect(w.Header().Values("OCI-Tag")).To(Equal([]string{"1.2.3", "latest", "v1"}))
			for _, tag := range []string{"1.2.3", "latest", "v1"} {
				pointsTo(tag, sha(other))
			}
		}
		Expect(h.kinds()).To(Equal(map[audit.Kind]int{
			audit.KindOrgCreate: 1, audit.KindCreateRepo: 1, audit.KindPushRepo: 1, audit.KindCreateTag: 4, audit.KindMoveTag: 1,
		}), "v1, multi, 1.2.3 and latest came to be, v1 moved")
	})

	It("works with sha512, which a push by tag cannot name", func() {
		long := digest.SHA512.FromString(other).String()
		e := put(long+"?tag=new", imageType, other)
		e.want = map[string]string{"Docker-Content-Digest": long}
		h.check(e)
		pointsTo("new", long)
		// The same bytes again, by tag: there is nothing to change.
		h.lock("new")
		e = put("new", imageType, other)
		e.want = map[string]string{"Docker-Content-Digest": long, "Location": repo + "/manifests/" + long}
		h.check(e)
		pointsTo("new", long)
		h.check(exchange{method: "GET", path: repo + "/manifests/" + sha(other), status: 404, answer: refusal("MANIFEST_UNKNOWN", "manifest "+sha(other)+" is not in repository team-a/app")})
	})

	It("stores nothing if a tag is locked elsewhere, and names all that are", func() {
		h.pushManifest(repo, "v2", image)
		h.clock.Advance(time.Second)
		policy := h.lock("v.*")
		e := push("tag=latest&tag=v2&tag=multi&tag=v1")
		e.status, e.want = 422, map[string]string{"OCI-Tag": ""}
		e.answer = fmt.Sprintf(`{"errors":[{"code":"TAG_IMMUTABLE","message":"cannot overwrite immutable tags 'v1', 'v2': %s stands, locked by namespace policy %s (pattern v.*)",`+
			`"detail":{"tags":["v1","v2"],"count":2,"digest":%[1]q,"policy":{"uuid":%[2]q,"pattern":"v.*","scope":"namespace"}}}]}`, sha(image), policy)
		h.check(e)
		pointsTo("latest", "")
		pointsTo("multi", sha(index))
		h.check(exchange{method: "GET", path: repo + "/manifests/" + sha(other), status: 404, answer: refusal("MANIFEST_UNKNOWN", "manifest "+sha(other)+" is not in repository team-a/app")})
		Expect(h.kinds()).To(HaveKeyWithValue(audit.KindPushFailed, 2))
	})

	DescribeTable("is refused", func(reference, query string, status int, code, message string) {
		content := image
		if reference == "" {
			reference, content = sha(other), other
		}
		e := put(reference+"?"+query, imageType, content)
		e.status, e.answer = status, refusal(code, message)
		h.check(e)
		pointsTo("new", "")
	},
		Entry("with what can be no tag", "", "tag=new&tag=.x", 400, "TAG_INVALID", `tag ".x" is invalid: a letter, digit or '_', then at most 127 letters, digits, '.', '_' or '-'`),
		Entry("with an empty tag", "", "tag=new&tag=", 400, "TAG_INVALID", `tag "" is invalid: a letter, digit or '_', then at most 127 letters, digits, '.', '_' or '-'`),
		Entry("with a digest as a tag", "", "tag=new&tag="+sha("x"), 400, "TAG_INVALID", `tag "`+sha("x")+`" is invalid: a letter, digit or '_', then at most 127 letters, digits, '.', '_' or '-'`),
		Entry("with too many tags", "", "tag=new&tag=1&tag=2&tag=3&tag=4&tag=5&tag=6&tag=7&tag=8&tag=9&tag=10", 414, "UNSUPPORTED", "one push sets at most 10 tags; push the same digest again with the others"),
		Entry("by tag", "v1", "tag=new", 400, "TAG_INVALID", "tags are parameters of a push by digest only; push v1 by its digest, or without parameters"),
		Entry("with parameters that cannot be read", "", "tag=new;tag=2", 400, "INVALID", "the query is malformed: use name=value, joined by '&', special characters percent-encoded"),
	)

	It("takes as many tags as the specification asks for", func() {
		h.check(push("tag=1&tag=2&tag=3&tag=4&tag=5&tag=6&tag=7&tag=8&tag=9&tag=10"))
	})
})

var _ = Describe("a push with conditions", func() {
	etag := func(content string) string { return `"` + sha(content) + `"` }
	other := imageManifest("application/vnd.oci.image.config.v1+json", config)
	DescribeTable("goes on only if they are met", func(reference string, header map[string]string, status int, stands string) {
		h := withContent()
		e := put(reference, "", other)
		e.header, e.status = header, status
		if status == 412 {
			e.answer = refusal("PRECONDITION_FAILED", reference+" is not what the request's conditions ask for: "+stands+" stands")
		}
		h.check(e)
		found := h.do(exchange{method: "HEAD", path: repo + "/manifests/" + reference}).Header().Get("Docker-Content-Digest")
		if status == 201 {
			Expect(found).To(Equal(sha(other)))
		} else {
			Expect(found).NotTo(Equal(sha(other)))
		}
	},
		Entry("what was seen stands", "v1", map[string]string{"If-Match": etag("x") + ", " + etag(image)}, 201, ""),
		Entry("something else stands", "v1", map[string]string{"If-Match": etag(index)}, 412, sha(image)),
		Entry("anything stands", "v1", map[string]string{"If-Match": "*"}, 201, ""),
		Entry("nothing stands", "v2", map[string]string{"If-Match": "*"}, 412, "nothing"),
		Entry("nothing may stand, and nothing does", "v2", map[string]string{"If-None-Match": "*"}, 201, ""),
		Entry("nothing may stand, and something does", "v1", map[string]string{"If-None-Match": "*"}, 412, sha(image)),
		Entry("only something else may stand", "v1", map[string]string{"If-None-Match": etag(index)}, 201, ""),
		Entry("by digest, it is new", sha(other), map[string]string{"If-None-Match": "*"}, 201, ""),
	)

	It("looks at them before it looks at the lock", func() {
		h := withContent()
		h.lock("v.*")
		e := put("v1", "", other)
		e.header, e.status = map[string]string{"If-None-Match": "*"}, 412
		e.answer = refusal("PRECONDITION_FAILED", "v1 is not what the request's conditions ask for: "+sha(image)+" stands")
		h.check(e)
	})
})

var _ = Describe("sparse manifests", func() {
	missing := describe(imageType, "elsewhere")
	sparseIndex := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s,%s]}`, indexType, describe(imageType, image), missing)
	sparseImage := imageManifest("application/vnd.oci.image.config.v1+json", config, layer, "elsewhere")

	DescribeTable("are taken by configuration only", func(sparse core.Sparse, indexes, images int) {
		h := newHarnessOn(core.Options{Sparse: sparse})
		h.pushBlobs(repo, layer, config)
		h.pushManifest(repo, "v1", image)
		for content, status := range map[string]int{sparseIndex: indexes, sparseImage: images} {
			e := put(sha(content), "", content)
			e.status = status
			if status == 404 {
				kind := "blob"
				if content == sparseIndex {
					kind = "manifest"
				}
				e.answer = refusal("MANIFEST_BLOB_UNKNOWN", kind+" "+sha("elsewhere")+" is not in repository team-a/app; push it first")
			}
			h.check(e)
			if status == 201 {
				h.check(exchange{method: "GET", path: e.path, status: 200, answer: content})
			}
		}
	},
		Entry("none", core.Sparse{}, 404, 404),
		Entry("indexes", core.Sparse{Indexes: true}, 201, 404),
		Entry("images", core.Sparse{Images: true}, 404, 201),
		Entry("both", core.Sparse{Indexes: true, Images: true}, 201, 201),
	)

	It("are taken, given back and deleted, however large the limit lets them be", func() {
		h := newHarnessOn(core.Options{Sparse: core.Sparse{Indexes: true}})
		var children strings.Builder
		count := 0
		for ; children.Len() < domain.MaxManifest-400; count++ {
			if count > 0 {
				children.WriteByte(',')
			}
			children.WriteString(describe(imageType, fmt.Sprint(count)))
		}
		Expect(count).To(BeNumerically(">", 26_000))
		huge := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, &children)
		h.pushManifest(repo, "huge", huge)
		w := h.do(exchange{method: "GET", path: repo + "/manifests/huge"})
		Expect(w.Code).To(Equal(200))
		Expect(w.Body.String() == huge).To(BeTrue())
		h.check(exchange{method: "GET", path: repo + "/tags/list", status: 200, answer: `{"name":"team-a/app","tags":["huge"]}`})
		h.check(exchange{method: "DELETE", path: repo + "/manifests/" + sha(huge), status: 202})
		h.check(exchange{method: "GET", path: repo + "/manifests/huge", status: 404, answer: refusal("MANIFEST_UNKNOWN", "manifest huge is not in repository team-a/app")})
	})

	It("protect what comes later", func() {
		h := newHarnessOn(core.Options{Sparse: core.Sparse{Indexes: true}})
		h.pushBlobs(repo, layer, config)
		h.pushManifest(repo, "multi", index)
		h.lock("multi")
		h.pushManifest(repo, sha(image), image)
		w := h.do(exchange{method: "DELETE", path: repo + "/manifests/" + sha(image)})
		Expect(w.Code).To(Equal(422))
		Expect(w.Body.String()).To(ContainSubstring("cannot delete immutable tag 'multi'"))
	})
})

var _ = Describe("locked tags", func() {
	var h *harness
	var lock string
	BeforeEach(func() {
		h = withContent()
		h.pushManifest(repo, "latest", image)
		h.clock.Advance(time.Second)
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

var _ = Describe("large manifests", func() {
	It("are worked on two at a time, while small ones pass", func() {
		held := make(chan struct{})
		var at, most atomic.Int32
		h := newHarness(func(o *Options) {
			o.Core = slowPush{Core: o.Core, begin: func(m domain.Manifest) {
				if m.Size < 1<<20 {
					return
				}
				now := at.Add(1)
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				<-held
				at.Add(-1)
			}}
		})
		h.pushBlobs(repo, layer, config)
		var group sync.WaitGroup
		for n := range 6 {
			group.Go(func() {
				defer GinkgoRecover()
				e := put(fmt.Sprint("large", n), imageType, fill(image, 1<<20))
				h.check(e)
			})
		}
		Eventually(at.Load).WithTimeout(time.Minute).Should(Equal(int32(2)))
		Consistently(at.Load).WithTimeout(200 * time.Millisecond).Should(Equal(int32(2)))
		h.check(put("small", imageType, image))
		close(held)
		group.Wait()
		Expect(most.Load()).To(Equal(int32(2)))
	})
})

// slowPush is a core whose pushes begin with something.
type slowPush struct {
	Core
	begin func(domain.Manifest)
}

func (s slowPush) PutManifest(ctx context.Context, caller domain.Caller, name domain.RepositoryName, push core.Push) (core.PushResult, error) {
	s.begin(push.Manifest)
	return s.Core.PutManifest(ctx, caller, name, push)
}
