package auth

import (
	"net/netip"
	"sync"
	"time"
)

// Limits of guessing. They hold for an account and an address together, so that nobody can lock an account for others,
// and whoever knows the password gets in from elsewhere.
const (
	// freeFailures is how many wrong passwords in a row are simply wrong.
	freeFailures = 10
	// firstDelay is the wait after one more; each further failure doubles it, up to maxDelay.
	firstDelay = time.Second
	maxDelay   = time.Minute
	// forgetFailures is how long after the last failure all is forgotten.
	forgetFailures = 15 * time.Minute
	// maxThrottled bounds the pairs of accounts and addresses that are remembered.
	maxThrottled = 10_000
)

// throttle slows down whoever comes with wrong passwords.
type throttle struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[throttleKey]throttled
}

type throttleKey struct{ account, network string }

type throttled struct {
	failures int
	last     time.Time
	until    time.Time
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, entries: map[throttleKey]throttled{}}
}

// keyOf takes the addresses of an IPv6 network of 64 bits for one: a client has them all.
func keyOf(account, address string) throttleKey {
	if ip, err := netip.ParseAddr(address); err == nil && ip.Is6() {
		if prefix, err := ip.Prefix(64); err == nil {
			address = prefix.String()
		}
	}
	return throttleKey{account: account, network: address}
}

// wait returns how long the address has to wait before it may try the account again, 0 for not at all.
func (t *throttle) wait(account, address string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(0, t.entries[keyOf(account, address)].until.Sub(t.now()))
}

func (t *throttle) failed(account, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, key := t.now(), keyOf(account, address)
	entry, ok := t.entries[key]
	if !ok && len(t.entries) >= maxThrottled {
		t.makeRoom(now)
	}
	if now.Sub(entry.last) >= forgetFailures {
		entry = throttled{}
	}
	entry.failures++
	entry.last = now
	if over := entry.failures - freeFailures; over >= 0 {
		entry.until = now.Add(min(maxDelay, firstDelay<<min(over, 10)))
	}
	t.entries[key] = entry
}

// makeRoom forgets who is quiet, or, in a flood, somebody.
func (t *throttle) makeRoom(now time.Time) {
	for key, entry := range t.entries {
		if now.Sub(entry.last) >= forgetFailures {
			delete(t.entries, key)
		}
	}
	for key := range t.entries {
		if len(t.entries) < maxThrottled {
			return
		}
		delete(t.entries, key)
	}
}

func (t *throttle) succeeded(account, address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, keyOf(account, address))
}
