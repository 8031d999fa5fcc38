package crash

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
)

const password = "correct horse battery staple"

// process is a registry that runs as a process of its own.
type process struct {
	deployment
	*exec.Cmd
	t      *testing.T
	g      *WithT
	binary string
	dir    string
	client *http.Client
	// url changes with each start, while clients go on.
	url atomic.Pointer[string]
}

// newProcess starts a registry on an engine, with further flags.
func newProcess(t *testing.T, e engine, flags ...string) *process {
	g := NewWithT(t)
	dir := t.TempDir()
	p := &process{
		deployment: e.prepare(t, filepath.Join(dir, "data")), t: t, g: g, dir: dir, binary: filepath.Join(os.Getenv("TIDELOCK_BIN"), "tidelock"),
		// Each client keeps its connection: as many as there are clients.
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
	p.flags = append(p.flags, flags...)
	g.Expect(p.binary).To(BeAnExistingFile(), "TIDELOCK_BIN must name the folder of the binary that make build makes; make test sets it")
	g.Expect(os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600)).To(Succeed())
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log("the registry's log:\n" + p.log())
		}
	})
	p.start()
	return p
}

func (p *process) start() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	p.g.Expect(err).NotTo(HaveOccurred())
	address := listener.Addr().String()
	p.g.Expect(listener.Close()).To(Succeed())
	url := "http://" + address
	p.url.Store(&url)
	flags := append([]string{"registry", "--data-dir", filepath.Join(p.dir, "data"), "--listen", address, "--admin-password-file", filepath.Join(p.dir, "password")}, p.flags...)
	p.Cmd = exec.Command(p.binary, flags...)
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.Stdout, p.Stderr = log, log
	p.g.Expect(p.Start()).To(Succeed())
	p.g.Expect(log.Close()).To(Succeed())
	p.awaitReady()
}

func (p *process) awaitReady() {
	p.g.Eventually(func() (int, error) {
		status, _, err := p.call(http.MethodGet, "/readyz", "", nil)
		return status, err
	}).WithTimeout(time.Minute).WithPolling(10 * time.Millisecond).Should(Equal(http.StatusOK))
}

// log is the end of what the registry logged.
func (p *process) log() string {
	const enough = 64 << 10
	content, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	return string(content[max(0, len(content)-enough):])
}

// kill is SIGKILL: nothing of the process runs any more.
func (p *process) kill() {
	if p.Cmd != nil && p.Process != nil {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
	p.client.CloseIdleConnections()
}

// call returns an error if the answer was lost: whatever was asked for may have happened, or may not.
func (p *process) call(method, path, contentType string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(p.t.Context(), method, *p.url.Load()+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.SetBasicAuth("admin", password)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// post sends JSON that must be accepted, and decodes the answer.
func (p *process) post(path, body string, into any) {
	p.t.Helper()
	status, answer, err := p.call(http.MethodPost, path, "application/json", []byte(body))
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(status).To(Equal(http.StatusCreated), string(answer))
	p.g.Expect(json.Unmarshal(answer, into)).To(Succeed())
}

// get reads JSON that must be there.
func (p *process) get(path string, into any) {
	p.t.Helper()
	status, answer, err := p.call(http.MethodGet, path, "", nil)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(status).To(Equal(http.StatusOK), string(answer))
	p.g.Expect(json.Unmarshal(answer, into)).To(Succeed())
}
