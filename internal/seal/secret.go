package seal

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// sealedText is what a secret prints as.
const sealedText = "[sealed]"

// Secret is a string that must not be shown: it prints as [sealed] under every verb of fmt, in slog, JSON and text
// encodings. Reveal gives the string; call it where the secret is used and nowhere else.
//
// It holds a pointer, so that even printing a struct with an unexported Secret in it, where fmt calls no methods,
// shows an address. Compare with Equal, not ==. The zero Secret is the empty one.
type Secret struct {
	value *string
}

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{&s} }

// Reveal gives the secret itself.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero tells whether there is no secret.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Equal compares in time that depends on the lengths only.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Format keeps the secret out of every verb; a Stringer alone would not cover %d.
func (Secret) Format(f fmt.State, _ rune) { hide(f) }

// String is [sealed].
func (Secret) String() string { return sealedText }

// GoString is [sealed].
func (Secret) GoString() string { return sealedText }

// LogValue is [sealed].
func (Secret) LogValue() slog.Value { return slog.StringValue(sealedText) }

// MarshalJSON is "[sealed]".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + sealedText + `"`), nil }

// MarshalText is [sealed].
func (Secret) MarshalText() ([]byte, error) { return []byte(sealedText), nil }

// UnmarshalText reads a secret from the environment, a flag or a JSON string. It does not round-trip, on purpose.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

func hide(f fmt.State) { _, _ = io.WriteString(f, sealedText) }
