package registry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const (
	emptyImage = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json",` +
		`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`
	emptyConfig = "{}"
)

// withImage is a registry with team-a/app:v1.
func withImage() *running {
	GinkgoHelper()
	s := start(settings())
	response, body := s.call(http.DefaultClient, "POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf([]byte(emptyConfig)), strings.NewReader(emptyConfig))
	Expect(response.StatusCode).To(Equal(201), body)
	response, body = s.call(http.DefaultClient, "PUT", "/v2/team-a/app/manifests/v1", strings.NewReader(emptyImage))
	Expect(response.StatusCode).To(Equal(201), body)
	return s
}

// line is a client that writes what it likes: no library puts its requests right.
type line struct {
	net.Conn
	answers *bufio.Reader
}

func (s *running) connect() *line {
	GinkgoHelper()
	connection, err := new(net.Dialer).DialContext(context.Background(), "tcp", s.Addr().String())
	Expect(err).NotTo(HaveOccurred())
	Expect(connection.SetDeadline(time.Now().Add(time.Minute))).To(Succeed())
	DeferCleanup(func() { _ = connection.Close() })
	return &line{connection, bufio.NewReader(connection)}
}

// send writes a request's head as admin, with more header lines, each ending in CRLF.
func (l *line) send(method, target, more string) {
	_, _ = fmt.Fprintf(l, "%s %s HTTP/1.1\r\nHost: registry\r\nAuthorization: Basic %s\r\n%s\r\n",
		method, target, base64.StdEncoding.EncodeToString([]byte("admin:"+password)), more)
}

func (l *line) answer(method string) (int, http.Header, string) {
	GinkgoHelper()
	response, err := http.ReadResponse(l.answers, &http.Request{Method: method})
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, response.Header, string(body)
}

// badRequest is a request that must be refused. Code is the error code of the body, empty where net/http refuses before
// any handler, in plain text.
type badRequest struct {
	method, target string
	status         int
	code           string
	header         string
}

// with adds header lines, each ending in CRLF.
func with(header string, bad badRequest) badRequest {
	bad.header = header
	return bad
}

// long is the longest path that still comes through to the handlers.
var long = strings.Repeat("a", 60<<10)

var badRequests = map[string]badRequest{
	"a name that climbs":                    {"GET", "/v2/team-a/../app/manifests/v1", 400, "NAME_INVALID", ""},
	"a name that is the parent":             {"GET", "/v2/../team-a/app/manifests/v1", 400, "NAME_INVALID", ""},
	"a name that climbs, encoded":           {"GET", "/v2/%2e%2e/%2E%2E/manifests/v1", 400, "NAME_INVALID", ""},
	"a name that climbs, encoded twice":     {"GET", "/v2/team-a/%252e%252e/manifests/v1", 400, "NAME_INVALID", ""},
	"a name that climbs, overlong UTF-8":    {"GET", "/v2/team-a/%c0%ae%c0%ae/manifests/v1", 400, "NAME_INVALID", ""},
	"a name with dots in a segment":         {"GET", "/v2/team-a/a..b/manifests/v1", 400, "NAME_INVALID", ""},
	"a path out of the API":                 {"GET", "/v2/../../etc/passwd", 404, "UNSUPPORTED", ""},
	"an empty segment":                      {"GET", "/v2/team-a//app/manifests/v1", 400, "NAME_INVALID", ""},
	"an empty first segment":                {"GET", "/v2//team-a/app/manifests/v1", 400, "NAME_INVALID", ""},
	"an empty segment before the API":       {"GET", "//v2/team-a/app/manifests/v1", 404, "", ""},
	"an empty segment behind the keyword":   {"GET", "/v2/team-a/app/manifests//v1", 404, "UNSUPPORTED", ""},
	"nothing but slashes":                   {"GET", "/v2////", 404, "UNSUPPORTED", ""},
	"a dot":                                 {"GET", "/v2/./team-a/app/manifests/v1", 400, "NAME_INVALID", ""},
	"an encoded slash in the name":          {"GET", "/v2/team-a%2Fapp/manifests/v1", 400, "NAME_INVALID", ""},
	"an encoded slash in the keyword":       {"GET", "/v2/team-a/app%2fmanifests/v1", 400, "NAME_INVALID", ""},
	"an encoded slash in the tag":           {"GET", "/v2/team-a/app/manifests/v1%2F..", 404, "UNSUPPORTED", ""},
	"an encoded slash in the digest":        {"GET", "/v2/team-a/app/blobs/..%2f..%2fetc%2fpasswd", 404, "UNSUPPORTED", ""},
	"a backslash":                           {"GET", `/v2/team-a\..\app/manifests/v1`, 400, "NAME_INVALID", ""},
	"NUL":                                   {"GET", "/v2/team-a/app\x00/manifests/v1", 400, "", ""},
	"NUL, encoded":                          {"GET", "/v2/team-a/app%00/manifests/v1", 400, "NAME_INVALID", ""},
	"NUL in a tag":                          {"GET", "/v2/team-a/app/manifests/v1%00", 400, "NAME_INVALID", ""},
	"NUL in an upload's id":                 {"PATCH", "/v2/team-a/app/blobs/uploads/%00", 400, "NAME_INVALID", ""},
	"a line break":                          {"GET", "/v2/team-a/app/manifests/v1%0d%0aX-Injected:%20yes", 400, "NAME_INVALID", ""},
	"what is no UTF-8":                      {"GET", "/v2/team-a/app/manifests/%ff", 400, "NAME_INVALID", ""},
	"letters that are not ASCII":            {"GET", "/v2/t%C3%A9am/app/manifests/v1", 400, "NAME_INVALID", ""},
	"upper case":                            {"GET", "/v2/Team-A/app/manifests/v1", 400, "NAME_INVALID", ""},
	"half an encoding":                      {"GET", "/v2/team-a/app/manifests/%2", 400, "", ""},
	"a name that never ends":                {"GET", "/v2/" + long + "/app/manifests/v1", 400, "NAME_INVALID", ""},
	"a name of countless segments":          {"GET", "/v2/" + strings.Repeat("a/", 30<<10) + "manifests/v1", 400, "NAME_INVALID", ""},
	"a name of countless keywords":          {"POST", "/v2" + strings.Repeat("/blobs/uploads", 4000), 400, "NAME_INVALID", ""},
	"a tag that never ends":                 {"GET", "/v2/team-a/app/manifests/" + long, 404, "MANIFEST_UNKNOWN", ""},
	"a tag that climbs":                     {"GET", "/v2/team-a/app/manifests/..", 404, "MANIFEST_UNKNOWN", ""},
	"a push to a tag that climbs":           {"PUT", "/v2/team-a/app/manifests/..", 400, "TAG_INVALID", ""},
	"a push to a tag that never ends":       {"PUT", "/v2/team-a/app/manifests/" + long, 400, "TAG_INVALID", ""},
	"a delete of a tag that climbs":         {"DELETE", "/v2/team-a/app/manifests/..", 404, "MANIFEST_UNKNOWN", ""},
	"a digest that never ends":              {"GET", "/v2/team-a/app/blobs/sha256:" + long, 400, "DIGEST_INVALID", ""},
	"a digest that climbs":                  {"GET", "/v2/team-a/app/blobs/sha256:..", 400, "DIGEST_INVALID", ""},
	"a digest of an unknown algorithm":      {"GET", "/v2/team-a/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID", ""},
	"a digest in upper case":                {"GET", "/v2/team-a/app/blobs/sha256:" + strings.Repeat("A", 64), 400, "DIGEST_INVALID", ""},
	"referrers of what is no digest":        {"GET", "/v2/team-a/app/referrers/..", 400, "DIGEST_INVALID", ""},
	"an upload that climbs":                 {"PATCH", "/v2/team-a/app/blobs/uploads/..", 404, "BLOB_UPLOAD_UNKNOWN", ""},
	"an upload that climbs further":         {"PATCH", "/v2/team-a/app/blobs/uploads/../../../data", 404, "UNSUPPORTED", ""},
	"an upload of no name":                  {"POST", "/v2/blobs/uploads/", 404, "UNSUPPORTED", ""},
	"a mount of no digest":                  {"POST", "/v2/team-a/app/blobs/uploads/?mount=..", 400, "DIGEST_INVALID", ""},
	"a number that is too large":            {"GET", "/v2/_catalog?n=99999999999999999999", 400, "INVALID", ""},
	"a number that is none":                 {"GET", "/v2/team-a/app/tags/list?n=0x10", 400, "INVALID", ""},
	"a page behind NUL":                     {"GET", "/v2/team-a/app/tags/list?last=%00", 400, "INVALID", ""},
	"a page behind what is no UTF-8":        {"GET", "/v2/_catalog?last=%ff", 400, "INVALID", ""},
	"a page behind what never ends":         {"GET", "/v2/_catalog?last=" + long, 400, "INVALID", ""},
	"an artifact type of NUL":               {"GET", "/v2/team-a/app/referrers/" + digestOf(nil) + "?artifactType=%00", 400, "INVALID", ""},
	"a query that cannot be read":           {"GET", "/v2/_catalog?n=%zz", 400, "INVALID", ""},
	"a method that there is not":            {"BREW", "/v2/team-a/app/manifests/v1", 405, "UNSUPPORTED", ""},
	"a method of another endpoint":          {"POST", "/v2/team-a/app/tags/list", 405, "UNSUPPORTED", ""},
	"a method that never ends":              {strings.Repeat("M", 10<<10), "/v2/", 405, "UNSUPPORTED", ""},
	"a header that never ends":              with("X-Long: "+strings.Repeat("a", 100<<10)+"\r\n", badRequest{"GET", "/v2/", 431, "", ""}),
	"an address that never ends":            {"GET", "/v2/" + strings.Repeat("a", 100<<10), 431, "", ""},
	"a name of one segment":                 {"GET", "/v2/app/manifests/v1", 400, "NAME_INVALID", ""},
	"two lengths":                           with("Content-Length: 1\r\nContent-Length: 2\r\n", badRequest{"PUT", "/v2/team-a/app/manifests/v1", 400, "", ""}),
	"a length that is none":                 with("Content-Length: -1\r\n", badRequest{"PUT", "/v2/team-a/app/manifests/v1", 400, "", ""}),
	"a manifest that says it is too large":  with("Content-Length: 99999999999\r\n", badRequest{"PUT", "/v2/team-a/app/manifests/v1", 413, "SIZE_INVALID", ""}),
	"Docker's schema 1":                     with("Content-Type: application/vnd.docker.distribution.manifest.v1+json\r\nContent-Length: 0\r\n", badRequest{"PUT", "/v2/team-a/app/manifests/v1", 400, "MANIFEST_INVALID", ""}),
	"a chunk whose place is none":           with("Content-Range: bytes 0-1/2\r\nContent-Length: 0\r\n", badRequest{"PATCH", "/v2/team-a/app/blobs/uploads/x", 400, "BLOB_UPLOAD_INVALID", ""}),
	"a chunk whose place is out of numbers": with("Content-Range: 0-99999999999999999999\r\nContent-Length: 0\r\n", badRequest{"PATCH", "/v2/team-a/app/blobs/uploads/x", 400, "BLOB_UPLOAD_INVALID", ""}),
}

var _ = Describe("bad input", func() {
	It("gets the right 4xx with a short body, and never a redirect", func() {
		s := withImage()
		for name, bad := range badRequests {
			l := s.connect()
			l.send(bad.method, bad.target, bad.header+"Connection: close\r\n")
			status, header, body := l.answer(bad.method)
			By(name + ": " + body)
			Expect(status).To(Equal(bad.status), name)
			Expect(len(body)).To(BeNumerically("<", 1024), name)
			Expect(header).NotTo(HaveKey("Location"), name)
			Expect(header).NotTo(HaveKey("X-Injected"), name)
			if bad.code != "" {
				Expect(header.Get("Content-Type")).To(Equal("application/json"), name)
				Expect(body).To(HavePrefix(`{"errors":[{"code":"`+bad.code+`","message":"`), name)
			}
		}
		response, body := s.call(http.DefaultClient, "GET", "/v2/team-a/app/tags/list", nil)
		Expect(response.StatusCode).To(Equal(200))
		Expect(body).To(Equal(`{"name":"team-a/app","tags":["v1"]}`))
		_, body = s.call(http.DefaultClient, "GET", "/v2/_catalog", nil)
		Expect(body).To(Equal(`{"repositories":["team-a/app"]}`), "nothing came to be on the way")
	})

	It("leaves nothing in memory", func() {
		s := withImage()
		round := func() {
			for _, bad := range badRequests {
				l := s.connect()
				l.send(bad.method, bad.target, bad.header+"Connection: close\r\n")
				_, _, _ = l.answer(bad.method)
				_ = l.Close()
			}
		}
		heap := func() int64 {
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			return int64(stats.HeapAlloc)
		}
		round()
		before := heap()
		for range 20 { // about 20 MiB of requests
			round()
		}
		Expect(heap() - before).To(BeNumerically("<", 4<<20))
	})

	It("gets the same answer to HEAD as to GET, without the body", func() {
		s := withImage()
		digest := digestOf([]byte(emptyConfig))
		for _, target := range []string{
			"/v2/", "/v2/_catalog", "/v2/_catalog?n=x", "/v2/team-a/app/tags/list", "/v2/team-a/app/tags/list?n=0", "/v2/team-a/none/tags/list",
			"/v2/team-a/app/manifests/v1", "/v2/team-a/app/manifests/v2", "/v2/team-a/app/manifests/" + digestOf([]byte(emptyImage)), "/v2/team-a/app/manifests/sha256:x",
			"/v2/team-a/app/blobs/" + digest, "/v2/team-a/app/blobs/" + digestOf(nil), "/v2/team-a/app/blobs/x", "/v2/team-a/none/blobs/" + digest,
			"/v2/team-a/app/referrers/" + digest, "/v2/team-a/app/referrers/x", "/v2/nothing", "/v2/app/manifests/v1", "/v2/team-a/app/blobs/uploads/",
		} {
			l := s.connect()
			l.send("GET", target, "")
			status, header, body := l.answer("GET")
			l.send("HEAD", target, "Connection: close\r\n")
			headStatus, headHeader, headBody := l.answer("HEAD")
			Expect(headStatus).To(Equal(status), target)
			Expect(headBody).To(BeEmpty(), target)
			Expect(headHeader.Get("Content-Length")).To(Equal(fmt.Sprint(len(body))), target)
			for _, own := range []string{"Date", "X-Request-Id", "Connection"} {
				header.Del(own)
				headHeader.Del(own)
			}
			Expect(headHeader).To(Equal(header), target)
		}
	})
})

var _ = Describe("a slow client", func() {
	It("has ten seconds for its header", func() {
		r, err := New(settings())
		Expect(err).NotTo(HaveOccurred())
		Expect(r.server.ReadHeaderTimeout).To(Equal(10 * time.Second))
		r.server.ReadHeaderTimeout = 50 * time.Millisecond
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		l := (&running{Registry: r}).connect()
		_, _ = io.WriteString(l, "GET /v2/ HTTP/1.1\r\nHost: regis")
		_, err = io.Copy(io.Discard, l)
		Expect(err).NotTo(HaveOccurred(), "the registry ended the connection")
		stop()
		Eventually(done).WithTimeout(20 * time.Second).Should(Receive(BeNil()))
	})

	It("holds up nobody while its body trickles, and is served in the end", func() {
		s := withImage()
		config := []byte(emptyConfig)
		_, _ = s.call(http.DefaultClient, "POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf([]byte("other")), strings.NewReader("other"))

		// Both have begun and do not end: a push of the tag, and an upload to the repository.
		push, upload := s.connect(), s.connect()
		push.send("PUT", "/v2/team-a/app/manifests/slow", fmt.Sprintf("Content-Length: %d\r\n", len(emptyImage)))
		_, _ = io.WriteString(push, emptyImage[:1])
		upload.send("POST", "/v2/team-a/app/blobs/uploads/?digest="+digestOf(config), fmt.Sprintf("Content-Length: %d\r\n", len(config)))
		_, _ = io.WriteString(upload, emptyConfig[:1])
		Eventually(func() string {
			_, body := s.call(http.DefaultClient, "GET", "/metrics", nil)
			return body
		}).WithTimeout(time.Minute).Should(ContainSubstring("tidelock_http_requests_in_flight 3\n"), "the two, and the one that asks")

		// What takes the locks that they would: the same tag, the same blob, the same repository, the whole organization.
		for _, request := range []struct {
			method, path, body string
			status             int
		}{
			{"PUT", "/v2/team-a/app/manifests/slow", emptyImage, 201},
			{"POST", "/v2/team-a/app/blobs/uploads/?digest=" + digestOf(config), emptyConfig, 201},
			{"DELETE", "/v2/team-a/app/blobs/" + digestOf([]byte("other")), "", 202},
			{"DELETE", "/v2/team-a/app/manifests/slow", "", 202},
			{"POST", "/api/v1/organization/team-a/immutabilitypolicy/", `{"tagPattern":"locked"}`, 201},
		} {
			response, body := s.call(http.DefaultClient, request.method, request.path, bytes.NewReader([]byte(request.body)))
			Expect(response.StatusCode).To(Equal(request.status), request.method+" "+request.path+": "+body)
		}

		_, _ = io.WriteString(push, emptyImage[1:])
		status, _, body := push.answer("PUT")
		Expect(status).To(Equal(201), body)
		_, _ = io.WriteString(upload, emptyConfig[1:])
		status, _, body = upload.answer("POST")
		Expect(status).To(Equal(201), body)
	})
})
