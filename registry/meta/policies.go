package meta

import (
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

const policyQuery = `SELECT p.id, p.uuid, p.organization, p.organization_id, p.repository, p.revision, r.tag_pattern, r.tag_pattern_matches, r.enforcement_mode, r.reclaim_policy, p.events,
	p.manager_kind, p.manager_namespace, p.manager_name, p.manager_uid, p.manager_generation, p.orphaned, p.lost, p.delete_at, p.deleted, p.would_refuse, p.created_at,
	p.deletion_user, p.deletion_user_uid, p.deletion_told_at, p.manager_revision_claimed, p.locked_until, p.unlocked_until, p.refused_change
	FROM policies p JOIN policy_revisions r ON r.policy_id = p.id AND r.revision = p.revision WHERE `

func scanPolicy(row scanner) (p domain.Policy, err error) {
	var m domain.ManagedBy
	var deleteAt, told, created, locked, unlocked int64
	err = row.Scan(&p.ID, &p.UUID, &p.Organization, &p.OrganizationID, &p.Repository, &p.Revision, &p.TagPattern, &p.TagPatternMatches, &p.EnforcementMode, &p.ReclaimPolicy, &p.Events,
		&m.Kind, &m.Namespace, &m.Name, &m.UID, &m.Generation, &p.Orphaned, &p.Lost, &deleteAt, &p.Deleted, &p.WouldRefuse, &created,
		&p.DeletionIntent.User, &p.DeletionIntent.UserUID, &told, &m.RevisionClaimed, &locked, &unlocked, &p.RefusedChange)
	if m.Kind != "" {
		p.Manager = &m
	}
	p.DeleteAt, p.CreatedAt, p.DeletionIntent.ToldAt = fromMicros(deleteAt), fromMicros(created), fromMicros(told)
	p.LockedUntil, p.UnlockedUntil = fromMicros(locked), fromMicros(unlocked)
	return p, err
}

func (r *Reader) policy(condition string, args ...any) (p domain.Policy, err error) {
	err = r.one(policyQuery+condition, args, func(row scanner) error {
		p, err = scanPolicy(row)
		return err
	})
	return p, err
}

func (r *Reader) policies(condition string, args ...any) (list []domain.Policy, err error) {
	err = r.each(policyQuery+condition, args, func(row scanner) error {
		p, err := scanPolicy(row)
		list = append(list, p)
		return err
	})
	return list, err
}

// Policy finds a policy by its UUID, deleted ones too.
func (r *Reader) Policy(uuid string) (domain.Policy, error) { return r.policy(`p.uuid = $1`, uuid) }

// PolicyByID finds a policy by its id, deleted ones too.
func (r *Reader) PolicyByID(id int64) (domain.Policy, error) { return r.policy(`p.id = $1`, id) }

// Policies lists the live policies of an organization (empty repository) or of a repository, the oldest first.
func (r *Reader) Policies(organizationID int64, repository string) ([]domain.Policy, error) {
	return r.policies(`p.organization_id = $1 AND p.repository = $2 AND NOT p.deleted ORDER BY p.id`, organizationID, repository)
}

// PoliciesOfOrganization lists the live policies of an organization and all of its repositories, the oldest first.
func (r *Reader) PoliciesOfOrganization(organizationID int64) ([]domain.Policy, error) {
	return r.policies(`p.organization_id = $1 AND NOT p.deleted ORDER BY p.id`, organizationID)
}

// ManagedPolicy finds the live policy of a Kubernetes object.
func (r *Reader) ManagedPolicy(kind, namespace, name string) (domain.Policy, error) {
	return r.policy(`p.manager_kind = $1 AND p.manager_kind <> '' AND p.manager_namespace = $2 AND p.manager_name = $3 AND NOT p.deleted`, kind, namespace, name)
}

// ManagedPolicies lists the live policies of all Kubernetes objects.
func (r *Reader) ManagedPolicies() ([]domain.Policy, error) {
	return r.policies(`p.manager_kind <> '' AND NOT p.deleted ORDER BY p.id`)
}

// PoliciesToDelete lists the live policies whose requested deletion is due.
func (r *Reader) PoliciesToDelete(now time.Time) ([]domain.Policy, error) {
	return r.policies(`p.delete_at > 0 AND p.delete_at <= $1 AND NOT p.deleted ORDER BY p.id`, toMicros(now))
}

// NextPolicyDeletion returns when the next requested deletion is due, zero if none is.
func (r *Reader) NextPolicyDeletion() (time.Time, error) {
	at, err := r.number(`SELECT COALESCE(MIN(delete_at), 0) FROM policies WHERE delete_at > 0 AND NOT deleted`)
	return fromMicros(at), err
}

// InForce lists the revisions that have a say about the tags of a repository. An empty path lists those of the whole
// organization, its repositories' included.
func (r *Reader) InForce(organizationID int64, path string) (list []domain.PolicyRevision, err error) {
	query := `SELECT r.policy_id, p.uuid, r.repository, r.revision, r.tag_pattern, r.tag_pattern_matches, r.enforcement_mode, r.reclaim_policy, p.events, r.state, r.tag_bound, p.deleted
		FROM policy_revisions r JOIN policies p ON p.id = r.policy_id WHERE r.organization_id = $1 AND r.state <> 'past'`
	args := []any{organizationID}
	if path != "" {
		query += ` AND r.repository IN ('', $2)`
		args = append(args, path)
	}
	err = r.each(query+` ORDER BY r.policy_id, r.revision`, args, func(row scanner) error {
		var v domain.PolicyRevision
		err := row.Scan(&v.PolicyID, &v.UUID, &v.Repository, &v.Revision, &v.TagPattern, &v.TagPatternMatches, &v.EnforcementMode, &v.ReclaimPolicy, &v.Events, &v.State, &v.TagBound, &v.PolicyDeleted)
		list = append(list, v)
		return err
	})
	return list, err
}

// Revision finds one revision of a policy, past ones too.
func (r *Reader) Revision(policyID, revision int64) (v domain.PolicyRevision, err error) {
	err = r.one(`SELECT r.policy_id, p.uuid, r.repository, r.revision, r.tag_pattern, r.tag_pattern_matches, r.enforcement_mode, r.reclaim_policy, p.events, r.state, r.tag_bound, p.deleted
		FROM policy_revisions r JOIN policies p ON p.id = r.policy_id WHERE r.policy_id = $1 AND r.revision = $2`, []any{policyID, revision}, func(row scanner) error {
		return row.Scan(&v.PolicyID, &v.UUID, &v.Repository, &v.Revision, &v.TagPattern, &v.TagPatternMatches, &v.EnforcementMode, &v.ReclaimPolicy, &v.Events, &v.State, &v.TagBound, &v.PolicyDeleted)
	})
	return v, err
}

// InsertPolicy creates a policy without its first revision and returns its id.
func (tx *Tx) InsertPolicy(p domain.Policy) (int64, error) {
	return tx.number(`INSERT INTO policies (uuid, organization_id, organization, repository, revision, events, locked_until, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id`,
		p.UUID, p.OrganizationID, p.Organization, p.Repository, p.Revision, string(p.Events), toMicros(p.LockedUntil), toMicros(p.CreatedAt))
}

// InsertRevision stores p's revision and spec as the current revision.
func (tx *Tx) InsertRevision(p domain.Policy, now time.Time) error {
	if err := tx.do(`INSERT INTO policy_revisions (policy_id, revision, organization_id, repository, state, tag_pattern, tag_pattern_matches, enforcement_mode, reclaim_policy, created_at) VALUES ($1, $2, $3, $4, 'current', $5, $6, $7, $8, $9)`,
		p.ID, p.Revision, p.OrganizationID, p.Repository, p.TagPattern, p.TagPatternMatches, string(p.EnforcementMode), string(p.ReclaimPolicy), toMicros(now)); err != nil {
		return err
	}
	return tx.do(`UPDATE policies SET revision = $2, would_refuse = 0 WHERE id = $1`, p.ID, p.Revision)
}

// SetRevisionState turns a revision into a closing one, bound to the tags up to tagBound, or into a past one.
func (tx *Tx) SetRevisionState(policyID, revision int64, state domain.RevisionState, tagBound int64) error {
	return tx.do(`UPDATE policy_revisions SET state = $3, tag_bound = $4 WHERE policy_id = $1 AND revision = $2`, policyID, revision, string(state), tagBound)
}

// SetPolicyEvents changes what becomes a Kubernetes Event of a policy from now on.
func (tx *Tx) SetPolicyEvents(policyID int64, events domain.EventsMode) error {
	return tx.do(`UPDATE policies SET events = $2 WHERE id = $1`, policyID, string(events))
}

// SetPolicyLock changes until when a policy can be neither weakened nor deleted, the zero time for not at all.
func (tx *Tx) SetPolicyLock(policyID int64, until time.Time) error {
	return tx.do(`UPDATE policies SET locked_until = $2 WHERE id = $1`, policyID, toMicros(until))
}

// BreakPolicyLock records that locks of a policy up to a time bind nobody.
func (tx *Tx) BreakPolicyLock(policyID int64, upTo time.Time) error {
	return tx.do(`UPDATE policies SET unlocked_until = $2 WHERE id = $1`, policyID, toMicros(upTo))
}

// SetPolicyRefusedChange records what was refused last of the object that manages a policy.
func (tx *Tx) SetPolicyRefusedChange(policyID int64, what string) error {
	return tx.do(`UPDATE policies SET refused_change = $2 WHERE id = $1`, policyID, what)
}

// SetPolicyManager records the Kubernetes object that manages a policy, nil for none. The policy is neither orphaned nor lost then.
func (tx *Tx) SetPolicyManager(policyID int64, m *domain.ManagedBy) error {
	if m == nil {
		m = &domain.ManagedBy{}
	}
	return tx.do(`UPDATE policies SET manager_kind = $2, manager_namespace = $3, manager_name = $4, manager_uid = $5, manager_generation = $6, manager_revision_claimed = $7, orphaned = FALSE, lost = FALSE WHERE id = $1`,
		policyID, m.Kind, m.Namespace, m.Name, m.UID, m.Generation, m.RevisionClaimed)
}

// SetPolicyOrphaned marks a policy whose manager went away.
func (tx *Tx) SetPolicyOrphaned(policyID int64, orphaned bool) error {
	return tx.do(`UPDATE policies SET orphaned = $2 WHERE id = $1`, policyID, orphaned)
}

// SetPolicyLost marks a policy whose manager may not manage the organization any more.
func (tx *Tx) SetPolicyLost(policyID int64) error {
	return tx.do(`UPDATE policies SET lost = TRUE WHERE id = $1`, policyID)
}

// SetPolicyDeleteAt requests a deletion, or takes a request back with the zero time.
func (tx *Tx) SetPolicyDeleteAt(policyID int64, at time.Time) error {
	return tx.do(`UPDATE policies SET delete_at = $2 WHERE id = $1`, policyID, toMicros(at))
}

// SetPolicyDeletionIntent records who asks to delete a policy's manager; the zero value forgets it.
func (tx *Tx) SetPolicyDeletionIntent(policyID int64, intent domain.DeletionIntent) error {
	return tx.do(`UPDATE policies SET deletion_user = $2, deletion_user_uid = $3, deletion_told_at = $4 WHERE id = $1`,
		policyID, intent.User, intent.UserUID, toMicros(intent.ToldAt))
}

// SetPolicyDeleted marks a policy as gone. Its revisions are for the caller to close.
func (tx *Tx) SetPolicyDeleted(policyID int64) error {
	return tx.do(`UPDATE policies SET deleted = TRUE, delete_at = 0, orphaned = FALSE WHERE id = $1`, policyID)
}

// CountWouldRefuse adds to what a dry run would have refused.
func (tx *Tx) CountWouldRefuse(uuid string, n int64) error {
	return tx.do(`UPDATE policies SET would_refuse = would_refuse + $2 WHERE uuid = $1`, uuid, n)
}

// RetireManager remembers the UID of an object that was replaced or deleted.
func (tx *Tx) RetireManager(uid string, now time.Time) error {
	return tx.do(`INSERT INTO retired_managers (uid, retired_at) VALUES ($1, $2) ON CONFLICT DO NOTHING`, uid, toMicros(now))
}

// ReviveManager forgets that a UID was retired.
func (tx *Tx) ReviveManager(uid string) error {
	return tx.do(`DELETE FROM retired_managers WHERE uid = $1`, uid)
}

// ForgetRetiredManagers forgets all retired UIDs.
func (tx *Tx) ForgetRetiredManagers() error { return tx.do(`DELETE FROM retired_managers`) }

// ManagerRetired reports whether the UID was retired.
func (r *Reader) ManagerRetired(uid string) (bool, error) {
	n, err := r.number(`SELECT COUNT(*) FROM retired_managers WHERE uid = $1`, uid)
	return n > 0, err
}
