package main

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestImage(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Image")
}

var _ = Describe("the image of a release", Ordered, func() {
	var dir, program string
	amd64 := v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64 := v1.Platform{OS: "linux", Architecture: "arm64"}

	BeforeAll(func() {
		dir = GinkgoT().TempDir()
		program = compile(dir, "static")
	})

	releaseOf := func(platforms ...v1.Platform) release {
		r := release{version: "v1.2.3", revision: "abc", created: time.Unix(1700000000, 0).UTC(), certificates: []byte("certificates")}
		for _, p := range platforms {
			r.binaries = append(r.binaries, binary{platform: p, file: program})
		}
		return r
	}
	only := func(where string) v1.Descriptor {
		GinkgoHelper()
		index, err := layout.ImageIndexFromPath(where)
		Expect(err).NotTo(HaveOccurred())
		manifest, err := index.IndexManifest()
		Expect(err).NotTo(HaveOccurred())
		Expect(manifest.Manifests).To(HaveLen(1))
		return manifest.Manifests[0]
	}

	It("has the same digest every time and replaces what was there", func() {
		where := filepath.Join(dir, "again")
		first, err := releaseOf(amd64).write(where)
		Expect(err).NotTo(HaveOccurred())
		second, err := releaseOf(amd64).write(where)
		Expect(err).NotTo(HaveOccurred())
		Expect(second).To(Equal(first))
		Expect(only(where).Digest).To(Equal(first))
		Expect(filepath.Glob(where + ".new-*")).To(BeEmpty())
	})

	It("runs the program as an unprivileged user", func() {
		where := filepath.Join(dir, "one")
		digest, err := releaseOf(amd64).write(where)
		Expect(err).NotTo(HaveOccurred())
		Expect(only(where).Annotations).To(HaveKeyWithValue("org.opencontainers.image.ref.name", "v1.2.3"))

		image, err := layout.Path(where).Image(digest)
		Expect(err).NotTo(HaveOccurred())
		config, err := image.ConfigFile()
		Expect(err).NotTo(HaveOccurred())
		Expect(config.Architecture).To(Equal("amd64"))
		Expect(config.Config.Entrypoint).To(Equal([]string{"/tidelock"}))
		Expect(config.Config.User).To(Equal("65532:65532"))
		Expect(config.Config.Labels).To(HaveKeyWithValue("org.opencontainers.image.version", "v1.2.3"))
		Expect(config.Config.Labels).To(HaveKeyWithValue("org.opencontainers.image.revision", "abc"))

		files := contents(image)
		Expect(files).To(HaveKeyWithValue("tidelock", HaveField("Mode", int64(0o755))))
		Expect(files).To(HaveKeyWithValue("tmp/", HaveField("Mode", int64(0o1777))))
		Expect(files).To(HaveKey("etc/passwd"))
		Expect(files).To(HaveKeyWithValue("etc/ssl/certs/ca-certificates.crt", HaveField("Size", int64(len("certificates")))))
	})

	It("is one index for several platforms", func() {
		where := filepath.Join(dir, "two")
		digest, err := releaseOf(amd64, arm64).write(where)
		Expect(err).NotTo(HaveOccurred())
		Expect(only(where).MediaType.IsIndex()).To(BeTrue())

		root, err := layout.ImageIndexFromPath(where)
		Expect(err).NotTo(HaveOccurred())
		index, err := root.ImageIndex(digest)
		Expect(err).NotTo(HaveOccurred())
		manifest, err := index.IndexManifest()
		Expect(err).NotTo(HaveOccurred())
		Expect(manifest.Manifests).To(HaveExactElements(
			HaveField("Platform.Architecture", "amd64"), HaveField("Platform.Architecture", "arm64")))
	})

	DescribeTable("refuses what could not run in it", func(file func() string, message string) {
		r := releaseOf()
		r.binaries = []binary{{platform: amd64, file: file()}}
		where := filepath.Join(dir, "none")
		_, err := r.write(where)
		Expect(err).To(MatchError(ContainSubstring(message)))
		Expect(where).NotTo(BeADirectory())
	},
		Entry("a script", func() string {
			script := filepath.Join(dir, "script")
			Expect(os.WriteFile(script, []byte("#!/bin/sh\nexit 0\n"), 0o755)).To(Succeed())
			return script
		}, "not a Linux program"),
		Entry("a program that wants a loader", func() string { return compile(dir, "dynamic", "-buildmode=pie") }, "linked dynamically"),
		Entry("nothing", func() string { return filepath.Join(dir, "missing") }, "no such file"),
	)
})

// compile builds a small Linux program, whatever system the test runs on.
func compile(dir, name string, flags ...string) string {
	GinkgoHelper()
	source := filepath.Join(dir, "main.go")
	Expect(os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644)).To(Succeed())
	out := filepath.Join(dir, name)
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", out, source)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	output, err := cmd.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), "%s", output)
	return out
}

// contents are the headers of all files in an image's layers.
func contents(image v1.Image) map[string]*tar.Header {
	GinkgoHelper()
	files := map[string]*tar.Header{}
	layers, err := image.Layers()
	Expect(err).NotTo(HaveOccurred())
	for _, l := range layers {
		r, err := l.Uncompressed()
		Expect(err).NotTo(HaveOccurred())
		for t := tar.NewReader(r); ; {
			h, err := t.Next()
			if err == io.EOF {
				break
			}
			Expect(err).NotTo(HaveOccurred())
			files[h.Name] = h
		}
		Expect(r.Close()).To(Succeed())
	}
	return files
}
