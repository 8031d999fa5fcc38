package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/tidelock/tidelock/registry/domain"
)

func FuzzParse(f *testing.F) {
	for _, manifest := range []string{
		image, index, "", "{}", `{"a":1,"a":2}`, `{"Layers":[]}`, `[[[[`, `{"schemaVersion":2,"annotations":{"Digest":"x"}}`, `{"schemaVersion":1}`, "{\"a\":\"\xff\"}",
		strings.ReplaceAll(image, "oci.image.manifest.v1", "docker.distribution.manifest.v2"), strings.ReplaceAll(index, "oci.image.index.v1", "docker.distribution.manifest.list.v2"),
		imageWith(`"artifactType":"a/b","annotations":{"k":"v"},"subject":`+describe(imageType, "x")+`,`, "a/b", config),
	} {
		f.Add("", []byte(manifest))
		f.Add(imageType, []byte(manifest))
		f.Add(indexType, []byte(manifest))
		f.Add(DockerManifest, []byte(manifest))
		f.Add(DockerManifestList, []byte(manifest))
		f.Add(DockerSchema1, []byte(manifest))
	}
	f.Fuzz(func(t *testing.T, contentType string, content []byte) {
		m, err := Parse(contentType, content)
		if err != nil {
			if message := err.Error(); domain.CodeOf(err) != domain.CodeManifestInvalid || len(message) > 2048 || strings.ContainsFunc(message, unicode.IsControl) {
				t.Fatalf("the refusal is %s, with %d bytes: %.300s", domain.CodeOf(err), len(message), message)
			}
			return
		}
		for _, set := range [][]digest.Digest{m.Blobs, m.Children, m.Foreign} {
			if !slices.IsSorted(set) || len(slices.Compact(slices.Clone(set))) != len(set) {
				t.Fatalf("%v is no sorted set", set)
			}
			for _, d := range set {
				if _, err := domain.ParseDigest(d.String()); err != nil || !strings.Contains(string(content), d.Encoded()) {
					t.Fatalf("%s is no digest of the manifest: %v", d, err)
				}
			}
		}
		isIndex := m.MediaType == indexType || m.MediaType == DockerManifestList
		if m.Index != isIndex || (len(m.Children) > 0 && !isIndex) || len(m.ArtifactType) > maxMediaType || m.Size != int64(len(content)) {
			t.Fatalf("%q became %+v", content, m)
		}
		// Header and body agree, so the manifest says the same without the header wherever it says what it is.
		again, err := Parse(m.MediaType, content)
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
