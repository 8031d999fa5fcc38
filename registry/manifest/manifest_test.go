package manifest

import (
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestManifest(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "registry/manifest")
}

const (
	imageType = ocispec.MediaTypeImageManifest
	indexType = ocispec.MediaTypeImageIndex
	layerType = ocispec.MediaTypeImageLayer

	layer  = "0123456789abcdef"
	config = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`
)

var (
	image = imageWith("", ocispec.MediaTypeImageConfig, config, layer)
	index = fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, indexType, describe(imageType, image))
)

// sha is the digest of a text as clients write it.
func sha(content string) string { return digest.FromString(content).String() }

func describe(mediaType, content string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, sha(content), len(content))
}

// imageWith makes an image manifest with more fields, each ending in a comma.
func imageWith(more, configType, config string, layers ...string) string {
	list := make([]string, len(layers))
	for i, l := range layers {
		list[i] = describe(layerType, l)
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,%s"config":%s,"layers":[%s]}`, imageType, more, describe(configType, config), strings.Join(list, ","))
}

var _ = DescribeTable("a manifest is refused for", func(manifest, message string) {
	_, err := Parse("", []byte(manifest))
	Expect(err).To(MatchError(message))
},
	Entry("a list", `[]`, "the manifest does not have the form of one: it cannot be a JSON array"),
	Entry("a key twice", `{"schemaVersion":2,"layers":[],"layers":[]}`, `the manifest is not acceptable JSON: the key "layers" occurs twice in one object`),
	Entry("a key twice, far inside", `{"annotations":{"a":"1","a":"2"}}`, `the manifest is not acceptable JSON: the key "a" occurs twice in one object`),
	Entry("a key in other letters", `{"schemaVersion":2,"Layers":[]}`, `the manifest is not acceptable JSON: the key "Layers" is a field of manifests in other letters`),
	Entry("a key in letters that only fold", `{"layerſ":[]}`, `the manifest is not acceptable JSON: the key "layerſ" is a field of manifests in other letters`),
	Entry("a descriptor's key in other letters", `{"config":{"Digest":""}}`, `the manifest is not acceptable JSON: the key "Digest" is a field of manifests in other letters`),
	Entry("depth", strings.Repeat(`{"a":`, 33)+"0"+strings.Repeat("}", 33), "the manifest is not acceptable JSON: it is nested more than 32 deep"),
	Entry("depth that never ends", strings.Repeat(`[`, 1<<20), "the manifest is not acceptable JSON: it is nested more than 32 deep"),
	Entry("an end that is missing", `{"schemaVersion":2`, "the manifest does not have the form of one: unexpected end of JSON input"),
	Entry("a string that never ends", `{"schemaVersion":2,"layers":"`, "the manifest does not have the form of one: unexpected end of JSON input"),
	Entry("too many ends", `{"schemaVersion":2}}`, "the manifest does not have the form of one: invalid character '}' after top-level value"),
	Entry("a number that never ends", `{"schemaVersion":`+strings.Repeat("9", 1<<20)+`}`, "the manifest does not have the form of one: schemaVersion cannot be a JSON number"),
	Entry("more values than a manifest has", `{"schemaVersion":2,"manifests":[`+strings.Repeat("{},", 1<<20)+`{}]}`, "the manifest is not acceptable JSON: it has more than 250000 values"),
	Entry("a key twice, written in two ways", `{"layers":[],"l\u0061yers":[]}`, `the manifest is not acceptable JSON: the key "layers" occurs twice in one object`),
	Entry("a key in other letters, escaped", `{"\u004cayers":[]}`, `the manifest is not acceptable JSON: the key "Layers" is a field of manifests in other letters`),
	Entry("an image with manifests", strings.Replace(image, `"layers"`, `"manifests":[],"layers"`, 1), "a manifest of type "+imageType+" must not have manifests"),
	Entry("an index with layers", strings.Replace(index, `"manifests"`, `"layers":[],"manifests"`, 1), "a manifest of type "+indexType+" must not have a config or layers"),
	Entry("an image without config", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"layers":[]}`, imageType), "a manifest of type "+imageType+" must have a config and layers"),
	Entry("an image without layers", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s}`, imageType, describe(layerType, "")), "a manifest of type "+imageType+" must have a config and layers"),
	Entry("an index without manifests", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q}`, indexType), "a manifest of type "+indexType+" must have manifests"),
	Entry("Docker without mediaType", `{"schemaVersion":2}`, "neither the Content-Type header nor the manifest's mediaType says what the manifest is"),
	Entry("a descriptor without digest", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b"},"layers":[]}`, imageType),
		`a config has no valid digest: digest "" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`),
	Entry("a descriptor without mediaType", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"digest":%q}]}`, indexType, sha("")), "a manifest has no mediaType"),
	Entry("a negative size", fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":-1}]}`, indexType, imageType, sha("")), "manifest "+sha("")+" has a negative size"),
	Entry("a subject that is none", imageWith(`"subject":{"mediaType":"a/b","digest":"x"},`, "a/b", config),
		`a subject has no valid digest: digest "x" is invalid: use sha256:<64 hex digits> or sha512:<128 hex digits>`),
)

var _ = Describe("a manifest", func() {
	It("reads what an image refers to, as sets", func() {
		m, err := Parse("", []byte(imageWith(`"artifactType":"application/vnd.example","subject":`+describe(imageType, "s")+`,"annotations":{"Digest":"mine"},`, "a/config", config, layer, "other", layer)))
		Expect(err).NotTo(HaveOccurred())
		Expect(m.MediaType).To(Equal(imageType))
		Expect(m.ArtifactType).To(Equal("application/vnd.example"))
		Expect(m.Subject).To(Equal(digest.FromString("s")))
		Expect(m.Annotations).To(Equal(map[string]string{"Digest": "mine"}))
		Expect(m.Blobs).To(ConsistOf(digest.FromString(config), digest.FromString(layer), digest.FromString("other")))
		Expect(m.Children).To(BeEmpty())
		Expect(m.Foreign).To(BeEmpty())
	})
	It("takes the config's type for the artifact type of an image without one", func() {
		m, err := Parse("", []byte(image))
		Expect(err).NotTo(HaveOccurred())
		Expect(m.ArtifactType).To(Equal("application/vnd.oci.image.config.v1+json"))
	})
	It("tells manifests and other things in an index apart", func() {
		m, err := Parse("", []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s,%s,%s]}`, indexType,
			describe(DockerManifest, "a"), describe(layerType, "b"), describe(indexType, "c"))))
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Children).To(ConsistOf(digest.FromString("a"), digest.FromString("c")))
		Expect(m.Blobs).To(ConsistOf(digest.FromString("b")))
		Expect(m.ArtifactType).To(BeEmpty())
	})
	It("keeps foreign layers apart", func() {
		m, err := Parse("", []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, imageType,
			describe("a/config", config), describe("application/vnd.oci.image.layer.nondistributable.v1.tar", layer))))
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Blobs).To(ConsistOf(digest.FromString(config)))
		Expect(m.Foreign).To(ConsistOf(digest.FromString(layer)))
	})
	It("keeps the descriptors", func() {
		m, err := Parse("", []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":5,"platform":{"os":"linux","architecture":"arm","variant":"v7"},"annotations":{"a":"b"}}]}`,
			indexType, imageType, sha("child"))))
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Descriptors).To(ConsistOf(Descriptor{
			MediaType: imageType, Digest: digest.FromString("child"), Size: 5, Platform: &Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, Annotations: map[string]string{"a": "b"},
		}))
		m, err = Parse("", []byte(image))
		Expect(err).NotTo(HaveOccurred())
		Expect(m.Descriptors).To(HaveLen(2))
	})
})
