package policy

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// SignatureTag is the name of a tag by which clients attach signatures and the like to a manifest, its subject, without
// a field "subject": cosign's "<algorithm>-<hex>.sig" and ".att", and "<algorithm>-<hex>", the referrers tag of the OCI
// Distribution Specification 1.1 ("Referrers Tag Schema").
type SignatureTag struct {
	// Subject is the subject's digest, or what it begins with: the specification cuts the digits of a digest off after
	// 64, so of a sha512 digest half of them are left. That is enough to tell digests apart.
	Subject string
	// Suffix is "sig", "att", or empty for the referrers tag.
	Suffix string
}

var signatureTag = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64})(?:\.(sig|att))?$`)

// ParseSignatureTag reads the name of a tag, and reports whether it is one of a signature tag.
func ParseSignatureTag(name string) (SignatureTag, bool) {
	parts := signatureTag.FindStringSubmatch(name)
	if parts == nil {
		return SignatureTag{}, false
	}
	return SignatureTag{Subject: parts[1] + ":" + parts[2], Suffix: parts[3]}, true
}

// Content is a manifest with its media type.
type Content struct {
	MediaType string
	Bytes     []byte
}

// signatureLayers are the media types of layers that are signatures (simple signing) and attestations (DSSE).
var signatureLayers = []string{"application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.dsse.envelope.v1+json"}

// Keeps reports whether a manifest may take the place of the one that the tag points to, since it keeps all that is
// attached there:
//
//   - under .sig and .att, both are images of one media type whose layers are signatures or attestations, and each
//     layer that was there is there as often, with the same annotations, which hold the signature. Their config and
//     order say nothing.
//   - under the referrers tag, both are OCI indexes, and each entry that was there is there as often. Entries lists the
//     manifests of the new index, each of which must be a referrer of the subject.
func (t SignatureTag) Keeps(standing, next Content) (entries []digest.Digest, keeps bool) {
	if standing.MediaType != next.MediaType {
		return nil, false
	}
	list := "layers"
	if t.Suffix == "" {
		list = "manifests"
		if next.MediaType != ocispec.MediaTypeImageIndex {
			return nil, false
		}
	}
	before, after := readDescriptors(standing.Bytes, list), readDescriptors(next.Bytes, list)
	if before == nil || after == nil {
		return nil, false
	}
	counts := map[string]int{}
	for _, d := range after {
		counts[d.whole]++
		entries = append(entries, d.digest)
		if t.Suffix != "" && !slices.Contains(signatureLayers, d.mediaType) {
			return nil, false
		}
	}
	for _, d := range before {
		if counts[d.whole]--; counts[d.whole] < 0 {
			return nil, false
		}
	}
	return entries, true
}

// descriptor is a descriptor of a manifest; whole is all of it, written in one way.
type descriptor struct {
	whole     string
	mediaType string
	digest    digest.Digest
}

// readDescriptors reads a list of descriptors of a manifest, nil if it has none.
func readDescriptors(manifest []byte, list string) []descriptor {
	var fields map[string]json.RawMessage
	if json.Unmarshal(manifest, &fields) != nil {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(fields[list]))
	decoder.UseNumber()
	var items []map[string]any
	if decoder.Decode(&items) != nil {
		return nil
	}
	descriptors := make([]descriptor, 0, len(items))
	for _, item := range items {
		whole, err := json.Marshal(item)
		if err != nil {
			return nil
		}
		mediaType, _ := item["mediaType"].(string)
		d, _ := item["digest"].(string)
		descriptors = append(descriptors, descriptor{whole: string(whole), mediaType: mediaType, digest: digest.Digest(d)})
	}
	return descriptors
}
