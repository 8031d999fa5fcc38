package mirror

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
	"github.com/tidelock/tidelock/registry/selection"
)

// quay lists by Quay's API, which Tidelock has too: with credentials what their owner may read, else what is public.
type quay struct{ *upstream }

func (q *quay) repositories(ctx context.Context, page string) (names []string, next string, err error) {
	query := url.Values{"namespace": {q.namespace}, "public": {"true"}, "repo_kind": {"image"}}
	if page != "" {
		query.Set("next_page", page)
	}
	var list struct {
		Repositories []struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
			Kind      string `json:"kind"`
		} `json:"repositories"`
		NextPage string `json:"next_page"`
	}
	if _, err := q.getJSON(ctx, request{target: "/api/v1/repository?" + query.Encode()}, &list); err != nil {
		return nil, "", err
	}
	for _, r := range list.Repositories {
		if (r.Namespace == "" || r.Namespace == q.namespace) && (r.Kind == "" || r.Kind == "image") {
			names = append(names, r.Name)
		}
	}
	return names, list.NextPage, nil
}

// quayPage is how many tags a page of Quay has at most.
const quayPage = 100

func (q *quay) tags(ctx context.Context, repository string) (tags []tag, err error) {
	for page := 1; page <= maxPages; page++ {
		var list struct {
			Tags []struct {
				Name   string        `json:"name"`
				Digest digest.Digest `json:"manifest_digest"`
			} `json:"tags"`
			More bool `json:"has_additional"`
		}
		r := request{target: fmt.Sprintf("/api/v1/repository/%s/tag/?limit=%d&page=%d&onlyActiveTags=true", q.full(repository), quayPage, page)}
		if _, err := q.getJSON(ctx, r, &list); err != nil {
			return nil, err
		}
		for _, t := range list.Tags {
			tags = append(tags, tag{name: t.Name, digest: known(t.Digest)})
		}
		if !list.More || len(list.Tags) == 0 {
			return tags, nil
		}
		if len(tags) > maxTags {
			break
		}
	}
	return nil, failed(kindBroken, "%s has more than %d tags", q.full(repository), maxTags)
}

// known is a digest that the registry could verify, else empty.
func known(d digest.Digest) digest.Digest {
	if _, err := domain.ParseDigest(d.String()); err != nil {
		return ""
	}
	return d
}

// harbor lists by Harbor's API, version 2.0 (https://github.com/goharbor/harbor/blob/main/api/v2.0/swagger.yaml).
type harbor struct {
	*upstream
	// accessories says that signatures are to be listed too.
	accessories bool
}

// harborPage is how many items a page of Harbor has at most.
const harborPage = 100

// page reads a page of a list, and finds the target of the next one. A server whose pages have no Link header says by a
// full page that there may be another.
func (h *harbor) page(ctx context.Context, target string, into any, length func() int) (next string, err error) {
	r := request{target: target}
	header, err := h.getJSON(ctx, r, into)
	if err != nil {
		return "", err
	}
	path, text, _ := strings.Cut(target, "?")
	query, err := url.ParseQuery(text)
	if err != nil {
		return "", failed(kindBroken, "%s: the path is none", h.where(r))
	}
	link, err := h.nextPage(r, header)
	switch {
	case err != nil:
		return "", err
	case link != "":
		// Of the link only the number counts: not all versions escape their own paths right.
		query.Set("page", fmt.Sprint(pageNumber(link)))
	case len(header.Values("Link")) > 0 || length() < harborPage:
		return "", nil
	default:
		query.Set("page", fmt.Sprint(pageNumber(target)+1))
	}
	if next = path + "?" + query.Encode(); next == target {
		return "", failed(kindBroken, "%s: the next page is said to be the same page", h.where(r))
	}
	return next, nil
}

// pageNumber reads the number of the page that a target asks for, 1 if it names none.
func pageNumber(target string) (n int) {
	address, err := url.Parse(target)
	if err != nil {
		return 1
	}
	if _, err := fmt.Sscan(address.Query().Get("page"), &n); err != nil {
		return 1
	}
	return n
}

func (h *harbor) repositories(ctx context.Context, page string) (names []string, next string, err error) {
	target := page
	if target == "" {
		target = fmt.Sprintf("/api/v2.0/projects/%s/repositories?page=1&page_size=%d", pagePath(h.namespace), harborPage)
	}
	var list []struct {
		Name string `json:"name"`
	}
	if next, err = h.page(ctx, target, &list, func() int { return len(list) }); err != nil {
		return nil, "", err
	}
	for _, r := range list {
		if name, ok := strings.CutPrefix(r.Name, h.namespace+"/"); ok {
			names = append(names, name)
		}
	}
	return names, next, nil
}

// artifact is what Harbor says of a manifest. Signatures of cosign are accessories of what they sign: they have no tags
// in this list, though they can be pulled by them.
type artifact struct {
	Digest digest.Digest `json:"digest"`
	Tags   []struct {
		Name string `json:"name"`
	} `json:"tags"`
	Accessories []struct {
		Digest  digest.Digest `json:"digest"`
		Type    string        `json:"type"`
		Subject digest.Digest `json:"subject_artifact_digest"`
	} `json:"accessories"`
}

// cosignAccessory is Harbor's type of cosign's signatures, whether by tag or by reference.
const cosignAccessory = "signature.cosign"

func (h *harbor) tags(ctx context.Context, repository string) (tags []tag, err error) {
	// A slash in a name is escaped twice: there are proxies that resolve the one escape.
	target := fmt.Sprintf("/api/v2.0/projects/%s/repositories/%s/artifacts?page=1&page_size=%d&with_tag=true", pagePath(h.namespace), pagePath(pagePath(repository)), harborPage)
	if h.accessories {
		target += "&with_accessory=true"
	}
	for range maxPages {
		var list []artifact
		next, err := h.page(ctx, target, &list, func() int { return len(list) })
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			for _, t := range a.Tags {
				tags = append(tags, tag{name: t.Name, digest: known(a.Digest)})
			}
			for _, s := range a.Accessories {
				if subject := known(s.Subject); s.Type == cosignAccessory && subject != "" {
					tags = append(tags, tag{name: subject.Algorithm().String() + "-" + subject.Encoded() + ".sig", digest: known(s.Digest), doubtful: true})
				}
			}
		}
		if next == "" {
			return tags, nil
		}
		if target = next; len(tags) > maxTags {
			break
		}
	}
	return nil, failed(kindBroken, "%s has more than %d tags", h.full(repository), maxTags)
}

// oci lists by the OCI Distribution Specification. Not every registry has a catalog, and none has one of a namespace:
// where the mirror names its repositories, nothing is listed.
type oci struct {
	*upstream
	filter selection.Repositories
}

// ociPage is how many names a page has: distribution refuses to be asked for more.
const ociPage = 1000

func (o *oci) repositories(ctx context.Context, page string) (names []string, next string, err error) {
	if names, plain := o.filter.Names(); plain {
		return names, "", nil
	}
	r := request{target: page, scope: "registry:catalog:*"}
	if page == "" {
		r.target = fmt.Sprintf("/v2/_catalog?n=%d", ociPage)
	}
	var list struct {
		Repositories []string `json:"repositories"`
	}
	header, err := o.getJSON(ctx, r, &list)
	if page == "" && (isKind(err, kindMissing) || isKind(err, kindUnsupported) || isKind(err, kindCredentials)) {
		return nil, "", failed(kindUnsupported, "%s; a registry without a catalog needs the plain names of the repositories in repositories.include", reason(err))
	}
	if err != nil {
		return nil, "", err
	}
	prefix := o.full("")
	for _, name := range list.Repositories {
		if below, ok := strings.CutPrefix(name, prefix); ok && below != "" {
			names = append(names, below)
		}
	}
	next, err = o.nextPage(r, header)
	return names, next, err
}

func (o *oci) tags(ctx context.Context, repository string) (tags []tag, err error) {
	r := o.registry("GET", repository, "tags/list?n=%d", ociPage)
	for range maxPages {
		var list struct {
			Tags []string `json:"tags"`
		}
		header, err := o.getJSON(ctx, r, &list)
		if err != nil {
			return nil, err
		}
		for _, name := range list.Tags {
			tags = append(tags, tag{name: name})
		}
		if r.target, err = o.nextPage(r, header); err != nil || r.target == "" {
			return tags, err
		}
		if len(tags) > maxTags {
			break
		}
	}
	return nil, failed(kindBroken, "%s has more than %d tags", o.full(repository), maxTags)
}

// platformOf is what an index says of one of its manifests' platforms; empty if it says nothing.
func platformOf(d manifest.Descriptor) selection.Platform {
	if d.Platform == nil {
		return selection.Platform{}
	}
	return selection.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant}
}
