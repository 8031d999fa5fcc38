package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry"
	"github.com/tidelock/tidelock/registry/audit"
)

var _ = Describe("tidelock audit export and verify", func() {
	var dir, url string

	// run runs a command and returns its output and exit code.
	run := func(arguments ...string) (out, log string, code int) {
		GinkgoHelper()
		cmd := command(append([]string{"audit"}, arguments...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			Expect(err).To(BeAssignableToTypeOf(&exec.ExitError{}))
		}
		return stdout.String(), strings.TrimSpace(stderr.String()), cmd.ProcessState.ExitCode()
	}
	must := func(arguments ...string) string {
		GinkgoHelper()
		out, log, code := run(arguments...)
		Expect(code).To(Equal(0), log)
		return out
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	export := func(name string, more ...string) string {
		GinkgoHelper()
		return must(append([]string{"export", "--registry", url, "--password-file", file("password"), "--output", file(name)}, more...)...)
	}
	organization := func(name string) {
		GinkgoHelper()
		request, err := http.NewRequest(http.MethodPost, url+"/api/v1/organization/", strings.NewReader(fmt.Sprintf(`{"name":%q}`, name)))
		Expect(err).NotTo(HaveOccurred())
		request.SetBasicAuth("admin", "secret")
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		Expect(err).NotTo(HaveOccurred())
		Expect(response.Body.Close()).To(Succeed())
		Expect(response.StatusCode).To(Equal(http.StatusCreated))
	}

	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		Expect(os.WriteFile(file("password"), []byte("secret"), 0o600)).To(Succeed())
		r, err := registry.New(registry.Config{DataDir: file("data"), Listen: "127.0.0.1:0", AdminPasswordFile: file("password"), Logger: slog.New(slog.DiscardHandler)})
		Expect(err).NotTo(HaveOccurred())
		url = r.URL()
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		DeferCleanup(func() {
			stop()
			Eventually(done).WithTimeout(20 * time.Second).Should(Receive(BeNil()))
		})
		for i := range 9 {
			organization(fmt.Sprintf("team-%d", i))
		}
	})

	It("show that nothing was changed, and name what was", func() {
		public := must("pubkey", "--key-file", file("data/audit.key"))
		Expect(os.WriteFile(file("public"), []byte(public), 0o600)).To(Succeed())
		checkpoint := func(name string) {
			GinkgoHelper()
			request, err := http.NewRequest(http.MethodGet, url+"/api/v1/superuser/audit/checkpoint", http.NoBody)
			Expect(err).NotTo(HaveOccurred())
			request.SetBasicAuth("admin", "secret")
			response, err := http.DefaultClient.Do(request)
			Expect(err).NotTo(HaveOccurred())
			var content bytes.Buffer
			_, err = content.ReadFrom(response.Body)
			Expect(err).NotTo(HaveOccurred())
			Expect(os.WriteFile(file(name), content.Bytes(), 0o600)).To(Succeed())
		}
		size := func(out string) (entries int) {
			_, err := fmt.Sscanf(out, "%d entries", &entries)
			Expect(err).NotTo(HaveOccurred())
			return entries
		}
		checkpoint("earlier")
		n := size(export("export"))
		organization("team-later")

		By("verifying an export by a file of keys, and by a key")
		Expect(must("verify", file("export"), "--public-key", file("public"))).To(MatchRegexp(`^log tidelock/[0-9a-f]{32}, entries 0 to %d: %d checked\nroot \S+, signed by tidelock\+[0-9a-f]{8}: nothing was changed, removed or put in\n$`, n, n))
		Expect(must("verify", file("export"), "--public-key", strings.TrimSpace(public), "--against", file("earlier"))).To(ContainSubstring("checkpoint of %d entries: all of them are unchanged\n", n))
		Expect(size(export("part", "--from", "2", "--to", "5"))).To(Equal(3))
		must("verify", file("part"), "--public-key", file("public"))

		By("verifying a compressed one, with JSON")
		content, err := os.ReadFile(file("export"))
		Expect(err).NotTo(HaveOccurred())
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err = z.Write(content)
		Expect(err).NotTo(HaveOccurred())
		Expect(z.Close()).To(Succeed())
		Expect(os.WriteFile(file("export.gz"), packed.Bytes(), 0o600)).To(Succeed())
		var report audit.Report
		Expect(json.Unmarshal([]byte(must("verify", file("export.gz"), "--public-key", file("public"), "--json")), &report)).To(Succeed())
		Expect(report.Entries).To(Equal(int64(n)))

		By("naming what was changed")
		Expect(os.WriteFile(file("edited"), bytes.Replace(content, []byte("team-3"), []byte("team-x"), 1), 0o600)).To(Succeed())
		out, log, code := run("verify", file("edited"), "--public-key", file("public"), "--json")
		Expect(code).To(Equal(1))
		Expect(log).To(HavePrefix("tidelock: " + file("edited") + ": entry 3: its leaf does not have the hash"))
		Expect(json.Unmarshal([]byte(out), &report)).To(Succeed())
		Expect(report.Problem.First).To(Equal(int64(3)))

		By("finding what was cut off")
		checkpoint("later")
		_, log, code = run("verify", file("export"), "--public-key", file("public"), "--against", file("earlier"), "--against", file("later"))
		Expect(code).To(Equal(1))
		Expect(log).To(ContainSubstring("entry %d: it is missing: the log had %d entries", n, n+1))

		By("trusting given keys only")
		other := must("keygen", "--key-file", file("other"), "--name", "other")
		_, log, code = run("verify", file("export"), "--public-key", strings.TrimSpace(other))
		Expect(code).To(Equal(1))
		Expect(log).To(ContainSubstring("the checkpoint is not signed with a key that was given"))
		_, log, code = run("verify", file("export"), "--public-key", strings.TrimSpace(other), "--against", file("earlier"))
		Expect(code).To(Equal(1))
		Expect(log).To(ContainSubstring("--against " + file("earlier") + ": checkpoint: note has no verifiable signatures"))
	})

	It("make keys that do not take the place of others", func() {
		public := must("keygen", "--key-file", file("key"))
		Expect(must("pubkey", "--key-file", file("key"))).To(Equal(public))
		_, log, code := run("keygen", "--key-file", file("key"))
		Expect(code).To(Equal(1))
		Expect(log).To(ContainSubstring("file exists"))
		Expect(must("pubkey", "--key-file", file("key"))).To(Equal(public))
	})

	It("leave no file of an answer that was cut off", func() {
		export("whole")
		content, err := os.ReadFile(file("whole"))
		Expect(err).NotTo(HaveOccurred())
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(content[:len(content)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
		defer server.Close()
		_, log, code := run("export", "--registry", server.URL, "--password-file", file("password"), "--output", file("cut"))
		Expect(code).To(Equal(1))
		Expect(log).To(ContainSubstring("the export was cut off behind"))
		Expect(filepath.Glob(file("*cut*"))).To(BeEmpty())
		Expect(filepath.Glob(file(".tidelock-export-*"))).To(BeEmpty())
	})

	DescribeTable("say what is missing", func(message string, arguments ...string) {
		_, log, code := run(arguments...)
		Expect(code).To(Equal(1))
		Expect(log).To(HavePrefix("tidelock: " + message))
	},
		Entry("a file to write", "--output is required", "export"),
		Entry("a password", "--password-file is required", "export", "--output", "x"),
		Entry("a key", "--public-key is required", "verify", "x"),
		Entry("a key that is there", "--public-key nothing is neither a public key nor a file", "verify", "x", "--public-key", "nothing"),
		Entry("a file for a key", "--key-file is required", "keygen"),
		Entry("a file with keys", "--key-file is required", "pubkey"),
	)
})
