package domain

import "time"

// Erasure is a request to erase a person from the audit log.
type Erasure struct {
	UUID string
	// Next is the index of the entry that is looked at next; at End it is done.
	Next, End int64
	// Entries is how many were erased.
	Entries   int64
	CreatedAt time.Time
	// FinishedAt is zero while it goes on.
	FinishedAt time.Time
}
