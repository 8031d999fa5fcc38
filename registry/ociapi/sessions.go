package ociapi

import (
	"context"
	"errors"
	"time"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// renewal is how often a request that writes an upload says that it is alive.
const renewal = core.UploadLease / 3

// keep keeps an upload for this request until stop is called, however long a body takes. The context ends if another
// request took the upload over all the same.
func (a *API) keep(ctx context.Context, s core.UploadSession) (kept context.Context, stop func()) {
	kept, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(a.renewal)
		defer ticker.Stop()
		for {
			select {
			case <-kept.Done():
				return
			case <-ticker.C:
				// Other errors pass, or the next record of the upload meets them too.
				if err := a.core.RenewUpload(context.WithoutCancel(ctx), s); errors.Is(err, core.ErrUploadTaken) {
					cancel(err)
				}
			}
		}
	}()
	return kept, func() {
		cancel(nil)
		<-done
	}
}

// receive appends the request's body to an upload that the request has. The session says how far that came, and after an
// error it has been given back or ended.
func (a *API) receive(r *request, s *core.UploadSession) error {
	ctx, stop := a.keep(r.Context(), *s)
	body := &body{Reader: r.Body}
	var err error
	s.Upload, err = a.blobs.Append(ctx, s.Upload, body, func(u domain.Upload) error {
		safe := *s
		safe.Upload = u
		return a.core.SaveUpload(context.WithoutCancel(ctx), safe, false)
	})
	taken := context.Cause(ctx)
	stop()
	if err == nil {
		return nil
	}
	if errors.Is(taken, core.ErrUploadTaken) {
		return taken
	}
	left := r.Context().Err() != nil
	if answer := a.putBack(r.Context(), *s, err); answer != nil {
		return answer
	}
	if body.err != nil || left {
		return domain.Errorf(domain.CodeBlobUploadInvalid, "the body ended early; the upload has %d bytes and can go on from there", s.Size)
	}
	return err
}

// putBack leaves an upload to other requests as it is after an error of the blob store, if it can go on. If it cannot it
// is dropped, and putBack returns the answer for the client.
func (a *API) putBack(ctx context.Context, s core.UploadSession, err error) error {
	ctx = context.WithoutCancel(ctx)
	var answer error
	switch {
	case errors.Is(err, core.ErrUploadTaken):
		return err
	case errors.Is(err, blob.ErrUnknown):
		answer = domain.Errorf(domain.CodeBlobUploadUnknown, "there is no such upload; begin a new one")
	case errors.Is(err, blob.ErrTooLarge):
		answer = domain.Errorf(domain.CodeSizeInvalid, "the blob store takes no blob of this size in pieces of this size; upload it in larger chunks, or in one")
	case errors.Is(err, blob.ErrFull):
		answer = err // it says what to do
	default:
		return a.core.SaveUpload(ctx, s, true)
	}
	a.drop(ctx, s)
	return answer
}

// drop ends an upload that no client will go on with. If that fails it is for the expiry of uploads to do.
func (a *API) drop(ctx context.Context, s core.UploadSession) {
	if err := a.cancel(context.WithoutCancel(ctx), s); err != nil && !errors.Is(err, core.ErrUploadTaken) {
		a.logger.ErrorContext(ctx, "cannot drop an upload", "upload", s.ID, "error", err)
	}
}

// cancel drops the bytes of an upload that the caller has, then the upload.
func (a *API) cancel(ctx context.Context, s core.UploadSession) error {
	if err := a.blobs.Cancel(ctx, s.Upload); err != nil {
		return err
	}
	return a.core.EndUpload(ctx, s)
}

// ExpireUploads drops the uploads that were idle for too long; of several replicas one drops each. Somebody has to call
// it from time to time.
func (a *API) ExpireUploads(ctx context.Context) {
	ids, err := a.core.IdleUploads(ctx)
	if err != nil {
		a.logger.ErrorContext(ctx, "cannot look for idle uploads", "error", err)
	}
	for _, id := range ids {
		if err := a.expire(ctx, id); err != nil {
			a.logger.ErrorContext(ctx, "cannot drop an idle upload; it will be tried again", "upload", id, "error", err)
		}
	}
}

func (a *API) expire(ctx context.Context, id string) error {
	s, err := a.core.TakeIdleUpload(ctx, id)
	if errors.Is(err, core.ErrUploadBusy) { // it is in use again, or another replica was quicker
		return nil
	}
	if err != nil {
		return err
	}
	defer a.core.LeaveUpload(s)
	return a.cancel(ctx, s)
}
