package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/domain"
)

const (
	// maxDepth is how deep objects and arrays of a manifest may be nested. Real ones have up to 5.
	maxDepth = 32
	// maxValues is how many values a manifest may have: objects, lists and what is in them. The largest index of
	// descriptors has half as many; millions of empty objects would need many times the memory of their text.
	maxValues = 250_000
)

// meaningful are the fields of manifests and descriptors that the registry decides by.
var meaningful = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "digest", "size",
}

// checkJSON refuses JSON that two readers may understand differently: a key that occurs twice, or a meaningful key in
// other letters, which encoding/json takes for the real one and other parsers do not. Else a manifest could show its
// clients layers that the registry knows nothing of. For the same reason it must be UTF-8. It also bounds depth and
// number of the values.
//
// It reads no further than to the first malformed byte, without an error: encoding/json, which reads the manifest next,
// refuses that.
func checkJSON(content []byte) error {
	if !utf8.Valid(content) {
		return errors.New("it is not UTF-8")
	}
	type level struct {
		object bool
		// keys are those of an object so far.
		keys map[string]bool
		// free is true within annotations, whose keys are the clients' own.
		free bool
		// key is the one whose value comes next, if value is true; else a key comes next.
		key   string
		value bool
	}
	var open []level
	values := 0
	var end int
	for at := 0; at < len(content); at = end {
		first := content[at]
		if end = endOfToken(content, at); end < 0 {
			return nil
		}
		var top *level
		if len(open) > 0 {
			top = &open[len(open)-1]
		}
		switch first {
		case ' ', '\t', '\r', '\n', ',', ':':
			continue
		case '}', ']':
			if top == nil {
				return nil
			}
			open = open[:len(open)-1]
			continue
		}
		if first == '"' && top != nil && top.object && !top.value {
			key, ok := unquote(content[at:end])
			if !ok {
				return nil
			}
			if top.keys[key] {
				return fmt.Errorf("the key %s occurs twice in one object", domain.Quote(key))
			}
			if !top.free && disguised(key) {
				return fmt.Errorf("the key %s is a field of manifests in other letters", domain.Quote(key))
			}
			if top.keys == nil {
				top.keys = map[string]bool{}
			}
			top.keys[key], top.key, top.value = true, key, true
			continue
		}
		if values++; values > maxValues {
			return fmt.Errorf("it has more than %d values", maxValues)
		}
		free := top != nil && (top.free || top.key == "annotations")
		if top != nil {
			top.value = false
		}
		if first == '{' || first == '[' {
			open = append(open, level{object: first == '{', free: free})
		}
		if len(open) > maxDepth {
			return fmt.Errorf("it is nested more than %d deep", maxDepth)
		}
	}
	return nil
}

// endOfToken returns where the token ends that begins at a byte: a string, a number or word, or the byte alone. It is -1
// for a string without an end.
func endOfToken(content []byte, at int) int {
	const alone = " \t\r\n,:{}[]\""
	if content[at] == '"' {
		for end := at + 1; end < len(content); end++ {
			switch content[end] {
			case '\\':
				end++
			case '"':
				return end + 1
			}
		}
		return -1
	}
	if strings.IndexByte(alone, content[at]) >= 0 {
		return at + 1
	}
	if length := bytes.IndexAny(content[at:], alone); length >= 0 {
		return at + length
	}
	return len(content)
}

// unquote reads a string of JSON.
func unquote(quoted []byte) (text string, ok bool) {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1]), true
	}
	err := json.Unmarshal(quoted, &text)
	return text, err == nil
}

// disguised reports whether a key is a meaningful one but for its case.
func disguised(key string) bool {
	for _, name := range meaningful {
		if key == name {
			return false
		}
	}
	for _, name := range meaningful {
		if strings.EqualFold(key, name) {
			return true
		}
	}
	return false
}
