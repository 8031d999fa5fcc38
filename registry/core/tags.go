package core

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

// findTag finds a live tag, nil if there is none.
func (ch *change) findTag(repo domain.Repository, name string) (*domain.Tag, error) {
	tag, err := ch.Tag(repo.ID, name)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, nil
	}
	return &tag, err
}

// tagPlan is a decided change of a tag: nothing forbids it.
type tagPlan struct {
	repo domain.Repository
	// tag is nil for a tag that is to be created.
	tag  *domain.Tag
	name string
	set  policy.Set
	// appends is true for a protected signature tag that is only added to.
	appends bool
}

// planTag decides whether a tag may come to point to a manifest, which is stored or has its content. It changes nothing.
func (ch *change) planTag(repo domain.Repository, tag *domain.Tag, name string, to domain.Manifest, operation string) (tagPlan, error) {
	plan := tagPlan{repo: repo, tag: tag, name: name}
	if name == "" {
		return plan, nil
	}
	var err error
	if plan.set, err = inForce(&ch.Reader, repo.OrganizationID, repo.Name.Path); err != nil || tag == nil {
		return plan, err
	}
	lock, err := ch.protectionOf(plan.set, repo, *tag)
	if err != nil {
		return plan, err
	}
	if lock != nil || len(plan.set.DryRun(repo.Name.Path, name)) > 0 {
		adds, err := ch.appends(repo, *tag, to)
		plan.appends = adds && lock != nil
		if err != nil || adds {
			return plan, err
		}
	}
	if lock != nil {
		if lock.Hint, err = ch.hint(*tag, to); err != nil {
			return plan, err
		}
		return plan, refuse(audit.KindPushFailed, operation, repo.Name, lock, to.Digest.String())
	}
	ch.reportDryRun(plan.set, repo, *tag, operation, to.Digest.String())
	return plan, nil
}

// justPushed is how long after its creation a tag is likely to be overwritten by the push that created it.
const justPushed = 5 * time.Minute

// hint says what a refused push should do instead, where that can be told: empty for others.
func (ch *change) hint(tag domain.Tag, to domain.Manifest) (string, error) {
	if _, ok := policy.ParseSignatureTag(tag.Name); ok {
		return "it can only be added to: push a manifest that keeps all that is attached there", nil
	}
	if to.Content == nil {
		return "", nil // no push
	}
	const byDigest = "push the platforms of an index by digest, and only the index to the tag"
	if slices.Contains(to.Children, tag.Digest) {
		return "it points to a child of the pushed index; " + byDigest, nil
	}
	since, err := ch.HeldSince(tag.ID)
	if err != nil || !since.Equal(tag.UpdatedAt) || ch.now.Sub(since) > justPushed {
		return "", err
	}
	return "it was locked a moment ago, when it was pushed; if this is one push of several platforms, " + byDigest, nil
}

// reportDryRun notes what policies on a dry run would have refused.
func (ch *change) reportDryRun(set policy.Set, repo domain.Repository, tag domain.Tag, operation, attempted string) {
	for _, r := range set.DryRun(repo.Name.Path, tag.Name) {
		lock := &domain.LockError{Tags: []string{tag.Name}, Count: 1, Digest: tag.Digest, Policy: r.Ref()}
		ch.dryRuns = append(ch.dryRuns, newRefusal(audit.KindDryRun, operation, aboutTag(repo.Name, tag.Name), lock, attempted, domain.Immutable(operation, lock).Message))
	}
}

// setTag carries out a plan: it creates or moves the tag, with the entry of the given kind. A tag that comes to be gets
// a hold and an entry for each policy that covers it.
func (ch *change) setTag(plan tagPlan, to domain.Manifest, create, move audit.Kind) error {
	about := aboutTag(plan.repo.Name, plan.name)
	if plan.tag != nil {
		metadata := audit.Metadata{"manifest_digest": to.Digest.String(), "original_manifest_digest": plan.tag.Digest.String()}
		if plan.appends {
			metadata["append"] = true
		}
		// First, since it is about what the tag still points to.
		if !plan.tag.ExpiresAt.IsZero() {
			ch.logExpiration(plan.repo.Name, *plan.tag, noTime, audit.TriggerMove, nil)
		}
		ch.log(move, about, metadata)
		return ch.MoveTag(*plan.tag, to.ID, mirrorID(ch.caller), ch.now)
	}
	id, err := ch.InsertTag(plan.repo.ID, plan.name, to.ID, mirrorID(ch.caller), ch.now)
	if err != nil {
		return err
	}
	ch.log(create, about, audit.Metadata{"manifest_digest": to.Digest.String()})
	var holds []meta.Hold
	for _, r := range plan.set.Creating(plan.repo.Name.Path, plan.name) {
		holds = append(holds, meta.Hold{TagID: id, PolicyID: r.PolicyID})
		ch.log(audit.KindTagCreatedImmutable, about.by(r.Ref()), summarised(r.Events, policyMetadata(r.Ref(), audit.Metadata{"manifest_digest": to.Digest.String()})))
	}
	return ch.PlaceHolds(holds, ch.now)
}

// by is the subject with the policy that acts.
func (s subject) by(ref *domain.PolicyRef) subject {
	if ref != nil {
		s.policy = ref.UUID
	}
	return s
}

// policyMetadata adds a policy's revision, and the revision's pattern and scope.
func policyMetadata(ref *domain.PolicyRef, metadata audit.Metadata) audit.Metadata {
	if ref != nil {
		metadata["policy_revision"] = ref.Revision
		metadata["policy_pattern"] = ref.Pattern
		metadata["policy_scope"] = string(ref.Scope)
	}
	return metadata
}

// summarised marks an entry about a tag that is no Kubernetes Event, and a sweep's summary that is one. What an entry
// becomes is so decided in the log itself, once and for all: by nothing that may have changed when somebody reads it.
func summarised(events domain.EventsMode, metadata audit.Metadata) audit.Metadata {
	if events == domain.EventsSummary {
		metadata[audit.EventsField] = string(events)
	}
	return metadata
}

func tagUnknown(name domain.RepositoryName, tag string) error {
	return domain.Errorf(domain.CodeManifestUnknown, "tag %s is not in repository %s", tag, name)
}

// DeleteTag removes a tag; its manifest stays. TAG_IMMUTABLE if it is locked. A mirror deletes only what it made: DENIED.
func (c *Core) DeleteTag(ctx context.Context, caller domain.Caller, name domain.RepositoryName, tag string) error {
	return c.write(ctx, caller, tagScope(name, tag), func(ch *change) error {
		repo, err := repository(&ch.Reader, name)
		if err != nil {
			return err
		}
		t, err := ch.findTag(repo, tag)
		if err != nil {
			return err
		}
		if t == nil {
			return tagUnknown(name, tag)
		}
		if id := mirrorID(caller); id != 0 && t.MirrorID != id {
			return domain.Errorf(domain.CodeDenied, "tag %s of repository %s was not made by the mirror", tag, name)
		}
		set, err := inForce(&ch.Reader, repo.OrganizationID, name.Path)
		if err != nil {
			return err
		}
		lock, err := ch.protectionOf(set, repo, *t)
		if err != nil {
			return err
		}
		if lock != nil {
			return refuse(audit.KindDeleteTagFailed, "delete", name, lock, "")
		}
		return ch.deleteTag(repo, *t, set, audit.Metadata{})
	})
}

// deleteTag removes a tag that nothing protects. The metadata says why, where nobody asked for it.
func (ch *change) deleteTag(repo domain.Repository, t domain.Tag, set policy.Set, metadata audit.Metadata) error {
	ch.reportDryRun(set, repo, t, "delete", "")
	metadata["manifest_digest"] = t.Digest.String()
	ch.log(audit.KindDeleteTag, aboutTag(repo.Name, t.Name), metadata)
	return ch.Tx.DeleteTag(t, ch.now)
}

// DeleteManifest removes a manifest and all tags that point to it, or, if any locked tag leads to it, nothing.
func (c *Core) DeleteManifest(ctx context.Context, caller domain.Caller, name domain.RepositoryName, d digest.Digest) error {
	return c.write(ctx, caller, exclusiveScope(name), func(ch *change) error {
		repo, err := repository(&ch.Reader, name)
		if err != nil {
			return err
		}
		m, err := findManifest(&ch.Reader, repo, domain.Reference{Digest: d})
		if err != nil {
			return err
		}
		set, err := inForce(&ch.Reader, repo.OrganizationID, name.Path)
		if err != nil {
			return err
		}
		lock, err := ch.lockAbove(set, repo, meta.Node{ID: m.ID, Digest: m.Digest, Subject: m.Subject})
		if err != nil {
			return err
		}
		if lock != nil {
			return refuse(audit.KindDeleteTagFailed, "delete", name, lock, d.String())
		}
		tags, err := ch.TagsOfManifest(m.ID)
		if err != nil {
			return err
		}
		for _, t := range tags {
			if err := ch.deleteTag(repo, t, set, audit.Metadata{}); err != nil {
				return err
			}
		}
		ch.log(audit.KindDeleteManifest, aboutTag(name, ""), audit.Metadata{"manifest_digest": d.String()})
		return ch.Tx.DeleteManifest(m.ID)
	})
}

// ChangeTag changes what a tag points to, when it expires and whether it is held by hand, in one transaction: it removes
// the hold first and places it last.
//
// A digest must be a manifest of the repository; the tag is created if need be. Removing the hold removes the retained
// holds of policies that are gone or no longer cover the tag with it; while a policy covers the tag it cannot be
// unlocked: CONFLICT naming the policy. Robots unlock nothing, and where a mirror fills the organization nobody else gives
// a tag a digest: DENIED. An expiration lies in the future, and a locked tag
// takes none: TAG_IMMUTABLE.
func (c *Core) ChangeTag(ctx context.Context, caller domain.Caller, name domain.RepositoryName, tag string, to TagChange) error {
	if to.Expiration != nil && !to.Expiration.IsZero() && to.Immutable != nil && *to.Immutable {
		return domain.Errorf(domain.CodeInvalid, "a tag cannot be immutable and expire; give one of the two")
	}
	return c.write(ctx, caller, tagScope(name, tag), func(ch *change) error {
		repo, mirror, err := repositoryToFill(&ch.Reader, name)
		if err == nil && to.Digest != "" {
			err = checkFiller(caller, name.Organization, mirror)
		}
		if err != nil {
			return err
		}
		if to.Immutable != nil && !*to.Immutable {
			if err := ch.setImmutable(repo, tag, false); err != nil {
				return err
			}
		}
		if to.Digest != "" {
			if err := ch.pointTag(repo, tag, to.Digest, "overwrite", audit.KindCreateTag, audit.KindMoveTag); err != nil {
				return err
			}
		}
		if to.Expiration != nil {
			if err := ch.setExpiration(repo, tag, *to.Expiration); err != nil {
				return err
			}
		}
		if to.Immutable != nil && *to.Immutable {
			return ch.setImmutable(repo, tag, true)
		}
		return nil
	})
}

// RestoreTag points a tag to a digest that it had before: a creation if no live tag has the name, else a move. DENIED where
// a mirror fills the organization.
func (c *Core) RestoreTag(ctx context.Context, caller domain.Caller, name domain.RepositoryName, tag string, d digest.Digest) error {
	return c.write(ctx, caller, tagScope(name, tag), func(ch *change) error {
		repo, mirror, err := repositoryToFill(&ch.Reader, name)
		if err == nil {
			err = checkFiller(caller, name.Organization, mirror)
		}
		if err != nil {
			return err
		}
		return ch.pointTag(repo, tag, d, "restore", audit.KindRevertTag, audit.KindRevertTag)
	})
}

func (ch *change) pointTag(repo domain.Repository, tag string, d digest.Digest, operation string, create, move audit.Kind) error {
	if err := domain.ValidateTag(tag); err != nil {
		return err
	}
	m, err := findManifest(&ch.Reader, repo, domain.Reference{Digest: d})
	if err != nil {
		return err
	}
	found, err := ch.findTag(repo, tag)
	if err != nil || found != nil && found.Digest == d {
		return err
	}
	plan, err := ch.planTag(repo, found, tag, m, operation)
	if err != nil {
		return err
	}
	return ch.setTag(plan, m, create, move)
}

// setImmutable places or removes the hold by hand.
func (ch *change) setImmutable(repo domain.Repository, tag string, immutable bool) error {
	found, err := ch.findTag(repo, tag)
	if err != nil {
		return err
	}
	if found == nil {
		return tagUnknown(repo.Name, tag)
	}
	t := *found
	set, err := inForce(&ch.Reader, repo.OrganizationID, repo.Name.Path)
	if err != nil {
		return err
	}
	holds, err := ch.Holds([]domain.Tag{t})
	if err != nil {
		return err
	}
	covering := set.Locking(repo.Name.Path, t.ID, t.Name)
	if immutable {
		return ch.holdByHand(repo, t, holds, covering != nil || len(holds) > 0)
	}
	if covering != nil {
		ref := covering.Ref()
		answer := domain.Errorf(domain.CodeConflict, "tag '%s' stays immutable: %s policy %s (pattern %s) covers it; change the policy", t.Name, ref.Scope, ref.UUID, ref.Pattern)
		answer.Lock = &domain.LockError{Tags: []string{t.Name}, Count: 1, Digest: t.Digest, Policy: ref}
		return &refusedError{answer: answer, refusals: []refusal{newRefusal(audit.KindDeleteTagFailed, "unlock", aboutTag(repo.Name, t.Name), answer.Lock, "", answer.Message)}}
	}
	if len(holds) > 0 && ch.caller.Kind == domain.CallerRobot {
		return ch.refuseRobot(repo, t)
	}
	for i, h := range holds {
		var ref *domain.PolicyRef
		if h.PolicyID != meta.ByHand {
			p, err := ch.PolicyByID(h.PolicyID)
			if err != nil {
				return err
			}
			ref = p.Ref()
		}
		if err := ch.RemoveHold(h); err != nil {
			return err
		}
		ch.logImmutability(repo.Name, t, ref, byHand, holdRemoved, i < len(holds)-1, true)
	}
	return nil
}

// refuseRobot refuses to remove holds: that is for people, who may be asked why.
func (ch *change) refuseRobot(repo domain.Repository, t domain.Tag) error {
	lock, err := lockOf(&ch.Reader, policy.Set{}, repo.Name.Path, t)
	if err != nil {
		return err
	}
	answer := domain.Errorf(domain.CodeDenied, "a robot cannot unlock tag '%s'; an administrator of the organization can", t.Name)
	return &refusedError{answer: answer, refusals: []refusal{newRefusal(audit.KindDeleteTagFailed, "unlock", aboutTag(repo.Name, t.Name), lock, "", answer.Message)}}
}

func (ch *change) holdByHand(repo domain.Repository, t domain.Tag, holds []meta.Hold, before bool) error {
	for _, h := range holds {
		if h.PolicyID == meta.ByHand {
			return nil
		}
	}
	ch.logImmutability(repo.Name, t, nil, byHand, holdPlaced, true, before)
	if err := ch.dropExpiration(repo.Name, t, audit.TriggerManual, nil); err != nil {
		return err
	}
	return ch.PlaceHolds([]meta.Hold{{TagID: t.ID, PolicyID: meta.ByHand}}, ch.now)
}

// What an entry of a tag's immutability says of the hold, in metadata "hold".
const (
	holdPlaced  = "placed"
	holdRemoved = "removed"
)

// occasion is what set off a change of a hold: in metadata "trigger", and for a sweep "cause".
type occasion struct {
	trigger string
	cause   SweepCause
}

var byHand = occasion{trigger: audit.TriggerManual}

func bySweep(s meta.Sweep) occasion {
	return occasion{trigger: audit.TriggerPolicy, cause: SweepCause(s.Cause)}
}

// logImmutability adds the entry of one hold that was placed or removed. Whether the tag is locked before and after the
// cause is another matter: other holds and policies may lock it too.
func (ch *change) logImmutability(name domain.RepositoryName, t domain.Tag, ref *domain.PolicyRef, on occasion, hold string, after, before bool) {
	metadata := policyMetadata(ref, audit.Metadata{
		"username": ch.caller.Name, "trigger": on.trigger, "hold": hold, "immutable": after, "previous_immutable": before, "manifest_digest": t.Digest.String(),
	})
	if on.cause != "" {
		metadata["cause"] = string(on.cause)
	}
	ch.log(audit.KindChangeImmutability, aboutTag(name, t.Name).by(ref), metadata)
}

// Tags lists the names of live tags in lexical order, those behind after.
func (c *Core) Tags(ctx context.Context, name domain.RepositoryName, after string, limit int) (names []string, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		names, err = r.TagNames(repo.ID, after, limit)
		return err
	})
	return names, err
}

// ListTags lists live tags with what locks them.
func (c *Core) ListTags(ctx context.Context, name domain.RepositoryName, q TagQuery) (views []TagView, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		views = nil
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		set, err := inForce(r, repo.OrganizationID, name.Path)
		if err != nil {
			return err
		}
		var tags []domain.Tag
		if q.Tag != "" {
			tag, err := r.Tag(repo.ID, q.Tag)
			if errors.Is(err, meta.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			tags = []domain.Tag{tag}
		} else if tags, err = r.Tags(repo.ID, q.After, q.Contains, q.Offset, q.Limit); err != nil {
			return err
		}
		views, err = tagViews(r, set, name.Path, tags)
		return err
	})
	return views, err
}

func tagViews(r *meta.Reader, set policy.Set, path string, tags []domain.Tag) ([]TagView, error) {
	holds, err := r.Holds(tags)
	if err != nil {
		return nil, err
	}
	holders := map[int64][]int64{}
	for _, h := range holds {
		holders[h.TagID] = append(holders[h.TagID], h.PolicyID)
	}
	refs := map[int64]*domain.PolicyRef{meta.ByHand: nil}
	views := make([]TagView, 0, len(tags))
	for _, t := range tags {
		view := TagView{Tag: t}
		covered := map[int64]bool{}
		for _, covering := range set.AllLocking(path, t.ID, t.Name) {
			if !covered[covering.PolicyID] {
				covered[covering.PolicyID] = true
				view.Locks = append(view.Locks, Lock{Policy: covering.Ref()})
			}
		}
		for _, policyID := range holders[t.ID] {
			if covered[policyID] {
				continue
			}
			if _, known := refs[policyID]; !known {
				p, err := r.PolicyByID(policyID)
				if err != nil {
					return nil, err
				}
				refs[policyID] = p.Ref()
			}
			view.Locks = append(view.Locks, Lock{Policy: refs[policyID], Retained: policyID != meta.ByHand})
		}
		if view.Immutable = len(view.Locks) > 0; view.Immutable {
			view.ExpiresAt = noTime // it has no effect, and the sweep that places the hold removes it
		}
		views = append(views, view)
	}
	return views, nil
}

// TagHistory lists what a tag pointed to before, the latest first.
func (c *Core) TagHistory(ctx context.Context, name domain.RepositoryName, tag string, limit int) (list []domain.PastTag, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		repo, err := repository(r, name)
		if err != nil {
			return err
		}
		list, err = r.PastTags(repo.ID, tag, limit)
		return err
	})
	return list, err
}
