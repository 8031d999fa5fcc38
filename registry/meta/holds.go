package meta

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// ByHand is the policy id of a hold that was placed by hand.
const ByHand int64 = 0

// Hold is one reason why a tag is locked.
type Hold struct {
	TagID    int64
	PolicyID int64
}

// Holds lists the holds of tags, which must be sorted by id or name; the answer is in no particular order.
func (r *Reader) Holds(tags []domain.Tag) (list []Hold, err error) {
	err = r.eachTagID(tags, func(parameters string, ids []any) error {
		return r.each(`SELECT tag_id, policy_id FROM holds WHERE tag_id IN (`+parameters+`)`, ids, func(row scanner) error {
			var h Hold
			err := row.Scan(&h.TagID, &h.PolicyID)
			list = append(list, h)
			return err
		})
	})
	return list, err
}

func (r *Reader) eachTagID(tags []domain.Tag, fn func(parameters string, ids []any) error) error {
	return r.chunks(len(tags), func(from, size int) error {
		ids := make([]any, size)
		for i, t := range tags[from : from+size] {
			ids[i] = t.ID
		}
		return fn(placeholders(1, size), ids)
	})
}

// Holds is Reader.Holds for a change of the holds or of what depends on them.
func (tx *Tx) Holds(tags []domain.Tag) ([]Hold, error) {
	if tx.several {
		err := tx.eachTagID(tags, func(parameters string, ids []any) error {
			_, err := tx.ids(`SELECT id FROM tags WHERE id IN (`+parameters+`) ORDER BY repository_id, name FOR UPDATE`, ids...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return tx.Reader.Holds(tags)
}

// HeldSince is when the oldest hold of a tag was placed, zero if it has none.
func (r *Reader) HeldSince(tagID int64) (time.Time, error) {
	at, err := r.number(`SELECT COALESCE(MIN(placed_at), 0) FROM holds WHERE tag_id = $1`, tagID)
	return fromMicros(at), err
}

// PlaceHolds stores holds that are not there yet.
func (tx *Tx) PlaceHolds(holds []Hold, now time.Time) error {
	rows := make([][]any, len(holds))
	for i, h := range holds {
		rows[i] = []any{h.TagID, h.PolicyID, toMicros(now)}
	}
	return tx.insertRows(`INSERT INTO holds (tag_id, policy_id, placed_at)`, ``, rows)
}

// RemoveHold removes one hold.
func (tx *Tx) RemoveHold(h Hold) error {
	return tx.do(`DELETE FROM holds WHERE tag_id = $1 AND policy_id = $2`, h.TagID, h.PolicyID)
}

// CountHolds counts the tags that a policy holds.
func (r *Reader) CountHolds(policyID int64) (int64, error) {
	return r.number(`SELECT COUNT(*) FROM holds WHERE policy_id = $1`, policyID)
}

// HeldTag is a tag that a policy holds.
type HeldTag struct {
	domain.Tag
	// Repository is the path of the tag's repository.
	Repository string
}

// HeldTags lists the tags that a policy holds by id, those behind afterTag.
func (r *Reader) HeldTags(policyID, afterTag int64, limit int) (list []HeldTag, err error) {
	err = r.each(`SELECT t.id, t.repository_id, t.name, t.manifest_id, m.digest, m.media_type, m.size, t.updated_at, r.path
		FROM holds h JOIN tags t ON t.id = h.tag_id JOIN manifests m ON m.id = t.manifest_id JOIN repositories r ON r.id = t.repository_id
		WHERE h.policy_id = $1 AND h.tag_id > $2 ORDER BY h.tag_id LIMIT $3`, []any{policyID, afterTag, limit}, func(row scanner) error {
		var h HeldTag
		var updated int64
		err := row.Scan(&h.ID, &h.RepositoryID, &h.Name, &h.ManifestID, &h.Digest, &h.MediaType, &h.Size, &updated, &h.Repository)
		h.UpdatedAt = fromMicros(updated)
		list = append(list, h)
		return err
	})
	return list, err
}

// ScannedTag is a live tag as a scan of a whole scope sees it.
type ScannedTag struct {
	ID     int64
	Name   string
	Digest digest.Digest
	// Repository is the path of the tag's repository.
	Repository string
	// Holds counts the tag's holds, Held is 1 if the asked policy's is among them.
	Holds, Held int64
}

// ScanTags calls fn for every live tag of an organization, or of one of its repositories (path).
func (r *Reader) ScanTags(organizationID int64, path string, policyID int64, fn func(ScannedTag) error) error {
	return r.each(`SELECT t.id, t.name, m.digest, r.path, (SELECT COUNT(*) FROM holds h WHERE h.tag_id = t.id), (SELECT COUNT(*) FROM holds h WHERE h.tag_id = t.id AND h.policy_id = $3)
		FROM repositories r JOIN tags t ON t.repository_id = r.id JOIN manifests m ON m.id = t.manifest_id WHERE r.organization_id = $1 AND ($2 = '' OR r.path = $2) ORDER BY r.path, t.name`,
		[]any{organizationID, path, policyID}, func(row scanner) error {
			var t ScannedTag
			if err := row.Scan(&t.ID, &t.Name, &t.Digest, &t.Repository, &t.Holds, &t.Held); err != nil {
				return err
			}
			return fn(t)
		})
}

// CountTags counts the live tags of an organization, or of one of its repositories (path).
func (r *Reader) CountTags(organizationID int64, path string) (int64, error) {
	return r.number(`SELECT COUNT(*) FROM repositories r JOIN tags t ON t.repository_id = r.id WHERE r.organization_id = $1 AND ($2 = '' OR r.path = $2)`, organizationID, path)
}
