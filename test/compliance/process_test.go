package compliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/blob/s3/s3test"
	"github.com/tidelock/tidelock/registry/meta/postgres/postgrestest"
)

const password = "correct horse battery staple"

// engine is what a registry keeps its data in.
type engine struct {
	name string
	// prepare starts the engine's servers, if it has any, and returns the flags that name them.
	prepare func(t *testing.T) []string
}

var engines = []engine{
	{name: "sqlite", prepare: func(*testing.T) []string { return nil }},
	{name: "postgres-s3", prepare: func(t *testing.T) []string {
		g := NewWithT(t)
		dsn, err := postgrestest.Database(t.Name())
		g.Expect(err).NotTo(HaveOccurred())
		objects := s3test.New(t)
		t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
		key := filepath.Join(t.TempDir(), "audit.key")
		g.Expect(audit.EnsureKeyFile(key)).To(Succeed())
		return []string{"--database", dsn, "--blob-store", "s3://" + objects.Bucket() + "?endpoint=http://" + objects.Address, "--audit-key-file", key}
	}},
}

// process is a registry that runs as a process of its own, and belongs to an operator.
type process struct {
	t      *testing.T
	g      *WithT
	dir    string
	flags  []string
	token  string
	client *http.Client
	// url changes with each start, while clients go on.
	url atomic.Pointer[string]

	mu      sync.Mutex
	command *exec.Cmd
	// started are the times at which the process was started.
	started []time.Time
}

func newProcess(t *testing.T, e engine) *process {
	g := NewWithT(t)
	p := &process{
		t: t, g: g, dir: t.TempDir(), token: strings.Repeat("operator", 5),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
	binary := filepath.Join(os.Getenv("TIDELOCK_BIN"), "tidelock")
	g.Expect(binary).To(BeAnExistingFile(), "TIDELOCK_BIN must name the folder of the binary that make build makes; make test sets it")
	g.Expect(os.WriteFile(filepath.Join(p.dir, "password"), []byte(password), 0o600)).To(Succeed())
	g.Expect(os.WriteFile(filepath.Join(p.dir, "token"), []byte(p.token), 0o600)).To(Succeed())
	p.flags = append([]string{
		binary, "registry", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(p.dir, "data"), "--admin-password-file", filepath.Join(p.dir, "password"),
		"--operator-token-file", filepath.Join(p.dir, "token"), "--policies-deletion-delay", "1s", "--gc-interval", "2s", "--gc-grace", "1s",
	}, e.prepare(t)...)
	t.Cleanup(func() {
		p.stop(syscall.SIGKILL)
		if t.Failed() {
			t.Log("the registry's log, without requests:\n" + p.log())
		}
	})
	p.start()
	return p
}

// start starts the registry on a port that it chooses, and waits until it serves.
func (p *process) start() {
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	p.g.Expect(err).NotTo(HaveOccurred())
	defer log.Close()
	begin, err := log.Seek(0, io.SeekEnd)
	p.g.Expect(err).NotTo(HaveOccurred())
	command := exec.CommandContext(context.Background(), p.flags[0], p.flags[1:]...) //nolint:gosec // the binary under test
	command.Stdout, command.Stderr = log, log
	p.mu.Lock()
	p.started = append(p.started, time.Now())
	p.command = command
	p.mu.Unlock()
	p.g.Expect(command.Start()).To(Succeed())
	p.g.Eventually(func() error {
		url, err := p.address(begin)
		if err != nil {
			return err
		}
		p.url.Store(&url)
		return p.ready(p.t.Context())
	}).WithTimeout(time.Minute).WithPolling(10 * time.Millisecond).Should(Succeed())
}

var serving = regexp.MustCompile(`"msg":"serving","url":"([^"]+)"`)

// address is where the registry says that it serves, in its log from an offset on. No test may choose a port before: by
// the time of the start another process may have it.
func (p *process) address(begin int64) (string, error) {
	content, err := os.ReadFile(filepath.Join(p.dir, "log"))
	if err != nil {
		return "", err
	}
	found := serving.FindSubmatch(content[begin:])
	if found == nil {
		return "", errors.New("the registry does not serve yet")
	}
	return string(found[1]), nil
}

func (p *process) ready(ctx context.Context) error {
	status, _, err := p.call(ctx, http.MethodGet, "/readyz", "", nil)
	if err == nil && status != http.StatusOK {
		err = errors.New(http.StatusText(status))
	}
	return err
}

// nowhere is an address at which nobody serves.
const nowhere = "http://127.0.0.1:1"

// stop sends a signal and waits for the end: SIGKILL leaves nothing of the process, SIGTERM lets it finish. From then on
// clients call nobody, for the port may be somebody else's by now.
func (p *process) stop(signal syscall.Signal) {
	url := nowhere
	p.url.Store(&url)
	p.mu.Lock()
	command := p.command
	p.mu.Unlock()
	if command != nil && command.Process != nil {
		_ = command.Process.Signal(signal)
		_ = command.Wait()
	}
	p.client.CloseIdleConnections()
}

// log is the end of what the registry logged, without requests.
func (p *process) log() string {
	const enough = 30
	content, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	lines := slices.DeleteFunc(strings.Split(string(content), "\n"), func(line string) bool { return strings.Contains(line, `"msg":"request"`) })
	return strings.Join(lines[max(0, len(lines)-enough):], "\n")
}

// restart ends the registry by a signal and starts it again.
func (p *process) restart(signal syscall.Signal) {
	p.stop(signal)
	p.start()
}

// lifeOf is when the process that answered at a time was started.
func (p *process) lifeOf(at time.Time) (started time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.started {
		if !s.After(at) {
			started = s
		}
	}
	return started
}

// call returns an error if the answer was lost: whatever was asked for may have happened, or may not. The operator's
// endpoints are called as the operator, all others as the administrator.
func (p *process) call(ctx context.Context, method, path, contentType string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, *p.url.Load()+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if strings.HasPrefix(path, "/api/v1/operator/") {
		request.Header.Set("Authorization", "Bearer "+p.token)
	} else {
		request.SetBasicAuth("admin", password)
	}
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

// get reads JSON that must be there.
func (p *process) get(path string, into any) {
	p.t.Helper()
	status, answer, err := p.call(p.t.Context(), http.MethodGet, path, "", nil)
	p.g.Expect(err).NotTo(HaveOccurred())
	p.g.Expect(status).To(Equal(http.StatusOK), string(answer))
	p.g.Expect(json.Unmarshal(answer, into)).To(Succeed())
}
