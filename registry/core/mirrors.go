package core

import (
	"context"
	"errors"
	"maps"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// ManagedMirror is a mirror as a Kubernetes object declares it.
type ManagedMirror struct {
	// Cluster is the UID of the cluster's kube-system namespace.
	Cluster string
	Manager domain.ManagedBy
	// Applied names who applied the spec, if it is about the manager's generation.
	Applied domain.Applied
	// Rewound marks an older generation that an uncached read of the API server confirmed (a restored etcd).
	Rewound      bool
	Organization string
	Spec         domain.MirrorSpec
	Secrets      domain.MirrorSecrets
	Claim        Claim
	// RequestedAt is the value of the object's annotation that asks for a sync; another value than before asks for one. At
	// most domain.MaxRevisionClaimed printable characters.
	RequestedAt string
}

// MirrorRepositoriesQuery selects repositories of a mirror, ordered by name.
type MirrorRepositoriesQuery struct {
	// States selects the repositories in one of them; without any it selects all. The empty state is that of those which
	// no sync was done with yet.
	States        []domain.SyncState
	Offset, Limit int
}

// mirrorOfOrganization finds the mirror of an organization for a client.
func mirrorOfOrganization(r *meta.Reader, name string) (meta.Mirror, error) {
	m, err := r.Mirror(name)
	if errors.Is(err, meta.ErrNotFound) {
		if _, err = organization(r, name); err == nil {
			err = domain.Errorf(domain.CodeNotFound, "organization %s has no mirror", name)
		}
	}
	return m, err
}

// checkFiller refuses a caller who is to put content into an organization that a mirror fills: that do the mirror, and its
// robot.
func checkFiller(caller domain.Caller, organization string, m *meta.MirrorRef) error {
	own := m != nil && caller.Kind == domain.CallerMirror && caller.Account == m.ID
	robot := m != nil && caller.Kind == domain.CallerRobot && caller.Name == m.Robot
	switch {
	case own, robot, m == nil && caller.Kind != domain.CallerMirror:
		return nil
	case m == nil:
		return domain.Errorf(domain.CodeDenied, "no mirror fills organization %s", organization)
	case m.Manager == nil:
		return domain.Errorf(domain.CodeDenied, "organization %s is mirrored from %s by its mirror configuration; only the mirror may write to it", organization, m.URL)
	}
	return domain.Errorf(domain.CodeDenied, "organization %s is mirrored from %s by %s %s/%s; only the mirror may write to it", organization, m.URL, m.Manager.Kind, m.Manager.Namespace, m.Manager.Name)
}

// mirrorID is the id of the mirror that a caller is, 0 if it is none.
func mirrorID(caller domain.Caller) int64 {
	if caller.Kind == domain.CallerMirror {
		return caller.Account
	}
	return 0
}

// managedMirrorError refuses a change by the REST API of what a Kubernetes object manages.
func managedMirrorError(m meta.Mirror) error {
	return managedByError("the mirror of organization "+m.Organization, *m.Manager)
}

// mirroredError refuses a second mirror of an organization.
func mirroredError(m meta.Mirror) error {
	switch by := m.Manager; {
	case by == nil:
		return domain.Errorf(domain.CodeConflict, "organization %s is mirrored already, from %s, by a mirror of the REST API; delete that one first", m.Organization, m.Source.URL)
	case m.Orphaned, m.Lost:
		return domain.Errorf(domain.CodeConflict, "organization %s is mirrored already, from %s, by %s %s/%s, which is gone or lost the organization; delete the mirror through the REST API first", m.Organization, m.Source.URL, by.Kind, by.Namespace, by.Name)
	default:
		return domain.Errorf(domain.CodeConflict, "organization %s is mirrored already, from %s, by %s %s/%s; delete that object first", m.Organization, m.Source.URL, by.Kind, by.Namespace, by.Name)
	}
}

// logMirror adds an entry about a mirror.
func (ch *change) logMirror(kind audit.Kind, m domain.Mirror, metadata audit.Metadata) {
	metadata["mirror_uuid"] = m.UUID
	addManager(metadata, m.Manager)
	ch.log(kind, subject{organization: m.Organization}, metadata)
}

// CreateMirror makes a mirror of an organization that exists; CONFLICT if it has one, MANAGED_BY_RESOURCE if that is a
// Kubernetes object's.
func (c *Core) CreateMirror(ctx context.Context, caller domain.Caller, organizationName string, spec domain.MirrorSpec, secrets domain.MirrorSecrets) (created domain.Mirror, err error) {
	if spec, err = checkedMirror(spec); err != nil {
		return created, err
	}
	err = c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		o, err := organization(&ch.Reader, organizationName)
		if err != nil {
			return err
		}
		switch m, err := ch.Mirror(o.Name); {
		case err == nil && m.Manager != nil && !m.Orphaned && !m.Lost:
			return managedMirrorError(m)
		case err == nil:
			return mirroredError(m)
		case !errors.Is(err, meta.ErrNotFound):
			return err
		}
		created, err = c.createMirror(ch, o, newMirror{spec: spec, secrets: secrets})
		return err
	})
	return created, err
}

// newMirror is a mirror to make. Attribution is what its entry says of how it came.
type newMirror struct {
	spec        domain.MirrorSpec
	secrets     domain.MirrorSecrets
	manager     *domain.ManagedBy
	requestedAt string
	attribution audit.Metadata
}

func (c *Core) createMirror(ch *change, o domain.Organization, n newMirror) (domain.Mirror, error) {
	m := domain.Mirror{
		UUID: uuid.NewString(), Organization: o.Name, OrganizationID: o.ID, MirrorSpec: n.spec, Manager: n.manager,
		CreatedAt: ch.now, Requested: n.requestedAt != "" && !n.spec.Suspend, RequestedAt: n.requestedAt,
	}
	describeSecrets(&m, n.secrets)
	if redacted(n.secrets) {
		return m, domain.Errorf(domain.CodeInvalid, "%s is no secret, and there is none yet that it could stand for", domain.Redacted)
	}
	if err := ch.checkMirrorRobot(m, ""); err != nil {
		return m, err
	}
	sealed, err := c.sealSecrets(m.UUID, n.secrets)
	if err != nil {
		return m, err
	}
	if m.NextSync, err = dueBySchedule(m, ch.now); err != nil {
		return m, err
	}
	if m.ID, err = ch.InsertMirror(m, sealed); err != nil {
		return m, err
	}
	if n.manager != nil {
		if err := ch.SetMirrorManager(m.ID, n.manager); err != nil {
			return m, err
		}
	}
	metadata := mirrorMetadata(n.spec)
	metadata["credentials"] = sealed != nil
	maps.Copy(metadata, n.attribution)
	ch.logMirror(audit.KindOrgMirrorEnabled, m, metadata)
	if m.Requested {
		ch.logMirror(audit.KindOrgMirrorRequested, m, audit.Metadata{"requested_at": m.RequestedAt})
	}
	ch.wakeMirrors = true
	return m, nil
}

// checkMirrorRobot checks that the robot of a mirror is one of its organization, unless it is the one that it had.
func (ch *change) checkMirrorRobot(m domain.Mirror, before string) error {
	if m.Robot == "" || m.Robot == before {
		return nil
	}
	a, err := ch.Account(domain.CallerRobot, m.Robot)
	if errors.Is(err, meta.ErrNotFound) || err == nil && a.Organization != m.Organization {
		return domain.Errorf(domain.CodeInvalid, "robot %s is no robot of organization %s", domain.Quote(m.Robot), m.Organization)
	}
	return err
}

// UpdateMirror replaces a mirror's spec and secrets. Secrets that are domain.Redacted stay as they are stored, unless they
// would go to another server: INVALID. What a Kubernetes object manages is refused: MANAGED_BY_RESOURCE.
func (c *Core) UpdateMirror(ctx context.Context, caller domain.Caller, organizationName string, spec domain.MirrorSpec, secrets domain.MirrorSecrets) (updated domain.Mirror, err error) {
	return c.ChangeMirror(ctx, caller, organizationName, func(to *domain.MirrorSpec, with *domain.MirrorSecrets) error {
		*to, *with = spec, secrets
		return nil
	})
}

// ChangeMirror is UpdateMirror for who knows only what is to be other: apply gets the stored spec and KeptSecrets, and
// changes both. It runs in the transaction, perhaps more than once.
func (c *Core) ChangeMirror(ctx context.Context, caller domain.Caller, organizationName string, apply func(*domain.MirrorSpec, *domain.MirrorSecrets) error) (updated domain.Mirror, err error) {
	err = c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		m, err := mirrorOfOrganization(&ch.Reader, organizationName)
		if err != nil {
			return err
		}
		if m.Manager != nil {
			return managedMirrorError(m)
		}
		spec, secrets := m.MirrorSpec, m.KeptSecrets()
		if err := apply(&spec, &secrets); err != nil {
			return err
		}
		if spec, err = checkedMirror(spec); err != nil {
			return err
		}
		updated, err = c.changeMirror(ch, m, spec, secrets, audit.Metadata{}, true)
		return err
	})
	return updated, err
}

// MirrorSecrets puts stored secrets in the place of those that are domain.Redacted, for a try of a source. As for
// UpdateMirror, they do not go to another server: INVALID.
func (c *Core) MirrorSecrets(ctx context.Context, organizationName string, to domain.MirrorSource, given domain.MirrorSecrets) (secrets domain.MirrorSecrets, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		m, err := mirrorOfOrganization(r, organizationName)
		if err != nil {
			return err
		}
		secrets, _, err = c.storedSecrets(r, m, to, given)
		return err
	})
	return secrets, err
}

// changeMirror stores another spec and other secrets. Metadata is what the entry says beside what changed; if the change is
// known it has none where nothing changed. A sync that runs ends if the mirror is suspended, or if it would do
// something else by now; then another begins at once.
func (c *Core) changeMirror(ch *change, m meta.Mirror, spec domain.MirrorSpec, given domain.MirrorSecrets, metadata audit.Metadata, known bool) (domain.Mirror, error) {
	before := m.MirrorSpec
	secrets, sealed, changed, err := c.keepSecrets(ch, m, spec, given)
	if err != nil {
		return m.Mirror, err
	}
	m.MirrorSpec = spec
	if err := ch.checkMirrorRobot(m.Mirror, before.Robot); err != nil {
		return m.Mirror, err
	}
	if !changed && same(before, spec) {
		if !known {
			ch.logMirror(audit.KindOrgMirrorChanged, m.Mirror, metadata)
		}
		return m.Mirror, nil
	}
	addMirrorChanges(metadata, before, spec)
	if changed {
		describeSecrets(&m.Mirror, secrets)
		metadata["credentials_changed"] = true
		if err := ch.SetMirrorSecrets(m.Mirror, sealed); err != nil {
			return m.Mirror, err
		}
	}
	if err := ch.SetMirrorSpec(m.ID, spec); err != nil {
		return m.Mirror, err
	}
	kind := audit.KindOrgMirrorChanged
	if spec.Suspend != before.Suspend {
		kind = audit.KindOrgMirrorEnabled
		if spec.Suspend {
			kind = audit.KindOrgMirrorDisabled
		}
	}
	ch.logMirror(kind, m.Mirror, metadata)
	err = ch.reschedule(&m, before, changed || !same(contentOf(before), contentOf(spec)))
	return m.Mirror, err
}

// reschedule says when a mirror is due after its spec has changed. Anew says that a sync would bring something else now.
func (ch *change) reschedule(m *meta.Mirror, before domain.MirrorSpec, anew bool) error {
	ch.wakeMirrors = true
	stopped := running(m.Mirror) && (anew || m.Suspend || paceOf(m.MirrorSpec) != paceOf(before))
	if stopped {
		reason := "the mirror was changed"
		if m.Suspend {
			reason = "the mirror was suspended"
		}
		if err := ch.cancelSync(m, reason); err != nil {
			return err
		}
	}
	next := m.NextSync
	switch {
	case m.Suspend:
		next = noTime
		if m.Requested {
			m.Requested = false
			if err := ch.SetMirrorRequested(m.ID, false, m.RequestedAt); err != nil {
				return err
			}
		}
	case stopped, anew && m.Failures > 0, anew && m.Schedule.Cron == "":
		next = later(ch.now, m.Schedule.StartAt)
	case before.Suspend, m.Schedule != before.Schedule:
		var err error
		if next, err = dueBySchedule(m.Mirror, ch.now); err != nil {
			return err
		}
	}
	m.NextSync = next
	return ch.SetMirrorNextSync(m.ID, next)
}

// DeleteMirror removes a mirror. The organization's content stays and can be written. What a Kubernetes object manages is
// refused, MANAGED_BY_RESOURCE, unless the object is gone or lost the organization.
func (c *Core) DeleteMirror(ctx context.Context, caller domain.Caller, organizationName string) error {
	return c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		m, err := mirrorOfOrganization(&ch.Reader, organizationName)
		if err != nil {
			return err
		}
		if m.Manager != nil && !m.Orphaned && !m.Lost {
			return managedMirrorError(m)
		}
		return ch.deleteMirror(m, nil)
	})
}

// deleteMirror removes a mirror; a sync that runs is over then. Attribution is what the entry says of who had Kubernetes do
// it, if anybody had.
func (ch *change) deleteMirror(m meta.Mirror, attribution audit.Metadata) error {
	ch.wakeMirrors = true
	if running(m.Mirror) {
		if err := ch.cancelSync(&m, "the mirror was deleted"); err != nil {
			return err
		}
	}
	if m.Manager != nil && !m.Lost { // an object that lost the organization may come back to it
		if err := ch.RetireManager(m.Manager.UID, ch.now); err != nil {
			return err
		}
	}
	metadata := audit.Metadata{"deleted": true, "source_url": m.Source.URL, "source_namespace": m.Source.Namespace}
	maps.Copy(metadata, attribution)
	ch.logMirror(audit.KindOrgMirrorDisabled, m.Mirror, metadata)
	return ch.Tx.DeleteMirror(m.ID)
}

// AdoptMirror turns an orphaned mirror into one of the REST API.
func (c *Core) AdoptMirror(ctx context.Context, caller domain.Caller, organizationName string) error {
	return c.write(ctx, caller, exclusive(organizationName), func(ch *change) error {
		m, err := mirrorOfOrganization(&ch.Reader, organizationName)
		if err != nil {
			return err
		}
		if !m.Orphaned {
			return domain.Errorf(domain.CodeConflict, "the mirror of organization %s is not orphaned", m.Organization)
		}
		if err := ch.RetireManager(m.Manager.UID, ch.now); err != nil {
			return err
		}
		ch.logMirror(audit.KindOrgMirrorChanged, m.Mirror, audit.Metadata{"adopted": true})
		return ch.SetMirrorManager(m.ID, nil)
	})
}

// Mirror finds the mirror of an organization; NOT_FOUND if it has none.
func (c *Core) Mirror(ctx context.Context, organizationName string) (domain.Mirror, error) {
	return c.findMirror(ctx, func(r *meta.Reader) (meta.Mirror, error) { return mirrorOfOrganization(r, organizationName) })
}

// ManagedMirror finds the mirror of a Kubernetes object; NOT_FOUND if it has none.
func (c *Core) ManagedMirror(ctx context.Context, kind, namespace, name string) (domain.Mirror, error) {
	return c.findMirror(ctx, func(r *meta.Reader) (meta.Mirror, error) {
		m, err := r.ManagedMirror(kind, namespace, name)
		if errors.Is(err, meta.ErrNotFound) {
			err = domain.Errorf(domain.CodeNotFound, "%s %s/%s has no mirror here", kind, namespace, name)
		}
		return m, err
	})
}

func (c *Core) findMirror(ctx context.Context, find func(*meta.Reader) (meta.Mirror, error)) (domain.Mirror, error) {
	var m meta.Mirror
	err := c.read(ctx, func(r *meta.Reader) (err error) {
		m, err = find(r)
		return err
	})
	return m.Mirror, err
}

// MirrorRepositories lists a page of a mirror's repositories, and counts all that the query selects.
func (c *Core) MirrorRepositories(ctx context.Context, organizationName string, q MirrorRepositoriesQuery) (list []domain.MirrorRepository, total int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		m, err := mirrorOfOrganization(r, organizationName)
		if err != nil {
			return err
		}
		list, total, err = r.MirrorRepositories(m.ID, q.States, q.Offset, q.Limit)
		return err
	})
	return list, total, err
}

// MirrorRepositoryCounts counts a mirror's repositories by their state, those under the empty one that no sync was done with
// yet.
func (c *Core) MirrorRepositoryCounts(ctx context.Context, organizationName string) (counts map[domain.SyncState]int64, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		m, err := mirrorOfOrganization(r, organizationName)
		if err != nil {
			return err
		}
		counts, err = r.CountMirrorRepositories(m.ID)
		return err
	})
	return counts, err
}

// PutManagedMirror makes the registry's mirror what a Kubernetes object declares. It is idempotent and fenced as
// PutManagedPolicy is, but the namespace must own the organization, since a mirror decides who writes to it. CONFLICT,
// naming the other, if the organization has a mirror that the object does not manage.
func (c *Core) PutManagedMirror(ctx context.Context, caller domain.Caller, m ManagedMirror) (put domain.Mirror, err error) {
	if err := validateManager(m.Cluster, m.Manager); err != nil {
		return put, err
	}
	if err := domain.ValidateOrganization(m.Organization); err != nil {
		return put, err
	}
	if m.Manager.Kind != domain.KindOrgMirror {
		return put, domain.Errorf(domain.CodeInvalid, "a %s manages no mirror", m.Manager.Kind)
	}
	if !printable(m.RequestedAt, domain.MaxRevisionClaimed) {
		return put, domain.Errorf(domain.CodeInvalid, "what asks for a sync is not at most %d printable characters", domain.MaxRevisionClaimed)
	}
	if m.Spec, err = checkedMirror(m.Spec); err != nil {
		return put, err
	}
	// A refused claim of a mirror that is here is recorded, so the refusal must not undo the transaction.
	var refused error
	err = writeManaged(ctx, c, caller, m.Cluster, m.Organization, mirrorOf(m.Manager), func(ch *change, present *meta.Mirror) error {
		refused = nil
		var before *domain.ManagedBy
		if present != nil {
			before = present.Manager
		}
		if err := ch.fence(m.Manager, m.Rewound, before); err != nil {
			return err
		}
		o, err := ch.claim(m.Organization, m.Claim, false)
		if domain.CodeOf(err) == domain.CodeOrganizationNotOwned && present != nil && present.Organization == m.Organization {
			refused = err
			return ch.loseMirror(*present)
		}
		if err != nil {
			return err
		}
		put, err = c.putManagedMirror(ch, o, present, m)
		return err
	})
	if err == nil {
		err = refused
	}
	return put, err
}

// loseMirror records that a mirror's object may not manage its organization any more. It syncs no more.
func (ch *change) loseMirror(m meta.Mirror) error {
	if m.Lost {
		return nil
	}
	ch.wakeMirrors = true
	if running(m.Mirror) {
		if err := ch.cancelSync(&m, "its namespace may not manage the organization any more"); err != nil {
			return err
		}
	}
	ch.logMirror(audit.KindOrgMirrorChanged, m.Mirror, audit.Metadata{"lost": true})
	if err := ch.SetMirrorRequested(m.ID, false, m.RequestedAt); err != nil {
		return err
	}
	if err := ch.SetMirrorNextSync(m.ID, noTime); err != nil {
		return err
	}
	return ch.SetMirrorLost(m.ID)
}

// putManagedMirror creates or changes the object's mirror. Another object of the same name takes over the mirror of the same
// organization; else the old mirror is deleted. Each generation of the object that comes for the first time leaves an
// entry, whether it changes what the registry stores or not.
func (c *Core) putManagedMirror(ch *change, o domain.Organization, present *meta.Mirror, m ManagedMirror) (domain.Mirror, error) {
	var last int64
	sameObject := present != nil && present.Manager.UID == m.Manager.UID
	if sameObject {
		last = present.Manager.Generation
	}
	if present != nil && present.OrganizationID != o.ID {
		if err := ch.deleteMirror(*present, applicant(m.Manager, m.Applied)); err != nil {
			return present.Mirror, err
		}
		if sameObject {
			if err := ch.ReviveManager(m.Manager.UID); err != nil {
				return present.Mirror, err
			}
		}
		present = nil
	}
	metadata := attribution(m.Manager, m.Applied, last)
	if present == nil {
		switch other, err := ch.Mirror(o.Name); {
		case err == nil && !other.Lost:
			return other.Mirror, mirroredError(other)
		case err == nil:
			if err := ch.deleteMirror(other, applicant(m.Manager, m.Applied)); err != nil {
				return other.Mirror, err
			}
		case !errors.Is(err, meta.ErrNotFound):
			return domain.Mirror{}, err
		}
		return c.createMirror(ch, o, newMirror{spec: m.Spec, secrets: m.Secrets, manager: &m.Manager, requestedAt: m.RequestedAt, attribution: metadata})
	}
	known := sameObject && last == m.Manager.Generation
	if known {
		m.Manager.RevisionClaimed = present.Manager.RevisionClaimed
		// Of what changes without a new generation, the secrets, nobody knows who did it.
		metadata = audit.Metadata{}
	}
	if !sameObject {
		if err := ch.RetireManager(present.Manager.UID, ch.now); err != nil {
			return present.Mirror, err
		}
		if err := ch.SetMirrorDeletionIntent(present.ID, domain.DeletionIntent{}); err != nil {
			return present.Mirror, err
		}
		metadata["adopted_from_uid"] = present.Manager.UID
	}
	if present.Orphaned {
		known, metadata["orphaned"] = false, false
	}
	back := present.Lost
	if back {
		known, metadata["lost"] = false, false
	}
	present.Manager, present.Orphaned, present.Lost = &m.Manager, false, false
	if err := ch.SetMirrorManager(present.ID, &m.Manager); err != nil {
		return present.Mirror, err
	}
	changed, err := c.changeMirror(ch, *present, m.Spec, m.Secrets, metadata, known)
	if err != nil {
		return changed, err
	}
	if back {
		ch.wakeMirrors = true
		if changed.NextSync, err = dueBySchedule(changed, ch.now); err != nil {
			return changed, err
		}
		if err := ch.SetMirrorNextSync(changed.ID, changed.NextSync); err != nil {
			return changed, err
		}
	}
	err = ch.requestByObject(&changed, m.RequestedAt)
	return changed, err
}

// requestByObject asks for a sync if an object's annotation has another value than before. What is asked for while the
// mirror is suspended does not count.
func (ch *change) requestByObject(m *domain.Mirror, at string) error {
	if m.RequestedAt == at {
		return nil
	}
	m.RequestedAt = at
	if at != "" && !m.Suspend {
		ch.wakeMirrors, m.Requested = true, true
		ch.logMirror(audit.KindOrgMirrorRequested, *m, audit.Metadata{"requested_at": at})
	}
	return ch.SetMirrorRequested(m.ID, m.Requested, at)
}

// DeleteManagedMirror removes the mirror of a Kubernetes object at once. Content stays and can be written. It does
// nothing for another UID than the mirror's.
func (c *Core) DeleteManagedMirror(ctx context.Context, caller domain.Caller, cluster string, m domain.ManagedBy) error {
	return writeManaged(ctx, c, caller, cluster, "", mirrorOf(m), func(ch *change, present *meta.Mirror) error {
		if present == nil || present.Manager.UID != m.UID {
			return nil
		}
		intent := recent(present.DeletionIntent, ch.now)
		return ch.deleteMirror(*present, appliedBy(intent.User, intent.UserUID))
	})
}
