package core

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

func (s Scope) exclusive() meta.Scope {
	return meta.Scope{Organization: s.Organization, OrganizationExclusive: true}
}

// find checks that the scope's organization, and for a client its repository, are there.
func (s Scope) find(r *meta.Reader) (domain.Organization, error) {
	o, err := organization(r, s.Organization)
	if err == nil && s.Repository != "" {
		_, err = repository(r, domain.RepositoryName{Organization: s.Organization, Path: s.Repository})
	}
	return o, err
}

// findPolicy finds a live policy of the scope.
func (s Scope) findPolicy(r *meta.Reader, id string) (domain.Policy, error) {
	o, err := s.find(r)
	if err != nil {
		return domain.Policy{}, err
	}
	p, err := r.Policy(id)
	if errors.Is(err, meta.ErrNotFound) || err == nil && (p.Deleted || p.OrganizationID != o.ID || p.Repository != s.Repository) {
		return p, policyUnknown(id)
	}
	return p, err
}

func policyUnknown(id string) error {
	return domain.Errorf(domain.CodeNotFound, "immutability policy %s does not exist here", id)
}

// managedError refuses a change by the REST API of what a Kubernetes object manages.
func managedError(p domain.Policy) error {
	return managedByError("immutability policy "+p.UUID, *p.Manager)
}

func managedByError(what string, m domain.ManagedBy) error {
	return domain.Errorf(domain.CodeManagedByResource, "%s is managed by %s; change that object", what, m)
}

// CreatePolicy makes a policy, which is in force when it returns. The same pattern twice in a scope, and a lock for longer
// than Options.MaxLock, are INVALID.
func (c *Core) CreatePolicy(ctx context.Context, caller domain.Caller, scope Scope, spec domain.PolicySpec) (created domain.Policy, err error) {
	spec = normalized(spec)
	if err := errors.Join(policy.Validate(spec), c.checkLockEnd(spec.LockedUntil, noTime)); err != nil {
		return created, err
	}
	err = c.write(ctx, caller, scope.exclusive(), func(ch *change) error {
		o, err := scope.find(&ch.Reader)
		if err != nil {
			return err
		}
		if err := ch.checkDuplicate(o.ID, scope.Repository, spec, 0); err != nil {
			return err
		}
		created, err = ch.createPolicy(o, scope.Repository, spec, domain.EventsPerTag, nil, nil)
		return err
	})
	return created, err
}

// checkDuplicate refuses a pattern that another policy of the scope has already.
func (ch *change) checkDuplicate(organizationID int64, path string, spec domain.PolicySpec, except int64) error {
	policies, err := ch.Policies(organizationID, path)
	if err != nil {
		return err
	}
	for _, p := range policies {
		if p.ID != except && p.TagPattern == spec.TagPattern {
			return domain.Errorf(domain.CodeInvalid, "A policy with the same tag_pattern already exists")
		}
	}
	return nil
}

// createPolicy makes a policy. For that of a Kubernetes object, attribution is what its entry says of how it came.
func (ch *change) createPolicy(o domain.Organization, path string, spec domain.PolicySpec, events domain.EventsMode, manager *domain.ManagedBy, attribution audit.Metadata) (domain.Policy, error) {
	present, err := ch.Policies(o.ID, path)
	if err != nil {
		return domain.Policy{}, err
	}
	if len(present) >= domain.MaxPoliciesPerScope {
		return domain.Policy{}, domain.Errorf(domain.CodeInvalid, "there are %d policies here already, the most that is allowed; delete one, or join patterns with |", len(present))
	}
	p := domain.Policy{
		UUID: uuid.NewString(), Organization: o.Name, OrganizationID: o.ID, Repository: path, Revision: 1, PolicySpec: spec, Events: events, CreatedAt: ch.now,
	}
	if p.ID, err = ch.InsertPolicy(p); err != nil {
		return p, err
	}
	if err := ch.InsertRevision(p, ch.now); err != nil {
		return p, err
	}
	if manager != nil {
		p.Manager = manager
		if err := ch.SetPolicyManager(p.ID, manager); err != nil {
			return p, err
		}
	}
	metadata := specMetadata("", spec)
	metadata["events"] = string(events)
	maps.Copy(metadata, attribution)
	ch.logPolicy(audit.KindCreatePolicy, p, metadata)
	if spec.EnforcementMode == domain.Enforce {
		return p, ch.queueSweep(p, SweepApply, CausePolicyCreated)
	}
	return p, nil
}

// logPolicy adds the entry of a policy's revision.
func (ch *change) logPolicy(kind audit.Kind, p domain.Policy, metadata audit.Metadata) {
	metadata["revision"] = p.Revision
	metadata["policy_pattern"] = p.TagPattern
	metadata["policy_scope"] = string(p.Scope())
	addManager(metadata, p.Manager)
	ch.log(kind, subject{organization: p.Organization, repository: p.Repository, policy: p.UUID}, metadata)
}

// addManager adds which Kubernetes object, if any, manages what an entry is about.
func addManager(metadata audit.Metadata, m *domain.ManagedBy) {
	if m == nil {
		return
	}
	metadata["managed_by"] = audit.Metadata{"kind": m.Kind, "namespace": m.Namespace, "name": m.Name, "uid": m.UID}
	metadata["generation"] = m.Generation
	if m.RevisionClaimed != "" {
		metadata["revision_claimed"] = m.RevisionClaimed
	}
}

func specMetadata(prefix string, spec domain.PolicySpec) audit.Metadata {
	metadata := audit.Metadata{
		prefix + "tag_pattern": spec.TagPattern, prefix + "tag_pattern_matches": spec.TagPatternMatches,
		prefix + "enforcement_mode": string(spec.EnforcementMode), prefix + "reclaim_policy": string(spec.ReclaimPolicy),
	}
	addLock(metadata, prefix, spec)
	return metadata
}

// addLock adds until when a policy is locked, if it is.
func addLock(metadata audit.Metadata, prefix string, spec domain.PolicySpec) {
	if !spec.LockedUntil.IsZero() {
		metadata[prefix+"locked_until"] = spec.LockedUntil.Format(timestamp)
	}
}

// setEvents changes what becomes a Kubernetes Event of a policy, and adds what its entry says of that. It makes no
// revision and no sweep; a sweep that is queued already keeps to what it was queued with.
func (ch *change) setEvents(p *domain.Policy, events domain.EventsMode, metadata audit.Metadata) error {
	if p.Events == events {
		return nil
	}
	metadata["events"], metadata["previous_events"] = string(events), string(p.Events)
	p.Events = events
	return ch.SetPolicyEvents(p.ID, events)
}

// queueSweep queues a sweep for the revision that p has.
func (ch *change) queueSweep(p domain.Policy, kind SweepKind, cause SweepCause) error {
	ch.wakeSweeps = true
	return ch.InsertSweep(meta.Sweep{PolicyID: p.ID, Revision: p.Revision, Kind: string(kind), Cause: string(cause), Events: p.Events, CreatedAt: ch.now})
}

// UpdatePolicy replaces a policy's spec. What a Kubernetes object manages is refused: MANAGED_BY_RESOURCE. So is what
// weakens a locked policy: POLICY_LOCKED.
func (c *Core) UpdatePolicy(ctx context.Context, caller domain.Caller, scope Scope, id string, spec domain.PolicySpec) (updated domain.Policy, err error) {
	spec = normalized(spec)
	if err := policy.Validate(spec); err != nil {
		return updated, err
	}
	err = c.write(ctx, caller, scope.exclusive(), func(ch *change) error {
		p, err := scope.findPolicy(&ch.Reader, id)
		if err != nil {
			return err
		}
		if p.Manager != nil {
			return managedError(p)
		}
		if locked := unchangeable(p, spec, ch.now); locked != nil {
			return refusePolicyChange(audit.KindUpdatePolicyFailed, updatesPolicy, p, locked)
		}
		if err := c.checkLockEnd(spec.LockedUntil, p.LockedUntil); err != nil {
			return err
		}
		if err := ch.checkDuplicate(p.OrganizationID, p.Repository, spec, p.ID); err != nil {
			return err
		}
		updated, err = ch.changePolicy(p, spec, audit.Metadata{})
		return err
	})
	return updated, err
}

// changePolicy makes a new revision, in force at once, unless only the lock of the policy changes. Under Retain, what the old one locked stays locked: as a closing
// revision until the sweep has placed its holds.
func (ch *change) changePolicy(p domain.Policy, spec domain.PolicySpec, metadata audit.Metadata) (domain.Policy, error) {
	old := p
	if spec == old.PolicySpec {
		return p, nil
	}
	if err := ch.setLock(&p, spec.LockedUntil); err != nil {
		return p, err
	}
	if spec == p.PolicySpec {
		addLock(metadata, "", spec)
		addLock(metadata, "previous_", old.PolicySpec)
		ch.logPolicy(audit.KindUpdatePolicy, p, metadata)
		return p, nil
	}
	p.Revision++
	p.PolicySpec = spec
	coverage := spec.TagPattern != old.TagPattern || spec.TagPatternMatches != old.TagPatternMatches || spec.EnforcementMode != old.EnforcementMode
	if err := ch.retireRevision(old, coverage && spec.ReclaimPolicy == domain.Retain, CausePolicyUpdated); err != nil {
		return p, err
	}
	if err := ch.InsertRevision(p, ch.now); err != nil {
		return p, err
	}
	maps.Copy(metadata, specMetadata("", spec))
	maps.Copy(metadata, specMetadata("previous_", old.PolicySpec))
	ch.logPolicy(audit.KindUpdatePolicy, p, metadata)
	if spec.EnforcementMode == domain.Enforce {
		if err := ch.queueSweep(p, SweepApply, CausePolicyUpdated); err != nil {
			return p, err
		}
	}
	if spec.ReclaimPolicy == domain.Release {
		return p, ch.queueSweep(p, SweepRelease, CausePolicyUpdated)
	}
	return p, nil
}

// retireRevision ends a policy's current revision. A closing one keeps its tags locked until its sweep is done.
func (ch *change) retireRevision(p domain.Policy, closing bool, cause SweepCause) error {
	if !closing || p.EnforcementMode != domain.Enforce {
		return ch.SetRevisionState(p.ID, p.Revision, domain.RevisionPast, 0)
	}
	bound, err := ch.MaxTagID()
	if err != nil {
		return err
	}
	if err := ch.SetRevisionState(p.ID, p.Revision, domain.RevisionClosing, bound); err != nil {
		return err
	}
	return ch.queueSweep(p, SweepClose, cause)
}

// DeletePolicy withdraws a policy at once; its reclaim policy says what becomes of its holds. One that is locked is
// refused: POLICY_LOCKED.
func (c *Core) DeletePolicy(ctx context.Context, caller domain.Caller, scope Scope, id string) error {
	return c.write(ctx, caller, scope.exclusive(), func(ch *change) error {
		p, err := scope.findPolicy(&ch.Reader, id)
		if err != nil {
			return err
		}
		if p.Manager != nil && !p.Orphaned {
			return managedError(p)
		}
		if locked := undeletable(p, ch.now); locked != nil {
			return refusePolicyChange(audit.KindDeletePolicyFailed, deletesPolicy, p, locked)
		}
		return ch.deletePolicy(p, nil)
	})
}

// deletePolicy withdraws a policy at once. Attribution is what its entry says of who had Kubernetes do it, if anybody had.
func (ch *change) deletePolicy(p domain.Policy, attribution audit.Metadata) error {
	retain := p.ReclaimPolicy == domain.Retain || p.Lost
	if err := ch.retireRevision(p, retain, CausePolicyDeleted); err != nil {
		return err
	}
	if p.Manager != nil {
		if err := ch.RetireManager(p.Manager.UID, ch.now); err != nil {
			return err
		}
	}
	metadata := specMetadata("", p.PolicySpec)
	if p.Lost {
		metadata["reclaim_policy"] = string(domain.Retain)
	}
	maps.Copy(metadata, attribution)
	ch.logPolicy(audit.KindDeletePolicy, p, metadata)
	if err := ch.SetPolicyDeleted(p.ID); err != nil || retain {
		return err
	}
	return ch.queueSweep(p, SweepRelease, CausePolicyDeleted)
}

// ReleasePolicy removes the holds of tags that the policy does not cover now, and returns how many there were. It works
// for policies that a Kubernetes object manages and for deleted ones too. Robots release nothing: DENIED.
func (c *Core) ReleasePolicy(ctx context.Context, caller domain.Caller, scope Scope, id string) (released int, err error) {
	if caller.Kind == domain.CallerRobot {
		return 0, domain.Errorf(domain.CodeDenied, "a robot cannot release the holds of a policy; an administrator of the organization can")
	}
	var last int64
	for {
		var done batch
		err := c.write(ctx, caller, scope.exclusive(), func(ch *change) error {
			o, err := organization(&ch.Reader, scope.Organization)
			if err != nil {
				return err
			}
			p, err := ch.Policy(id)
			if errors.Is(err, meta.ErrNotFound) || err == nil && (p.OrganizationID != o.ID || p.Repository != scope.Repository) {
				return policyUnknown(id)
			}
			if err != nil {
				return err
			}
			done, err = ch.releaseBatch(p, last, c.options.SweepBatch, byHand)
			return err
		})
		if err != nil {
			return released, err
		}
		released += len(done.changed)
		if last = done.last; done.end {
			return released, nil
		}
	}
}

// AdoptPolicy turns an orphaned policy into one of the REST API.
func (c *Core) AdoptPolicy(ctx context.Context, caller domain.Caller, scope Scope, id string) error {
	return c.write(ctx, caller, scope.exclusive(), func(ch *change) error {
		p, err := scope.findPolicy(&ch.Reader, id)
		if err != nil {
			return err
		}
		if !p.Orphaned {
			return domain.Errorf(domain.CodeConflict, "immutability policy %s is not orphaned", id)
		}
		if err := ch.RetireManager(p.Manager.UID, ch.now); err != nil {
			return err
		}
		// Only an object can ask for summaries, and take that back.
		metadata := audit.Metadata{"adopted": true}
		if err := ch.setEvents(&p, domain.EventsPerTag, metadata); err != nil {
			return err
		}
		ch.logPolicy(audit.KindUpdatePolicy, p, metadata)
		return ch.SetPolicyManager(p.ID, nil)
	})
}

// Policies lists the live policies of an organization, or of a repository.
func (c *Core) Policies(ctx context.Context, scope Scope) (list []domain.Policy, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		o, err := scope.find(r)
		if err != nil {
			return err
		}
		list, err = r.Policies(o.ID, scope.Repository)
		return err
	})
	return list, err
}

// Policy finds a live policy of the scope.
func (c *Core) Policy(ctx context.Context, scope Scope, id string) (p domain.Policy, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		p, err = scope.findPolicy(r, id)
		return err
	})
	return p, err
}

// Preview says what a policy would mean for the tags that are there. A scope that does not exist yet has none.
func (c *Core) Preview(ctx context.Context, scope Scope, spec domain.PolicySpec) (coverage Coverage, err error) {
	matcher, err := policy.NewMatcher(spec)
	if err != nil {
		return coverage, err
	}
	err = c.read(ctx, func(r *meta.Reader) error {
		o, err := r.Organization(scope.Organization)
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		set, err := inForce(r, o.ID, scope.Repository)
		if err != nil {
			return err
		}
		coverage, err = measure(r, set, o.ID, scope.Repository, matcher, 0)
		return err
	})
	return coverage, err
}

// measure counts a policy's coverage over all tags of its scope. A policy id of 0 is a policy that is not stored.
func measure(r *meta.Reader, others policy.Set, organizationID int64, path string, matcher policy.Matcher, policyID int64) (Coverage, error) {
	var coverage Coverage
	err := r.ScanTags(organizationID, path, policyID, func(t meta.ScannedTag) error {
		coverage.Total++
		if !matcher.Covers(t.Name) {
			return nil
		}
		coverage.Covered++
		if len(coverage.Sample) < domain.LockSample {
			coverage.Sample = append(coverage.Sample, t.Repository+":"+t.Name)
		}
		held := t.Held
		if policyID == 0 {
			held = 0 // there, 0 asked for holds by hand
		}
		coverage.Held += held
		if t.Holds > held || others.Locking(t.Repository, t.ID, t.Name) != nil {
			coverage.Locked++
		}
		return nil
	})
	return coverage, err
}

// PolicyStatus says how far a live policy has come.
func (c *Core) PolicyStatus(ctx context.Context, scope Scope, id string) (PolicyStatus, error) {
	return c.status(ctx, func(r *meta.Reader) (domain.Policy, error) { return scope.findPolicy(r, id) })
}

// status reads a policy's status, with the indices of entries that were committed before.
func (c *Core) status(ctx context.Context, find func(*meta.Reader) (domain.Policy, error)) (status PolicyStatus, err error) {
	// A sweep may end after the sequencer's round. What says that it is over says where it stands in the log.
	for range 2 {
		if err := c.syncLog(ctx); err != nil {
			return status, err
		}
		err = c.read(ctx, func(r *meta.Reader) error {
			p, err := find(r)
			if err != nil {
				return err
			}
			status, err = policyStatus(r, p)
			return err
		})
		if err != nil || !slices.ContainsFunc(status.Sweeps, Sweep.unindexed) {
			break
		}
	}
	return status, err
}

func policyStatus(r *meta.Reader, p domain.Policy) (status PolicyStatus, err error) {
	status.Policy = p
	set, err := inForce(r, p.OrganizationID, p.Repository)
	if err != nil {
		return status, err
	}
	matcher, err := policy.NewMatcher(p.PolicySpec)
	if err != nil {
		return status, err
	}
	if status.Coverage, err = measure(r, set.Without(p.ID, p.Revision), p.OrganizationID, p.Repository, matcher, p.ID); err != nil {
		return status, err
	}
	if status.Holds, err = r.CountHolds(p.ID); err != nil {
		return status, err
	}
	if p.EnforcementMode == domain.Enforce {
		status.Pending = status.Covered - status.Held
	} else {
		status.WouldLock = status.Covered - status.Locked
	}
	open, err := r.OpenSweepsOfPolicy(p.ID)
	if err != nil {
		return status, err
	}
	status.Swept = len(open) == 0
	stored, err := r.SweepsOfPolicy(p.ID, 5)
	if err != nil {
		return status, err
	}
	for _, s := range stored {
		sweep := Sweep{
			ID: s.ID, PolicyID: s.PolicyID, Revision: s.Revision, Kind: SweepKind(s.Kind), State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
			Total: s.Total, Examined: s.Examined, Changed: s.Changed,
		}
		if sweep.FirstIndex, err = r.AuditIndex(s.FirstEntry); err != nil {
			return status, err
		}
		if sweep.LastIndex, err = r.AuditIndex(s.LastEntry); err != nil {
			return status, err
		}
		status.Sweeps = append(status.Sweeps, sweep)
	}
	return status, nil
}
