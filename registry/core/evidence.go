package core

import (
	"context"
	"errors"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// evidence runs fn on the Merkle tree of all entries that were committed before the call. A log that does not agree with
// itself is LOG_INCONSISTENT.
func (c *Core) evidence(ctx context.Context, fn func(*meta.Reader, *audit.Tree) error) error {
	if err := c.syncLog(ctx); err != nil {
		return c.tampered(ctx, err)
	}
	return c.readTree(ctx, fn)
}

// readTree is evidence for what was committed and indexed long before the call.
func (c *Core) readTree(ctx context.Context, fn func(*meta.Reader, *audit.Tree) error) error {
	return c.tampered(ctx, c.store.Read(ctx, func(r *meta.Reader) error {
		size, err := r.TreeSize()
		if err != nil {
			return err
		}
		tree, err := audit.OpenTree(size, r.Tiles)
		if err != nil {
			return err
		}
		return fn(r, tree)
	}))
}

// tampered logs that the log does not agree with itself, and says so to the client.
func (c *Core) tampered(ctx context.Context, err error) error {
	if !errors.Is(err, audit.ErrTampered) {
		return forClient(err)
	}
	c.logger.ErrorContext(ctx, "the audit log does not agree with its Merkle tree: somebody has changed the database", "error", err)
	return domain.Errorf(domain.CodeLogInconsistent, "%w; export it and run tidelock audit verify, which names the entry", err)
}

// Checkpoint says what the log is now, everything committed before the call included.
func (c *Core) Checkpoint(ctx context.Context) (checkpoint audit.Checkpoint, err error) {
	if err := c.install(ctx); err != nil {
		return checkpoint, err
	}
	err = c.evidence(ctx, func(r *meta.Reader, tree *audit.Tree) error {
		checkpoint.Size = tree.Size()
		if checkpoint.Origin, err = originAt(r, checkpoint.Size); err != nil {
			return err
		}
		checkpoint.Root, err = tree.Root(checkpoint.Size)
		return err
	})
	return checkpoint, err
}

// SignedCheckpoint is Checkpoint, signed with all keys.
func (c *Core) SignedCheckpoint(ctx context.Context) ([]byte, error) {
	checkpoint, err := c.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return c.sign(checkpoint)
}

func (c *Core) sign(checkpoint audit.Checkpoint) ([]byte, error) {
	keys, err := c.auditKeys()
	if err != nil {
		return nil, err
	}
	signed, err := keys.Sign(checkpoint)
	return signed, forClient(err)
}

func (c *Core) auditKeys() (*audit.Keys, error) {
	if c.options.AuditKeys == "" {
		return nil, domain.Errorf(domain.CodeUnavailable, "the registry has no key that signs checkpoints")
	}
	keys, err := c.options.AuditKeys.Keys()
	return keys, forClient(err)
}

// AuditPublicKeys lists the keys that checkpoints are signed with, all of them.
func (c *Core) AuditPublicKeys() ([]string, error) {
	keys, err := c.auditKeys()
	if err != nil {
		return nil, err
	}
	return keys.Public(), nil
}

// LogEntry reads one entry with its hash in the tree; a pruned one has nothing else. NOT_FOUND if there is none with this
// index.
func (c *Core) LogEntry(ctx context.Context, index int64) (entry audit.Evidence, err error) {
	err = c.evidence(ctx, func(r *meta.Reader, tree *audit.Tree) error {
		if err := within("index", index, tree.Size()-1, tree); err != nil {
			return err
		}
		hashes, err := tree.Leaves(index, index+1)
		if err != nil {
			return err
		}
		entry = audit.Evidence{Index: index, Hash: hashes[0]}
		return fill(r, &entry)
	})
	return entry, err
}

// fill adds what is stored of an entry: nothing if it was pruned.
func fill(r *meta.Reader, entry *audit.Evidence) error {
	rows, err := r.Log(audit.Query{After: entry.Index - 1, Before: entry.Index + 1, Limit: 1})
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		if start, err := r.PrunedBefore(); err != nil || entry.Index < start {
			return err
		}
	}
	return entry.Fill(rows)
}

// InclusionProof proves that the entry with an index is in the log of a size; 0 stands for its present size. NOT_FOUND if
// the log has no such entry or has not come to the size, INVALID if the size does not include the index.
func (c *Core) InclusionProof(ctx context.Context, index, size int64) (proof audit.InclusionProof, err error) {
	err = c.evidence(ctx, func(r *meta.Reader, tree *audit.Tree) error {
		proof = audit.InclusionProof{Index: index, Size: size}
		if size == 0 {
			proof.Size = tree.Size()
		}
		if err := errors.Join(within("index", index, tree.Size()-1, tree), within("size", proof.Size, tree.Size(), tree)); err != nil {
			return err
		}
		if index >= proof.Size {
			return domain.Errorf(domain.CodeInvalid, "index %d is not in a log of %d entries; the size must be above it", index, proof.Size)
		}
		var err error
		if proof.Root, err = tree.Root(proof.Size); err != nil {
			return err
		}
		if proof.Hash, proof.Proof, err = tree.Inclusion(index, proof.Size); err != nil {
			return err
		}
		return fill(r, &audit.Evidence{Index: index, Hash: proof.Hash})
	})
	return proof, err
}

// ConsistencyProof proves that the log of size from is the beginning of that of size to; 0 for to stands for its present
// size. NOT_FOUND if the log has not come to one of the sizes, INVALID if from is above to.
func (c *Core) ConsistencyProof(ctx context.Context, from, to int64) (proof audit.ConsistencyProof, err error) {
	err = c.evidence(ctx, func(_ *meta.Reader, tree *audit.Tree) error {
		proof = audit.ConsistencyProof{From: from, To: to}
		if to == 0 {
			proof.To = tree.Size()
		}
		if err := errors.Join(within("from", from, tree.Size(), tree), within("to", proof.To, tree.Size(), tree)); err != nil {
			return err
		}
		if from > proof.To {
			return domain.Errorf(domain.CodeInvalid, "from: %d is above to, %d", from, proof.To)
		}
		var err error
		proof.Proof, err = tree.Consistency(from, proof.To)
		return err
	})
	return proof, err
}

// within refuses a number that the log has not come to.
func within(name string, n, most int64, tree *audit.Tree) error {
	if n < 0 {
		return domain.Errorf(domain.CodeInvalid, "%s: %d is below 0", name, n)
	}
	if n > most {
		return domain.Errorf(domain.CodeNotFound, "%s: %d is beyond the log, which has %d entries", name, n, tree.Size())
	}
	return nil
}
