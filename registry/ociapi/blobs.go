package ociapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// getBlob serves a blob, or a part of it (RFC 9110, section 14), or 304 to whom has it.
func (a *API) getBlob(r *request) (answer, error) {
	d, err := r.digest()
	if err != nil {
		return answer{}, err
	}
	stored, err := a.core.Blob(r.Context(), r.name, d)
	if err != nil {
		return answer{}, err
	}
	etag := etagOf(d)
	header := http.Header{
		"Accept-Ranges": {"bytes"}, "Content-Type": {"application/octet-stream"}, "Docker-Content-Digest": {d.String()}, "Etag": {etag},
	}
	if err := checkIfMatch(r.Header, etag); err != nil {
		return answer{}, err
	}
	if matchesETag(r.Header, etag) {
		return answer{status: http.StatusNotModified, header: header}, nil
	}
	if r.Method == http.MethodGet && a.presigner != nil {
		return a.redirect(r, stored)
	}
	var part *byteRange
	if r.Method == http.MethodGet { // ranges are defined for nothing else
		if part, err = parseRange(r.Header, stored.Size, etag); err != nil {
			return answer{}, err
		}
	}
	// A HEAD opens the blob too: a client that learns here that a blob exists will not send it.
	content, err := a.blobs.Open(r.Context(), stored.Key)
	if err != nil {
		return answer{}, fmt.Errorf("blob %s is linked, but its bytes are not to be had: %w", d, err)
	}
	if r.Method == http.MethodHead {
		a.core.FoundBlob(r.name, d)
	}
	result := answer{status: http.StatusOK, header: header, content: content, length: stored.Size}
	if content.Size() != stored.Size {
		return answer{}, errors.Join(fmt.Errorf("blob %s has %d bytes instead of %d", d, content.Size(), stored.Size), content.Close())
	}
	if part == nil {
		return result, nil
	}
	if _, err := content.Seek(part.from, io.SeekStart); err != nil {
		return answer{}, errors.Join(err, content.Close())
	}
	header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.from, part.to, stored.Size))
	result.status, result.length = http.StatusPartialContent, part.to-part.from+1
	return result, nil
}

// redirectLifetime is how long the address of a redirect is good. It must be shorter than bytes stay behind their deletion.
const redirectLifetime = 5 * time.Minute

// redirect sends the client to the blob's bytes. A range goes along with it.
func (a *API) redirect(r *request, stored domain.Blob) (answer, error) {
	address, err := a.presigner.Presign(r.Context(), stored.Key, redirectLifetime)
	if err != nil {
		return answer{}, fmt.Errorf("blob %s: %w", stored.Digest, err)
	}
	return answer{status: http.StatusTemporaryRedirect, header: http.Header{
		"Location": {address.String()}, "Docker-Content-Digest": {stored.Digest.String()}, "Cache-Control": {"no-store"},
	}}, nil
}

// deleteBlob removes the repository's link to a blob.
func (a *API) deleteBlob(r *request) (answer, error) {
	d, err := r.digest()
	if err != nil {
		return answer{}, err
	}
	if err := a.core.DeleteBlob(r.Context(), r.identity.Caller, r.name, d); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusAccepted}, nil
}

// blobAnswer is the answer to a push that made a blob available.
func blobAnswer(name domain.RepositoryName, d digest.Digest) answer {
	return answer{status: http.StatusCreated, header: http.Header{
		"Location": {"/v2/" + name.String() + "/blobs/" + d.String()}, "Docker-Content-Digest": {d.String()},
	}}
}

// byteRange is a part of a blob, both ends included.
type byteRange struct{ from, to int64 }

// parseRange reads the Range header against a size in bytes. Nil means the whole: there is no header, it is malformed or
// asks for several parts (both may be ignored, RFC 9110, section 14.2), or If-Range names other bytes. A range behind
// the end, and one that ends before it begins, is answered with 416.
func parseRange(header http.Header, size int64, etag string) (*byteRange, error) {
	unit, set, ok := strings.Cut(header.Get("Range"), "=")
	if condition := header.Get("If-Range"); !ok || !strings.EqualFold(unit, "bytes") || (condition != "" && condition != etag) {
		return nil, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(set), "-")
	from, fromOK := parseOffset(first)
	to, toOK := parseOffset(last)
	switch {
	case !ok || (first != "" && !fromOK) || (last != "" && !toOK) || (first == "" && last == ""):
		return nil, nil
	case first == "": // the last bytes
		if to > 0 && size > 0 {
			return &byteRange{from: max(0, size-to), to: size - 1}, nil
		}
	case from < size && (last == "" || from <= to):
		if last == "" || to >= size {
			to = size - 1
		}
		return &byteRange{from: from, to: to}, nil
	}
	return nil, &failure{
		status: http.StatusRequestedRangeNotSatisfiable, header: http.Header{"Content-Range": {fmt.Sprintf("bytes */%d", size)}},
		cause: domain.Errorf(domain.CodeSizeInvalid, "the range lies outside of the blob's %d bytes", size),
	}
}

// parseOffset reads a number of decimal digits; more than fit into 63 bits is no number here.
func parseOffset(text string) (int64, bool) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}
