package meta

import (
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// ReadonlySuperuser is a grant with what only the registry itself needs to know.
type ReadonlySuperuser struct {
	domain.ReadonlySuperuser
	// DeletionIntent is who asked the cluster to delete the manager, as far as the registry was told.
	DeletionIntent domain.DeletionIntent
}

const readonlySuperuserQuery = `SELECT id, uuid, subject_kind, subject_namespace, subject_name, access, expires_at, ended, credentials, token_id,
	manager_kind, manager_name, manager_uid, manager_generation, manager_revision_claimed, deletion_user, deletion_user_uid, deletion_told_at, created_at, last_seen
	FROM readonly_superusers WHERE `

func scanReadonlySuperuser(row scanner) (g ReadonlySuperuser, err error) {
	var expires, told, created, seen int64
	err = row.Scan(&g.ID, &g.UUID, &g.Subject.Kind, &g.Subject.Namespace, &g.Subject.Name, &g.Access, &expires, &g.Ended, &g.Credentials, &g.TokenID,
		&g.Manager.Kind, &g.Manager.Name, &g.Manager.UID, &g.Manager.Generation, &g.Manager.RevisionClaimed,
		&g.DeletionIntent.User, &g.DeletionIntent.UserUID, &told, &created, &seen)
	g.ExpiresAt, g.DeletionIntent.ToldAt, g.CreatedAt, g.LastSeen = fromMicros(expires), fromMicros(told), fromMicros(created), fromMicros(seen)
	return g, err
}

func (r *Reader) readonlySuperuser(condition string, args ...any) (g ReadonlySuperuser, err error) {
	err = r.one(readonlySuperuserQuery+condition, args, func(row scanner) error {
		g, err = scanReadonlySuperuser(row)
		return err
	})
	return g, err
}

func (r *Reader) readonlySuperusers(condition string, args ...any) (list []ReadonlySuperuser, err error) {
	err = r.each(readonlySuperuserQuery+condition, args, func(row scanner) error {
		g, err := scanReadonlySuperuser(row)
		list = append(list, g)
		return err
	})
	return list, err
}

// ReadonlySuperuserOf finds the grant of a subject.
func (r *Reader) ReadonlySuperuserOf(s domain.Subject) (ReadonlySuperuser, error) {
	return r.readonlySuperuser(`subject_kind = $1 AND subject_namespace = $2 AND subject_name = $3`, string(s.Kind), s.Namespace, s.Name)
}

// ManagedReadonlySuperuser finds the grant of a Kubernetes object.
func (r *Reader) ManagedReadonlySuperuser(kind, name string) (ReadonlySuperuser, error) {
	return r.readonlySuperuser(`manager_kind = $1 AND manager_name = $2`, kind, name)
}

// ReadonlySuperusers lists all grants by the names of their objects.
func (r *Reader) ReadonlySuperusers() ([]ReadonlySuperuser, error) {
	return r.readonlySuperusers(`TRUE ORDER BY manager_kind, manager_name`)
}

// EndingReadonlySuperusers lists the grants that have expired and whose end is not in the log.
func (r *Reader) EndingReadonlySuperusers(now time.Time) ([]ReadonlySuperuser, error) {
	return r.readonlySuperusers(`expires_at <> 0 AND expires_at <= $1 AND NOT ended ORDER BY id`, toMicros(now))
}

// InsertReadonlySuperuser creates a grant and returns its id.
func (tx *Tx) InsertReadonlySuperuser(g domain.ReadonlySuperuser) (int64, error) {
	return tx.number(`INSERT INTO readonly_superusers (uuid, subject_kind, subject_namespace, subject_name, access, expires_at, credentials, token_id,
			manager_kind, manager_name, manager_uid, manager_generation, manager_revision_claimed, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id`,
		g.UUID, string(g.Subject.Kind), g.Subject.Namespace, g.Subject.Name, string(g.Access), toMicros(g.ExpiresAt), g.Credentials, g.TokenID,
		g.Manager.Kind, g.Manager.Name, g.Manager.UID, g.Manager.Generation, g.Manager.RevisionClaimed, toMicros(g.CreatedAt))
}

// UpdateReadonlySuperuser stores what can change of a grant. If another object manages it by now, it forgets who asked to
// delete the one before.
func (tx *Tx) UpdateReadonlySuperuser(g domain.ReadonlySuperuser) error {
	return tx.do(`UPDATE readonly_superusers SET access = $2, expires_at = $3, ended = $4, credentials = $5, token_id = $6,
			manager_uid = $7, manager_generation = $8, manager_revision_claimed = $9,
			deletion_told_at = CASE WHEN manager_uid = $7 THEN deletion_told_at ELSE 0 END WHERE id = $1`,
		g.ID, string(g.Access), toMicros(g.ExpiresAt), g.Ended, g.Credentials, g.TokenID, g.Manager.UID, g.Manager.Generation, g.Manager.RevisionClaimed)
}

// SetReadonlySuperuserDeletionIntent records who asks to delete a grant's object.
func (tx *Tx) SetReadonlySuperuserDeletionIntent(id int64, intent domain.DeletionIntent) error {
	return tx.do(`UPDATE readonly_superusers SET deletion_user = $2, deletion_user_uid = $3, deletion_told_at = $4 WHERE id = $1`, id, intent.User, intent.UserUID, toMicros(intent.ToldAt))
}

// TouchReadonlySuperuser records that the subject of a grant was seen.
func (tx *Tx) TouchReadonlySuperuser(id string, at time.Time) error {
	return tx.do(`UPDATE readonly_superusers SET last_seen = $2 WHERE uuid = $1 AND last_seen < $2`, id, toMicros(at))
}

// DeleteReadonlySuperuser removes a grant. The account and the tokens that it has made stay.
func (tx *Tx) DeleteReadonlySuperuser(id int64) error {
	return tx.do(`DELETE FROM readonly_superusers WHERE id = $1`, id)
}

// DeleteTokensOfGrant removes the tokens that a grant has made.
func (tx *Tx) DeleteTokensOfGrant(grantID int64) error {
	return tx.do(`DELETE FROM account_tokens WHERE grant_id = $1`, grantID)
}

// TokensOfGrant lists the tokens that a grant has made, the oldest first.
func (r *Reader) TokensOfGrant(grantID int64) ([]domain.AccountToken, error) {
	return r.tokens(`grant_id = $1`, grantID)
}

// GrantEpoch is the epoch of all who have no account. It grows with each change of a grant.
func (r *Reader) GrantEpoch() (int64, error) {
	return r.number(`SELECT grant_epoch FROM identity_state WHERE id = 1`)
}

// EndGrantEpoch makes void what was granted until now to those who have no account.
func (tx *Tx) EndGrantEpoch() error {
	return tx.do(`UPDATE identity_state SET grant_epoch = grant_epoch + 1 WHERE id = 1`)
}
