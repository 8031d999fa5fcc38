package auth

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"
)

const (
	// usesInterval is how often the last uses of tokens are written.
	usesInterval = time.Minute
	// usesTimeout bounds the last time of that, when the process ends.
	usesTimeout = 5 * time.Second
)

// uses remembers when tokens were used and readonly superusers were seen, and writes it once in a while, so that no
// request waits for it.
type uses struct {
	accounts Accounts
	now      func() time.Time

	mu   sync.Mutex
	last map[string]time.Time
	seen map[string]time.Time
}

func newUses(accounts Accounts, now func() time.Time) *uses {
	return &uses{accounts: accounts, now: now, last: map[string]time.Time{}, seen: map[string]time.Time{}}
}

func (u *uses) add(tokenID string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last[tokenID] = u.now()
}

// see remembers that the subject of a grant was seen.
func (u *uses) see(grant string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen[grant] = u.now()
}

// write writes what was added since the last time.
func (u *uses) write(ctx context.Context) error {
	u.mu.Lock()
	last, seen := maps.Clone(u.last), maps.Clone(u.seen)
	clear(u.last)
	clear(u.seen)
	u.mu.Unlock()
	var errs []error
	if len(last) > 0 {
		errs = append(errs, u.accounts.TouchTokens(ctx, last))
	}
	if len(seen) > 0 {
		errs = append(errs, u.accounts.TouchReadonlySuperusers(ctx, seen))
	}
	return errors.Join(errs...)
}

func (u *uses) run(ctx context.Context, logger *slog.Logger) {
	ticker := time.NewTicker(usesInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), usesTimeout)
			defer cancel()
			if err := u.write(ctx); err != nil {
				logger.Warn("the last uses of tokens were not recorded", "error", err)
			}
			return
		case <-ticker.C:
			if err := u.write(ctx); err != nil {
				logger.Warn("the last uses of tokens were not recorded", "error", err)
			}
		}
	}
}
