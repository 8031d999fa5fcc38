package ociapi

import (
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
	var d digest.Digest
	if whole {
		var err error
		if d, err = domain.ParseDigest(query.Get("digest")); err != nil {
			return answer{}, err
		}
	}
	id, err := a.uploads.begin(r.Context(), r.name, r.identity.Caller)
	if err != nil {
		return answer{}, err
	}
	if !whole {
		result := uploadAnswer(http.StatusAccepted, r.name, id, 0)
		result.header.Set("Oci-Chunk-Min-Length", strconv.Itoa(chunkMinLength))
		return result, nil
	}
	if _, err := a.receive(r, id, blob.End); err != nil {
		// The client was never told the id, so it cannot go on.
		return answer{}, errors.Join(err, a.uploads.cancel(context.WithoutCancel(r.Context()), id))
	}
	return a.finish(r, id, d)
}

// mount tries to link a blob of another repository, where ?mount= asks for it. If it is not to be had the client gets an
// upload, as without the parameter: a caller who may not pull from the other repository learns nothing about it.
func (a *API) mount(r *request, query url.Values) (mounted bool, d digest.Digest, err error) {
	if !query.Has("mount") {
		return false, "", nil
	}
	if d, err = domain.ParseDigest(query.Get("mount")); err != nil {
		return false, "", err
	}
	from, nowhere := domain.ParseRepositoryName(query.Get("from"))
	if nowhere != nil || auth.Check(r.identity, auth.RepositoryPull) != nil {
		return false, d, nil //nolint:nilerr // no source is no error here
	}
	mounted, err = a.core.MountBlob(r.Context(), r.identity.Caller, r.name, from, d, r.create())
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
		return domain.Errorf(domain.CodeDigestInvalid, "digest algorithm %q is not supported; use sha256 or sha512", algorithm)
	}
}

// getUpload tells how far an upload has come.
func (a *API) getUpload(r *request) (answer, error) {
	if err := a.uploads.touch(r.reference, r.name, r.identity.Caller); err != nil {
		return answer{}, err
	}
	size, err := a.blobs.Size(r.Context(), r.reference)
	if err != nil {
		return answer{}, a.uploadError(r, err, size)
	}
	return uploadAnswer(http.StatusNoContent, r.name, r.reference, size), nil
}

// patchUpload takes a chunk, or with no Content-Range all that follows as one stream.
func (a *API) patchUpload(r *request) (answer, error) {
	offset, err := chunkOffset(r.Request)
	if err != nil {
		return answer{}, err
	}
	if err := a.uploads.touch(r.reference, r.name, r.identity.Caller); err != nil {
		return answer{}, err
	}
	size, err := a.receive(r, r.reference, offset)
	if err != nil {
		return answer{}, err
	}
	return uploadAnswer(http.StatusAccepted, r.name, r.reference, size), nil
}

// putUpload takes the last chunk, if there is one, and makes the upload a blob.
func (a *API) putUpload(r *request) (answer, error) {
	d, err := domain.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return answer{}, err
	}
	if err := a.uploads.touch(r.reference, r.name, r.identity.Caller); err != nil {
		return answer{}, err
	}
	if r.ContentLength != 0 {
		offset, err := chunkOffset(r.Request)
		if err != nil {
			return answer{}, err
		}
		if _, err := a.receive(r, r.reference, offset); err != nil {
			return answer{}, err
		}
	}
	return a.finish(r, r.reference, d)
}

// deleteUpload cancels an upload.
func (a *API) deleteUpload(r *request) (answer, error) {
	if err := a.uploads.touch(r.reference, r.name, r.identity.Caller); err != nil {
		return answer{}, err
	}
	if err := a.uploads.cancel(r.Context(), r.reference); err != nil {
		return answer{}, a.uploadError(r, err, 0)
	}
	return answer{status: http.StatusNoContent}, nil
}

// receive appends the request's body to an upload.
func (a *API) receive(r *request, id string, offset int64) (int64, error) {
	body := &body{Reader: r.Body}
	size, err := a.blobs.Append(r.Context(), id, offset, body)
	a.uploads.renew(id)
	if body.err != nil || r.Context().Err() != nil {
		return size, domain.Errorf(domain.CodeBlobUploadInvalid, "the body ended early; the upload has %d bytes and can go on from there", size)
	}
	if err != nil {
		return size, a.uploadError(r, err, size)
	}
	return size, nil
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

// finish makes an upload a blob of the repository. Its bytes are durable before core hears of them, and the client hears
// of them when core has committed.
func (a *API) finish(r *request, id string, d digest.Digest) (answer, error) {
	// From here a client that leaves changes nothing: an unknown outcome would leave bytes that nobody can remove.
	ctx := context.WithoutCancel(r.Context())
	stored, err := a.blobs.Commit(ctx, id, d)
	switch {
	case errors.Is(err, blob.ErrBusy):
		return answer{}, a.uploadError(r, err, 0)
	case errors.Is(err, blob.ErrMismatch):
		// Bytes are only ever appended, so these can never become right.
		refusal := domain.Errorf(domain.CodeDigestInvalid, "the bytes that were uploaded do not have the digest %s; upload them again", d)
		return answer{}, errors.Join(refusal, a.uploads.cancel(ctx, id))
	case err != nil:
		a.uploads.end(id)
		return answer{}, a.uploadError(r, err, 0)
	}
	a.uploads.end(id)
	kept, err := a.core.LinkBlob(ctx, r.identity.Caller, r.name, stored, r.create())
	if err != nil && !refused(err) {
		// Perhaps it was committed, so the bytes stay.
		return answer{}, err
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

// uploadError gives the store's errors their meaning for a client. Size is how many bytes the upload has.
func (a *API) uploadError(r *request, err error, size int64) error {
	switch {
	case errors.Is(err, blob.ErrUnknown):
		return errUploadUnknown()
	case errors.Is(err, blob.ErrBusy):
		return &failure{status: http.StatusConflict, cause: domain.Errorf(domain.CodeBlobUploadInvalid, "another request is writing this upload; ask for its status and go on from there")}
	case errors.Is(err, blob.ErrOffset):
		state := uploadAnswer(0, r.name, r.reference, size)
		return &failure{
			status: http.StatusRequestedRangeNotSatisfiable, header: state.header,
			cause: domain.Errorf(domain.CodeBlobUploadInvalid, "the chunk does not begin where the upload ends; it has %d bytes", size),
		}
	}
	return err
}

// uploadAnswer tells a client where its upload is and how far it has come.
func uploadAnswer(status int, name domain.RepositoryName, id string, size int64) answer {
	return answer{status: status, header: http.Header{
		"Location": {"/v2/" + name.String() + "/blobs/uploads/" + id},
		// For an empty upload the specification has no word; every registry says 0-0.
		"Range":              {fmt.Sprintf("0-%d", max(0, size-1))},
		"Docker-Upload-Uuid": {id},
	}}
}

// chunkOffset reads where a chunk begins. The form is the specification's "first-last", not that of RFC 9110; without
// the header the body goes behind what is there.
func chunkOffset(r *http.Request) (int64, error) {
	text := r.Header.Get("Content-Range")
	if text == "" {
		return blob.End, nil
	}
	first, last, _ := strings.Cut(text, "-")
	from, fromOK := parseOffset(first)
	to, toOK := parseOffset(last)
	if !fromOK || !toOK || to < from {
		return 0, domain.Errorf(domain.CodeBlobUploadInvalid, "Content-Range %q is not <first byte>-<last byte>", text)
	}
	if r.ContentLength != to-from+1 {
		return 0, domain.Errorf(domain.CodeSizeInvalid, "Content-Range %s needs a Content-Length of %d", text, to-from+1)
	}
	return from, nil
}
