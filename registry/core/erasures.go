package core

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/tidelock/tidelock/registry/audit"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

const (
	// eraseBatch is how many entries one transaction of an erasure looks at.
	eraseBatch = 500
	// maxPerson is how long the name of a person may be, in bytes: those of Kubernetes users are the longest.
	maxPerson = 1024
)

// nobodies are names that are no person's.
var nobodies = []string{"", domain.System.Name, "operator", "anonymous", "admin", "unknown", audit.Erased}

// ErasePerson asks to erase a person from every entry that is in the log now, whatever the entry is about: those that the
// person performed, and those whose metadata name the person. It returns at once; Erasure tells when it is done.
//
// Such an entry loses all of its personal values, those of others too, and their salt: what would be left could be checked
// against the leaf no more, or would let the name be guessed. The leaf stays, so every proof does. INVALID for a name that
// is no person's.
func (c *Core) ErasePerson(ctx context.Context, caller domain.Caller, person string) (domain.Erasure, error) {
	if slices.Contains(nobodies, person) || len(person) > maxPerson {
		return domain.Erasure{}, domain.Errorf(domain.CodeInvalid, "%.100q is not the name of a person", person)
	}
	// What was committed before must have its index to be found.
	if err := c.syncLog(ctx); err != nil {
		return domain.Erasure{}, err
	}
	var erasure meta.Erasure
	err := c.write(ctx, caller, meta.Scope{}, func(ch *change) (err error) {
		erasure, err = ch.OpenErasureOf(person)
		if err == nil || !errors.Is(err, meta.ErrNotFound) {
			return err
		}
		size, err := ch.LogSize()
		if err != nil {
			return err
		}
		erasure = meta.Erasure{Erasure: domain.Erasure{UUID: uuid.NewString(), End: size, CreatedAt: ch.now}, Person: person, Caller: caller}
		return ch.InsertErasure(erasure)
	})
	if err == nil {
		select {
		case c.wakeErasures <- struct{}{}:
		default:
		}
	}
	return erasure.Erasure, err
}

// Erasure returns how far an erasure has come. NOT_FOUND if there is none.
func (c *Core) Erasure(ctx context.Context, id string) (domain.Erasure, error) {
	var erasure meta.Erasure
	err := c.read(ctx, func(r *meta.Reader) (err error) {
		erasure, err = r.Erasure(id)
		if errors.Is(err, meta.ErrNotFound) {
			err = domain.Errorf(domain.CodeNotFound, "there is no erasure %s", id)
		}
		return err
	})
	return erasure.Erasure, err
}

// runErasures carries out erasures until the context ends. A replica that dies leaves the rest to another.
func (c *Core) runErasures(ctx context.Context) error {
	for ctx.Err() == nil {
		more, err := c.eraseNext(ctx)
		if err != nil && !errors.Is(err, meta.ErrBusy) && ctx.Err() == nil {
			c.logger.Error("erasing a person from the audit log failed; trying again", "error", err)
		}
		wait := idle
		if more && err == nil {
			wait = 0
		}
		select {
		case <-ctx.Done():
		case <-c.wakeErasures:
		case <-time.After(wait):
		}
	}
	return nil
}

// eraseNext erases in the next entries of the oldest erasure, and reports whether there was one.
func (c *Core) eraseNext(ctx context.Context) (bool, error) {
	var seen meta.Erasure
	var indices []int64
	err := c.store.Read(ctx, func(r *meta.Reader) (err error) {
		if seen, err = r.OpenErasure(); err == nil {
			indices, err = r.LogNaming(seen.Person, seen.Next, min(seen.Next+eraseBatch, seen.End))
		}
		return err
	})
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	err = c.store.Write(ctx, meta.Scope{Background: true, Job: meta.JobErase}, func(tx *meta.Tx) error {
		origin, err := writableOrigin(tx)
		if err != nil {
			return err
		}
		e, err := tx.Erasure(seen.UUID)
		if err != nil || e.Next != seen.Next || !e.FinishedAt.IsZero() {
			return err // another replica was here
		}
		erased, err := tx.EraseAudit(indices)
		if err != nil {
			return err
		}
		e.Entries += erased
		if e.Next = min(e.Next+eraseBatch, e.End); e.Next < e.End {
			return tx.UpdateErasure(e)
		}
		return finishErasure(tx, origin, e, c.now())
	})
	if err == nil {
		c.sequencer.Notify()
	}
	return true, err
}

// finishErasure writes the erasure's own entry and forgets whom it was about.
func finishErasure(tx *meta.Tx, origin string, e meta.Erasure, now time.Time) error {
	if err := tx.ForgetDeletionUser(e.Person); err != nil {
		return err
	}
	entry := subject{}.entry(audit.KindErasePerson, now, e.Caller, audit.Metadata{"erasure": e.UUID, "entries_count": e.Entries})
	e.Person, e.Caller, e.FinishedAt = "", domain.Caller{}, now
	if err := tx.UpdateErasure(e); err != nil {
		return err
	}
	return appendEntries(tx, origin, []audit.Entry{entry})
}
