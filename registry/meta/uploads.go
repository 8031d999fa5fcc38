package meta

import (
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// UploadSession is the row of an open upload.
type UploadSession struct {
	domain.Upload
	// Repository is the full name; the repository need not exist yet.
	Repository string
	CallerKind domain.CallerKind
	CallerName string
	// Epoch grows with each request that takes the upload for itself: statements of an earlier one find no row.
	Epoch int64
	// BusyUntil is till when one request has the upload for itself; zero if none has.
	BusyUntil time.Time
	UsedAt    time.Time
}

// OpenUploads counts the open uploads, and those of one caller, and finds the mirror of the organization in which another
// is to begin, nil if it has none.
func (r *Reader) OpenUploads(kind domain.CallerKind, name, organization string) (all, own int, mirror *MirrorRef, err error) {
	err = r.one(`SELECT u.n, u.own, `+mirrorRefColumns+` FROM (SELECT COUNT(*) AS n, COUNT(CASE WHEN caller_kind = $1 AND caller_name = $2 THEN 1 END) AS own FROM uploads) u
		LEFT JOIN mirrors m ON m.organization_id = (SELECT id FROM organizations WHERE name = $3)`, []any{string(kind), name, organization},
		func(row scanner) error {
			with := mirrorRefRow{scanner: row}
			err := with.Scan(&all, &own)
			mirror = with.ref
			return err
		})
	return all, own, mirror, err
}

// Upload finds an open upload.
func (r *Reader) Upload(id string) (s UploadSession, err error) {
	var busyUntil, usedAt int64
	err = r.one(`SELECT id, repository, caller_kind, caller_name, epoch, busy_until, used_at, size, state FROM uploads WHERE id = $1`, []any{id},
		func(row scanner) error {
			return row.Scan(&s.ID, &s.Repository, &s.CallerKind, &s.CallerName, &s.Epoch, &busyUntil, &usedAt, &s.Size, &s.State)
		})
	s.BusyUntil, s.UsedAt = fromMicros(busyUntil), fromMicros(usedAt)
	return s, err
}

// IdleUploads lists the uploads that were last used before a time and that no request has now, at most limit.
func (r *Reader) IdleUploads(before, now time.Time, limit int) (ids []string, err error) {
	err = r.each(`SELECT id FROM uploads WHERE used_at <= $1 AND busy_until <= $2 ORDER BY used_at LIMIT $3`, []any{toMicros(before), toMicros(now), limit},
		func(row scanner) error {
			var id string
			err := row.Scan(&id)
			ids = append(ids, id)
			return err
		})
	return ids, err
}

// AddUpload adds an upload.
func (tx *Tx) AddUpload(s UploadSession) error {
	return tx.do(`INSERT INTO uploads (id, repository, caller_kind, caller_name, epoch, busy_until, used_at, size, state) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		s.ID, s.Repository, string(s.CallerKind), s.CallerName, s.Epoch, toMicros(s.BusyUntil), toMicros(s.UsedAt), s.Size, s.State)
}

// TakeUpload begins the next epoch of an upload. It reports false if the upload is in another epoch by now.
func (tx *Tx) TakeUpload(id string, epoch int64, busyUntil, usedAt time.Time) (bool, error) {
	n, err := tx.exec(`UPDATE uploads SET epoch = epoch + 1, busy_until = $1, used_at = $2 WHERE id = $3 AND epoch = $4`,
		toMicros(busyUntil), toMicros(usedAt), id, epoch)
	return n > 0, err
}

// SaveUpload records how far an upload has come. It reports false if the upload is in another epoch by now.
func (tx *Tx) SaveUpload(s UploadSession) (bool, error) {
	n, err := tx.exec(`UPDATE uploads SET size = $1, state = $2, busy_until = $3, used_at = $4 WHERE id = $5 AND epoch = $6`,
		s.Size, s.State, toMicros(s.BusyUntil), toMicros(s.UsedAt), s.ID, s.Epoch)
	return n > 0, err
}

// UseUpload records that an upload was used, and until when it is taken. It reports false if the upload is in another
// epoch by now.
func (tx *Tx) UseUpload(id string, epoch int64, busyUntil, usedAt time.Time) (bool, error) {
	n, err := tx.exec(`UPDATE uploads SET busy_until = $1, used_at = $2 WHERE id = $3 AND epoch = $4`, toMicros(busyUntil), toMicros(usedAt), id, epoch)
	return n > 0, err
}

// RemoveUpload removes an upload. It reports false if the upload is in another epoch by now, or gone.
func (tx *Tx) RemoveUpload(id string, epoch int64) (bool, error) {
	n, err := tx.exec(`DELETE FROM uploads WHERE id = $1 AND epoch = $2`, id, epoch)
	return n > 0, err
}
