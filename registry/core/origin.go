package core

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// newOrigin makes the name of a log.
func newOrigin() (string, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", domain.Unavailable(err)
	}
	return "tidelock/" + hex.EncodeToString(random[:]), nil
}

// originAt is the origin under which the log came to a size: that of the last entry of this size.
func originAt(r *meta.Reader, size int64) (string, error) {
	i, err := r.Installation()
	if err != nil || size == 0 || size > i.OriginIndex {
		return i.LogOrigin, err
	}
	rows, err := r.Log(audit.Query{After: size - 2, Before: size, Limit: 1})
	if err != nil || len(rows) == 0 {
		return i.LogOrigin, err // pruned: nothing tells another
	}
	var leaf struct{ Origin string }
	if err := json.Unmarshal(rows[0].Leaf, &leaf); err != nil {
		return "", fmt.Errorf("%w: entry %d: %w", audit.ErrTampered, rows[0].Index, err)
	}
	return leaf.Origin, nil
}

// LogStatus says which log the registry writes.
type LogStatus struct {
	Origin string
	// OriginIndex is the index of the entry that began the origin: 0, or that of a fork.
	OriginIndex int64
	// ReadOnly says why the registry takes no writes; empty if it does.
	ReadOnly string
}

func logStatus(i meta.Installation) LogStatus {
	return LogStatus{Origin: i.LogOrigin, OriginIndex: i.OriginIndex, ReadOnly: i.ReadOnly}
}

// LogStatus says which log the registry writes, and whether it takes writes.
func (c *Core) LogStatus(ctx context.Context) (LogStatus, error) {
	i, err := c.installation(ctx)
	return logStatus(i), err
}

// readOnly is the answer to a write that cannot be taken.
func readOnly(why string) error {
	return domain.Errorf(domain.CodeUnavailable, "the registry is read-only: %s; find out what happened to its data, then run `tidelock audit fork --reason TEXT`, which records it and lets writes in again", why)
}

// Published records the last checkpoint that the operator has published, a signed note, and looks for it in the log. If
// it is not of this log, and no fork explains it, the registry becomes read-only: something took entries of the log, or
// changed them, or put another database in its place.
func (c *Core) Published(ctx context.Context, caller domain.Caller, cluster, note string) (status LogStatus, err error) {
	checkpoint, err := audit.ParseCheckpoint(note)
	if err != nil {
		return status, domain.Errorf(domain.CodeInvalid, "checkpoint: %s", err)
	}
	before, err := c.installation(ctx)
	if err != nil {
		return status, err
	}
	var why string
	err = c.evidence(ctx, func(_ *meta.Reader, tree *audit.Tree) error {
		why, err = contradiction(before, tree, checkpoint)
		return err
	})
	if domain.CodeOf(err) == domain.CodeLogInconsistent {
		why, err = notThose(checkpoint), nil
	}
	if err != nil {
		return status, err
	}
	turned := false
	err = c.writeAlways(ctx, caller, meta.Scope{}, func(ch *change) error {
		if err := ch.checkCluster(cluster); err != nil {
			return err
		}
		i, err := ch.Installation()
		if err != nil {
			return err
		}
		if i.LogOrigin != before.LogOrigin {
			return domain.Errorf(domain.CodeStale, "the audit log was forked meanwhile; try again")
		}
		turned = why != "" && i.ReadOnly == ""
		if turned {
			i.ReadOnly = why
		}
		status = logStatus(i)
		if !turned && i.PublishedCheckpoint == note {
			return nil
		}
		return ch.SetPublished(note, i.ReadOnly)
	})
	if err == nil && turned {
		c.writable.Store(0)
		c.logger.Error("the registry is read-only from now on: its audit log contradicts what was published of it", "why", why, "remedy", "find out what happened to its data, then run `tidelock audit fork --reason TEXT`")
	}
	return status, err
}

// contradiction says what of a published checkpoint the log cannot account for, or nothing.
func contradiction(i meta.Installation, tree *audit.Tree, published audit.Checkpoint) (string, error) {
	if published.Origin != i.LogOrigin {
		if explained, err := audit.ParseCheckpoint(i.ForkedFrom); err == nil && explained == published {
			return "", nil
		}
		return fmt.Sprintf("a checkpoint of %d entries was published for the audit log %s, but the registry has another log and no entry that explains it", published.Size, published.Origin), nil
	}
	if tree.Size() < published.Size {
		return fmt.Sprintf("a checkpoint of %d entries of its audit log was published, but the log has fewer", published.Size), nil
	}
	root, err := tree.Root(published.Size)
	if err == nil && root != published.Root {
		return notThose(published), nil
	}
	return "", err
}

func notThose(published audit.Checkpoint) string {
	return fmt.Sprintf("the first %d entries of its audit log are not those of the checkpoint that was published", published.Size)
}

// Fork is a new origin of the log.
type Fork struct {
	Origin, PreviousOrigin string
	// Index is that of the entry that begins the origin.
	Index int64
	// Checkpoint is what the log was before, as far as anybody was told.
	Checkpoint audit.Checkpoint
}

// Lost is how many entries of the checkpoint are not in the log.
func (f Fork) Lost() int64 { return max(0, f.Checkpoint.Size-f.Index) }

// ForkLog begins a new origin of the log with an entry that explains what became of the checkpoint that was published
// last, or without one, of the log's own last one. Indices go on, and so do writes. Without force a log is not forked
// that nothing contradicts.
func (c *Core) ForkLog(ctx context.Context, caller domain.Caller, reason string, force bool) (fork Fork, err error) {
	reason = strings.TrimSpace(reason)
	if reason == "" || len(reason) > maxReason {
		return fork, domain.Errorf(domain.CodeInvalid, "a reason is required, at most %d bytes", maxReason)
	}
	origin, err := newOrigin()
	if err != nil {
		return fork, err
	}
	known, err := c.installation(ctx)
	if err != nil {
		return fork, err
	}
	own := known.PublishedCheckpoint
	if own == "" {
		if own, err = c.indexed(ctx, known.LogOrigin); err != nil {
			return fork, err
		}
	}
	err = c.writeAlways(ctx, caller, meta.Scope{LogExclusive: true}, func(ch *change) error {
		i, err := ch.Installation()
		if err != nil {
			return err
		}
		if i.ReadOnly == "" && !force {
			return domain.Errorf(domain.CodeConflict, "nothing contradicts the audit log, so there is nothing to explain")
		}
		note := cmp.Or(i.PublishedCheckpoint, own)
		fork = Fork{Origin: origin, PreviousOrigin: i.LogOrigin}
		if fork.Checkpoint, err = audit.ParseCheckpoint(note); err != nil {
			return err
		}
		if fork.Index, err = ch.NextLogIndex(); err != nil {
			return err
		}
		ch.origin = origin
		ch.logFork(fork, note, reason)
		return ch.Tx.ForkLog(origin, fork.Index, note)
	})
	if err == nil {
		c.logger.Warn("the audit log has a new origin", "origin", fork.Origin, "previous", fork.PreviousOrigin, "index", fork.Index, "lost", fork.Lost(), "reason", reason)
	}
	return fork, err
}

func (ch *change) logFork(f Fork, note, reason string) {
	metadata := audit.Metadata{"previous_origin": f.PreviousOrigin, "checkpoint": note, "reason": reason}
	if f.Lost() > 0 {
		metadata["lost_from"], metadata["lost_to"] = f.Index, f.Checkpoint.Size-1
	}
	ch.log(audit.KindForkLog, subject{}, metadata)
}

// indexed is the checkpoint, without signatures, of all entries that have an index.
func (c *Core) indexed(ctx context.Context, origin string) (text string, err error) {
	err = c.readTree(ctx, func(_ *meta.Reader, tree *audit.Tree) error {
		root, err := tree.Root(tree.Size())
		text = audit.Checkpoint{Origin: origin, Size: tree.Size(), Root: root}.Text()
		return err
	})
	return text, err
}
