package compliance

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	indexType = "application/vnd.oci.image.index.v1+json"
	// simpleSigning is the media type of the layers of cosign's signatures.
	simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
)

var blobs = []string{"{}", "layer", "payload"}

// manifest is something that can be pushed.
type manifest struct {
	mediaType string
	content   string
	digest    string
	// children are the digests of an index's manifests.
	children []string
	// signatures are those that a signature's manifest has.
	signatures []string
}

func newManifest(mediaType, content string) manifest {
	return manifest{mediaType: mediaType, content: content, digest: digest.FromString(content).String()}
}

func descriptor(mediaType, blob, annotation string) string {
	annotations := ""
	if annotation != "" {
		annotations = fmt.Sprintf(`,"annotations":{"dev.cosignproject.cosign/signature":%q}`, annotation)
	}
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d%s}`, mediaType, digest.FromString(blob), len(blob), annotations)
}

// newImage makes an image that is different for each note.
func newImage(note string) manifest {
	return newManifest(imageType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s],"annotations":{"note":%q}}`, imageType,
		descriptor("application/vnd.oci.image.config.v1+json", blobs[0], ""), descriptor("application/vnd.oci.image.layer.v1.tar", blobs[1], ""), note))
}

// newIndex makes an index of images.
func newIndex(note string, images ...manifest) manifest {
	var list, children []string
	for _, i := range images {
		list = append(list, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, i.mediaType, i.digest, len(i.content)))
		children = append(children, i.digest)
	}
	m := newManifest(indexType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s],"annotations":{"note":%q}}`, indexType, strings.Join(list, ","), note))
	m.children = children
	return m
}

// newSignature makes what cosign stores under the tag of a signed image.
func newSignature(signatures ...string) manifest {
	var layers []string
	for _, s := range signatures {
		layers = append(layers, descriptor(simpleSigning, blobs[2], s))
	}
	m := newManifest(imageType, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, imageType,
		descriptor("application/vnd.oci.image.config.v1+json", blobs[0], ""), strings.Join(layers, ",")))
	m.signatures = signatures
	return m
}

// signatureOf is the tag under which cosign signs an image.
func signatureOf(digest string) string { return strings.Replace(digest, ":", "-", 1) + ".sig" }

// subjectOf is the digest of the image that a signature tag belongs to, empty for other tags.
func subjectOf(tag string) string {
	parts := signatureTag.FindStringSubmatch(tag)
	if parts == nil {
		return ""
	}
	return parts[1] + ":" + parts[2]
}

// content is what clients have made so far.
type content struct {
	mu sync.Mutex
	// made are the images and indexes by repository, oldest first; signatures are manifests by repository and tag.
	made       map[string][]manifest
	signatures map[tagName][]manifest
	// parents are the digests of indexes by the digests of their children.
	parents map[string][]string
	count   int
}

func newContent() *content {
	return &content{made: map[string][]manifest{}, signatures: map[tagName][]manifest{}, parents: map[string][]string{}}
}

// next makes an image, or now and then an index of two recent images.
func (c *content) next(r *rand.Rand, repository string) manifest {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	m := newImage(fmt.Sprint(c.count))
	var images []manifest
	for _, i := range c.made[repository][max(0, len(c.made[repository])-6):] {
		if i.mediaType == imageType {
			images = append(images, i)
		}
	}
	if len(images) > 1 && r.IntN(8) == 0 {
		m = newIndex(fmt.Sprint(c.count), images[r.IntN(len(images))], images[r.IntN(len(images))])
		for _, child := range m.children {
			c.parents[child] = append(c.parents[child], m.digest)
		}
	}
	c.made[repository] = append(c.made[repository], m)
	return m
}

// recent is one of the latest images of a repository; false if there is none.
func (c *content) recent(r *rand.Rand, repository string) (manifest, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	made := c.made[repository]
	if len(made) == 0 {
		return manifest{}, false
	}
	return made[len(made)-1-r.IntN(min(12, len(made)))], true
}

// sign makes a signature for a tag: one more than were made last, or one alone, which replaces them.
func (c *content) sign(r *rand.Rand, name tagName) manifest {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	signatures := []string{fmt.Sprint(c.count)}
	if made := c.signatures[name]; len(made) > 0 && r.IntN(4) > 0 {
		signatures = append(signatures, made[len(made)-1].signatures...)
	}
	m := newSignature(signatures...)
	c.signatures[name] = append(c.signatures[name], m)
	return m
}

// indexesOf lists the digests of the indexes that have a manifest.
func (c *content) indexesOf(digest string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.parents[digest])
}
