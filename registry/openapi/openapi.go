// Package openapi is the description of the management API, and the Go types generated from it. The document comes
// first: the server and its client are tested against it.
package openapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"

	"go.yaml.in/yaml/v3"
)

//go:generate ../../bin/tools/oapi-codegen -config types.cfg.yaml openapi.yaml

// YAML is the OpenAPI 3.0 document.
//
//go:embed openapi.yaml
var YAML []byte

// JSON returns the document as JSON. The caller must not change it.
var JSON = sync.OnceValues(func() ([]byte, error) {
	var document map[string]any
	if err := yaml.Unmarshal(YAML, &document); err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	return json.Marshal(document)
})
