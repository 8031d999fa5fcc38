package core

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
)

// Limits of the windows in which failed logins are counted: a flood makes a few entries a minute, whatever names and
// addresses it comes with.
const (
	// loginWindowsPerAddress is how many names an address may fail with before it gets one window for all others.
	loginWindowsPerAddress = 10
	// loginWindows bounds the windows of all addresses; behind it there is one for all others.
	maxLoginWindows = 100
)

// loginKey is the name and address of a window; empty for any.
type loginKey struct{ name, address string }

// loginWindow counts the failures behind the one whose entry is in the log.
type loginWindow struct {
	window
	// name is the one that all repeats came with, empty if they came with several.
	name string
}

// loginWindows are the open windows of this process.
type loginWindows struct {
	length time.Duration
	now    func() time.Time

	mu        sync.Mutex
	windows   map[loginKey]*loginWindow
	addresses map[string]int
}

func newLoginWindows(length time.Duration, now func() time.Time) *loginWindows {
	return &loginWindows{length: length, now: now, windows: map[loginKey]*loginWindow{}, addresses: map[string]int{}}
}

// enter returns the window of a failure, and whether the caller opened it and must write the first entry.
func (s *loginWindows) enter(name, address string) (w *loginWindow, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, key := s.now(), loginKey{name, address}
	if s.windows[key] == nil && s.addresses[address] >= loginWindowsPerAddress {
		key.name = ""
	}
	if s.windows[key] == nil && len(s.windows) >= maxLoginWindows {
		key = loginKey{}
	}
	w, ok := s.windows[key]
	if !ok {
		caller := domain.Caller{Kind: domain.CallerAnonymous, Address: key.address}
		w = &loginWindow{window: window{key: windowKey{caller: caller, kind: audit.KindLoginFailure, operation: "login"}, opened: now, ready: make(chan struct{})}}
		s.windows[key] = w
		s.addresses[key.address]++
		return w, true
	}
	if w.count == 0 {
		w.from, w.name = now, name
	}
	if w.name != name {
		w.name = ""
	}
	w.count++
	w.to = now
	return w, false
}

// leave removes the windows that are over, or all, and returns their closing entries.
func (s *loginWindows) leave(all bool) (closing []audit.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, w := range s.windows {
		select {
		case <-w.ready:
		default:
			continue
		}
		if !all && w.err == nil && s.now().Sub(w.opened) < s.length {
			continue
		}
		delete(s.windows, key)
		if s.addresses[key.address]--; s.addresses[key.address] <= 0 {
			delete(s.addresses, key.address)
		}
		if w.err == nil && w.count > 0 {
			entry := w.closing(s.now())
			entry.Metadata["reason"] = "wrong credentials"
			if w.name != "" {
				entry.Metadata["username"] = w.name
			}
			closing = append(closing, entry)
		}
	}
	slices.SortFunc(closing, func(a, b audit.Entry) int { return a.Time.Compare(b.Time) })
	return closing
}

// LoginFailed records that somebody came with wrong credentials. It returns once the entry is committed, or the failure
// is counted as a repeat. A name that no account can have is not to be recorded: it may be a password in the wrong place.
func (c *Core) LoginFailed(ctx context.Context, name, address string) error {
	ctx = context.WithoutCancel(ctx)
	c.metrics.loginFailures.Inc()
	w, first := c.logins.enter(name, address)
	if !first {
		<-w.ready
		return w.err
	}
	metadata := audit.Metadata{"reason": "wrong credentials"}
	if name != "" {
		metadata["username"] = name
	}
	caller := domain.Caller{Kind: domain.CallerAnonymous, Address: address}
	hashes, err := c.appendRefusals(ctx, []audit.Entry{subject{}.entry(audit.KindLoginFailure, c.now(), caller, metadata)}, nil)
	if w.err = err; err == nil {
		w.first = hashes[0]
	}
	close(w.ready)
	return err
}
