package main

import (
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
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry"
)

var _ = Describe("tidelock registry gc and fsck", func() {
	const garbage, layer = "garbage", "layer"
	var dir, image string

	// run runs a command on the data directory and returns its output and exit code.
	run := func(arguments ...string) (out string, log string, code int) {
		GinkgoHelper()
		cmd := command(append([]string{"registry", "--data-dir", filepath.Join(dir, "data")}, arguments...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			Expect(err).To(BeAssignableToTypeOf(&exec.ExitError{}))
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	// stored are the files of a blob.
	stored := func(content string) []string {
		GinkgoHelper()
		d := digest.FromString(content)
		list, err := filepath.Glob(filepath.Join(dir, "data", "blobs", "sha256", d.Encoded()[:2], d.Encoded()+".*"))
		Expect(err).NotTo(HaveOccurred())
		return list
	}

	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		Expect(os.WriteFile(filepath.Join(dir, "password"), []byte("secret"), 0o600)).To(Succeed())
		r, err := registry.New(registry.Config{
			DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", AdminPasswordFile: filepath.Join(dir, "password"), Logger: slog.New(slog.DiscardHandler),
		})
		Expect(err).NotTo(HaveOccurred())
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		send := func(method, path, contentType, body string) {
			GinkgoHelper()
			request, err := http.NewRequest(method, r.URL()+"/v2/team-a/app/"+path, strings.NewReader(body))
			Expect(err).NotTo(HaveOccurred())
			request.SetBasicAuth("admin", "secret")
			request.Header.Set("Content-Type", contentType)
			response, err := http.DefaultClient.Do(request)
			Expect(err).NotTo(HaveOccurred())
			Expect(response.Body.Close()).To(Succeed())
			Expect(response.StatusCode).To(Equal(http.StatusCreated))
		}
		for _, content := range []string{garbage, layer, "{}"} {
			send("POST", "blobs/uploads/?digest="+digest.FromString(content).String(), "application/octet-stream", content)
		}
		const mediaType = "application/vnd.oci.image.manifest.v1+json"
		image = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
			`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":5}]}`, mediaType, digest.FromString("{}"), digest.FromString(layer))
		send("PUT", "manifests/v1", mediaType, image)

		By("refusing while a registry runs")
		for _, name := range []string{"gc", "fsck"} {
			_, log, code := run(name)
			Expect(code).To(Equal(1))
			Expect(log).To(ContainSubstring("data directory %s is in use by another registry (process %d)", filepath.Join(dir, "data"), os.Getpid()))
		}
		stop()
		Eventually(done).WithTimeout(20 * time.Second).Should(Receive(BeNil()))
	})

	It("says what would go, then lets it go, and leaves the rest", func() {
		d := digest.FromString(garbage).String()
		out, _, code := run("gc", "--dry-run")
		Expect(code).To(BeZero())
		Expect(out).To(Equal("would remove 0 manifests, 0 links, 0 blobs and 0 orphans; the bytes of 0 keys: 0\n"), "it is within its grace")

		out, _, code = run("gc", "--dry-run", "--gc-grace=0s")
		Expect(code).To(BeZero())
		Expect(out).To(Equal("would remove link team-a/app@" + d + "\nwould remove blob " + d + "\n" +
			"would remove 0 manifests, 1 links, 1 blobs and 0 orphans; the bytes of 1 keys: 7\n"))
		Expect(stored(garbage)).To(HaveLen(1))

		out, _, code = run("gc", "--json", "--gc-grace=0s")
		Expect(code).To(BeZero())
		Expect(out).To(MatchJSON(`{"manifests":0,"links":1,"blobs":1,"blob_bytes":7,"orphans":0,"orphan_bytes":0,"removed":1,"removed_bytes":7}`))
		Expect(stored(garbage)).To(BeEmpty())
		Expect(stored(layer)).To(HaveLen(1))
		_, _, code = run("fsck")
		Expect(code).To(BeZero())
	})

	It("finds what is damaged, says so, and fails", func() {
		out, _, code := run("fsck")
		Expect(out).To(Equal("checked 1 tags (0 of them locked), 2 blobs, 7 bytes: 0 damages in 0 tags\n"))
		Expect(code).To(BeZero())

		Expect(os.WriteFile(stored(layer)[0], []byte("LAYER"), 0o600)).To(Succeed())
		problem := fmt.Sprintf("the bytes of the blob have the digest %s (key sha256:%s)", digest.FromString("LAYER"), filepath.Base(stored(layer)[0]))
		out, log, code := run("fsck")
		Expect(code).To(Equal(1))
		Expect(out).To(Equal("team-a/app:v1: " + digest.FromString(layer).String() + ": " + problem + "\n" +
			"checked 1 tags (0 of them locked), 2 blobs, 7 bytes: 1 damages in 1 tags\n"))
		Expect(log).To(ContainSubstring("tidelock: 1 tags are damaged; restore what is missing or wrong from a backup"))

		out, _, code = run("fsck", "--json")
		Expect(code).To(Equal(1))
		lines := strings.Split(strings.TrimSpace(out), "\n")
		Expect(lines).To(HaveLen(2))
		Expect(lines[0]).To(MatchJSON(fmt.Sprintf(`{"repository":"team-a/app","tag":"v1","locked":false,"digest":%q,"problem":%q}`, digest.FromString(layer), problem)))
		var last struct{ Summary map[string]int64 }
		Expect(json.Unmarshal([]byte(lines[1]), &last)).To(Succeed())
		Expect(last.Summary).To(HaveKeyWithValue("damaged_tags", int64(1)))
	})

	It("does not make a registry where there is none", func() {
		dir = GinkgoT().TempDir()
		for _, name := range []string{"gc", "fsck"} {
			_, log, code := run(name)
			Expect(code).To(Equal(1))
			Expect(log).To(ContainSubstring("holds no registry"))
			Expect(filepath.Join(dir, "data")).NotTo(BeADirectory())
		}
	})
})
