package meta

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

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

// AuditIndex returns the index of an entry by the id of its row, or -1 while it has none, or once it was pruned.
func (r *Reader) AuditIndex(id int64) (int64, error) {
	if id == 0 {
		return -1, nil
	}
	return r.number(`SELECT COALESCE(MAX(idx), -1) FROM audit_entries WHERE id = $1`, id)
}

// condition collects the terms of a WHERE clause.
type condition struct {
	terms []string
	args  []any
}

func (c *condition) add(term string, values ...any) {
	for _, v := range values {
		c.args = append(c.args, v)
		term = strings.Replace(term, "?", "$"+strconv.Itoa(len(c.args)), 1)
	}
	c.terms = append(c.terms, term)
}

func (c *condition) equal(column, value string) {
	if value != "" {
		// The second term lets the partial index be used.
		c.add(column+" = ? AND "+column+" <> ''", value)
	}
}

// selection turns a query into terms over the indexed entries. A time range becomes a range of indices first: entries
// are indexed in the order of commits, so their times grow but for the width of a commit.
func (r *Reader) selection(q audit.Query) (c condition, err error) {
	c.add("idx IS NOT NULL")
	c.equal("organization", q.Organization)
	c.equal("repository", q.Repository)
	c.equal("tag", q.Tag)
	c.equal("policy", q.Policy)
	if q.Performer != "" {
		c.add("performer = ?", q.Performer)
	}
	if len(q.Kinds) > 0 {
		list := make([]any, len(q.Kinds))
		for i, k := range q.Kinds {
			list[i] = string(k)
		}
		c.add("kind IN (?"+strings.Repeat(",?", len(list)-1)+")", list...)
	}
	if q.Before > 0 {
		c.add("idx < ?", q.Before)
	}
	if q.After >= 0 {
		c.add("idx > ?", q.After)
	}
	if !q.From.IsZero() {
		from, err := r.firstIndexedAt(q.From.Add(-timeSlack))
		if err != nil {
			return c, err
		}
		c.add("idx >= ? AND time >= ?", from, toMicros(q.From))
	}
	if !q.To.IsZero() {
		to, err := r.firstIndexedAt(q.To.Add(timeSlack))
		if err != nil {
			return c, err
		}
		c.add("idx < ? AND time < ?", to, toMicros(q.To))
	}
	return c, nil
}

// firstIndexedAt returns the index of the first entry that is there and not older than t, or the size of the log. It looks
// at one entry for each bit of that size: cheaper than an index on the time, which every entry would have to enter.
func (r *Reader) firstIndexedAt(t time.Time) (int64, error) {
	from, err := r.PrunedBefore()
	if err != nil {
		return 0, err
	}
	to, err := r.LogSize()
	for from < to && err == nil {
		middle := from + (to-from)/2
		var at int64
		if at, err = r.number(`SELECT time FROM audit_entries WHERE idx = $1`, middle); at < toMicros(t) {
			from = middle + 1
		} else {
			to = middle
		}
	}
	return from, err
}

// timeSlack is how far the times of neighbours in the log may be out of order: transactions take less, and clocks of
// replicas that differ by more are refused time by their infrastructure.
const timeSlack = 10 * time.Second

// Log reads indexed entries.
func (r *Reader) Log(q audit.Query) (list []audit.Indexed, err error) {
	c, err := r.selection(q)
	if err != nil {
		return nil, err
	}
	order := "DESC"
	if q.Ascending {
		order = "ASC"
	}
	query := `SELECT idx, time, kind, organization, repository, tag, policy, performer, leaf, personal FROM audit_entries WHERE ` + strings.Join(c.terms, " AND ") +
		` ORDER BY idx ` + order + ` LIMIT $` + strconv.Itoa(len(c.args)+1)
	err = r.each(query, append(slices.Clip(c.args), q.Limit), func(row scanner) error {
		var e audit.Indexed
		var at int64
		err := row.Scan(&e.Index, &at, &e.Kind, &e.Organization, &e.Repository, &e.Tag, &e.Policy, &e.Performer, &e.Leaf, &e.Personal)
		e.Time = fromMicros(at)
		list = append(list, e)
		return err
	})
	return list, err
}

// LogCounts counts indexed entries by day (UTC) and kind.
func (r *Reader) LogCounts(q audit.Query) (list []audit.Count, err error) {
	c, err := r.selection(q)
	if err != nil {
		return nil, err
	}
	const day = int64(24 * time.Hour / time.Microsecond)
	query := `SELECT kind, time / ` + strconv.FormatInt(day, 10) + ` AS day, COUNT(*) FROM audit_entries WHERE ` + strings.Join(c.terms, " AND ") + ` GROUP BY kind, day ORDER BY day, kind`
	err = r.each(query, c.args, func(row scanner) error {
		var n audit.Count
		var d int64
		err := row.Scan(&n.Kind, &d, &n.Count)
		n.Day = fromMicros(d * day)
		list = append(list, n)
		return err
	})
	return list, err
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
