package meta

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
)

// How the log is searched. Each filter has an index that ends in idx. A query walks along the index of one of its
// filters, in the order of the log, and holds each entry that it meets against the others; which filter it is, is found
// out by looking how far back a number of entries of each reaches. So the time that a page takes depends on how many
// entries are looked at, never on the size of the log or on what a database's planner believes about it: a statement
// says where in which index to begin, and how many entries to read from there. Where to end is decided here, for
// PostgreSQL would go on to the end of the first column of the index.

// auditKey is the key of an index of the log: entries with these values in these columns.
type auditKey struct {
	columns []string
	values  []string
	// partial says that the index leaves out entries whose last column is empty.
	partial bool
}

// auditFilter is a condition of a query that an index serves: entries with any of these keys.
type auditFilter []auditKey

// filters are the conditions of a query for which there is an index; one that selects everything if there is none.
func filters(q audit.Query) []auditFilter {
	var list []auditFilter
	add := func(columns []string, values ...string) {
		list = append(list, auditFilter{{columns: columns, values: values, partial: columns[0] != "performer"}})
	}
	switch {
	case q.Organization != "" && q.Repository != "" && q.Tag != "":
		add([]string{"organization", "repository", "tag"}, q.Organization, q.Repository, q.Tag)
	case q.Organization != "" && q.Repository != "":
		add([]string{"organization", "repository"}, q.Organization, q.Repository)
	case q.Organization != "":
		add([]string{"organization"}, q.Organization)
	}
	if q.Tag != "" && q.Repository == "" {
		add([]string{"tag"}, q.Tag)
	}
	if q.Policy != "" {
		add([]string{"policy"}, q.Policy)
	}
	if q.Performer != "" {
		add([]string{"performer"}, q.Performer)
	}
	if len(q.Kinds) > 0 {
		var kinds auditFilter
		seen := map[audit.Kind]bool{}
		for _, kind := range q.Kinds {
			if !seen[kind] {
				seen[kind] = true
				kinds = append(kinds, auditKey{columns: []string{"kind"}, values: []string{string(kind)}})
			}
		}
		list = append(list, kinds)
	}
	if len(list) == 0 {
		list = append(list, auditFilter{{}})
	}
	return list
}

// auditColumns are the columns of an entry.
const auditColumns = auditKeys + `, leaf, personal`

func scanIndexed(row scanner) (e audit.Indexed, err error) {
	var at int64
	err = row.Scan(&e.Index, &at, &e.Kind, &e.Organization, &e.Repository, &e.Tag, &e.Policy, &e.Performer, &e.Leaf, &e.Personal)
	e.Time = fromMicros(at)
	return e, err
}

// from returns a statement that reads from a place in the key's index on, in the order of the log or against it. It takes
// the key's values, an index, which is not included, and how many entries to read. It reads on behind the key.
func (k auditKey) from(what string, ascending bool) string {
	columns := append(slices.Clone(k.columns), "idx")
	compared, direction := "<", " DESC"
	if ascending {
		compared, direction = ">", " ASC"
	}
	var b strings.Builder
	b.WriteString(`SELECT ` + what + ` FROM audit_entries WHERE idx IS NOT NULL`)
	if k.partial {
		b.WriteString(` AND ` + k.columns[len(k.columns)-1] + ` <> ''`)
	}
	b.WriteString(` AND (` + strings.Join(columns, ", ") + `) ` + compared + ` (` + placeholders(1, len(columns)) + `) ORDER BY ` +
		strings.Join(columns, direction+", ") + direction)
	return b.String()
}

func (k auditKey) args(more ...any) []any {
	args := make([]any, 0, len(k.values)+len(more))
	for _, value := range k.values {
		args = append(args, value)
	}
	return append(args, more...)
}

// has reports whether an entry has the key.
func (k auditKey) has(e audit.Indexed) bool {
	for i, column := range k.columns {
		var value string
		switch column {
		case "organization":
			value = e.Organization
		case "repository":
			value = e.Repository
		case "tag":
			value = e.Tag
		case "policy":
			value = e.Policy
		case "performer":
			value = e.Performer
		case "kind":
			value = string(e.Kind)
		}
		if value != k.values[i] {
			return false
		}
	}
	return true
}

// hasKind reports whether entries of a kind can have the key.
func (k auditKey) hasKind(kind audit.Kind) bool {
	return len(k.columns) == 0 || k.columns[0] != "kind" || k.values[0] == string(kind)
}

// span is a part of the log: the indices from low on, below high.
type span struct{ low, high int64 }

// begin is the index behind which, or before which, a walk begins.
func (s span) begin(ascending bool) int64 {
	if ascending {
		return s.low - 1
	}
	return s.high
}

// span turns the bounds of a query into indices. Entries are indexed in the order of commits, so their times grow but for
// the width of a commit: a range of times becomes a range of indices, a little wider.
func (r *Reader) span(q audit.Query) (s span, err error) {
	size, err := r.LogSize()
	if err != nil {
		return s, err
	}
	s = span{low: q.After + 1, high: size}
	if q.Before > 0 {
		s.high = min(s.high, q.Before)
	}
	if !q.From.IsZero() {
		from, err := r.firstIndexedAt(size, q.From.Add(-timeSlack))
		if err != nil {
			return s, err
		}
		s.low = max(s.low, from)
	}
	if !q.To.IsZero() {
		to, err := r.firstIndexedAt(size, q.To.Add(timeSlack))
		if err != nil {
			return s, err
		}
		s.high = min(s.high, to)
	}
	return s, nil
}

// timeSlack is how far the times of neighbours in the log may be out of order: transactions take less, and clocks of
// replicas that differ by more are refused time by their infrastructure.
const timeSlack = 10 * time.Second

// firstIndexedAt returns the index of the first entry that is not older than t, or the size of the log: cheaper than an
// index on the time, which every entry would have to enter. Of entries that are not there any more, the next one tells.
func (r *Reader) firstIndexedAt(size int64, t time.Time) (int64, error) {
	wanted := toMicros(t)
	low, high, err := around(size, wanted, func(index int64) (int64, error) {
		return r.number(`SELECT time FROM audit_entries WHERE idx >= $1 ORDER BY idx LIMIT 1`, index)
	})
	if err != nil || low == high {
		return low, err
	}
	return r.number(`SELECT COALESCE(MIN(idx), $1) FROM (SELECT idx FROM audit_entries WHERE idx >= $2 AND idx < $1 AND time >= $3 ORDER BY idx LIMIT 1) AS found`, high, low, wanted)
}

// nearby is how many neighbours in the log are looked through at once for a time.
const nearby = 64

// around narrows down where in a log of some size the first entry is that is not older than wanted: those before low are
// older, and those from high on are not. It looks at the times of as few entries as it can, since each may be in a page
// that is not in memory: where an even log would have the time, a little before and a little behind, and each third time
// in the middle, so that a log that is not even costs three looks for each bit of its size at most.
func around(size, wanted int64, timeOf func(index int64) (int64, error)) (low, high int64, err error) {
	if size == 0 {
		return 0, 0, nil
	}
	first, err := timeOf(0)
	if err != nil || first >= wanted {
		return 0, 0, err
	}
	last, err := timeOf(size - 1)
	if err != nil || last < wanted {
		return size, size, err
	}
	low, high = 1, size-1
	for step := 0; high-low > nearby; step++ {
		at := low + (high-low)/2
		if step%3 < 2 {
			at = low + int64(float64(high-low)*(float64(wanted-first)/float64(last-first)))
			aside := int64(math.Sqrt(float64(high - low)))
			if step%3 == 0 {
				aside = -aside
			}
			at = max(low, min(at+aside, high-1))
		}
		then, err := timeOf(at)
		if err != nil {
			return 0, 0, err
		}
		if then < wanted {
			low, first = at+1, then
		} else {
			high, last = at, then
		}
	}
	return low, high, nil
}

// auditWalk goes along an index, one entry of a key after the other.
type auditWalk struct {
	r         *Reader
	key       auditKey
	within    span
	ascending bool
	// at is the index that the next batch begins behind, and batch its size.
	at     int64
	batch  int
	buffer []audit.Indexed
	ended  bool
}

// next returns the entry that the walk stands before; nil at the end.
func (w *auditWalk) next() (*audit.Indexed, error) {
	if len(w.buffer) == 0 && !w.ended {
		if err := w.read(); err != nil {
			return nil, err
		}
	}
	if len(w.buffer) == 0 {
		return nil, nil
	}
	return &w.buffer[0], nil
}

func (w *auditWalk) pass() { w.buffer = w.buffer[1:] }

func (w *auditWalk) read() error {
	read := 0
	query := w.key.from(auditColumns, w.ascending) + ` LIMIT $` + strconv.Itoa(len(w.key.values)+2)
	err := w.r.each(query, w.key.args(w.at, w.batch), func(row scanner) error {
		e, err := scanIndexed(row)
		if err != nil {
			return err
		}
		read++
		if w.ended = w.ended || !w.key.has(e) || e.Index < w.within.low || e.Index >= w.within.high; !w.ended {
			w.buffer = append(w.buffer, e)
			w.at = e.Index
		}
		return nil
	})
	w.ended = w.ended || read < w.batch
	w.batch = min(2*w.batch, largestBatch)
	return err
}

// reach returns how far a filter's entries reach, from where a walk within s begins: the index of the one behind the
// first count, or false if there are not so many.
func (r *Reader) reach(filter auditFilter, s span, ascending bool, count int) (at int64, more bool, err error) {
	// Each key may take its share: so all of them together have no more before the nearest of their ends.
	share := max(1, count/len(filter))
	for _, key := range filter {
		query := key.from(strings.Join(append(slices.Clone(key.columns), "idx"), ", "), ascending) + ` LIMIT 1 OFFSET $` + strconv.Itoa(len(key.values)+2)
		values := make([]string, len(key.values))
		index := int64(-1)
		err := r.each(query, key.args(s.begin(ascending), share), func(row scanner) error {
			into := []any{}
			for i := range values {
				into = append(into, &values[i])
			}
			return row.Scan(append(into, &index)...)
		})
		if err != nil {
			return 0, false, err
		}
		if index < s.low || index >= s.high || strings.Join(values, "\x00") != strings.Join(key.values, "\x00") {
			continue
		}
		if !more || ascending == (index < at) {
			at, more = index, true
		}
	}
	return at, more, nil
}

// probed is how many entries of each filter are counted to find the one that selects the fewest.
const probed = 1000

// sparsest returns the filter whose entries are the fewest around the beginning of a walk.
func (r *Reader) sparsest(list []auditFilter, s span, ascending bool) (auditFilter, error) {
	if len(list) == 1 {
		return list[0], nil
	}
	var best auditFilter
	var furthest int64
	for _, filter := range list {
		at, more, err := r.reach(filter, s, ascending, probed)
		if err != nil || !more {
			return filter, err
		}
		if best == nil || ascending == (at > furthest) {
			best, furthest = filter, at
		}
	}
	return best, nil
}

// Entries are read in batches: at first as many as are wanted, and each time twice as many, since what is wanted may be
// rare among them.
const (
	smallestBatch = 16
	largestBatch  = 500
)

// WalkLog visits the entries that a query selects, but for its text, in its order, until as many as its limit were taken,
// as visit reports, the budget is used up, or there are no more.
func (r *Reader) WalkLog(q audit.Query, budget audit.Budget, visit func(audit.Indexed) (taken bool, err error)) (done audit.Progress, err error) {
	done.Next = q.Before
	if q.Ascending {
		done.Next = q.After
	}
	within, err := r.span(q)
	if err != nil || within.low >= within.high {
		return done, err
	}
	list := filters(q)
	filter, err := r.sparsest(list, within, q.Ascending)
	if err != nil {
		return done, err
	}
	batch := max(smallestBatch, min(q.Limit+1, largestBatch)/len(filter))
	walks := make([]*auditWalk, len(filter))
	for i, key := range filter {
		walks[i] = &auditWalk{r: r, key: key, within: within, ascending: q.Ascending, at: within.begin(q.Ascending), batch: batch}
	}
	for looked, taken := 0, 0; ; {
		walk, err := first(walks, q.Ascending)
		if err != nil || walk == nil {
			return done, err
		}
		done.More = true
		switch {
		case taken >= q.Limit:
			return done, nil
		case looked > 0 && (budget.Entries > 0 && looked >= budget.Entries || !budget.Until.IsZero() && time.Now().After(budget.Until)):
			done.Exhausted = true
			return done, nil
		}
		e := walk.buffer[0]
		walk.pass()
		looked++
		done.Next, done.More = e.Index, false
		if !q.Matches(e) {
			continue
		}
		is, err := visit(e)
		if err != nil {
			return done, err
		}
		if is {
			taken++
		}
	}
}

// first returns the walk that stands before the entry that comes first in the order of the log, or against it; nil if all
// are at their end.
func first(walks []*auditWalk, ascending bool) (found *auditWalk, err error) {
	for _, walk := range walks {
		e, err := walk.next()
		if err != nil {
			return nil, err
		}
		if e != nil && (found == nil || ascending == (e.Index < found.buffer[0].Index)) {
			found = walk
		}
	}
	return found, nil
}

// Log reads the entries that a query selects, but for its text.
func (r *Reader) Log(q audit.Query) (list []audit.Indexed, err error) {
	_, err = r.WalkLog(q, audit.Budget{}, func(e audit.Indexed) (bool, error) {
		list = append(list, e)
		return true, nil
	})
	return list, err
}

// LogCounts counts the entries that a query selects, but for its text, by day (UTC) and kind. If it would have to look at
// more than most it counts none, and returns false.
func (r *Reader) LogCounts(q audit.Query, most int) (list []audit.Count, counted bool, err error) {
	within, err := r.span(q)
	if err != nil || within.low >= within.high {
		return nil, true, err
	}
	filter, err := r.sparsest(filters(q), within, false)
	if err != nil {
		return nil, false, err
	}
	limit := probed
	var more bool
	for {
		if _, more, err = r.reach(filter, within, false, limit); err != nil || !more || limit >= most {
			break
		}
		limit = min(10*limit, most)
	}
	if err != nil || more {
		return nil, false, err
	}
	sums := map[audit.Count]int64{}
	for _, key := range filter {
		if err := r.countKey(q, key, within, limit, sums); err != nil {
			return nil, false, err
		}
	}
	for n, count := range sums {
		n.Count = count
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b audit.Count) int { return cmp.Or(a.Day.Compare(b.Day), cmp.Compare(a.Kind, b.Kind)) })
	return list, true, nil
}

// countKey adds up the entries that a query selects among those of a key, of which there are at most limit.
func (r *Reader) countKey(q audit.Query, key auditKey, within span, limit int, sums map[audit.Count]int64) error {
	const day = int64(24 * time.Hour / time.Microsecond)
	args := key.args(within.begin(false), limit)
	terms := []string{"idx >= " + parameter(&args, within.low)}
	for _, equal := range []struct{ column, value string }{
		{"organization", q.Organization}, {"repository", q.Repository}, {"tag", q.Tag}, {"policy", q.Policy}, {"performer", q.Performer},
	} {
		if equal.value != "" {
			terms = append(terms, equal.column+" = "+parameter(&args, equal.value))
		}
	}
	if !q.From.IsZero() {
		terms = append(terms, "time >= "+parameter(&args, toMicros(q.From)))
	}
	if !q.To.IsZero() {
		terms = append(terms, "time < "+parameter(&args, toMicros(q.To)))
	}
	seen := key.from(auditKeys, false) + ` LIMIT $` + strconv.Itoa(len(key.values)+2)
	query := `SELECT kind, time / ` + strconv.FormatInt(day, 10) + ` AS day, COUNT(*) FROM (` + seen + `) AS seen WHERE ` + strings.Join(terms, " AND ") + ` GROUP BY kind, day`
	return r.each(query, args, func(row scanner) error {
		var kind audit.Kind
		var number, count int64
		err := row.Scan(&kind, &number, &count)
		if q.MatchesKind(kind) && key.hasKind(kind) {
			sums[audit.Count{Kind: kind, Day: fromMicros(number * day)}] += count
		}
		return err
	})
}

// auditKeys are the columns by which entries are selected and counted.
const auditKeys = `idx, time, kind, organization, repository, tag, policy, performer`

// parameter adds an argument and returns its placeholder.
func parameter(args *[]any, value any) string {
	*args = append(*args, value)
	return "$" + strconv.Itoa(len(*args))
}
