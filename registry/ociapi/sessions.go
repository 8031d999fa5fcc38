package ociapi

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/domain"
)

// uploads knows whose each open upload is. An upload belongs to the caller who began it, in the repository where it was
// begun: for everybody else it does not exist.
type uploads struct {
	blobs     blob.Store
	now       func() time.Time
	max       int
	perCaller int
	idle      time.Duration

	mu   sync.Mutex
	open map[string]*upload
}

type upload struct {
	name  domain.RepositoryName
	owner owner
	used  time.Time
}

// owner is what makes two callers the same, wherever they call from.
type owner struct {
	kind domain.CallerKind
	name string
}

func ownerOf(caller domain.Caller) owner { return owner{kind: caller.Kind, name: caller.Name} }

func newUploads(blobs blob.Store, now func() time.Time, limit int, idle time.Duration) *uploads {
	return &uploads{blobs: blobs, now: now, max: limit, perCaller: max(1, limit/4), idle: idle, open: map[string]*upload{}}
}

// begin opens an upload. Too many open ones are refused with TOOMANYREQUESTS.
func (u *uploads) begin(ctx context.Context, name domain.RepositoryName, caller domain.Caller) (string, error) {
	if err := u.expire(ctx); err != nil {
		return "", err
	}
	id := blob.NewUploadID()
	if err := u.admit(id, name, ownerOf(caller)); err != nil {
		return "", err
	}
	if err := u.blobs.Begin(ctx, id); err != nil {
		u.end(id)
		return "", err
	}
	return id, nil
}

func (u *uploads) admit(id string, name domain.RepositoryName, who owner) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	own := 0
	for _, other := range u.open {
		if other.owner == who {
			own++
		}
	}
	if len(u.open) >= u.max || own >= u.perCaller {
		return domain.Errorf(domain.CodeTooManyRequests, "too many uploads are open (%d, %d of them yours); finish or cancel some, then try again", len(u.open), own)
	}
	u.open[id] = &upload{name: name, owner: who, used: u.now()}
	return nil
}

// touch checks that an upload is open for a caller, and begins its idle time anew.
func (u *uploads) touch(id string, name domain.RepositoryName, caller domain.Caller) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.now()
	open, ok := u.open[id]
	if !ok || open.name != name || open.owner != ownerOf(caller) || now.Sub(open.used) >= u.idle {
		return errUploadUnknown()
	}
	open.used = now
	return nil
}

// renew begins an upload's idle time anew after a body that took however long it took.
func (u *uploads) renew(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if open, ok := u.open[id]; ok {
		open.used = u.now()
	}
}

// end forgets an upload that the blob store does not have any more.
func (u *uploads) end(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, id)
}

// cancel drops an upload with its bytes.
func (u *uploads) cancel(ctx context.Context, id string) error {
	err := u.blobs.Cancel(ctx, id)
	if errors.Is(err, blob.ErrBusy) {
		return err
	}
	u.end(id)
	if errors.Is(err, blob.ErrUnknown) {
		return nil
	}
	return err
}

// expire drops the uploads that were idle for too long. One that is being written is not idle, however slow it is.
func (u *uploads) expire(ctx context.Context) error {
	var idle []string
	u.mu.Lock()
	now := u.now()
	for id, open := range u.open {
		if now.Sub(open.used) >= u.idle {
			idle = append(idle, id)
		}
	}
	u.mu.Unlock()
	var errs []error
	for _, id := range idle {
		if err := u.cancel(ctx, id); err != nil && !errors.Is(err, blob.ErrBusy) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func errUploadUnknown() *domain.Error {
	return domain.Errorf(domain.CodeBlobUploadUnknown, "there is no such upload; begin a new one")
}
