package mirror

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
)

// signaturesOf are the signature tags of a manifest, which nobody else deals with from now on.
func (r *repository) signaturesOf(subject digest.Digest) (tags []tag) {
	prefix := subject.Algorithm().String() + ":" + subject.Encoded()[:min(64, len(subject.Encoded()))]
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.signatures[prefix] {
		if !r.done[t.name] {
			r.done[t.name] = true
			tags = append(tags, t)
		}
	}
	return tags
}

// copyAttached copies what refers to a manifest and to what it has of its children: before the tag, so that nobody sees the
// image without its signatures.
func (r *repository) copyAttached(ctx context.Context, m manifest.Manifest) error {
	if r.claim.Mirror.Referrers != domain.ReferrersCopy {
		return nil
	}
	subjects := []digest.Digest{m.Digest}
	for _, child := range r.children(m) {
		subjects = append(subjects, child.Digest)
	}
	for _, subject := range subjects {
		if _, err := r.copyReferrers(ctx, subject, 0); err != nil {
			return err
		}
		if err := r.copySignatures(ctx, subject); err != nil {
			return err
		}
	}
	return nil
}

// copyReferrers copies what refers to a manifest and is not here, with what refers to that.
func (r *repository) copyReferrers(ctx context.Context, subject digest.Digest, depth int) (more bool, err error) {
	if r.claim.Mirror.Referrers != domain.ReferrersCopy || depth > maxDepth {
		return false, nil
	}
	list, err := r.up.referrers(ctx, r.path, subject)
	if err != nil {
		return false, err
	}
	for _, d := range distinct(list) {
		if known(d.Digest) == "" {
			return more, failed(kindBroken, "the upstream lists a referrer of %s without a valid digest", subject)
		}
		here, err := r.hasManifest(ctx, d.Digest)
		if err != nil {
			return more, err
		}
		if here {
			continue
		}
		copied, err := r.copyReferrer(ctx, subject, d.Digest, depth)
		if err != nil {
			return more, err
		}
		more = more || copied
	}
	return more, nil
}

func (r *repository) copyReferrer(ctx context.Context, subject, d digest.Digest, depth int) (bool, error) {
	m, release, err := r.get(ctx, d.String(), levelReferrer+level(depth))
	if isKind(err, kindMissing) {
		return false, nil // it was removed since it was listed
	}
	if err != nil {
		return false, err
	}
	defer release()
	if m.Subject != subject {
		return false, failed(kindBroken, "the upstream lists %s as a referrer of %s, which it is not", d, subject)
	}
	if err := r.store(ctx, m, 0); err != nil {
		return false, err
	}
	_, err = r.copyReferrers(ctx, d, depth+1)
	return true, err
}

// copySignatures copies the signature tags of a manifest. They count as tags of their own, and a failure of one is one of
// the tag that it belongs to too: who asks for the image must find its signatures.
func (r *repository) copySignatures(ctx context.Context, subject digest.Digest) error {
	var failures []error
	for _, t := range r.signaturesOf(subject) {
		r.count(func(p *domain.MirrorProgress) { p.Tags.Discovered++ })
		result, err := r.copySignature(ctx, t)
		if isKind(err, kindMissing) && t.doubtful {
			r.count(func(p *domain.MirrorProgress) { p.Tags.Discovered-- })
			continue
		}
		if err != nil && !isKind(err, kindMissing) {
			failures = append(failures, err)
		}
		if err := r.settle(ctx, t.name, result, err); err != nil {
			return err
		}
	}
	if len(failures) > 0 {
		return failures[0]
	}
	return nil
}

func (r *repository) copySignature(ctx context.Context, t tag) (outcome, error) {
	if _, stands := r.standing[t.name]; t.doubtful && !stands && t.digest != "" {
		// Where it came as a referrer there is no such tag.
		if here, err := r.hasManifest(ctx, t.digest); err != nil {
			return 0, err
		} else if here {
			return 0, failed(kindMissing, "there is no such tag")
		}
	}
	return r.copyTag(ctx, t, levelSignature)
}

// syncSignatures copies the signature tags that are left whose subject is here without a selected tag of its own: manifests
// of indexes that did not change, and signatures themselves.
func (r *repository) syncSignatures(ctx context.Context) error {
	for again := true; again; {
		again = false
		for subject, tags := range r.signatures {
			left := slices.ContainsFunc(tags, func(t tag) bool { return !r.done[t.name] })
			// A sha512 digest that was cut off cannot be looked up; it is found by the tag of its image.
			if !left || !strings.HasPrefix(subject, digest.SHA256.String()) {
				continue
			}
			here, err := r.hasManifest(ctx, digest.Digest(subject))
			if err != nil {
				return err
			}
			if !here {
				continue
			}
			again = true
			if err := r.syncSignaturesOf(ctx, digest.Digest(subject)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *repository) syncSignaturesOf(ctx context.Context, subject digest.Digest) error {
	within, cancel := context.WithTimeout(ctx, r.claim.Mirror.Timeout)
	defer cancel()
	err := r.copySignatures(within, subject)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, core.ErrSyncOver):
		return err
	}
	return nil // it is counted
}
