package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/ptr"

	registryv1alpha1 "github.com/tidelock/tidelock/api/v1alpha1"
	"github.com/tidelock/tidelock/registry/openapi"
)

// LedgerRegistry is what the ledger needs of the registry.
type LedgerRegistry interface {
	// PolicyLog reads the entries about one policy.
	PolicyLog(ctx context.Context, uuid string, after int64, limit int) (openapi.LogSegment, error)
	LogCursor(ctx context.Context, name string) (int64, error)
}

// EventLedger counts, for the status of each policy, the entries of the log that have become Events and those that have
// not yet. The counts are exact, also after a crash: a status holds its count together with the index up to which it
// counts, and what lies between that index and the projector's cursor is read from the log again.
type EventLedger struct {
	Registry LedgerRegistry

	mu sync.Mutex
	// next is the index of the entry that becomes an Event next; known is whether it has been read.
	next     int64
	known    bool
	accounts map[string]*account

	created meter
}

// account counts the entries of one policy that become Events.
type account struct {
	// read is the index of the first entry that was not looked at, emitted counts those before the ledger's next, and all
	// counts all that were looked at.
	read, emitted, all int64
	// since is the index behind the last emitted entry.
	since int64
	// caughtUp is true once every entry before the ledger's next was looked at: from then on the projector keeps it so.
	caughtUp bool
}

// Count returns a policy's counts. stored is what its status says: where to go on after a start. The projector goes on
// meanwhile, however much of the log there is to read.
func (l *EventLedger) Count(ctx context.Context, uuid string, stored *registryv1alpha1.EventsStatus) (*registryv1alpha1.EventsStatus, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	for {
		a, from, next := l.account(uuid, stored)
		segment, err := l.Registry.PolicyLog(ctx, uuid, from-1, logBatch)
		if err != nil {
			return nil, fmt.Errorf("reading the log of a policy: %w", err)
		}
		if status := l.look(uuid, a, next, segment.Entries); status != nil {
			return status, nil
		}
	}
}

// begin reads where the projector is, unless that is known.
func (l *EventLedger) begin(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known {
		return nil
	}
	next, err := l.Registry.LogCursor(ctx, cursorName)
	if err != nil {
		return fmt.Errorf("reading the cursor of the Events: %w", err)
	}
	l.restart(next)
	return nil
}

// account finds a policy's account, or opens it with what the status says, and tells from where on its log is to be read
// and where the projector is.
func (l *EventLedger) account(uuid string, stored *registryv1alpha1.EventsStatus) (a *account, from, next int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a = l.accounts[uuid]
	if a == nil {
		a = &account{}
		// A log that is shorter than it was is another log: it is counted anew.
		if stored != nil && stored.NextAuditIndex <= l.next {
			a.read, a.since = stored.NextAuditIndex, stored.NextAuditIndex
			a.emitted, a.all = stored.Emitted, stored.Emitted
		}
		l.accounts[uuid] = a
	}
	return a, a.read, l.next
}

// look looks at a page of a policy's log that was read while the projector was at next. It returns the counts if the page
// is the last one.
func (l *EventLedger) look(uuid string, a *account, next int64, page []openapi.LogEntry) *registryv1alpha1.EventsStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.accounts[uuid] != a {
		return nil // all counts were forgotten meanwhile
	}
	for _, entry := range page {
		if entry.Index >= a.read { // the projector has not passed it first
			a.see(entry, l.next)
		}
	}
	last := len(page) < logBatch
	// What the projector has passed since the page was read may be missing in it.
	a.caughtUp = a.caughtUp || a.read > l.next || last && l.next == next
	if !last || !a.caughtUp {
		return nil
	}
	status := &registryv1alpha1.EventsStatus{Emitted: a.emitted, Pending: a.all - a.emitted, NextAuditIndex: a.since}
	if status.Pending > 0 {
		status.Rate = ptr.To(l.created.perSecond(time.Now()))
	}
	return status
}

// see looks at an entry that was not looked at before.
func (a *account) see(entry openapi.LogEntry, next int64) {
	a.read = entry.Index + 1
	if !becomesEvent(entry) {
		return
	}
	a.all++
	if entry.Index < next {
		a.emitted++
		a.since = entry.Index + 1
	}
}

// restart forgets all counts: the cursor was found at another place than this process left it.
func (l *EventLedger) restart(next int64) {
	l.next, l.known = next, true
	l.accounts = map[string]*account{}
}

// Created tells that an Event was created.
func (l *EventLedger) Created() { l.created.add(time.Now()) }

// Restart tells where the projector begins.
func (l *EventLedger) Restart(next int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known || l.next != next {
		l.restart(next)
	}
}

// Advance tells that the entries have become Events and the cursor stands at next.
func (l *EventLedger) Advance(entries []openapi.LogEntry, next int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = next
	for _, entry := range entries {
		a := l.accounts[entry.Policy]
		switch {
		case a == nil || !a.caughtUp: // Count reads it from the log
		case entry.Index >= a.read:
			a.see(entry, next)
		case becomesEvent(entry):
			a.emitted++
			a.since = entry.Index + 1
		}
	}
}
