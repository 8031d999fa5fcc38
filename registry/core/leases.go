package core

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/tidelock/tidelock/registry/meta"
)

// Lead runs fn while this replica is the one that does what the name says, until ctx ends. The context of fn ends when
// it is not any more, at the latest before another replica begins. What fn returns is logged, and fn is run again
// later.
//
// A replica leads as long as it makes the beat of a lease grow. Another takes the lease when it has seen the same beat for
// Options.LeaseTerm by its own clock, so clocks need not agree; or at once, if the lease was given back.
func (c *Core) Lead(ctx context.Context, name string, fn func(context.Context) error) {
	l := &leader{core: c, name: name, holder: rand.Text(), term: c.options.LeaseTerm}
	for ctx.Err() == nil {
		if c.options.Replicas && !l.acquire(ctx) {
			continue
		}
		if err := l.run(ctx, fn); err != nil && ctx.Err() == nil {
			c.logger.Error("background work failed; trying again", "work", name, "error", err)
		}
		pause(ctx, l.term/3)
	}
}

// leader is a replica that leads, or wants to.
type leader struct {
	core   *Core
	name   string
	holder string
	term   time.Duration

	// seen is the last lease that was read or taken, and since when it is the same.
	seen  meta.Lease
	since time.Time
}

// acquire tries once to get the lease. If it is somebody else's it waits a little.
func (l *leader) acquire(ctx context.Context) bool {
	var now meta.Lease
	err := l.core.read(ctx, func(r *meta.Reader) (err error) {
		now, err = r.Lease(l.name)
		return err
	})
	if err == nil {
		if now != l.seen || l.since.IsZero() {
			l.seen, l.since = now, time.Now()
		}
		if (now.Holder == "" || time.Since(l.since) >= l.term) && l.take(ctx, l.holder) {
			return true
		}
	}
	pause(ctx, l.term/3)
	return false
}

// take renews, takes or gives back the lease, unless somebody else has taken it since it was seen.
func (l *leader) take(ctx context.Context, holder string) bool {
	asked, taken := time.Now(), false
	err := l.core.store.Write(ctx, meta.Scope{Volatile: true}, func(tx *meta.Tx) (err error) {
		taken, err = tx.TakeLease(l.name, holder, l.seen.Beat)
		return err
	})
	if err != nil || !taken {
		return false
	}
	l.seen, l.since = meta.Lease{Holder: holder, Beat: l.seen.Beat + 1}, asked
	return true
}

// run runs fn and renews the lease beside it. If it cannot for two thirds of the term, it ends fn's context: nobody else
// has taken the lease by then.
func (l *leader) run(ctx context.Context, fn func(context.Context) error) error {
	if !l.core.options.Replicas {
		return fn(ctx)
	}
	working, stop := context.WithCancel(ctx)
	watchdog := time.AfterFunc(time.Until(l.since.Add(2*l.term/3)), stop)
	defer watchdog.Stop()
	done := make(chan error, 1)
	go func() {
		defer stop()
		done <- fn(working)
	}()
	for working.Err() == nil {
		pause(working, l.term/6)
		if working.Err() == nil && l.take(working, l.holder) {
			watchdog.Reset(time.Until(l.since.Add(2 * l.term / 3)))
		}
	}
	err := <-done
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.term/3)
	defer cancel()
	l.take(short, "") // else another waits for the term
	return err
}

// pause waits, at most until the context ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
