// Package strictjson reads JSON that a person wrote and that decides who may see what.
//
// encoding/json is made to be lenient: it takes the last of two equal keys, matches keys whatever their case,
// replaces broken UTF-8 and reads null as "leave it". In a scope document each of these is a grant that says
// something other than what its author reads. This package decodes into a tree that keeps every position, refuses
// all of the above, and collects problems instead of stopping at the first, so that a document is mended in one go.
//
// It is a leaf, shared by the scope document and by import lines.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// Kind is the type of a JSON value.
type Kind int

// The six kinds of RFC 8259 section 3, with true and false as one.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

// String names the kind as a sentence wants it: "must be a string, not an array".
func (k Kind) String() string {
	switch k {
	case Bool:
		return "a boolean"
	case Number:
		return "a number"
	case String:
		return "a string"
	case Array:
		return "an array"
	case Object:
		return "an object"
	default:
		return "null"
	}
}

// Value is one value of a document with its place in it.
type Value struct {
	Kind    Kind
	Path    string // JSON path; "$" for the document itself
	Text    string // a decoded string, or a number as it was written
	True    bool   // a boolean's value
	Items   []Value
	Members []Member // in document order; a repeated key is reported and appears once
	Raw     []byte   // the bytes of the value in the document; never written to
	Start   int      // offset of the first byte
	End     int      // offset after the last byte
}

// Member is one key of an object and its value.
type Member struct {
	Name  string
	Value Value
	Start int // offset of the key
}

// Get finds a member by its exact name.
func (v Value) Get(name string) (Value, bool) {
	for _, m := range v.Members {
		if m.Name == name {
			return m.Value, true
		}
	}
	return Value{}, false
}

// Limits bound what one document may cost.
type Limits struct {
	Bytes int // longest document
	Depth int // deepest nesting of arrays and objects; the document itself is 1
	Nodes int // most values of any kind; a tree takes far more memory than its text
	// Opaque is the path of a document inside of the document, which has its own reader: of such a value only Raw and
	// its place are kept, and nothing is reported of what is in it.
	Opaque string
}

// Parse decodes exactly one JSON value. Problems go to report; ok is false when there is no tree to look at:
// the document is too long, not UTF-8, not JSON, nested too deeply, made of too many values, or followed by something.
func Parse(doc []byte, limits Limits, report *Report) (v Value, ok bool) {
	if len(doc) > limits.Bytes {
		report.Add(0, Root, "is %d bytes long; at most %d are read", len(doc), limits.Bytes)
		return Value{}, false
	}
	if !utf8.Valid(doc) {
		report.Add(0, Root, "is not valid UTF-8")
		return Value{}, false
	}
	// One pass of the standard scanner settles the grammar, trailing data included, so that the token walk
	// below meets only well-formed input.
	var whole json.RawMessage
	if err := json.Unmarshal(doc, &whole); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			report.Add(int(syntax.Offset), Root, "is not one JSON value: %v at byte %d", syntax, syntax.Offset)
		} else {
			report.Add(0, Root, "is not one JSON value")
		}
		return Value{}, false
	}
	w := walker{doc: doc, limits: limits, report: report, dec: json.NewDecoder(bytes.NewReader(doc))}
	w.dec.UseNumber()
	v = w.value(Root, 1)
	return v, !w.broken
}

// walker turns tokens into a tree.
type walker struct {
	doc    []byte
	dec    *json.Decoder
	limits Limits
	report *Report
	nodes  int
	broken bool // stop: what follows cannot be trusted
}

// next reads one token and says where it stands.
func (w *walker) next() (tok json.Token, start, end int) {
	start = int(w.dec.InputOffset())
	for start < len(w.doc) && bytes.IndexByte([]byte(" \t\r\n,:"), w.doc[start]) >= 0 {
		start++
	}
	tok, err := w.dec.Token()
	if err != nil && !w.broken {
		// Cannot happen after the scanner's pass; if the two ever disagree the document is refused.
		w.broken = true
		w.report.Add(start, Root, "is not one JSON value")
	}
	return tok, start, max(start, int(w.dec.InputOffset()))
}

func (w *walker) value(path string, depth int) Value {
	if w.limits.Opaque != "" && path == w.limits.Opaque {
		return w.opaque(path)
	}
	tok, start, end := w.next()
	v := Value{Path: path, Start: start, End: end}
	if w.nodes++; w.nodes > w.limits.Nodes && !w.broken {
		w.broken = true
		w.report.Add(start, Root, "holds more than %d values", w.limits.Nodes)
		return v
	}
	switch t := tok.(type) {
	case bool:
		v.Kind, v.True = Bool, t
	case json.Number:
		v.Kind, v.Text = Number, t.String()
	case string:
		v.Kind, v.Text = String, t
		w.surrogates(path, start, end)
	case json.Delim:
		if depth > w.limits.Depth {
			w.broken = true
			w.report.Add(start, path, "is nested deeper than %d levels", w.limits.Depth)
			return v
		}
		if t == '{' {
			v.Kind = Object
			v.Members = w.members(path, depth)
		} else {
			v.Kind = Array
			v.Items = w.items(path, depth)
		}
		if !w.broken {
			_, _, v.End = w.next()
		}
	}
	v.Raw = w.doc[v.Start:v.End]
	return v
}

// opaque passes over a value without looking into it.
func (w *walker) opaque(path string) Value {
	v := Value{Path: path}
	var raw json.RawMessage
	if err := w.dec.Decode(&raw); err != nil {
		w.broken = true // as in next
		w.report.Add(int(w.dec.InputOffset()), path, "is not one JSON value")
		return v
	}
	v.End = int(w.dec.InputOffset())
	v.Start = v.End - len(raw)
	v.Raw = w.doc[v.Start:v.End]
	return v
}

func (w *walker) items(path string, depth int) []Value {
	var items []Value
	for !w.broken && w.dec.More() {
		items = append(items, w.value(Index(path, len(items)), depth+1))
	}
	return items
}

func (w *walker) members(path string, depth int) []Member {
	var members []Member
	seen := map[string]bool{}
	for !w.broken && w.dec.More() {
		tok, start, end := w.next()
		name, isKey := tok.(string)
		if !isKey {
			w.broken = true
			break
		}
		at := Key(path, name)
		w.surrogates(at, start, end)
		v := w.value(at, depth+1)
		if seen[name] {
			w.report.Add(start, at, "appears more than once in the same object")
			continue
		}
		seen[name] = true
		members = append(members, Member{Name: name, Value: v, Start: start})
	}
	return members
}

// surrogates refuses half of a UTF-16 pair written as an escape: the decoder would replace it without a word.
func (w *walker) surrogates(path string, start, end int) {
	if raw := w.doc[start:end]; bytes.Contains(raw, []byte(`\u`)) && loneSurrogate(raw) {
		w.report.Add(start, path, "holds half of a UTF-16 surrogate pair")
	}
}
