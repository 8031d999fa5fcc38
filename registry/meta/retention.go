package meta

import (
	"time"

	"github.com/tidelock/tidelock/registry/domain"
)

// PrunedBefore is the index of the first entry that is there: those below it are in archives.
func (r *Reader) PrunedBefore() (int64, error) {
	return r.number(`SELECT pruned_before FROM pruning WHERE id = 1`)
}

// FirstIndexedSince returns the index of the first entry that is there and not older than t, or the size of the log.
func (r *Reader) FirstIndexedSince(t time.Time) (int64, error) {
	pruned, err := r.PrunedBefore()
	if err != nil {
		return 0, err
	}
	at, err := r.FirstIndexedAt(t)
	return max(at, pruned), err
}

// AuditTime returns the time of an entry, or ErrNotFound.
func (r *Reader) AuditTime(index int64) (time.Time, error) {
	micros, err := r.number(`SELECT time FROM audit_entries WHERE idx = $1`, index)
	return fromMicros(micros), err
}

const archiveQuery = `SELECT first_index, end_index, name, sha256, size, planned_at, written_at FROM archives WHERE `

func scanArchive(row scanner) (a domain.Archive, err error) {
	var planned, written int64
	err = row.Scan(&a.First, &a.End, &a.Name, &a.SHA256, &a.Size, &planned, &written)
	a.PlannedAt, a.WrittenAt = fromMicros(planned), fromMicros(written)
	return a, err
}

// Archive returns the archive of an entry, ErrNotFound if there is none.
func (r *Reader) Archive(index int64) (a domain.Archive, err error) {
	err = r.one(archiveQuery+`first_index <= $1 AND end_index > $1`, []any{index}, func(row scanner) (err error) {
		a, err = scanArchive(row)
		return err
	})
	return a, err
}

// InsertArchive stores an archive that is to be written.
func (tx *Tx) InsertArchive(a domain.Archive) error {
	return tx.do(`INSERT INTO archives (first_index, end_index, name, sha256, size, planned_at, written_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		a.First, a.End, a.Name, a.SHA256, a.Size, toMicros(a.PlannedAt), toMicros(a.WrittenAt))
}

// FinishArchive notes that an archive is written.
func (tx *Tx) FinishArchive(a domain.Archive) error {
	return tx.do(`UPDATE archives SET sha256 = $2, size = $3, written_at = $4 WHERE first_index = $1`, a.First, a.SHA256, a.Size, toMicros(a.WrittenAt))
}

// PruneAudit removes the entries from one index to another, that one not included, if nothing else was pruned meanwhile,
// and reports whether it did.
func (tx *Tx) PruneAudit(from, to int64) (bool, error) {
	n, err := tx.exec(`UPDATE pruning SET pruned_before = $2 WHERE id = 1 AND pruned_before = $1`, from, to)
	if err != nil || n == 0 {
		return false, err
	}
	return true, tx.do(`DELETE FROM audit_entries WHERE idx >= $1 AND idx < $2`, from, to)
}

// SlowestCursor returns the least index that any of the readers reads next.
func (r *Reader) SlowestCursor(readers []string, most int64) (int64, error) {
	for _, name := range readers {
		next, err := r.LogCursor(name)
		if err != nil {
			return 0, err
		}
		most = min(most, next)
	}
	return most, nil
}
