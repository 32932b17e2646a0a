// Package resource is the catalogue of what a gateway holds: the fields of each resource, and the strict reading
// of rows that come from outside, as import lines and as patches.
//
// It is the one list of field names: migrations, wire documents and the import all follow it. It is pure: sealing
// and hashing of secrets happen where a row is stored.
package resource

import (
	"slices"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope"
)

// Verb is what can be asked of a peer.
type Verb string

// The verbs. Capabilities is about the gateway, the others about one resource.
const (
	List         Verb = "list"
	Get          Verb = "get"
	Search       Verb = "search"
	Capabilities Verb = "capabilities"
)

// Verbs lists every verb.
func Verbs() []Verb { return []Verb{List, Get, Search, Capabilities} }

// ReadsRows tells whether an answer to the verb has rows in it.
func (v Verb) ReadsRows() bool { return v == List || v == Get || v == Search }

// ErrUnknown is the name of a resource that does not exist.
var ErrUnknown = &fault.Fault{
	Kind:   fault.NotFound,
	Code:   "resource_unknown",
	Detail: "there is no such resource",
	Hint:   "the resources are tasks, notes, memory, credentials and api_keys",
}

// Parse reads the name of a resource, as it stands in a path or an argument.
func Parse(s string) (scope.Resource, error) {
	if !scope.Known(s) {
		return "", ErrUnknown
	}
	return scope.Resource(s), nil
}

// Kind is the type of a field's values.
type Kind string

// The kinds.
const (
	Text Kind = "text" // a string
	JSON Kind = "json" // an object
)

// The bounds of a row. An answer is cut at 8 MiB, so one row stays far below.
const (
	MaxLineBytes     = 1 << 20
	MaxTitleRunes    = 1000
	MaxTextBytes     = 256 << 10
	MaxMetadataBytes = 64 << 10
	MaxSecretBytes   = 16 << 10
)

// Field is one field of a resource.
type Field struct {
	Name      string
	Kind      Kind
	Required  bool   // present and not empty in every row
	WriteOnly bool   // taken and never shown: the secret of a sensitive resource
	MaxBytes  int    // longest value in bytes
	MaxRunes  int    // longest value in characters; zero when only bytes count
	Default   string // of a text field that the row does not have
}

// Fields lists the fields of r in the order they are documented, stored and printed in; nil for an unknown
// resource. The list is the caller's own.
func Fields(r scope.Resource) []Field {
	switch r {
	case scope.Tasks:
		status := line("status") // free text: every task tool has states of its own
		status.Default = "open"
		return []Field{required("title"), text("body"), status}
	case scope.Notes:
		return []Field{required("title"), text("body")}
	case scope.Memory:
		content := text("content")
		content.Required = true
		return []Field{content, metadata()}
	case scope.Credentials:
		return []Field{required("name"), line("kind"), line("url"), line("username"), metadata(), secret()}
	case scope.APIKeys:
		prefix := line(KeyPrefixField)
		prefix.MaxRunes = maxKeyPrefixRunes
		return []Field{required("name"), line("service"), prefix, metadata(), secret()}
	}
	return nil
}

// FieldOf finds one field of r by name.
func FieldOf(r scope.Resource, name string) (Field, bool) {
	fields := Fields(r)
	i := slices.IndexFunc(fields, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return fields[i], true
}

// Shown lists the fields of r that answers carry: all but the secret.
func Shown(r scope.Resource) []Field {
	return slices.DeleteFunc(Fields(r), func(f Field) bool { return f.WriteOnly })
}

func text(name string) Field { return Field{Name: name, Kind: Text, MaxBytes: MaxTextBytes} }

func line(name string) Field {
	return Field{Name: name, Kind: Text, MaxBytes: 4 * MaxTitleRunes, MaxRunes: MaxTitleRunes}
}

func required(name string) Field {
	f := line(name)
	f.Required = true
	return f
}

func metadata() Field { return Field{Name: "metadata", Kind: JSON, MaxBytes: MaxMetadataBytes} }

func secret() Field {
	return Field{Name: SecretField, Kind: Text, WriteOnly: true, MaxBytes: MaxSecretBytes}
}
