//go:build linux

// Package fulldisk runs the registry on a disk of a few megabytes and fills it.
package fulldisk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	password   = "correct horse battery staple"
	repository = "/v2/team-a/app/"
	diskSize   = 192 << 20
	layerSize  = 4 << 20
	// reserve is the size of the file that the registry keeps in reserve.
	reserve  = 64 << 20
	patience = time.Minute
)

// namespaceEnv says that this process is in a mount namespace of its own.
const namespaceEnv = "TIDELOCK_TEST_NAMESPACE"

// TestMain lets whoever is not root mount a file system too: in a user namespace of its own.
func TestMain(m *testing.M) {
	if os.Getuid() == 0 || os.Getenv(namespaceEnv) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "the tests of a full disk need to mount a small one: run them as root, or allow user namespaces:", err)
		os.Exit(1)
	}
}

// smallDisk mounts a disk of diskSize bytes.
func smallDisk(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
		t.Fatal("the tests of a full disk need to mount a small one, as root or in a user namespace: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// registry is one that runs as a process of its own, on the small disk.
type registry struct {
	g    *WithT
	disk string
	dir  string
	url  string
	*exec.Cmd
}

func newRegistry(t *testing.T) *registry {
	r := &registry{g: NewWithT(t), dir: t.TempDir(), disk: smallDisk(t)}
	r.g.Expect(os.WriteFile(filepath.Join(r.dir, "password"), []byte(password), 0o600)).To(Succeed())
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Log(r.log())
		}
	})
	return r
}

func (r *registry) binary() string {
	path := filepath.Join(os.Getenv("TIDELOCK_BIN"), "tidelock")
	r.g.Expect(path).To(BeAnExistingFile(), "TIDELOCK_BIN must name the folder of the binary that make build makes; make test sets it")
	return path
}

func (r *registry) data() string { return filepath.Join(r.disk, "data") }

func (r *registry) log() string {
	content, _ := os.ReadFile(filepath.Join(r.dir, "log"))
	return string(content)
}

func (r *registry) start() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	r.g.Expect(err).NotTo(HaveOccurred())
	address := listener.Addr().String()
	r.g.Expect(listener.Close()).To(Succeed())
	r.url = "http://" + address
	r.Cmd = exec.Command(r.binary(), "registry", "--data-dir", r.data(), "--listen", address, "--admin-password-file", filepath.Join(r.dir, "password"),
		"--gc-interval", "200ms", "--gc-grace", "3s", "--gc-delay", "0s")
	log, err := os.OpenFile(filepath.Join(r.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	r.g.Expect(err).NotTo(HaveOccurred())
	r.Stdout, r.Stderr = log, log
	r.g.Expect(r.Start()).To(Succeed())
	r.g.Expect(log.Close()).To(Succeed())
	r.g.Eventually(func() (int, error) {
		status, _, err := r.call(http.MethodGet, "/readyz", "", nil)
		return status, err
	}).WithTimeout(20*time.Second).WithPolling(10*time.Millisecond).Should(Equal(http.StatusOK), r.log)
}

// stop ends the registry as an operator does.
func (r *registry) stop() {
	if r.Cmd != nil && r.ProcessState == nil {
		_ = r.Process.Signal(syscall.SIGTERM)
		_ = r.Wait()
	}
}

func (r *registry) call(method, path, contentType string, body []byte) (status int, answer []byte, err error) {
	request, err := http.NewRequest(method, r.url+path, bytes.NewReader(body))
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

// image is what a push stores.
type image struct {
	tag             string
	layer, manifest []byte
}

func (i image) digest() string { return digest.FromBytes(i.manifest).String() }

func newImage(tag string, size int) image {
	layer := make([]byte, size)
	noise := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", tag))))
	_, _ = noise.Read(layer)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}]}`,
		digest.FromString("{}"), digest.FromBytes(layer), len(layer))
	return image{tag: tag, layer: layer, manifest: []byte(manifest)}
}

// push returns the first answer that is no success, or 201.
func (r *registry) push(i image) (status int, answer string) {
	for _, blob := range [][]byte{[]byte("{}"), i.layer} {
		status, answer = r.send(http.MethodPost, "blobs/uploads/?digest="+digest.FromBytes(blob).String(), "application/octet-stream", blob)
		if status != http.StatusCreated {
			return status, answer
		}
	}
	return r.send(http.MethodPut, "manifests/"+i.tag, "application/vnd.oci.image.manifest.v1+json", i.manifest)
}

// send is a call of which only the answer to a failure matters.
func (r *registry) send(method, path, contentType string, body []byte) (int, string) {
	status, answer, err := r.call(method, repository+path, contentType, body)
	if err != nil {
		return 0, err.Error()
	}
	if status < http.StatusMultipleChoices {
		return status, ""
	}
	return status, string(answer)
}

// pulls checks that an image can be pulled.
func (r *registry) pulls(i image) {
	for path, content := range map[string][]byte{"manifests/" + i.tag: i.manifest, "blobs/" + digest.FromBytes(i.layer).String(): i.layer} {
		status, answer, err := r.call(http.MethodGet, repository+path, "", nil)
		r.g.Expect(err).NotTo(HaveOccurred())
		r.g.Expect(status).To(Equal(http.StatusOK), path)
		r.g.Expect(bytes.Equal(answer, content)).To(BeTrue(), path)
	}
}

// fill pushes images, several at once, until no push is taken, and returns those that were acknowledged with the
// refusals.
func (r *registry) fill(prefix string) (acknowledged []image, refusals []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				i := newImage(fmt.Sprintf("%s.%d.%d", prefix, worker, n), layerSize)
				status, answer := r.push(i)
				mu.Lock()
				if status != http.StatusCreated {
					refusals = append(refusals, fmt.Sprintf("%d %s", status, answer))
					mu.Unlock()
					return
				}
				acknowledged = append(acknowledged, i)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return acknowledged, refusals
}

func (r *registry) free() int64 {
	var stat unix.Statfs_t
	r.g.Expect(unix.Statfs(r.disk, &stat)).To(Succeed())
	return int64(stat.Bavail) * stat.Bsize
}

// eventuallyPushes waits until pushes are taken again.
func (r *registry) eventuallyPushes(i image) {
	r.g.Eventually(func() string {
		status, answer := r.push(i)
		return fmt.Sprintf("%d%s", status, answer)
	}).WithTimeout(patience).WithPolling(100*time.Millisecond).Should(Equal("201"), r.log)
}

func (r *registry) fsck() {
	out, err := exec.Command(r.binary(), "registry", "fsck", "--data-dir", r.data()).CombinedOutput()
	r.g.Expect(err).NotTo(HaveOccurred(), string(out))
}

func TestAFullDiskIsNoDeadEnd(t *testing.T) {
	r := newRegistry(t)
	g := r.g
	r.start()
	g.Expect(filepath.Join(r.data(), "reserve")).To(BeAnExistingFile())
	acknowledged, refusals := r.fill("first")
	g.Expect(len(acknowledged)).To(BeNumerically(">", 10))
	g.Expect(refusals).NotTo(BeEmpty())

	t.Log("pushes are refused with a reason, and take nothing of what was in reserve")
	g.Eventually(func() string {
		status, answer := r.push(newImage("refused", layerSize))
		return fmt.Sprintf("%d %s", status, answer)
	}).WithTimeout(patience).Should(And(HavePrefix("507"), ContainSubstring("STORAGE_FULL"), ContainSubstring("disk of the registry is full")))
	g.Expect(filepath.Join(r.data(), "reserve")).NotTo(BeAnExistingFile())
	for n := range 100 {
		status, _ := r.push(newImage(fmt.Sprint("refused", n), 64<<10))
		g.Expect(status).To(Equal(http.StatusInsufficientStorage))
	}
	g.Expect(r.free()).To(BeNumerically(">", reserve/2))
	_, answer, err := r.call(http.MethodGet, "/metrics", "", nil)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(string(answer)).To(ContainSubstring("tidelock_disk_full 1\n"))

	t.Log("a policy is in force at once, and everything can be pulled")
	status, answer, err := r.call(http.MethodPost, "/api/v1/organization/team-a/immutabilitypolicy/", "application/json", []byte(`{"tagPattern":"first\\.0\\.0"}`))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(status).To(Equal(http.StatusCreated), string(answer))
	for _, i := range acknowledged {
		r.pulls(i)
	}

	t.Log("deletes are taken, garbage collection frees their space, and pushes are taken again")
	kept := acknowledged[:0:0]
	for n, i := range acknowledged {
		if n%2 == 0 || i.tag == "first.0.0" {
			kept = append(kept, i)
			continue
		}
		status, answer := r.send(http.MethodDelete, "manifests/"+i.digest(), "", nil)
		g.Expect(status).To(Equal(http.StatusAccepted), answer)
	}
	again := newImage("again", layerSize)
	r.eventuallyPushes(again)
	g.Expect(filepath.Join(r.data(), "reserve")).To(BeAnExistingFile())
	g.Eventually(func() (string, error) {
		_, answer, err := r.call(http.MethodGet, "/api/v1/organization/team-a/logs?kind=change_tag_immutability", "", nil)
		return string(answer), err
	}).WithTimeout(patience).Should(ContainSubstring("first.0.0"), "the sweep that had to wait")
	for _, i := range append(kept, again) {
		r.pulls(i)
	}
	r.stop()
	r.fsck()
}

func TestADiskThatOthersFillUpToTheLastByte(t *testing.T) {
	r := newRegistry(t)
	g := r.g
	r.start()
	acknowledged, _ := r.fill("first")
	filler := filepath.Join(r.disk, "filler")
	fill := func() {
		file, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		g.Expect(err).NotTo(HaveOccurred())
		for _, size := range []int{1 << 20, 4 << 10} {
			for err = nil; err == nil; {
				_, err = file.Write(make([]byte, size))
			}
			g.Expect(err).To(MatchError(unix.ENOSPC))
		}
		g.Expect(file.Close()).To(Succeed())
	}
	// The registry gives its reserve up, and that is taken too.
	g.Eventually(func() int64 {
		fill()
		return r.free()
	}).WithTimeout(patience).Should(BeZero())
	g.Eventually(filepath.Join(r.data(), "reserve")).WithTimeout(patience).ShouldNot(BeAnExistingFile())
	fill()

	t.Log("pulls go on, and whatever is acknowledged is done")
	for _, i := range acknowledged {
		r.pulls(i)
	}
	deleted := map[string]bool{}
	for n := 0; n < len(acknowledged); n += 2 {
		status, answer := r.send(http.MethodDelete, "manifests/"+acknowledged[n].digest(), "", nil)
		g.Expect(status).To(BeElementOf(http.StatusAccepted, http.StatusServiceUnavailable), answer)
		deleted[acknowledged[n].tag] = status == http.StatusAccepted
	}
	g.Expect(deleted).To(ContainElement(false), "the disk was full")
	t.Log("it starts on such a disk, once a little space is found, and is as before when there is more")
	r.stop()
	g.Expect(os.Truncate(filler, max(0, fileSize(g, filler)-1<<20))).To(Succeed())
	r.start()
	status, answer := r.push(newImage("refused", layerSize))
	g.Expect(status).To(Equal(http.StatusInsufficientStorage), answer)
	g.Expect(os.Remove(filler)).To(Succeed())
	for n := range acknowledged {
		if i := acknowledged[n]; !deleted[i.tag] {
			r.pulls(i)
			if n%2 == 0 {
				status, answer := r.send(http.MethodDelete, "manifests/"+i.digest(), "", nil)
				g.Expect(status).To(Equal(http.StatusAccepted), answer)
				deleted[i.tag] = true
			}
		}
	}
	r.eventuallyPushes(newImage("again", 1000))
	for _, i := range acknowledged {
		if !deleted[i.tag] {
			r.pulls(i)
			continue
		}
		status, _ := r.send(http.MethodGet, "manifests/"+i.tag, "", nil)
		g.Expect(status).To(Equal(http.StatusNotFound), i.tag)
	}
	r.stop()
	r.fsck()
}

func TestCollectingOfflineOnAFullDisk(t *testing.T) {
	r := newRegistry(t)
	g := r.g
	r.start()
	acknowledged, _ := r.fill("first")
	for _, i := range acknowledged[1:] {
		status, answer := r.send(http.MethodDelete, "manifests/"+i.digest(), "", nil)
		g.Expect(status).To(Equal(http.StatusAccepted), answer)
	}
	r.stop()
	out, err := exec.Command(r.binary(), "registry", "gc", "--json", "--gc-grace", "0s", "--data-dir", r.data()).Output()
	g.Expect(err).NotTo(HaveOccurred(), string(out))
	var result struct{ Links, Removed int64 }
	g.Expect(json.Unmarshal(out, &result)).To(Succeed(), string(out))
	r.start()
	r.eventuallyPushes(newImage("again", layerSize))
	r.pulls(acknowledged[0])
	r.stop()
	r.fsck()
}

func fileSize(g *WithT, path string) int64 {
	info, err := os.Stat(path)
	g.Expect(err).NotTo(HaveOccurred())
	return info.Size()
}
