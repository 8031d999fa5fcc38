package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestRegistry(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry")
}

const password = "correct horse battery staple"

// settings are those of a registry in a directory of its own, on a free port.
func settings() Config {
	GinkgoHelper()
	dir := GinkgoT().TempDir()
	return Config{
		DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AdminPasswordFile: write(dir, "password", password+"\n"),
		Logger: slog.New(slog.DiscardHandler),
	}
}

func write(dir, name, content string) string {
	GinkgoHelper()
	path := filepath.Join(dir, name)
	Expect(os.WriteFile(path, []byte(content), 0o600)).To(Succeed())
	return path
}

// running is a registry that serves until stop.
type running struct {
	*Registry
	stop context.CancelFunc
	done chan error
}

func start(cfg Config) *running {
	GinkgoHelper()
	r, err := New(cfg)
	Expect(err).NotTo(HaveOccurred())
	ctx, stop := context.WithCancel(context.Background())
	s := &running{Registry: r, stop: stop, done: make(chan error, 1)}
	go func() {
		s.done <- r.Run(ctx)
		close(s.done)
	}()
	DeferCleanup(s.end)
	return s
}

func (s *running) end() {
	GinkgoHelper()
	s.stop()
	Eventually(s.done).WithTimeout(20 * time.Second).Should(Or(Receive(BeNil()), BeClosed()))
}

// call sends a request as admin and returns the answer with its body read.
func (s *running) call(client *http.Client, method, path string, body io.Reader) (*http.Response, string) {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(context.Background(), method, s.URL()+path, body)
	Expect(err).NotTo(HaveOccurred())
	request.SetBasicAuth("admin", password)
	response, err := client.Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response, string(content)
}

// certificateFiles makes a self-signed certificate for 127.0.0.1 and returns it with its files.
func certificateFiles(dir, name string) (parsed *x509.Certificate, certFile, keyFile string) {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	Expect(err).NotTo(HaveOccurred())
	parsed, err = x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	private, err := x509.MarshalPKCS8PrivateKey(key)
	Expect(err).NotTo(HaveOccurred())
	certFile = write(dir, "tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	keyFile = write(dir, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return parsed, certFile, keyFile
}
