package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint says what the log was at one size: every entry below Size is what the root was made of.
type Checkpoint struct {
	// Origin names the log.
	Origin string
	// Size is the number of entries.
	Size int64
	// Root is the root of the Merkle tree over their leaves (RFC 6962, section 2.1).
	Root tlog.Hash
}

// maxCheckpoint bounds a signed checkpoint, in bytes.
const maxCheckpoint = 1 << 20

// Text is the checkpoint as it is signed: a C2SP tlog-checkpoint without extension lines.
func (c Checkpoint) Text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// ParseCheckpoint reads the text of a checkpoint, with or without signatures, which it does not check: that does
// OpenCheckpoint. Extension lines are passed over.
func ParseCheckpoint(text string) (Checkpoint, error) {
	body, _, _ := strings.Cut(text, "\n\n")
	lines := strings.SplitN(body, "\n", 4)
	if len(lines) < 3 || lines[0] == "" || len(text) > maxCheckpoint {
		return Checkpoint{}, errors.New("a checkpoint has lines with its origin, its size and its root")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("%q is not the size of a checkpoint", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("%q is not the root of a checkpoint", lines[2])
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}, nil
}

// OpenCheckpoint reads a signed checkpoint. At least one of the known keys must have signed it, and no signature by a
// known key may be wrong. It returns the names and key hashes of those that did, such as "tidelock+8a7b6c5d".
func OpenCheckpoint(signed []byte, known note.Verifiers) (c Checkpoint, signedBy []string, err error) {
	opened, err := note.Open(signed, known)
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("checkpoint: %w", err)
	}
	for _, signature := range opened.Sigs {
		signedBy = append(signedBy, fmt.Sprintf("%s+%08x", signature.Name, signature.Hash))
	}
	c, err = ParseCheckpoint(opened.Text)
	return c, signedBy, err
}

// VerifyConsistency checks the proof that the log of the newer checkpoint begins with all that the older one stands for.
// Both must be of one origin; proof is in the order of RFC 6962, section 2.1.2.
func VerifyConsistency(older, newer Checkpoint, proof tlog.TreeProof) error {
	switch {
	case older.Origin != newer.Origin:
		return fmt.Errorf("the checkpoints are of two logs, %s and %s", older.Origin, newer.Origin)
	case older.Size > newer.Size:
		return fmt.Errorf("the log has shrunk from %d entries to %d", older.Size, newer.Size)
	case older.Size == 0:
		return nil
	case older.Size == newer.Size && older.Root != newer.Root:
		return fmt.Errorf("the log has had two roots at %d entries", older.Size)
	}
	if err := tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("the log of %d entries does not begin with that of %d: %w", newer.Size, older.Size, err)
	}
	return nil
}

// VerifyInclusion checks the proof that the entry with this index and hash is in the log of a checkpoint; proof is in the
// order of RFC 6962, section 2.1.1.
func VerifyInclusion(c Checkpoint, index int64, hash tlog.Hash, proof tlog.RecordProof) error {
	if index < 0 || index >= c.Size {
		return fmt.Errorf("a log of %d entries has none with the index %d", c.Size, index)
	}
	if err := tlog.CheckRecord(proof, c.Size, c.Root, index, hash); err != nil {
		return fmt.Errorf("entry %d is not in the log of the checkpoint: %w", index, err)
	}
	return nil
}
