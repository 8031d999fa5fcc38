// Package manifest reads manifests: as strictly as somebody must on whose reading a deletion or a lock depends. It is pure.
package manifest

import (
	"cmp"
	"encoding/json"
	"errors"
	"mime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/domain"
)

// Docker's media types of manifests
// (https://github.com/distribution/distribution/blob/main/docs/content/spec/manifest-v2-2.md).
const (
	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerSchema1      = "application/vnd.docker.distribution.manifest.v1+json"
	DockerSchema1JWS   = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// foreignLayers are the media types of layers that clients fetch from elsewhere, and so need not push.
var foreignLayers = []string{
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
}

// fields is what the registry reads of a manifest; the rest is the clients' own. Pointers tell an absent field from an
// empty one.
type fields struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *Descriptor       `json:"config"`
	Layers        *[]Descriptor     `json:"layers"`
	Manifests     *[]Descriptor     `json:"manifests"`
	Subject       *Descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// Descriptor is what a manifest says of something that it refers to.
type Descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *Platform         `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// Platform is what an index says of the platform of one of its manifests.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant"`
}

// Manifest is a manifest that was read.
type Manifest struct {
	// The digest is left to whoever knows by which algorithm it goes.
	domain.Manifest
	// Foreign are the blobs that need not be in the repository, but belong to the manifest where they are.
	Foreign []digest.Digest
	// Descriptors are those of Blobs and Children, as the manifest has them.
	Descriptors []Descriptor
}

func invalid(format string, args ...any) error {
	return domain.Errorf(domain.CodeManifestInvalid, format, args...)
}

// Parse reads a manifest and checks all that can be checked without its repository.
func Parse(contentType string, content []byte) (m Manifest, err error) {
	if err := checkJSON(content); err != nil {
		return m, invalid("the manifest is not acceptable JSON: %v", err)
	}
	var f fields
	if err := json.Unmarshal(content, &f); err != nil {
		return m, formError(err)
	}
	mediaType, err := typeOf(contentType, f)
	if err != nil {
		return m, err
	}
	if err := checkMediaType("artifactType", f.ArtifactType); err != nil {
		return m, err
	}
	m.Manifest = domain.Manifest{MediaType: mediaType, Size: int64(len(content)), Content: content, Annotations: f.Annotations, ArtifactType: f.ArtifactType}
	if f.SchemaVersion != 2 {
		return m, invalid("schemaVersion is %d; it must be 2", f.SchemaVersion)
	}
	switch mediaType {
	case ocispec.MediaTypeImageManifest, DockerManifest:
		err = m.readImage(f)
	default:
		m.Index = true
		err = m.readIndex(f)
	}
	if err == nil && f.Subject != nil && (mediaType == ocispec.MediaTypeImageManifest || mediaType == ocispec.MediaTypeImageIndex) {
		m.Subject = f.Subject.Digest
		err = f.Subject.check("subject")
	}
	return m, err
}

// formError says why a text is no manifest, without repeating the text.
func formError(err error) error {
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		kind, _, _ := strings.Cut(wrong.Value, " ") // of a number it has the digits too
		return invalid("the manifest does not have the form of one: %s cannot be a JSON %s", cmp.Or(wrong.Field, "it"), kind)
	}
	return invalid("the manifest does not have the form of one: %v", err)
}

// typeOf finds the one media type on which header and body agree. Were they to differ, clients that look at the
// one would see another thing than clients that look at the other.
func typeOf(contentType string, f fields) (string, error) {
	declared := ""
	if contentType != "" {
		var err error
		if declared, _, err = mime.ParseMediaType(contentType); err != nil {
			return "", invalid("Content-Type %s is malformed", domain.Quote(contentType))
		}
	}
	mediaType := f.MediaType
	switch {
	case declared == DockerSchema1 || declared == DockerSchema1JWS || mediaType == DockerSchema1 || (declared == "" && f.SchemaVersion == 1):
		return "", invalid("Docker's image manifest schema 1 is not supported; push the image again with a client that writes schema 2 or OCI manifests")
	case declared == "" && mediaType == "":
		return "", invalid("neither the Content-Type header nor the manifest's mediaType says what the manifest is")
	case mediaType == "":
		mediaType = declared
	case declared != "" && declared != mediaType:
		return "", invalid("Content-Type is %s, but the manifest's mediaType is %s", domain.Quote(declared), domain.Quote(mediaType))
	}
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex:
		return mediaType, nil
	case DockerManifest, DockerManifestList:
		if f.MediaType == "" {
			return "", invalid("a manifest of Docker's schema 2 must have its mediaType")
		}
		return mediaType, nil
	}
	return "", invalid("media type %s is not supported; use an OCI image manifest or index, or a Docker schema 2 manifest or manifest list (artifacts are OCI image manifests with an artifactType)", domain.Quote(mediaType))
}

// readImage takes over what an image manifest refers to.
func (m *Manifest) readImage(f fields) error {
	if f.Manifests != nil {
		return invalid("a manifest of type %s must not have manifests", m.MediaType)
	}
	if f.Config == nil || f.Layers == nil {
		return invalid("a manifest of type %s must have a config and layers", m.MediaType)
	}
	if err := f.Config.check("config"); err != nil {
		return err
	}
	if m.ArtifactType == "" {
		m.ArtifactType = f.Config.MediaType
	}
	m.Blobs = append(m.Blobs, f.Config.Digest)
	for _, layer := range *f.Layers {
		if err := layer.check("layer"); err != nil {
			return err
		}
		if slices.Contains(foreignLayers, layer.MediaType) {
			m.Foreign = append(m.Foreign, layer.Digest)
		} else {
			m.Blobs = append(m.Blobs, layer.Digest)
		}
	}
	m.Descriptors = append(*f.Layers, *f.Config)
	m.Blobs, m.Foreign = distinct(m.Blobs), distinct(m.Foreign)
	return nil
}

// readIndex takes over what an index refers to. BuildKit's cache export puts layers into an index, so that what has no
// manifest's type is a blob.
func (m *Manifest) readIndex(f fields) error {
	if f.Config != nil || f.Layers != nil {
		return invalid("a manifest of type %s must not have a config or layers", m.MediaType)
	}
	if f.Manifests == nil {
		return invalid("a manifest of type %s must have manifests", m.MediaType)
	}
	for _, child := range *f.Manifests {
		if err := child.check("manifest"); err != nil {
			return err
		}
		switch child.MediaType {
		case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, DockerManifest, DockerManifestList, DockerSchema1, DockerSchema1JWS:
			m.Children = append(m.Children, child.Digest)
		default:
			m.Blobs = append(m.Blobs, child.Digest)
		}
	}
	m.Descriptors = *f.Manifests
	m.Children, m.Blobs = distinct(m.Children), distinct(m.Blobs)
	return nil
}

func (d Descriptor) check(what string) error {
	if d.MediaType == "" {
		return invalid("a %s has no mediaType", what)
	}
	if err := checkMediaType(what+"'s mediaType", d.MediaType); err != nil {
		return err
	}
	if _, err := domain.ParseDigest(d.Digest.String()); err != nil {
		return invalid("a %s has no valid digest: %v", what, err)
	}
	if d.Size < 0 {
		return invalid("%s %s has a negative size", what, d.Digest)
	}
	return nil
}

// maxMediaType bounds media types, in bytes: two names of at most 127 characters each (RFC 6838, section 4.2).
const maxMediaType = 255

// checkMediaType bounds a media type, so that a list of what has it stays short. It leaves the grammar to the clients.
func checkMediaType(what, text string) error {
	if len(text) > maxMediaType {
		return invalid("the %s is %d bytes long; at most %d are allowed", what, len(text), maxMediaType)
	}
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' {
			return invalid("the %s %s must consist of printable ASCII characters", what, domain.Quote(text))
		}
	}
	return nil
}

// distinct sorts digests and drops repetitions.
func distinct(digests []digest.Digest) []digest.Digest {
	slices.Sort(digests)
	return slices.Compact(digests)
}
