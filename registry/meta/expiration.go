package meta

import (
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// DueTag is a tag whose expiration has come.
type DueTag struct {
	ID         int64
	Repository domain.RepositoryName
	Name       string
	ExpiresAt  time.Time
}

// DueTags lists the tags that expire at now or before, those that have waited longest first, behind the tag after, at
// most limit.
func (r *Reader) DueTags(now time.Time, after DueTag, limit int) (list []DueTag, err error) {
	err = r.each(`SELECT t.id, o.name, r.path, t.name, t.expires_at FROM tags t JOIN repositories r ON r.id = t.repository_id JOIN organizations o ON o.id = r.organization_id
		WHERE t.expires_at > 0 AND t.expires_at <= $1 AND (t.expires_at > $2 OR t.expires_at = $2 AND t.id > $3)
		ORDER BY t.expires_at, t.id LIMIT $4`, []any{toMicros(now), toMicros(after.ExpiresAt), after.ID, limit}, func(row scanner) error {
		var due DueTag
		var expires int64
		err := row.Scan(&due.ID, &due.Repository.Organization, &due.Repository.Path, &due.Name, &expires)
		due.ExpiresAt = fromMicros(expires)
		list = append(list, due)
		return err
	})
	return list, err
}

// SetTagExpiration stores when a tag is to be deleted; the zero time is never.
func (tx *Tx) SetTagExpiration(tagID int64, at time.Time) error {
	return tx.do(`UPDATE tags SET expires_at = $2 WHERE id = $1`, tagID, toMicros(at))
}
