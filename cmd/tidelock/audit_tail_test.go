package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/openapi"
)

var _ = Describe("tidelock audit tail", func() {
	const patience = 30 * time.Second
	var dir, password, listen, url string
	var stop func()

	// serve runs a registry on the same data and port each time.
	serve := func() {
		GinkgoHelper()
		r, err := registry.New(registry.Config{DataDir: filepath.Join(dir, "data"), Listen: listen, AdminPasswordFile: password, Logger: slog.New(slog.DiscardHandler)})
		Expect(err).NotTo(HaveOccurred())
		listen, url = r.Addr().String(), r.URL()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		stop = func() {
			cancel()
			Eventually(done).WithTimeout(patience).Should(Receive(BeNil()))
			stop = func() {}
		}
	}
	organization := func(name string) {
		GinkgoHelper()
		request, err := http.NewRequest("POST", url+"/api/v1/organization/", strings.NewReader(fmt.Sprintf(`{"name": %q}`, name)))
		Expect(err).NotTo(HaveOccurred())
		request.SetBasicAuth("admin", "secret")
		response, err := http.DefaultClient.Do(request)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.Body.Close()).To(Succeed())
		Expect(response.StatusCode).To(Equal(http.StatusCreated))
	}
	tail := func(arguments ...string) *exec.Cmd {
		return command(append([]string{"audit", "tail", "--registry", url, "--password-file", password}, arguments...)...)
	}
	// start runs a tail that follows, until the spec ends at the latest.
	start := func(arguments ...string) (cmd *exec.Cmd, out, log *gbytes.Buffer) {
		GinkgoHelper()
		cmd = tail(append([]string{"-f"}, arguments...)...)
		out, log = gbytes.NewBuffer(), gbytes.NewBuffer()
		cmd.Stdout, cmd.Stderr = out, log
		Expect(cmd.Start()).To(Succeed())
		DeferCleanup(func() {
			if cmd.ProcessState == nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		})
		return cmd, out, log
	}

	BeforeEach(func() {
		dir, listen = GinkgoT().TempDir(), "127.0.0.1:0"
		password = filepath.Join(dir, "password")
		Expect(os.WriteFile(password, []byte("secret"), 0o600)).To(Succeed())
		serve()
		DeferCleanup(func() { stop() })
		for _, name := range []string{"team-a", "team-b", "team-c"} {
			organization(name)
		}
	})

	It("prints the newest entries for people, and as JSON", func() {
		out, err := tail("-n", "2").Output()
		Expect(err).NotTo(HaveOccurred())
		lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		Expect(lines).To(HaveLen(2))
		Expect(lines[0]).To(MatchRegexp(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ 1 org_create team-b by user admin from 127\.0\.0\.1`))
		Expect(lines[1]).To(ContainSubstring(" 2 org_create team-c by user admin "))
		out, err = tail("--json", "--search", "TEAM-A").Output()
		Expect(err).NotTo(HaveOccurred())
		var entry openapi.LogEntry
		Expect(json.Unmarshal(out, &entry)).To(Succeed(), "one line")
		Expect(entry).To(And(HaveField("Index", int64(0)), HaveField("Organization", "team-a"), HaveField("Kind", "org_create")))
		out, err = tail("--organization", "team-b").Output()
		Expect(err).NotTo(HaveOccurred())
		Expect(bytes.Count(out, []byte("\n"))).To(Equal(1))
		out, err = tail("--kind", "create_tag", "--kind", "move_tag").Output()
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(BeEmpty())
	})

	It("follows, through a restart of the registry, until it is interrupted", func() {
		cmd, out, log := start("-n", "1")
		Eventually(out).WithTimeout(patience).Should(gbytes.Say(" 2 org_create team-c "))
		organization("team-d")
		Eventually(out).WithTimeout(patience).Should(gbytes.Say(" 3 org_create team-d "))
		stop()
		Eventually(log).WithTimeout(patience).Should(gbytes.Say("tidelock: waiting for the registry: "))
		serve()
		organization("team-e")
		Eventually(log).WithTimeout(patience).Should(gbytes.Say("tidelock: the registry is back\n"))
		Eventually(out).WithTimeout(patience).Should(gbytes.Say(" 4 org_create team-e "))
		Expect(cmd.Process.Signal(syscall.SIGINT)).To(Succeed())
		Expect(cmd.Wait()).To(Succeed())
		lines := bufio.NewScanner(bytes.NewReader(out.Contents()))
		count := 0
		for lines.Scan() {
			count++
		}
		Expect(count).To(Equal(3), "no entry twice")
	})

	It("ends when the registry has another log than before", func() {
		cmd, out, log := start()
		Eventually(out).WithTimeout(patience).Should(gbytes.Say("team-c"))
		stop()
		Expect(os.Rename(filepath.Join(dir, "data"), filepath.Join(dir, "gone"))).To(Succeed())
		serve()
		Expect(cmd.Wait()).NotTo(Succeed())
		Expect(log).To(gbytes.Say("the log has no entry 2: it is not the log that was read before"))
	})

	DescribeTable("says what is wrong, and does not wait for it", func(want string, arguments ...string) {
		out, err := tail(append([]string{"-f"}, arguments...)...).CombinedOutput()
		Expect(err).To(HaveOccurred())
		Expect(string(out)).To(ContainSubstring(want))
	},
		Entry("a date", `starttime: "yesterday" is neither a date`, "--since", "yesterday"),
		Entry("a kind", `kind: "nothing" is no kind of entry`, "--kind", "nothing"),
		Entry("an organization that never was", "organization nobody does not exist", "--organization", "nobody"),
		Entry("wrong credentials", "UNAUTHORIZED", "--username", "nobody"),
		Entry("too many lines", "--lines: 501 is not from 0 to 500", "-n", "501"),
		Entry("two places", "--organization and --repository cannot stand together", "--organization", "a", "--repository", "a/b"),
	)

	It("keeps what a terminal would obey out of its lines", func() {
		entry := openapi.LogEntry{Kind: "login_failure", Metadata: map[string]any{"reason": "a\x1b[2Jb", "list": []any{"\u009b31m", "\u202e"}}}
		Expect(describeEntry(entry)).To(HaveSuffix(`login_failure list="[\"\u009b31m\",\"\u202e\"]" reason="a\x1b[2Jb"`))
	})
})
