package audit_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/gomega"

	"github.com/tidelock/tidelock/registry/audit"
)

// noLog is a log in which nothing waits for an index.
type noLog struct{}

func (noLog) PendingAudit(context.Context) (int64, error) { return 0, nil }

func (noLog) SequenceAudit(context.Context, int) (audit.Sequenced, error) {
	return audit.Sequenced{}, nil
}

func TestASequencerLetsCommitsGatherButKeepsNoReaderWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		s := audit.NewSequencer(noLog{}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()

		begin := time.Now()
		for range 100 {
			g.Expect(s.Sync(ctx)).To(Succeed())
			s.Notify()
			synctest.Wait()
		}
		g.Expect(time.Since(begin)).To(BeZero(), "the clock stands still as long as anybody has something to do")

		indexed := s.Indexed()
		s.Notify()
		<-indexed
		g.Expect(time.Since(begin)).To(BeNumerically(">", 10*time.Millisecond), "commits gather")
		stop()
		g.Expect(<-ended).To(Succeed())
	})
}
