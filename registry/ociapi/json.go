package ociapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/tidelock/tidelock/registry/domain"
)

// maxDepth is how deep objects and arrays of a manifest may be nested. Real ones have up to 5.
const maxDepth = 32

// meaningful are the fields of manifests and descriptors that the registry decides by.
var meaningful = []string{
	"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject", "annotations", "digest", "size",
}

// checkJSON refuses JSON that two readers may understand differently: a key that occurs twice, or a meaningful key in
// other letters, which encoding/json takes for the real one and other parsers do not. Else a manifest could show its
// clients layers that the registry knows nothing of. For the same reason it must be UTF-8. It also bounds the depth.
func checkJSON(content []byte) error {
	if !utf8.Valid(content) {
		return errors.New("it is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	type level struct {
		// keys is nil in an array.
		keys map[string]bool
		// free is true within annotations, whose keys are the clients' own.
		free bool
		// key is the one whose value comes next, empty if a key comes next.
		key   string
		value bool
	}
	var open []level
	for {
		token, err := decoder.Token()
		if err == io.EOF && len(open) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is malformed near byte %d", decoder.InputOffset())
		}
		var top *level
		if len(open) > 0 {
			top = &open[len(open)-1]
		}
		switch token {
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
			continue
		}
		if key, ok := token.(string); ok && top != nil && top.keys != nil && !top.value {
			if top.keys[key] {
				return fmt.Errorf("the key %s occurs twice in one object", domain.Quote(key))
			}
			if !top.free && disguised(key) {
				return fmt.Errorf("the key %s is a field of manifests in other letters", domain.Quote(key))
			}
			top.keys[key], top.key, top.value = true, key, true
			continue
		}
		free := top != nil && (top.free || top.key == "annotations")
		if top != nil {
			top.value = false
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{keys: map[string]bool{}, free: free})
		case json.Delim('['):
			open = append(open, level{free: free})
		}
		if len(open) > maxDepth {
			return fmt.Errorf("it is nested more than %d deep", maxDepth)
		}
	}
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
