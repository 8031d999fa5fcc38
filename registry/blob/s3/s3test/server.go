// Package s3test runs a real S3 server for tests: versitygw on a temporary directory.
package s3test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/onsi/gomega"
)

// What the server takes from whom who may do everything.
const (
	AccessKey = "tidelock-test"
	SecretKey = "tidelock-test-secret"
)

// T is the test that runs, a *testing.T or ginkgo.GinkgoT().
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	TempDir() string
	Cleanup(fn func())
}

// Server is an S3 server with its own address and directory, which it keeps over Kill and Start.
type Server struct {
	// Address is "127.0.0.1:port".
	Address string
	t       T
	g       *gomega.WithT
	dir     string
	process *exec.Cmd
	ended   chan error
}

var buckets atomic.Int64

// New starts a server for a test, or in a BeforeSuite for all.
func New(t T) *Server {
	t.Helper()
	s := &Server{t: t, g: gomega.NewWithT(t), dir: t.TempDir()}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	s.g.Expect(err).NotTo(gomega.HaveOccurred())
	s.Address = listener.Addr().String()
	s.g.Expect(listener.Close()).To(gomega.Succeed())
	for _, name := range []string{"data", "meta"} {
		s.g.Expect(os.Mkdir(filepath.Join(s.dir, name), 0o700)).To(gomega.Succeed())
	}
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// binary is where hack/tools/build.sh puts the server.
func binary() string {
	bin := os.Getenv("TIDELOCK_BIN")
	if bin == "" {
		_, file, _, _ := runtime.Caller(0)
		bin = filepath.Join(filepath.Dir(file), "..", "..", "..", "..", "bin")
	}
	return filepath.Join(bin, "versitygw")
}

// Start starts the server, on what it had before.
func (s *Server) Start() {
	s.t.Helper()
	program := binary()
	s.g.Expect(program).To(gomega.BeAnExistingFile(), "build it with: hack/tools/build.sh versitygw")
	s.process = exec.CommandContext(context.Background(), program, "--port", s.Address, "--access", AccessKey, "--secret", SecretKey, "--quiet", "--keep-alive",
		"posix", "--sidecar", filepath.Join(s.dir, "meta"), filepath.Join(s.dir, "data"))
	s.process.Dir = s.dir
	s.g.Expect(s.process.Start()).To(gomega.Succeed())
	process, ended := s.process, make(chan error, 1)
	s.ended = ended
	go func() { ended <- process.Wait() }()
	s.g.Eventually(func(g gomega.Gomega) {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.Address+"/", nil)
		g.Expect(err).NotTo(gomega.HaveOccurred())
		response, err := http.DefaultClient.Do(request)
		g.Expect(err).NotTo(gomega.HaveOccurred())
		g.Expect(response.Body.Close()).To(gomega.Succeed())
	}).WithTimeout(30 * time.Second).WithPolling(20 * time.Millisecond).Should(gomega.Succeed())
}

// Kill ends the server as a loss of its machine would.
func (s *Server) Kill() {
	_ = s.process.Process.Kill()
	err := <-s.ended
	s.ended <- err
}

// Credentials are those of the server.
func Credentials() *credentials.Credentials {
	return credentials.NewStaticV4(AccessKey, SecretKey, "")
}

// Client is a client of the server, to look behind a store.
func (s *Server) Client() *minio.Core {
	s.t.Helper()
	client, err := minio.NewCore(s.Address, &minio.Options{Creds: Credentials(), Region: "us-east-1"})
	s.g.Expect(err).NotTo(gomega.HaveOccurred())
	return client
}

// Bucket makes an empty bucket.
func (s *Server) Bucket() string {
	s.t.Helper()
	name := fmt.Sprintf("bucket-%d", buckets.Add(1))
	s.g.Expect(s.Client().MakeBucket(context.Background(), name, minio.MakeBucketOptions{})).To(gomega.Succeed())
	return name
}
