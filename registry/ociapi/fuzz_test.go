package ociapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

// checkRefusal fails unless an error is a short refusal with one of the codes, and an answer of 4xx.
func checkRefusal(t *testing.T, err error, codes ...domain.Code) {
	t.Helper()
	result := (&API{}).failure((&http.Request{URL: &url.URL{}}).WithContext(context.Background()), err)
	if !slices.Contains(codes, domain.CodeOf(err)) || len(result.body) > 2048 || strings.ContainsFunc(string(result.body), unicode.IsControl) || result.status/100 != 4 {
		t.Fatalf("the refusal is %d %s, with %d bytes: %.300s", result.status, domain.CodeOf(err), len(result.body), result.body)
	}
}

func FuzzSplitPath(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/b/manifests/v1", "/v2/a/b/blobs/uploads/", "/v2/a/b/blobs/uploads/0af3",
		"/v2/a/blobs/uploads/manifests/v1", "/v2/a/../b/manifests/v1", "/v2//manifests/", "/v2/a/b/referrers/sha256:00", "/v2/a%2Fb/manifests/v1", "/v2/a/b%00/manifests/v1", "/v2/%ff/b/tags/list",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		address, err := url.ParseRequestURI(escaped)
		if err != nil || address.Host != "" {
			return
		}
		path := address.Path
		split, ok := splitPath(path)
		if !ok || split.endpoint == endpointBase || split.endpoint == endpointCatalog {
			return
		}
		if !strings.HasPrefix(path, "/v2/"+split.name+"/") || !strings.HasSuffix(path, split.reference) || strings.Contains(split.reference, "/") {
			t.Fatalf("%q was split into %+v", path, split)
		}
		if err := checkPath(address); err != nil {
			checkRefusal(t, err, domain.CodeNameInvalid)
			return
		}
		name, err := domain.ParseRepositoryName(split.name)
		if err != nil {
			checkRefusal(t, err, domain.CodeNameInvalid)
			return
		}
		// The registry reads the path as it was written: a proxy in front has seen the same name.
		if name.String() != split.name || !strings.HasPrefix(escaped, "/v2/"+name.String()+"/") && !strings.Contains(escaped, "%") {
			t.Fatalf("%q became the repository %q", escaped, name)
		}
		if strings.Count(escaped, "/") != strings.Count(path, "/") && !strings.Contains(escaped, "?") {
			t.Fatalf("%q became %q, with more segments", escaped, path)
		}
	})
}

func FuzzParseRange(f *testing.F) {
	for _, text := range []string{"bytes=0-0", "bytes=5-", "bytes=-5", "bytes=-0", "bytes=3-1", "bytes=0-1,2-3", "bytes=99999999999999999999-", "x", "Bytes = 1-2"} {
		f.Add(text, int64(10))
	}
	f.Fuzz(func(t *testing.T, text string, size int64) {
		if size < 0 {
			return
		}
		part, err := parseRange(http.Header{"Range": {text}}, size, "")
		if err != nil {
			checkRefusal(t, err, domain.CodeSizeInvalid)
		}
		if part == nil {
			return
		}
		if err != nil || part.from < 0 || part.from > part.to || part.to >= size {
			t.Fatalf("%q of %d bytes became %+v, %v", text, size, *part, err)
		}
		again, err := parseRange(http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", part.from, part.to)}}, size, "")
		if err != nil || again == nil || *again != *part {
			t.Fatalf("%q became %+v, and that %+v, %v", text, *part, again, err)
		}
	})
}

func FuzzChunkOffset(f *testing.F) {
	for _, text := range []string{"", "0-0", "0-1023", "5-4", "-5", "5-", "bytes 0-1/2", "0-9223372036854775807", "9223372036854775807-9223372036854775807", "+1-2", "0-1-2"} {
		f.Add(text, int64(1024))
	}
	f.Fuzz(func(t *testing.T, text string, length int64) {
		offset, err := chunkOffset(&http.Request{Header: http.Header{"Content-Range": {text}}, ContentLength: length})
		switch {
		case err != nil:
			checkRefusal(t, err, domain.CodeBlobUploadInvalid, domain.CodeSizeInvalid)
		case text == "":
			if offset != end {
				t.Fatalf("without a range, the offset is %d", offset)
			}
		case offset < 0 || length <= 0 || offset+length-1 < offset:
			t.Fatalf("%q with %d bytes became %d", text, length, offset)
		default:
			again, err := chunkOffset(&http.Request{Header: http.Header{"Content-Range": {fmt.Sprintf("%d-%d", offset, offset+length-1)}}, ContentLength: length})
			if err != nil || again != offset {
				t.Fatalf("%q became %d, and that %d, %v", text, offset, again, err)
			}
		}
	})
}

func FuzzPageParameters(f *testing.F) {
	for _, query := range []string{"", "n=0", "n=10&last=v1", "n=-1", "n=99999999999999999999", "last=%00", "last=%ff", "n=1;2", "artifactType=a/b&n=3", "last=a%2Fb", "n=%zz", "n=1&n=2", "last=a>b\"c"} {
		f.Add(query, "v1.2")
	}
	f.Fuzz(func(t *testing.T, raw, last string) {
		query, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		size, err := pageSize(query)
		if err != nil {
			checkRefusal(t, err, domain.CodeInvalid)
			return
		}
		if size < 0 || size > maxPage {
			t.Fatalf("%q is a page of %d", raw, size)
		}
		after, err := parameter(query, "last")
		if err != nil {
			checkRefusal(t, err, domain.CodeInvalid)
			return
		}
		if after != query.Get("last") {
			t.Fatalf("%q begins behind %q", raw, after)
		}
		if _, err := domain.ParseReference(last); err != nil {
			return
		}
		// The next page begins behind the last entry, has the same size, and keeps what else was asked for.
		r := &request{Request: &http.Request{URL: &url.URL{Path: "/v2/a/b/tags/list", RawQuery: raw}}}
		next := nextPage(r, last, size)
		if strings.ContainsAny(next, "<>\" ") || strings.ContainsFunc(next, unicode.IsControl) {
			t.Fatalf("%q cannot stand in a Link header", next)
		}
		address, err := url.ParseRequestURI(next)
		if err != nil {
			t.Fatal(err)
		}
		then := address.Query()
		if nextSize, err := pageSize(then); err != nil || nextSize != size || then.Get("last") != last || then.Get("artifactType") != query.Get("artifactType") || address.Path != r.URL.Path {
			t.Fatalf("behind %q of %q comes %q, %v", last, raw, next, err)
		}
	})
}

func FuzzConditions(f *testing.F) {
	etag := etagOf(digest.FromString("x"))
	for _, value := range []string{"", "*", etag, "W/" + etag, `"a", ` + etag, `"a"`, ",", etag + etag, "\x00"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		match, none := http.Header{"If-Match": {value}}, http.Header{"If-None-Match": {value}}
		err := checkIfMatch(match, etag)
		if err != nil {
			checkRefusal(t, err, domain.CodePreconditionFailed)
		} else if !strings.Contains(value, etag) && !strings.Contains(value, "*") {
			t.Fatalf("%q matches %s", value, etag)
		} else if !matchesETag(none, etag) {
			t.Fatalf("%q matches strongly but not weakly", value)
		}
		if met := precondition(match)("sha256:x"); met != (checkIfMatch(match, etagOf("sha256:x")) == nil) {
			t.Fatalf("%q is met by a push: %v", value, met)
		}
		if precondition(match)("") || !precondition(none)("") {
			t.Fatalf("%q is decided by what is not there", value)
		}
	})
}
