package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// mainEnv makes the test binary the command itself.
const mainEnv = "TIDELOCK_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestTidelock(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "cmd/tidelock")
}

// command is `tidelock` as a process of its own.
func command(arguments ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], arguments...)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	return cmd
}

var _ = Describe("tidelock registry", func() {
	var dir string
	var arguments []string
	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		password := filepath.Join(dir, "password")
		Expect(os.WriteFile(password, []byte("secret"), 0o600)).To(Succeed())
		arguments = []string{"registry", "--data-dir", filepath.Join(dir, "data"), "--admin-password-file", password, "--listen", "127.0.0.1:0"}
	})

	// serve starts a registry, waits until it serves, and returns it with its address.
	serve := func() (*exec.Cmd, string) {
		GinkgoHelper()
		cmd := command(arguments...)
		log, err := cmd.StderrPipe()
		Expect(err).NotTo(HaveOccurred())
		Expect(cmd.Start()).To(Succeed())
		DeferCleanup(func() {
			if cmd.ProcessState == nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		})
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			var record struct{ Msg, URL string }
			Expect(json.Unmarshal(lines.Bytes(), &record)).To(Succeed(), lines.Text())
			if record.Msg == "serving" {
				go func() {
					for lines.Scan() { // a full pipe would stop the process
					}
				}()
				return cmd, record.URL
			}
		}
		Fail("the registry ended before it served")
		return nil, ""
	}

	It("serves, keeps a second one away, and ends with 0 on SIGTERM", func() {
		cmd, url := serve()
		response, err := http.Get(url + "/readyz")
		Expect(err).NotTo(HaveOccurred())
		Expect(response.Body.Close()).To(Succeed())
		Expect(response.StatusCode).To(Equal(200))

		for _, other := range [][]string{arguments, {"registry", "adopt-cluster", "uid", "--data-dir", filepath.Join(dir, "data")}} {
			out, err := command(other...).CombinedOutput()
			Expect(err).To(HaveOccurred())
			Expect(strings.TrimSpace(string(out))).To(HaveSuffix(fmt.Sprintf("tidelock: data directory %s is in use by another registry (process %d)", filepath.Join(dir, "data"), cmd.Process.Pid)))
		}

		Expect(cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		Eventually(done).WithTimeout(20 * time.Second).Should(Receive(BeNil()))
		Expect(cmd.ProcessState.ExitCode()).To(Equal(0))

		out, err := command("registry", "adopt-cluster", "uid", "--data-dir", filepath.Join(dir, "data")).Output()
		Expect(err).NotTo(HaveOccurred())
		Expect(string(out)).To(Equal("the registry now belongs to cluster uid\n"))

		By("breaking a lock")
		unlock := []string{"registry", "unlock", "11111111-1111-1111-1111-111111111111", "--data-dir", filepath.Join(dir, "data")}
		out, err = command(unlock...).CombinedOutput()
		Expect(err).To(HaveOccurred())
		Expect(string(out)).To(Equal("tidelock: a reason is required, at most 1024 bytes\n"))
		out, err = command(append(unlock, "--reason", "the pattern was wrong")...).CombinedOutput()
		Expect(err).To(HaveOccurred())
		Expect(string(out)).To(Equal("tidelock: immutability policy 11111111-1111-1111-1111-111111111111 does not exist here\n"))

		By("forking its audit log")
		fork := []string{"audit", "fork", "--data-dir", filepath.Join(dir, "data"), "--reason", "restored"}
		out, err = command(fork...).CombinedOutput()
		Expect(err).To(HaveOccurred())
		Expect(string(out)).To(Equal("tidelock: nothing contradicts the audit log, so there is nothing to explain; if you have restored a registry that no operator watches, use --force\n"))
		out, err = command(append(fork, "--force")...).Output()
		Expect(err).NotTo(HaveOccurred())
		Expect(string(out)).To(MatchRegexp(`^entry 1 of the audit log begins the origin tidelock/[0-9a-f]{32}\nit explains the checkpoint of [01] entries of tidelock/[0-9a-f]{32}, of which 0 are lost\n$`))
	})

	It("starts after a kill", func() {
		cmd, _ := serve()
		Expect(cmd.Process.Kill()).To(Succeed())
		_ = cmd.Wait()
		serve()
	})

	DescribeTable("says what is wrong", func(message string, more ...string) {
		cmd := command(append(arguments, more...)...)
		var out bytes.Buffer
		cmd.Stderr = &out
		Expect(cmd.Run()).NotTo(Succeed())
		Expect(cmd.ProcessState.ExitCode()).To(Equal(1))
		Expect(strings.TrimSpace(out.String())).To(HavePrefix("tidelock: " + message))
	},
		Entry("plain HTTP for everybody", "--listen 0.0.0.0:5000 would send passwords over the network in clear", "--listen", "0.0.0.0:5000"),
		Entry("an unknown flag", "unknown flag: --shards", "--shards", "2"),
		Entry("an argument", `unknown command "now" for "tidelock registry"`, "now"),
		Entry("a file that is not there", "secret file: stat /none/such", "--admin-password-file", "/none/such"),
	)

	It("reads its settings from a file and from variables", func() {
		file := filepath.Join(dir, "tidelock.yaml")
		Expect(os.WriteFile(file, fmt.Appendf(nil, "data-dir: %s\nadmin-password-file: %s\nlisten: 192.0.2.1:1\n", arguments[2], arguments[4]), 0o600)).To(Succeed())
		arguments = []string{"registry", "--config", file}
		Expect(os.Setenv("TIDELOCK_LISTEN", "127.0.0.1:0")).To(Succeed())
		DeferCleanup(os.Unsetenv, "TIDELOCK_LISTEN")
		_, url := serve()
		Expect(url).To(HavePrefix("http://127.0.0.1:"))
	})
})
