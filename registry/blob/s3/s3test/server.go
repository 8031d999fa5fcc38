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
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
)

// What the server takes from whom who may do everything.
const (
	AccessKey = "tidelock-test"
	SecretKey = "tidelock-test-secret"
)

// Server is an S3 server with its own address and directory, which it keeps over Kill and Start.
type Server struct {
	// Address is "127.0.0.1:port".
	Address string
	dir     string
	process *exec.Cmd
	ended   chan error
}

var buckets atomic.Int64

// New starts a server for the running spec, or in a BeforeSuite for all.
func New() *Server {
	ginkgo.GinkgoHelper()
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	s := &Server{Address: listener.Addr().String(), dir: ginkgo.GinkgoT().TempDir()}
	gomega.Expect(listener.Close()).To(gomega.Succeed())
	for _, name := range []string{"data", "meta"} {
		gomega.Expect(os.Mkdir(filepath.Join(s.dir, name), 0o700)).To(gomega.Succeed())
	}
	s.Start()
	ginkgo.DeferCleanup(s.Kill)
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
	ginkgo.GinkgoHelper()
	program := binary()
	gomega.Expect(program).To(gomega.BeAnExistingFile(), "build it with: hack/tools/build.sh versitygw")
	s.process = exec.CommandContext(context.Background(), program, "--port", s.Address, "--access", AccessKey, "--secret", SecretKey, "--quiet", "--keep-alive",
		"posix", "--sidecar", filepath.Join(s.dir, "meta"), filepath.Join(s.dir, "data"))
	s.process.Dir = s.dir
	s.process.Stderr = ginkgo.GinkgoWriter
	gomega.Expect(s.process.Start()).To(gomega.Succeed())
	process, ended := s.process, make(chan error, 1)
	s.ended = ended
	go func() { ended <- process.Wait() }()
	gomega.Eventually(func(g gomega.Gomega) {
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
	ginkgo.GinkgoHelper()
	client, err := minio.NewCore(s.Address, &minio.Options{Creds: Credentials(), Region: "us-east-1"})
	gomega.Expect(err).NotTo(gomega.HaveOccurred())
	return client
}

// Bucket makes an empty bucket.
func (s *Server) Bucket() string {
	ginkgo.GinkgoHelper()
	name := fmt.Sprintf("bucket-%d", buckets.Add(1))
	gomega.Expect(s.Client().MakeBucket(context.Background(), name, minio.MakeBucketOptions{})).To(gomega.Succeed())
	return name
}
