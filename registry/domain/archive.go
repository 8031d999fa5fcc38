package domain

import "time"

// Archive is a file of entries of the audit log that were pruned, or will be once it is written.
type Archive struct {
	// First is the index of its first entry, End that behind its last.
	First, End int64
	Name       string
	// SHA256 is that of the file, in hexadecimal, and Size its bytes; none until it is written.
	SHA256    string
	Size      int64
	PlannedAt time.Time
	// WrittenAt is zero until then.
	WrittenAt time.Time
}
