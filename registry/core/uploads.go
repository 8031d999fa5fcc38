package core

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/meta"
)

// Errors about uploads, as causes of the *domain.Error that a client gets.
var (
	// ErrUploadBusy means that another request has the upload for itself.
	ErrUploadBusy = errors.New("the upload is being written by another request")
	// ErrUploadTaken means that another request took the upload over, because this one was not heard of for UploadLease,
	// or ended it. What this one did does not count.
	ErrUploadTaken = errors.New("the upload was taken over by another request")
)

// UploadLease is how long a request that writes an upload has it for itself without calling RenewUpload or SaveUpload,
// if other replicas wait for it.
const UploadLease = 15 * time.Second

// uploadTouch is how exact the time is when an upload was last used.
const uploadTouch = time.Minute

// UploadSession is an upload as one request sees it. The request that took it has it for itself till LeaveUpload; any
// other finds ErrUploadBusy. Between replicas it is a lease in the database that keeps others away, and the epoch: a
// request that was taken over, for instance since its machine stood still, cannot change the upload any more.
type UploadSession struct {
	domain.Upload
	epoch int64
	// whole uploads come in the request that begins them. Nobody else can go on with them, so they are idle as soon as that
	// request is gone.
	whole bool
}

// usedAt is when the upload counts as used by what happens now.
func (s UploadSession) usedAt(now time.Time) time.Time {
	if s.whole {
		return noTime
	}
	return now
}

// sessions is the scope of transactions about uploads. They lock nothing else; and an upload that must be begun again
// after a loss of power is cheaper than an fsync for each step of each upload.
var sessions = meta.Scope{Volatile: true}

// BeginUpload records a new upload, which belongs to the caller in the repository: for everybody else it does not exist.
// One that comes whole in this request the session has for itself; then LeaveUpload must follow. Too many open uploads are
// refused with TOOMANYREQUESTS, and where only a mirror may push, DENIED.
func (c *Core) BeginUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, upload domain.Upload, whole bool) (UploadSession, error) {
	s := UploadSession{Upload: upload, epoch: 1, whole: whole}
	if err := c.checkWritable(ctx); err != nil {
		return s, err
	}
	if whole && !c.uploads.lock(upload.ID) {
		return s, uploadBusy()
	}
	perCaller := max(1, c.options.MaxUploads/4)
	err := c.store.Write(ctx, sessions, func(tx *meta.Tx) error {
		all, own, mirror, err := tx.OpenUploads(caller.Kind, caller.Name, name.Organization)
		if err != nil {
			return err
		}
		if err := checkFiller(caller, name.Organization, mirror); err != nil {
			return err
		}
		if all >= c.options.MaxUploads || own >= perCaller {
			return domain.Errorf(domain.CodeTooManyRequests, "too many uploads are open (%d, %d of them yours); finish or cancel some, then try again", all, own)
		}
		now := c.now()
		row := meta.UploadSession{Upload: upload, Repository: name.String(), CallerKind: caller.Kind, CallerName: caller.Name, Epoch: s.epoch, UsedAt: s.usedAt(now)}
		if whole {
			row.BusyUntil = c.leaseEnd(now)
		}
		return tx.AddUpload(row)
	})
	if err != nil && whole {
		c.LeaveUpload(s)
	}
	return s, forClient(err)
}

// Upload finds an upload of the caller and begins its idle time anew: BLOB_UPLOAD_UNKNOWN if there is none, ErrUploadBusy
// while another request has it.
func (c *Core) Upload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, id string) (domain.Upload, error) {
	var row meta.UploadSession
	err := c.read(ctx, func(r *meta.Reader) (err error) {
		if row, err = c.freeUpload(r, caller, name, id); err == nil && c.uploads.locked(id) {
			err = uploadBusy()
		}
		return err
	})
	if now := c.now(); err == nil && now.Sub(row.UsedAt) >= min(uploadTouch, c.options.UploadIdle/2) {
		// If another request came between, that one has used it.
		err = forClient(c.store.Write(ctx, sessions, func(tx *meta.Tx) error {
			_, err := tx.UseUpload(id, row.Epoch, row.BusyUntil, now)
			return err
		}))
	}
	return row.Upload, err
}

// TakeUpload takes an upload of the caller: BLOB_UPLOAD_UNKNOWN if there is none, ErrUploadBusy while another request has
// it. Whatever becomes of the session, LeaveUpload must follow.
func (c *Core) TakeUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, id string) (s UploadSession, err error) {
	find := func(r *meta.Reader) (meta.UploadSession, error) { return c.freeUpload(r, caller, name, id) }
	if !c.uploads.lock(id) {
		// Only who may know of the upload learns that it is busy.
		err := c.read(ctx, func(r *meta.Reader) error {
			_, err := find(r)
			return err
		})
		return s, cmp.Or(err, uploadBusy())
	}
	if c.options.SharedUploads {
		err = c.store.Write(ctx, sessions, func(tx *meta.Tx) error {
			row, err := find(&tx.Reader)
			if err != nil {
				return err
			}
			s, err = c.lease(tx, row, c.now())
			return err
		})
	} else {
		err = c.store.Read(ctx, func(r *meta.Reader) error {
			row, err := find(r)
			s = UploadSession{Upload: row.Upload, epoch: row.Epoch}
			return err
		})
	}
	if err != nil {
		c.uploads.unlock(id)
	}
	return s, forClient(err)
}

// LeaveUpload ends what TakeUpload, TakeIdleUpload or BeginUpload began. What was not saved is forgotten. Where replicas
// share uploads, others can have one that was neither given back nor ended when its lease is over.
func (c *Core) LeaveUpload(s UploadSession) { c.uploads.unlock(s.ID) }

// IdleUploads lists uploads that were not used for UploadIdle, whosever they are, for TakeIdleUpload.
func (c *Core) IdleUploads(ctx context.Context) (ids []string, err error) {
	err = c.read(ctx, func(r *meta.Reader) error {
		now := c.now()
		ids, err = r.IdleUploads(now.Add(-c.options.UploadIdle), now, c.options.MaxUploads)
		return err
	})
	return ids, err
}

// TakeIdleUpload takes an upload to be cancelled, if it still is idle: ErrUploadBusy if it is not. LeaveUpload must follow.
func (c *Core) TakeIdleUpload(ctx context.Context, id string) (s UploadSession, err error) {
	if !c.uploads.lock(id) {
		return s, uploadBusy()
	}
	err = c.store.Write(ctx, sessions, func(tx *meta.Tx) error {
		row, err := tx.Upload(id)
		now := c.now()
		if errors.Is(err, meta.ErrNotFound) || (err == nil && (row.BusyUntil.After(now) || now.Sub(row.UsedAt) < c.options.UploadIdle)) {
			err = uploadBusy()
		}
		if err != nil {
			return err
		}
		// An upload that is not ended after all stays idle.
		s, err = c.lease(tx, row, row.UsedAt)
		return err
	})
	if err != nil {
		c.uploads.unlock(id)
	}
	return s, forClient(err)
}

// lease takes an upload from the other replicas.
func (c *Core) lease(tx *meta.Tx, row meta.UploadSession, usedAt time.Time) (UploadSession, error) {
	taken, err := tx.TakeUpload(row.ID, row.Epoch, c.leaseEnd(c.now()), usedAt)
	if err == nil && !taken {
		err = uploadBusy()
	}
	row.Interrupted = !row.BusyUntil.IsZero()
	return UploadSession{Upload: row.Upload, epoch: row.Epoch + 1}, err
}

// leaseEnd is till when a lease that begins or is renewed now keeps other replicas away.
func (c *Core) leaseEnd(now time.Time) time.Time {
	if c.options.SharedUploads {
		return now.Add(UploadLease)
	}
	return noTime
}

// freeUpload finds an upload of the caller that no other request has.
func (c *Core) freeUpload(r *meta.Reader, caller domain.Caller, name domain.RepositoryName, id string) (meta.UploadSession, error) {
	row, err := r.Upload(id)
	now := c.now()
	switch {
	case err != nil && !errors.Is(err, meta.ErrNotFound):
		return row, err
	case err != nil, row.Repository != name.String(), row.CallerKind != caller.Kind, row.CallerName != caller.Name, now.Sub(row.UsedAt) >= c.options.UploadIdle:
		return row, domain.Errorf(domain.CodeBlobUploadUnknown, "there is no such upload; begin a new one")
	case row.BusyUntil.After(now):
		return row, uploadBusy()
	}
	return row, nil
}

// SaveUpload records how far a session's upload has come. With giveBack, other requests may have it from now on.
func (c *Core) SaveUpload(ctx context.Context, s UploadSession, giveBack bool) error {
	return c.fenced(ctx, func(tx *meta.Tx, now, busyUntil time.Time) (bool, error) {
		if giveBack {
			busyUntil = noTime
		}
		return tx.SaveUpload(meta.UploadSession{Upload: s.Upload, Epoch: s.epoch, UsedAt: s.usedAt(now), BusyUntil: busyUntil})
	})
}

// RenewUpload keeps a session's upload from being taken over for another UploadLease.
func (c *Core) RenewUpload(ctx context.Context, s UploadSession) error {
	return c.fenced(ctx, func(tx *meta.Tx, now, busyUntil time.Time) (bool, error) {
		return tx.UseUpload(s.ID, s.epoch, busyUntil, s.usedAt(now))
	})
}

// EndUpload forgets a session's upload.
func (c *Core) EndUpload(ctx context.Context, s UploadSession) error {
	return c.fenced(ctx, func(tx *meta.Tx, _, _ time.Time) (bool, error) { return tx.RemoveUpload(s.ID, s.epoch) })
}

// fenced runs a change of an upload, which reports whether it found the session's epoch.
func (c *Core) fenced(ctx context.Context, fn func(tx *meta.Tx, now, busyUntil time.Time) (bool, error)) error {
	return forClient(c.store.Write(ctx, sessions, func(tx *meta.Tx) error {
		now := c.now()
		found, err := fn(tx, now, c.leaseEnd(now))
		if err == nil && !found {
			err = uploadTaken()
		}
		return err
	}))
}

// LinkUpload ends a session's upload and records the blob that it became, whose bytes are durable, in a repository. It
// reports whether the bytes were kept: if the digest was stored before under another key, the caller removes its own.
// After ErrUploadTaken it must not: the other request may have linked them.
func (c *Core) LinkUpload(ctx context.Context, caller domain.Caller, name domain.RepositoryName, s UploadSession, blob domain.Blob, create Create) (kept bool, err error) {
	err = c.write(ctx, caller, sharedScope(name), func(ch *change) error {
		found, err := ch.RemoveUpload(s.ID, s.epoch)
		if err != nil {
			return err
		}
		if !found {
			return uploadTaken()
		}
		kept, err = c.linkBlob(ch, name, blob, create)
		return err
	})
	return kept, err
}

// UploadOpen reports whether there is such an upload.
func (c *Core) UploadOpen(ctx context.Context, id string) (bool, error) {
	err := c.read(ctx, func(r *meta.Reader) error {
		_, err := r.Upload(id)
		return err
	})
	if errors.Is(err, meta.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func uploadBusy() error {
	return &domain.Error{
		Code: domain.CodeBlobUploadInvalid, Cause: ErrUploadBusy,
		Message: "another request is writing this upload; ask for its status and go on from there",
	}
}

func uploadTaken() error {
	return &domain.Error{
		Code: domain.CodeBlobUploadInvalid, Cause: ErrUploadTaken,
		Message: "another request took this upload over or ended it; ask for its status and go on from there",
	}
}

// locks are the uploads that requests of this process have.
type locks struct {
	mu  sync.Mutex
	ids map[string]bool
}

// lock reports false if the upload is locked already.
func (l *locks) lock(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids[id] {
		return false
	}
	l.ids[id] = true
	return true
}

func (l *locks) unlock(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ids, id)
}

func (l *locks) locked(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ids[id]
}
