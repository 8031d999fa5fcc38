package mirror

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
)

// outcome is what became of a tag.
type outcome int

const (
	unchanged outcome = iota
	copied
	skipped
	conflicting
)

// syncTag copies one tag with all that hangs on it, in its time. Its error is one that ends the repository.
func (r *repository) syncTag(ctx context.Context, t tag) error {
	within, cancel := context.WithTimeout(ctx, r.claim.Mirror.Timeout)
	defer cancel()
	result, err := r.copyTag(within, t, levelImage)
	if domain.CodeOf(err) == domain.CodeManifestBlobUnknown {
		// Something that was found here was collected before the manifest named it.
		r.mu.Lock()
		clear(r.known)
		r.mu.Unlock()
		result, err = r.copyTag(within, t, levelImage)
	}
	return r.settle(ctx, t.name, result, err)
}

// settle counts what became of a tag.
func (r *repository) settle(ctx context.Context, name string, result outcome, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, core.ErrSyncOver) {
		return err
	}
	if isKind(err, kindMissing) {
		result, err = skipped, nil // it vanished since it was listed
	}
	if err != nil {
		r.fail(name, err)
	}
	r.count(func(p *domain.MirrorProgress) {
		switch {
		case err != nil:
			p.Tags.Failed++
		case result == copied:
			p.Tags.Copied++
		case result == skipped:
			p.Tags.Skipped++
		case result == conflicting:
			p.Tags.Conflicts++
		default:
			p.Tags.Unchanged++
		}
	})
	if err != nil {
		r.engine.metrics.failures.Inc()
	}
	r.reached(err)
	return nil
}

// copyTag copies a tag, unless it is here already, with what hangs on it, if that is asked for.
func (r *repository) copyTag(ctx context.Context, t tag, level level) (outcome, error) {
	standing, stands := r.standing[t.name]
	d := t.digest
	var err error
	if d == "" && stands {
		if d, err = r.up.resolve(ctx, r.path, t.name); err != nil {
			return 0, err
		}
	}
	if stands && d == standing.Digest {
		return r.refresh(ctx, standing, level)
	}
	reference := d.String()
	if d == "" || t.doubtful {
		reference = t.name
	}
	m, release, err := r.get(ctx, reference, level)
	if err != nil {
		return 0, err
	}
	defer release()
	if stands && m.Digest == standing.Digest {
		return r.refresh(ctx, standing, level)
	}
	if stands {
		if result, done, err := r.tryLocked(ctx, standing, m); done || err != nil {
			return result, err
		}
	}
	if err := r.copyContent(ctx, m, 0); err != nil {
		return 0, err
	}
	if level == levelImage {
		if err := r.copyAttached(ctx, m); err != nil {
			return 0, err
		}
	}
	return r.put(ctx, t.name, m)
}

// get gets a manifest from the upstream. The caller releases it when it is done with it.
func (r *repository) get(ctx context.Context, reference string, level level) (m manifest.Manifest, release func(), err error) {
	room := &room{slots: r.engine.large[level]}
	if m, err = r.up.manifest(ctx, r.path, reference, room); err != nil {
		room.leave()
		return m, nil, err
	}
	return m, room.leave, nil
}

// put points a tag to a manifest whose content is here.
func (r *repository) put(ctx context.Context, name string, m manifest.Manifest) (outcome, error) {
	_, err := r.core.PutManifest(ctx, r.claim.Caller, r.name, core.Push{
		Reference: domain.Reference{Tag: name}, Manifest: m.Manifest, Create: core.CreateRepository, Partial: r.partial(m),
	})
	if domain.CodeOf(err) == domain.CodeTagImmutable {
		r.conflict(name, m.Digest, err)
		return conflicting, nil
	}
	return copied, err
}

// partial reports whether an index is stored without some of its manifests.
func (r *repository) partial(m manifest.Manifest) bool { return m.Index && !r.platforms.All() }

// tryLocked asks core about a tag that is locked before anything is fetched for it: it is refused, with the entry that
// every refusal has.
func (r *repository) tryLocked(ctx context.Context, standing core.TagView, m manifest.Manifest) (result outcome, done bool, err error) {
	if !standing.Immutable {
		return 0, false, nil
	}
	_, err = r.core.PutManifest(ctx, r.claim.Caller, r.name, core.Push{Reference: domain.Reference{Tag: standing.Name}, Manifest: m.Manifest})
	switch domain.CodeOf(err) {
	case domain.CodeTagImmutable:
		r.conflict(standing.Name, m.Digest, err)
		return conflicting, true, nil
	case domain.CodeManifestBlobUnknown:
		return 0, false, nil // it may be changed after all, by what is not here yet
	default:
		return copied, true, err
	}
}

// locked reports whether a tag is, now.
func (r *repository) locked(ctx context.Context, name string) (bool, error) {
	views, err := r.core.ListTags(ctx, r.name, core.TagQuery{Tag: name, Limit: 1})
	if err != nil || len(views) == 0 {
		return false, err
	}
	return views[0].Immutable, nil
}

func (r *repository) conflict(name string, upstream digest.Digest, err error) {
	c := domain.MirrorConflict{Repository: r.path, Tag: name, Upstream: upstream, Reason: err.Error()}
	var known *domain.Error
	if errors.As(err, &known) && known.Lock != nil {
		c.Standing = known.Lock.Digest
		if known.Lock.Signature != nil {
			c.Standing = known.Lock.Signature.Digest
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conflicts) < domain.MaxMirrorFailures {
		r.conflicts = append(r.conflicts, c)
	}
}

// refresh looks after a tag whose manifest is here: what refers to it may be new, and of a sparse index platforms may
// have been selected since.
func (r *repository) refresh(ctx context.Context, standing core.TagView, level level) (outcome, error) {
	result := unchanged
	sparse, err := r.isSparse(ctx, standing)
	if err != nil {
		return 0, err
	}
	if sparse {
		more, err := r.completeIndex(ctx, standing.Digest)
		if err != nil {
			return 0, err
		}
		if more {
			result = copied
		}
	}
	if level != levelImage {
		return result, nil
	}
	more, err := r.copyReferrers(ctx, standing.Digest, 0)
	if err != nil {
		return 0, err
	}
	if more {
		result = copied
	}
	return result, r.copySignatures(ctx, standing.Digest)
}

// isSparse reports whether a tag's index was stored without some of its manifests.
func (r *repository) isSparse(ctx context.Context, standing core.TagView) (bool, error) {
	if standing.MediaType != ocispec.MediaTypeImageIndex && standing.MediaType != manifest.DockerManifestList {
		return false, nil
	}
	return r.core.IsSparse(ctx, domain.Manifest{ID: standing.ManifestID})
}

// completeIndex copies the manifests of a stored index that are selected and not here.
func (r *repository) completeIndex(ctx context.Context, d digest.Digest) (more bool, err error) {
	stored, err := r.core.Manifest(ctx, r.name, domain.Reference{Digest: d}, true)
	if err != nil {
		return false, err
	}
	m, err := manifest.Parse(stored.MediaType, stored.Content)
	if err != nil {
		return false, err
	}
	m.Digest = d
	for _, child := range r.children(m) {
		here, err := r.hasManifest(ctx, child.Digest)
		if err != nil {
			return more, err
		}
		if !here {
			more = true
			if err := r.copyChild(ctx, child, 0); err != nil {
				return more, err
			}
		}
	}
	return more, nil
}
