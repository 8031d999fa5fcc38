package ociapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

const goneUpload = "there is no such upload; begin a new one"

var _ = Describe("uploads", func() {
	var h *harness
	BeforeEach(func() { h = newHarness() })

	created := func(location, content string) exchange {
		return exchange{method: "PUT", path: location + "?digest=" + sha(content), status: 201, want: map[string]string{
			"Location": repo + "/blobs/" + sha(content), "Docker-Content-Digest": sha(content), "Content-Length": "0",
		}}
	}
	// progress is the answer to a request that leaves an upload open with so many bytes.
	progress := func(e exchange, location string, size int) exchange {
		e.want = map[string]string{"Location": location, "Range": fmt.Sprintf("0-%d", max(0, size-1)), "Docker-Upload-Uuid": location[strings.LastIndex(location, "/")+1:]}
		return e
	}
	pull := func(content string) {
		GinkgoHelper()
		h.check(exchange{method: "GET", path: repo + "/blobs/" + sha(content), status: 200, answer: content})
	}

	It("takes a whole blob in one POST", func() {
		h.pushBlobs(repo, layer)
		pull(layer)
		blobs, uploads := h.files()
		Expect([]int{blobs, uploads}).To(Equal([]int{1, 0}))
	})

	It("takes a whole blob in a POST and a PUT", func() {
		location := h.begin(repo)
		put := created(location, layer)
		put.body = layer
		h.check(put)
		pull(layer)
	})

	It("takes a stream and then a PUT without a body", func() {
		location := h.begin(repo)
		h.check(progress(exchange{method: "PATCH", path: location, body: layer, status: 202}, location, 16))
		h.check(created(location, layer))
		pull(layer)
	})

	It("takes chunks, tells its state, and refuses a chunk that does not follow", func() {
		location := h.begin(repo)
		chunk := func(contentRange, body string) exchange {
			return exchange{method: "PATCH", path: location, header: map[string]string{"Content-Range": contentRange}, body: body, status: 202}
		}
		state := exchange{method: "GET", path: location, status: 204}
		h.check(progress(state, location, 0))
		h.check(progress(chunk("0-3", "0123"), location, 4))
		h.check(progress(state, location, 4))

		early := progress(chunk("2-5", "2345"), location, 4)
		early.status, early.answer = 416, refusal("BLOB_UPLOAD_INVALID", "the chunk does not begin where the upload ends; it has 4 bytes")
		h.check(early)
		late := early
		late.header = map[string]string{"Content-Range": "8-11"}
		h.check(late)
		late.method, late.path = "PUT", location+"?digest="+sha(layer)
		h.check(late)

		h.check(progress(chunk("4-11", "456789ab"), location, 12))
		last := created(location, layer)
		last.header, last.body = map[string]string{"Content-Range": "12-15"}, "cdef"
		h.check(last)
		pull(layer)
		h.check(exchange{method: "GET", path: location, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
	})

	DescribeTable("refuses a chunk whose range is not one", func(contentRange, code, message string) {
		h.check(exchange{method: "PATCH", path: h.begin(repo), header: map[string]string{"Content-Range": contentRange}, body: layer, status: 400, answer: refusal(code, message)})
	},
		Entry("of another length", "0-3", "SIZE_INVALID", "Content-Range 0-3 needs a Content-Length of 4"),
		Entry("backwards", "3-0", "BLOB_UPLOAD_INVALID", `Content-Range "3-0" is not <first byte>-<last byte>`),
		Entry("in the form of RFC 9110", "bytes 0-15/16", "BLOB_UPLOAD_INVALID", `Content-Range "bytes 0-15/16" is not <first byte>-<last byte>`),
	)

	It("keeps what came of a body that was cut off, so that the client can go on", func() {
		location := h.begin(repo)
		r := httptest.NewRequest("PATCH", location, cutOff{strings.NewReader(layer[:10])})
		r.SetBasicAuth("admin", "")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		Expect(w.Code).To(Equal(400))
		Expect(w.Body.String()).To(Equal(refusal("BLOB_UPLOAD_INVALID", "the body ended early; the upload has 10 bytes and can go on from there")))
		h.check(progress(exchange{method: "GET", path: location, status: 204}, location, 10))
		h.check(progress(exchange{method: "PATCH", path: location, header: map[string]string{"Content-Range": "10-15"}, body: layer[10:], status: 202}, location, 16))
		h.check(created(location, layer))
		pull(layer)
	})

	It("leaves nothing of a POST that was cut off", func() {
		r := httptest.NewRequest("POST", repo+"/blobs/uploads/?digest="+sha(layer), cutOff{strings.NewReader(layer[:10])})
		r.SetBasicAuth("admin", "")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		Expect(w.Code).To(Equal(400))
		blobs, uploads := h.files()
		Expect([]int{blobs, uploads}).To(Equal([]int{0, 0}))
	})

	DescribeTable("verifies the digest", func(algorithm digest.Algorithm) {
		d := algorithm.FromString(layer).String()
		location := h.begin(repo)
		h.check(exchange{method: "PUT", path: location + "?digest=" + d, body: "other", status: 400,
			answer: refusal("DIGEST_INVALID", "the bytes that were uploaded do not have the digest "+d+"; upload them again")})
		h.check(exchange{method: "GET", path: location, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
		blobs, uploads := h.files()
		Expect([]int{blobs, uploads}).To(Equal([]int{0, 0}))

		h.check(exchange{method: "POST", path: repo + "/blobs/uploads/?digest=" + d, body: layer, status: 201, want: map[string]string{"Docker-Content-Digest": d}})
		h.check(exchange{method: "GET", path: repo + "/blobs/" + d, status: 200, answer: layer, want: map[string]string{"Docker-Content-Digest": d}})
	},
		Entry("sha256", digest.SHA256),
		Entry("sha512", digest.SHA512),
	)

	DescribeTable("refuses", func(e exchange) {
		if e.path == "" {
			e.path = h.begin(repo)
		}
		h.check(e)
	},
		Entry("a PUT without a digest", exchange{method: "PUT", status: 400,
			answer: refusal("DIGEST_INVALID", `digest "" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`)}),
		Entry("a POST with a bad digest", exchange{method: "POST", path: repo + "/blobs/uploads/?digest=md5:00", status: 400,
			answer: refusal("DIGEST_INVALID", `digest "md5:00" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`)}),
		Entry("a POST that announces another algorithm", exchange{method: "POST", path: repo + "/blobs/uploads/?digest-algorithm=md5", status: 400,
			answer: refusal("DIGEST_INVALID", `digest algorithm "md5" is not supported; use sha256 or sha512`)}),
		Entry("a mount of no digest", exchange{method: "POST", path: repo + "/blobs/uploads/?mount=x&from=team-a/base", status: 400,
			answer: refusal("DIGEST_INVALID", `digest "x" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`)}),
		Entry("an id that was never given", exchange{method: "PATCH", path: repo + "/blobs/uploads/00000000000000000000000000000000", body: "x", status: 404,
			answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)}),
		Entry("an id that climbs", exchange{method: "PATCH", path: repo + "/blobs/uploads/..", body: "x", status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)}),
	)

	It("takes an upload that announces sha512", func() {
		h.check(exchange{method: "POST", path: repo + "/blobs/uploads/?digest-algorithm=sha512", status: 202})
	})

	It("cancels an upload", func() {
		location := h.begin(repo)
		h.check(exchange{method: "PATCH", path: location, body: layer, status: 202})
		h.check(exchange{method: "DELETE", path: location, status: 204})
		h.check(exchange{method: "DELETE", path: location, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
		_, uploads := h.files()
		Expect(uploads).To(BeZero())
	})

	Describe("mounting", func() {
		const target = "/v2/team-b/app"
		mount := func(query string) exchange {
			return exchange{method: "POST", path: target + "/blobs/uploads/?" + query, status: 202, want: map[string]string{"Range": "0-0"}}
		}
		BeforeEach(func() { h.pushBlobs(repo, layer) })

		It("links the blob without its bytes", func() {
			e := mount("mount=" + sha(layer) + "&from=team-a/app")
			e.status, e.want = 201, map[string]string{"Location": target + "/blobs/" + sha(layer), "Docker-Content-Digest": sha(layer)}
			h.check(e)
			h.check(exchange{method: "GET", path: target + "/blobs/" + sha(layer), status: 200, answer: layer})
			blobs, uploads := h.files()
			Expect([]int{blobs, uploads}).To(Equal([]int{1, 0}))
		})
		DescribeTable("begins an upload instead", func(query string) {
			h.check(mount(query))
			h.check(exchange{method: "GET", path: target + "/blobs/" + sha(layer), status: 404, answer: refusal("NAME_UNKNOWN", "repository team-b/app does not exist")})
		},
			Entry("of a blob that is not there", "mount="+sha("x")+"&from=team-a/app"),
			Entry("from a repository that is not there", "mount="+sha(layer)+"&from=team-a/other"),
			Entry("from what is no repository", "mount="+sha(layer)+"&from=x"),
			Entry("of a blob that is nowhere", "mount="+sha("x")),
		)
		It("finds the blob by itself, in a repository that the caller may pull from", func() {
			e := mount("mount=" + sha(layer))
			e.status, e.want = 201, map[string]string{"Location": target + "/blobs/" + sha(layer), "Docker-Content-Digest": sha(layer)}
			h.check(e)
			h.check(exchange{method: "GET", path: target + "/blobs/" + sha(layer), status: 200, answer: layer})
			blobs, uploads := h.files()
			Expect([]int{blobs, uploads}).To(Equal([]int{1, 0}))
		})
	})

	Describe("belong to their caller and repository", func() {
		DescribeTable("so that for others there is none", func(as, repository string) {
			location := h.begin(repo)
			other := repository + strings.TrimPrefix(location, repo)
			for _, method := range []string{"GET", "PATCH", "DELETE"} {
				h.check(exchange{as: as, method: method, path: other, body: "x", status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
			}
			h.check(exchange{as: as, method: "PUT", path: other + "?digest=" + sha(""), status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
			h.check(created(location, ""))
		},
			Entry("another caller", "bob", repo),
			Entry("another repository", "admin", "/v2/team-a/other"),
		)

		It("and end when nobody asks for them for an hour", func() {
			idle, used := h.begin(repo), h.begin(repo)
			for _, location := range []string{idle, used} {
				h.check(exchange{method: "PATCH", path: location, body: layer, status: 202})
			}
			h.clock.Advance(59 * time.Minute)
			h.check(exchange{method: "GET", path: used, status: 204})
			h.clock.Advance(time.Minute)
			h.check(exchange{method: "GET", path: idle, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
			h.ExpireUploads(context.Background())
			_, uploads := h.files()
			Expect(uploads).To(Equal(1))
			h.check(exchange{method: "GET", path: used, status: 204})
		})

		It("but not while a slow body comes in", func() {
			h.renewal = time.Millisecond
			location := h.begin(repo)
			body, feed := io.Pipe()
			r := httptest.NewRequest("PATCH", location, body)
			r.SetBasicAuth("admin", "")
			w, done := httptest.NewRecorder(), make(chan struct{})
			go func() {
				defer close(done)
				h.ServeHTTP(w, r)
			}()
			_, err := feed.Write([]byte("0123"))
			Expect(err).NotTo(HaveOccurred())
			h.clock.Advance(2 * time.Hour)
			Eventually(func() int { return h.do(exchange{method: "GET", path: location}).Code }).WithTimeout(10 * time.Second).Should(Equal(409))
			h.ExpireUploads(context.Background())
			h.check(exchange{method: "PATCH", path: h.begin(repo), body: "x", status: 202}) // another one is not in the way
			Expect(feed.Close()).To(Succeed())
			<-done
			Expect(w.Code).To(Equal(202))
			h.check(progress(exchange{method: "GET", path: location, status: 204}, location, 4))
		})

		It("and take one request at a time", func() {
			location := h.begin(repo)
			body, feed := io.Pipe()
			r := httptest.NewRequest("PATCH", location, body)
			r.SetBasicAuth("admin", "")
			done := make(chan struct{})
			go func() {
				defer close(done)
				h.ServeHTTP(httptest.NewRecorder(), r)
			}()
			_, err := feed.Write([]byte("0123"))
			Expect(err).NotTo(HaveOccurred())
			for _, e := range []exchange{{method: "PATCH", body: "x"}, {method: "GET"}, {method: "DELETE"}, {method: "PUT"}} {
				e.path, e.status = location, 409
				if e.method == "PUT" {
					e.path += "?digest=" + sha(layer)
				}
				e.answer = refusal("BLOB_UPLOAD_INVALID", "another request is writing this upload; ask for its status and go on from there")
				h.check(e)
			}
			Expect(feed.Close()).To(Succeed())
			<-done
		})

		It("and are bounded, for each caller and for all", func() {
			h = newHarnessOn(core.Options{MaxUploads: 8})
			full := func(as string, all, own int) exchange {
				return exchange{as: as, method: "POST", path: repo + "/blobs/uploads/", status: 429, want: map[string]string{"Retry-After": "1"},
					answer: refusal("TOOMANYREQUESTS", fmt.Sprintf("too many uploads are open (%d, %d of them yours); finish or cancel some, then try again", all, own))}
			}
			for _, as := range []string{"a", "b", "c", "d"} {
				for range 2 {
					Expect(h.do(exchange{as: as, method: "POST", path: repo + "/blobs/uploads/"}).Code).To(Equal(202))
				}
			}
			h.check(full("a", 8, 2))
			h.check(full("e", 8, 0))
			h.clock.Advance(time.Hour)
			h.check(full("a", 8, 2))
			h.ExpireUploads(context.Background())
			h.begin(repo)
		})
	})

	Describe("their bytes", func() {
		It("are stored once, however often the blob is pushed", func() {
			for range 3 {
				h.pushBlobs(repo, layer)
			}
			h.pushBlobs("/v2/team-b/app", layer)
			blobs, uploads := h.files()
			Expect([]int{blobs, uploads}).To(Equal([]int{1, 0}))
		})

		It("are all there when many push the same at once", func() {
			var all sync.WaitGroup
			for i := range 16 {
				all.Go(func() {
					defer GinkgoRecover()
					h.pushBlobs(fmt.Sprintf("/v2/team-a/app%d", i%4), layer, fmt.Sprint(i))
				})
			}
			all.Wait()
			blobs, uploads := h.files()
			Expect([]int{blobs, uploads}).To(Equal([]int{17, 0}))
			h.check(exchange{method: "GET", path: "/v2/team-a/app3/blobs/" + sha(layer), status: 200, answer: layer})
		})

		DescribeTable("outlive a failed link only if that may have been committed", func(err error, status, kept int) {
			h = newHarness(func(o *Options) { o.Core = linkless{o.Core, err} })
			w := h.do(exchange{method: "POST", path: repo + "/blobs/uploads/?digest=" + sha(layer), body: layer})
			Expect(w.Code).To(Equal(status))
			blobs, uploads := h.files()
			Expect([]int{blobs, uploads}).To(Equal([]int{kept, 0}))
		},
			Entry("refused", domain.Errorf(domain.CodeNameUnknown, "repository team-a/app does not exist"), 404, 0),
			Entry("unavailable", domain.Unavailable(errors.New("database is locked")), 503, 1),
			Entry("cancelled", context.Canceled, 503, 1),
		)

		It("make room when the disk is full, and the answer says why", func() {
			h = newHarness(func(o *Options) { o.Blobs = fullStore{o.Blobs} })
			full := exchange{method: "PATCH", path: h.begin(repo), body: layer, status: 507, answer: refusal("STORAGE_FULL", "the disk is full")}
			h.check(full)
			h.check(exchange{method: "GET", path: full.path, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
			full.method, full.path = "POST", repo+"/blobs/uploads/?digest="+sha(layer)
			h.check(full)
			blobs, uploads := h.files()
			Expect([]int{blobs, uploads}).To(Equal([]int{0, 0}))
		})

		It("are taken in larger chunks where the store cannot take them so", func() {
			h = newHarness(func(o *Options) { o.Blobs = largeStore{o.Blobs} })
			location := h.begin(repo)
			h.check(exchange{method: "PATCH", path: location, body: layer, status: 400,
				answer: refusal("SIZE_INVALID", "the blob store takes no blob of this size in pieces of this size; upload it in larger chunks, or in one")})
			h.check(exchange{method: "GET", path: location, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
		})

		It("are linked even if the client leaves after the last byte", func() {
			ctx, leave := context.WithCancel(context.Background())
			defer leave()
			h = newHarness(func(o *Options) { o.Core = leaving{o.Core, leave} })
			r := httptest.NewRequestWithContext(ctx, "POST", repo+"/blobs/uploads/?digest="+sha(layer), strings.NewReader(layer))
			r.SetBasicAuth("admin", "")
			h.ServeHTTP(httptest.NewRecorder(), r)
			Expect(ctx.Err()).To(HaveOccurred())
			pull(layer)
		})
	})
})

// fullStore finds the disk full at the end of each body.
type fullStore struct{ blob.Store }

func (s fullStore) Append(ctx context.Context, u domain.Upload, r io.Reader, save func(domain.Upload) error) (domain.Upload, error) {
	u, err := s.Store.Append(ctx, u, r, save)
	return u, errors.Join(err, &domain.Error{Code: domain.CodeStorageFull, Message: "the disk is full", Cause: errors.Join(blob.ErrFull, syscall.ENOSPC)})
}

type largeStore struct{ blob.Store }

func (s largeStore) Append(_ context.Context, u domain.Upload, _ io.Reader, _ func(domain.Upload) error) (domain.Upload, error) {
	return u, blob.ErrTooLarge
}

type linkless struct {
	Core
	err error
}

func (l linkless) LinkUpload(context.Context, domain.Caller, domain.RepositoryName, core.UploadSession, domain.Blob, core.Create) (bool, error) {
	return false, l.err
}

// leaving is a core whose client goes away just before the blob is linked.
type leaving struct {
	Core
	leave func()
}

func (l leaving) LinkUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, s core.UploadSession, stored domain.Blob, create core.Create) (bool, error) {
	l.leave()
	return l.Core.LinkUpload(ctx, caller, name, s, stored, create)
}
