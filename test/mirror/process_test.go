// Package mirror lets registries that run as processes of their own mirror other registries: whole namespaces, with
// upstreams that are restarted and replicas that are killed.
package mirror

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
	"github.com/tidelock/tidelock/registry/openapi"
	"github.com/tidelock/tidelock/registry/seal"
)

const password = "correct horse battery staple"

// process is a registry that runs as a process of its own, always at the same address.
type process struct {
	*exec.Cmd
	t       *testing.T
	g       *WithT
	dir     string
	address string
	command func() *exec.Cmd
	health  string
	client  *http.Client
	// user is empty where anybody may do anything.
	user string
}

// binary is a program that `make test` builds.
func binary(t *testing.T, name string) string {
	path := filepath.Join(os.Getenv("TIDELOCK_BIN"), name)
	NewWithT(t).Expect(path).To(BeAnExistingFile(), "TIDELOCK_BIN must name the folder of what make builds; make test sets it")
	return path
}

func newProcess(t *testing.T, health string, command func(p *process) *exec.Cmd) *process {
	g := NewWithT(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	p := &process{t: t, g: g, dir: t.TempDir(), address: listener.Addr().String(), health: health, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 20}}}
	g.Expect(listener.Close()).To(Succeed())
	p.command = func() *exec.Cmd { return command(p) }
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log("the log of " + p.Path + ":\n" + p.log())
		}
	})
	p.start()
	return p
}

// newTidelock starts a registry of ours, by default with everything in a directory of its own.
func newTidelock(t *testing.T, flags ...string) *process {
	program := binary(t, "tidelock")
	p := newProcess(t, "/readyz", func(p *process) *exec.Cmd {
		file := filepath.Join(p.dir, "password")
		p.g.Expect(os.WriteFile(file, []byte(password), 0o600)).To(Succeed())
		return exec.Command(program, append([]string{
			"registry", "--data-dir", filepath.Join(p.dir, "data"), "--listen", p.address, "--admin-password-file", file, "--mirror-allow-networks", "127.0.0.1",
		}, flags...)...)
	})
	p.user = "admin"
	return p
}

// newReplicas starts two registries that share a database and a bucket.
func newReplicas(t *testing.T) []*process {
	g := NewWithT(t)
	server, err := postgrestest.New()
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() { g.Expect(server.Close()).To(Succeed()) })
	dsn, err := server.Database("mirror")
	g.Expect(err).NotTo(HaveOccurred())
	objects := s3test.New(t)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	log, secret := filepath.Join(t.TempDir(), "audit.key"), filepath.Join(t.TempDir(), "secret.key")
	g.Expect(audit.EnsureKeyFile(log)).To(Succeed())
	g.Expect(seal.EnsureKeyFile(secret)).To(Succeed())
	flags := []string{"--database", dsn, "--blob-store", "s3://" + objects.Bucket() + "?endpoint=http://" + objects.Address, "--audit-key-file", log, "--secret-key-file", secret}
	return []*process{newTidelock(t, flags...), newTidelock(t, flags...)}
}

// peerConfig takes the folder of its storage and its address.
const peerConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: %q}
`

// newDistribution starts the registry of github.com/distribution/distribution.
func newDistribution(t *testing.T) *process {
	program := binary(t, "registry-peer")
	return newProcess(t, "/v2/", func(p *process) *exec.Cmd {
		config := filepath.Join(p.dir, "config.yml")
		p.g.Expect(os.WriteFile(config, fmt.Appendf(nil, peerConfig, filepath.Join(p.dir, "data"), p.address), 0o600)).To(Succeed())
		command := exec.Command(program, "serve", config)
		command.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none", "OTEL_TRACES_SAMPLER=always_off")
		return command
	})
}

func (p *process) start() {
	p.Cmd = p.command()
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.Stdout, p.Stderr = log, log
	p.g.Expect(p.Start()).To(Succeed())
	p.g.Expect(log.Close()).To(Succeed())
	p.g.Eventually(func() (int, error) {
		status, _, _, err := p.send(http.MethodGet, p.health, "", nil)
		return status, err
	}).WithTimeout(time.Minute).WithPolling(10 * time.Millisecond).Should(Equal(http.StatusOK))
}

// kill is SIGKILL: nothing of the process runs any more.
func (p *process) kill() {
	if p.Cmd != nil && p.Process != nil {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
	p.client.CloseIdleConnections()
}

// log is the end of what the process logged.
func (p *process) log() string {
	const enough = 64 << 10
	content, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	return string(content[max(0, len(content)-enough):])
}

// logged counts the lines of the log that say something.
func (p *process) logged(text string) int {
	content, err := os.ReadFile(filepath.Join(p.dir, "log"))
	p.g.Expect(err).NotTo(HaveOccurred())
	return strings.Count(string(content), text)
}

func (p *process) url() string { return "http://" + p.address }

// send sends a request to a path or an address.
func (p *process) send(method, target, contentType string, body []byte) (status int, header http.Header, answer []byte, err error) {
	if target[0] == '/' {
		target = p.url() + target
	}
	request, err := http.NewRequestWithContext(p.t.Context(), method, target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	if p.user != "" {
		request.SetBasicAuth(p.user, password)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header, answer, err
}

// must sends a request that has to be answered by a status.
func (p *process) must(wanted int, method, target, contentType string, body []byte) (http.Header, []byte) {
	p.t.Helper()
	status, header, answer, err := p.send(method, target, contentType, body)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(status).To(Equal(wanted), method+" "+target+": "+string(answer))
	return header, answer
}

// ---- mirrors ----

// here is the organization that is filled, there the upstream's.
const (
	here  = "mirrored"
	there = "upstream"
)

// createMirror declares a mirror that syncs when it is asked to.
func (p *process) createMirror(kind, address string, upstream *process, more map[string]any) {
	p.t.Helper()
	p.must(http.StatusCreated, http.MethodPost, "/api/v1/organization/", "application/json", []byte(`{"name":"`+here+`"}`))
	p.must(http.StatusCreated, http.MethodPut, "/api/v1/organization/"+here+"/robots/mirror", "application/json", []byte(`{}`))
	body := map[string]any{
		"external_registry_type": kind, "external_registry_url": address, "external_namespace": there, "robot_username": here + "+mirror", "visibility": "private",
		"sync_interval": 86400, "sync_start_date": time.Now().AddDate(1, 0, 0).UTC().Format(time.RFC3339),
	}
	if upstream.user != "" {
		body["external_registry_username"], body["external_registry_password"] = upstream.user, password
	}
	for name, value := range more {
		body[name] = value
	}
	content, err := json.Marshal(body)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.must(http.StatusCreated, http.MethodPost, mirrorPath, "application/json", content)
}

const mirrorPath = "/api/v1/organization/" + here + "/mirror"

func (p *process) mirror() (m openapi.OrganizationMirror) {
	p.t.Helper()
	_, answer := p.must(http.StatusOK, http.MethodGet, mirrorPath, "", nil)
	p.g.Expect(json.Unmarshal(answer, &m)).To(Succeed())
	return m
}

func (p *process) syncNow() {
	p.t.Helper()
	p.must(http.StatusNoContent, http.MethodPost, mirrorPath+"/sync-now", "", nil)
}

// await waits until the sync of a number has ended, and returns it.
func (p *process) await(number int64) (sync openapi.MirrorSync) {
	p.t.Helper()
	p.g.Eventually(func(g Gomega) {
		m := p.mirror()
		g.Expect(m.LastSync).NotTo(BeNil())
		g.Expect(m.LastSync.Number).To(BeEquivalentTo(number))
		g.Expect(m.LastSync.State).NotTo(BeEquivalentTo("running"))
		sync = *m.LastSync
	}).WithTimeout(10 * time.Minute).WithPolling(50 * time.Millisecond).Should(Succeed())
	return sync
}

// ---- what stands before an upstream ----

// front counts requests to an upstream, and may keep them back.
type front struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	// delay is how long each request waits.
	delay time.Duration
}

func newFront(t *testing.T, upstream *process) *front {
	origin, err := url.Parse(upstream.url())
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(origin)
			r.Out.Host = r.In.Host // tokens are to be had here too
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.URL.RequestURI())
		delay := f.delay
		f.mu.Unlock()
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *front) slow(delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = delay
}

func (f *front) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = nil
}

func (f *front) seen(pattern string) (list []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	expression := regexp.MustCompile(pattern)
	for _, r := range f.requests {
		if expression.MatchString(r) {
			list = append(list, r)
		}
	}
	return list
}
