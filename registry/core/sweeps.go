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

// sweepsAtOnce bounds the policies between which the sweeper goes round, a batch each.
const sweepsAtOnce = 64

// idle is how long a replica does not look for sweeps and deletions that another one has left undone.
const idle = 5 * time.Second

// runSweeps carries out queued sweeps and due deletions until the context ends. A failure is tried again: the cursor,
// the holds and the entries of a batch are committed together, so nothing is done twice. Of several replicas one sweeps,
// and another goes on once that does not any more.
func (c *Core) runSweeps(ctx context.Context) error {
	const retry = time.Second
	batch := c.options.SweepBatch
	for {
		wait := retry
		before := c.clientWrites.Load()
		// A full disk's last space is for deletes. The policies are in force without their holds.
		full := c.room() != nil
		busy, elsewhere, err := false, false, error(nil)
		if !full {
			busy, elsewhere, err = c.sweepRound(ctx, batch)
		}
		if c.clientWrites.Load() != before {
			batch = c.options.SweepBatch
		} else {
			batch = min(2*batch, 10*c.options.SweepBatch)
		}
		if err == nil {
			wait, err = c.deleteDue(ctx)
		}
		if err != nil && ctx.Err() == nil {
			c.logger.Error("sweeping policies failed; trying again", "error", err)
		}
		if full || elsewhere {
			wait = min(wait, retry)
		}
		if busy && err == nil {
			wait = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-time.After(wait):
		}
	}
}

// sweepRound runs one batch of at most limit tags for each policy that has an open sweep, and reports whether there was
// any, or whether another replica is at it. The sweeps of one policy run in the order in which they were queued.
func (c *Core) sweepRound(ctx context.Context, limit int) (busy, elsewhere bool, err error) {
	var open []meta.Sweep
	err = c.read(ctx, func(r *meta.Reader) error {
		open, err = r.OpenSweeps(sweepsAtOnce)
		return err
	})
	if err != nil {
		return false, false, err
	}
	for _, s := range open {
		if ctx.Err() != nil {
			return false, false, nil
		}
		e := c.sweepBatch(ctx, s, limit)
		if errors.Is(e, meta.ErrBusy) {
			return false, true, err
		}
		// One policy's failure does not hold up the others.
		if e != nil {
			err = errors.Join(err, fmt.Errorf("sweep %d of policy %d: %w", s.ID, s.PolicyID, e))
		}
	}
	return len(open) > 0, false, err
}

// batch is what one transaction of a sweep did.
type batch struct {
	examined int64
	// changed names the tags whose holds changed, as "path:tag".
	changed []string
	// last is the id of the last tag visited, for sweeps over holds.
	last int64
	end  bool
}

// sweepBatch visits the next tags of a sweep: holds, entries and the cursor are one transaction.
func (c *Core) sweepBatch(ctx context.Context, open meta.Sweep, limit int) error {
	if open.State == domain.SweepPending {
		if err := c.startSweep(ctx, &open); err != nil {
			return err
		}
	}
	scope, err := c.scopeOfPolicy(ctx, open.PolicyID)
	if err != nil {
		return err
	}
	err = c.store.Write(ctx, scope, func(tx *meta.Tx) error {
		ch, err := c.begin(tx, domain.System)
		if err != nil {
			return err
		}
		s, err := ch.Sweep(open.ID)
		if err != nil {
			return err
		}
		if s.State != domain.SweepPending && s.State != domain.SweepRunning {
			return nil
		}
		s.Total, s.StartedAt = open.Total, open.StartedAt
		p, err := ch.PolicyByID(s.PolicyID)
		if err != nil {
			return err
		}
		b, stopped, err := ch.advance(&s, p, limit)
		if err != nil {
			return err
		}
		for _, entry := range ch.entries {
			if entry.Kind == audit.KindChangeImmutability {
				summarised(s.Events, entry.Metadata)
			}
		}
		records, err := encode(ch.origin, ch.entries)
		if err != nil {
			return err
		}
		first, last, err := tx.AppendAuditRange(records...)
		if err != nil {
			return err
		}
		record(&s, b, first, last)
		return ch.finishBatch(s, p, b.end, stopped)
	})
	if err != nil {
		return err
	}
	c.sequencer.Notify()
	return nil
}

// startSweep counts the tags to visit, outside of the writer.
func (c *Core) startSweep(ctx context.Context, s *meta.Sweep) error {
	s.StartedAt = c.now()
	return c.read(ctx, func(r *meta.Reader) error {
		p, err := r.PolicyByID(s.PolicyID)
		if err != nil {
			return err
		}
		if SweepKind(s.Kind) == SweepRelease {
			s.Total, err = r.CountHolds(p.ID)
		} else {
			s.Total, err = r.CountTags(p.OrganizationID, p.Repository)
		}
		return err
	})
}

func (c *Core) scopeOfPolicy(ctx context.Context, id int64) (scope meta.Scope, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		p, err := r.PolicyByID(id)
		scope = meta.Scope{Organization: p.Organization, Repository: p.Repository, Background: true, Job: meta.JobSweep}
		return err
	})
	return scope, err
}

// advance runs the next batch of a sweep, unless a newer revision has overtaken it.
func (ch *change) advance(s *meta.Sweep, p domain.Policy, limit int) (b batch, stopped bool, err error) {
	if SweepKind(s.Kind) == SweepRelease {
		// A release is right for any revision: it removes what the policy does not cover now.
		b, err = ch.releaseBatch(p, s.AfterID, limit, bySweep(*s))
		s.AfterID = b.last
		return b, false, err
	}
	set, err := inForce(&ch.Reader, p.OrganizationID, p.Repository)
	if err != nil {
		return b, false, err
	}
	want := domain.RevisionCurrent
	if SweepKind(s.Kind) == SweepClose {
		want = domain.RevisionClosing
	}
	revision := set.Find(p.ID, s.Revision)
	if revision == nil || revision.State != want {
		return b, true, nil
	}
	b, err = ch.holdBatch(s, p, revision, set, limit)
	return b, false, err
}

// record counts what a batch did.
func record(s *meta.Sweep, b batch, first, last int64) {
	s.Examined += b.examined
	s.Changed += int64(len(b.changed))
	if first != 0 {
		s.FirstEntry, s.LastEntry = cmp.Or(s.FirstEntry, first), last
	}
	if room := domain.LockSample - len(s.Sample); room > 0 {
		s.Sample = append(s.Sample, b.changed[:min(room, len(b.changed))]...)
	}
}

// holdBatch places the policy's hold on each of the next tags that the revision covers and that has none.
func (ch *change) holdBatch(s *meta.Sweep, p domain.Policy, revision *policy.Revision, set policy.Set, limit int) (b batch, err error) {
	before, err := ch.lockedBefore(p, revision, set)
	if err != nil {
		return b, err
	}
	for left := limit; left > 0; {
		repo, err := ch.nextRepository(p, s.AfterID)
		if errors.Is(err, meta.ErrNotFound) {
			b.end = true
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if repo.ID != s.AfterID {
			s.AfterID, s.AfterName = repo.ID, ""
		}
		tags, err := ch.Tags(repo.ID, s.AfterName, "", 0, left)
		if err != nil {
			return b, err
		}
		if err := ch.holdTags(p, revision, repo, tags, bySweep(*s), before, &b); err != nil {
			return b, err
		}
		b.examined += int64(len(tags))
		if len(tags) < left {
			s.AfterID, s.AfterName = repo.ID+1, ""
		} else {
			s.AfterName = tags[len(tags)-1].Name
		}
		left -= len(tags)
	}
	return b, nil
}

// nextRepository finds the next repository of the policy's scope from an id on.
func (ch *change) nextRepository(p domain.Policy, from int64) (domain.Repository, error) {
	if p.Repository == "" {
		return ch.NextRepository(p.OrganizationID, from)
	}
	repo, err := ch.Repository(domain.RepositoryName{Organization: p.Organization, Path: p.Repository})
	if err == nil && repo.ID < from {
		err = meta.ErrNotFound
	}
	return repo, err
}

// lockedBefore tells whether a tag was locked before the revision came, beside by holds: entries say what the revision
// changed, not what the sweep wrote.
func (ch *change) lockedBefore(p domain.Policy, revision *policy.Revision, set policy.Set) (func(path string, t domain.Tag) bool, error) {
	if revision.State == domain.RevisionClosing {
		return func(string, domain.Tag) bool { return true }, nil
	}
	others := set.Without(p.ID, revision.Revision)
	var previous policy.Set
	if revision.Revision > 1 {
		stored, err := ch.Revision(p.ID, revision.Revision-1)
		if err != nil {
			return nil, err
		}
		stored.State = domain.RevisionCurrent
		if previous, err = policy.NewSet([]domain.PolicyRevision{stored}); err != nil {
			return nil, err
		}
	}
	return func(path string, t domain.Tag) bool {
		return others.Locking(path, t.ID, t.Name) != nil || previous.Locking(path, t.ID, t.Name) != nil
	}, nil
}

func (ch *change) holdTags(p domain.Policy, revision *policy.Revision, repo domain.Repository, tags []domain.Tag, on occasion, before func(string, domain.Tag) bool, b *batch) error {
	var covered []domain.Tag
	for _, t := range tags {
		if revision.CoversTag(t.ID, t.Name) {
			covered = append(covered, t)
		}
	}
	present, err := ch.Holds(covered)
	if err != nil {
		return err
	}
	// A signature may have been added meanwhile, or an expiration dropped.
	if covered, err = ch.Again(covered); err != nil {
		return err
	}
	held, ours := map[int64]bool{}, map[int64]bool{}
	for _, h := range present {
		held[h.TagID] = true
		if h.PolicyID == p.ID {
			ours[h.TagID] = true
		}
	}
	var holds []meta.Hold
	for _, t := range covered {
		if ours[t.ID] {
			continue
		}
		holds = append(holds, meta.Hold{TagID: t.ID, PolicyID: p.ID})
		ch.logImmutability(repo.Name, t, revision.Ref(), on, holdPlaced, true, held[t.ID] || before(repo.Name.Path, t))
		if err := ch.dropExpiration(repo.Name, t, on.trigger, revision.Ref()); err != nil {
			return err
		}
		b.changed = append(b.changed, repo.Name.Path+":"+t.Name)
	}
	return ch.PlaceHolds(holds, ch.now)
}

// releaseBatch removes the policy's hold from each of the next tags that it does not cover now.
func (ch *change) releaseBatch(p domain.Policy, after int64, limit int, on occasion) (b batch, err error) {
	b.last = after
	held, err := ch.HeldTags(p.ID, after, limit)
	if err != nil {
		return b, err
	}
	b.end = len(held) < limit
	set, err := inForce(&ch.Reader, p.OrganizationID, p.Repository)
	if err != nil {
		return b, err
	}
	own := set.OfPolicy(p.ID)
	for _, t := range held {
		b.examined++
		b.last = t.ID
		if own.Locking(t.Repository, t.ID, t.Name) != nil {
			continue
		}
		others, err := ch.Holds([]domain.Tag{t.Tag})
		if err != nil {
			return b, err
		}
		if !slices.Contains(others, meta.Hold{TagID: t.ID, PolicyID: p.ID}) {
			continue // removed by hand just now
		}
		again, err := ch.Again([]domain.Tag{t.Tag}) // a signature may have been added meanwhile
		if err != nil {
			return b, err
		}
		if err := ch.RemoveHold(meta.Hold{TagID: t.ID, PolicyID: p.ID}); err != nil {
			return b, err
		}
		stays := len(others) > 1 || set.Locking(t.Repository, t.ID, t.Name) != nil
		ch.logImmutability(domain.RepositoryName{Organization: p.Organization, Path: t.Repository}, again[0], p.Ref(), on, holdRemoved, stays, true)
		b.changed = append(b.changed, t.Repository+":"+t.Name)
	}
	return b, nil
}

// finishBatch stores the cursor and, at the end, the summary. A closing revision ends with its sweep.
func (ch *change) finishBatch(s meta.Sweep, p domain.Policy, end, stopped bool) error {
	s.State = domain.SweepRunning
	if !end && !stopped {
		return ch.UpdateSweep(s)
	}
	s.State, s.FinishedAt = domain.SweepDone, ch.now
	if stopped {
		s.State = domain.SweepStopped
	}
	if s.Changed > 0 {
		if err := ch.logSummary(s, p); err != nil {
			return err
		}
	}
	if SweepKind(s.Kind) == SweepClose && !stopped {
		if err := ch.SetRevisionState(p.ID, s.Revision, domain.RevisionPast, 0); err != nil {
			return err
		}
	}
	return ch.UpdateSweep(s)
}

func (ch *change) logSummary(s meta.Sweep, p domain.Policy) error {
	revision, err := ch.Revision(p.ID, s.Revision)
	if err != nil {
		return err
	}
	ref := revision.Ref()
	about := subject{organization: p.Organization, repository: p.Repository, policy: p.UUID}
	metadata := summarised(s.Events, audit.Metadata{
		"tag_pattern": ref.Pattern, "policy_scope": string(ref.Scope), "policy_revision": s.Revision, "sweep": s.Kind, "state": string(s.State),
		"tags_affected_count": s.Changed, "sample_tags": s.Sample,
	})
	if s.Cause != "" {
		metadata["cause"] = s.Cause
	}
	return appendEntries(ch.Tx, ch.origin, []audit.Entry{about.entry(audit.KindApplyPolicy, ch.now, ch.caller, metadata)})
}

// deleteDue carries out requested deletions that are due, and returns how long to wait for the next.
func (c *Core) deleteDue(ctx context.Context) (wait time.Duration, err error) {
	var due []domain.Policy
	var next time.Time
	err = c.read(ctx, func(r *meta.Reader) error {
		if due, err = r.PoliciesToDelete(c.now()); err != nil {
			return err
		}
		next, err = r.NextPolicyDeletion()
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, p := range due {
		scope := meta.Scope{Organization: p.Organization, OrganizationExclusive: true}
		err := c.writeAlways(ctx, domain.System, scope, func(ch *change) error {
			p, err := ch.PolicyByID(p.ID)
			if err != nil || p.Deleted || p.DeleteAt.IsZero() || p.DeleteAt.After(ch.now) {
				return err
			}
			return ch.deletePolicy(p, appliedBy(p.DeletionIntent.User, p.DeletionIntent.UserUID))
		})
		if err != nil {
			return 0, err
		}
	}
	if len(due) > 0 {
		return 0, nil
	}
	wait = idle
	if !next.IsZero() {
		wait = min(wait, max(next.Sub(c.now()), 10*time.Millisecond))
	}
	return wait, nil
}
