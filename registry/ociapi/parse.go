package ociapi

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
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1      = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1JWS   = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// foreignLayers are the media types of layers that clients fetch from elsewhere, and so need not push.
var foreignLayers = []string{
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
}

// manifestFields is what the registry reads of a manifest; the rest is the clients' own. Pointers tell an absent field
// from an empty one.
type manifestFields struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        *descriptor       `json:"config"`
	Layers        *[]descriptor     `json:"layers"`
	Manifests     *[]descriptor     `json:"manifests"`
	Subject       *descriptor       `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

func invalid(format string, args ...any) error {
	return domain.Errorf(domain.CodeManifestInvalid, format, args...)
}

// parseManifest reads a manifest and checks all that can be checked without the repository. The digest is left to the
// caller. Foreign are the blobs that need not be in the repository, but belong to the manifest where they are.
func parseManifest(contentType string, content []byte) (m domain.Manifest, foreign []digest.Digest, err error) {
	if err := checkJSON(content); err != nil {
		return m, nil, invalid("the manifest is not acceptable JSON: %v", err)
	}
	var fields manifestFields
	if err := json.Unmarshal(content, &fields); err != nil {
		return m, nil, formError(err)
	}
	mediaType, err := manifestType(contentType, fields)
	if err != nil {
		return m, nil, err
	}
	if err := checkMediaType("artifactType", fields.ArtifactType); err != nil {
		return m, nil, err
	}
	m = domain.Manifest{MediaType: mediaType, Size: int64(len(content)), Content: content, Annotations: fields.Annotations, ArtifactType: fields.ArtifactType}
	if fields.SchemaVersion != 2 {
		return m, nil, invalid("schemaVersion is %d; it must be 2", fields.SchemaVersion)
	}
	switch mediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest:
		foreign, err = readImage(&m, fields)
	default:
		m.Index = true
		err = readIndex(&m, fields)
	}
	if err == nil && fields.Subject != nil && (mediaType == ocispec.MediaTypeImageManifest || mediaType == ocispec.MediaTypeImageIndex) {
		m.Subject = fields.Subject.Digest
		err = fields.Subject.check("subject")
	}
	return m, foreign, err
}

// formError says why a text is no manifest, without repeating the text.
func formError(err error) error {
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		kind, _, _ := strings.Cut(wrong.Value, " ") // of a number it has the digits too
		return invalid("the manifest does not have the form of one: %s cannot be a JSON %s", cmp.Or(wrong.Field, "it"), kind)
	}
	return invalid("the manifest does not have the form of one: %v", err)
}

// manifestType finds the one media type on which header and body agree. Were they to differ, clients that look at the
// one would see another thing than clients that look at the other.
func manifestType(contentType string, fields manifestFields) (string, error) {
	declared := ""
	if contentType != "" {
		var err error
		if declared, _, err = mime.ParseMediaType(contentType); err != nil {
			return "", invalid("Content-Type %s is malformed", domain.Quote(contentType))
		}
	}
	mediaType := fields.MediaType
	switch {
	case declared == dockerSchema1 || declared == dockerSchema1JWS || mediaType == dockerSchema1 || (declared == "" && fields.SchemaVersion == 1):
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
	case dockerManifest, dockerManifestList:
		if fields.MediaType == "" {
			return "", invalid("a manifest of Docker's schema 2 must have its mediaType")
		}
		return mediaType, nil
	}
	return "", invalid("media type %s is not supported; use an OCI image manifest or index, or a Docker schema 2 manifest or manifest list (artifacts are OCI image manifests with an artifactType)", domain.Quote(mediaType))
}

// readImage takes over what an image manifest refers to.
func readImage(m *domain.Manifest, fields manifestFields) (foreign []digest.Digest, err error) {
	if fields.Manifests != nil {
		return nil, invalid("a manifest of type %s must not have manifests", m.MediaType)
	}
	if fields.Config == nil || fields.Layers == nil {
		return nil, invalid("a manifest of type %s must have a config and layers", m.MediaType)
	}
	if err := fields.Config.check("config"); err != nil {
		return nil, err
	}
	if m.ArtifactType == "" {
		m.ArtifactType = fields.Config.MediaType
	}
	m.Blobs = append(m.Blobs, fields.Config.Digest)
	for _, layer := range *fields.Layers {
		if err := layer.check("layer"); err != nil {
			return nil, err
		}
		if slices.Contains(foreignLayers, layer.MediaType) {
			foreign = append(foreign, layer.Digest)
		} else {
			m.Blobs = append(m.Blobs, layer.Digest)
		}
	}
	m.Blobs = distinct(m.Blobs)
	return distinct(foreign), nil
}

// readIndex takes over what an index refers to. BuildKit's cache export puts layers into an index, so that what has no
// manifest's type is a blob.
func readIndex(m *domain.Manifest, fields manifestFields) error {
	if fields.Config != nil || fields.Layers != nil {
		return invalid("a manifest of type %s must not have a config or layers", m.MediaType)
	}
	if fields.Manifests == nil {
		return invalid("a manifest of type %s must have manifests", m.MediaType)
	}
	for _, child := range *fields.Manifests {
		if err := child.check("manifest"); err != nil {
			return err
		}
		switch child.MediaType {
		case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerManifestList, dockerSchema1, dockerSchema1JWS:
			m.Children = append(m.Children, child.Digest)
		default:
			m.Blobs = append(m.Blobs, child.Digest)
		}
	}
	m.Children, m.Blobs = distinct(m.Children), distinct(m.Blobs)
	return nil
}

func (d descriptor) check(what string) error {
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
