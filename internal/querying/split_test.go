package querying

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// Splitting gives what encoding/json gives, and takes anything without harm.
func FuzzSplit(f *testing.F) {
	for _, doc := range []string{
		`{}`, ` { "a" : [ 1 , {"b":"}"} ] , "c\"" : "\\" , "" : null , "\u0064":-1.5e+9 } `, `[]`, ` [ {} , "],[" , [[]] , true ] `, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`,
		`{"a"`, `{"a":`, `{"a":}`, `{,}`, `{"a" 1}`, `{"a":1 "b":2}`, `[1`, `[,]`, `"`, `{"\`, `[1 2]`, ``,
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		_, _ = membersOf(doc)
		_, _ = elements(doc)
		if !utf8.Valid(doc) {
			return // such a document is refused before it is split
		}
		got, err := object(doc)
		var want map[string]json.RawMessage
		if json.Unmarshal(doc, &want) != nil || want == nil {
			if err == nil {
				t.Fatalf("%q is split, and is no object", doc)
			}
		} else if err == nil {
			if len(got) != len(want) {
				t.Fatalf("%q has %d members, want %d", doc, len(got), len(want))
			}
			for _, m := range got {
				if string(m.value) != string(want[m.key]) {
					t.Fatalf("%q: %q is %s, want %s", doc, m.key, m.value, want[m.key])
				}
			}
		} else if err != errTwice {
			t.Fatalf("%q: %v", doc, err)
		}
		var rows []json.RawMessage
		if json.Unmarshal(doc, &rows) != nil || rows == nil {
			return
		}
		list, err := elements(doc)
		if err != nil || len(list) != len(rows) {
			t.Fatalf("%q has %d elements, want %d: %v", doc, len(list), len(rows), err)
		}
		for i := range list {
			if string(list[i]) != string(rows[i]) {
				t.Fatalf("%q: element %d is %s, want %s", doc, i, list[i], rows[i])
			}
		}
	})
}
