// Package clients lets the clients that people use work with the registry: each client, each operation, with the real
// binaries against a registry that serves over HTTP.
package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry"
)

const (
	user     = "admin"
	password = "correct-horse-battery-staple"
)

// commandTimeout bounds one call of a client, its retries included.
const commandTimeout = 2 * time.Minute

// host is where the registry of the suite serves.
var host string

// manyTags, more than one page of a list, are the tags of the repository many/tags, in order.
var manyTags []string

func TestClients(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "clients")
}

var _ = BeforeSuite(func() {
	dir := GinkgoT().TempDir()
	passwordFile := filepath.Join(dir, "password")
	Expect(os.WriteFile(passwordFile, []byte(password), 0o600)).To(Succeed())
	r, err := registry.New(registry.Config{
		DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AdminPasswordFile: passwordFile, Logger: slog.New(slog.NewTextHandler(GinkgoWriter, nil)),
	})
	Expect(err).NotTo(HaveOccurred())
	host = r.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	DeferCleanup(func() {
		stop()
		Eventually(done).WithTimeout(30 * time.Second).Should(Receive(BeNil()))
	})
	for i := range 1100 {
		manyTags = append(manyTags, fmt.Sprintf("build-%04d", i))
	}
	newImage().push("many/tags", manyTags...)
})

// call sends a request to the registry as admin and returns the answer with its body read.
func call(method, path, contentType string, body []byte) (*http.Response, []byte) {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(context.Background(), method, "http://"+host+path, bytes.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	request.SetBasicAuth(user, password)
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

// tagDigest is what a tag points to, empty if there is no such tag.
func tagDigest(repository, tag string) string {
	GinkgoHelper()
	response, _ := call("HEAD", "/v2/"+repository+"/manifests/"+tag, "", nil)
	return response.Header.Get("Docker-Content-Digest")
}

// lock locks every tag of an organization and returns the policy's uuid.
func lock(organization string) string {
	GinkgoHelper()
	response, body := call("POST", "/api/v1/organization/"+organization+"/immutabilitypolicy/", "application/json", []byte(`{"tagPattern":".*"}`))
	Expect(response.StatusCode).To(Equal(http.StatusCreated), string(body))
	var policy struct{ UUID string }
	Expect(json.Unmarshal(body, &policy)).To(Succeed())
	return policy.UUID
}

// machine is a client's home: nothing of the developer's own configuration is read or written.
type machine struct{ home string }

func newMachine() *machine {
	GinkgoHelper()
	return &machine{home: GinkgoT().TempDir()}
}

// run calls a program and returns all that it printed.
func (m *machine) run(program string, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Dir = m.home
	cmd.Env = []string{
		"HOME=" + m.home, "PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + m.home, "DOCKER_CONFIG=" + m.home,
		"REGISTRY_AUTH_FILE=" + filepath.Join(m.home, "auth.json"), "REGCTL_CONFIG=" + filepath.Join(m.home, "regctl.json"),
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(arguments, " "), err, out)
	}
	return string(out), err
}

// must calls a program that has to succeed.
func (m *machine) must(program string, arguments ...string) string {
	GinkgoHelper()
	out, err := m.run(program, arguments...)
	Expect(err).NotTo(HaveOccurred())
	return out
}

// built is a client that `make test` builds from a Go module.
func built(name string) string {
	GinkgoHelper()
	dir := os.Getenv("TIDELOCK_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	Expect(err).NotTo(HaveOccurred())
	if _, err := os.Stat(path); err != nil {
		Fail(fmt.Sprintf("the client %s is missing (%v); `make test` builds it first", name, err))
	}
	return path
}

// installed is a client that `make test` installs from a package of the distribution.
func installed(name string) string {
	GinkgoHelper()
	path, err := exec.LookPath(name)
	if err != nil {
		Fail(fmt.Sprintf("the client %s is missing; `make test` installs it first", name))
	}
	return path
}
