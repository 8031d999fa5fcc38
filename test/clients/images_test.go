package clients

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layoutTag is the name of the image in each layout.
const layoutTag = "v1"

// testImage is an image of one layer with random bytes.
type testImage struct {
	config, layer []byte
	manifest      []byte
}

func newImage() testImage {
	GinkgoHelper()
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(rand.Uint32())
	}
	var plain bytes.Buffer
	archive := tar.NewWriter(&plain)
	Expect(archive.WriteHeader(&tar.Header{Name: "random", Mode: 0o644, Size: int64(len(content))})).To(Succeed())
	_, err := archive.Write(content)
	Expect(err).NotTo(HaveOccurred())
	Expect(archive.Close()).To(Succeed())
	var compressed bytes.Buffer
	zip := gzip.NewWriter(&compressed)
	_, err = zip.Write(plain.Bytes())
	Expect(err).NotTo(HaveOccurred())
	Expect(zip.Close()).To(Succeed())

	i := testImage{layer: compressed.Bytes()}
	i.config = encode(ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain.Bytes())}},
	})
	i.manifest = encode(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(ocispec.MediaTypeImageConfig, i.config), Layers: []ocispec.Descriptor{describe(ocispec.MediaTypeImageLayerGzip, i.layer)},
	})
	return i
}

// artifactType is the type of each newArtifact.
const artifactType = "application/vnd.example.report"

// newArtifact is an artifact of one file that refers to an image.
func newArtifact(subject testImage) testImage {
	GinkgoHelper()
	i := testImage{config: []byte("{}"), layer: []byte("report of " + subject.digest())}
	of := describe(ocispec.MediaTypeImageManifest, subject.manifest)
	i.manifest = encode(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType, Subject: &of,
		Config: describe(ocispec.MediaTypeEmptyJSON, i.config), Layers: []ocispec.Descriptor{describe("text/plain", i.layer)},
	})
	return i
}

func (i testImage) digest() string { return digest.FromBytes(i.manifest).String() }

// blobs are all parts of the image.
func (i testImage) blobs() [][]byte { return [][]byte{i.manifest, i.config, i.layer} }

func describe(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func encode(value any) []byte {
	GinkgoHelper()
	content, err := json.Marshal(value)
	Expect(err).NotTo(HaveOccurred())
	return content
}

// layout writes the image as an OCI layout with the one tag layoutTag.
func (i testImage) layout() string {
	GinkgoHelper()
	dir := filepath.Join(GinkgoT().TempDir(), "layout")
	Expect(os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755)).To(Succeed())
	for _, content := range i.blobs() {
		Expect(os.WriteFile(blobFile(dir, content), content, 0o600)).To(Succeed())
	}
	manifest := describe(ocispec.MediaTypeImageManifest, i.manifest)
	manifest.Annotations = map[string]string{ocispec.AnnotationRefName: layoutTag}
	index := encode(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{manifest}})
	Expect(os.WriteFile(filepath.Join(dir, "index.json"), index, 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)).To(Succeed())
	return dir
}

func blobFile(layout string, content []byte) string {
	return filepath.Join(layout, "blobs", "sha256", digest.FromBytes(content).Encoded())
}

// expectLayout checks that an OCI layout has each byte of the image.
func (i testImage) expectLayout(dir string) {
	GinkgoHelper()
	for _, content := range i.blobs() {
		Expect(os.ReadFile(blobFile(dir, content))).To(Equal(content))
	}
}

// push stores the image without any client.
func (i testImage) push(repository string, tags ...string) {
	GinkgoHelper()
	for _, content := range [][]byte{i.config, i.layer} {
		response, body := call("POST", fmt.Sprintf("/v2/%s/blobs/uploads/?digest=%s", repository, digest.FromBytes(content)), "", content)
		Expect(response.StatusCode).To(Equal(http.StatusCreated), string(body))
	}
	for _, tag := range tags {
		response, body := call("PUT", fmt.Sprintf("/v2/%s/manifests/%s", repository, tag), ocispec.MediaTypeImageManifest, i.manifest)
		Expect(response.StatusCode).To(Equal(http.StatusCreated), string(body))
	}
}

// pushIndex stores an index of images under a tag, without any client, and returns its digest. The images have no tags.
func pushIndex(repository, tag string, images ...testImage) string {
	GinkgoHelper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for n, image := range images {
		image.push(repository, image.digest())
		child := describe(ocispec.MediaTypeImageManifest, image.manifest)
		child.Platform = &ocispec.Platform{OS: "linux", Architecture: []string{"amd64", "arm64"}[n]}
		index.Manifests = append(index.Manifests, child)
	}
	content := encode(index)
	response, body := call("PUT", fmt.Sprintf("/v2/%s/manifests/%s", repository, tag), ocispec.MediaTypeImageIndex, content)
	Expect(response.StatusCode).To(Equal(http.StatusCreated), string(body))
	return digest.FromBytes(content).String()
}

// referrers lists the artifact types of what refers to a manifest.
func referrers(repository, digest string) (types []string) {
	GinkgoHelper()
	response, body := call("GET", fmt.Sprintf("/v2/%s/referrers/%s", repository, digest), "", nil)
	Expect(response.StatusCode).To(Equal(http.StatusOK), string(body))
	var list ocispec.Index
	Expect(json.Unmarshal(body, &list)).To(Succeed())
	for _, m := range list.Manifests {
		types = append(types, m.ArtifactType)
	}
	return types
}
