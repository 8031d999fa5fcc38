package meta

import (
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// How a blob that garbage collection removes and a client that takes it at the same moment keep out of each other's way,
// with several writers under READ COMMITTED too:
//
// A repository's link is removed under its exclusive lock, and made, and looked at by pushes of manifests, under its
// shared one. So a manifest that was stored has the links that it was checked for.
//
// The row of a blob belongs to all repositories, and has no such lock. Who takes the blob first says so in used_at, in
// the transaction that will link it (StoreBlob, UseBlob). If used_at is out of date that is an UPDATE, which locks the
// row; a DELETE that comes meanwhile waits for it, and finds after it that used_at does not match any more. If used_at is
// up to date nothing is locked, but then no DELETE can match before a grace of many hours is over. Who comes after the
// DELETE does not find the row, and starts again. Were all this wrong, the foreign key of repository_blobs would still
// make one of the two fail.

// StoreBlob records where a blob's bytes are, unless they are stored already: then it returns where. Until the
// transaction ends the blob stays. Stale is the time up to which used_at is out of date.
func (tx *Tx) StoreBlob(blob domain.Blob, now, stale time.Time) (stored domain.Blob, err error) {
	// The row may be deleted between the first two statements, hardly twice.
	for range 3 {
		if err := tx.do(`INSERT INTO blobs (digest, size, storage_key, created_at, used_at) VALUES ($1, $2, $3, $4, $4) ON CONFLICT (digest) DO NOTHING`,
			string(blob.Digest), blob.Size, blob.Key, toMicros(now)); err != nil {
			return stored, err
		}
		stored, err = tx.UseBlob(blob.Digest, now, stale)
		if !errors.Is(err, ErrNotFound) {
			break
		}
	}
	return stored, err
}

// UseBlob finds a stored blob that is about to be linked, and makes it stay until the transaction ends.
func (tx *Tx) UseBlob(d digest.Digest, now, stale time.Time) (stored domain.Blob, err error) {
	if err := tx.do(`UPDATE blobs SET used_at = $2 WHERE digest = $1 AND used_at < $3`, string(d), toMicros(now), toMicros(stale)); err != nil {
		return stored, err
	}
	err = tx.one(`SELECT digest, size, storage_key FROM blobs WHERE digest = $1`, []any{string(d)}, func(row scanner) error {
		return row.Scan(&stored.Digest, &stored.Size, &stored.Key)
	})
	return stored, err
}

// LinkBlob links a stored blob to a repository, or notes that the repository has taken it again.
func (tx *Tx) LinkBlob(repositoryID int64, d digest.Digest, now, stale time.Time) error {
	n, err := tx.exec(`INSERT INTO repository_blobs (repository_id, digest, created_at, used_at) VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING`,
		repositoryID, string(d), toMicros(now))
	if err != nil || n > 0 {
		return err
	}
	return tx.NoteLink(repositoryID, d, now, stale)
}

// NoteLink notes that a repository's link to a blob was of use, where the last note is out of date.
func (tx *Tx) NoteLink(repositoryID int64, d digest.Digest, now, stale time.Time) error {
	return tx.do(`UPDATE repository_blobs SET used_at = $3 WHERE repository_id = $1 AND digest = $2 AND used_at < $4`,
		repositoryID, string(d), toMicros(now), toMicros(stale))
}

// NoteManifest notes that a manifest was of use, where the last note, or its creation, is out of date.
func (tx *Tx) NoteManifest(repositoryID int64, d digest.Digest, now, stale time.Time) error {
	return tx.do(`INSERT INTO manifest_uses (manifest_id, used_at) SELECT id, $3 FROM manifests WHERE repository_id = $1 AND digest = $2 AND created_at < $4
		ON CONFLICT (manifest_id) DO UPDATE SET used_at = excluded.used_at WHERE manifest_uses.used_at < $4`,
		repositoryID, string(d), toMicros(now), toMicros(stale))
}

// StaleLink reports whether a repository has a link to a blob whose last note is out of date.
func (r *Reader) StaleLink(repositoryID int64, d digest.Digest, stale time.Time) (bool, error) {
	return r.truth(`SELECT EXISTS (SELECT 1 FROM repository_blobs WHERE repository_id = $1 AND digest = $2 AND used_at < $3)`,
		repositoryID, string(d), toMicros(stale))
}

// StaleManifest reports whether a repository has a manifest whose last note is out of date.
func (r *Reader) StaleManifest(repositoryID int64, d digest.Digest, stale time.Time) (bool, error) {
	return r.truth(`SELECT EXISTS (SELECT 1 FROM manifests m WHERE m.repository_id = $1 AND m.digest = $2 AND m.created_at < $3
		AND NOT EXISTS (SELECT 1 FROM manifest_uses u WHERE u.manifest_id = m.id AND u.used_at >= $3))`,
		repositoryID, string(d), toMicros(stale))
}

// truth returns the only value of a query, a truth.
func (r *Reader) truth(query string, args ...any) (is bool, err error) {
	err = r.one(query, args, func(row scanner) error { return row.Scan(&is) })
	return is, err
}

// AllRepositories lists the repositories of all organizations by id, those behind after.
func (r *Reader) AllRepositories(after int64, limit int) (list []domain.Repository, err error) {
	err = r.each(`SELECT `+repositoryColumns+` FROM repositories WHERE id > $1 ORDER BY id LIMIT $2`, []any{after, limit}, func(row scanner) error {
		repo, err := scanRepository(row)
		list = append(list, repo)
		return err
	})
	return list, err
}

// ScannedBlob is a blob, or a repository's link to it, as garbage collection looks at it.
type ScannedBlob struct {
	Digest digest.Digest
	// Unused is true if it was not taken for long enough, and nothing refers to it.
	Unused bool
}

// ScanLinks lists a repository's links by digest, those behind after. Unused are those that no manifest of the repository
// refers to and that were last of use before a time.
func (r *Reader) ScanLinks(repositoryID int64, after digest.Digest, before time.Time, limit int) ([]ScannedBlob, error) {
	return r.scanBlobs(`SELECT l.digest, l.used_at < $3 AND NOT EXISTS (SELECT 1 FROM manifest_blobs m WHERE m.repository_id = l.repository_id AND m.digest = l.digest)
		FROM repository_blobs l WHERE l.repository_id = $1 AND l.digest > $2 ORDER BY l.digest LIMIT $4`,
		repositoryID, string(after), toMicros(before), limit)
}

// ScanBlobs lists blobs by digest, those behind after. Unused are those that no repository links and that were last
// taken before a time.
func (r *Reader) ScanBlobs(after digest.Digest, before time.Time, limit int) ([]ScannedBlob, error) {
	return r.scanBlobs(`SELECT b.digest, b.used_at < $2 AND NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = b.digest)
		FROM blobs b WHERE b.digest > $1 ORDER BY b.digest LIMIT $3`,
		string(after), toMicros(before), limit)
}

func (r *Reader) scanBlobs(query string, args ...any) (list []ScannedBlob, err error) {
	err = r.each(query, args, func(row scanner) error {
		var b ScannedBlob
		err := row.Scan(&b.Digest, &b.Unused)
		list = append(list, b)
		return err
	})
	return list, err
}

// UnlinkUnused removes a repository's link to a blob if it is unused in the sense of ScanLinks, and reports whether it
// was. The transaction's scope must be exclusive to the repository.
func (tx *Tx) UnlinkUnused(repositoryID int64, d digest.Digest, before time.Time) (bool, error) {
	n, err := tx.exec(`DELETE FROM repository_blobs WHERE repository_id = $1 AND digest = $2 AND used_at < $3
		AND NOT EXISTS (SELECT 1 FROM manifest_blobs m WHERE m.repository_id = $1 AND m.digest = $2)`,
		repositoryID, string(d), toMicros(before))
	return n > 0, err
}

// DeleteUnusedBlob deletes a blob that is unused in the sense of ScanBlobs and returns it; ErrNotFound if it is in use.
func (tx *Tx) DeleteUnusedBlob(d digest.Digest, before time.Time) (blob domain.Blob, err error) {
	err = tx.one(`DELETE FROM blobs WHERE digest = $1 AND used_at < $2 AND NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.digest = $1) RETURNING digest, size, storage_key`,
		[]any{string(d), toMicros(before)}, func(row scanner) error { return row.Scan(&blob.Digest, &blob.Size, &blob.Key) })
	return blob, err
}

// ScannedManifest is a manifest as garbage collection looks at it.
type ScannedManifest struct {
	domain.Manifest
	// Untagged is true if no live tag points to it and it is old enough.
	Untagged bool
}

// ScanManifests lists a repository's manifests by digest, those behind after. Untagged are those without a live tag that
// were stored before a time.
func (r *Reader) ScanManifests(repositoryID int64, after digest.Digest, before time.Time, limit int) (list []ScannedManifest, err error) {
	err = r.each(`SELECT `+descriptorColumns+`, created_at < $3 AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = manifests.id)
		FROM manifests WHERE repository_id = $1 AND digest > $2 ORDER BY digest LIMIT $4`,
		[]any{repositoryID, string(after), toMicros(before), limit}, func(row scanner) error {
			var s ScannedManifest
			s.Manifest, err = scanManifest(row, &s.Untagged)
			list = append(list, s)
			return err
		})
	return list, err
}

// IsRoot reports whether a manifest is to be kept by itself: a live tag points to it, or one did since restorable, or it
// was stored or of use since a time.
func (r *Reader) IsRoot(repositoryID int64, m domain.Manifest, restorable, since time.Time) (bool, error) {
	return r.truth(`SELECT EXISTS (SELECT 1 FROM tags WHERE manifest_id = $1) OR EXISTS (SELECT 1 FROM past_tags WHERE repository_id = $2 AND digest = $3 AND until_time >= $4)
		OR EXISTS (SELECT 1 FROM manifests WHERE id = $1 AND created_at >= $5) OR EXISTS (SELECT 1 FROM manifest_uses WHERE manifest_id = $1 AND used_at >= $5)`,
		m.ID, repositoryID, string(m.Digest), toMicros(restorable), toMicros(since))
}

// QueueRemoval notes a key of the blob store whose bytes may be deleted once they are due, and reports whether that is new.
func (tx *Tx) QueueRemoval(blob domain.Blob, due time.Time) (bool, error) {
	n, err := tx.exec(`INSERT INTO removals (storage_key, digest, size, due_at) VALUES ($1, $2, $3, $4) ON CONFLICT (storage_key) DO NOTHING`,
		blob.Key, string(blob.Digest), blob.Size, toMicros(due))
	return n > 0, err
}

// DueRemovals lists keys whose bytes may be deleted, by key, those behind after. A key that a blob has after all is not
// among them.
func (r *Reader) DueRemovals(after string, now time.Time, limit int) (list []domain.Blob, err error) {
	err = r.each(`SELECT r.digest, r.size, r.storage_key FROM removals r WHERE r.storage_key > $1 AND r.due_at <= $2
		AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = r.digest AND b.storage_key = r.storage_key) ORDER BY r.storage_key LIMIT $3`,
		[]any{after, toMicros(now), limit}, func(row scanner) error {
			var blob domain.Blob
			err := row.Scan(&blob.Digest, &blob.Size, &blob.Key)
			list = append(list, blob)
			return err
		})
	return list, err
}

// PendingRemovals counts the keys whose bytes wait to be deleted.
func (r *Reader) PendingRemovals() (keys, bytes int64, err error) {
	err = r.one(`SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM removals`, nil, func(row scanner) error { return row.Scan(&keys, &bytes) })
	return keys, bytes, err
}

// FinishRemoval forgets a key whose bytes are deleted, and reports whether it was queued.
func (tx *Tx) FinishRemoval(key string) (bool, error) {
	n, err := tx.exec(`DELETE FROM removals WHERE storage_key = $1`, key)
	return n > 0, err
}

// KnownKey reports whether a blob has a key of the blob store, or its bytes wait to be deleted.
func (r *Reader) KnownKey(d digest.Digest, key string) (bool, error) {
	return r.truth(`SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = $1 AND storage_key = $2) OR EXISTS (SELECT 1 FROM removals WHERE storage_key = $2)`, string(d), key)
}

// AddCollected counts what the transaction removed.
func (tx *Tx) AddCollected(n domain.Collected) error {
	return tx.do(`UPDATE collection SET manifests = manifests + $1, links = links + $2, blobs = blobs + $3, blob_bytes = blob_bytes + $4,
		orphans = orphans + $5, orphan_bytes = orphan_bytes + $6, removed = removed + $7, removed_bytes = removed_bytes + $8 WHERE id = 1`,
		n.Manifests, n.Links, n.Blobs, n.BlobBytes, n.Orphans, n.OrphanBytes, n.Removed, n.RemovedBytes)
}

// Collected returns what was counted since TakeCollected was last called.
func (r *Reader) Collected() (n domain.Collected, err error) {
	err = r.one(`SELECT manifests, links, blobs, blob_bytes, orphans, orphan_bytes, removed, removed_bytes FROM collection WHERE id = 1`, nil, func(row scanner) error {
		return row.Scan(&n.Manifests, &n.Links, &n.Blobs, &n.BlobBytes, &n.Orphans, &n.OrphanBytes, &n.Removed, &n.RemovedBytes)
	})
	return n, err
}

// TakeCollected returns what was counted since the last call, and begins anew.
func (tx *Tx) TakeCollected() (n domain.Collected, err error) {
	// An update first, so that of two at once the second sees what the first has left.
	if err := tx.do(`UPDATE collection SET id = 1 WHERE id = 1`); err != nil {
		return n, err
	}
	if n, err = tx.Collected(); err != nil {
		return n, err
	}
	return n, tx.do(`UPDATE collection SET manifests = 0, links = 0, blobs = 0, blob_bytes = 0, orphans = 0, orphan_bytes = 0, removed = 0, removed_bytes = 0 WHERE id = 1`)
}

// ScannedAt returns when garbage collection last went through all keys of the blob store; zero if it never did.
func (r *Reader) ScannedAt() (time.Time, error) {
	micros, err := r.number(`SELECT scanned_at FROM collection WHERE id = 1`)
	return fromMicros(micros), err
}

// BeginCollection notes that a run begins now, unless one began less than every ago: then it reports false.
func (tx *Tx) BeginCollection(now time.Time, every time.Duration) (bool, error) {
	n, err := tx.exec(`UPDATE collection SET begun_at = $1 WHERE id = 1 AND begun_at <= $2`, toMicros(now), toMicros(now.Add(-every)))
	return n > 0, err
}

// SetScannedAt notes that garbage collection went through all keys of the blob store.
func (tx *Tx) SetScannedAt(now time.Time) error {
	return tx.do(`UPDATE collection SET scanned_at = $1 WHERE id = 1`, toMicros(now))
}
