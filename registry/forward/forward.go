// Package forward hands the entries of the audit log over to other systems: each entry in order, at least once, going on
// after a restart where it was. Nothing waits for a receiver: entries are read in short transactions of their own, and a
// receiver that is away or slow only falls behind.
package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// batchEntries and batchBytes bound what one request hands over; the bytes are those of the entries' JSON.
	batchEntries = 250
	batchBytes   = 1 << 20
	// DefaultBackoff is the first pause after a failure; each failure that follows doubles it, up to maxBackoff.
	DefaultBackoff = time.Second
	maxBackoff     = 5 * time.Minute
	// logInterval is the time between two lines in the log about a receiver that fails.
	logInterval = time.Minute
	// lease names what one replica does at a time.
	lease = "forward"
)

// Log is what forwarding needs of the audit log; core.Core has it.
type Log interface {
	LogOrigin(ctx context.Context) (string, error)
	LogSize(ctx context.Context) (int64, error)
	// ReadLog returns up to limit entries from an index on, the oldest first.
	ReadLog(ctx context.Context, from int64, limit int) ([]audit.View, error)
	// WaitLog returns once an entry with an index above after can be read.
	WaitLog(ctx context.Context, after int64) error
	LogCursor(ctx context.Context, name string) (int64, error)
	MoveLogCursor(ctx context.Context, name string, from, to int64) error
	// Lead runs fn on one replica at a time.
	Lead(ctx context.Context, name string, fn func(context.Context) error)
}

// Options are what forwarding needs. Log is required.
type Options struct {
	Log     Log
	Targets []Target
	// Logger is slog.Default by default.
	Logger *slog.Logger
	// Stdout is os.Stdout by default.
	Stdout io.Writer
	// Backoff is the first pause after a failure; DefaultBackoff if 0.
	Backoff time.Duration
}

// Forwarder forwards to all targets.
type Forwarder struct {
	Options
	metrics   *metrics
	receivers []*receiver
}

// destination hands entries over. It returns nil, or a *rejectedError, once the receiver has them.
type destination interface {
	send(ctx context.Context, batch []Entry) error
}

// New reads the targets' files; Run forwards.
func New(options Options) (*Forwarder, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Stdout == nil {
		options.Stdout = os.Stdout
	}
	if options.Backoff == 0 {
		options.Backoff = DefaultBackoff
	}
	f := &Forwarder{Options: options, metrics: newMetrics()}
	for _, t := range options.Targets {
		to, err := f.destination(t)
		if err != nil {
			return nil, err
		}
		f.receivers = append(f.receivers, &receiver{Forwarder: f, target: t, to: to, limit: batchEntries})
		f.metrics.add(t.Name)
	}
	return f, nil
}

func (f *Forwarder) destination(t Target) (destination, error) {
	switch t.Protocol {
	case Webhook:
		return newWebhook(t)
	case OTLP:
		return newOTLP(t)
	default:
		return newLines(f.Stdout), nil
	}
}

// Run forwards until the context ends. Of several replicas one forwards, and another goes on soon after that does not any
// more.
func (f *Forwarder) Run(ctx context.Context) error {
	f.Log.Lead(ctx, lease, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, r := range f.receivers {
			group.Go(func() error {
				r.run(ctx)
				return nil
			})
		}
		return group.Wait()
	})
	return nil
}

// receiver is a target with what is going on with it. Only one goroutine uses it at a time.
type receiver struct {
	*Forwarder
	target Target
	to     destination
	// limit is how many entries a request has at most: fewer where the receiver said that a body is too large.
	limit    int
	failures int
	loggedAt time.Time
}

// run hands over entries until the context ends.
func (r *receiver) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.step(ctx)
		if ctx.Err() != nil {
			return
		}
		wait := r.note(err)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// step hands over the next batch, waiting for it.
func (r *receiver) step(ctx context.Context) error {
	cursor := r.target.Cursor()
	from, err := r.Log.LogCursor(ctx, cursor)
	if err != nil {
		return err
	}
	if err := r.Log.WaitLog(ctx, from-1); err != nil {
		return err
	}
	batch, err := r.read(ctx, from)
	if err != nil || len(batch) == 0 {
		return err
	}
	err = r.to.send(ctx, batch)
	var rejected *rejectedError
	if errors.As(err, &rejected) {
		r.metrics.rejected.WithLabelValues(r.target.Name).Add(float64(rejected.count))
		if r.mayLog() {
			r.Logger.Error("a receiver of the audit log rejected entries; they stay in the log", "receiver", r.target.Name, "from", batch[0].Index, "to", batch[len(batch)-1].Index, "error", err)
		}
	} else if err != nil {
		return err
	}
	err = r.Log.MoveLogCursor(ctx, cursor, from, batch[len(batch)-1].Index+1)
	if domain.CodeOf(err) == domain.CodeStale {
		return nil // another replica forwards; the next step goes on where that is
	}
	if err == nil {
		r.metrics.forwarded.WithLabelValues(r.target.Name).Add(float64(len(batch)))
	}
	return err
}

// read returns the entries of the next request: as many as its bounds let in, at least one.
func (r *receiver) read(ctx context.Context, from int64) ([]Entry, error) {
	origin, err := r.Log.LogOrigin(ctx)
	if err != nil {
		return nil, err
	}
	views, err := r.Log.ReadLog(ctx, from, r.limit)
	if err != nil {
		return nil, err
	}
	batch, size := make([]Entry, 0, len(views)), 0
	for _, view := range views {
		e := newEntry(origin, view)
		text, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("audit entry %d: %w", e.Index, err)
		}
		if size += len(text); size > batchBytes && len(batch) > 0 {
			break
		}
		batch = append(batch, e)
	}
	return batch, nil
}

// note takes down how a step ended, and returns how long to wait before the next.
func (r *receiver) note(err error) time.Duration {
	if err == nil {
		if r.failures > 0 {
			r.Logger.Info("a receiver of the audit log accepts entries again", "receiver", r.target.Name, "failures", r.failures)
		}
		r.failures, r.limit = 0, min(2*r.limit, batchEntries)
		r.metrics.succeeded(r.target.Name)
		return 0
	}
	r.failures++
	r.metrics.failures.WithLabelValues(r.target.Name).Inc()
	if r.mayLog() {
		r.Logger.Warn("forwarding the audit log failed; trying again, nothing is left out", "receiver", r.target.Name, "failures", r.failures, "error", err)
	}
	var answer *statusError
	if !errors.As(err, &answer) {
		return r.backoff()
	}
	if answer.status == http.StatusRequestEntityTooLarge && r.limit > 1 {
		r.limit /= 2
		return 0
	}
	return max(r.backoff(), answer.retryAfter)
}

// mayLog reports whether the last line about the receiver's failures is old enough for another.
func (r *receiver) mayLog() bool {
	now := time.Now()
	if now.Sub(r.loggedAt) < logInterval {
		return false
	}
	r.loggedAt = now
	return true
}

// backoff is a pause after so many failures, of which at most half is chance.
func (r *receiver) backoff() time.Duration {
	d := maxBackoff
	if shift := r.failures - 1; shift < 20 {
		d = min(d, r.Backoff<<shift)
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // it spreads the replicas
}
