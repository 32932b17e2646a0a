package resource

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
	"github.com/mosaicstack/gateway/internal/seal"
)

// limits bound one line; metadata's own content gets all but one level of the depth.
func limits() strictjson.Limits {
	return strictjson.Limits{Bytes: MaxLineBytes, Depth: 32, Nodes: 20_000}
}

// ErrRowInvalid is an import line or a patch that is refused. Its problems name every field that is wrong.
var ErrRowInvalid = &fault.Fault{
	Kind:   fault.Invalid,
	Code:   "row_invalid",
	Detail: "the row is refused",
	Hint:   "one JSON object per row, with the fields of its resource and nothing else",
}

// ParseRow reads one import line, a whole row. Fields that are left out or null take their default: an empty text,
// an empty object, the first value of an enum; a secret that is left out is absent from the row. An API key's
// key_prefix is taken from its secret when the line does not give one.
//
// Unknown and repeated keys, wrong types, missing, empty or null required fields, values that are too long, broken
// UTF-8 and NUL characters, which PostgreSQL cannot hold, are refused: the error is a fault row_invalid that lists
// all problems in the order of the line.
func ParseRow(r scope.Resource, line []byte) (Row, error) { return parse(r, line, false) }

// ParsePatch reads a partial row with at least one field. A null optional field goes back to its default; a null
// secret takes the stored one away.
func ParsePatch(r scope.Resource, doc []byte) (Row, error) { return parse(r, doc, true) }

func parse(r scope.Resource, doc []byte, patch bool) (Row, error) {
	fields := Fields(r)
	if fields == nil {
		return Row{}, ErrUnknown
	}
	p := parser{report: &strictjson.Report{}, fields: fields, patch: patch}
	row := Row{Resource: r}
	if root, ok := strictjson.Parse(doc, limits(), p.report); ok {
		row.Values = p.row(root)
	}
	problems := p.report.Problems()
	switch len(problems) {
	case 0:
		return row, nil
	case 1:
		return Row{}, ErrRowInvalid.With("the row is refused: %s %s", problems[0].Path, problems[0].Detail).Listing(problems)
	default:
		return Row{}, ErrRowInvalid.With("the row has %d problems", len(problems)).Listing(problems)
	}
}

type parser struct {
	report *strictjson.Report
	fields []Field
	patch  bool
}

func (p parser) row(root strictjson.Value) []Value {
	if root.Kind != strictjson.Object {
		p.report.Wrong(root, strictjson.Object)
		return nil
	}
	for _, m := range root.Members {
		if !slices.ContainsFunc(p.fields, func(f Field) bool { return f.Name == m.Name }) {
			p.report.Add(m.Start, m.Value.Path, "is not a field of this resource")
		}
	}
	values := make([]Value, 0, len(p.fields))
	for _, f := range p.fields {
		v, given := root.Get(f.Name)
		switch {
		case given && v.Kind == strictjson.Null && f.Required:
			p.report.Add(v.Start, v.Path, "is required and must not be null")
		case given && v.Kind == strictjson.Null:
			if !f.WriteOnly || p.patch {
				values = append(values, Value{f, f.zero()})
			}
		case given:
			values = append(values, Value{f, p.value(f, v)})
		case p.patch || f.WriteOnly:
		case f.Required:
			p.report.Add(root.End, f.Name, "is required")
		default:
			values = append(values, Value{f, f.zero()})
		}
	}
	if p.patch && len(root.Members) == 0 {
		p.report.Add(root.Start, root.Path, "must name at least one field")
	}
	return p.prefixed(values)
}

// zero is the default of an optional field.
func (f Field) zero() any {
	switch {
	case f.WriteOnly:
		return seal.Secret{}
	case f.Kind == JSON:
		return json.RawMessage("{}")
	default:
		return f.Default
	}
}

func (p parser) value(f Field, v strictjson.Value) any {
	if f.Kind == JSON {
		return p.object(f, v)
	}
	if v.Kind != strictjson.String {
		p.report.Wrong(v, strictjson.String)
		return nil
	}
	p.noNUL(v)
	switch {
	case f.WriteOnly && v.Text == "":
		p.report.Add(v.Start, v.Path, "must not be empty: leave it out")
	case f.Required && strings.TrimSpace(v.Text) == "":
		p.report.Add(v.Start, v.Path, "is required and must not be empty")
	case f.MaxRunes > 0 && utf8.RuneCountInString(v.Text) > f.MaxRunes:
		p.report.Add(v.Start, v.Path, "has %d characters; at most %d are allowed", utf8.RuneCountInString(v.Text), f.MaxRunes)
	case len(v.Text) > f.MaxBytes:
		p.report.Add(v.Start, v.Path, "is %d bytes long; at most %d are allowed", len(v.Text), f.MaxBytes)
	}
	if f.WriteOnly {
		return seal.NewSecret(v.Text)
	}
	return v.Text
}

// object keeps a JSON object as it was written, without its white space, once PostgreSQL's jsonb can hold it.
func (p parser) object(f Field, v strictjson.Value) any {
	if v.Kind != strictjson.Object {
		p.report.Wrong(v, strictjson.Object)
		return nil
	}
	p.storable(v)
	var compact bytes.Buffer
	if err := json.Compact(&compact, v.Raw); err != nil {
		p.report.Add(v.Start, v.Path, "is not a JSON object") // not reachable: the line has been parsed
	}
	if compact.Len() > f.MaxBytes {
		p.report.Add(v.Start, v.Path, "is %d bytes long; at most %d are allowed", compact.Len(), f.MaxBytes)
	}
	return json.RawMessage(compact.Bytes())
}

// storable refuses, at any depth, what jsonb refuses: NUL in keys and strings, and numbers past its range.
func (p parser) storable(v strictjson.Value) {
	switch v.Kind {
	case strictjson.String:
		p.noNUL(v)
	case strictjson.Number:
		if !storableNumber(v.Text) {
			p.report.Add(v.Start, v.Path, "is a number with too many digits or too large an exponent")
		}
	case strictjson.Array:
		for _, item := range v.Items {
			p.storable(item)
		}
	case strictjson.Object:
		for _, m := range v.Members {
			if strings.ContainsRune(m.Name, 0) {
				p.report.Add(m.Start, m.Value.Path, `has a NUL character (\u0000) in its key`)
			}
			p.storable(m.Value)
		}
	case strictjson.Null, strictjson.Bool:
	}
}

func (p parser) noNUL(v strictjson.Value) {
	if strings.ContainsRune(v.Text, 0) {
		p.report.Add(v.Start, v.Path, `holds a NUL character (\u0000)`)
	}
}

// storableNumber keeps numbers to 64 characters and exponents to those of a float64; jsonb holds somewhat more,
// but few readers do.
func storableNumber(literal string) bool {
	const most, maxExponent = 64, 308
	if len(literal) > most {
		return false
	}
	i := strings.IndexAny(literal, "eE")
	if i < 0 {
		return true
	}
	exponent, err := strconv.Atoi(literal[i+1:])
	return err == nil && exponent >= -maxExponent && exponent <= maxExponent
}

// prefixed keeps an API key's prefix in step with its secret: unless the row gives a prefix, a new secret brings its
// own along, in a patch too, and a secret that is taken away takes it away.
func (p parser) prefixed(values []Value) []Value {
	row := Row{Values: values}
	s, ok := row.Secret()
	at := slices.IndexFunc(p.fields, func(f Field) bool { return f.Name == KeyPrefixField })
	if !ok || at < 0 || row.Text(KeyPrefixField) != "" {
		return values
	}
	out := make([]Value, 0, len(values)+1)
	for _, f := range p.fields {
		if f.Name == KeyPrefixField {
			out = append(out, Value{f, KeyPrefix(s)})
		} else if v, ok := row.lookup(f.Name); ok {
			out = append(out, v)
		}
	}
	return out
}
