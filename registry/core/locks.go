package core

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

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

// walkPart is how many manifests a walk takes at once, between two looks at the clock.
const walkPart = 256

// lockAbove looks for a locked tag that leads to a manifest: one of its own, or one of an index that holds it, of a
// subject that it refers to, or of the subject of a signature tag that points to it, at any distance. It returns nil if
// there is none.
//
// It asks for holds first, which is cheap, and only then runs the other names through the policies. If that takes
// longer than Options.DecisionTimeout, the answer is UNAVAILABLE.
func (ch *change) lockAbove(set policy.Set, repo domain.Repository, start ...meta.Node) (*domain.LockError, error) {
	seen := map[int64]bool{}
	var queue []meta.Node
	add := func(nodes []meta.Node) {
		for _, n := range nodes {
			if !seen[n.ID] {
				seen[n.ID] = true
				queue = append(queue, n)
			}
		}
	}
	add(start)
	for from := 0; from < len(queue); {
		part := queue[from:min(from+walkPart, len(queue))]
		from += len(part)
		if err := ch.inTime(); err != nil {
			return nil, err
		}
		held, err := ch.HeldNode(part)
		if err != nil {
			return nil, err
		}
		if held != 0 {
			return lockOfTags(&ch.Reader, set, repo, held)
		}
		above, err := leadTo(&ch.Reader, repo.ID, part)
		if err != nil {
			return nil, err
		}
		add(above)
	}
	return ch.lockByPolicy(set, repo, queue)
}

// inTime fails once the decision about a lock has taken too long.
func (ch *change) inTime() error {
	if time.Now().After(ch.decideBy) {
		return domain.Unavailable(errors.New("it took too long to find out whether a locked tag leads to a manifest"))
	}
	return nil
}

// lockByPolicy looks for a tag of one of the manifests that a policy covers.
func (ch *change) lockByPolicy(set policy.Set, repo domain.Repository, manifests []meta.Node) (*domain.LockError, error) {
	for from := 0; from < len(manifests); from += walkPart {
		if err := ch.inTime(); err != nil {
			return nil, err
		}
		var covered int64
		err := ch.EachTagOf(manifests[from:min(from+walkPart, len(manifests))], func(manifestID, tagID int64, name string) bool {
			if set.Locking(repo.Name.Path, tagID, name) != nil {
				covered = manifestID
			}
			return covered == 0
		})
		if err != nil {
			return nil, err
		}
		if covered != 0 {
			return lockOfTags(&ch.Reader, set, repo, covered)
		}
	}
	return nil, nil
}

// leadTo lists the manifests through which a locked tag protects those of the list: the indexes that have them as
// children, the subjects that they refer to, and the subjects of signature tags that point to them.
func leadTo(r *meta.Reader, repositoryID int64, list []meta.Node) ([]meta.Node, error) {
	var digests, subjects []digest.Digest
	for _, n := range list {
		digests = append(digests, n.Digest)
		if n.Subject != "" {
			subjects = append(subjects, n.Subject)
		}
	}
	above, err := r.ParentsOf(repositoryID, digests)
	if err != nil {
		return nil, err
	}
	found, err := r.NodesOf(repositoryID, subjects)
	if err != nil {
		return nil, err
	}
	above = append(above, found...)
	names, err := r.SignatureTagsOf(list)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		signature, ok := policy.ParseSignatureTag(name)
		if !ok {
			continue
		}
		subject, err := subjectOf(r, repositoryID, signature)
		if err != nil {
			return nil, err
		}
		if subject != nil {
			above = append(above, *subject)
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
	holds, err := r.Holds(tags)
	if err != nil {
		return nil, err
	}
	held := map[int64]bool{}
	for _, h := range holds {
		held[h.TagID] = true
	}
	var lock domain.LockError
	for _, tag := range tags {
		if !held[tag.ID] && set.Locking(repo.Name.Path, tag.ID, tag.Name) == nil {
			continue
		}
		if lock.Count++; len(lock.Tags) == domain.LockSample {
			continue
		}
		_, ref, err := locked(r, set, repo.Name.Path, tag)
		if err != nil {
			return nil, err
		}
		if lock.Count == 1 {
			lock.Digest, lock.Policy = tag.Digest, ref
		}
		lock.Tags, lock.Policies = append(lock.Tags, tag.Name), append(lock.Policies, ref)
	}
	if lock.Count == 0 {
		return nil, nil
	}
	return &lock, nil
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
// names. Where the tags lock the subject of a signature tag, it has one entry, about the signature tag.
func refuse(kind audit.Kind, operation string, name domain.RepositoryName, lock *domain.LockError, attempted string) error {
	e := &refusedError{answer: domain.Immutable(operation, lock)}
	if s := lock.Signature; s != nil {
		r := newRefusal(kind, operation, aboutTag(name, s.Tag), lock, attempted, e.answer.Message)
		r.metadata["manifest_digest"] = s.Digest.String()
		r.metadata["subject_digest"] = s.Subject.String()
		r.metadata["subject_tags"] = lock.Tags
		e.refusals = []refusal{r}
		return e
	}
	for i, tag := range lock.Tags {
		own := *lock
		own.Policy = lock.Policies[i]
		e.refusals = append(e.refusals, newRefusal(kind, operation, aboutTag(name, tag), &own, attempted, e.answer.Message))
	}
	return e
}
