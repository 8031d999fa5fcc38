// Package crash kills the registry with SIGKILL in the middle of pushes and sweeps and looks at what is left.
package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/meta/postgres"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
	"github.com/tidelock/tidelock/registry/meta/sqlite"
)

const (
	password   = "correct horse battery staple"
	repository = "team-a/app"
	pushers    = 8
	// filled is how many tags are there from the start: enough for a sweep to be found in the middle.
	filled = 2000
)

// rounds is how often the registry is killed: few as a rule, many in `make soak`.
func rounds() int {
	if os.Getenv("TIDELOCK_SOAK") != "" {
		return 100
	}
	return 5
}

// process is a registry that runs as a process of its own.
type process struct {
	g      *WithT
	binary string
	dir    string
	// dsn is the PostgreSQL database, empty for the embedded one.
	dsn string
	url string
	*exec.Cmd
}

func newProcess(t *testing.T, dsn string) *process {
	g := NewWithT(t)
	dir := t.TempDir()
	p := &process{g: g, binary: filepath.Join(os.Getenv("TIDELOCK_BIN"), "tidelock"), dir: dir, dsn: dsn}
	g.Expect(p.binary).To(BeAnExistingFile(), "TIDELOCK_BIN must name the folder of the binary that make build makes; make test sets it")
	g.Expect(os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600)).To(Succeed())
	t.Cleanup(p.kill)
	return p
}

func (p *process) start() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	p.g.Expect(err).NotTo(HaveOccurred())
	address := listener.Addr().String()
	p.g.Expect(listener.Close()).To(Succeed())
	p.url = "http://" + address
	p.Cmd = exec.Command(p.binary, "registry", "--data-dir", filepath.Join(p.dir, "data"), "--listen", address, "--admin-password-file", filepath.Join(p.dir, "password"))
	if p.dsn != "" {
		p.Args = append(p.Args, "--database", p.dsn)
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.Stdout, p.Stderr = log, log
	p.g.Expect(p.Start()).To(Succeed())
	p.g.Expect(log.Close()).To(Succeed())
	p.g.Eventually(func() (int, error) {
		status, _, err := p.call(http.MethodGet, "/readyz", "", nil)
		return status, err
	}).WithTimeout(20*time.Second).WithPolling(10*time.Millisecond).Should(Equal(http.StatusOK), p.log)
}

func (p *process) log() string {
	content, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	return string(content)
}

// kill is SIGKILL: nothing of the process runs any more.
func (p *process) kill() {
	if p.Cmd != nil && p.Process != nil {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
}

func (p *process) call(method, path, contentType string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequest(method, p.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.SetBasicAuth("admin", password)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// image is what a push stores: a config, a layer and the manifest.
type image struct {
	tag      string
	layer    []byte
	manifest []byte
}

func newImage(tag string) image {
	layer := []byte("layer of " + tag)
	config := []byte("{}")
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}`,
		digest.FromBytes(config), len(config), digest.FromBytes(layer), len(layer))
	return image{tag: tag, layer: layer, manifest: []byte(manifest)}
}

// push reports whether the push was acknowledged.
func (p *process) push(i image) bool {
	for _, blob := range [][]byte{[]byte("{}"), i.layer} {
		status, _, err := p.call(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digest.FromBytes(blob).String(), "application/octet-stream", blob)
		if err != nil || status != http.StatusCreated {
			return false
		}
	}
	status, _, err := p.call(http.MethodPut, "/v2/"+repository+"/manifests/"+i.tag, "application/vnd.oci.image.manifest.v1+json", i.manifest)
	return err == nil && status == http.StatusCreated
}

// fill pushes one image under many tags.
func (p *process) fill(i image) (tags []image) {
	for n := range filled {
		tags = append(tags, image{tag: fmt.Sprintf("v0.filled.%d", n), layer: i.layer, manifest: i.manifest})
	}
	var wg sync.WaitGroup
	for worker := range pushers {
		wg.Go(func() {
			for n := worker; n < len(tags); n += pushers {
				status, _, err := p.call(http.MethodPut, "/v2/"+repository+"/manifests/"+tags[n].tag, "application/vnd.oci.image.manifest.v1+json", tags[n].manifest)
				if err != nil || status != http.StatusCreated {
					panic(fmt.Sprintf("filling: %d %v", status, err))
				}
			}
		})
	}
	wg.Wait()
	return tags
}

// sweeping waits until the sweep of a policy has placed its first hold.
func (p *process) sweeping(uuid string) {
	path := "/api/v1/organization/team-a/logs?kind=change_tag_immutability&policy=" + uuid
	p.g.Eventually(func() (string, error) {
		_, answer, err := p.call(http.MethodGet, path, "", nil)
		return string(answer), err
	}).WithTimeout(20 * time.Second).WithPolling(time.Millisecond).Should(ContainSubstring(uuid))
}

// store opens the database of a registry that does not run.
func (p *process) store() (store meta.Store) {
	var err error
	if p.dsn != "" {
		store, err = postgres.Open(context.Background(), p.dsn, slog.New(slog.DiscardHandler))
	} else {
		store, err = sqlite.Open(context.Background(), filepath.Join(p.dir, "data", "tidelock.db"), slog.New(slog.DiscardHandler))
	}
	p.g.Expect(err).NotTo(HaveOccurred())
	return store
}

// interrupted reports whether a sweep was left in the middle.
func (p *process) interrupted() (is bool) {
	store := p.store()
	p.g.Expect(store.Read(context.Background(), func(r *meta.Reader) error {
		open, err := r.OpenSweeps(10)
		for _, sweep := range open {
			is = is || sweep.Examined > 0
		}
		return err
	})).To(Succeed())
	p.g.Expect(store.Close()).To(Succeed())
	return is
}

func TestNothingAcknowledgedIsLost(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { nothingAcknowledgedIsLost(t, "") })
	t.Run("postgres", func(t *testing.T) {
		dsn, err := postgrestest.Database(t.Name())
		if err != nil {
			t.Fatal(err)
		}
		nothingAcknowledgedIsLost(t, dsn)
	})
}

func nothingAcknowledgedIsLost(t *testing.T, dsn string) {
	p := newProcess(t, dsn)
	g := p.g
	p.start()
	g.Expect(p.push(newImage("first"))).To(BeTrue(), p.log)
	acknowledged := p.fill(newImage("first"))
	attempted := map[string]image{}
	for _, i := range acknowledged {
		attempted[i.tag] = i
	}
	interruptions := 0

	for round := range rounds() {
		// Each round ends in the middle of pushes and of the sweep of a policy that is new in it.
		var mu sync.Mutex
		var wg sync.WaitGroup
		acks := make(chan struct{}, 1_000_000)
		for worker := range pushers {
			wg.Go(func() {
				for n := 0; ; n++ {
					i := newImage(fmt.Sprintf("v%d.%d.%d", round, worker, n))
					mu.Lock()
					attempted[i.tag] = i
					mu.Unlock()
					if !p.push(i) {
						return
					}
					mu.Lock()
					acknowledged = append(acknowledged, i)
					mu.Unlock()
					acks <- struct{}{}
				}
			})
		}
		await := func(n int) {
			for range n {
				select {
				case <-acks:
				case <-time.After(20 * time.Second):
					t.Fatal("no push was acknowledged in time\n" + p.log())
				}
			}
		}
		await(20 + rand.IntN(60))
		status, answer, err := p.call(http.MethodPost, "/api/v1/organization/team-a/immutabilitypolicy/", "application/json", []byte(fmt.Sprintf(`{"tagPattern":"v[0-%d].*"}`, round)))
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(status).To(Equal(http.StatusCreated), string(answer))
		var policy struct{ UUID string }
		g.Expect(json.Unmarshal(answer, &policy)).To(Succeed())
		p.sweeping(policy.UUID)
		p.kill()
		wg.Wait()
		if p.interrupted() {
			interruptions++
		}

		p.start()
		for _, i := range acknowledged {
			status, body, err := p.call(http.MethodGet, "/v2/"+repository+"/manifests/"+i.tag, "", nil)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(status).To(Equal(http.StatusOK), i.tag)
			g.Expect(body).To(Equal(i.manifest), i.tag)
			status, body, err = p.call(http.MethodGet, "/v2/"+repository+"/blobs/"+digest.FromBytes(i.layer).String(), "", nil)
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(status).To(Equal(http.StatusOK), i.tag)
			g.Expect(body).To(Equal(i.layer), i.tag)
		}
	}
	p.kill()
	g.Expect(interruptions).To(BeNumerically(">", 0), "no sweep was killed in the middle")
	t.Logf("%d of %d kills hit a sweep in the middle; %d pushes were acknowledged", interruptions, rounds(), len(acknowledged))
	p.checkLog(acknowledged, attempted)
}

// checkLog lets the sweeps finish and holds the tags against the audit log.
func (p *process) checkLog(acknowledged []image, attempted map[string]image) {
	g := p.g
	store := p.store()
	defer store.Close()
	c := core.New(store, core.Options{Logger: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() { stop(); <-done }()

	scope := core.Scope{Organization: "team-a"}
	policies, err := c.Policies(ctx, scope)
	g.Expect(err).NotTo(HaveOccurred())
	holds := int64(0)
	for _, p := range policies {
		var status core.PolicyStatus
		g.Eventually(func() (bool, error) {
			status, err = c.PolicyStatus(ctx, scope, p.UUID)
			return status.Swept, err
		}).WithTimeout(time.Minute).Should(BeTrue())
		g.Expect(status.Pending).To(BeZero())
		holds += status.Holds
	}

	entries, err := c.Log(ctx, audit.Query{After: -1, Ascending: true, Limit: 10_000_000})
	g.Expect(err).NotTo(HaveOccurred())
	created, held := map[string]int{}, map[string]int{}
	for i, e := range entries {
		g.Expect(e.Index).To(Equal(int64(i)), "the log has no gap")
		switch e.Kind {
		case audit.KindCreateTag:
			created[e.Tag]++
		case audit.KindTagCreatedImmutable, audit.KindChangeImmutability:
			held[e.Tag+" by "+e.Policy]++
		}
	}
	g.Expect(held).To(HaveEach(1), "one entry for each hold")
	g.Expect(int64(len(held))).To(Equal(holds), "an entry for each hold")

	name := domain.RepositoryName{Organization: "team-a", Path: "app"}
	tags, err := c.Tags(ctx, name, "", 10_000_000)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(len(tags)).To(Equal(len(created)), "an entry for each tag")
	for _, tag := range tags {
		g.Expect(created[tag]).To(Equal(1), tag)
	}
	g.Expect(len(tags)).To(BeNumerically(">=", len(acknowledged)))
	g.Expect(len(tags)).To(BeNumerically("<=", len(attempted)+1))
}
