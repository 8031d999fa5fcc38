package mgmtapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/tidelock/tidelock/registry/domain"
)

// maxBody bounds a request's body unless its route says otherwise, in bytes.
const maxBody = 1 << 20

// readBody reads the body as one JSON object: no unknown, repeated, missing or wrongly written field, nothing behind it.
// Fields without omitempty are required.
func readBody[T any](c *call) (T, error) {
	var value T
	limit := c.route.maxBody
	if limit == 0 {
		limit = maxBody
	}
	content, err := io.ReadAll(http.MaxBytesReader(c.writer, c.Body, limit))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return value, err
		}
		return value, domain.Errorf(domain.CodeInvalid, "the body cannot be read: %w", err)
	}
	if len(bytes.TrimSpace(content)) == 0 {
		return value, domain.Errorf(domain.CodeInvalid, "the body is missing; a JSON object is needed")
	}
	// This checks the syntax of it all, what stands behind the object included.
	var whole json.RawMessage
	if err := json.Unmarshal(content, &whole); err != nil {
		return value, explain(err)
	}
	if err := checkFields(whole, reflect.TypeFor[T]()); err != nil {
		return value, err
	}
	decoder := json.NewDecoder(bytes.NewReader(whole))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&value); err != nil {
		return value, explain(err)
	}
	return value, nil
}

// checkFields checks what encoding/json is lenient about in an object: the exact spelling of its fields, repeated and
// missing ones, and null for a required one.
func checkFields(object json.RawMessage, t reflect.Type) error {
	required := map[string]bool{}
	var names []string
	for _, field := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		required[name] = options == ""
		names = append(names, name)
	}
	decoder := json.NewDecoder(bytes.NewReader(object))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return domain.Errorf(domain.CodeInvalid, "the body must be a JSON object")
	}
	seen := map[string]bool{}
	for decoder.More() {
		var value json.RawMessage
		token, err := decoder.Token()
		if err == nil {
			err = decoder.Decode(&value)
		}
		if err != nil {
			return explain(err)
		}
		name, _ := token.(string)
		need, known := required[name]
		switch {
		case !known:
			return badField(name, "unknown field; the fields are %s", strings.Join(names, ", "))
		case seen[name]:
			return badField(name, "the field stands more than once")
		case need && string(value) == "null":
			return badField(name, "the field must not be null")
		}
		seen[name] = true
	}
	for _, name := range names {
		if required[name] && !seen[name] {
			return badField(name, "the field is required")
		}
	}
	return nil
}

// explain says in the client's words what encoding/json found.
func explain(err error) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType):
		return badField(wrongType.Field, "a %s is needed, not a JSON %s", jsonType(wrongType.Type), wrongType.Value)
	case errors.As(err, &syntax):
		return domain.Errorf(domain.CodeInvalid, "the body is not one JSON object: %w (byte %d)", err, syntax.Offset)
	default:
		return domain.Errorf(domain.CodeInvalid, "the body is not as it should be: %w", err)
	}
}

// jsonType names the JSON type that a Go type is read from.
func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "string"
	case reflect.Int, reflect.Int64:
		return "whole number"
	case reflect.Slice:
		return "list"
	default:
		return "object"
	}
}

// field is a field of the body, or a parameter, with its value.
type field struct{ name, value string }

// needed refuses empty values.
func needed(fields ...field) error {
	for _, f := range fields {
		if f.value == "" {
			return badField(f.name, "the field must not be empty")
		}
	}
	return nil
}
