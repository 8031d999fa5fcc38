package ociapi

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// finds is a core that remembers what HEADs found.
type finds struct {
	*core.Core
	blobs, manifests []string
}

func (f *finds) FoundBlob(name domain.RepositoryName, d digest.Digest) {
	f.blobs = append(f.blobs, name.String()+"@"+d.String())
}

func (f *finds) FoundManifest(name domain.RepositoryName, d digest.Digest) {
	f.manifests = append(f.manifests, name.String()+"@"+d.String())
}

var _ = Describe("garbage collection", func() {
	It("hears of what a HEAD finds, and of nothing else", func() {
		var found *finds
		h := newHarness(func(o *Options) {
			found = &finds{Core: o.Core.(*core.Core)}
			o.Core = found
		})
		h.pushBlobs(repo, layer, config)
		h.pushManifest(repo, "v1", image)
		for _, path := range []string{"/blobs/" + sha(layer), "/manifests/v1"} {
			Expect(h.do(exchange{method: "GET", path: repo + path}).Code).To(Equal(200))
		}
		Expect(h.do(exchange{method: "HEAD", path: repo + "/blobs/" + sha("absent")}).Code).To(Equal(404))
		Expect(found.blobs).To(BeEmpty())
		Expect(found.manifests).To(BeEmpty())
		for _, path := range []string{"/blobs/" + sha(layer), "/manifests/v1"} {
			Expect(h.do(exchange{method: "HEAD", path: repo + path}).Code).To(Equal(200))
		}
		Expect(found.blobs).To(Equal([]string{"team-a/app@" + sha(layer)}))
		Expect(found.manifests).To(Equal([]string{"team-a/app@" + sha(image)}))
	})
})
