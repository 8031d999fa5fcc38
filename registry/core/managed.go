package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
	"github.com/tidelock/tidelock/registry/policy"
)

// PutManagedPolicy makes the registry's policy what a Kubernetes object declares. It is idempotent, and fenced: a lower
// generation of the object than one seen before, and the UID of an object that was replaced or deleted, are STALE,
// another cluster is OTHER_CLUSTER, a namespace without a claim is ORGANIZATION_NOT_OWNED, and what weakens a policy that is
// locked is POLICY_LOCKED.
func (c *Core) PutManagedPolicy(ctx context.Context, caller domain.Caller, m ManagedPolicy) (status PolicyStatus, err error) {
	m.Events, m.Spec = cmp.Or(m.Events, domain.EventsPerTag), normalized(m.Spec)
	if err := validateManaged(m); err != nil {
		return status, err
	}
	// A refused claim of a policy that is here is recorded, and what its lock refuses: that must not undo the transaction.
	var refused error
	var id string
	err = writeManaged(ctx, c, caller, m.Cluster, m.Scope.Organization, policyOf(m.Manager), func(ch *change, present *domain.Policy) error {
		refused = nil
		if err := ch.fence(m.Manager, m.Rewound, managerOf(present)); err != nil {
			return err
		}
		o, err := ch.claim(m.Scope.Organization, m.Claim, true)
		if domain.CodeOf(err) == domain.CodeOrganizationNotOwned && present != nil && present.Organization == m.Scope.Organization {
			refused = err
			return ch.losePolicy(*present)
		}
		if err != nil {
			return err
		}
		if locked := forbiddenByLock(o, present, m, ch.now); locked != nil {
			refused = locked
			what := fmt.Sprintf("%s %s %d", updatesPolicy, m.Manager.UID, m.Manager.Generation)
			return ch.logRefusedObject(audit.KindUpdatePolicyFailed, updatesPolicy, what, *present, locked.Message, applicant(m.Manager, m.Applied))
		}
		if err := c.checkLockEnd(m.Spec.LockedUntil, lockOfManaged(present)); err != nil {
			return err
		}
		p, err := ch.putManaged(o, present, m)
		id = p.UUID
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return status, err
	}
	return c.status(ctx, func(r *meta.Reader) (domain.Policy, error) { return r.Policy(id) })
}

// lockOfManaged is until when the policy of an object is locked, if it has one.
func lockOfManaged(present *domain.Policy) time.Time {
	if present == nil {
		return noTime
	}
	return present.LockedUntil
}

func validateManaged(m ManagedPolicy) error {
	if err := validateManager(m.Cluster, m.Manager); err != nil {
		return err
	}
	if err := domain.ValidateOrganization(m.Scope.Organization); err != nil {
		return err
	}
	if m.Manager.Kind == domain.KindOrgMirror || m.Manager.Kind == domain.KindReadonlySuperuser {
		return domain.Errorf(domain.CodeInvalid, "a %s manages no policy", m.Manager.Kind)
	}
	if m.Scope.Repository != "" {
		if err := domain.ValidateRepositoryPath(m.Scope.Repository); err != nil {
			return err
		}
	}
	if m.Events != domain.EventsPerTag && m.Events != domain.EventsSummary {
		return domain.Errorf(domain.CodeInvalid, "events %q is not allowed; use %s or %s", m.Events, domain.EventsPerTag, domain.EventsSummary)
	}
	return policy.Validate(m.Spec)
}

// validateManager checks what every object says of itself. A ReadonlySuperuser has no namespace.
func validateManager(cluster string, m domain.ManagedBy) error {
	if cluster == "" || m.Kind == "" || m.Name == "" || m.UID == "" {
		return domain.Errorf(domain.CodeInvalid, "cluster, kind, name and uid of the managing object are required")
	}
	if namespaced := m.Kind != domain.KindReadonlySuperuser; namespaced == (m.Namespace == "") {
		return domain.Errorf(domain.CodeInvalid, "the namespace of the managing object is required, unless it is a %s, which has none", domain.KindReadonlySuperuser)
	}
	if !printable(m.RevisionClaimed, domain.MaxRevisionClaimed) {
		return domain.Errorf(domain.CodeInvalid, "the claimed revision is not at most %d printable characters", domain.MaxRevisionClaimed)
	}
	return nil
}

// printable reports whether a text has no more than so many characters, all of them printable.
func printable(text string, limit int) bool {
	return utf8.RuneCountInString(text) <= limit && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// checkCluster accepts the first cluster that comes, and from then on no other.
func (ch *change) checkCluster(uid string) error {
	installation, err := ch.Installation()
	if err != nil {
		return err
	}
	switch installation.ClusterUID {
	case uid:
		return nil
	case "":
		return ch.SetCluster(uid, false)
	}
	return domain.Errorf(domain.CodeOtherCluster, "the registry belongs to the cluster %s, not to %s; run tidelock registry adopt-cluster to hand it over", installation.ClusterUID, uid)
}

// fence refuses a request that acts on an older state than one seen before. Present is the object as it was put last, nil
// if it manages nothing here.
func (ch *change) fence(m domain.ManagedBy, rewound bool, present *domain.ManagedBy) error {
	retired, err := ch.ManagerRetired(m.UID)
	if err != nil {
		return err
	}
	if retired {
		if !rewound {
			return domain.Errorf(domain.CodeStale, "%s with uid %s was deleted or replaced before", m, m.UID)
		}
		if err := ch.ReviveManager(m.UID); err != nil {
			return err
		}
	}
	if present != nil && present.UID == m.UID && m.Generation < present.Generation && !rewound {
		return domain.Errorf(domain.CodeStale, "generation %d of %s is older than %d, which is here", m.Generation, m, present.Generation)
	}
	return nil
}

// claim decides whether an object's namespace may manage something in an organization, and records a new owner.
//
// By its name alone a namespace gets only an organization that is new, that is its own, or, in the first sync after
// adopt-cluster, that nobody owns. Anything else needs the annotation, which admission guards; "*" never makes an owner,
// and is enough only for what does not take an owner. An owner that comes without the annotation that made it one has given
// the organization up.
func (ch *change) claim(name string, by Claim, withoutOwner bool) (domain.Organization, error) {
	namespace := by.Namespace
	byName := name == namespace.Namespace
	annotated := slices.Contains(by.Organizations, name)
	anywhere := withoutOwner && slices.Contains(by.Organizations, "*")
	o, err := ch.Organization(name)
	if errors.Is(err, meta.ErrNotFound) {
		switch {
		case byName || annotated:
			return ch.createOrganization(name, namespace)
		case anywhere:
			return ch.createOrganization(name, domain.Owner{})
		}
		return o, notOwned(name, namespace, domain.Owner{})
	}
	if err != nil || o.Owner == namespace && (byName || annotated) {
		return o, err
	}
	if o.Owner == namespace {
		metadata := audit.Metadata{"previous_owner_namespace": namespace.Namespace, "previous_owner_uid": namespace.UID}
		ch.log(audit.KindOrgOwner, subject{organization: name}, metadata)
		o.Owner = domain.Owner{}
		if err := ch.SetOrganizationOwner(o.ID, o.Owner); err != nil {
			return o, err
		}
	}
	if byName && o.Owner.Namespace == "" && !annotated {
		installation, err := ch.Installation()
		if err != nil {
			return o, err
		}
		annotated = installation.Adopting
	}
	free := o.Owner.Namespace == "" || by.Gone != nil && *by.Gone == o.Owner
	switch {
	case annotated && free:
		metadata := ownerMetadata(namespace)
		if o.Owner.Namespace != "" {
			metadata["previous_owner_namespace"], metadata["previous_owner_uid"] = o.Owner.Namespace, o.Owner.UID
		}
		ch.log(audit.KindOrgOwner, subject{organization: name}, metadata)
		o.Owner = namespace
		return o, ch.SetOrganizationOwner(o.ID, namespace)
	case anywhere:
		return o, nil
	}
	return o, notOwned(name, namespace, o.Owner)
}

func notOwned(name string, namespace, owner domain.Owner) error {
	e := domain.Errorf(domain.CodeOrganizationNotOwned, "namespace %s may not manage organization %s: annotate the namespace with registry.tidelock.dev/organizations: %s", namespace.Namespace, name, name)
	if owner.Namespace != "" {
		e = domain.Errorf(domain.CodeOrganizationNotOwned, "organization %s belongs to namespace %s; namespace %s may not manage it", name, owner.Namespace, namespace.Namespace)
		e.Owner = &owner
	}
	return e
}

// losePolicy records that a policy's object may not manage its organization any more.
func (ch *change) losePolicy(p domain.Policy) error {
	if p.Lost {
		return nil
	}
	ch.logPolicy(audit.KindUpdatePolicy, p, audit.Metadata{"lost": true})
	return ch.SetPolicyLost(p.ID)
}

// putManaged creates or changes the object's policy. Another object of the same name takes over policy, holds and
// evidence where the scope is the same; else the old policy is deleted by its reclaim policy. Each generation of the
// object that comes for the first time leaves an entry, whether it changes what the registry stores or not.
func (ch *change) putManaged(o domain.Organization, present *domain.Policy, m ManagedPolicy) (domain.Policy, error) {
	var last int64
	sameObject := present != nil && present.Manager.UID == m.Manager.UID
	if sameObject {
		last = present.Manager.Generation
	}
	metadata := attribution(m.Manager, m.Applied, last)
	if present != nil && (present.OrganizationID != o.ID || present.Repository != m.Scope.Repository) {
		if err := ch.deletePolicy(*present, applicant(m.Manager, m.Applied)); err != nil {
			return *present, err
		}
		if sameObject {
			if err := ch.ReviveManager(m.Manager.UID); err != nil {
				return *present, err
			}
		}
		present = nil
	}
	if present == nil {
		return ch.createPolicy(o, m.Scope.Repository, m.Spec, m.Events, &m.Manager, metadata)
	}
	p := *present
	known := sameObject && last == m.Manager.Generation
	if known {
		m.Manager.RevisionClaimed = p.Manager.RevisionClaimed
	}
	known = known && p.Events == m.Events
	if err := ch.setEvents(&p, m.Events, metadata); err != nil {
		return p, err
	}
	if !sameObject {
		if err := ch.RetireManager(p.Manager.UID, ch.now); err != nil {
			return p, err
		}
		metadata["adopted_from_uid"] = p.Manager.UID
	}
	if p.Orphaned {
		known, metadata["orphaned"] = false, false
	}
	if p.Lost {
		known, metadata["lost"] = false, false
	}
	if !p.DeleteAt.IsZero() {
		known, metadata["deletion_withdrawn"] = false, true
		if err := ch.SetPolicyDeleteAt(p.ID, noTime); err != nil {
			return p, err
		}
		if err := ch.SetPolicyDeletionIntent(p.ID, domain.DeletionIntent{}); err != nil {
			return p, err
		}
	}
	p.Manager = &m.Manager
	if err := ch.SetPolicyManager(p.ID, p.Manager); err != nil {
		return p, err
	}
	if m.Spec == p.PolicySpec {
		if !known {
			ch.logPolicy(audit.KindUpdatePolicy, p, metadata)
		}
		return p, nil
	}
	return ch.changePolicy(p, m.Spec, metadata)
}

// unknownUser stands in entries where the registry cannot tell who applied or deleted an object.
const unknownUser = "unknown"

// appliedBy is what entries say of the Kubernetes user behind a change. An empty name is an unknown user.
func appliedBy(user, uid string) audit.Metadata {
	if user == "" {
		return audit.Metadata{"applied_by": unknownUser}
	}
	metadata := audit.Metadata{"applied_by": user}
	if uid != "" {
		metadata["applied_by_uid"] = uid
	}
	return metadata
}

// applicant is who applied the object's generation. A stamp of another generation names somebody else: the spec was
// changed while nobody stamped.
func applicant(m domain.ManagedBy, applied domain.Applied) audit.Metadata {
	if applied.Generation != m.Generation {
		return appliedBy("", "")
	}
	return appliedBy(applied.User, applied.UserUID)
}

// attribution is what the entry of a put says of how it came. Last is the generation of the object that was put before,
// 0 if none was.
func attribution(m domain.ManagedBy, applied domain.Applied, last int64) audit.Metadata {
	metadata := applicant(m, applied)
	if m.Generation < last {
		metadata["rewound_from_generation"] = last
	}
	switch first, end := last+1, m.Generation-1; {
	case first < end:
		metadata["unseen_generations"] = fmt.Sprintf("%d-%d", first, end)
	case first == end:
		metadata["unseen_generations"] = strconv.FormatInt(first, 10)
	}
	return metadata
}

// intentValidity is how long a deletion may follow the intent that it is attributed to. The operator passes deletions on
// at once; an intent that nothing came of is not to name the wrong person later.
const intentValidity = 5 * time.Minute

// NoteDeletionIntent records who asks the cluster to delete an object. It does nothing for another UID than that of the
// object which is here, and for a policy whose deletion was accepted already.
func (c *Core) NoteDeletionIntent(ctx context.Context, caller domain.Caller, m domain.ManagedBy, user, userUID string) error {
	switch m.Kind {
	case domain.KindReadonlySuperuser:
		return noteIntent(ctx, c, caller, grantOf(m), func(ch *change, g *meta.ReadonlySuperuser) error {
			if g.Manager.UID != m.UID {
				return nil
			}
			return ch.SetReadonlySuperuserDeletionIntent(g.ID, domain.DeletionIntent{User: user, UserUID: userUID, ToldAt: ch.now})
		})
	case domain.KindOrgMirror:
		return noteIntent(ctx, c, caller, mirrorOf(m), func(ch *change, mirror *meta.Mirror) error {
			if mirror.Manager.UID != m.UID {
				return nil
			}
			return ch.SetMirrorDeletionIntent(mirror.ID, domain.DeletionIntent{User: user, UserUID: userUID, ToldAt: ch.now})
		})
	}
	return noteIntent(ctx, c, caller, policyOf(m), func(ch *change, p *domain.Policy) error {
		if p.Manager.UID != m.UID || !p.DeleteAt.IsZero() {
			return nil
		}
		return ch.SetPolicyDeletionIntent(p.ID, domain.DeletionIntent{User: user, UserUID: userUID, ToldAt: ch.now})
	})
}

// noteIntent runs fn for what an object manages, if it manages anything.
func noteIntent[T any](ctx context.Context, c *Core, caller domain.Caller, find finder[T], fn func(*change, *T) error) error {
	scope, err := scopeOfManaged(ctx, c, "", find)
	if err != nil {
		return err
	}
	return c.writeAlways(ctx, caller, scope, func(ch *change) error {
		present, _, err := find(&ch.Reader)
		if err != nil || present == nil {
			return err
		}
		return fn(ch, present)
	})
}

// recent is the intent, unless it is too old to be believed.
func recent(intent domain.DeletionIntent, now time.Time) domain.DeletionIntent {
	if now.Sub(intent.ToldAt) > intentValidity {
		return domain.DeletionIntent{}
	}
	return intent
}

// DeleteManagedPolicy accepts the deletion of an object: its policy stays in force for the deletion delay, in which an
// object of the same name can take it over. It does nothing for another UID than the policy's. A policy that is locked
// stays: POLICY_LOCKED, unless the object goes because its namespace does; then the policy is orphaned.
func (c *Core) DeleteManagedPolicy(ctx context.Context, caller domain.Caller, cluster string, m domain.ManagedBy, namespaceGoes bool) error {
	var refused *domain.Error
	err := writeManaged(ctx, c, caller, cluster, "", policyOf(m), func(ch *change, p *domain.Policy) error {
		refused = nil
		if p == nil || p.Manager.UID != m.UID || !p.DeleteAt.IsZero() {
			return nil
		}
		if intent := recent(p.DeletionIntent, ch.now); intent != p.DeletionIntent {
			p.DeletionIntent = intent
			if err := ch.SetPolicyDeletionIntent(p.ID, p.DeletionIntent); err != nil {
				return err
			}
		}
		if p.Locked(ch.now) {
			var err error
			refused, err = ch.deleteLocked(*p, namespaceGoes)
			return err
		}
		at := ch.now.Add(c.options.DeletionDelay)
		metadata := appliedBy(p.DeletionIntent.User, p.DeletionIntent.UserUID)
		metadata["deletion_requested"], metadata["delete_at"] = true, at.UTC().Format(timestamp)
		ch.logPolicy(audit.KindUpdatePolicy, *p, metadata)
		ch.wakeSweeps = true
		if err := ch.RetireManager(m.UID, ch.now); err != nil {
			return err
		}
		return ch.SetPolicyDeleteAt(p.ID, at)
	})
	if err == nil && refused != nil {
		return refused
	}
	return err
}

// finder finds what a Kubernetes object manages, nil if it manages nothing, and the organization that it is in.
type finder[T any] func(*meta.Reader) (present *T, organization string, err error)

// policyOf finds the policy of a Kubernetes object.
func policyOf(m domain.ManagedBy) finder[domain.Policy] {
	return func(r *meta.Reader) (*domain.Policy, string, error) {
		p, err := r.ManagedPolicy(m.Kind, m.Namespace, m.Name)
		return found(&p, p.Organization, err)
	}
}

// mirrorOf finds the mirror of a Kubernetes object.
func mirrorOf(m domain.ManagedBy) finder[meta.Mirror] {
	return func(r *meta.Reader) (*meta.Mirror, string, error) {
		mirror, err := r.ManagedMirror(m.Kind, m.Namespace, m.Name)
		return found(&mirror, mirror.Organization, err)
	}
}

func found[T any](thing *T, organization string, err error) (*T, string, error) {
	if errors.Is(err, meta.ErrNotFound) {
		return nil, "", nil
	}
	return thing, organization, err
}

// managerOf is a policy's manager, nil if there is no policy.
func managerOf(p *domain.Policy) *domain.ManagedBy {
	if p == nil {
		return nil
	}
	return p.Manager
}

// errElsewhere leaves a transaction in which what an object manages came to be in an organization that the transaction is
// not about.
var errElsewhere = errors.New("what the object manages is in another organization by now")

// writeManaged runs an operator's change of what a Kubernetes object manages, in the given organization, or in none, and
// in the one that has what the object manages at present, which is nil if there is nothing.
func writeManaged[T any](ctx context.Context, c *Core, caller domain.Caller, cluster, organization string, find finder[T], fn func(ch *change, present *T) error) error {
	for {
		scope, err := scopeOfManaged(ctx, c, organization, find)
		if err != nil {
			return err
		}
		err = c.writeAlways(ctx, caller, scope, func(ch *change) error {
			// First, since operators' changes come one after the other from there on.
			if err := ch.checkCluster(cluster); err != nil {
				return err
			}
			present, in, err := find(&ch.Reader)
			if err != nil {
				return err
			}
			if present != nil && in != scope.Organization && in != scope.OtherOrganization {
				return errElsewhere
			}
			return fn(ch, present)
		})
		if !errors.Is(err, errElsewhere) {
			return err
		}
	}
}

func scopeOfManaged[T any](ctx context.Context, c *Core, organization string, find finder[T]) (meta.Scope, error) {
	scope := meta.Scope{Organization: organization, OrganizationExclusive: true}
	err := c.read(ctx, func(r *meta.Reader) error {
		present, in, err := find(r)
		switch {
		case err != nil || present == nil || in == organization:
		case organization == "":
			scope.Organization = in
		default:
			scope.OtherOrganization = in
		}
		return err
	})
	return scope, err
}

// ManagedPolicyStatus says how far the policy of a Kubernetes object has come; NOT_FOUND if it has none.
func (c *Core) ManagedPolicyStatus(ctx context.Context, kind, namespace, name string) (PolicyStatus, error) {
	return c.status(ctx, func(r *meta.Reader) (domain.Policy, error) {
		p, err := r.ManagedPolicy(kind, namespace, name)
		if errors.Is(err, meta.ErrNotFound) {
			err = domain.Errorf(domain.CodeNotFound, "%s %s/%s has no policy here", kind, namespace, name)
		}
		return p, err
	})
}

// PolicyManagers finds the Kubernetes objects that manage policies, deleted ones too. Policies without one are absent.
func (c *Core) PolicyManagers(ctx context.Context, uuids []string) (map[string]*domain.ManagedBy, error) {
	managers := map[string]*domain.ManagedBy{}
	err := c.read(ctx, func(r *meta.Reader) error {
		for _, id := range uuids {
			p, err := r.Policy(id)
			if err != nil && !errors.Is(err, meta.ErrNotFound) {
				return err
			}
			if err == nil && p.Manager != nil {
				managers[id] = p.Manager
			}
		}
		return nil
	})
	return managers, err
}

// Synced records that every object of the operator is here, or was refused for good. Policies and mirrors whose object is
// not among those present are orphaned: they go on, and are for their organization to adopt or delete. Grants of readonly
// superusers end with their objects.
func (c *Core) Synced(ctx context.Context, caller domain.Caller, cluster string, present []domain.ManagedBy) error {
	here := map[domain.ManagedBy]bool{}
	for _, m := range present {
		here[domain.ManagedBy{Kind: m.Kind, Namespace: m.Namespace, Name: m.Name, UID: m.UID}] = true
	}
	err := c.writeAlways(ctx, caller, meta.Scope{}, func(ch *change) error {
		if err := ch.checkCluster(cluster); err != nil {
			return err
		}
		gone := func(m domain.ManagedBy) bool {
			m.Generation, m.RevisionClaimed = 0, ""
			return !here[m]
		}
		policies, err := ch.ManagedPolicies()
		if err != nil {
			return err
		}
		for _, p := range policies {
			if p.Orphaned || !p.DeleteAt.IsZero() || !gone(*p.Manager) {
				continue
			}
			if err := ch.SetPolicyOrphaned(p.ID, true); err != nil {
				return err
			}
			ch.logPolicy(audit.KindUpdatePolicy, p, audit.Metadata{"orphaned": true})
		}
		mirrors, err := ch.ManagedMirrors()
		if err != nil {
			return err
		}
		for _, m := range mirrors {
			if m.Orphaned || !gone(*m.Manager) {
				continue
			}
			if err := ch.SetMirrorOrphaned(m.ID); err != nil {
				return err
			}
			ch.logMirror(audit.KindOrgMirrorChanged, m.Mirror, audit.Metadata{"orphaned": true})
		}
		grants, err := ch.Tx.ReadonlySuperusers()
		if err != nil {
			return err
		}
		for _, g := range grants {
			if !gone(g.Manager) {
				continue
			}
			metadata := appliedBy("", "")
			metadata["orphaned"] = true
			if err := ch.revokeGrant(g.ReadonlySuperuser, metadata); err != nil {
				return err
			}
		}
		return ch.SetSynced()
	})
	if err == nil {
		c.writable.Store(c.now().UnixNano())
	}
	return err
}

// AdoptCluster hands the registry over to another cluster: its operator may put its objects, and in its first sync its
// namespaces take over organizations by name.
func (c *Core) AdoptCluster(ctx context.Context, caller domain.Caller, cluster string) error {
	if cluster == "" {
		return domain.Errorf(domain.CodeInvalid, "the UID of the cluster's kube-system namespace is required")
	}
	err := c.writeAlways(ctx, caller, meta.Scope{}, func(ch *change) error {
		before, err := ch.Installation()
		if err != nil {
			return err
		}
		ch.log(audit.KindAdoptCluster, subject{}, audit.Metadata{"cluster_uid": cluster, "previous_cluster_uid": before.ClusterUID})
		if err := ch.SetCluster(cluster, true); err != nil {
			return err
		}
		if err := ch.ForgetRetiredManagers(); err != nil {
			return err
		}
		return ch.DisownOrganizations()
	})
	if err == nil {
		c.writable.Store(0)
	}
	return err
}
