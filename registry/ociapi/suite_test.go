package ociapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/auth"
	blobfs "github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/metatest"
)

func TestOCIAPI(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/ociapi")
}

func TestOCIAPIOnPostgreSQL(t *testing.T) { metatest.AgainOnPostgreSQL(t, "TestOCIAPI") }

const repo = "/v2/team-a/app"

// What the repository team-a/app holds in most specs.
var (
	layer  = "0123456789abcdef"
	config = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
	image  = imageManifest("application/vnd.oci.image.config.v1+json", config, layer)
	index  = fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}`,
		describe("application/vnd.oci.image.manifest.v1+json", image))
)

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	indexType = "application/vnd.oci.image.index.v1+json"
	layerType = "application/vnd.oci.image.layer.v1.tar"
)

// sha is the digest of a text as clients write it.
func sha(content string) string { return digest.FromString(content).String() }

func describe(mediaType, content string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, sha(content), len(content))
}

func imageManifest(configType, config string, layers ...string) string {
	return imageWith("", configType, config, layers...)
}

// imageWith makes an image manifest with more fields, each ending in a comma.
func imageWith(more, configType, config string, layers ...string) string {
	list := make([]string, len(layers))
	for i, l := range layers {
		list[i] = describe(layerType, l)
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",%s"config":%s,"layers":[%s]}`,
		more, describe(configType, config), strings.Join(list, ","))
}

// users stands in for the credentials of registry/auth: a request is from whom its Basic name says.
type users struct{ *auth.Authenticator }

func (users) Authenticate(r *http.Request) (auth.Identity, error) {
	name, _, ok := r.BasicAuth()
	switch {
	case !ok:
		return auth.Identity{Caller: domain.Caller{Kind: domain.CallerAnonymous}, Role: auth.RoleAnonymous}, nil
	case name == "wrong":
		return auth.Identity{}, domain.Errorf(domain.CodeUnauthorized, "the credentials are wrong")
	case name == "operator":
		return auth.Identity{Caller: domain.Caller{Name: name, Kind: domain.CallerOperator}, Role: auth.RoleOperator}, nil
	}
	kind, _ := domain.AccountKind(name)
	return auth.Identity{Caller: domain.Caller{Name: name, Kind: kind}, Role: auth.RoleSuperuser}, nil
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// harness is an API on the real core, with SQLite and files.
type harness struct {
	*API
	options Options
	core    *core.Core
	clock   *clock
	dir     string
	log     *bytes.Buffer
}

// newHarness starts a registry. Changes may wrap what the API works with.
func newHarness(changes ...func(*Options)) *harness {
	GinkgoHelper()
	return newHarnessOn(core.Options{}, changes...)
}

// newHarnessOn starts a registry on a core with other options.
func newHarnessOn(coreOptions core.Options, changes ...func(*Options)) *harness {
	GinkgoHelper()
	h := &harness{dir: GinkgoT().TempDir(), clock: &clock{now: time.Date(2026, 3, 6, 10, 0, 0, 0, time.UTC)}, log: &bytes.Buffer{}}
	quiet := slog.New(slog.DiscardHandler)
	directory, err := blobfs.Lock(h.dir)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(directory.Release)
	blobs, err := blobfs.Open(directory)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(blobs.Close)
	store, err := metatest.Open(h.dir, quiet)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(store.Close)
	coreOptions.Logger, coreOptions.Now = quiet, h.clock.Now
	h.core = core.New(store, coreOptions)
	background, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.core.Run(background) }()
	DeferCleanup(func() {
		stop()
		Eventually(done).WithTimeout(10 * time.Second).Should(Receive(BeNil()))
	})
	authenticator, err := auth.New(auth.Options{Accounts: h.core, Logger: quiet, Now: h.clock.Now})
	Expect(err).NotTo(HaveOccurred())
	h.options = Options{Core: h.core, Blobs: blobs, Auth: users{authenticator}, Logger: slog.New(slog.NewTextHandler(h.log, nil))}
	h.with(changes...)
	return h
}

// with makes the API anew, with other options.
func (h *harness) with(changes ...func(*Options)) {
	for _, change := range changes {
		change(&h.options)
	}
	h.API = New(h.options)
}

// withContent is a harness with team-a/app: image under v1, index under multi.
func withContent() *harness {
	GinkgoHelper()
	h := newHarness()
	h.pushBlobs(repo, layer, config)
	h.pushManifest(repo, "v1", image)
	h.pushManifest(repo, "multi", index)
	return h
}

// exchange is a request with the answer that it must have. Header values of the answer may be empty: then the header
// must be missing.
type exchange struct {
	// as is who asks: "admin" if empty, nobody for "-".
	as     string
	method string
	path   string
	header map[string]string
	body   string

	status int
	want   map[string]string
	answer string
}

func (h *harness) do(e exchange) *httptest.ResponseRecorder {
	r := httptest.NewRequest(e.method, e.path, strings.NewReader(e.body))
	if e.as == "" {
		e.as = "admin"
	}
	if e.as != "-" {
		r.SetBasicAuth(e.as, "")
	}
	for name, value := range e.header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func (h *harness) check(e exchange) *httptest.ResponseRecorder {
	GinkgoHelper()
	w := h.do(e)
	Expect(w.Body.String()).To(Equal(e.answer))
	Expect(w.Code).To(Equal(e.status))
	for name, value := range e.want {
		Expect(w.Header().Get(name)).To(Equal(value), name)
	}
	return w
}

// refusal is the body of an error without details.
func refusal(code, message string) string {
	return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

func (h *harness) pushBlobs(repository string, contents ...string) {
	GinkgoHelper()
	for _, content := range contents {
		h.check(exchange{method: "POST", path: repository + "/blobs/uploads/?digest=" + sha(content), body: content, status: 201,
			want: map[string]string{"Docker-Content-Digest": sha(content), "Location": repository + "/blobs/" + sha(content)}})
	}
}

func (h *harness) pushManifest(repository, reference, content string) {
	GinkgoHelper()
	h.check(exchange{method: "PUT", path: repository + "/manifests/" + reference, body: content, status: 201})
}

// begin opens an upload and returns its path.
func (h *harness) begin(repository string) string {
	GinkgoHelper()
	w := h.check(exchange{method: "POST", path: repository + "/blobs/uploads/", status: 202, want: map[string]string{
		"Range": "0-0", "Oci-Chunk-Min-Length": "5242880", "Content-Length": "0",
	}})
	location := w.Header().Get("Location")
	Expect(location).To(Equal(repository + "/blobs/uploads/" + w.Header().Get("Docker-Upload-Uuid")))
	return location
}

// lock locks the tags of team-a that match, by a policy, and returns its uuid.
func (h *harness) lock(pattern string) string {
	GinkgoHelper()
	policy, err := h.core.CreatePolicy(context.Background(), domain.Caller{Name: "admin", Kind: domain.CallerUser}, core.Scope{Organization: "team-a"}, domain.PolicySpec{
		TagPattern: pattern, TagPatternMatches: true, EnforcementMode: domain.Enforce, ReclaimPolicy: domain.Retain,
	})
	Expect(err).NotTo(HaveOccurred())
	return policy.UUID
}

// kinds counts the entries of the audit log of team-a by their kind.
func (h *harness) kinds() map[audit.Kind]int {
	GinkgoHelper()
	counts, err := h.core.LogCounts(context.Background(), audit.Query{Organization: "team-a", After: -1})
	Expect(err).NotTo(HaveOccurred())
	kinds := map[audit.Kind]int{}
	for _, c := range counts {
		kinds[c.Kind] += int(c.Count)
	}
	return kinds
}

// files counts the files of blobs and of uploads.
func (h *harness) files() (blobs, uploads int) {
	GinkgoHelper()
	count := func(dir string) (n int) {
		Expect(filepath.WalkDir(filepath.Join(h.dir, dir), func(_ string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				n++
			}
			return err
		})).To(Succeed())
		return n
	}
	return count("blobs"), count("uploads")
}

// cutOff is a body that ends with an error.
type cutOff struct{ io.Reader }

func (c cutOff) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
