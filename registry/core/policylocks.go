package core

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

// What a refused change wanted to do with a policy.
const (
	updatesPolicy = "update"
	deletesPolicy = "delete"
)

// normalized is a spec as it is stored, so that it can be compared.
func normalized(spec domain.PolicySpec) domain.PolicySpec {
	if micros := spec.LockedUntil.UnixMicro(); spec.LockedUntil.IsZero() || micros == 0 {
		spec.LockedUntil = noTime
	} else {
		spec.LockedUntil = time.UnixMicro(micros).UTC()
	}
	return spec
}

// checkLockEnd refuses the end of a policy's lock, in place of the one that it has now, if it is too far away. A time that
// has passed is taken, so that what was declared once can be declared again.
func (c *Core) checkLockEnd(until, present time.Time) error {
	if until.Equal(present) || !until.After(c.now().Add(c.options.MaxLock)) {
		return nil
	}
	return domain.Errorf(domain.CodeInvalid, "lockedUntil %s is too far away; a policy can be locked for %d days at most (--policies-max-lock)", until.Format(timestamp), c.options.MaxLock/(24*time.Hour))
}

// policyLocked is the answer to a change that a policy's lock forbids.
func policyLocked(p domain.Policy, why string) *domain.Error {
	e := domain.Errorf(domain.CodePolicyLocked, "immutability policy %s is locked until %s: %s", p.UUID, p.LockedUntil.Format(timestamp), why)
	e.LockedUntil = p.LockedUntil
	return e
}

// undeletable is the answer to the deletion of a policy that is locked; nil for one that is not.
func undeletable(p domain.Policy, now time.Time) *domain.Error {
	if !p.Locked(now) {
		return nil
	}
	return policyLocked(p, "it cannot be deleted before that time, and stays in force")
}

// unchangeable is the answer to a change of spec that a policy's lock forbids; nil where none does.
func unchangeable(p domain.Policy, spec domain.PolicySpec, now time.Time) *domain.Error {
	if !p.Locked(now) {
		return nil
	}
	var why []string
	for _, w := range policy.Weakens(p.PolicySpec, spec) {
		why = append(why, w.Field+": "+w.Reason)
	}
	if why == nil {
		return nil
	}
	return policyLocked(p, strings.Join(why, "; "))
}

// refusedPolicyChange is what an entry says of an attempt that a policy's lock refused.
func refusedPolicyChange(p domain.Policy, operation, reason string) audit.Metadata {
	metadata := audit.Metadata{"operation": operation, "reason": reason, "locked_until": p.LockedUntil.Format(timestamp)}
	policyMetadata(p.Ref(), metadata)
	addManager(metadata, p.Manager)
	return metadata
}

func aboutPolicy(p domain.Policy) subject {
	return subject{organization: p.Organization, repository: p.Repository, policy: p.UUID}
}

// refusePolicyChange undoes a change, which leaves an entry about the policy whose lock forbids it.
func refusePolicyChange(kind audit.Kind, operation string, p domain.Policy, answer *domain.Error) error {
	return &refusedError{answer: answer, refusals: []refusal{{
		kind: kind, operation: operation, about: aboutPolicy(p), metadata: refusedPolicyChange(p, operation, answer.Message),
	}}}
}

// logRefusedObject adds the entry of an attempt of the policy's object. The operator makes the same attempt again and
// again, since the object stands; what names it, so that it is one entry.
func (ch *change) logRefusedObject(kind audit.Kind, operation, what string, p domain.Policy, reason string, attribution audit.Metadata) error {
	if p.RefusedChange == what {
		return nil
	}
	metadata := refusedPolicyChange(p, operation, reason)
	for field, value := range attribution {
		metadata[field] = value
	}
	ch.log(kind, aboutPolicy(p), metadata)
	return ch.SetPolicyRefusedChange(p.ID, what)
}

// forbiddenByLock says what a policy's lock has against what its object declares now, nil if nothing.
func forbiddenByLock(o domain.Organization, present *domain.Policy, m ManagedPolicy, now time.Time) *domain.Error {
	if present == nil || !present.Locked(now) {
		return nil
	}
	if present.OrganizationID != o.ID || present.Repository != m.Scope.Repository {
		return policyLocked(*present, fmt.Sprintf("it covers %s and cannot move; name the object otherwise", scopeName(present.Organization, present.Repository)))
	}
	return unchangeable(*present, m.Spec, now)
}

func scopeName(organization, path string) string {
	if path == "" {
		return "organization " + organization
	}
	return "repository " + organization + "/" + path
}

// deleteLocked answers the deletion of an object whose policy is locked. Where the object goes with its namespace, nobody
// can hold it: the policy stays as an orphan.
func (ch *change) deleteLocked(p domain.Policy, namespaceGoes bool) (refused *domain.Error, err error) {
	attribution := appliedBy(p.DeletionIntent.User, p.DeletionIntent.UserUID)
	if namespaceGoes {
		if p.Orphaned {
			return nil, nil
		}
		attribution["orphaned"], attribution["namespace_deleted"] = true, true
		ch.logPolicy(audit.KindUpdatePolicy, p, attribution)
		return nil, ch.SetPolicyOrphaned(p.ID, true)
	}
	refused = undeletable(p, ch.now)
	return refused, ch.logRefusedObject(audit.KindDeletePolicyFailed, deletesPolicy, deletesPolicy+" "+p.Manager.UID, p, refused.Message, attribution)
}

// setLock changes until when a policy can be neither weakened nor deleted. It makes no revision.
func (ch *change) setLock(p *domain.Policy, until time.Time) error {
	if p.LockedUntil.Equal(until) {
		return nil
	}
	p.LockedUntil = until
	return ch.SetPolicyLock(p.ID, until)
}

// RefusedChange is a change of a Kubernetes object that admission refused because its policy is locked.
type RefusedChange struct {
	// Delete is true for a deletion.
	Delete bool
	// User and UserUID are the Kubernetes user's name and UID; the UID can be empty.
	User, UserUID string
	// Reason is what the user was told.
	Reason string
}

// NoteRefusedChange records what admission refused. It does nothing for another UID than that of the object that manages
// the policy.
func (c *Core) NoteRefusedChange(ctx context.Context, caller domain.Caller, m domain.ManagedBy, change RefusedChange) error {
	if !printable(change.Reason, maxReason) {
		return domain.Errorf(domain.CodeInvalid, "the reason is not at most %d printable characters", maxReason)
	}
	kind, operation := audit.KindUpdatePolicyFailed, updatesPolicy
	if change.Delete {
		kind, operation = audit.KindDeletePolicyFailed, deletesPolicy
	}
	var p *domain.Policy
	err := c.read(ctx, func(r *meta.Reader) (err error) {
		p, _, err = policyOf(m)(r)
		return err
	})
	if err != nil || p == nil || p.Manager.UID != m.UID {
		return err
	}
	metadata := refusedPolicyChange(*p, operation, change.Reason)
	for field, value := range appliedBy(change.User, change.UserUID) {
		metadata[field] = value
	}
	return c.recordRefusals(ctx, caller, []refusal{{kind: kind, operation: operation, about: aboutPolicy(*p), metadata: metadata}})
}

// maxReason bounds the reasons that people and admission give, in bytes or characters.
const maxReason = 1024

// UnlockPolicy breaks the lock of a policy, with an entry that says why. The policy goes on as one that was never locked:
// it stays in force until somebody changes or deletes it. A lock to a later time binds again.
func (c *Core) UnlockPolicy(ctx context.Context, caller domain.Caller, id, reason string) (p domain.Policy, err error) {
	reason = strings.TrimSpace(reason)
	if reason == "" || len(reason) > maxReason {
		return p, domain.Errorf(domain.CodeInvalid, "a reason is required, at most %d bytes", maxReason)
	}
	find := func(r *meta.Reader) error {
		p, err = r.Policy(id)
		if errors.Is(err, meta.ErrNotFound) || err == nil && p.Deleted {
			return policyUnknown(id)
		}
		return err
	}
	if err := c.read(ctx, find); err != nil {
		return p, err
	}
	err = c.writeAlways(ctx, caller, Scope{Organization: p.Organization}.exclusive(), func(ch *change) error {
		if err := find(&ch.Reader); err != nil {
			return err
		}
		if !p.Locked(ch.now) {
			return domain.Errorf(domain.CodeConflict, "immutability policy %s is not locked", id)
		}
		ch.logPolicy(audit.KindUnlockPolicy, p, audit.Metadata{"locked_until": p.LockedUntil.Format(timestamp), "reason": reason})
		return ch.BreakPolicyLock(p.ID, p.LockedUntil)
	})
	return p, err
}
