package domain

import (
	"encoding/json"
	"log/slog"
)

// The types of secrets in requests and answers of the management API. Whatever they are part of, what is printed or logged
// of them is Redacted. The mark x-secret in the OpenAPI document says which field is of which.

// GivenSecret is a secret as a client gives it, "x-secret: given". JSON has it as it is, since clients send it so; no answer
// has one.
type GivenSecret string

// RawSecret is a GivenSecret that may be null, as JSON; nil if it was not given.
type RawSecret json.RawMessage

// MaskedSecret stands where a stored secret would, "x-secret: masked": whatever it holds, JSON has Redacted. Empty stays
// empty, since there is no secret then.
type MaskedSecret string

// NewSecret is a secret that was just made, "x-secret: new": the one answer that makes it shows it. JSON of one that holds
// nothing is Redacted.
type NewSecret string

// MarshalJSON implements json.Marshaler.
func (s MaskedSecret) MarshalJSON() ([]byte, error) {
	if s == "" {
		return []byte(`""`), nil
	}
	return json.Marshal(Redacted)
}

// MarshalJSON implements json.Marshaler.
func (s NewSecret) MarshalJSON() ([]byte, error) {
	if s == "" {
		return json.Marshal(Redacted)
	}
	return json.Marshal(string(s))
}

// MarshalJSON implements json.Marshaler.
func (s RawSecret) MarshalJSON() ([]byte, error) { return json.RawMessage(s).MarshalJSON() }

// UnmarshalJSON implements json.Unmarshaler.
func (s *RawSecret) UnmarshalJSON(text []byte) error {
	*s = append((*s)[:0], text...)
	return nil
}

func (GivenSecret) String() string  { return Redacted }
func (RawSecret) String() string    { return Redacted }
func (MaskedSecret) String() string { return Redacted }
func (NewSecret) String() string    { return Redacted }

// GoString implements fmt.GoStringer.
func (GivenSecret) GoString() string { return Redacted }

// GoString implements fmt.GoStringer.
func (RawSecret) GoString() string { return Redacted }

// GoString implements fmt.GoStringer.
func (MaskedSecret) GoString() string { return Redacted }

// GoString implements fmt.GoStringer.
func (NewSecret) GoString() string { return Redacted }

// LogValue implements slog.LogValuer.
func (GivenSecret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// LogValue implements slog.LogValuer.
func (RawSecret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// LogValue implements slog.LogValuer.
func (MaskedSecret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// LogValue implements slog.LogValuer.
func (NewSecret) LogValue() slog.Value { return slog.StringValue(Redacted) }
