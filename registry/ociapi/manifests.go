package ociapi

import (
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
)

// getManifest serves the exact bytes that were pushed, or 304 to whom has them. Accept is not looked at: a registry that
// refused would break clients that can read the answer very well.
func (a *API) getManifest(r *request) (answer, error) {
	ref, err := domain.ParseReference(r.reference)
	if err != nil {
		return answer{}, manifestUnknown(r, err)
	}
	m, err := a.core.Manifest(r.Context(), r.name, ref, r.Method != http.MethodHead)
	if err != nil {
		return answer{}, err
	}
	if r.Method == http.MethodHead {
		a.core.FoundManifest(r.name, m.Digest)
	}
	etag := etagOf(m.Digest)
	header := http.Header{"Content-Type": {m.MediaType}, "Docker-Content-Digest": {m.Digest.String()}, "Etag": {etag}}
	if err := checkIfMatch(r.Header, etag); err != nil {
		return answer{}, err
	}
	if matchesETag(r.Header, etag) {
		return answer{status: http.StatusNotModified, header: header}, nil
	}
	return answer{status: http.StatusOK, header: header, body: m.Content, length: m.Size}, nil
}

// A manifest larger than largeManifest takes many times its size in memory, and long to store: maxLarge of them are
// worked on at once, the others wait for their turn.
const (
	largeManifest = 256 << 10
	maxLarge      = 2
)

// putManifest checks a manifest by itself and gives it to core, which checks it against the repository.
func (a *API) putManifest(r *request) (answer, error) {
	ref, err := domain.ParseReference(r.reference)
	if err != nil {
		return answer{}, err
	}
	tags, err := tagParameters(ref, r.URL.Query()["tag"])
	if err != nil {
		return answer{}, err
	}
	content, err := readManifest(r)
	if err != nil {
		return answer{}, err
	}
	if len(content) > largeManifest {
		select {
		case a.large <- struct{}{}:
			defer func() { <-a.large }()
		case <-r.Context().Done():
			return answer{}, r.Context().Err()
		}
	}
	m, err := manifest.Parse(r.Header.Get("Content-Type"), content)
	if err != nil {
		return answer{}, err
	}
	algorithm := digest.SHA256
	if ref.Digest != "" {
		algorithm = ref.Digest.Algorithm()
	}
	m.Digest = algorithm.FromBytes(content)
	if ref.Digest != "" && m.Digest != ref.Digest {
		return answer{}, domain.Errorf(domain.CodeDigestInvalid, "the manifest's digest is %s, not %s", m.Digest, ref.Digest)
	}
	for _, d := range m.Foreign {
		switch _, err := a.core.Blob(r.Context(), r.name, d); domain.CodeOf(err) {
		case "":
			m.Blobs = append(m.Blobs, d)
		case domain.CodeBlobUnknown, domain.CodeNameUnknown:
		default:
			return answer{}, err
		}
	}
	result, err := a.core.PutManifest(r.Context(), r.identity.Caller, r.name, core.Push{
		Reference: ref, Tags: tags, Manifest: m.Manifest, Create: r.create(), Precondition: precondition(r.Header),
	})
	if err != nil {
		return answer{}, err
	}
	header := http.Header{
		"Location": {"/v2/" + r.name.String() + "/manifests/" + result.Digest.String()}, "Docker-Content-Digest": {result.Digest.String()},
	}
	if result.Subject != "" {
		header.Set("Oci-Subject", result.Subject.String())
	}
	for _, tag := range tags {
		header.Add("Oci-Tag", tag)
	}
	return answer{status: http.StatusCreated, header: header}, nil
}

// maxTagParameters is how many tags one push by digest may set: as many as the specification asks registries for.
const maxTagParameters = 10

// tagParameters reads the tags that a push by digest names as parameters, each once, in the order of the request.
func tagParameters(ref domain.Reference, values []string) (tags []string, err error) {
	if len(values) > 0 && ref.Digest == "" {
		return nil, domain.Errorf(domain.CodeTagInvalid, "tags are parameters of a push by digest only; push %s by its digest, or without parameters", ref.Tag)
	}
	for _, tag := range values {
		if slices.Contains(tags, tag) {
			continue
		}
		if err := domain.ValidateTag(tag); err != nil {
			return nil, err
		}
		if tags = append(tags, tag); len(tags) > maxTagParameters {
			return nil, &failure{
				status: http.StatusRequestURITooLong,
				cause:  domain.Errorf(domain.CodeUnsupported, "one push sets at most %d tags; push the same digest again with the others", maxTagParameters),
			}
		}
	}
	return tags, nil
}

// deleteManifest deletes a tag, or a manifest with all of its tags.
func (a *API) deleteManifest(r *request) (answer, error) {
	ref, err := domain.ParseReference(r.reference)
	if err != nil {
		return answer{}, manifestUnknown(r, err)
	}
	if ref.Tag != "" {
		err = a.core.DeleteTag(r.Context(), r.identity.Caller, r.name, ref.Tag)
	} else {
		err = a.core.DeleteManifest(r.Context(), r.identity.Caller, r.name, ref.Digest)
	}
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusAccepted}, nil
}

// manifestUnknown answers to what can be no tag: nothing is there. A malformed digest is the client's mistake.
func manifestUnknown(r *request, err error) error {
	if domain.CodeOf(err) == domain.CodeTagInvalid {
		return domain.Errorf(domain.CodeManifestUnknown, "there is no manifest %s in %s", domain.Quote(r.reference), r.name)
	}
	return err
}

// readManifest reads a body of at most domain.MaxManifest bytes.
func readManifest(r *request) ([]byte, error) {
	if r.ContentLength > domain.MaxManifest {
		return nil, tooLarge()
	}
	content, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, domain.MaxManifest))
	if limit := new(http.MaxBytesError); errors.As(err, &limit) {
		return nil, tooLarge()
	}
	if err != nil {
		return nil, domain.Errorf(domain.CodeManifestInvalid, "the body ended early")
	}
	return content, nil
}

func tooLarge() error {
	return &failure{
		status: http.StatusRequestEntityTooLarge,
		cause:  domain.Errorf(domain.CodeSizeInvalid, "a manifest has at most %d bytes", domain.MaxManifest),
	}
}
