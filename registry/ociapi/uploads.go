package ociapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/auth"
	"github.com/tidelock/tidelock/registry/blob"
	"github.com/tidelock/tidelock/registry/core"
	"github.com/tidelock/tidelock/registry/domain"
)

// chunkMinLength is the OCI-Chunk-Min-Length that clients are asked for. Smaller chunks are taken too.
const chunkMinLength = 5 << 20

// postUpload mounts a blob, takes a whole blob with ?digest=, or begins an upload.
func (a *API) postUpload(r *request) (answer, error) {
	query := r.URL.Query()
	if mounted, d, err := a.mount(r, query); err != nil {
		return answer{}, err
	} else if mounted {
		return blobAnswer(r.name, d), nil
	}
	if err := checkAlgorithm(query); err != nil {
		return answer{}, err
	}
	whole := query.Has("digest")
	algorithm := digest.Algorithm(cmp.Or(query.Get("digest-algorithm"), string(digest.SHA256)))
	var d digest.Digest
	if whole {
		var err error
		if d, err = domain.ParseDigest(query.Get("digest")); err != nil {
			return answer{}, err
		}
		algorithm = d.Algorithm()
	}
	s, err := a.core.BeginUpload(r.Context(), r.identity.Caller, r.name, a.blobs.Begin(blob.NewUploadID(), algorithm), whole)
	if err != nil {
		return answer{}, err
	}
	if !whole {
		result := uploadAnswer(http.StatusAccepted, r.name, s.Upload)
		result.header.Set("Oci-Chunk-Min-Length", strconv.Itoa(chunkMinLength))
		return result, nil
	}
	defer a.core.LeaveUpload(s)
	if err := a.receive(r, &s); err != nil {
		// The client was never told the id, so it cannot go on.
		a.drop(r.Context(), s)
		return answer{}, err
	}
	return a.finish(r, s, d)
}

// mount tries to link a blob of another repository, where ?mount= asks for it: of the one that ?from= names, else of any.
// If it is not to be had the client gets an upload, as without the parameter: a caller who may not pull from the other
// repository learns nothing about it. If only its token is not for that repository, it is told to get another one.
func (a *API) mount(r *request, query url.Values) (mounted bool, d digest.Digest, err error) {
	if !query.Has("mount") {
		return false, "", nil
	}
	if d, err = domain.ParseDigest(query.Get("mount")); err != nil {
		return false, "", err
	}
	// A token may be for less than its account is allowed to.
	account, beyondToken := r.identity, domain.RepositoryName{}
	account.Scopes = nil
	mayPull := func(from domain.RepositoryName, allowed func(auth.Identity) bool) bool {
		if allowed(r.identity) {
			return true
		}
		if allowed(account) {
			beyondToken = from
		}
		return false
	}
	if query.Get("from") == "" {
		mounted, err = a.core.MountAnyBlob(r.Context(), r.identity.Caller, r.name, d, func(from domain.Repository) (bool, error) {
			return mayPull(from.Name, func(id auth.Identity) bool { return auth.MayPull(id, from) }), nil
		}, r.create())
	} else if from, nowhere := domain.ParseRepositoryName(query.Get("from")); nowhere == nil && mayPull(from, func(id auth.Identity) bool {
		return a.auth.Authorize(r.Context(), id, auth.RepositoryPull, auth.Repository(from)) == nil
	}) {
		mounted, err = a.core.MountBlob(r.Context(), r.identity.Caller, r.name, from, d, r.create())
	}
	if err == nil && !mounted && beyondToken.Path != "" {
		push, pull := auth.Needed(auth.RepositoryPush, auth.Repository(r.name)), auth.Needed(auth.RepositoryPull, auth.Repository(beyondToken))
		err = a.unauthorized(r.Request, domain.Errorf(domain.CodeUnauthorized, "the token is not for a mount from %s; ask for one with the scope %s %s", beyondToken, push, pull), insufficientScope, push, pull)
	}
	return mounted, d, err
}

// checkAlgorithm refuses an upload that announces a digest which could not be verified in the end.
func checkAlgorithm(query url.Values) error {
	if !query.Has("digest-algorithm") {
		return nil
	}
	switch algorithm := digest.Algorithm(query.Get("digest-algorithm")); algorithm {
	case digest.SHA256, digest.SHA512:
		return nil
	default:
		return domain.Errorf(domain.CodeDigestInvalid, "digest algorithm %s is not supported; use sha256 or sha512", domain.Quote(algorithm.String()))
	}
}

// getUpload tells how far an upload has come.
func (a *API) getUpload(r *request) (answer, error) {
	upload, err := a.core.Upload(r.Context(), r.identity.Caller, r.name, r.reference)
	if err != nil {
		return answer{}, uploadError(err)
	}
	return uploadAnswer(http.StatusNoContent, r.name, upload), nil
}

// patchUpload takes a chunk, or with no Content-Range all that follows as one stream.
func (a *API) patchUpload(r *request) (answer, error) {
	s, err := a.takeUpload(r, true)
	if err != nil {
		return answer{}, err
	}
	defer a.core.LeaveUpload(s)
	if err := a.receive(r, &s); err != nil {
		return answer{}, uploadError(err)
	}
	if err := a.core.SaveUpload(context.WithoutCancel(r.Context()), s, true); err != nil {
		return answer{}, uploadError(err)
	}
	return uploadAnswer(http.StatusAccepted, r.name, s.Upload), nil
}

// putUpload takes the last chunk, if there is one, and makes the upload a blob.
func (a *API) putUpload(r *request) (answer, error) {
	d, err := domain.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return answer{}, err
	}
	body := r.ContentLength != 0
	s, err := a.takeUpload(r, body)
	if err != nil {
		return answer{}, err
	}
	defer a.core.LeaveUpload(s)
	if body {
		if err := a.receive(r, &s); err != nil {
			return answer{}, uploadError(err)
		}
	}
	return a.finish(r, s, d)
}

// deleteUpload cancels an upload.
func (a *API) deleteUpload(r *request) (answer, error) {
	s, err := a.takeUpload(r, false)
	if err != nil {
		return answer{}, err
	}
	defer a.core.LeaveUpload(s)
	ctx := context.WithoutCancel(r.Context())
	if err := a.cancel(ctx, s); err != nil {
		return answer{}, uploadError(cmp.Or(a.putBack(ctx, s, err), err))
	}
	return answer{status: http.StatusNoContent}, nil
}

// takeUpload takes the upload of the request's path for the request, which may have a chunk for it.
func (a *API) takeUpload(r *request, chunk bool) (core.UploadSession, error) {
	offset := int64(end)
	if chunk {
		var err error
		if offset, err = chunkOffset(r.Request); err != nil {
			return core.UploadSession{}, err
		}
	}
	s, err := a.core.TakeUpload(r.Context(), r.identity.Caller, r.name, r.reference)
	if err != nil {
		return s, uploadError(err)
	}
	if offset == end || offset == s.Size {
		return s, nil
	}
	defer a.core.LeaveUpload(s)
	if err := a.core.SaveUpload(context.WithoutCancel(r.Context()), s, true); err != nil {
		return s, uploadError(err)
	}
	return s, &failure{
		status: http.StatusRequestedRangeNotSatisfiable, header: uploadAnswer(0, r.name, s.Upload).header,
		cause: domain.Errorf(domain.CodeBlobUploadInvalid, "the chunk does not begin where the upload ends; it has %d bytes", s.Size),
	}
}

// body remembers that it was the client, not the store, that failed.
type body struct {
	io.Reader
	err error
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// finish makes an upload that the request has a blob of the repository. Its bytes are durable before core hears of them,
// and the client hears of them when core has committed.
func (a *API) finish(r *request, s core.UploadSession, d digest.Digest) (answer, error) {
	// From here a client that leaves changes nothing: an unknown outcome would leave bytes that nobody can remove.
	ctx := context.WithoutCancel(r.Context())
	_, stop := a.keep(ctx, s)
	stored, err := a.blobs.Commit(ctx, s.Upload, d)
	stop()
	if errors.Is(err, blob.ErrMismatch) {
		// Bytes are only ever appended, so these can never become right.
		a.drop(ctx, s)
		return answer{}, domain.Errorf(domain.CodeDigestInvalid, "the bytes that were uploaded do not have the digest %s; upload them again", d)
	}
	if err != nil {
		if answered := a.putBack(ctx, s, err); answered != nil {
			err = answered
		}
		return answer{}, uploadError(err)
	}
	kept, err := a.core.LinkUpload(ctx, r.identity.Caller, r.name, s, stored, r.create())
	switch {
	case errors.Is(err, core.ErrUploadTaken):
		// Perhaps the other request has linked these bytes.
		return answer{}, uploadError(err)
	case err != nil && !refused(err):
		// Perhaps it was committed, so the bytes stay. If not, the client can try again.
		if saveErr := a.core.SaveUpload(ctx, s, true); saveErr != nil {
			a.logger.WarnContext(ctx, "an upload waits until it is given back by time", "upload", s.ID, "error", saveErr)
		}
		return answer{}, err
	case err != nil:
		a.drop(ctx, s)
	}
	if err != nil || !kept {
		if removeErr := a.blobs.Remove(ctx, stored.Key); removeErr != nil {
			a.logger.ErrorContext(ctx, "cannot remove a blob that is linked nowhere", "key", stored.Key, "error", removeErr)
		}
	}
	if err != nil {
		return answer{}, err
	}
	return blobAnswer(r.name, d), nil
}

// refused reports whether core decided against a change, so that it is certain not to have happened.
func refused(err error) bool {
	code := domain.CodeOf(err)
	return code != "" && code != domain.CodeUnavailable
}

// uploadError gives the errors of two requests that meet at an upload their status.
func uploadError(err error) error {
	var known *domain.Error
	if errors.As(err, &known) && (errors.Is(err, core.ErrUploadBusy) || errors.Is(err, core.ErrUploadTaken)) {
		return &failure{status: http.StatusConflict, cause: known}
	}
	return err
}

// uploadAnswer tells a client where its upload is and how far it has come.
func uploadAnswer(status int, name domain.RepositoryName, upload domain.Upload) answer {
	return answer{status: status, header: http.Header{
		"Location": {"/v2/" + name.String() + "/blobs/uploads/" + upload.ID},
		// For an empty upload the specification has no word; every registry says 0-0.
		"Range":              {fmt.Sprintf("0-%d", max(0, upload.Size-1))},
		"Docker-Upload-Uuid": {upload.ID},
	}}
}

// end is the offset of a chunk that goes behind what is there.
const end = -1

// chunkOffset reads where a chunk begins. The form is the specification's "first-last", not that of RFC 9110; without
// the header the body goes behind what is there.
func chunkOffset(r *http.Request) (int64, error) {
	text := r.Header.Get("Content-Range")
	if text == "" {
		return end, nil
	}
	first, last, _ := strings.Cut(text, "-")
	from, fromOK := parseOffset(first)
	to, toOK := parseOffset(last)
	if !fromOK || !toOK || to < from {
		return 0, domain.Errorf(domain.CodeBlobUploadInvalid, "Content-Range %s is not <first byte>-<last byte>", domain.Quote(text))
	}
	if r.ContentLength != to-from+1 {
		return 0, domain.Errorf(domain.CodeSizeInvalid, "Content-Range %d-%d needs a Content-Length of %d", from, to, to-from+1)
	}
	return from, nil
}
