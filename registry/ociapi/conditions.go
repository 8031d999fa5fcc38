package ociapi

import (
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// etagOf is a strong validator: a digest never stands for other bytes.
func etagOf(d digest.Digest) string { return `"` + d.String() + `"` }

// matchesETag reports whether If-None-Match names what the client would get (RFC 9110, section 13.1.2).
func matchesETag(header http.Header, etag string) bool {
	return listsETag(header.Values("If-None-Match"), func(candidate string) bool {
		return strings.TrimPrefix(candidate, "W/") == etag
	})
}

// checkIfMatch refuses with 412 if the client wants other bytes than those that are there (RFC 9110, section 13.1.1).
func checkIfMatch(header http.Header, etag string) error {
	values := header.Values("If-Match")
	if len(values) == 0 || listsETag(values, func(candidate string) bool { return candidate == etag }) {
		return nil
	}
	return domain.Errorf(domain.CodePreconditionFailed, "If-Match does not name %s, which is there", etag)
}

// listsETag reports whether a list of entity tags has one that matches, or is "*".
func listsETag(values []string, matches func(string) bool) bool {
	for _, list := range values {
		for candidate := range strings.SplitSeq(list, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || matches(candidate) {
				return true
			}
		}
	}
	return false
}

// precondition reads the conditions of a push, by which clients avoid to overwrite what they have not seen. It returns
// nil if there are none.
func precondition(header http.Header) func(standing digest.Digest) bool {
	ifMatch := header.Values("If-Match")
	if len(ifMatch) == 0 && len(header.Values("If-None-Match")) == 0 {
		return nil
	}
	return func(standing digest.Digest) bool {
		if standing == "" { // even "*" matches nothing
			return len(ifMatch) == 0
		}
		etag := etagOf(standing)
		return checkIfMatch(header, etag) == nil && !matchesETag(header, etag)
	}
}
