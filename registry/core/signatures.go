package core

import (
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

// protectionOf returns why a live tag may neither go away nor lose what it points to, or nil if it may: a lock of its
// own, or, of a signature tag, a lock that its subject belongs to.
func (ch *change) protectionOf(set policy.Set, repo domain.Repository, tag domain.Tag) (*domain.LockError, error) {
	lock, err := lockOf(&ch.Reader, set, repo.Name.Path, tag)
	if err != nil || lock != nil {
		return lock, err
	}
	signature, ok := policy.ParseSignatureTag(tag.Name)
	if !ok {
		return nil, nil
	}
	subject, err := subjectOf(&ch.Reader, repo.ID, signature)
	if err != nil || subject == nil {
		return nil, err
	}
	if lock, err = ch.lockAbove(set, repo, *subject); err == nil && lock != nil {
		lock.Signature = &domain.SignatureLock{Tag: tag.Name, Digest: tag.Digest, Subject: subject.Digest}
	}
	return lock, err
}

// subjectOf finds the manifest that a signature tag belongs to, nil if the repository does not have it.
func subjectOf(r *meta.Reader, repositoryID int64, signature policy.SignatureTag) (*meta.Node, error) {
	subject, err := r.NodeByPrefix(repositoryID, signature.Subject)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	return &subject, err
}

// appends reports whether pointing a protected tag to a manifest only adds to what is attached there. Only signature tags
// can be added to, and none that is held by hand: whoever placed that hold meant the tag as it is.
func (ch *change) appends(repo domain.Repository, tag domain.Tag, to domain.Manifest) (bool, error) {
	signature, ok := policy.ParseSignatureTag(tag.Name)
	if !ok {
		return false, nil
	}
	holds, err := ch.Holds([]domain.Tag{tag})
	if err != nil {
		return false, err
	}
	for _, h := range holds {
		if h.PolicyID == meta.ByHand {
			return false, nil
		}
	}
	standing, err := ch.ManifestContent(tag.ManifestID)
	if err != nil {
		return false, err
	}
	next := to.Content
	if next == nil {
		if next, err = ch.ManifestContent(to.ID); err != nil {
			return false, err
		}
	}
	entries, keeps := signature.Keeps(policy.Content{MediaType: tag.MediaType, Bytes: standing}, policy.Content{MediaType: to.MediaType, Bytes: next})
	if !keeps || signature.Suffix != "" {
		return keeps, nil
	}
	return ch.referTo(repo, signature, entries)
}

// referTo reports whether each of the manifests is in the repository and refers to the subject of a referrers tag, which
// itself need not be there.
func (ch *change) referTo(repo domain.Repository, signature policy.SignatureTag, manifests []digest.Digest) (bool, error) {
	found, err := ch.NodesOf(repo.ID, manifests)
	if err != nil {
		return false, err
	}
	refers := make(map[digest.Digest]bool, len(found))
	for _, n := range found {
		refers[n.Digest] = strings.HasPrefix(n.Subject.String(), signature.Subject)
	}
	return !slices.ContainsFunc(manifests, func(d digest.Digest) bool { return !refers[d] }), nil
}
