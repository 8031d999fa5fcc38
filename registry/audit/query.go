package audit

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Query selects entries. Empty fields select everything.
type Query struct {
	Organization string
	// Repository is the path in Organization.
	Repository string
	Tag        string
	Policy     string
	Performer  string
	Kinds      []Kind
	// Text selects entries that say it, see View.Says.
	Text string
	// From and To bound the time of the entries, From included, To not.
	From, To time.Time
	// Before selects entries with a smaller index, After with a larger one; 0 Before and -1 After select all.
	Before, After int64
	// Ascending lists the oldest first; otherwise the newest.
	Ascending bool
	// Limit bounds the answer.
	Limit int
}

// Matches reports whether the query selects an entry by what is stored beside its leaf: by all but the text, the index
// and the limit.
func (q Query) Matches(e Indexed) bool {
	is := func(wanted, value string) bool { return wanted == "" || wanted == value }
	return is(q.Organization, e.Organization) && is(q.Repository, e.Repository) && is(q.Tag, e.Tag) && is(q.Policy, e.Policy) &&
		is(q.Performer, e.Performer) && q.MatchesKind(e.Kind) &&
		(q.From.IsZero() || !e.Time.Before(q.From)) && (q.To.IsZero() || e.Time.Before(q.To))
}

// MatchesKind reports whether the query selects entries of a kind.
func (q Query) MatchesKind(kind Kind) bool {
	return len(q.Kinds) == 0 || slices.Contains(q.Kinds, kind)
}

// Budget bounds the work for one page. Zero fields bound nothing.
type Budget struct {
	// Entries is how many entries are looked at.
	Entries int
	// Until is when to stop.
	Until time.Time
}

// Progress is how far a query has come.
type Progress struct {
	// Next is where it goes on: as Before, or as After if it is Ascending.
	Next int64
	// More reports that there is anything left to look at.
	More bool
	// Exhausted reports that the budget ended the page, not its limit.
	Exhausted bool
}

// Page is a part of the log.
type Page struct {
	Entries []View
	Progress
}

// Says reports whether an entry says a text, whatever the case of its letters: in its kind, what it is about, who did
// it and from where, or any value of the metadata. Personal values that were erased are not there to be found.
func (v View) Says(text string) bool {
	text = strings.ToLower(text)
	for _, value := range []string{string(v.Kind), v.Organization, v.Repository, v.Tag, v.Policy, string(v.PerformerKind), v.Performer, v.Address} {
		if strings.Contains(strings.ToLower(value), text) {
			return true
		}
	}
	return says(v.Metadata, text)
}

func says(value any, text string) bool {
	switch value := value.(type) {
	case map[string]any:
		for name, member := range value {
			// The tags of a closing entry are names of members.
			if strings.Contains(strings.ToLower(name), text) || says(member, text) {
				return true
			}
		}
		return false
	case []any:
		for _, element := range value {
			if says(element, text) {
				return true
			}
		}
		return false
	case string:
		return strings.Contains(strings.ToLower(value), text)
	default:
		encoded, err := json.Marshal(value)
		return err == nil && strings.Contains(string(encoded), text)
	}
}

// Count is how many entries of a kind a day has.
type Count struct {
	Kind  Kind
	Day   time.Time
	Count int64
}
