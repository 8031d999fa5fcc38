package ociapi

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

var _ = Describe("blobs", Ordered, ContinueOnFailure, func() {
	var h *harness
	BeforeAll(func() {
		h = withContent()
		h.pushBlobs(repo, "")
	})

	layerPath := repo + "/blobs/" + sha(layer)
	etag := `"` + sha(layer) + `"`
	whole := map[string]string{
		"Content-Length": "16", "Content-Type": "application/octet-stream", "Docker-Content-Digest": sha(layer), "ETag": etag,
		"Accept-Ranges": "bytes", "Content-Range": "",
	}
	part := func(contentRange, length string) map[string]string {
		return map[string]string{"Content-Range": contentRange, "Content-Length": length, "Docker-Content-Digest": sha(layer), "ETag": etag}
	}
	ranged := func(value string) map[string]string { return map[string]string{"Range": value} }
	outside := exchange{method: "GET", path: layerPath, status: 416, want: map[string]string{"Content-Range": "bytes */16", "Content-Type": "application/json"},
		answer: refusal("SIZE_INVALID", "the range lies outside of the blob's 16 bytes")}
	with := func(e exchange, header map[string]string) exchange {
		e.header = header
		return e
	}

	DescribeTable("GET and HEAD", func(e exchange) { h.check(e) },
		Entry("the whole", exchange{method: "GET", path: layerPath, status: 200, want: whole, answer: layer}),
		Entry("HEAD", exchange{method: "HEAD", path: layerPath, status: 200, want: whole}),
		Entry("HEAD ignores a range", exchange{method: "HEAD", path: layerPath, header: ranged("bytes=0-3"), status: 200, want: whole}),
		Entry("an empty blob", exchange{method: "GET", path: repo + "/blobs/" + sha(""), status: 200, want: map[string]string{"Content-Length": "0"}}),
		Entry("a range", exchange{method: "GET", path: layerPath, header: ranged("bytes=2-5"), status: 206, want: part("bytes 2-5/16", "4"), answer: "2345"}),
		Entry("an open range", exchange{method: "GET", path: layerPath, header: ranged("bytes=10-"), status: 206, want: part("bytes 10-15/16", "6"), answer: "abcdef"}),
		Entry("a suffix", exchange{method: "GET", path: layerPath, header: ranged("bytes=-3"), status: 206, want: part("bytes 13-15/16", "3"), answer: "def"}),
		Entry("a suffix longer than the blob", exchange{method: "GET", path: layerPath, header: ranged("bytes=-99"), status: 206, want: part("bytes 0-15/16", "16"), answer: layer}),
		Entry("an end behind the blob", exchange{method: "GET", path: layerPath, header: ranged("bytes=12-99"), status: 206, want: part("bytes 12-15/16", "4"), answer: "cdef"}),
		Entry("a beginning behind the blob", with(outside, ranged("bytes=16-20"))),
		Entry("an empty suffix", with(outside, ranged("bytes=-0"))),
		Entry("a range of an empty blob", exchange{method: "GET", path: repo + "/blobs/" + sha(""), header: ranged("bytes=0-0"), status: 416,
			want: map[string]string{"Content-Range": "bytes */0"}, answer: refusal("SIZE_INVALID", "the range lies outside of the blob's 0 bytes")}),
		Entry("several ranges are ignored", exchange{method: "GET", path: layerPath, header: ranged("bytes=0-1,4-5"), status: 200, want: whole, answer: layer}),
		Entry("a range that ends before it begins", with(outside, ranged("bytes=5-2"))),
		Entry("a malformed range is ignored", exchange{method: "GET", path: layerPath, header: ranged("bytes=5to2"), status: 200, want: whole, answer: layer}),
		Entry("another unit is ignored", exchange{method: "GET", path: layerPath, header: ranged("lines=0-1"), status: 200, want: whole, answer: layer}),
		Entry("If-Range of these bytes", exchange{method: "GET", path: layerPath, header: map[string]string{"Range": "bytes=0-1", "If-Range": etag}, status: 206, want: part("bytes 0-1/16", "2"), answer: "01"}),
		Entry("If-Range of other bytes", exchange{method: "GET", path: layerPath, header: map[string]string{"Range": "bytes=0-1", "If-Range": `"x"`}, status: 200, want: whole, answer: layer}),
		Entry("If-None-Match", exchange{method: "GET", path: layerPath, header: map[string]string{"If-None-Match": `"x", W/` + etag}, status: 304,
			want: map[string]string{"ETag": etag, "Docker-Content-Digest": sha(layer), "Content-Length": ""}}),
		Entry("If-None-Match of other bytes", exchange{method: "GET", path: layerPath, header: map[string]string{"If-None-Match": `"x"`}, status: 200, want: whole, answer: layer}),
		Entry("If-Match", exchange{method: "GET", path: layerPath, header: map[string]string{"If-Match": `"x", ` + etag}, status: 200, want: whole, answer: layer}),
		Entry("If-Match of other bytes", exchange{method: "GET", path: layerPath, header: map[string]string{"If-Match": `"x", W/` + etag}, status: 412,
			answer: refusal("PRECONDITION_FAILED", `If-Match does not name `+etag+`, which is there`)}),
		Entry("an unknown blob", exchange{method: "GET", path: repo + "/blobs/" + sha("x"), status: 404,
			answer: refusal("BLOB_UNKNOWN", "blob "+sha("x")+" is not in repository team-a/app")}),
		Entry("a blob of another repository", exchange{method: "GET", path: "/v2/team-a/other/blobs/" + sha(layer), status: 404,
			answer: refusal("NAME_UNKNOWN", "repository team-a/other does not exist")}),
		Entry("no digest", exchange{method: "GET", path: repo + "/blobs/latest", status: 400,
			answer: refusal("DIGEST_INVALID", `digest "latest" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`)}),
	)

	DescribeTable("DELETE", func(e exchange) { h.check(e) },
		Entry("what a manifest refers to", exchange{method: "DELETE", path: layerPath, status: 405,
			answer: refusal("UNSUPPORTED", "blob "+sha(layer)+" belongs to a manifest of repository team-a/app; delete the manifest first")}),
		Entry("what nobody refers to", exchange{method: "DELETE", path: repo + "/blobs/" + sha(""), status: 202}),
		Entry("what is gone", exchange{method: "DELETE", path: repo + "/blobs/" + sha(""), status: 404,
			answer: refusal("BLOB_UNKNOWN", "blob "+sha("")+" is not in repository team-a/app")}),
	)

	It("answers 503, not 404, for a blob whose bytes are lost, and says so in the log", func() {
		h := withContent()
		shards, err := filepath.Glob(filepath.Join(h.dir, "blobs", "sha256", "*", strings.TrimPrefix(sha(layer), "sha256:")+".*"))
		Expect(err).NotTo(HaveOccurred())
		Expect(shards).To(HaveLen(1))
		unavailable := exchange{method: "GET", path: layerPath, status: 503, want: map[string]string{"Retry-After": "1", "Content-Type": "application/json"},
			answer: refusal("UNAVAILABLE", "the registry cannot answer this now; try again")}

		Expect(os.Truncate(shards[0], 3)).To(Succeed())
		h.check(unavailable)
		Expect(h.log.String()).To(ContainSubstring(fmt.Sprintf("blob %s has 3 bytes instead of 16", sha(layer))))
		Expect(os.Remove(shards[0])).To(Succeed())
		h.check(unavailable)
		unavailable.method, unavailable.answer = "HEAD", ""
		h.check(unavailable)
		Expect(h.log.String()).To(ContainSubstring("its bytes are not to be had"))
	})

	It("shows nothing of the machinery's errors", func() {
		h := newHarness(func(o *Options) { o.Core = brokenCore{o.Core} })
		h.check(exchange{method: "GET", path: layerPath, status: 503, want: map[string]string{"Retry-After": "1"},
			answer: refusal("UNAVAILABLE", "the registry cannot answer this now; try again")})
		Expect(h.log.String()).To(ContainSubstring("disk I/O error on /secret/path"))
	})
})

type brokenCore struct{ Core }

func (brokenCore) Blob(context.Context, domain.RepositoryName, digest.Digest) (domain.Blob, error) {
	return domain.Blob{}, fmt.Errorf("disk I/O error on /secret/path")
}

var _ = DescribeTable("parseRange", func(text string, size int64, want *byteRange) {
	part, err := parseRange(http.Header{"Range": {text}}, size, "")
	Expect(err).NotTo(HaveOccurred())
	Expect(part).To(Equal(want))
},
	Entry(nil, "bytes=0-0", int64(1), &byteRange{0, 0}),
	Entry(nil, "Bytes=0-0", int64(1), &byteRange{0, 0}),
	Entry(nil, "bytes= 1-2 ", int64(5), &byteRange{1, 2}),
	Entry(nil, "bytes=-9223372036854775807", int64(5), &byteRange{0, 4}),
	Entry("a number too large is none", "bytes=0-9223372036854775808", int64(5), nil),
	Entry(nil, "bytes=", int64(5), nil),
	Entry(nil, "bytes=-", int64(5), nil),
	Entry(nil, "bytes=--1", int64(5), nil),
	Entry(nil, "bytes=+1-2", int64(5), nil),
	Entry(nil, "bytes=1-2-3", int64(5), nil),
	Entry(nil, "bytes", int64(5), nil),
)
