package audit

import "time"

// Query selects entries. Empty fields select everything.
type Query struct {
	Organization string
	// Repository is the path in Organization.
	Repository string
	Tag        string
	Policy     string
	Performer  string
	Kinds      []Kind
	// From and To bound the time of the entries, From included, To not.
	From, To time.Time
	// Before selects entries with a smaller index, After with a larger one; 0 Before and -1 After select all.
	Before, After int64
	// Ascending lists the oldest first; otherwise the newest.
	Ascending bool
	// Limit bounds the answer.
	Limit int
}

// Count is how many entries of a kind a day has.
type Count struct {
	Kind  Kind
	Day   time.Time
	Count int64
}
