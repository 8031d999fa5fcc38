package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// client is what a client can do, in its own words. What it has no word for is nil. References are without the host.
type client struct {
	name  string
	login func(m *machine, name, password string) error
	// push stores the image of a layout under a reference, or says why not.
	push func(m *machine, layout, reference string) (string, error)
	// recompresses is true for a client that makes new layers of those in a layout.
	recompresses bool
	// pull fetches an image into a new OCI layout, digest fetches it into the client's own store and tells its digest.
	pull   func(m *machine, reference, layout string) error
	digest func(m *machine, reference string) (string, error)
	copy   func(m *machine, from, to string) (string, error)
	// copyAll copies an index with all of its images.
	copyAll func(m *machine, from, to string) (string, error)
	tags    func(m *machine, repository string) []string
	// repositories lists all repositories of the registry.
	repositories func(m *machine) string
	// inspect tells about an image without its layers; the answer has its digest or its architecture.
	inspect func(m *machine, reference string) (string, error)
	// attach pushes an artifact that refers to an image; referrers lists what refers to one.
	attach    func(m *machine, artifactType, reference string) (string, error)
	referrers func(m *machine, reference string) (string, error)
	// deleteTag removes one tag, deleteDigest the manifest behind a reference.
	deleteTag    func(m *machine, reference string) (string, error)
	deleteDigest func(m *machine, repository, digest string) (string, error)
}

func failure(_ string, err error) error { return err }

var clients = []client{
	{
		name: "crane",
		login: func(m *machine, name, password string) error {
			// crane asks nobody whether the password is right; catalog does.
			m.must(built("crane"), "auth", "login", host, "-u", name, "-p", password)
			return failure(m.run(built("crane"), "catalog", host))
		},
		push: func(m *machine, layout, reference string) (string, error) {
			return m.run(built("crane"), "push", layout, host+"/"+reference)
		},
		pull: func(m *machine, reference, layout string) error {
			return failure(m.run(built("crane"), "pull", "--format=oci", host+"/"+reference, layout))
		},
		copy: func(m *machine, from, to string) (string, error) {
			return m.run(built("crane"), "copy", host+"/"+from, host+"/"+to)
		},
		copyAll: func(m *machine, from, to string) (string, error) {
			return m.run(built("crane"), "copy", host+"/"+from, host+"/"+to)
		},
		repositories: func(m *machine) string { return m.must(built("crane"), "catalog", host) },
		inspect: func(m *machine, reference string) (string, error) {
			return m.run(built("crane"), "digest", host+"/"+reference)
		},
		tags: func(m *machine, repository string) []string {
			return strings.Fields(m.must(built("crane"), "ls", host+"/"+repository))
		},
		deleteTag: func(m *machine, reference string) (string, error) {
			return m.run(built("crane"), "delete", host+"/"+reference)
		},
		deleteDigest: func(m *machine, repository, digest string) (string, error) {
			return m.run(built("crane"), "delete", host+"/"+repository+"@"+digest)
		},
	},
	{
		name: "regctl",
		login: func(m *machine, name, password string) error {
			m.must(built("regctl"), "registry", "set", host, "--tls", "disabled", "--skip-check")
			return failure(m.run(built("regctl"), "registry", "login", host, "--user", name, "--pass", password))
		},
		push: func(m *machine, layout, reference string) (string, error) {
			return m.run(built("regctl"), "image", "copy", "ocidir://"+layout+":"+layoutTag, host+"/"+reference)
		},
		pull: func(m *machine, reference, layout string) error {
			return failure(m.run(built("regctl"), "image", "copy", host+"/"+reference, "ocidir://"+layout+":"+layoutTag))
		},
		copy: func(m *machine, from, to string) (string, error) {
			return m.run(built("regctl"), "image", "copy", host+"/"+from, host+"/"+to)
		},
		copyAll: func(m *machine, from, to string) (string, error) {
			return m.run(built("regctl"), "image", "copy", host+"/"+from, host+"/"+to)
		},
		repositories: func(m *machine) string { return m.must(built("regctl"), "repo", "ls", "--limit", "1000", host) },
		inspect: func(m *machine, reference string) (string, error) {
			return m.run(built("regctl"), "manifest", "head", host+"/"+reference)
		},
		attach: func(m *machine, artifactType, reference string) (string, error) {
			file := filepath.Join(m.home, "artifact")
			if err := os.WriteFile(file, []byte(artifactType), 0o600); err != nil {
				return "", err
			}
			return m.run(built("regctl"), "artifact", "put", "--artifact-type", artifactType, "--subject", host+"/"+reference, "--file", file)
		},
		referrers: func(m *machine, reference string) (string, error) {
			return m.run(built("regctl"), "artifact", "list", host+"/"+reference)
		},
		tags: func(m *machine, repository string) []string {
			return strings.Fields(m.must(built("regctl"), "tag", "ls", host+"/"+repository))
		},
		deleteTag: func(m *machine, reference string) (string, error) {
			return m.run(built("regctl"), "tag", "delete", host+"/"+reference)
		},
		deleteDigest: func(m *machine, repository, digest string) (string, error) {
			return m.run(built("regctl"), "manifest", "delete", host+"/"+repository+"@"+digest)
		},
	},
	{
		name: "skopeo",
		login: func(m *machine, name, password string) error {
			return failure(m.run(installed("skopeo"), "login", "--tls-verify=false", "-u", name, "-p", password, host))
		},
		push: func(m *machine, layout, reference string) (string, error) {
			return m.run(installed("skopeo"), "copy", "--dest-tls-verify=false", "oci:"+layout+":"+layoutTag, "docker://"+host+"/"+reference)
		},
		pull: func(m *machine, reference, layout string) error {
			return failure(m.run(installed("skopeo"), "copy", "--src-tls-verify=false", "docker://"+host+"/"+reference, "oci:"+layout+":"+layoutTag))
		},
		copy: func(m *machine, from, to string) (string, error) {
			return m.run(installed("skopeo"), "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+host+"/"+from, "docker://"+host+"/"+to)
		},
		copyAll: func(m *machine, from, to string) (string, error) {
			return m.run(installed("skopeo"), "copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+host+"/"+from, "docker://"+host+"/"+to)
		},
		inspect: func(m *machine, reference string) (string, error) {
			return m.run(installed("skopeo"), "inspect", "--tls-verify=false", "docker://"+host+"/"+reference)
		},
		tags: func(m *machine, repository string) []string {
			GinkgoHelper()
			var list struct{ Tags []string }
			out := m.must(installed("skopeo"), "list-tags", "--tls-verify=false", "docker://"+host+"/"+repository)
			Expect(json.Unmarshal([]byte(out), &list)).To(Succeed())
			return list.Tags
		},
		deleteDigest: func(m *machine, repository, digest string) (string, error) {
			return m.run(installed("skopeo"), "delete", "--tls-verify=false", "docker://"+host+"/"+repository+"@"+digest)
		},
	},
	{
		name: "podman",
		login: func(m *machine, name, password string) error {
			return failure(m.podman("login", "--tls-verify=false", "-u", name, "-p", password, host))
		},
		push: func(m *machine, layout, reference string) (string, error) {
			id, err := m.podman("pull", "--quiet", "oci:"+layout+":"+layoutTag)
			if err != nil {
				return id, err
			}
			return m.podman("push", "--tls-verify=false", strings.TrimSpace(id), host+"/"+reference)
		},
		recompresses: true,
		digest: func(m *machine, reference string) (string, error) {
			if out, err := m.podman("pull", "--tls-verify=false", host+"/"+reference); err != nil {
				return out, err
			}
			out, err := m.podman("image", "inspect", "--format", "{{.Digest}}", host+"/"+reference)
			return strings.TrimSpace(out), err
		},
		repositories: func(m *machine) string {
			GinkgoHelper()
			out, err := m.podman("search", "--limit", "100000", "--tls-verify=false", "--no-trunc", "--format", "{{.Name}}", host+"/")
			Expect(err).NotTo(HaveOccurred())
			return out
		},
		tags: func(m *machine, repository string) (tags []string) {
			GinkgoHelper()
			out, err := m.podman("search", "--list-tags", "--limit", "100000", "--tls-verify=false", host+"/"+repository)
			Expect(err).NotTo(HaveOccurred())
			for line := range strings.Lines(out) { // repository and tag, behind a heading
				if name, tag, ok := strings.Cut(line, " "); ok && name == host+"/"+repository {
					tags = append(tags, strings.TrimSpace(tag))
				}
			}
			return tags
		},
	},
}

// helm works on charts, so it has words of its own.
var helm = client{name: "helm"}

// podman works in a store of its own, which needs no privileges of the kernel.
func (m *machine) podman(arguments ...string) (string, error) {
	store := []string{"--root", filepath.Join(m.home, "store"), "--runroot", filepath.Join(m.home, "run"), "--storage-driver", "vfs"}
	return m.run(installed("podman"), append(store, arguments...)...)
}
