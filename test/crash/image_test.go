package crash

import (
	"encoding/json"
	"fmt"
	"net/http"

	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/openapi"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	blobType     = "application/octet-stream"
)

var configBlob = []byte("{}")

// image is what a push stores: a config, a layer and the manifest.
type image struct {
	layer    []byte
	manifest []byte
	digest   digest.Digest
}

// newImage makes an image with a layer, and a manifest that is different for each note.
func newImage(layer, note string) image {
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"%s","size":%d}],"annotations":{"note":"%s"}}`,
		digest.FromBytes(configBlob), len(configBlob), digest.FromString(layer), len(layer), note)
	return image{layer: []byte(layer), manifest: []byte(manifest), digest: digest.FromString(manifest)}
}

// pushBlobs reports whether the image's blobs were acknowledged.
func (p *process) pushBlobs(repository string, i image) bool {
	for _, blob := range [][]byte{configBlob, i.layer} {
		status, _, err := p.call(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+digest.FromBytes(blob).String(), blobType, blob)
		if err != nil || status != http.StatusCreated {
			return false
		}
	}
	return true
}

func (p *process) putManifest(repository, tag string, i image) (status int, err error) {
	status, _, err = p.call(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, manifestType, i.manifest)
	return status, err
}

func (p *process) deleteManifest(repository, reference string) (status int, err error) {
	status, _, err = p.call(http.MethodDelete, "/v2/"+repository+"/manifests/"+reference, "", nil)
	return status, err
}

// listTags lists a repository's tags as the management API shows them.
func (p *process) listTags(repository string) (tags []openapi.Tag) {
	for page := 1; ; page++ {
		var list openapi.TagList
		p.get(fmt.Sprintf("/api/v1/repository/%s/tag/?limit=100&page=%d", repository, page), &list)
		tags = append(tags, list.Tags...)
		if !list.HasAdditional {
			return tags
		}
	}
}

// checkClosures reads everything that the tags of a repository lead to: each has its manifest, each manifest its
// blobs, and all bytes hash right.
func (p *process) checkClosures(repository string) {
	checked := map[digest.Digest]bool{}
	for _, tag := range p.listTags(repository) {
		d := digest.Digest(tag.ManifestDigest)
		content := p.fetch("/v2/"+repository+"/manifests/"+tag.Name, d)
		if checked[d] {
			continue
		}
		checked[d] = true
		var manifest imagespec.Manifest
		p.g.Expect(json.Unmarshal(content, &manifest)).To(Succeed())
		for _, blob := range append(manifest.Layers, manifest.Config) {
			if !checked[blob.Digest] {
				checked[blob.Digest] = true
				p.fetch("/v2/"+repository+"/blobs/"+blob.Digest.String(), blob.Digest)
			}
		}
	}
}

// fetch reads bytes that must be there, whole.
func (p *process) fetch(path string, d digest.Digest) []byte {
	status, content, err := p.call(http.MethodGet, path, "", nil)
	p.g.Expect(err).NotTo(HaveOccurred(), path)
	p.g.Expect(status).To(Equal(http.StatusOK), path)
	p.g.Expect(digest.FromBytes(content)).To(Equal(d), path)
	return content
}
