package ociapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

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

func FuzzParseManifest(f *testing.F) {
	for _, manifest := range []string{
		image, index, "", "{}", `{"a":1,"a":2}`, `{"Layers":[]}`, `[[[[`, `{"schemaVersion":2,"annotations":{"Digest":"x"}}`, `{"schemaVersion":1}`, "{\"a\":\"\xff\"}",
		strings.ReplaceAll(image, "oci.image.manifest.v1", "docker.distribution.manifest.v2"), strings.ReplaceAll(index, "oci.image.index.v1", "docker.distribution.manifest.list.v2"),
		imageWith(`"artifactType":"a/b","annotations":{"k":"v"},"subject":`+describe(imageType, "x")+`,`, "a/b", config),
	} {
		f.Add("", []byte(manifest))
		f.Add(imageType, []byte(manifest))
		f.Add(indexType, []byte(manifest))
		f.Add(dockerManifest, []byte(manifest))
		f.Add(dockerManifestList, []byte(manifest))
		f.Add(dockerSchema1, []byte(manifest))
	}
	f.Fuzz(func(t *testing.T, contentType string, content []byte) {
		m, foreign, err := parseManifest(contentType, content)
		if err != nil {
			checkRefusal(t, err, domain.CodeManifestInvalid)
			return
		}
		for _, set := range [][]digest.Digest{m.Blobs, m.Children, foreign} {
			if !slices.IsSorted(set) || len(slices.Compact(slices.Clone(set))) != len(set) {
				t.Fatalf("%v is no sorted set", set)
			}
			for _, d := range set {
				if _, err := domain.ParseDigest(d.String()); err != nil || !strings.Contains(string(content), d.Encoded()) {
					t.Fatalf("%s is no digest of the manifest: %v", d, err)
				}
			}
		}
		isIndex := m.MediaType == indexType || m.MediaType == dockerManifestList
		if m.Index != isIndex || (len(m.Children) > 0 && !isIndex) || len(m.ArtifactType) > maxMediaType || m.Size != int64(len(content)) {
			t.Fatalf("%q became %+v", content, m)
		}
		// Header and body agree, so the manifest says the same without the header wherever it says what it is.
		again, _, err := parseManifest(m.MediaType, content)
		if err != nil || again.MediaType != m.MediaType {
			t.Fatalf("%q is %s, and then %s, %v", content, m.MediaType, again.MediaType, err)
		}
	})
}

// FuzzCheckJSON compares checkJSON with one that takes its tokens from encoding/json, on all that is JSON.
func FuzzCheckJSON(f *testing.F) {
	for _, content := range []string{
		image, index, `{"a":{"a":[{"a":1},{"a":2}]},"b":"}"}`, `{"a":1,"\u0061":2}`, `{"Size":1}`, `{"annotations":{"Size":"1"},"x":{"sizE":1}}`, `[[[]],{}]`, ` {"a" : "\\" , "b":"\"" } `,
		`{"annotations":[{"Digest":1}]}`, `"x"`, `1e9`, `{"a":-0.5e+3,"b":null,"c":[true,false]}`, `{"\ud800":1,"\udc00":2}`, strings.Repeat("[", 33) + strings.Repeat("]", 33),
	} {
		f.Add([]byte(content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		err := checkJSON(content)
		if !json.Valid(content) || !utf8.Valid(content) {
			return
		}
		if want := checkTokens(content); fmt.Sprint(err) != fmt.Sprint(want) {
			t.Fatalf("%q is judged %v, and should be %v", content, err, want)
		}
	})
}

// checkTokens does on valid JSON what checkJSON does.
func checkTokens(content []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	values := 0
	var value func(depth int, free bool) error
	value = func(depth int, free bool) error {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		if values++; values > maxValues {
			return fmt.Errorf("it has more than %d values", maxValues)
		}
		opening, ok := token.(json.Delim)
		if !ok {
			return nil
		}
		if depth == maxDepth {
			return fmt.Errorf("it is nested more than %d deep", maxDepth)
		}
		seen := map[string]bool{}
		for decoder.More() {
			inside := free
			if opening == '{' {
				token, err := decoder.Token()
				if err != nil {
					return err
				}
				key := token.(string)
				if seen[key] {
					return fmt.Errorf("the key %s occurs twice in one object", domain.Quote(key))
				}
				if !free && disguised(key) {
					return fmt.Errorf("the key %s is a field of manifests in other letters", domain.Quote(key))
				}
				seen[key] = true
				inside = free || key == "annotations"
			}
			if err := value(depth+1, inside); err != nil {
				return err
			}
		}
		_, err = decoder.Token()
		return err
	}
	return value(0, false)
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
