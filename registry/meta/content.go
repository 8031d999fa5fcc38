package meta

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// Blob finds a blob that the repository has a link to.
func (r *Reader) Blob(repositoryID int64, d digest.Digest) (blob domain.Blob, err error) {
	err = r.one(`SELECT b.digest, b.size, b.storage_key FROM repository_blobs l JOIN blobs b ON b.digest = l.digest WHERE l.repository_id = $1 AND l.digest = $2`,
		[]any{repositoryID, string(d)}, func(row scanner) error { return row.Scan(&blob.Digest, &blob.Size, &blob.Key) })
	return blob, err
}

// UnlinkBlob removes a repository's link to a blob.
func (tx *Tx) UnlinkBlob(repositoryID int64, d digest.Digest) error {
	return tx.do(`DELETE FROM repository_blobs WHERE repository_id = $1 AND digest = $2`, repositoryID, string(d))
}

func (r *Reader) ids(query string, args ...any) (ids []int64, err error) {
	err = r.each(query, args, func(row scanner) error {
		var id int64
		err := row.Scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

// MissingBlobs returns those of the digests that the repository has no link to.
func (r *Reader) MissingBlobs(repositoryID int64, digests []digest.Digest) ([]digest.Digest, error) {
	return r.missing(`SELECT digest FROM repository_blobs WHERE repository_id = $1 AND digest IN `, repositoryID, digests)
}

// MissingManifests returns those of the digests that are no manifest of the repository.
func (r *Reader) MissingManifests(repositoryID int64, digests []digest.Digest) ([]digest.Digest, error) {
	return r.missing(`SELECT digest FROM manifests WHERE repository_id = $1 AND digest IN `, repositoryID, digests)
}

func (r *Reader) missing(query string, repositoryID int64, digests []digest.Digest) ([]digest.Digest, error) {
	found := make(map[digest.Digest]bool, len(digests))
	err := r.chunks(len(digests), func(from, size int) error {
		args := []any{repositoryID}
		for _, d := range digests[from : from+size] {
			args = append(args, string(d))
		}
		return r.each(query+"("+placeholders(2, size)+")", args, func(row scanner) error {
			var d digest.Digest
			err := row.Scan(&d)
			found[d] = true
			return err
		})
	})
	var missing []digest.Digest
	for _, d := range digests {
		if !found[d] {
			missing = append(missing, d)
		}
	}
	return missing, err
}

const descriptorColumns = `id, digest, media_type, artifact_type, subject, annotations, size, created_at`

func scanManifest(row scanner, more ...any) (m domain.Manifest, err error) {
	var annotations string
	var created int64
	err = row.Scan(append([]any{&m.ID, &m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject, &annotations, &m.Size, &created}, more...)...)
	if err == nil && annotations != "" {
		err = json.Unmarshal([]byte(annotations), &m.Annotations)
	}
	m.CreatedAt = fromMicros(created)
	return m, err
}

// Manifest finds a manifest by its digest, without its content.
func (r *Reader) Manifest(repositoryID int64, d digest.Digest) (m domain.Manifest, err error) {
	err = r.one(`SELECT `+descriptorColumns+` FROM manifests WHERE repository_id = $1 AND digest = $2`, []any{repositoryID, string(d)}, func(row scanner) error {
		m, err = scanManifest(row)
		return err
	})
	return m, err
}

// ManifestByID finds a manifest by its id, without its content.
func (r *Reader) ManifestByID(id int64) (m domain.Manifest, err error) {
	err = r.one(`SELECT `+descriptorColumns+` FROM manifests WHERE id = $1`, []any{id}, func(row scanner) error {
		m, err = scanManifest(row)
		return err
	})
	return m, err
}

// ManifestContent reads the bytes of a manifest.
func (r *Reader) ManifestContent(id int64) (content []byte, err error) {
	err = r.one(`SELECT content FROM manifests WHERE id = $1`, []any{id}, func(row scanner) error { return row.Scan(&content) })
	return content, err
}

// IsSparse reports whether a manifest was stored before all that it refers to.
func (r *Reader) IsSparse(manifestID int64) (bool, error) {
	n, err := r.number(`SELECT COUNT(*) FROM sparse_manifests WHERE manifest_id = $1`, manifestID)
	return n > 0, err
}

// RepositoriesOfBlob lists the repositories that have a link to a blob, the oldest first, at most limit.
func (r *Reader) RepositoriesOfBlob(d digest.Digest, limit int) (list []domain.Repository, err error) {
	err = r.each(`SELECT `+repositoryColumns+` FROM repositories WHERE id IN (SELECT repository_id FROM repository_blobs WHERE digest = $1 ORDER BY repository_id LIMIT $2) ORDER BY id`,
		[]any{string(d), limit}, func(row scanner) error {
			repo, err := scanRepository(row)
			list = append(list, repo)
			return err
		})
	return list, err
}

// Referrers lists the manifests whose subject is the digest, ordered by digest, those behind after. An empty artifact
// type selects all. The list ends after limit manifests, or before the next one's description would make it longer than
// size bytes, but with one at least; more tells that there are others behind.
func (r *Reader) Referrers(repositoryID int64, subject digest.Digest, artifactType string, after digest.Digest, limit, size int) (list []domain.Manifest, more bool, err error) {
	length := 0
	err = r.each(`SELECT `+descriptorColumns+`, octet_length(annotations) FROM manifests WHERE repository_id = $1 AND subject = $2 AND subject <> '' AND digest > $3 AND ($4 = '' OR artifact_type = $4) ORDER BY digest LIMIT $5`,
		[]any{repositoryID, string(subject), string(after), artifactType, limit + 1}, func(row scanner) error {
			var annotations int
			m, err := scanManifest(row, &annotations)
			if err != nil {
				return err
			}
			length += annotations + descriptorSize
			if len(list) == limit || (length > size && len(list) > 0) {
				more = true
				return errFound
			}
			list = append(list, m)
			return nil
		})
	if errors.Is(err, errFound) {
		err = nil
	}
	return list, more, err
}

// descriptorSize bounds what describes a manifest beside its annotations, in bytes of JSON.
const descriptorSize = 1024

// InsertManifest stores a manifest with what it refers to and returns its id.
func (tx *Tx) InsertManifest(repositoryID int64, m domain.Manifest) (int64, error) {
	annotations := ""
	if len(m.Annotations) > 0 {
		b, err := json.Marshal(m.Annotations)
		if err != nil {
			return 0, err
		}
		annotations = string(b)
	}
	id, err := tx.number(`INSERT INTO manifests (repository_id, digest, media_type, artifact_type, subject, annotations, size, created_at, content) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id`,
		repositoryID, string(m.Digest), m.MediaType, m.ArtifactType, string(m.Subject), annotations, m.Size, toMicros(m.CreatedAt), m.Content)
	if err != nil {
		return 0, err
	}
	if m.Sparse {
		if err := tx.do(`INSERT INTO sparse_manifests (manifest_id) VALUES ($1)`, id); err != nil {
			return 0, err
		}
	}
	edges := func(digests []digest.Digest) [][]any {
		rows := make([][]any, len(digests))
		for i, d := range digests {
			rows[i] = []any{repositoryID, string(d), id}
		}
		return rows
	}
	if err := tx.insertRows(`INSERT INTO manifest_children (repository_id, child_digest, manifest_id)`, ` ON CONFLICT DO NOTHING`, edges(m.Children)); err != nil {
		return 0, err
	}
	return id, tx.insertRows(`INSERT INTO manifest_blobs (repository_id, digest, manifest_id)`, ` ON CONFLICT DO NOTHING`, edges(m.Blobs))
}

// DeleteManifest removes a manifest that no tag points to.
func (tx *Tx) DeleteManifest(id int64) error {
	return tx.do(`DELETE FROM manifests WHERE id = $1`, id)
}

const tagQuery = `SELECT t.id, t.repository_id, t.name, t.manifest_id, m.digest, m.media_type, m.size, t.updated_at, t.expires_at, t.mirror_id FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE `

func scanTag(row scanner) (t domain.Tag, err error) {
	var updated, expires int64
	err = row.Scan(&t.ID, &t.RepositoryID, &t.Name, &t.ManifestID, &t.Digest, &t.MediaType, &t.Size, &updated, &expires, &t.MirrorID)
	t.UpdatedAt, t.ExpiresAt = fromMicros(updated), fromMicros(expires)
	return t, err
}

func (r *Reader) tags(query string, args ...any) (list []domain.Tag, err error) {
	err = r.each(query, args, func(row scanner) error {
		t, err := scanTag(row)
		list = append(list, t)
		return err
	})
	return list, err
}

// Tag finds a live tag.
func (r *Reader) Tag(repositoryID int64, name string) (t domain.Tag, err error) {
	err = r.one(tagQuery+`t.repository_id = $1 AND t.name = $2`, []any{repositoryID, name}, func(row scanner) error {
		t, err = scanTag(row)
		return err
	})
	return t, err
}

// Tag is Reader.Tag for a change of the tag.
func (tx *Tx) Tag(repositoryID int64, name string) (domain.Tag, error) {
	var locked int64
	for {
		// What the row refers to is read by a second statement: the first one's look at it may be older than its lock.
		t, err := tx.Reader.Tag(repositoryID, name)
		if err != nil || !tx.several || t.ID == locked {
			return t, err
		}
		locked, err = tx.number(`SELECT id FROM tags WHERE repository_id = $1 AND name = $2 FOR UPDATE`, repositoryID, name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return t, err
		}
	}
}

// Again reads tags again that Holds has locked: the first look at them may be older than the locks. None of them may be
// gone; the answer is ordered by repository and name. Where one transaction writes at a time, the tags are as they were.
func (tx *Tx) Again(tags []domain.Tag) (list []domain.Tag, err error) {
	if !tx.several {
		return tags, nil
	}
	err = tx.eachTagID(tags, func(parameters string, ids []any) error {
		part, err := tx.tags(tagQuery+`t.id IN (`+parameters+`) ORDER BY t.repository_id, t.name`, ids...)
		list = append(list, part...)
		return err
	})
	return list, err
}

// TagNames lists the names of live tags in lexical order, those behind after.
func (r *Reader) TagNames(repositoryID int64, after string, limit int) (names []string, err error) {
	err = r.each(`SELECT name FROM tags WHERE repository_id = $1 AND name > $2 ORDER BY name LIMIT $3`, []any{repositoryID, after, limit}, func(row scanner) error {
		var name string
		err := row.Scan(&name)
		names = append(names, name)
		return err
	})
	return names, err
}

// Tags lists live tags by name, those behind after; contains selects the names with that text, of which offset are
// skipped.
func (r *Reader) Tags(repositoryID int64, after, contains string, offset, limit int) ([]domain.Tag, error) {
	if contains == "" {
		return r.tags(tagQuery+`t.repository_id = $1 AND t.name > $2 ORDER BY t.name LIMIT $3 OFFSET $4`, repositoryID, after, limit, offset)
	}
	return r.tags(tagQuery+`t.repository_id = $1 AND t.name > $2 AND replace(t.name, $3, '') <> t.name ORDER BY t.name LIMIT $4 OFFSET $5`, repositoryID, after, contains, limit, offset)
}

// TagsOfManifest lists the live tags that point to a manifest, by name.
func (r *Reader) TagsOfManifest(manifestID int64) ([]domain.Tag, error) {
	return r.tags(tagQuery+`t.manifest_id = $1 ORDER BY t.name`, manifestID)
}

// MaxTagID is the highest id of a tag so far.
func (r *Reader) MaxTagID() (int64, error) { return r.number(`SELECT COALESCE(MAX(id), 0) FROM tags`) }

// InsertTag creates a tag and returns its id. MirrorID is the mirror that makes it, 0 if none does.
func (tx *Tx) InsertTag(repositoryID int64, name string, manifestID, mirrorID int64, now time.Time) (int64, error) {
	return tx.number(`INSERT INTO tags (repository_id, name, manifest_id, mirror_id, updated_at) VALUES ($1, $2, $3, $4, $5) RETURNING id`, repositoryID, name, manifestID, mirrorID, toMicros(now))
}

// MoveTag points a tag to another manifest, without an expiration, and remembers what it pointed to. MirrorID is the
// mirror that moves it, 0 if none does.
func (tx *Tx) MoveTag(t domain.Tag, manifestID, mirrorID int64, now time.Time) error {
	if err := tx.remember(t, now); err != nil {
		return err
	}
	return tx.do(`UPDATE tags SET manifest_id = $2, mirror_id = $3, updated_at = $4, expires_at = 0 WHERE id = $1`, t.ID, manifestID, mirrorID, toMicros(now))
}

// DeleteTag removes a tag and remembers what it pointed to.
func (tx *Tx) DeleteTag(t domain.Tag, now time.Time) error {
	if err := tx.remember(t, now); err != nil {
		return err
	}
	return tx.do(`DELETE FROM tags WHERE id = $1`, t.ID)
}

func (tx *Tx) remember(t domain.Tag, now time.Time) error {
	return tx.do(`INSERT INTO past_tags (repository_id, name, digest, from_time, until_time) VALUES ($1, $2, $3, $4, $5)`,
		t.RepositoryID, t.Name, string(t.Digest), toMicros(t.UpdatedAt), toMicros(now))
}

// PastTags lists what a tag pointed to before, the latest first.
func (r *Reader) PastTags(repositoryID int64, name string, limit int) (list []domain.PastTag, err error) {
	err = r.each(`SELECT name, digest, from_time, until_time FROM past_tags WHERE repository_id = $1 AND name = $2 ORDER BY id DESC LIMIT $3`, []any{repositoryID, name, limit}, func(row scanner) error {
		var past domain.PastTag
		var from, until int64
		err := row.Scan(&past.Name, &past.Digest, &from, &until)
		past.From, past.Until = fromMicros(from), fromMicros(until)
		list = append(list, past)
		return err
	})
	return list, err
}
