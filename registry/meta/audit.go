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
	return tx.insertRows(insertAudit, ``, auditRows(records))
}

// AppendAuditRange is AppendAudit that returns the ids of the first and the last row, both 0 without records. Only these
// two are asked for: returning every id would cost as much as writing the rows.
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

// AuditIndex returns the index of an entry by the id of its row, or -1 while it has none.
func (r *Reader) AuditIndex(id int64) (int64, error) {
	if id == 0 {
		return -1, nil
	}
	return r.number(`SELECT COALESCE(idx, -1) FROM audit_entries WHERE id = $1`, id)
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

// lastIndexed returns the row and index of the last indexed entry; id 0 and index -1 if there is none.
func (r *Reader) lastIndexed() (id, index int64, err error) {
	index = -1
	err = r.one(`SELECT id, idx FROM audit_entries WHERE idx IS NOT NULL ORDER BY idx DESC LIMIT 1`, nil, func(row scanner) error {
		return row.Scan(&id, &index)
	})
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return id, index, err
}

// PendingByID returns the highest id of an entry without an index, or 0, for an engine in which ids grow in the order of
// commits.
func (r *Reader) PendingByID() (int64, error) {
	last, _, err := r.lastIndexed()
	if err != nil {
		return 0, err
	}
	return r.number(`SELECT COALESCE(MAX(id), 0) FROM audit_entries WHERE id > $1`, last)
}

// IndexByID indexes up to limit entries for an engine in which ids grow in the order of commits.
func (tx *Tx) IndexByID(limit int) (done audit.Sequenced, err error) {
	last, index, err := tx.lastIndexed()
	if err != nil {
		return done, err
	}
	ids, err := tx.ids(`SELECT id FROM audit_entries WHERE id > $1 ORDER BY id LIMIT $2`, last, limit)
	if err != nil {
		return done, err
	}
	// One statement for each run of ids without a gap: as a rule there is one run.
	for from := 0; from < len(ids); {
		to := from
		for to+1 < len(ids) && ids[to+1] == ids[to]+1 {
			to++
		}
		shift := index + 1 + int64(from) - ids[from]
		if err := tx.do(`UPDATE audit_entries SET idx = id + $1 WHERE id BETWEEN $2 AND $3`, shift, ids[from], ids[to]); err != nil {
			return done, err
		}
		from = to + 1
	}
	if len(ids) > 0 {
		done = audit.Sequenced{Count: len(ids), LastID: ids[len(ids)-1]}
	}
	return done, nil
}

// Pending returns the highest id of a committed entry without an index, or 0, for an engine in which ids do not grow in
// the order of commits.
func (r *Reader) Pending() (int64, error) {
	return r.number(`SELECT COALESCE(MAX(id), 0) FROM audit_entries WHERE idx IS NULL`)
}

// Index indexes up to limit entries for an engine in which ids do not grow in the order of commits. No two transactions
// may do it at the same time. Entries that were committed earlier than others get smaller indices: those of the others'
// transactions that had begun by then may come before them, since neither saw what the other did.
func (tx *Tx) Index(limit int) (done audit.Sequenced, err error) {
	err = tx.one(`WITH pending AS (SELECT id, row_number() OVER (ORDER BY id) AS place FROM (SELECT id FROM audit_entries WHERE idx IS NULL ORDER BY id LIMIT $1) AS first),
		indexed AS (UPDATE audit_entries AS e SET idx = (SELECT COALESCE(MAX(idx), -1) FROM audit_entries WHERE idx IS NOT NULL) + p.place FROM pending AS p WHERE e.id = p.id RETURNING e.id)
		SELECT COUNT(*), COALESCE(MAX(id), 0) FROM indexed`, []any{limit}, func(row scanner) error {
		return row.Scan(&done.Count, &done.LastID)
	})
	return done, err
}
