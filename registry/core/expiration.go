package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

// expiryBatch is how many expired tags are looked for at once, and so the most that one transaction deletes.
const expiryBatch = 100

// setExpiration says when a tag is to be deleted; the zero time is never.
func (ch *change) setExpiration(repo domain.Repository, tag string, at time.Time) error {
	t, err := ch.findTag(repo, tag)
	if err != nil {
		return err
	}
	if t == nil {
		return tagUnknown(repo.Name, tag)
	}
	if at.IsZero() {
		return ch.dropExpiration(repo.Name, *t, audit.TriggerManual, nil)
	}
	if !at.After(ch.now) {
		return domain.Errorf(domain.CodeInvalid, "expiration %s has passed; give a time in the future", at.UTC().Format(timestamp))
	}
	set, err := inForce(&ch.Reader, repo.OrganizationID, repo.Name.Path)
	if err != nil {
		return err
	}
	lock, err := ch.protectionOf(set, repo, *t)
	if err != nil {
		return err
	}
	if lock != nil {
		return refuse(audit.KindDeleteTagFailed, "set an expiration of", repo.Name, lock, "")
	}
	// Not before: a locked tag may have an expiration still, until the sweep comes, and it has no effect.
	if t.ExpiresAt.Equal(at) {
		return nil
	}
	ch.reportDryRun(set, repo, *t, "set an expiration of", "")
	ch.logExpiration(repo.Name, *t, at, audit.TriggerManual, nil)
	return ch.SetTagExpiration(t.ID, at)
}

// dropExpiration removes a tag's expiration, if it has one: it was asked for, or the tag is locked.
func (ch *change) dropExpiration(name domain.RepositoryName, t domain.Tag, trigger string, by *domain.PolicyRef) error {
	if t.ExpiresAt.IsZero() {
		return nil
	}
	ch.logExpiration(name, t, noTime, trigger, by)
	return ch.SetTagExpiration(t.ID, noTime)
}

// logExpiration adds the entry of a changed expiration. Times are Unix seconds, as in Quay; none stands for never.
func (ch *change) logExpiration(name domain.RepositoryName, t domain.Tag, to time.Time, trigger string, by *domain.PolicyRef) {
	metadata := policyMetadata(by, audit.Metadata{"username": ch.caller.Name, "trigger": trigger, "manifest_digest": t.Digest.String()})
	for field, at := range map[string]time.Time{"old_expiration_date": t.ExpiresAt, "expiration_date": to} {
		if !at.IsZero() {
			metadata[field] = at.Unix()
		}
	}
	ch.log(audit.KindChangeExpiry, aboutTag(name, t.Name).by(by), metadata)
}

// runExpirations deletes expired tags until the context ends. Two registries may do it at once: each transaction looks
// again.
func (c *Core) runExpirations(ctx context.Context) error {
	ticker := time.NewTicker(c.options.ExpirationPoll)
	defer ticker.Stop()
	for {
		if err := c.expireTags(ctx); err != nil && ctx.Err() == nil {
			c.logger.Error("deleting expired tags failed; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// expireTags deletes the tags whose expiration has come. The failure of one repository does not hold up the others.
func (c *Core) expireTags(ctx context.Context) (failed error) {
	for last, more := (meta.DueTag{}), true; more && ctx.Err() == nil; {
		var due []meta.DueTag
		err := c.read(ctx, func(r *meta.Reader) (err error) {
			due, err = r.DueTags(c.now(), last, expiryBatch)
			return err
		})
		if err != nil {
			return errors.Join(failed, err)
		}
		if len(due) == 0 || c.checkWritable(ctx) != nil {
			return failed // an operator that has yet to come may have policies for these tags
		}
		last, more = due[len(due)-1], len(due) == expiryBatch
		slices.SortFunc(due, func(a, b meta.DueTag) int {
			return cmp.Or(cmp.Compare(a.Repository.String(), b.Repository.String()), cmp.Compare(a.Name, b.Name))
		})
		for len(due) > 0 {
			end := slices.IndexFunc(due, func(t meta.DueTag) bool { return t.Repository != due[0].Repository })
			if end < 0 {
				end = len(due)
			}
			if err := c.expireIn(ctx, due[0].Repository, due[:end]); err != nil {
				failed = errors.Join(failed, fmt.Errorf("repository %s: %w", due[0].Repository, err))
			}
			due = due[end:]
		}
	}
	return failed
}

// expireIn deletes tags of one repository that have expired, sorted by name.
func (c *Core) expireIn(ctx context.Context, name domain.RepositoryName, due []meta.DueTag) error {
	names := make([]string, len(due))
	for i, t := range due {
		names[i] = t.Name
	}
	scope := tagScope(name, names...)
	scope.Background = true
	return c.writeAlways(ctx, domain.System, scope, unlessReadOnly(func(ch *change) error {
		repo, err := ch.Repository(name)
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		set, err := inForce(&ch.Reader, repo.OrganizationID, name.Path)
		if err != nil {
			return err
		}
		for _, t := range due {
			if err := ch.expireTag(repo, set, t.Name); err != nil {
				return err
			}
		}
		return nil
	}))
}

// expireTag deletes a tag that has expired. One that something protects stays, and loses its expiration.
func (ch *change) expireTag(repo domain.Repository, set policy.Set, name string) error {
	t, err := ch.findTag(repo, name)
	if err != nil || t == nil || t.ExpiresAt.IsZero() || t.ExpiresAt.After(ch.now) {
		return err
	}
	lock, err := ch.protectionOf(set, repo, *t)
	if err != nil {
		return err
	}
	if lock != nil {
		return ch.dropExpiration(repo.Name, *t, audit.TriggerExpiration, lock.Policy)
	}
	return ch.deleteTag(repo, *t, set, audit.Metadata{"trigger": audit.TriggerExpiration, "expiration_date": t.ExpiresAt.Unix()})
}
