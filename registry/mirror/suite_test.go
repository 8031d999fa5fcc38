package mirror_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/blob/fs"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
	"github.com/tidelock/tidelock/registry/mirror"
	"github.com/tidelock/tidelock/registry/seal"
)

const (
	user     = "admin"
	password = "correct-horse-battery-staple"
	// here is the organization that mirrors fill, there the upstream's.
	here  = "mirrored"
	there = "upstream"
)

var (
	ctx   = context.Background()
	alice = domain.Caller{Name: "alice", Kind: domain.CallerUser}
)

// only allows one address, so that 127.0.0.2 is one that may not be reached.
var only = mirror.Networks{netip.MustParsePrefix("127.0.0.1/32")}

// ---- upstreams ----

// front is a server in front of an upstream: it counts requests, and can answer them itself.
type front struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	// instead answers a request itself if it returns true.
	instead func(w http.ResponseWriter, r *http.Request) bool
}

func newFront(target string) *front {
	GinkgoHelper()
	f := &front{}
	proxy := http.NotFoundHandler()
	if target != "" {
		origin, err := url.Parse(target)
		Expect(err).NotTo(HaveOccurred())
		proxy = &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(origin)
				r.Out.Host = r.In.Host // tokens are to be had here too
			},
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		}
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r)
		instead := f.instead
		f.mu.Unlock()
		if instead != nil && instead(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	DeferCleanup(f.Close)
	return f
}

// answer sets what answers instead of the upstream.
func (f *front) answer(instead func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instead = instead
}

// forget forgets the requests so far.
func (f *front) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = nil
}

// seen lists the requests that match, as "METHOD target".
func (f *front) seen(pattern string) (list []string) {
	for _, r := range f.matching(pattern) {
		list = append(list, r.Method+" "+r.URL.RequestURI())
	}
	return list
}

// headers lists a header of the requests that match.
func (f *front) headers(pattern, name string) (list []string) {
	for _, r := range f.matching(pattern) {
		list = append(list, r.Header.Get(name))
	}
	return list
}

func (f *front) matching(pattern string) (list []*http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	expression := regexp.MustCompile(pattern)
	for _, r := range f.requests {
		if expression.MatchString(r.Method + " " + r.URL.RequestURI()) {
			list = append(list, r)
		}
	}
	return list
}

// upstream is a registry with a front.
type upstream struct {
	*front
	// origin is the registry itself.
	origin   string
	password string
}

// newTidelock starts a registry of our own as an upstream.
func newTidelock() *upstream {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	file := filepath.Join(dir, "password")
	Expect(os.WriteFile(file, []byte(password), 0o600)).To(Succeed())
	r, err := registry.New(registry.Config{DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AdminPasswordFile: file, Logger: slog.New(slog.DiscardHandler)})
	Expect(err).NotTo(HaveOccurred())
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()
	DeferCleanup(func() {
		stop()
		Eventually(done).WithTimeout(30 * time.Second).Should(Receive(BeNil()))
	})
	return &upstream{front: newFront(r.URL()), origin: r.URL(), password: password}
}

// call sends a request past the front.
func (u *upstream) call(method, path, contentType string, body []byte) (*http.Response, []byte) {
	GinkgoHelper()
	target := path
	if strings.HasPrefix(path, "/") {
		target = u.origin + path
	}
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	if u.password != "" {
		request.SetBasicAuth(user, u.password)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response, content
}

// image is a manifest with what it refers to.
type image struct {
	manifest  []byte
	mediaType string
	blobs     [][]byte
	children  []image
}

func (i image) digest() digest.Digest { return digest.FromBytes(i.manifest) }

func (i image) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: i.mediaType, Digest: i.digest(), Size: int64(len(i.manifest))}
}

func describe(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func encode(value any) []byte {
	GinkgoHelper()
	content, err := json.Marshal(value)
	Expect(err).NotTo(HaveOccurred())
	return content
}

// noise is random bytes.
func noise(size int) []byte {
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	return content
}

// newImage makes an image of its layers, with a config of its own.
func newImage(layers ...[]byte) image {
	GinkgoHelper()
	if len(layers) == 0 {
		layers = [][]byte{noise(2000)}
	}
	config := encode(map[string]any{"architecture": "amd64", "os": "linux", "author": fmt.Sprint(rand.Uint64())})
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, config)}
	for _, layer := range layers {
		m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayer, layer))
	}
	return image{manifest: encode(m), mediaType: m.MediaType, blobs: append([][]byte{config}, layers...)}
}

// newReferrer makes an artifact that refers to a manifest.
func newReferrer(subject image) image {
	GinkgoHelper()
	config, layer := []byte("{}"), noise(100)
	of := subject.descriptor()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example.sbom", Subject: &of,
		Config: describe(ocispec.MediaTypeEmptyJSON, config), Layers: []ocispec.Descriptor{describe("text/plain", layer)},
	}
	return image{manifest: encode(m), mediaType: m.MediaType, blobs: [][]byte{config, layer}}
}

// newSignature makes what cosign stores under a signature tag.
func newSignature() image {
	GinkgoHelper()
	config, layer := []byte("{}"), noise(100)
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{describe("application/vnd.dev.cosign.simplesigning.v1+json", layer)},
	}
	return image{manifest: encode(m), mediaType: m.MediaType, blobs: [][]byte{config, layer}}
}

func signatureTag(of image) string {
	return strings.Replace(of.digest().String(), ":", "-", 1) + ".sig"
}

// newIndex makes an index of images for linux/amd64, linux/arm64 and so on.
func newIndex(children ...image) image {
	GinkgoHelper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for n, child := range children {
		d := child.descriptor()
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64", "s390x", "ppc64le"}[n]}
		index.Manifests = append(index.Manifests, d)
	}
	return image{manifest: encode(index), mediaType: index.MediaType, children: children}
}

// push stores an image in a repository of the upstream under its tags, or without any under its digest.
func (u *upstream) push(repository string, i image, tags ...string) {
	GinkgoHelper()
	name := there + "/" + repository
	for _, child := range i.children {
		u.push(repository, child)
	}
	for _, content := range i.blobs {
		begun, _ := u.call(http.MethodPost, "/v2/"+name+"/blobs/uploads/", "", nil)
		Expect(begun.StatusCode).To(Equal(http.StatusAccepted))
		location, err := begun.Request.URL.Parse(begun.Header.Get("Location"))
		Expect(err).NotTo(HaveOccurred())
		query := location.Query()
		query.Set("digest", digest.FromBytes(content).String())
		location.RawQuery = query.Encode()
		response, body := u.call(http.MethodPut, location.String(), "application/octet-stream", content)
		Expect(response.StatusCode).To(Equal(http.StatusCreated), string(body))
	}
	if len(tags) == 0 {
		tags = []string{i.digest().String()}
	}
	for _, tag := range tags {
		response, body := u.call(http.MethodPut, "/v2/"+name+"/manifests/"+tag, i.mediaType, i.manifest)
		Expect(response.StatusCode).To(Equal(http.StatusCreated), string(body))
	}
}

func (u *upstream) remove(repository, reference string) {
	GinkgoHelper()
	response, body := u.call(http.MethodDelete, "/v2/"+there+"/"+repository+"/manifests/"+reference, "", nil)
	Expect(response.StatusCode).To(Equal(http.StatusAccepted), string(body))
}

// ---- the registry that mirrors ----

// log is what an engine logged.
type log struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = GinkgoWriter.Write(p)
	return l.Buffer.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// downstream is a registry's core with an engine.
type downstream struct {
	*core.Core
	blobs  blob.Store
	log    *log
	engine *mirror.Engine
	// stop stops the engine and waits for it.
	stop func()
}

func newDownstream(networks mirror.Networks) *downstream {
	GinkgoHelper()
	d := &downstream{log: &log{}}
	logger := slog.New(slog.NewTextHandler(d.log, nil))
	directory, err := fs.Lock(GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(directory.Release)
	store, err := sqlite.Open(ctx, filepath.Join(directory.Path(), "tidelock.db"), logger)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(store.Close)
	files, err := fs.Open(directory)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(files.Close)
	d.blobs = files
	keys := filepath.Join(directory.Path(), "secret.key")
	Expect(seal.EnsureKeyFile(keys)).To(Succeed())
	d.Core = core.New(store, core.Options{Logger: logger, Sealer: seal.KeyFile(keys)})
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- d.Core.Run(running) }()
	DeferCleanup(func() {
		stop()
		Eventually(done).WithTimeout(time.Minute).Should(Receive(BeNil()))
	})
	d.start(networks)
	_, err = d.CreateOrganization(ctx, alice, here)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		d.stop()
		// Whatever happened, nothing of what nobody may know is in the log.
		for _, secret := range []string{password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password))} {
			Expect(d.log.String()).NotTo(ContainSubstring(secret))
		}
	})
	return d
}

// start starts an engine.
func (d *downstream) start(networks mirror.Networks) {
	d.engine = mirror.New(mirror.Options{Core: d.Core, Blobs: d.blobs, Logger: slog.New(slog.NewTextHandler(d.log, nil)), Networks: networks, RetryPause: 50 * time.Millisecond})
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- d.engine.Run(running)
		close(done)
	}()
	d.stop = func() {
		GinkgoHelper()
		stop()
		Eventually(done).WithTimeout(time.Minute).Should(Or(Receive(BeNil()), BeClosed()))
	}
}

// specOf declares a mirror of an upstream that syncs when it is asked to.
func specOf(kind domain.UpstreamType, address string) domain.MirrorSpec {
	return domain.MirrorSpec{
		Source:   domain.MirrorSource{Type: kind, URL: address, Namespace: there},
		Schedule: domain.MirrorSchedule{Interval: time.Hour, StartAt: time.Now().AddDate(1, 0, 0)},
	}
}

var secrets = domain.MirrorSecrets{Username: user, Password: password}

// mirror makes the mirror and syncs it for the first time.
func (d *downstream) mirror(spec domain.MirrorSpec, with domain.MirrorSecrets) domain.MirrorSync {
	GinkgoHelper()
	_, err := d.CreateMirror(ctx, alice, here, spec, with)
	Expect(err).NotTo(HaveOccurred())
	return d.sync()
}

// sync asks for a sync and waits for its end.
func (d *downstream) sync() domain.MirrorSync {
	GinkgoHelper()
	number := d.request()
	return d.await(number)
}

// request asks for a sync and returns its number.
func (d *downstream) request() int64 {
	GinkgoHelper()
	before, err := d.Mirror(ctx, here)
	Expect(err).NotTo(HaveOccurred())
	Expect(d.RequestMirrorSync(ctx, alice, here)).To(Succeed())
	if before.Last == nil {
		return 1
	}
	return before.Last.Number + 1
}

func (d *downstream) await(number int64) (sync domain.MirrorSync) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		m, err := d.Mirror(ctx, here)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(m.Last).NotTo(BeNil())
		g.Expect(m.Last.Number).To(Equal(number))
		g.Expect(m.Last.State).NotTo(Equal(domain.SyncRunning))
		sync = *m.Last
	}).WithTimeout(time.Minute).WithPolling(20 * time.Millisecond).Should(Succeed())
	return sync
}

func name(repository string) domain.RepositoryName {
	return domain.RepositoryName{Organization: here, Path: repository}
}

// content reads a manifest, nil if it is not there.
func (d *downstream) content(repository, reference string) []byte {
	GinkgoHelper()
	ref, err := domain.ParseReference(reference)
	Expect(err).NotTo(HaveOccurred())
	m, err := d.Manifest(ctx, name(repository), ref, true)
	if code := domain.CodeOf(err); code == domain.CodeManifestUnknown || code == domain.CodeNameUnknown {
		return nil
	}
	Expect(err).NotTo(HaveOccurred())
	return m.Content
}

// storeBytes makes bytes durable.
func storeBytes(blobs blob.Store, content []byte) (domain.Blob, error) {
	u, err := blobs.Append(ctx, blobs.Begin(blob.NewUploadID(), digest.SHA256), bytes.NewReader(content), nil)
	if err != nil {
		return domain.Blob{}, err
	}
	return blobs.Commit(ctx, u, digest.FromBytes(content))
}

// has checks that an image is there, byte for byte, with all that belongs to it.
func (d *downstream) has(repository, reference string, i image) {
	GinkgoHelper()
	Expect(d.content(repository, reference)).To(Equal(i.manifest))
	for _, content := range i.blobs {
		b, err := d.Blob(ctx, name(repository), digest.FromBytes(content))
		Expect(err).NotTo(HaveOccurred())
		reader, err := d.blobs.Open(ctx, b.Key)
		Expect(err).NotTo(HaveOccurred())
		Expect(io.ReadAll(reader)).To(Equal(content))
		Expect(reader.Close()).To(Succeed())
	}
	for _, child := range i.children {
		d.has(repository, child.digest().String(), child)
	}
}
