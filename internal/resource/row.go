package resource

import (
	"encoding/json"
	"slices"
	"unicode/utf8"

	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
)

// The names of fields that stores treat apart.
const (
	SecretField    = "secret"
	KeyPrefixField = "key_prefix"
)

// How much of an API key may be shown, and how long a key must be to show any of it.
const (
	keyPrefixRunes    = 8
	minPrefixedSecret = 4 * keyPrefixRunes
	maxKeyPrefixRunes = 16
)

// Row is a checked row, or the changed part of one, in the order of the catalogue.
type Row struct {
	Resource scope.Resource
	Values   []Value
}

// Value is one field's value. Data is a string for Text, a json.RawMessage (a compact object) for JSON, a
// seal.Secret for a write-only field.
type Value struct {
	Field Field
	Data  any
}

// Has tells whether the row says anything about a field. A row from ParseRow does about every field but the secret.
func (r Row) Has(name string) bool {
	_, ok := r.lookup(name)
	return ok
}

// Text gives a text field; empty when the row does not have it.
func (r Row) Text(name string) string {
	v, _ := r.lookup(name)
	s, _ := v.Data.(string)
	return s
}

// JSON gives a JSON field; nil when the row does not have it.
func (r Row) JSON(name string) json.RawMessage {
	v, _ := r.lookup(name)
	doc, _ := v.Data.(json.RawMessage)
	return doc
}

// Secret gives the write-only field. ok is false when the row says nothing about it; an empty secret with ok takes
// the stored one away.
func (r Row) Secret() (s seal.Secret, ok bool) {
	v, ok := r.lookup(SecretField)
	s, _ = v.Data.(seal.Secret)
	return s, ok
}

func (r Row) lookup(name string) (Value, bool) {
	i := slices.IndexFunc(r.Values, func(v Value) bool { return v.Field.Name == name })
	if i < 0 {
		return Value{}, false
	}
	return r.Values[i], true
}

// KeyPrefix is the part of an API key that stays readable, so that its owner knows which one a row means: the
// first eight characters of a key that is at least four times as long, else nothing.
func KeyPrefix(secret seal.Secret) string {
	s := secret.Reveal()
	if utf8.RuneCountInString(s) < minPrefixedSecret {
		return ""
	}
	return string([]rune(s)[:keyPrefixRunes])
}
