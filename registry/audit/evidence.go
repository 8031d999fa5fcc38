package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Evidence is an entry as it is proven: the hash is that of the tree, the rest is stored beside it.
type Evidence struct {
	Index int64
	Hash  tlog.Hash
	// Leaf is the canonical encoding, whose LeafHash is Hash.
	Leaf []byte
	// Personal is JSON: the salt and the values that the hashes in Leaf stand for, as far as they are still there.
	Personal []byte
}

// Fill adds what is stored under the index, at most one row. It returns ErrTampered if that is not what the tree says.
func (e *Evidence) Fill(rows []Indexed) error {
	if len(rows) == 0 {
		return fmt.Errorf("%w: entry %d is missing", ErrTampered, e.Index)
	}
	if LeafHash(rows[0].Leaf) != e.Hash {
		return fmt.Errorf("%w: entry %d is another than when it was written", ErrTampered, e.Index)
	}
	e.Leaf, e.Personal = rows[0].Leaf, rows[0].Personal
	return nil
}

// InclusionProof proves that an entry is in the log of a size.
type InclusionProof struct {
	Index, Size int64
	// Hash is the entry's, Root that of the tree of Size.
	Hash, Root tlog.Hash
	// Proof is in the order of RFC 6962, section 2.1.1.
	Proof tlog.RecordProof
}

// ConsistencyProof proves that the log of one size is the beginning of that of another.
type ConsistencyProof struct {
	From, To int64
	// Proof is in the order of RFC 6962, section 2.1.2.
	Proof tlog.TreeProof
}
