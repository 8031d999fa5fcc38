package audit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// sequenceBatch bounds the entries that one transaction of the sequencer indexes, so that it holds the writer for a
// few milliseconds only.
const sequenceBatch = 500

// Log is what the sequencer needs of the store.
type Log interface {
	// PendingAudit returns the highest id of a committed entry without an index, 0 if every entry has one.
	PendingAudit(ctx context.Context) (int64, error)
	// SequenceAudit gives an index to the up to limit committed entries with the lowest ids that have none, in an order
	// that agrees with that of their commits. It may run on several replicas at once.
	SequenceAudit(ctx context.Context, limit int) (Sequenced, error)
}

// Sequenced is what a transaction of the sequencer has indexed: how many entries, and the highest id among them.
type Sequenced struct {
	Count  int
	LastID int64
}

// Sequencer gives committed entries their index. A row's id is not its commit order in every engine; the index is.
// Readers see an entry once it has an index.
type Sequencer struct {
	log    Log
	logger *slog.Logger
	wake   chan struct{}

	mu      sync.Mutex
	started uint64
	done    uint64
	failed  error
	changed chan struct{}
}

// NewSequencer makes a sequencer; Run starts it.
func NewSequencer(log Log, logger *slog.Logger) *Sequencer {
	return &Sequencer{log: log, logger: logger, wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// Notify says that entries were committed. It never blocks.
func (s *Sequencer) Notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sequencePause lets a burst of commits gather before it is indexed, so that pushes do not queue behind the sequencer.
const sequencePause = 20 * time.Millisecond

// Run indexes entries until the context ends.
func (s *Sequencer) Run(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		s.drain(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-ticker.C:
		}
		if s.gather(ctx) != nil {
			return nil
		}
	}
}

// gather lets commits gather, until somebody waits for them.
func (s *Sequencer) gather(ctx context.Context) error {
	pause := time.NewTimer(sequencePause)
	defer pause.Stop()
	for !s.awaited() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-pause.C:
			return nil
		case <-s.wake: // a commit, or somebody who waits
		}
	}
	return nil
}

func (s *Sequencer) awaited() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started > s.done
}

// drain indexes all that was committed before it was called, then tells those who wait. What comes meanwhile is left to
// the next round: a sweep that fills the log does not keep its readers waiting.
func (s *Sequencer) drain(ctx context.Context) {
	s.mu.Lock()
	round := s.started
	s.mu.Unlock()
	indexed, err := s.index(ctx)
	if err != nil && ctx.Err() == nil {
		s.logger.Error("indexing audit entries failed; trying again", "error", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done, s.failed = round, err
	close(s.changed)
	s.changed = make(chan struct{})
	if indexed > 0 {
		s.Notify()
	}
}

func (s *Sequencer) index(ctx context.Context) (indexed int, err error) {
	// Not counted: entries with lower ids may still be committed.
	last, err := s.log.PendingAudit(ctx)
	for done := (Sequenced{}); err == nil && done.LastID < last; {
		if done, err = s.log.SequenceAudit(ctx, sequenceBatch); done.Count == 0 {
			break // another replica has indexed the rest
		}
		indexed += done.Count
	}
	return indexed, err
}

// Indexed returns a channel that is closed when entries were indexed next.
func (s *Sequencer) Indexed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Sync returns once every entry that was committed before the call can be read.
func (s *Sequencer) Sync(ctx context.Context) error {
	s.mu.Lock()
	s.started++
	mine := s.started
	for s.done < mine {
		changed := s.changed
		s.mu.Unlock()
		s.Notify()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		s.mu.Lock()
	}
	err := s.failed
	s.mu.Unlock()
	return err
}
