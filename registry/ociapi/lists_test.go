package ociapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/domain"
)

var _ = Describe("lists", Ordered, ContinueOnFailure, func() {
	var h *harness
	BeforeAll(func() {
		h = newHarness()
		h.pushBlobs(repo, layer, config)
		for _, tag := range []string{"v1", "v10", "v2", "Latest", "_x"} {
			h.pushManifest(repo, tag, image)
		}
		h.pushBlobs("/v2/team-a/a-first", layer)
		h.pushBlobs("/v2/team-a/app/nested", layer)
		h.pushBlobs("/v2/team/z", layer)
	})
	tags := func(names ...string) string {
		list, _ := json.Marshal(append([]string{}, names...))
		return fmt.Sprintf(`{"name":"team-a/app","tags":%s}`, list)
	}
	repositories := func(names ...string) string {
		list, _ := json.Marshal(append([]string{}, names...))
		return fmt.Sprintf(`{"repositories":%s}`, list)
	}
	link := func(to string) map[string]string {
		if to != "" {
			to = "<" + to + `>; rel="next"`
		}
		return map[string]string{"Link": to, "Content-Type": "application/json"}
	}

	DescribeTable("tags", func(query, next, answer string) {
		h.check(exchange{method: "GET", path: repo + "/tags/list" + query, status: 200, want: link(next), answer: answer})
	},
		Entry("all", "", "", tags("Latest", "_x", "v1", "v10", "v2")),
		Entry("a page", "?n=2", repo+"/tags/list?last=_x&n=2", tags("Latest", "_x")),
		Entry("the next page", "?last=_x&n=2", repo+"/tags/list?last=v10&n=2", tags("v1", "v10")),
		Entry("the last page", "?last=v10&n=2", "", tags("v2")),
		Entry("a page that ends with the list", "?n=5", "", tags("Latest", "_x", "v1", "v10", "v2")),
		Entry("behind a name that is not there", "?last=v11", "", tags("v2")),
		Entry("behind the end", "?last=z", "", tags()),
		Entry("none", "?n=0", "", tags()),
		Entry("more than there may be", "?n=99999999", "", tags("Latest", "_x", "v1", "v10", "v2")),
	)
	DescribeTable("what is no number of entries", func(n string) {
		h.check(exchange{method: "GET", path: repo + "/tags/list?n=" + n, status: 400, answer: refusal("INVALID", fmt.Sprintf("n=%q is not a number of entries", n))})
	},
		Entry("negative", "-1"), Entry("a word", "x"), Entry("nothing", ""),
	)
	It("has no tags of a repository that is not there, with n=0 either", func() {
		for _, query := range []string{"", "?n=0"} {
			h.check(exchange{method: "GET", path: "/v2/team-a/none/tags/list" + query, status: 404, answer: refusal("NAME_UNKNOWN", "repository team-a/none does not exist")})
		}
	})
	It("has an empty list of a repository without tags", func() {
		h.check(exchange{method: "GET", path: "/v2/team/z/tags/list", status: 200, answer: `{"name":"team/z","tags":[]}`})
	})

	DescribeTable("repositories", func(query, next, answer string) {
		h.check(exchange{method: "GET", path: "/v2/_catalog" + query, status: 200, want: link(next), answer: answer})
	},
		Entry("all", "", "", repositories("team-a/a-first", "team-a/app", "team-a/app/nested", "team/z")),
		Entry("a page", "?n=3", "/v2/_catalog?last=team-a%2Fapp%2Fnested&n=3", repositories("team-a/a-first", "team-a/app", "team-a/app/nested")),
		Entry("the last page", "?n=3&last=team-a%2Fapp%2Fnested", "", repositories("team/z")),
		Entry("none", "?n=0", "", repositories()),
	)
})

var _ = Describe("referrers", Ordered, ContinueOnFailure, func() {
	var h *harness
	const sbom, signature = "application/vnd.example.sbom", "application/vnd.example.signature"
	// refer makes an image manifest with a subject.
	refer := func(artifactType, note string) string {
		more := fmt.Sprintf(`"subject":%s,"annotations":{"note":%q},`, describe(imageType, image), note)
		return imageWith(more, artifactType, config)
	}
	bom, sig := refer(sbom, "b"), refer(signature, "s")
	bare := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[],"subject":%s}`, indexType, describe(imageType, image))

	BeforeAll(func() {
		h = withContent()
		for _, m := range []string{bom, sig, bare} {
			h.pushManifest(repo, sha(m), m)
		}
	})
	path := repo + "/referrers/" + sha(image)
	entry := func(manifest, artifactType, note string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"note":%q},"artifactType":%q}`, imageType, sha(manifest), len(manifest), note, artifactType)
	}
	list := func(entries ...string) string {
		slices.SortFunc(entries, func(a, b string) int {
			_, a, _ = strings.Cut(a, "sha256:")
			_, b, _ = strings.Cut(b, "sha256:")
			return strings.Compare(a, b)
		})
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, strings.Join(entries, ","))
	}
	bomEntry, sigEntry := entry(bom, sbom, "b"), entry(sig, signature, "s")
	bareEntry := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, indexType, sha(bare), len(bare))

	DescribeTable("GET", func(e exchange) { h.check(e) },
		Entry("all", exchange{method: "GET", path: path, status: 200, answer: list(bomEntry, sigEntry, bareEntry),
			want: map[string]string{"Content-Type": indexType, "OCI-Filters-Applied": "", "Link": ""}}),
		Entry("of one type", exchange{method: "GET", path: path + "?artifactType=" + sbom, status: 200, answer: list(bomEntry),
			want: map[string]string{"OCI-Filters-Applied": "artifactType"}}),
		Entry("of no type", exchange{method: "GET", path: path + "?artifactType=x", status: 200, answer: list(), want: map[string]string{"OCI-Filters-Applied": "artifactType"}}),
		Entry("of a manifest that is not there", exchange{method: "GET", path: repo + "/referrers/" + sha("x"), status: 200, answer: list()}),
		Entry("of no digest", exchange{method: "GET", path: repo + "/referrers/v1", status: 400,
			answer: refusal("DIGEST_INVALID", `digest "v1" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`)}),
		Entry("in no repository", exchange{method: "GET", path: "/v2/team-a/none/referrers/" + sha("x"), status: 200, answer: list()}),
	)

	// walk follows the links and returns the digests of all pages.
	walk := func(h *harness, next string) (digests []string, pages int) {
		GinkgoHelper()
		for next != "" {
			w := h.do(exchange{method: "GET", path: next})
			Expect(w.Code).To(Equal(200))
			Expect(w.Body.Len()).To(BeNumerically("<=", domain.MaxManifest))
			var page ocispec.Index
			Expect(json.Unmarshal(w.Body.Bytes(), &page)).To(Succeed())
			for _, m := range page.Manifests {
				digests = append(digests, m.Digest.String())
			}
			next, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
			pages++
		}
		return digests, pages
	}

	DescribeTable("comes in pages", func(query string, wantPages int, want ...string) {
		digests, pages := walk(h, path+query)
		Expect(pages).To(Equal(wantPages))
		Expect(digests).To(ConsistOf(want))
	},
		Entry("of one", "?n=1", 3, sha(bom), sha(sig), sha(bare)),
		Entry("of one, filtered", "?n=1&artifactType="+sbom, 1, sha(bom)),
		Entry("of none", "?n=0", 1),
	)

	It("comes in pages that clients can take, however many and long they are", func() {
		h := withContent()
		var want []string
		for n := range 130 {
			want = append(want, refer(sbom, fmt.Sprint(n)))
		}
		for n := range 3 {
			want = append(want, refer(signature, strings.Repeat("x", 3<<20)+fmt.Sprint(n)))
		}
		for i, m := range want {
			h.pushManifest(repo, sha(m), m)
			want[i] = sha(m)
		}
		digests, pages := walk(h, path)
		Expect(digests).To(ConsistOf(want))
		Expect(pages).To(Equal(3))
	})
})
