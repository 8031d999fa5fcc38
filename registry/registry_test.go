package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
	"github.com/tidelock/tidelock/registry/mgmtapi"
)

func digestOf(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// lines is a log that can be read while it is written.
type lines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

var _ = Describe("a registry", func() {
	It("keeps what was pushed over a restart", func() {
		cfg := settings()
		content := bytes.Repeat([]byte("tidelock"), 1<<20)
		path := "/v2/team-a/app/blobs/" + digestOf(content)

		s := start(cfg)
		response, body := s.call(http.DefaultClient, "POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf(content), bytes.NewReader(content))
		Expect(response.StatusCode).To(Equal(201), body)
		s.end()

		s = start(cfg)
		response, body = s.call(http.DefaultClient, "GET", path, nil)
		Expect(response.StatusCode).To(Equal(200))
		Expect(body == string(content)).To(BeTrue())
	})

	It("goes on with an upload after a restart", func() {
		cfg := settings()
		s := start(cfg)
		open := func() string {
			response, _ := s.call(http.DefaultClient, "POST", "/v2/team-a/app/blobs/uploads/", nil)
			Expect(response.StatusCode).To(Equal(202))
			return response.Header.Get("Location")
		}
		kept, cancelled := open(), open()
		for _, location := range []string{kept, cancelled} {
			response, body := s.call(http.DefaultClient, "PATCH", location, strings.NewReader("tide"))
			Expect(response.StatusCode).To(Equal(202), body)
		}
		response, _ := s.call(http.DefaultClient, "DELETE", cancelled, nil)
		Expect(response.StatusCode).To(Equal(204))
		s.end()
		write(filepath.Join(cfg.DataDir, "uploads"), strings.Repeat("0", 32), "of no open upload")

		s = start(cfg)
		left, err := os.ReadDir(filepath.Join(cfg.DataDir, "uploads"))
		Expect(err).NotTo(HaveOccurred())
		Expect(left).To(HaveLen(1))
		response, _ = s.call(http.DefaultClient, "GET", kept, nil)
		Expect(response.Header.Get("Range")).To(Equal("0-3"))
		response, body := s.call(http.DefaultClient, "PUT", kept+"?digest="+digestOf([]byte("tidelock")), strings.NewReader("lock"))
		Expect(response.StatusCode).To(Equal(201), body)
		_, body = s.call(http.DefaultClient, "GET", "/v2/team-a/app/blobs/"+digestOf([]byte("tidelock")), nil)
		Expect(body).To(Equal("tidelock"))
	})

	It("keeps blobs in S3, and sends clients there if it is told to", func() {
		server := s3test.New(GinkgoT())
		cfg := settings()
		cfg.BlobStore = "s3://" + server.Bucket() + "/registry?endpoint=http://" + server.Address
		GinkgoT().Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		GinkgoT().Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		content := bytes.Repeat([]byte("tidelock"), 1<<20)
		path := "/v2/team-a/app/blobs/" + digestOf(content)
		s := start(cfg)
		response, body := s.call(http.DefaultClient, "POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf(content), bytes.NewReader(content))
		Expect(response.StatusCode).To(Equal(201), body)
		response, body = s.call(http.DefaultClient, "GET", path, nil)
		Expect(response.StatusCode).To(Equal(200))
		Expect(body == string(content)).To(BeTrue())
		Expect(filepath.Join(cfg.DataDir, "blobs")).NotTo(BeADirectory())
		s.end()

		cfg.BlobRedirect = true
		s = start(cfg)
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		response, _ = s.call(client, "GET", path, nil)
		Expect(response.StatusCode).To(Equal(307))
		Expect(response.Header.Get("Location")).To(HavePrefix("http://" + server.Address))
		response, body = s.call(http.DefaultClient, "GET", path, nil) // follows it
		Expect(response.StatusCode).To(Equal(200))
		Expect(body == string(content)).To(BeTrue())
	})

	It("refuses a second one on its data directory, naming the process, and a port that is taken", func() {
		cfg := settings()
		s := start(cfg)
		_, err := New(cfg)
		Expect(err).To(MatchError(fmt.Sprintf("data directory %s is in use by another registry (process %d)", cfg.DataDir, os.Getpid())))
		Expect(AdoptCluster(context.Background(), cfg, "uid")).To(MatchError(ContainSubstring("in use by another registry")))

		other := settings()
		other.Listen = s.Addr().String()
		_, err = New(other)
		Expect(err).To(MatchError(ContainSubstring("address already in use")))
		other.Listen = "127.0.0.1:0" // what the failure had taken is free again
		start(other)
	})

	It("serves health, metrics, both APIs and nothing else", func() {
		s := start(settings())
		for _, e := range []struct {
			path    string
			status  int
			contain string
		}{
			{"/healthz", 200, "ok\n"},
			{"/readyz", 200, "ok\n"},
			{"/v2/", 200, "{}"},
			{"/v2//x/manifests/v1", 400, "NAME_INVALID"},
			{"/v2/team-a/app/manifests/v1", 404, "NAME_UNKNOWN"},
			{mgmtapi.Prefix + "v1/nothing", 404, ""},
			{"/", 404, ""},
			{"/v2x", 404, ""},
			{"/metrics", 200, `tidelock_http_requests_total{code="404",method="GET",route="/v2/{name}/manifests/{reference}"} 1`},
			{"/metrics", 200, `tidelock_http_requests_total{code="404",method="GET",route="other"} 2`},
			{"/metrics", 200, `tidelock_http_sent_bytes_total{route="/v2/"} 2`},
			{"/metrics", 200, "tidelock_disk_full 0\n"},
		} {
			response, body := s.call(http.DefaultClient, "GET", e.path, nil)
			Expect(response.StatusCode).To(Equal(e.status), e.path)
			Expect(body).To(ContainSubstring(e.contain), e.path)
			Expect(response.Header.Get("X-Request-Id")).To(HaveLen(26), e.path)
		}
	})

	It("collects garbage on its schedule, counts it, and writes it into the audit log", func() {
		cfg := settings()
		cfg.GC.Interval = 10 * time.Millisecond
		s := start(cfg)
		path := "/v2/team-a/app/blobs/" + digestOf([]byte("garbage"))
		response, body := s.call(http.DefaultClient, "POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf([]byte("garbage")), strings.NewReader("garbage"))
		Expect(response.StatusCode).To(Equal(201), body)
		Eventually(func() int {
			response, _ := s.call(http.DefaultClient, "GET", path, nil)
			return response.StatusCode
		}).WithTimeout(time.Minute).Should(Equal(404))
		for path, text := range map[string]string{"/metrics": `tidelock_gc_freed_bytes_total 7`, "/api/v1/superuser/logs?kind=garbage_collection": `"removed_bytes":7`} {
			Eventually(func() string {
				_, body := s.call(http.DefaultClient, "GET", path, nil)
				return body
			}).WithTimeout(time.Minute).Should(ContainSubstring(text), path)
		}
	})

	It("refuses times of garbage collection that are negative", func() {
		cfg := settings()
		cfg.GC.Grace = -time.Second
		_, err := New(cfg)
		Expect(err).To(MatchError("--gc-interval, --gc-grace and --gc-delay must not be negative"))
	})

	It("logs each request with the id that its client has got", func() {
		cfg, log := settings(), &lines{}
		cfg.Logger = slog.New(slog.NewJSONHandler(log, nil))
		s := start(cfg)
		response, _ := s.call(http.DefaultClient, "GET", "/v2/team-a/app/tags/list", nil)
		s.end()
		for line := range strings.Lines(log.String()) {
			var record map[string]any
			Expect(json.Unmarshal([]byte(line), &record)).To(Succeed())
			if record["msg"] == "request" {
				Expect(record).To(HaveKeyWithValue("request_id", response.Header.Get("X-Request-Id")))
				Expect(record).To(HaveKeyWithValue("path", "/v2/team-a/app/tags/list"))
				Expect(record).To(HaveKeyWithValue("status", float64(404)))
				Expect(line).NotTo(ContainSubstring(password))
				return
			}
		}
		Fail("no request in the log: " + log.String())
	})

	It("drains: finishes an upload that goes on, takes no new work, and ends without an error", func() {
		cfg := settings()
		s := start(cfg)
		content := []byte("0123456789")
		body, feed := io.Pipe()
		type result struct {
			status int
			err    error
		}
		uploaded := make(chan result, 1)
		go func() {
			request, _ := http.NewRequestWithContext(context.Background(), "POST", s.URL()+"/v2/team-a/app/blobs/uploads/?digest="+digestOf(content), body)
			request.SetBasicAuth("admin", password)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				uploaded <- result{err: err}
				return
			}
			_ = response.Body.Close()
			uploaded <- result{status: response.StatusCode}
		}()
		_, err := feed.Write(content[:5])
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() string {
			_, metrics := s.call(http.DefaultClient, "GET", "/metrics", nil)
			return metrics
		}).WithTimeout(20 * time.Second).Should(ContainSubstring("tidelock_http_requests_in_flight 2")) // the upload and this one

		s.stop()
		Eventually(func() error {
			connection, err := net.Dial("tcp", s.Addr().String())
			if err == nil {
				_ = connection.Close()
			}
			return err
		}).WithTimeout(20 * time.Second).Should(MatchError(ContainSubstring("refused")))
		Expect(s.ready(context.Background())).To(MatchError("the registry is shutting down"))
		Consistently(s.done).WithTimeout(100 * time.Millisecond).ShouldNot(Receive())

		_, err = feed.Write(content[5:])
		Expect(err).NotTo(HaveOccurred())
		Expect(feed.Close()).To(Succeed())
		Eventually(uploaded).WithTimeout(10 * time.Second).Should(Receive(Equal(result{status: 201})))
		s.end()

		s = start(cfg)
		response, got := s.call(http.DefaultClient, "GET", "/v2/team-a/app/blobs/"+digestOf(content), nil)
		Expect(response.StatusCode).To(Equal(200))
		Expect(got).To(BeEquivalentTo(content))
	})

	It("serves TLS, and a renewed certificate without a restart", func() {
		cfg := settings()
		dir := GinkgoT().TempDir()
		var certificate *x509.Certificate
		certificate, cfg.TLSCert, cfg.TLSKey = certificateFiles(dir, "first")
		s := start(cfg)
		Expect(s.URL()).To(HavePrefix("https://127.0.0.1:"))
		client := func(trusted *x509.Certificate) *http.Client {
			pool := x509.NewCertPool()
			pool.AddCert(trusted)
			return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
		}
		content := bytes.Repeat([]byte("x"), 3<<20)
		response, body := s.call(client(certificate), "POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf(content), bytes.NewReader(content))
		Expect(response.StatusCode).To(Equal(201), body)
		Expect(response.Proto).To(Equal("HTTP/2.0"))

		renewed, _, _ := certificateFiles(dir, "second")
		later := time.Now().Add(time.Minute) // a file system may have a coarse clock
		Expect(os.Chtimes(cfg.TLSCert, later, later)).To(Succeed())
		response, body = s.call(client(renewed), "GET", "/v2/team-a/app/blobs/"+digestOf(content), nil)
		Expect(response.StatusCode).To(Equal(200))
		Expect(body == string(content)).To(BeTrue())

		// A broken pair is not served: the one before is.
		write(dir, "tls.crt", "nothing")
		response, _ = s.call(client(renewed), "GET", "/v2/", nil)
		Expect(response.StatusCode).To(Equal(200))
	})

	It("is not started with a certificate that cannot be read", func() {
		cfg := settings()
		cfg.TLSCert, cfg.TLSKey = write(GinkgoT().TempDir(), "tls.crt", "x"), write(GinkgoT().TempDir(), "tls.key", "x")
		_, err := New(cfg)
		Expect(err).To(MatchError(HavePrefix("TLS certificate " + cfg.TLSCert)))
	})

	It("waits for its operator, if it has one, before it takes writes", func() {
		cfg := settings()
		cfg.OperatorTokenFile = write(GinkgoT().TempDir(), "token", strings.Repeat("t", 32))
		s := start(cfg)
		response, body := s.call(http.DefaultClient, "POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf([]byte("x")), strings.NewReader("x"))
		Expect(response.StatusCode).To(Equal(503), body)
		Expect(response.Header.Get("Retry-After")).To(Equal("1"))
	})

	It("can be handed over to another cluster while it is stopped", func() {
		cfg := settings()
		Expect(AdoptCluster(context.Background(), cfg, "uid-2")).To(MatchError(ContainSubstring("holds no registry")))
		Expect(cfg.DataDir).NotTo(BeADirectory())
		start(cfg).end()
		Expect(AdoptCluster(context.Background(), cfg, "")).To(MatchError(ContainSubstring("UID")))
		Expect(AdoptCluster(context.Background(), cfg, "uid-2")).To(Succeed())
		s := start(cfg)
		_, body := s.call(http.DefaultClient, "GET", "/api/v1/superuser/logs", nil)
		Expect(body).To(ContainSubstring("uid-2"))
	})
})

var _ = Describe("replicas over one database", func() {
	It("serve the same content, are told at once that they belong to another cluster, and start without one another", func() {
		dsn, err := postgrestest.Database("replicas")
		Expect(err).NotTo(HaveOccurred())
		one, other := settings(), settings()
		one.Database, other.Database = dsn, dsn
		Expect(AdoptCluster(context.Background(), one, "uid-2")).To(MatchError(ContainSubstring("holds no registry")))
		a, b := start(one), start(other)
		response, _ := a.call(http.DefaultClient, "POST", "/api/v1/organization/", strings.NewReader(`{"name":"team-a"}`))
		Expect(response.StatusCode).To(Equal(http.StatusCreated))
		response, _ = b.call(http.DefaultClient, "GET", "/api/v1/organization/team-a", nil)
		Expect(response.StatusCode).To(Equal(http.StatusOK))
		Expect(AdoptCluster(context.Background(), one, "uid-2")).To(Succeed())
		for _, replica := range []*running{a, b} {
			_, body := replica.call(http.DefaultClient, "GET", "/api/v1/superuser/logs", nil)
			Expect(body).To(ContainSubstring("uid-2"))
		}
		fork, err := ForkLog(context.Background(), one, "restored", true)
		Expect(err).NotTo(HaveOccurred())
		for _, replica := range []*running{a, b} {
			_, body := replica.call(http.DefaultClient, "GET", "/api/v1/superuser/audit/checkpoint", nil)
			Expect(body).To(HavePrefix(fork.Origin + "\n"))
		}
		a.end()
		response, _ = b.call(http.DefaultClient, "GET", "/readyz", nil)
		Expect(response.StatusCode).To(Equal(http.StatusOK))
	})

	It("answer 503 with Retry-After and are not ready while the database is away, and go on when it is back", func() {
		server, err := postgrestest.New()
		Expect(err).NotTo(HaveOccurred())
		defer func() { Expect(server.Close()).To(Succeed()) }()
		cfg := settings()
		cfg.Database, err = server.Database("away")
		Expect(err).NotTo(HaveOccurred())
		s := start(cfg)
		defer s.end()
		statuses := func() map[string]int {
			statuses := map[string]int{}
			for _, request := range []string{
				"POST /v2/team-a/app/blobs/uploads/?digest=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
				"GET /v2/team-a/app/tags/list", "GET /api/v1/organization/team-a", "GET /readyz", "GET /healthz",
			} {
				method, path, _ := strings.Cut(request, " ")
				var body io.Reader
				if method == http.MethodPost {
					body = strings.NewReader("{}")
				}
				response, _ := s.call(http.DefaultClient, method, path, body)
				name, _, _ := strings.Cut(request, "?")
				statuses[name] = response.StatusCode
				if response.StatusCode == http.StatusServiceUnavailable && path != "/readyz" {
					Expect(response.Header.Get("Retry-After")).NotTo(BeEmpty(), request)
				}
			}
			return statuses
		}
		well := map[string]int{"POST /v2/team-a/app/blobs/uploads/": 201, "GET /v2/team-a/app/tags/list": 200, "GET /api/v1/organization/team-a": 200, "GET /readyz": 200, "GET /healthz": 200}
		Expect(statuses()).To(Equal(well))
		Expect(server.Stop()).To(Succeed())
		Expect(statuses()).To(Equal(map[string]int{"POST /v2/team-a/app/blobs/uploads/": 503, "GET /v2/team-a/app/tags/list": 503, "GET /api/v1/organization/team-a": 503, "GET /readyz": 503, "GET /healthz": 200}))
		Expect(server.Start()).To(Succeed())
		Expect(statuses()).To(Equal(well))
	})

	It("are not started on a database that is not there, and the answer hides the password", func() {
		cfg := settings()
		cfg.Database = "postgres://tidelock:secret@127.0.0.1:1/tidelock"
		_, err := New(cfg)
		Expect(err).To(MatchError(ContainSubstring("database tidelock on 127.0.0.1")))
		Expect(err.Error()).NotTo(ContainSubstring("secret"))
		cfg.Database = "postgres://tidelock:secret@127.0.0.1:port/tidelock"
		_, err = New(cfg)
		Expect(err).To(HaveOccurred())
		Expect(err.Error()).NotTo(ContainSubstring("secret"))
	})
})

var _ = Describe("the guard of requests", func() {
	It("lets the kernel send files", func() {
		inner := &readerFrom{}
		w := &guardedWriter{ResponseWriter: inner, control: http.NewResponseController(inner)}
		file, err := os.CreateTemp(GinkgoT().TempDir(), "")
		Expect(err).NotTo(HaveOccurred())
		defer func() { _ = file.Close() }()
		Expect(file.Truncate(2*stride + 7)).To(Succeed())
		Expect(io.CopyN(w, file, 2*stride+7)).To(BeEquivalentTo(2*stride + 7))
		// Each piece came as the file itself behind one limit, which is what sendfile takes.
		Expect(inner.sources).To(HaveLen(3))
		for _, source := range inner.sources {
			Expect(source).To(BeIdenticalTo(file))
		}
		Expect(w.bytes).To(BeEquivalentTo(2*stride + 7))
	})

	It("gives each read and each write the same time, and none to the next request", func() {
		inner := &readerFrom{}
		control := http.NewResponseController(inner)
		w := &guardedWriter{ResponseWriter: inner, control: control}
		begin := time.Now()
		_, err := w.Write([]byte("x"))
		Expect(err).NotTo(HaveOccurred())
		Expect(inner.writeDeadline).To(BeTemporally("~", begin.Add(stallTimeout), 5*time.Second))

		body := &guardedBody{ReadCloser: io.NopCloser(strings.NewReader("x")), control: control}
		_, err = body.Read(make([]byte, 1))
		Expect(err).NotTo(HaveOccurred())
		Expect(inner.readDeadline).To(BeTemporally("~", begin.Add(stallTimeout), 5*time.Second))
		_, err = body.Read(make([]byte, 1))
		Expect(err).To(MatchError(io.EOF))
		Expect(inner.readDeadline).To(BeZero())

		observer := &observer{next: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }), logger: slog.New(slog.DiscardHandler), metrics: newMetrics()}
		request, err := http.NewRequestWithContext(context.Background(), "GET", "/", http.NoBody)
		Expect(err).NotTo(HaveOccurred())
		observer.ServeHTTP(inner, request)
		Expect(inner.writeDeadline).To(BeZero())
	})
})

// readerFrom is a connection that notes what it is told.
type readerFrom struct {
	header                      http.Header
	sources                     []io.Reader
	readDeadline, writeDeadline time.Time
}

func (r *readerFrom) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}
func (r *readerFrom) WriteHeader(int)                    {}
func (r *readerFrom) Write(p []byte) (int, error)        { return len(p), nil }
func (r *readerFrom) SetReadDeadline(t time.Time) error  { r.readDeadline = t; return nil }
func (r *readerFrom) SetWriteDeadline(t time.Time) error { r.writeDeadline = t; return nil }
func (r *readerFrom) ReadFrom(source io.Reader) (int64, error) {
	r.sources = append(r.sources, source.(*io.LimitedReader).R)
	return io.Copy(io.Discard, source)
}
