package policy_test

import (
	"fmt"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/policy"
)

func TestParseSignatureTag(t *testing.T) {
	g := NewWithT(t)
	hex := strings.Repeat("0123456789abcdef", 4)
	for name, want := range map[string]policy.SignatureTag{
		"sha256-" + hex:          {Subject: "sha256:" + hex},
		"sha256-" + hex + ".sig": {Subject: "sha256:" + hex, Suffix: "sig"},
		"sha256-" + hex + ".att": {Subject: "sha256:" + hex, Suffix: "att"},
		"sha512-" + hex:          {Subject: "sha512:" + hex},
		"sha512-" + hex + ".sig": {Subject: "sha512:" + hex, Suffix: "sig"},
	} {
		tag, ok := policy.ParseSignatureTag(name)
		g.Expect(ok).To(BeTrue(), name)
		g.Expect(tag).To(Equal(want), name)
	}
	for _, name := range []string{
		"", "v1", "sha256-" + hex[1:], "sha256-" + hex + "0", "sha512-" + hex + hex, "sha384-" + hex, "sha256-" + strings.ToUpper(hex),
		"sha256-" + hex + ".sbom", "sha256-" + hex + ".sig.sig", "sha256-" + hex + "\n", "x-sha256-" + hex,
	} {
		_, ok := policy.ParseSignatureTag(name)
		g.Expect(ok).To(BeFalse(), name)
	}
}

func TestKeepsReadsWholeDescriptors(t *testing.T) {
	g := NewWithT(t)
	const image = "application/vnd.oci.image.manifest.v1+json"
	tag := policy.SignatureTag{Suffix: "sig"}
	manifest := func(layers ...string) policy.Content {
		return policy.Content{MediaType: image, Bytes: fmt.Appendf(nil, `{"layers":[%s]}`, strings.Join(layers, ","))}
	}
	signature := func(fields string) string {
		return `{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"sha256:a"` + fields + `}`
	}
	for name, c := range map[string]struct {
		before, after string
		keeps         bool
	}{
		"the same":                        {signature(`,"size":1`), signature(`,"size":1`), true},
		"written in another order":        {signature(`,"size":1,"annotations":{"a":"1","b":"2"}`), signature(`,"annotations":{"b":"2","a":"1"},"size":1`), true},
		"another size":                    {signature(`,"size":1`), signature(`,"size":2`), false},
		"sizes that are one as floats":    {signature(`,"size":9007199254740993`), signature(`,"size":9007199254740992`), false},
		"an annotation less":              {signature(`,"annotations":{"a":"1"}`), signature(``), false},
		"a field more":                    {signature(``), signature(`,"data":"eA=="`), false},
		"another annotation":              {signature(`,"annotations":{"a":"1"}`), signature(`,"annotations":{"a":"2"}`), false},
		"something that is no descriptor": {signature(``), signature(``) + `,1`, false},
	} {
		_, keeps := tag.Keeps(manifest(c.before), manifest(c.after))
		g.Expect(keeps).To(Equal(c.keeps), name)
	}
	_, keeps := tag.Keeps(manifest(), policy.Content{MediaType: image, Bytes: []byte(`{`)})
	g.Expect(keeps).To(BeFalse())
	_, keeps = tag.Keeps(policy.Content{MediaType: image, Bytes: []byte(`{}`)}, manifest(signature(``)))
	g.Expect(keeps).To(BeFalse(), "what has no layers is no signature")
}

func TestOnlyIndexesOfOCIAreReferrersTags(t *testing.T) {
	g := NewWithT(t)
	for mediaType, want := range map[string]bool{
		"application/vnd.oci.image.index.v1+json":                   true,
		"application/vnd.docker.distribution.manifest.list.v2+json": false,
	} {
		list := policy.Content{MediaType: mediaType, Bytes: []byte(`{"manifests":[{"digest":"sha256:a"},{"digest":"sha256:b"}]}`)}
		entries, keeps := policy.SignatureTag{}.Keeps(list, list)
		g.Expect(keeps).To(Equal(want), mediaType)
		if want {
			g.Expect(entries).To(HaveExactElements(HaveSuffix("a"), HaveSuffix("b")))
		}
	}
}

func FuzzKeeps(f *testing.F) {
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.dsse.envelope.v1+json"}]}`), []byte(`{"manifests":[]}`))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		for _, suffix := range []string{"", "sig"} {
			for _, mediaType := range []string{"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"} {
				tag := policy.SignatureTag{Suffix: suffix}
				_, same := tag.Keeps(policy.Content{MediaType: mediaType, Bytes: after}, policy.Content{MediaType: mediaType, Bytes: after})
				_, keeps := tag.Keeps(policy.Content{MediaType: mediaType, Bytes: before}, policy.Content{MediaType: mediaType, Bytes: after})
				if keeps && !same {
					t.Errorf("%q may follow %q, but not itself", after, before)
				}
			}
		}
	})
}
