package audit

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// appendCanonical appends the RFC 8785 (JSON Canonicalization Scheme) encoding of a value. Member names are ASCII, so
// byte order is the order that the scheme asks for; numbers are integers below 2^53.
func appendCanonical(b []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return appendString(b, v), nil
	case int:
		return appendInteger(b, int64(v))
	case int64:
		return appendInteger(b, v)
	case []string:
		b = append(b, '[')
		for i, item := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, item)
		}
		return append(b, ']'), nil
	case []any:
		b = append(b, '[')
		for i, item := range v {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendCanonical(b, item); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case Metadata:
		// As a rule there are few, and then they need no memory of their own.
		names := slices.AppendSeq(make([]string, 0, 16), maps.Keys(v))
		slices.Sort(names)
		b = append(b, '{')
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, name), ':')
			var err error
			if b, err = appendCanonical(b, v[name]); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return append(b, '}'), nil
	}
	return nil, fmt.Errorf("a %T cannot be encoded", value)
}

// objectWriter writes an object whose members are given in their order.
type objectWriter struct {
	b   []byte
	err error
}

func (w *objectWriter) begin() { w.b = append(make([]byte, 0, 640), '{') }

func (w *objectWriter) value(name string, value any) {
	if w.err != nil {
		return
	}
	w.name(name)
	w.b, w.err = appendCanonical(w.b, value)
}

func (w *objectWriter) name(name string) {
	if len(w.b) > 1 {
		w.b = append(w.b, ',')
	}
	w.b = append(appendString(w.b, name), ':')
}

func (w *objectWriter) text(name, value string) {
	if w.err != nil {
		return
	}
	w.name(name)
	w.b = appendString(w.b, value)
}

// optional leaves an empty value out.
func (w *objectWriter) optional(name, value string) {
	if value != "" {
		w.text(name, value)
	}
}

func (w *objectWriter) end() ([]byte, error) { return append(w.b, '}'), w.err }

func appendInteger(b []byte, v int64) ([]byte, error) {
	if v > 1<<53 || v < -(1<<53) {
		return nil, fmt.Errorf("%d is beyond the integers that JSON readers agree on", v)
	}
	return strconv.AppendInt(b, v, 10), nil
}

const hexDigits = "0123456789abcdef"

func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[start:i]...), "\uFFFD"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\b':
			b = append(b, '\\', 'b')
		case '\f':
			b = append(b, '\\', 'f')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
