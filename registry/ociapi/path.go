package ociapi

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/domain"
)

// endpoint is one kind of address under /v2/.
type endpoint int

const (
	endpointBase endpoint = iota + 1
	endpointCatalog
	endpointToken
	endpointKeys
	endpointTags
	endpointManifest
	endpointBlob
	endpointUploads
	endpointUpload
	endpointReferrers
)

// named reports whether the address of an endpoint has a repository's name.
func (e endpoint) named() bool { return e >= endpointTags }

// target is what an address names.
type target struct {
	endpoint endpoint
	// name is the repository's name as it was written, not yet checked.
	name string
	// reference is the last segment: tag, digest or upload id.
	reference string
}

// splitPath reads the path of a request. Repository names hold slashes and may hold each of the keywords, so an address
// is read from its end: the rightmost keyword counts.
func splitPath(path string) (target, bool) {
	if path == "/v2" || path == "/v2/" {
		return target{endpoint: endpointBase}, true
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return target{}, false
	}
	switch rest {
	case "_catalog":
		return target{endpoint: endpointCatalog}, true
	case "auth", "auth/":
		return target{endpoint: endpointToken}, true
	case "auth/jwks.json":
		return target{endpoint: endpointKeys}, true
	}
	rest, last, _ := cutLast(rest)
	name, keyword, ok := cutLast(rest)
	if !ok {
		return target{}, false
	}
	t := target{name: name, reference: last}
	switch {
	case keyword == "tags" && last == "list":
		t.endpoint = endpointTags
	case keyword == "manifests":
		t.endpoint = endpointManifest
	case keyword == "referrers":
		t.endpoint = endpointReferrers
	case keyword == "blobs" && last == "uploads":
		t.endpoint = endpointUploads
	case keyword == "blobs":
		t.endpoint = endpointBlob
	case keyword == "uploads":
		if t.name, keyword, ok = cutLast(name); !ok || keyword != "blobs" {
			return target{}, false
		}
		t.endpoint = endpointUpload
		if last == "" {
			t.endpoint = endpointUploads
		}
	default:
		return target{}, false
	}
	if t.endpoint == endpointTags || t.endpoint == endpointUploads {
		t.reference = ""
	}
	return t, true
}

// checkPath refuses what no name, tag, digest or upload id holds, before anything is looked up by it.
func checkPath(address *url.URL) error {
	if strings.Contains(strings.ToLower(address.RawPath), "%2f") {
		// A proxy that guards paths may have read another name than the registry would.
		return domain.Errorf(domain.CodeNameInvalid, "the path has a percent-encoded slash; write slashes as they are")
	}
	if !printable(address.Path) {
		return domain.Errorf(domain.CodeNameInvalid, "the path has characters that no name holds")
	}
	return nil
}

// printable reports whether a text is UTF-8 without control characters: what every database takes.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

func cutLast(path string) (before, last string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}
