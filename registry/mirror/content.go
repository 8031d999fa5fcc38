package mirror

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
)

// maxDepth bounds indexes in indexes, and referrers of referrers.
const maxDepth = 8

// copyContent copies what a manifest refers to.
func (r *repository) copyContent(ctx context.Context, m manifest.Manifest, depth int) error {
	if depth > maxDepth {
		return failed(kindBroken, "manifest %s is nested more than %d deep", m.Digest, maxDepth)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cap(r.tagSlots))
	for _, b := range distinct(m.Descriptors) {
		if has(m.Blobs, b.Digest) {
			group.Go(func() error { return r.copyBlob(ctx, b) })
		}
	}
	for _, child := range r.children(m) {
		group.Go(func() error { return r.copyChild(ctx, child, depth) })
	}
	return group.Wait()
}

// has reports whether a sorted set has a digest.
func has(set []digest.Digest, d digest.Digest) bool {
	_, found := slices.BinarySearch(set, d)
	return found
}

// distinct drops descriptors of what occurred before.
func distinct(descriptors []manifest.Descriptor) (list []manifest.Descriptor) {
	seen := map[digest.Digest]bool{}
	for _, d := range descriptors {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			list = append(list, d)
		}
	}
	return list
}

// attestationOf is the annotation by which BuildKit says to which manifest of the index an attestation belongs, which has no
// platform.
const attestationOf = "vnd.docker.reference.digest"

// children are the manifests of an index that are copied.
func (r *repository) children(m manifest.Manifest) (list []manifest.Descriptor) {
	selected := map[string]bool{}
	var attached []manifest.Descriptor
	for _, d := range distinct(m.Descriptors) {
		switch {
		case !has(m.Children, d.Digest):
		case d.Annotations[attestationOf] != "":
			attached = append(attached, d)
		case d.Platform == nil || r.platforms.Selects(platformOf(d)):
			selected[d.Digest.String()] = true
			list = append(list, d)
		}
	}
	for _, d := range attached {
		if r.platforms.All() || selected[d.Annotations[attestationOf]] {
			list = append(list, d)
		}
	}
	return list
}

// hasManifest reports whether a manifest is in the repository.
func (r *repository) hasManifest(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := r.core.Manifest(ctx, r.name, domain.Reference{Digest: d}, false)
	switch domain.CodeOf(err) {
	case domain.CodeManifestUnknown, domain.CodeNameUnknown:
		return false, nil
	default:
		if err != nil {
			return false, err
		}
	}
	r.core.FoundManifest(r.name, d)
	return true, nil
}

// copyChild copies a manifest of an index.
func (r *repository) copyChild(ctx context.Context, child manifest.Descriptor, depth int) error {
	here, err := r.hasManifest(ctx, child.Digest)
	if err != nil || here {
		return err
	}
	m, release, err := r.get(ctx, child.Digest.String(), levelChild+level(depth))
	if err != nil {
		return named("manifest", child, err)
	}
	defer release()
	if m.Size != child.Size {
		return failed(kindBroken, "manifest %s has %d bytes, and its index says %d", child.Digest, m.Size, child.Size)
	}
	return r.store(ctx, m, depth+1)
}

// named says that the upstream does not have what one of its own manifests refers to: that is no tag that vanished.
func named(what string, d manifest.Descriptor, err error) error {
	if isKind(err, kindMissing) {
		return failed(kindBroken, "the upstream does not have %s %s, which it refers to", what, d.Digest)
	}
	return err
}

// store copies a manifest under its digest.
func (r *repository) store(ctx context.Context, m manifest.Manifest, depth int) error {
	if err := r.copyContent(ctx, m, depth); err != nil {
		return err
	}
	_, err := r.core.PutManifest(ctx, r.claim.Caller, r.name, core.Push{
		Reference: domain.Reference{Digest: m.Digest}, Manifest: m.Manifest, Create: core.CreateRepository, Partial: r.partial(m),
	})
	return err
}
