package core

import (
	"errors"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

// locked decides whether a live tag is locked: by a hold, or by an enforced policy that covers it now. The policy is
// nil for a tag that is only held by hand.
func locked(r *meta.Reader, set policy.Set, path string, tag domain.Tag) (bool, *domain.PolicyRef, error) {
	if covering := set.Locking(path, tag.ID, tag.Name); covering != nil {
		return true, covering.Ref(), nil
	}
	holds, err := r.Holds([]domain.Tag{tag})
	if err != nil || len(holds) == 0 {
		return false, nil, err
	}
	for _, h := range holds {
		if h.PolicyID == meta.ByHand {
			continue
		}
		p, err := r.PolicyByID(h.PolicyID)
		if err != nil {
			return false, nil, err
		}
		return true, p.Ref(), nil
	}
	return true, nil, nil
}

// lockOf returns why a live tag may not change, or nil if it may.
func lockOf(r *meta.Reader, set policy.Set, path string, tag domain.Tag) (*domain.LockError, error) {
	is, ref, err := locked(r, set, path, tag)
	if err != nil || !is {
		return nil, err
	}
	return &domain.LockError{Tags: []string{tag.Name}, Count: 1, Digest: tag.Digest, Policy: ref, Policies: []*domain.PolicyRef{ref}}, nil
}

// lockAbove looks for a locked tag that leads to a manifest: one of its own, or one of an index that holds it or of a
// subject that it refers to, at any distance. It returns nil if there is none.
//
// It asks for holds first, which is cheap, and only then runs the other names through the policies.
func lockAbove(r *meta.Reader, set policy.Set, repo domain.Repository, start domain.Manifest) (*domain.LockError, error) {
	seen := map[int64]bool{start.ID: true}
	queue := []domain.Manifest{start}
	for i := 0; i < len(queue); i++ {
		held, err := r.HeldTagsOfManifest(queue[i].ID, 1)
		if err != nil {
			return nil, err
		}
		if len(held) > 0 {
			return lockOfTags(r, set, repo, queue[i].ID)
		}
		above, err := leadsTo(r, repo.ID, queue[i])
		if err != nil {
			return nil, err
		}
		for _, m := range above {
			if !seen[m.ID] {
				seen[m.ID] = true
				queue = append(queue, m)
			}
		}
	}
	for _, m := range queue {
		if lock, err := lockOfTags(r, set, repo, m.ID); err != nil || lock != nil {
			return lock, err
		}
	}
	return nil, nil
}

// leadsTo lists the manifests through which a locked tag protects m: the indexes that have it as a child, and its
// subject.
func leadsTo(r *meta.Reader, repositoryID int64, m domain.Manifest) ([]domain.Manifest, error) {
	ids, err := r.ParentsOf(repositoryID, m.Digest)
	if err != nil {
		return nil, err
	}
	var above []domain.Manifest
	for _, id := range ids {
		parent, err := r.ManifestByID(id)
		if err != nil {
			return nil, err
		}
		above = append(above, parent)
	}
	if m.Subject != "" {
		subject, err := r.Manifest(repositoryID, m.Subject)
		switch {
		case err == nil:
			above = append(above, subject)
		case !errors.Is(err, meta.ErrNotFound):
			return nil, err
		}
	}
	return above, nil
}

// lockOfTags collects the locked tags that point to a manifest, nil if there is none.
func lockOfTags(r *meta.Reader, set policy.Set, repo domain.Repository, manifestID int64) (*domain.LockError, error) {
	tags, err := r.TagsOfManifest(manifestID)
	if err != nil {
		return nil, err
	}
	var lock *domain.LockError
	for _, tag := range tags {
		is, ref, err := locked(r, set, repo.Name.Path, tag)
		switch {
		case err != nil:
			return nil, err
		case !is:
			continue
		case lock == nil:
			lock = &domain.LockError{Digest: tag.Digest, Policy: ref}
		}
		lock.Count++
		if len(lock.Tags) < domain.LockSample {
			lock.Tags = append(lock.Tags, tag.Name)
			lock.Policies = append(lock.Policies, ref)
		}
	}
	return lock, nil
}

// lockInside looks for locked tags in a repository, or with an empty path in a whole organization, for its deletion.
// The sample names them as "path:tag" in an organization.
func lockInside(r *meta.Reader, set policy.Set, organizationID int64, path string) (*domain.LockError, error) {
	var lock domain.LockError
	var first meta.ScannedTag
	err := r.ScanTags(organizationID, path, meta.ByHand, func(t meta.ScannedTag) error {
		if t.Holds == 0 && set.Locking(t.Repository, t.ID, t.Name) == nil {
			return nil
		}
		if lock.Count++; lock.Count == 1 {
			first = t
		}
		if len(lock.Tags) < domain.LockSample {
			name := t.Name
			if path == "" {
				name = t.Repository + ":" + t.Name
			}
			lock.Tags = append(lock.Tags, name)
		}
		return nil
	})
	if err != nil || lock.Count == 0 {
		return nil, err
	}
	lock.Digest = first.Digest
	_, lock.Policy, err = locked(r, set, first.Repository, domain.Tag{ID: first.ID, Name: first.Name})
	return &lock, err
}

// refusedError leaves a transaction: the change is undone, the refusals are recorded, the answer goes to the client.
type refusedError struct {
	answer   *domain.Error
	refusals []refusal
}

func (e *refusedError) Error() string { return e.answer.Message }

// refuse makes the refusal of an operation on locked tags of a repository, with one entry for each tag that the answer
// names.
func refuse(kind audit.Kind, operation string, name domain.RepositoryName, lock *domain.LockError, attempted string) error {
	e := &refusedError{answer: domain.Immutable(operation, lock)}
	for i, tag := range lock.Tags {
		own := *lock
		own.Policy = lock.Policies[i]
		e.refusals = append(e.refusals, newRefusal(kind, operation, aboutTag(name, tag), &own, attempted, e.answer.Message))
	}
	return e
}
