package audit

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// leafMembers are the members of a leaf beside metadata; their values are strings.
var leafMembers = []string{"address", "format", "kind", "namespace", "origin", "performer", "performer_kind", "repository", "time", "token"}

// leafValues is a leaf that is known to be of the canonical encoding.
type leafValues struct {
	text     map[string]string
	metadata Metadata
}

// parseLeaf reads a leaf and checks that it is of Format, byte for byte.
func parseLeaf(leaf []byte) (l leafValues, err error) {
	members, err := decodeCanonical(leaf)
	if err != nil {
		return l, err
	}
	l.text = map[string]string{}
	for name, value := range members {
		if name == "metadata" {
			var is bool
			if l.metadata, is = value.(Metadata); !is {
				return l, errors.New("metadata is no object")
			}
			continue
		}
		text, is := value.(string)
		if !is || !slices.Contains(leafMembers, name) {
			return l, fmt.Errorf("it has a member %q that an entry does not have", name)
		}
		l.text[name] = text
	}
	if format := l.text["format"]; format != Format {
		return l, fmt.Errorf("its format is %q, not %q", format, Format)
	}
	if at, err := time.Parse(time.RFC3339, l.text["time"]); err != nil || at.UTC().Format(timeFormat) != l.text["time"] {
		return l, fmt.Errorf("%q is not the time of an entry", l.text["time"])
	}
	return l, nil
}

// decodeCanonical reads an object that is in its canonical encoding.
func decodeCanonical(content []byte) (Metadata, error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	var decoded any
	if err := decoder.Decode(&decoded); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind the object")
	}
	value, err := canonicalValue(decoded)
	if err != nil {
		return nil, err
	}
	object, is := value.(Metadata)
	if !is {
		return nil, errors.New("it is no object")
	}
	encoded, err := appendCanonical(make([]byte, 0, len(content)), object)
	if err == nil && !bytes.Equal(encoded, content) {
		err = errors.New("it is not in its canonical encoding")
	}
	return object, err
}

// canonicalValue makes of what a JSON decoder returns what appendCanonical takes.
func canonicalValue(value any) (_ any, err error) {
	switch v := value.(type) {
	case json.Number:
		return strconv.ParseInt(v.String(), 10, 64)
	case []any:
		for i := range v {
			if v[i], err = canonicalValue(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for name := range v {
			if v[name], err = canonicalValue(v[name]); err != nil {
				return nil, err
			}
		}
		return Metadata(v), nil
	}
	return value, nil
}

// checkPersonal holds personal values against the hashes in the leaf. It returns whether values are missing that the leaf
// has hashes of.
func (l leafValues) checkPersonal(content []byte) (erased bool, err error) {
	var personal Personal
	if len(content) > 0 {
		if err := json.Unmarshal(content, &personal); err != nil {
			return false, errors.New("its personal values cannot be read")
		}
	}
	salt, err := hex.DecodeString(personal.Salt)
	if err != nil {
		return false, errors.New("the salt of its personal values cannot be read")
	}
	for field, value := range personal.Values {
		if hash := l.hashOf(field); hash != HashPersonal(salt, field, value) {
			return false, fmt.Errorf("its personal value %s was changed: it does not have the hash that the leaf holds", field)
		}
	}
	return len(personal.Values) < l.personalHashes(), nil
}

// hashOf returns what stands in the leaf for the personal value of a field.
func (l leafValues) hashOf(field string) string {
	if name, in := strings.CutPrefix(field, "metadata."); in {
		hash, _ := l.metadata[name].(string)
		return hash
	}
	return l.text[field]
}

// personalHashes counts the personal values that the leaf has hashes of.
func (l leafValues) personalHashes() (n int) {
	for _, field := range []string{"performer", "address"} {
		if l.text[field] != "" {
			n++
		}
	}
	for _, name := range personalMetadata {
		if hash, _ := l.metadata[name].(string); strings.HasPrefix(hash, "sha256:") {
			n++
		}
	}
	return n
}
