package mirror

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// fullRate is how many requests a second an upstream gets that never complained, fullBurst how many at once.
	fullRate, fullBurst = 1000, 200
	// slowest is the least rate.
	slowest = 0.5
	// recovery is after how long without a complaint the rate doubles.
	recovery = 10 * time.Second
	// longestPause bounds what an upstream may ask for.
	longestPause = 24 * time.Hour
	// firstPause is for complaints that do not say how long; it doubles up to lastPause.
	firstPause, lastPause = time.Second, time.Minute
)

// budgets are the rates at which this process asks upstreams, whichever mirror asks.
type budgets struct {
	now   func() time.Time
	mu    sync.Mutex
	hosts map[string]*budget
}

// maxBudgets bounds the budgets that are remembered. What is idle and at its full rate is forgotten first.
const maxBudgets = 10_000

func newBudgets(now func() time.Time) *budgets {
	return &budgets{now: now, hosts: map[string]*budget{}}
}

// of is the budget of a host and port. By way of a proxy it is another one: who runs the proxy can say what he likes, and
// what he says concerns nobody else.
func (b *budgets) of(host, proxy string) *budget {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := host
	if proxy != "" {
		key += " by " + proxy
	}
	found := b.hosts[key]
	if found == nil {
		if len(b.hosts) >= maxBudgets {
			b.forget()
		}
		found = &budget{now: b.now, limiter: rate.NewLimiter(fullRate, fullBurst)}
		b.hosts[key] = found
	}
	return found
}

// forget forgets the budgets that are as good as new.
func (b *budgets) forget() {
	for key, budget := range b.hosts {
		if budget.fresh() {
			delete(b.hosts, key)
		}
	}
}

// budget is the rate at which one host is asked. After a complaint (429, or 503 with a time) nobody asks before the time
// that the host said. After 429 it is asked at half the rate, which grows again as long as there is no other.
type budget struct {
	now     func() time.Time
	limiter *rate.Limiter

	mu sync.Mutex
	// until is when the host may be asked again.
	until time.Time
	// pause is what the next complaint without a time costs.
	pause time.Duration
	// slowed is when the rate last changed.
	slowed time.Time
	// second and count are the requests that began in the present second, before those in the one before.
	second        time.Time
	count, before int
}

func (b *budget) fresh() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limiter.Limit() >= fullRate && !b.now().Before(b.until)
}

// wait waits until the host may be asked. If that is later than the context ends, it says so at once.
func (b *budget) wait(ctx context.Context, host string) error {
	for {
		b.mu.Lock()
		pause := b.until.Sub(b.now())
		b.mu.Unlock()
		if pause <= 0 {
			break
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
			return failed(kindLimited, "%s asks not to be asked for another %s", host, pause.Round(time.Second))
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	if err := b.limiter.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return failed(kindLimited, "%s can be asked %.1f times a second only, since it asked for less", host, float64(b.limiter.Limit()))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if now.Sub(b.second) >= time.Second {
		b.second, b.before, b.count = now, b.count, 0
	}
	b.count++
	return nil
}

// complained notes that the host wants to be asked later, when its answer says, and if it was asked too often, less often.
func (b *budget) complained(status int, header http.Header) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	pause, said := retryAfter(header, now)
	if !said {
		b.pause = min(max(firstPause, 2*b.pause), lastPause)
		pause = b.pause
	}
	if until := now.Add(min(pause, longestPause)); until.After(b.until) {
		b.until = until
	}
	if status != http.StatusTooManyRequests || now.Sub(b.slowed) < time.Second { // of many requests under way, one complaint counts
		return
	}
	b.slowed = now
	b.limiter.SetLimit(rate.Limit(max(slowest, min(float64(b.limiter.Limit()), float64(max(b.count, b.before)))/2)))
	b.limiter.SetBurst(1)
}

// answered notes an answer that is no complaint.
func (b *budget) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limiter.Limit() >= fullRate || b.now().Sub(b.slowed) < recovery {
		return
	}
	b.slowed, b.pause = b.now(), 0
	b.limiter.SetLimit(min(fullRate, 2*b.limiter.Limit()))
	if b.limiter.Limit() >= fullRate {
		b.limiter.SetBurst(fullBurst)
	}
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds, or a date.
func retryAfter(header http.Header, now time.Time) (pause time.Duration, said bool) {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds >= 0 {
		return time.Duration(min(seconds, int64(longestPause/time.Second))) * time.Second, true
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(0, date.Sub(now)), true
	}
	return 0, false
}

// sleep waits, at most until the context ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
