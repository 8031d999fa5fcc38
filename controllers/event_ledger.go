package controllers

import (
	"context"
	"fmt"
	"sync"

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
}

// account counts the entries of one policy that become Events.
type account struct {
	// read is the index of the first entry that was not looked at, emitted counts those before the ledger's next, and all
	// counts all that were looked at.
	read, emitted, all int64
	// since is the index behind the last emitted entry.
	since int64
}

// Count returns a policy's counts. stored is what its status says: where to go on after a start.
func (l *EventLedger) Count(ctx context.Context, uuid string, stored *registryv1alpha1.EventsStatus) (*registryv1alpha1.EventsStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known {
		next, err := l.Registry.LogCursor(ctx, cursorName)
		if err != nil {
			return nil, fmt.Errorf("reading the cursor of the Events: %w", err)
		}
		l.restart(next)
	}
	a := l.accounts[uuid]
	if a == nil {
		a = &account{}
		// A log that is shorter than it was is another log: it is counted anew.
		if stored != nil && stored.NextAuditIndex <= l.next {
			a.read, a.since = stored.NextAuditIndex, stored.NextAuditIndex
			a.emitted, a.all = stored.Emitted, stored.Emitted
		}
	}
	for {
		segment, err := l.Registry.PolicyLog(ctx, uuid, a.read-1, logBatch)
		if err != nil {
			return nil, fmt.Errorf("reading the log of a policy: %w", err)
		}
		for _, entry := range segment.Entries {
			a.see(entry, l.next)
		}
		if len(segment.Entries) < logBatch {
			break
		}
	}
	l.accounts[uuid] = a
	return &registryv1alpha1.EventsStatus{Emitted: a.emitted, Pending: a.all - a.emitted, NextAuditIndex: a.since}, nil
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
		case a == nil || !becomesEvent(entry):
		case entry.Index >= a.read:
			a.see(entry, next)
		default:
			a.emitted++
			a.since = entry.Index + 1
		}
	}
}
