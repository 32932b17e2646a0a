package strictjson_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
)

func limits() strictjson.Limits { return strictjson.Limits{Bytes: 1 << 16, Depth: 8, Nodes: 1000} }

func at(path, detail string) fault.Problem { return fault.Problem{Path: path, Detail: detail} }

func TestProblemsNameTheirPlace(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, doc string
		want      []fault.Problem
	}{
		{"right", `{"a":[1,"x",true,null,{}]}`, nil},
		{"white space around", " \n\t{ \"a\" : 1 }\r\n ", nil},
		{"empty", ``, []fault.Problem{at("$", "is not one JSON value: unexpected end of JSON input at byte 0")}},
		{"cut short", `{"a":`, []fault.Problem{at("$", "is not one JSON value: unexpected end of JSON input at byte 5")}},
		{"trailing data", `{} {}`, []fault.Problem{at("$", "is not one JSON value: invalid character '{' after top-level value at byte 4")}},
		{"trailing comma", `[1,]`, []fault.Problem{at("$", "is not one JSON value: invalid character ']' looking for beginning of value at byte 4")}},
		{"comment", `{} // no`, []fault.Problem{at("$", "is not one JSON value: invalid character '/' after top-level value at byte 4")}},
		{"byte order mark", "\uFEFF{}", []fault.Problem{at("$", "is not one JSON value: invalid character 'ï' looking for beginning of value at byte 1")}},
		{"broken UTF-8", "{\"a\":\"\xff\"}", []fault.Problem{at("$", "is not valid UTF-8")}},
		{"repeated key", `{"a":1,"b":{"c":1,"c":2},"a":3}`, []fault.Problem{
			at("b.c", "appears more than once in the same object"), at("a", "appears more than once in the same object"),
		}},
		{"repeated key, spelled differently", `{"a":1,"\u0061":2}`, []fault.Problem{at("a", "appears more than once in the same object")}},
		{"keys that differ in case are different", `{"a":1,"A":2}`, nil},
		{"lone surrogate in a value", `{"a":["ok","\ud83d"]}`, []fault.Problem{at("a[1]", "holds half of a UTF-16 surrogate pair")}},
		{"low surrogate first", `["\ude00\ud83d"]`, []fault.Problem{at("$[0]", "holds half of a UTF-16 surrogate pair")}},
		{"lone surrogate in a key", `{"\udc00":1}`, []fault.Problem{at(`$["\ufffd"]`, "holds half of a UTF-16 surrogate pair")}},
		{"surrogate pair", `["\uD83D\uDE00 \\ud83d"]`, nil},
		{"deepest allowed", `[[[[[[[[1]]]]]]]]`, nil},
		{"too deep", `[0,[[[[[[[[1]]]]]]]]]`, []fault.Problem{at("$[1][0][0][0][0][0][0][0]", "is nested deeper than 8 levels")}},
		{"strange key", `{"a b\n":{"x":1,"x":1}}`, []fault.Problem{at(`$["a b\n"].x`, "appears more than once in the same object")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var report strictjson.Report
			strictjson.Parse([]byte(tt.doc), limits(), &report)
			if diff := cmp.Diff(tt.want, report.Problems()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDocumentsThatCostTooMuchAreNotWalked(t *testing.T) {
	t.Parallel()
	var report strictjson.Report
	if _, ok := strictjson.Parse([]byte(`"`+strings.Repeat("x", 1<<16)+`"`), limits(), &report); ok {
		t.Error("a document over the byte limit was read")
	}
	if _, ok := strictjson.Parse([]byte(`[`+strings.Repeat("0,", 1000)+`0]`), limits(), &report); ok {
		t.Error("a document over the node limit was read")
	}
	want := []fault.Problem{
		{Path: "$", Detail: "is 65538 bytes long; at most 65536 are read"},
		{Path: "$", Detail: "holds more than 1000 values"},
	}
	if diff := cmp.Diff(want, report.Problems()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestTheTreeKeepsValuesAndPlaces(t *testing.T) {
	t.Parallel()
	const doc = `{ "n": -1.50e+2, "s": "a\"b", "list": [true, null] }`
	var report strictjson.Report
	root, ok := strictjson.Parse([]byte(doc), limits(), &report)
	if !ok {
		t.Fatal(report.Problems())
	}
	if string(root.Raw) != doc || root.Path != "$" || root.Kind != strictjson.Object {
		t.Errorf("root = %+v", root)
	}
	n, _ := root.Get("n")
	if n.Kind != strictjson.Number || n.Text != "-1.50e+2" {
		t.Errorf("n = %+v: a number keeps its spelling", n)
	}
	s, _ := root.Get("s")
	if s.Text != `a"b` || string(s.Raw) != `"a\"b"` {
		t.Errorf("s = %+v", s)
	}
	list, _ := root.Get("list")
	if len(list.Items) != 2 || !list.Items[0].True || list.Items[1].Kind != strictjson.Null || string(list.Raw) != `[true, null]` {
		t.Errorf("list = %+v", list)
	}
	if _, found := root.Get("N"); found {
		t.Error("keys must match exactly")
	}
}

func TestReportsAreBoundedAndSayHowManyMoreThereAre(t *testing.T) {
	t.Parallel()
	var report strictjson.Report
	for i := range 250 {
		report.Add(250-i, strictjson.Index("a", 249-i), "is wrong")
	}
	got := report.Problems()
	if len(got) != 101 || got[0].Path != "a[0]" || got[99].Path != "a[99]" {
		t.Errorf("%d problems, first %v: want the first hundred in document order", len(got), got[0])
	}
	if got[100].Detail != "has 150 more problems" {
		t.Errorf("last problem = %v", got[100])
	}
}

func TestQuotedTextIsShortAndHarmless(t *testing.T) {
	t.Parallel()
	if got := strictjson.Quote("\x1b[2J\u202e"); got != `"\x1b[2J\u202e"` {
		t.Errorf("Quote = %s", got)
	}
	if got := strictjson.Key("$", strings.Repeat("k", 1000)); len(got) > 100 {
		t.Errorf("a path repeats %d bytes of a key", len(got))
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,{"b":null}],"a":2}`, `["\ud83d\ude00","\ud83d"]`, `[[[[[[[[[[]]]]]]]]]]`, `{"":{"":0}}`, `1e5`, "\xff", ` "x" `, `{} x`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		var report strictjson.Report
		v, ok := strictjson.Parse(doc, limits(), &report)
		if ok && !json.Valid(doc) {
			t.Fatalf("took what is not JSON: %q", doc)
		}
		if !ok && len(report.Problems()) == 0 {
			t.Fatalf("refused %q without a word", doc)
		}
		for _, p := range report.Problems() {
			if !utf8.ValidString(p.Path+p.Detail) || strings.ContainsAny(p.Path, "\x00\x1b\n") {
				t.Fatalf("a problem repeats raw input: %q", p)
			}
		}
		if ok {
			walk(t, v)
		}
	})
}

// walk checks that every value's bytes are that value.
func walk(t *testing.T, v strictjson.Value) {
	t.Helper()
	if !json.Valid(v.Raw) {
		t.Fatalf("%s: %q is not one value", v.Path, v.Raw)
	}
	for _, item := range v.Items {
		walk(t, item)
	}
	for _, m := range v.Members {
		walk(t, m.Value)
	}
}

func TestWrongKindsAreToldInWords(t *testing.T) {
	t.Parallel()
	var report strictjson.Report
	root, ok := strictjson.Parse([]byte(`[null,true,1,"s",[],{}]`), limits(), &report)
	if !ok {
		t.Fatal(report.Problems())
	}
	var want []fault.Problem
	for i, is := range []string{"null", "a boolean", "a number", "a string", "an array", "an object"} {
		report.Wrong(root.Items[i], strictjson.Object)
		want = append(want, fault.Problem{Path: strictjson.Index("$", i), Detail: "must be an object, not " + is})
	}
	if diff := cmp.Diff(want, report.Problems()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestADocumentInsideIsLeftToItsOwnReader(t *testing.T) {
	t.Parallel()
	inside := `{ "x":1, "x":2, "y":"\ud83d", "z":` + strings.Repeat("[", 20) + strings.Repeat("0,", 2000) + "0" + strings.Repeat("]", 20) + ` }`
	l := limits()
	l.Opaque = "doc"
	for _, doc := range []string{inside, "7", `"\ud83d"`, "null"} {
		var report strictjson.Report
		root, ok := strictjson.Parse([]byte(`{"a":1, "doc" : `+doc+` , "in":{"doc":{"b":1,"b":2}},"a":2}`), l, &report)
		if v, _ := root.Get("doc"); !ok || string(v.Raw) != doc {
			t.Errorf("read: %t, %.80q, want %.80q", ok, v.Raw, doc)
		}
		want := []fault.Problem{at("in.doc.b", "appears more than once in the same object"), at("a", "appears more than once in the same object")}
		if diff := cmp.Diff(want, report.Problems()); diff != "" {
			t.Errorf("problems (-want +got):\n%s", diff)
		}
	}
}
