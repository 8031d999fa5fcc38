package ociapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob/s3"
	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

// replicas are several registries on one database and one bucket.
type replicas struct {
	all    []*harness
	server *s3test.Server
	bucket string
}

// newReplicas starts replicas that find S3 at an address, the server's own if it is empty.
func newReplicas(server *s3test.Server, address string, timeout time.Duration, changes ...func(*Options)) *replicas {
	GinkgoHelper()
	quiet := slog.New(slog.DiscardHandler)
	store, err := sqlite.Open(context.Background(), filepath.Join(GinkgoT().TempDir(), "tidelock.db"), quiet)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(store.Close)
	r := &replicas{server: server, bucket: server.Bucket()}
	clock := &clock{now: time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC)}
	if address == "" {
		address = server.Address
	}
	for range 2 {
		blobs, err := s3.Open(context.Background(), s3.Options{
			Location: s3.Location{Bucket: r.bucket, Endpoint: address, Region: "us-east-1"}, Credentials: s3test.Credentials(), Timeout: timeout, Logger: quiet,
		})
		Expect(err).NotTo(HaveOccurred())
		h := &harness{core: core.New(store, core.Options{Logger: quiet, Now: clock.Now, SharedUploads: true}), clock: clock, log: &bytes.Buffer{}}
		options := Options{Core: h.core, Blobs: blobs, Auth: users{}, Logger: slog.New(slog.NewTextHandler(h.log, nil))}
		for _, change := range changes {
			change(&options)
		}
		h.API = New(options)
		r.all = append(r.all, h)
	}
	return r
}

// objects counts what the bucket holds: objects, keys and parts of open uploads.
func (r *replicas) objects() (data, keys, parts int) {
	GinkgoHelper()
	client, ctx := r.server.Client(), context.Background()
	count := func(prefix string) (n int) {
		for info := range client.ListObjectsIter(ctx, r.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			Expect(info.Err).NotTo(HaveOccurred())
			n++
		}
		return n
	}
	for info := range client.ListIncompleteUploads(ctx, r.bucket, "", true) {
		Expect(info.Err).NotTo(HaveOccurred())
		parts++
	}
	return count("data/"), count("keys/"), parts
}

func noise(size int) string {
	content := make([]byte, size)
	_, _ = rand.Read(content) // never fails
	return string(content)
}

// pulled is a GET of a blob at a replica.
func (r *replicas) pulled(at int, content string) {
	GinkgoHelper()
	w := r.all[at].do(exchange{method: "GET", path: repo + "/blobs/" + sha(content)})
	Expect(w.Code).To(Equal(200))
	Expect(w.Body.String() == content).To(BeTrue(), "the bytes differ")
}

// pending is a request whose body comes from a pipe.
type pending struct {
	feed *io.PipeWriter
	w    *httptest.ResponseRecorder
	done chan struct{}
}

func (h *harness) beginPatch(location string) *pending {
	body, feed := io.Pipe()
	p := &pending{feed: feed, w: httptest.NewRecorder(), done: make(chan struct{})}
	r := httptest.NewRequest("PATCH", location, body)
	r.SetBasicAuth("admin", "")
	go func() {
		defer close(p.done)
		h.ServeHTTP(p.w, r)
		_ = body.Close() // what is fed to a request that has its answer gets lost
	}()
	return p
}

func (p *pending) end() *httptest.ResponseRecorder {
	GinkgoHelper()
	Expect(p.feed.Close()).To(Succeed())
	Eventually(p.done).WithTimeout(time.Minute).Should(BeClosed())
	return p.w
}

var _ = Describe("uploads between replicas", func() {
	var server *s3test.Server
	BeforeEach(func() { server = s3test.New(GinkgoT()) })

	put := func(location, content string) exchange {
		return exchange{method: "PUT", path: location + "?digest=" + sha(content), status: 201, want: map[string]string{"Docker-Content-Digest": sha(content)}}
	}
	patch := func(location, content string) exchange {
		return exchange{method: "PATCH", path: location, body: content, status: 202}
	}
	status := func(location string, size int) exchange {
		return exchange{method: "GET", path: location, status: 204, want: map[string]string{"Range": fmt.Sprintf("0-%d", max(0, size-1))}}
	}
	busy := refusal("BLOB_UPLOAD_INVALID", "another request is writing this upload; ask for its status and go on from there")
	taken := refusal("BLOB_UPLOAD_INVALID", "another request took this upload over or ended it; ask for its status and go on from there")

	It("go on at another one, also by a chunk with a range, and end there", func() {
		r := newReplicas(server, "", 0)
		content := noise(13<<20 + 5)
		location := r.all[0].begin(repo)
		for i, cut := range [][2]int{{0, 3}, {3, 6 << 20}, {6 << 20, 6<<20 + 1}, {6<<20 + 1, len(content)}} {
			chunk := patch(location, content[cut[0]:cut[1]])
			chunk.header = map[string]string{"Content-Range": fmt.Sprintf("%d-%d", cut[0], cut[1]-1)}
			early := chunk
			early.header, early.body = map[string]string{"Content-Range": fmt.Sprintf("%d-%d", cut[0]+1, cut[0]+1)}, "x"
			early.status, early.answer = 416, refusal("BLOB_UPLOAD_INVALID", fmt.Sprintf("the chunk does not begin where the upload ends; it has %d bytes", cut[0]))
			early.want = map[string]string{"Location": location, "Range": fmt.Sprintf("0-%d", max(0, cut[0]-1))}
			r.all[i%2].check(early)
			r.all[i%2].check(chunk)
			r.all[(i+1)%2].check(status(location, cut[1]))
		}
		r.all[1].check(put(location, content))
		r.pulled(0, content)
		data, keys, parts := r.objects()
		Expect([]int{data, keys, parts}).To(Equal([]int{1, 1, 0}))
		r.all[0].check(exchange{method: "GET", path: location, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
	})

	It("are written at one of them at a time", func() {
		r := newReplicas(server, "", 0)
		location := r.all[0].begin(repo)
		first := r.all[0].beginPatch(location)
		_, err := first.feed.Write([]byte("0123"))
		Expect(err).NotTo(HaveOccurred())
		for _, h := range r.all {
			for _, e := range []exchange{{method: "PATCH", body: "x"}, {method: "GET"}, {method: "DELETE"}, {method: "PUT"}} {
				e.path, e.status, e.answer = location, 409, busy
				if e.method == "PUT" {
					e.path += "?digest=" + sha("0123")
				}
				h.check(e)
			}
		}
		Expect(first.end().Code).To(Equal(202))
		r.all[1].check(put(location, "0123"))
		r.pulled(0, "0123")
	})

	It("are not spoilt by a writer that stood still, was taken over, and wakes up", func() {
		r := newReplicas(server, "", 0)
		r.all[0].renewal = time.Hour // it stands still
		content := noise(17 << 20)
		location := r.all[0].begin(repo)
		stale := r.all[0].beginPatch(location)
		_, err := io.WriteString(stale.feed, content[:6<<20]) // a part, and a piece that is nowhere yet
		Expect(err).NotTo(HaveOccurred())
		r.all[0].clock.Advance(core.UploadLease)
		Eventually(func() int { return r.all[1].do(exchange{method: "GET", path: location}).Code }).WithTimeout(time.Minute).Should(Equal(204))
		r.all[1].check(status(location, 5<<20))

		r.all[1].check(patch(location, content[5<<20:16<<20]))
		_, _ = io.WriteString(stale.feed, noise(6<<20)) // fills the stale writer's next part, which is sent and not recorded
		w := stale.end()
		Expect(w.Code).To(Equal(409))
		Expect(w.Body.String()).To(Equal(taken))
		r.all[0].check(status(location, 16<<20))
		r.all[0].check(patch(location, content[16<<20:]))
		r.all[1].check(put(location, content))
		r.pulled(0, content)
	})

	It("keep a writer that is only slow", func() {
		r := newReplicas(server, "", 0)
		r.all[0].renewal = time.Millisecond
		location := r.all[0].begin(repo)
		slow := r.all[0].beginPatch(location)
		_, err := slow.feed.Write([]byte("0123"))
		Expect(err).NotTo(HaveOccurred())
		for range 10 {
			r.all[0].clock.Advance(core.UploadLease)
			Eventually(func() int { return r.all[1].do(exchange{method: "GET", path: location}).Code }).WithTimeout(time.Minute).Should(Equal(409))
		}
		Expect(slow.end().Code).To(Equal(202))
	})

	It("are expired by one of them, with their parts", func() {
		r := newReplicas(server, "", 0)
		var locations []string
		for i := range 8 {
			location := r.all[i%2].begin(repo)
			r.all[i%2].check(patch(location, noise(5<<20)))
			locations = append(locations, location)
		}
		_, _, parts := r.objects()
		Expect(parts).To(Equal(8))
		r.all[0].clock.Advance(time.Hour)
		var all sync.WaitGroup
		for _, h := range r.all {
			all.Go(func() { h.ExpireUploads(context.Background()) })
		}
		all.Wait()
		data, keys, parts := r.objects()
		Expect([]int{data, keys, parts}).To(Equal([]int{0, 0, 0}))
		for _, h := range r.all {
			Expect(h.log.String()).To(BeEmpty())
			for _, location := range locations {
				h.check(exchange{method: "GET", path: location, status: 404, answer: refusal("BLOB_UPLOAD_UNKNOWN", goneUpload)})
			}
		}
	})

	It("make one blob of one digest that both get at once", func() {
		r := newReplicas(server, "", 0)
		content := noise(6 << 20)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				defer GinkgoRecover()
				Expect(r.all[i%2].do(exchange{method: "POST", path: repo + "/blobs/uploads/?digest=" + sha(content), body: content}).Code).To(Equal(201))
			})
		}
		all.Wait()
		r.pulled(0, content)
		data, keys, parts := r.objects()
		Expect([]int{data, keys, parts}).To(Equal([]int{1, 1, 0}))
	})

	It("leave nothing of what was cancelled, or had another digest", func() {
		r := newReplicas(server, "", 0)
		for _, size := range []int{3, 6 << 20} {
			location := r.all[0].begin(repo)
			r.all[0].check(patch(location, noise(size)))
			r.all[1].check(exchange{method: "DELETE", path: location, status: 204})
			location = r.all[0].begin(repo)
			r.all[0].check(patch(location, noise(size)))
			Expect(r.all[1].do(put(location, "other")).Code).To(Equal(400))
		}
		data, keys, parts := r.objects()
		Expect([]int{data, keys, parts}).To(Equal([]int{0, 0, 0}))
	})
})

var _ = Describe("an object store that is away", func() {
	unavailable := refusal("UNAVAILABLE", "the registry cannot answer this now; try again")
	retry := map[string]string{"Retry-After": "1"}

	DescribeTable("makes requests fail that need it, and uploads go on when it is back", func(leave func(*s3test.Server, *s3test.Proxy), comeBack func(*s3test.Server, *s3test.Proxy)) {
		server := s3test.New(GinkgoT())
		proxy := s3test.NewProxy(GinkgoT(), server)
		r := newReplicas(server, proxy.Address, 500*time.Millisecond)
		h, content, there := r.all[0], noise(12<<20), noise(100)
		h.pushBlobs(repo, there)
		uploads := make([]string, 4)
		for i := range uploads {
			uploads[i] = h.begin(repo)
			h.check(exchange{method: "PATCH", path: uploads[i], body: content[:5<<20+7], status: 202})
		}
		whole := h.begin(repo)
		h.check(exchange{method: "PATCH", path: whole, body: content, status: 202})

		leave(server, proxy)
		var all sync.WaitGroup
		for _, location := range uploads {
			all.Go(func() {
				defer GinkgoRecover()
				h.check(exchange{method: "PATCH", path: location, body: content[5<<20+7:], status: 503, want: retry, answer: unavailable})
				// Nothing was taken that is not stored.
				h.check(exchange{method: "GET", path: location, status: 204, want: map[string]string{"Range": fmt.Sprintf("0-%d", 5<<20+6)}})
			})
		}
		all.Go(func() {
			defer GinkgoRecover()
			h.check(exchange{method: "PUT", path: whole + "?digest=" + sha(content), status: 503, want: retry, answer: unavailable})
		})
		all.Go(func() {
			defer GinkgoRecover()
			h.check(exchange{method: "GET", path: repo + "/blobs/" + sha(there), status: 503, want: retry, answer: unavailable})
			h.check(exchange{method: "POST", path: repo + "/blobs/uploads/?digest=" + sha("x"), body: "x", status: 503, want: retry, answer: unavailable})
		})
		all.Wait()
		h.check(exchange{method: "GET", path: repo + "/blobs/" + sha(content), status: 404, answer: refusal("BLOB_UNKNOWN", "blob "+sha(content)+" is not in repository team-a/app")})

		comeBack(server, proxy)
		r.pulled(0, there)
		h.check(exchange{method: "PUT", path: whole + "?digest=" + sha(content), status: 201})
		r.pulled(1, content)
		for i, location := range uploads {
			r.all[i%2].check(exchange{method: "PATCH", path: location, body: content[5<<20+7:], status: 202})
			r.all[i%2].check(exchange{method: "PUT", path: location + "?digest=" + sha(content), status: 201})
		}
		r.all[0].clock.Advance(2 * time.Hour)
		h.ExpireUploads(context.Background()) // the POST that failed
		data, _, parts := r.objects()
		Expect([]int{data, parts}).To(Equal([]int{2, 0}))
	},
		Entry("killed", func(s *s3test.Server, _ *s3test.Proxy) { s.Kill() }, func(s *s3test.Server, _ *s3test.Proxy) { s.Start() }),
		Entry("out of reach", func(_ *s3test.Server, p *s3test.Proxy) { p.Refuse() }, func(_ *s3test.Server, p *s3test.Proxy) { p.Pass() }),
		Entry("silent", func(_ *s3test.Server, p *s3test.Proxy) { p.Stall() }, func(_ *s3test.Server, p *s3test.Proxy) { p.Pass() }),
	)

	It("may leave in the middle of many uploads: each one ends well or says 503 and goes on", func() {
		server := s3test.New(GinkgoT())
		r := newReplicas(server, "", 5*time.Second)
		const uploads = 12
		contents, locations := make([]string, uploads), make([]string, uploads)
		for i := range uploads {
			contents[i] = noise(11<<20 + i)
			locations[i] = r.all[i%2].begin(repo)
		}
		running := make([]*pending, uploads)
		for i := range uploads {
			running[i] = r.all[i%2].beginPatch(locations[i])
			_, err := io.WriteString(running[i].feed, contents[i][:6<<20])
			Expect(err).NotTo(HaveOccurred())
		}
		server.Kill()
		var all sync.WaitGroup
		for i := range uploads {
			all.Go(func() {
				_, _ = io.WriteString(running[i].feed, contents[i][6<<20:])
				_ = running[i].feed.Close()
			})
		}
		server.Start()
		all.Wait()
		failed := 0
		for i := range uploads {
			Eventually(running[i].done).WithTimeout(time.Minute).Should(BeClosed())
			other := r.all[(i+1)%2]
			if running[i].w.Code != 202 {
				Expect(running[i].w.Code).To(Equal(503))
				failed++
				w := other.do(exchange{method: "GET", path: locations[i]})
				Expect(w.Code).To(Equal(204))
				var last int
				_, err := fmt.Sscanf(w.Header().Get("Range"), "0-%d", &last)
				Expect(err).NotTo(HaveOccurred())
				if last > 0 {
					last++
				}
				other.check(exchange{method: "PATCH", path: locations[i], body: contents[i][last:], status: 202})
			}
			other.check(exchange{method: "PUT", path: locations[i] + "?digest=" + sha(contents[i]), status: 201})
			r.pulled(0, contents[i])
		}
		GinkgoWriter.Printf("%d of %d uploads were answered with 503\n", failed, uploads)
		data, keys, parts := r.objects()
		Expect([]int{data, keys, parts}).To(Equal([]int{uploads, uploads, 0}))
	})
})

var _ = Describe("redirects to S3", func() {
	It("answer GET, with or without a range, and nothing else", func() {
		server := s3test.New(GinkgoT())
		r := newReplicas(server, "", 0, func(o *Options) { o.Redirect = true })
		h, content := r.all[0], noise(6<<20)
		h.pushBlobs(repo, content)
		path := repo + "/blobs/" + sha(content)
		for _, header := range []map[string]string{nil, {"Range": "bytes=5-8"}} {
			w := h.check(exchange{method: "GET", path: path, header: header, status: 307, want: map[string]string{"Content-Length": "0", "Docker-Content-Digest": sha(content), "Cache-Control": "no-store"}})
			request, err := http.NewRequest(http.MethodGet, w.Header().Get("Location"), http.NoBody)
			Expect(err).NotTo(HaveOccurred())
			Expect(request.URL.Query().Get("X-Amz-Expires")).To(Equal("300"))
			for name, value := range header {
				request.Header.Set(name, value)
			}
			response, err := http.DefaultClient.Do(request)
			Expect(err).NotTo(HaveOccurred())
			got, err := io.ReadAll(response.Body)
			Expect(err).NotTo(HaveOccurred())
			Expect(response.Body.Close()).To(Succeed())
			Expect(response.Header.Get("Content-Type")).To(Equal("application/octet-stream"))
			if header == nil {
				Expect(digest.FromBytes(got).String()).To(Equal(sha(content)))
			} else {
				Expect(response.StatusCode).To(Equal(206))
				Expect(string(got)).To(Equal(content[5:9]))
			}
		}
		h.check(exchange{method: "HEAD", path: path, status: 200, want: map[string]string{"Content-Length": fmt.Sprint(len(content)), "Location": ""}})
		h.check(exchange{method: "GET", path: path, header: map[string]string{"If-None-Match": `"` + sha(content) + `"`}, status: 304})
		h.check(exchange{method: "GET", path: repo + "/blobs/" + sha("x"), status: 404, answer: refusal("BLOB_UNKNOWN", "blob "+sha("x")+" is not in repository team-a/app")})
	})

	It("are off by default: parts of a blob stream", func() {
		r := newReplicas(s3test.New(GinkgoT()), "", 0)
		h, content := r.all[0], noise(6<<20)
		h.pushBlobs(repo, content)
		r.pulled(1, content)
		h.check(exchange{method: "GET", path: repo + "/blobs/" + sha(content), header: map[string]string{"Range": "bytes=-3"}, status: 206, answer: content[len(content)-3:]})
	})
})
