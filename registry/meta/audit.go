package meta

import (
	"errors"

	"github.com/tidelock/tidelock/registry/audit"
)

const insertAudit = `INSERT INTO audit_entries (time, kind, organization, repository, tag, policy, performer, leaf, personal)`

func auditRows(records []audit.Record) [][]any {
	rows := make([][]any, len(records))
	for i, r := range records {
		rows[i] = []any{toMicros(r.Time), string(r.Kind), r.Organization, r.Repository, r.Tag, r.Policy, r.Performer, r.Leaf, r.Personal}
	}
	return rows
}

// AppendAudit adds entries to the log. Readers see them once they are indexed.
func (tx *Tx) AppendAudit(records ...audit.Record) error {
	if tx.appended != nil {
		*tx.appended = append(*tx.appended, records...)
		return nil
	}
	return tx.insertRows(insertAudit, ``, auditRows(records))
}

// AppendAuditRange is AppendAudit that returns the ids of the first and the last row, both 0 without records. They come
// before all that AppendAudit adds in the transaction. Only these two are asked for: returning every id would cost as
// much as writing the rows.
func (tx *Tx) AppendAuditRange(records ...audit.Record) (first, last int64, err error) {
	rows := auditRows(records)
	if len(rows) == 0 {
		return 0, 0, nil
	}
	returned := func(row []any) (int64, error) {
		query, args := valuesStatement(insertAudit, ` RETURNING id`, [][]any{row})
		return tx.number(query, args...)
	}
	if first, err = returned(rows[0]); err != nil || len(rows) == 1 {
		return first, first, err
	}
	if err := tx.insertRows(insertAudit, ``, rows[1:len(rows)-1]); err != nil {
		return 0, 0, err
	}
	last, err = returned(rows[len(rows)-1])
	return first, last, err
}

// AuditIndex returns the index of an entry by the id of its row, or -1 while it has none, or once it was pruned.
func (r *Reader) AuditIndex(id int64) (int64, error) {
	if id == 0 {
		return -1, nil
	}
	return r.number(`SELECT COALESCE(MAX(idx), -1) FROM audit_entries WHERE id = $1`, id)
}

// LogSize is the number of indexed entries.
func (r *Reader) LogSize() (int64, error) {
	return r.number(`SELECT COALESCE(MAX(idx), -1) + 1 FROM audit_entries WHERE idx IS NOT NULL`)
}

// LogCursor returns how far a reader has come: the index of the entry that it reads next.
func (r *Reader) LogCursor(name string) (int64, error) {
	position, err := r.number(`SELECT position FROM log_cursors WHERE name = $1`, name)
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return position, err
}

// MoveLogCursor moves a reader's position if it is still at from, and reports whether it was.
func (tx *Tx) MoveLogCursor(name string, from, to int64) (bool, error) {
	if from == 0 {
		if err := tx.do(`INSERT INTO log_cursors (name, position) VALUES ($1, 0) ON CONFLICT (name) DO NOTHING`, name); err != nil {
			return false, err
		}
	}
	n, err := tx.exec(`UPDATE log_cursors SET position = $3 WHERE name = $1 AND position = $2`, name, from, to)
	return n == 1, err
}
