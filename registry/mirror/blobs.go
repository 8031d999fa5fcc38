package mirror

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
	"github.com/tidelock/tidelock/registry/manifest"
)

// flights are the blobs that are fetched now, by organization and digest: each is fetched once, and who waited links it
// then. They are no matter between organizations, each of which has to fetch what is private to another.
type flights struct {
	mu      sync.Mutex
	waiting map[string]chan struct{}
}

func newFlights() *flights { return &flights{waiting: map[string]chan struct{}{}} }

// take waits until nobody else has the key, and takes it.
func (f *flights) take(ctx context.Context, key string) (release func(), err error) {
	for {
		f.mu.Lock()
		other, taken := f.waiting[key]
		if !taken {
			mine := make(chan struct{})
			f.waiting[key] = mine
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				delete(f.waiting, key)
				f.mu.Unlock()
				close(mine)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// copyBlob sees to it that a blob is in the repository: it is there, or it can be linked, or it is fetched. What is linked
// comes from the organization or from public repositories, of which everybody may have it. Anything else an upstream must
// have itself: that it names a digest proves nothing.
func (r *repository) copyBlob(ctx context.Context, b manifest.Descriptor) error {
	if r.isKnown(b.Digest) {
		r.saved(b.Size)
		return nil
	}
	here, err := r.find(ctx, b)
	if err != nil || here {
		return err
	}
	release, err := r.engine.flights.take(ctx, r.name.Organization+" "+b.Digest.String())
	if err != nil {
		return err
	}
	defer release()
	if here, err = r.find(ctx, b); err != nil || here {
		return err
	}
	linked, err := r.core.MountAnyBlob(ctx, r.claim.Caller, r.name, b.Digest, func(from domain.Repository) (bool, error) {
		return from.Name.Organization == r.name.Organization || from.Visibility == domain.Public, nil
	}, core.CreateRepository)
	if err != nil {
		return err
	}
	if linked {
		r.saved(b.Size)
	} else if err := r.fetchBlob(ctx, b); err != nil {
		return err
	}
	r.know(b.Digest)
	return nil
}

// find reports whether a blob is in the repository.
func (r *repository) find(ctx context.Context, b manifest.Descriptor) (bool, error) {
	_, err := r.core.Blob(ctx, r.name, b.Digest)
	switch domain.CodeOf(err) {
	case domain.CodeBlobUnknown, domain.CodeNameUnknown:
		return false, nil
	default:
		if err != nil {
			return false, err
		}
	}
	r.core.FoundBlob(r.name, b.Digest)
	r.know(b.Digest)
	r.saved(b.Size)
	return true, nil
}

// wholeBlob is the size up to which a blob is stored without an upload in the database. Of larger ones a blob store may
// hold parts that somebody must know of, should this process be killed.
const wholeBlob = 4 << 20

// fetchBlob downloads a blob, verifies it, and stores it in the repository.
func (r *repository) fetchBlob(ctx context.Context, b manifest.Descriptor) error {
	if b.Size <= wholeBlob {
		return r.fetchSmall(ctx, b)
	}
	s, err := r.takeUpload(ctx, b)
	if err != nil {
		return err
	}
	defer r.core.LeaveUpload(s)
	kept, stop := r.keep(ctx, s)
	from := r.up.blob(kept, r.path, b, s.Size, r.slow)
	s.Upload, err = r.blobs.Append(kept, s.Upload, from, func(u domain.Upload) error {
		safe := s
		safe.Upload = u
		return r.core.SaveUpload(context.WithoutCancel(ctx), safe, false)
	})
	from.Close()
	stop()
	if err != nil {
		r.putBack(ctx, s, b, err)
		return r.blobError(b, err)
	}
	// From here nothing is interrupted: an unknown outcome would leave bytes that nobody can remove.
	finish := context.WithoutCancel(ctx)
	_, stop = r.keep(finish, s)
	stored, err := r.blobs.Commit(finish, s.Upload, b.Digest)
	stop()
	if err != nil {
		r.drop(finish, s)
		return r.blobError(b, err)
	}
	added, err := r.core.LinkUpload(finish, r.claim.Caller, r.name, s, stored, core.CreateRepository)
	if errors.Is(err, core.ErrUploadTaken) {
		return err // perhaps the other one has linked these bytes
	}
	if err != nil && refused(err) {
		r.drop(finish, s)
	}
	return r.linked(finish, stored, added, err)
}

// fetchSmall is fetchBlob for what fits in one piece.
func (r *repository) fetchSmall(ctx context.Context, b manifest.Descriptor) error {
	from := r.up.blob(ctx, r.path, b, 0, r.slow)
	u, err := r.blobs.Append(ctx, r.blobs.Begin(blob.NewUploadID(), b.Digest.Algorithm()), from, func(domain.Upload) error { return nil })
	from.Close()
	finish := context.WithoutCancel(ctx)
	var stored domain.Blob
	if err == nil {
		stored, err = r.blobs.Commit(finish, u, b.Digest)
	}
	if err != nil {
		if cancelErr := r.blobs.Cancel(finish, u); cancelErr != nil {
			r.logger.Warn("cannot drop a download", "error", cancelErr)
		}
		return r.blobError(b, err)
	}
	added, err := r.core.LinkBlob(finish, r.claim.Caller, r.name, stored, core.CreateRepository)
	return r.linked(finish, stored, added, err)
}

// linked removes the bytes of a blob that nobody has.
func (r *repository) linked(ctx context.Context, stored domain.Blob, added bool, err error) error {
	if err != nil && !refused(err) {
		return err // perhaps it was committed, so the bytes stay; if not, garbage collection finds them
	}
	if !added {
		if removeErr := r.blobs.Remove(ctx, stored.Key); removeErr != nil {
			r.logger.Error("cannot remove a blob that is linked nowhere", "key", stored.Key, "error", removeErr)
		}
	}
	return err
}

// refused reports whether core decided against a change, so that it is certain not to have happened.
func refused(err error) bool {
	code := domain.CodeOf(err)
	return code != "" && code != domain.CodeUnavailable
}

// blobError says what is wrong with a blob.
func (r *repository) blobError(b manifest.Descriptor, err error) error {
	if errors.Is(err, blob.ErrMismatch) {
		return failed(kindBroken, "the upstream's bytes of blob %s do not have this digest", b.Digest)
	}
	return named("blob", b, err)
}

// partials are the uploads that were left in the middle, by organization, repository and digest: who fetches the blob next
// goes on there. Whatever becomes of them, idle uploads are dropped.
type partials struct {
	mu  sync.Mutex
	ids map[string]string
}

// maxPartials bounds what is remembered.
const maxPartials = 10_000

func newPartials() *partials { return &partials{ids: map[string]string{}} }

func partialKey(name domain.RepositoryName, d digest.Digest) string {
	return name.String() + "@" + d.String()
}

func (p *partials) put(key, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ids) >= maxPartials {
		clear(p.ids)
	}
	p.ids[key] = id
}

func (p *partials) take(key string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := p.ids[key]
	delete(p.ids, key)
	return id
}

// takeUpload begins the upload of a blob, or goes on with one.
func (r *repository) takeUpload(ctx context.Context, b manifest.Descriptor) (core.UploadSession, error) {
	if id := r.engine.partials.take(partialKey(r.name, b.Digest)); id != "" {
		if s, err := r.core.TakeUpload(ctx, r.claim.Caller, r.name, id); err == nil {
			if s.Size > 0 && s.Size <= b.Size {
				return s, nil
			}
			r.drop(ctx, s)
			r.core.LeaveUpload(s)
		}
	}
	upload := r.blobs.Begin(blob.NewUploadID(), b.Digest.Algorithm())
	if _, err := r.core.BeginUpload(ctx, r.claim.Caller, r.name, upload, false); err != nil {
		return core.UploadSession{}, err
	}
	return r.core.TakeUpload(ctx, r.claim.Caller, r.name, upload.ID)
}

// putBack leaves an upload that broke off to whoever goes on with it, if somebody can.
func (r *repository) putBack(ctx context.Context, s core.UploadSession, b manifest.Descriptor, err error) {
	ctx = context.WithoutCancel(ctx)
	var known *domain.Error
	switch {
	case errors.Is(err, core.ErrUploadTaken):
	case errors.Is(err, blob.ErrUnknown), errors.Is(err, blob.ErrTooLarge), errors.Is(err, blob.ErrFull), errors.As(err, &known), isKind(err, kindBroken), s.Size == 0:
		r.drop(ctx, s)
	default:
		if r.core.SaveUpload(ctx, s, true) == nil {
			r.engine.partials.put(partialKey(r.name, b.Digest), s.ID)
		}
	}
}

// drop ends an upload with which nobody will go on. If that fails it is for the expiry of uploads to do.
func (r *repository) drop(ctx context.Context, s core.UploadSession) {
	ctx = context.WithoutCancel(ctx)
	err := r.blobs.Cancel(ctx, s.Upload)
	if err == nil {
		err = r.core.EndUpload(ctx, s)
	}
	if err != nil && !errors.Is(err, core.ErrUploadTaken) {
		r.logger.Warn("cannot drop an upload", "upload", s.ID, "error", err)
	}
}

// renewal is how often an upload that is written is kept from being taken over.
const renewal = core.UploadLease / 3

// keep keeps an upload for this copy until stop is called. The context ends if another took it over all the same.
func (r *repository) keep(ctx context.Context, s core.UploadSession) (kept context.Context, stop func()) {
	kept, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(renewal)
		defer ticker.Stop()
		for {
			select {
			case <-kept.Done():
				return
			case <-ticker.C:
				if err := r.core.RenewUpload(context.WithoutCancel(ctx), s); errors.Is(err, core.ErrUploadTaken) {
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
