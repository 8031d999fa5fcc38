package ociapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tidelock/tidelock/registry/domain"
)

func FuzzSplitPath(f *testing.F) {
	for _, path := range []string{
		"/v2/", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/b/manifests/v1", "/v2/a/b/blobs/uploads/", "/v2/a/b/blobs/uploads/0af3",
		"/v2/a/blobs/uploads/manifests/v1", "/v2/a/../b/manifests/v1", "/v2//manifests/", "/v2/a/b/referrers/sha256:00",
	} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		split, ok := splitPath(path)
		if !ok || split.endpoint == endpointBase || split.endpoint == endpointCatalog {
			return
		}
		if !strings.HasPrefix(path, "/v2/"+split.name+"/") || !strings.HasSuffix(path, split.reference) || strings.Contains(split.reference, "/") {
			t.Fatalf("%q was split into %+v", path, split)
		}
		if name, err := domain.ParseRepositoryName(split.name); err == nil && name.String() != split.name {
			t.Fatalf("%q became the repository %q", split.name, name)
		}
	})
}

func FuzzParseRange(f *testing.F) {
	for _, text := range []string{"bytes=0-0", "bytes=5-", "bytes=-5", "bytes=-0", "bytes=3-1", "bytes=0-1,2-3", "bytes=99999999999999999999-", "x"} {
		f.Add(text, int64(10))
	}
	f.Fuzz(func(t *testing.T, text string, size int64) {
		if size < 0 {
			return
		}
		part, err := parseRange(http.Header{"Range": {text}}, size, "")
		if part != nil && (err != nil || part.from < 0 || part.from > part.to || part.to >= size) {
			t.Fatalf("%q of %d bytes became %+v, %v", text, size, *part, err)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	for _, manifest := range []string{image, index, "", "{}", `{"a":1,"a":2}`, `{"Layers":[]}`, `[[[[`, `{"schemaVersion":2,"annotations":{"Digest":"x"}}`} {
		f.Add("", []byte(manifest))
		f.Add(imageType, []byte(manifest))
	}
	f.Fuzz(func(t *testing.T, contentType string, content []byte) {
		m, foreign, err := parseManifest(contentType, content)
		if err != nil {
			if domain.CodeOf(err) != domain.CodeManifestInvalid {
				t.Fatalf("the refusal %v is no MANIFEST_INVALID", err)
			}
			return
		}
		for _, d := range append(append(m.Blobs, m.Children...), foreign...) {
			if _, err := domain.ParseDigest(d.String()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
