package ociapi

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// maxPage is the most entries of one page, and of the page without ?n=. Who asks for more gets a Link to the rest.
	maxPage = 1000
	// maxReferrersSize bounds a page of referrers in bytes: clients read it as a manifest, and annotations can be long.
	maxReferrersSize = domain.MaxManifest - 4096
)

// ping tells clients that this is a registry, and whether their credentials work.
func (a *API) ping(*request) (answer, error) { return document(struct{}{}, "application/json", "") }

func (a *API) catalog(r *request) (answer, error) {
	names, next, err := namePage(r, func(after string, limit int) ([]string, error) {
		return a.core.Catalog(r.Context(), r.identity.Audience(), after, limit)
	})
	if err != nil {
		return answer{}, err
	}
	return document(struct {
		Repositories []string `json:"repositories"`
	}{names}, "application/json", next)
}

func (a *API) tags(r *request) (answer, error) {
	names, next, err := namePage(r, func(after string, limit int) ([]string, error) {
		return a.core.Tags(r.Context(), r.name, after, limit)
	})
	if err != nil {
		return answer{}, err
	}
	return document(struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{r.name.String(), names}, "application/json", next)
}

// namePage reads one page of names, and the address of the next one if there is one. With n=0 the page is empty and has
// no next.
func namePage(r *request, list func(after string, limit int) ([]string, error)) (names []string, next string, err error) {
	size, err := pageSize(r.URL.Query())
	if err != nil {
		return nil, "", err
	}
	last, err := parameter(r.URL.Query(), "last")
	if err != nil {
		return nil, "", err
	}
	names, err = list(last, size+1)
	if err != nil {
		return nil, "", err
	}
	if len(names) > size {
		names = names[:size]
		if size > 0 {
			next = nextPage(r, names[size-1], size)
		}
	}
	if names == nil {
		names = []string{} // "[]", not "null"
	}
	return names, next, nil
}

// parameter reads a parameter that is compared with names. It is empty if the request does not have it.
func parameter(query url.Values, name string) (string, error) {
	value := query.Get(name)
	if len(value) > domain.MaxRepositoryName || !printable(value) {
		return "", domain.Errorf(domain.CodeInvalid, "%s=%s is not allowed: at most %d bytes of text", name, domain.Quote(value), domain.MaxRepositoryName)
	}
	return value, nil
}

func pageSize(query url.Values) (int, error) {
	if !query.Has("n") {
		return maxPage, nil
	}
	n, ok := parseOffset(query.Get("n"))
	if !ok {
		return 0, domain.Errorf(domain.CodeInvalid, "n=%s is not a number of entries", domain.Quote(query.Get("n")))
	}
	return int(min(n, maxPage)), nil
}

// nextPage is the address behind an entry, with the request's other parameters.
func nextPage(r *request, last string, size int) string {
	query := r.URL.Query()
	query.Set("last", last)
	query.Set("n", strconv.Itoa(size))
	return (&url.URL{Path: r.URL.Path, RawQuery: query.Encode()}).String()
}

// referrers lists the manifests whose subject is a digest. That there is no such manifest, or no such repository, is no
// error: subjects may come after their referrers, and to clients a 404 means a registry without this list.
func (a *API) referrers(r *request) (answer, error) {
	subject, err := r.digest()
	if err != nil {
		return answer{}, err
	}
	query := r.URL.Query()
	size, err := pageSize(query)
	if err != nil {
		return answer{}, err
	}
	artifactType, err := parameter(query, "artifactType")
	if err != nil {
		return answer{}, err
	}
	last, err := parameter(query, "last")
	if err != nil {
		return answer{}, err
	}
	page := referrersPage{SchemaVersion: 2, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	next := ""
	if size > 0 {
		list, more, err := a.core.Referrers(r.Context(), r.name, core.ReferrersQuery{
			Subject: subject, ArtifactType: artifactType, After: digest.Digest(last), Limit: size, Size: maxReferrersSize,
		})
		if err != nil && domain.CodeOf(err) != domain.CodeNameUnknown {
			return answer{}, err
		}
		for _, m := range list {
			page.Manifests = append(page.Manifests, ocispec.Descriptor{
				MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, Annotations: m.Annotations, ArtifactType: m.ArtifactType,
			})
		}
		if more {
			next = nextPage(r, list[len(list)-1].Digest.String(), size)
		}
	}
	result, err := document(page, ocispec.MediaTypeImageIndex, next)
	if artifactType != "" && err == nil {
		result.header.Set("Oci-Filters-Applied", "artifactType")
	}
	return result, err
}

// referrersPage is an OCI image index.
type referrersPage struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
}

// document makes an answer of JSON, with a Link to the next page unless that is empty (RFC 8288).
func document(value any, contentType, next string) (answer, error) {
	body, err := marshal(value)
	if err != nil {
		return answer{}, err
	}
	header := http.Header{"Content-Type": {contentType}}
	if next != "" {
		header.Set("Link", "<"+next+`>; rel="next"`)
	}
	return answer{status: http.StatusOK, header: header, body: body}, nil
}
