package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
	"github.com/tidelock/tidelock/registry/selection"
)

// lister lists what an upstream has, in the way of one kind of upstream.
type lister interface {
	// repositories lists a page of the repositories below the namespace, and names the next page: empty if there is none,
	// and for the first one.
	repositories(ctx context.Context, page string) (names []string, next string, err error)
	// tags lists the tags of a repository.
	tags(ctx context.Context, repository string) ([]tag, error)
}

// tag is a tag of the upstream. The digest is empty where the list does not have it.
type tag struct {
	name   string
	digest digest.Digest
	// doubtful is set where only the manifest is known to be there, perhaps without the tag.
	doubtful bool
}

// Bounds of lists: an upstream that never comes to an end is broken.
const (
	maxPages        = 100_000
	maxRepositories = 1_000_000
	maxTags         = 1_000_000
)

// upstream is a mirror's upstream: its lists, and its content by the OCI Distribution Specification.
type upstream struct {
	*client
	lister
	namespace string
	// noReferrers is set when the upstream turned out to have no referrers API.
	noReferrers atomic.Bool
}

func (e *Engine) newUpstream(spec domain.MirrorSpec, secrets domain.MirrorSecrets) (*upstream, error) {
	repositories, err := selection.CompileRepositories(spec.Repositories)
	if err != nil {
		return nil, err
	}
	c, err := e.newClient(spec.Source, secrets, spec.Concurrency)
	if err != nil {
		return nil, err
	}
	u := &upstream{client: c, namespace: spec.Source.Namespace}
	switch spec.Source.Type {
	case domain.UpstreamQuay:
		u.lister = &quay{upstream: u}
	case domain.UpstreamHarbor:
		u.lister = &harbor{upstream: u, accessories: spec.Referrers == domain.ReferrersCopy}
	default:
		u.lister = &oci{upstream: u, filter: repositories}
	}
	return u, nil
}

// full is the name of a repository at the upstream.
func (u *upstream) full(repository string) string {
	if u.namespace == "" {
		return repository
	}
	return u.namespace + "/" + repository
}

// registry is a request to the upstream's registry about a repository.
func (u *upstream) registry(method, repository, format string, args ...any) request {
	return request{
		method: method, target: "/v2/" + u.full(repository) + "/" + fmt.Sprintf(format, args...), scope: "repository:" + u.full(repository) + ":pull",
	}
}

// acceptable are the media types of manifests that the registry stores.
var acceptable = []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, manifest.DockerManifestList, manifest.DockerManifest}

func (u *upstream) manifestRequest(method, repository, reference string) request {
	r := u.registry(method, repository, "manifests/%s", reference)
	r.header = http.Header{"Accept": {strings.Join(acceptable, ", ")}}
	r.follow = true
	return r
}

// resolve asks what a tag points to; empty if the upstream does not say.
func (u *upstream) resolve(ctx context.Context, repository, tag string) (digest.Digest, error) {
	response, err := u.send(ctx, u.manifestRequest(http.MethodHead, repository, tag))
	if isKind(err, kindUnsupported) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	discard(response)
	d, err := domain.ParseDigest(response.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return "", nil //nolint:nilerr // the manifest itself will tell
	}
	return d, nil
}

// manifest gets a manifest by tag or digest. Its digest is computed, and what was asked for by digest has it. For a large
// one there must be room.
func (u *upstream) manifest(ctx context.Context, repository, reference string, room *room) (m manifest.Manifest, err error) {
	r := u.manifestRequest(http.MethodGet, repository, reference)
	response, err := u.send(ctx, r)
	if err == nil && (response.ContentLength < 0 || response.ContentLength > largeManifest) && !room.try() {
		// Nobody waits with an answer open: those who have the room may need the connection.
		_ = response.Body.Close()
		if err = room.wait(ctx); err == nil {
			response, err = u.send(ctx, r)
		}
	}
	if err != nil {
		return m, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err := readBounded(response.Body, domain.MaxManifest)
	if err != nil {
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		return m, failed(kindUnreachable, "%s: the manifest cannot be read: %s", u.where(r), reason(err))
	}
	if m, err = manifest.Parse(response.Header.Get("Content-Type"), content); err != nil {
		return m, failed(kindBroken, "%s: %s", u.where(r), err.Error())
	}
	want, err := domain.ParseDigest(reference)
	if err != nil {
		want, err = domain.ParseDigest(response.Header.Get("Docker-Content-Digest"))
	}
	if err != nil {
		m.Digest = digest.SHA256.FromBytes(content)
		return m, nil
	}
	if m.Digest = want.Algorithm().FromBytes(content); m.Digest != want {
		return m, failed(kindBroken, "%s: the manifest has the digest %s, not %s", u.where(r), m.Digest, want)
	}
	return m, nil
}

// maxReferrers bounds what refers to one manifest.
const maxReferrers = 10_000

// referrers lists what refers to a manifest. An upstream without the API has none but by their tags.
func (u *upstream) referrers(ctx context.Context, repository string, subject digest.Digest) (list []manifest.Descriptor, err error) {
	if u.noReferrers.Load() {
		return nil, nil
	}
	r := u.registry(http.MethodGet, repository, "referrers/%s", subject)
	r.header = http.Header{"Accept": {ocispec.MediaTypeImageIndex}}
	for page := 0; ; page++ {
		var index struct {
			Manifests []manifest.Descriptor `json:"manifests"`
		}
		header, err := u.getJSON(ctx, r, &index)
		if page == 0 && (isKind(err, kindMissing) || isKind(err, kindUnsupported)) {
			// The specification has an empty list for what has none, so there is no such API.
			u.noReferrers.Store(true)
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, index.Manifests...)
		if r.target, err = u.nextPage(r, header); err != nil || r.target == "" {
			return list, err
		}
		if len(list) > maxReferrers || page > maxPages {
			return nil, failed(kindBroken, "%s: more than %d manifests refer to %s", u.where(r), maxReferrers, subject)
		}
	}
}

// maxResumes is how often a download is resumed that brings nothing more.
const maxResumes = 5

// download reads a blob. Where the connection breaks it goes on behind the last byte. It ends with an error if the blob is
// longer than it should be; whether it is the right one is for whoever has the bytes to say.
type download struct {
	ctx  context.Context
	up   *upstream
	r    request
	size int64
	// at is how many bytes came, fresh of them since the last break.
	at, fresh int64
	broken    int
	body      io.ReadCloser
	// slow is called with the bytes that came, and waits as long as they should have taken.
	slow func(context.Context, int) error
}

// blob begins to read a blob, at an offset.
func (u *upstream) blob(ctx context.Context, repository string, blob manifest.Descriptor, offset int64, slow func(context.Context, int) error) *download {
	r := u.registry(http.MethodGet, repository, "blobs/%s", blob.Digest)
	r.follow = true
	return &download{ctx: ctx, up: u, r: r, size: blob.Size, at: offset, slow: slow}
}

func (d *download) Read(p []byte) (int, error) {
	for {
		if d.at == d.size {
			return 0, io.EOF
		}
		if d.body == nil {
			if err := d.open(); err != nil {
				return 0, err
			}
		}
		n, err := d.body.Read(p)
		d.at, d.fresh = d.at+int64(n), d.fresh+int64(n)
		if d.at > d.size {
			d.Close()
			return 0, failed(kindBroken, "%s: the blob has more than the %d bytes that the manifest says", d.up.where(d.r), d.size)
		}
		if n > 0 {
			return n, d.slow(d.ctx, n)
		}
		if err == nil {
			continue
		}
		d.Close()
		if d.ctx.Err() != nil {
			return 0, d.ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if d.fresh > 0 {
			d.broken = 0
		}
		d.fresh = 0
		if d.broken++; d.broken > maxResumes {
			return 0, failed(kindUnreachable, "%s: the blob breaks off again and again after %d of %d bytes: %s", d.up.where(d.r), d.at, d.size, reason(err))
		}
	}
}

// open asks for what is left. An upstream that knows no ranges sends all of it: what is here already is passed over.
func (d *download) open() error {
	r := d.r
	if d.at > 0 {
		r.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", d.at)}}
	}
	response, err := d.up.send(d.ctx, r) //nolint:bodyclose // Close does
	if err != nil {
		return err
	}
	d.body = response.Body
	if d.at == 0 {
		return nil
	}
	if response.StatusCode == http.StatusPartialContent {
		if !strings.HasPrefix(strings.TrimPrefix(response.Header.Get("Content-Range"), "bytes "), fmt.Sprintf("%d-", d.at)) {
			d.Close()
			return failed(kindBroken, "%s: the upstream sends another range than it was asked for", d.up.where(r))
		}
		return nil
	}
	if _, err := io.CopyN(io.Discard, d.body, d.at); err != nil {
		d.Close()
		return failed(kindUnreachable, "%s: the blob breaks off: %s", d.up.where(r), reason(err))
	}
	return nil
}

// Close ends the connection.
func (d *download) Close() {
	if d.body != nil {
		_ = d.body.Close()
		d.body = nil
	}
}

// pagePath escapes a segment of a path of an upstream's API.
func pagePath(segment string) string { return url.PathEscape(segment) }
