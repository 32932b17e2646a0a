package querying

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestRowsAreMarkedWithTheirSource(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ row, want string }{
		"a row":                 {`{"id":"1","title":"x"}`, `{"id":"1","title":"x","source":"work"}`},
		"an empty row":          {`{}`, `{"source":"work"}`},
		"white space":           {" {\n \"id\" : 1 \t} ", "{\n \"id\" : 1,\"source\":\"work\"}"},
		"numbers stay":          {`{"n":1.00000000000000000001e400}`, `{"n":1.00000000000000000001e400,"source":"work"}`},
		"escapes stay":          {`{"t":"\u2028<\/script>"}`, `{"t":"\u2028<\/script>","source":"work"}`},
		"nested source":         {`{"metadata":{"source":"x"}}`, `{"metadata":{"source":"x"},"source":"work"}`},
		"a forged source":       {`{"source":"local","id":1}`, `{"id":1,"source":"work"}`},
		"only a forged source":  {`{"source":"local"}`, `{"source":"work"}`},
		"a forged object":       {`{"id":1,"source":{"a":[1,2]}}`, `{"id":1,"source":"work"}`},
		"forged by escapes":     {`{"\u0073ource":"local","id":1}`, `{"id":1,"source":"work"}`},
		"forged in upper case":  {`{"Source":"local","id":1,"SOURCE":2}`, `{"id":1,"source":"work"}`},
		"forged by case folds":  {`{"ſource":"local","id":1}`, `{"id":1,"source":"work"}`},
		"other keys stay":       {`{"sources":1,"source_":2,"resource":3}`, `{"sources":1,"source_":2,"resource":3,"source":"work"}`},
		"keys that need quotes": {`{"source":1,"a\"b\u0000":2}`, `{"a\"b\u0000":2,"source":"work"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := mark(json.RawMessage(test.row), "work")
			if err != nil || string(got) != test.want {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

func TestReadPage(t *testing.T) {
	t.Parallel()
	const info = `"page":{"limit":2,"capped":true,"next_cursor":"abc"}`
	got, err := readPage([]byte(`{"data":[{"id":1},{"id":2,"source":"local"}],`+info+`,"notice":"later releases may say more"}`), "work")
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"data":[{"id":1,"source":"work"},{"id":2,"source":"work"}],"sources":[{"name":"work","status":"ok","rows":2}],` +
		`"page":{"limit":2,"capped":true,"next_cursor":"abc"}}`
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	empty, err := readPage([]byte(`{"page":{"limit":1,"capped":false,"next_cursor":null},"data":[]}`), "work")
	if err != nil || empty.Page.NextCursor != nil {
		t.Errorf("%+v, %v", empty, err)
	}
	if out, err := json.Marshal(empty); err != nil || !strings.Contains(string(out), `"data":[]`) || !strings.Contains(string(out), `"next_cursor":null`) {
		t.Errorf("%s, %v", out, err)
	}
}

func TestReadPageRefusesEverythingElse(t *testing.T) {
	t.Parallel()
	const info = `"page":{"limit":2,"capped":false,"next_cursor":null}`
	for name, body := range map[string]string{
		"nothing":                     ``,
		"null":                        `null`,
		"an array":                    `[]`,
		"no page":                     `{"data":[]}`,
		"no data":                     `{` + info + `}`,
		"null data":                   `{"data":null,` + info + `}`,
		"data that is an object":      `{"data":{},` + info + `}`,
		"a row that is null":          `{"data":[null],` + info + `}`,
		"a row that is a string":      `{"data":["{}"],` + info + `}`,
		"a row that is an array":      `{"data":[[]],` + info + `}`,
		"a row with a key twice":      `{"data":[{"id":1,"id":2}],` + info + `}`,
		"a row with two sources":      `{"data":[{"source":"a","source":"b"}],` + info + `}`,
		"data twice":                  `{"data":[],"data":[{"id":1}],` + info + `}`,
		"data in upper case":          `{"DATA":[],` + info + `}`,
		"something behind":            `{"data":[],` + info + `}{}`,
		"cut off":                     `{"data":[{"id":1},`,
		"cut off in a row":            `{"data":[{"id":`,
		"not UTF-8":                   "{\"data\":[{\"id\":\"\xff\"}]," + info + "}",
		"page that is null":           `{"data":[],"page":null}`,
		"page that is an array":       `{"data":[],"page":[]}`,
		"page without limit":          `{"data":[],"page":{"capped":false,"next_cursor":null}}`,
		"page without capped":         `{"data":[],"page":{"limit":2,"next_cursor":null}}`,
		"page without next_cursor":    `{"data":[],"page":{"limit":2,"capped":false}}`,
		"a limit that is a string":    `{"data":[],"page":{"limit":"2","capped":false,"next_cursor":null}}`,
		"a limit of zero":             `{"data":[],"page":{"limit":0,"capped":false,"next_cursor":null}}`,
		"a huge limit":                `{"data":[],"page":{"limit":1e4000,"capped":false,"next_cursor":null}}`,
		"a cursor that is a number":   `{"data":[],"page":{"limit":2,"capped":false,"next_cursor":1}}`,
		"an empty cursor":             `{"data":[],"page":{"limit":2,"capped":false,"next_cursor":""}}`,
		"a cursor with a control":     `{"data":[],"page":{"limit":2,"capped":false,"next_cursor":"a\u001b[2J"}}`,
		"a cursor without end":        `{"data":[],"page":{"limit":2,"capped":false,"next_cursor":"` + strings.Repeat("a", 2049) + `"}}`,
		"more rows than there are":    `{"data":[` + strings.Repeat(`{},`, 10000) + `{}],` + info + `}`,
		"nesting without end":         `{"data":[` + strings.Repeat(`[`, 20000),
		"a row of nesting":            `{"data":[{"a":` + strings.Repeat(`{"a":`, 10001) + `1` + strings.Repeat(`}`, 10001) + `}],` + info + `}`,
		"HTML":                        `<html></html>`,
		"a row with a trailing comma": `{"data":[{"id":1,}],` + info + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := readPage([]byte(body), "work"); !errors.Is(err, ErrAnswerInvalid) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestReadRow(t *testing.T) {
	t.Parallel()
	got, err := readRow([]byte(`{"data":{"id":1,"source":"local"}}`), "work")
	if err != nil || string(got.Data) != `{"id":1,"source":"work"}` {
		t.Errorf("%s, %v", got.Data, err)
	}
	for _, body := range []string{``, `{}`, `{"data":null}`, `{"data":[]}`, `{"data":{}}{}`, `{"data":{},"data":{}}`, `{"data":"x"}`} {
		if got, err := readRow([]byte(body), "work"); !errors.Is(err, ErrAnswerInvalid) {
			t.Errorf("%q: %s, %v", body, got.Data, err)
		}
	}
}

// What is answered is JSON in which every row is from the peer, whoever reads it and however.
func FuzzReadPage(f *testing.F) {
	const info = `"page":{"limit":2,"capped":false,"next_cursor":null}`
	f.Add([]byte(`{"data":[{"id":1,"source":"local"},{}],` + info + `}`))
	f.Add([]byte(`{"data":[{"\u0073ource":"x","Source":{}}],` + info + `}`))
	f.Add([]byte("{\"data\":[{\"a\":\"\\ud800\"}]," + info + "}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := readPage(body, "work")
		if err != nil {
			if !errors.Is(err, ErrAnswerInvalid) {
				t.Fatal(err)
			}
			return
		}
		for _, row := range got.Data {
			var strict map[string]json.RawMessage
			var lenient struct{ Source string }
			if json.Unmarshal(row, &strict) != nil || json.Unmarshal(row, &lenient) != nil || lenient.Source != "work" {
				t.Fatalf("row %s", row)
			}
			for key, value := range strict {
				if strings.EqualFold(key, "source") && (key != "source" || string(value) != `"work"`) {
					t.Fatalf("row %s", row)
				}
			}
			if !utf8.Valid(row) {
				t.Fatalf("row %q", row)
			}
		}
		if _, err := json.Marshal(got); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSanitize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain words":                      "plain words",
		"red\x1b[31m\x07":                  "red[31m",
		"two\r\nlines\tof it":              "two  lines of it",
		"\u202eevil\u2066\u200b":           "evil",
		"next\u0085line\u2028sep":          "next line sep",
		"bad\xffbytes":                     "badbytes",
		"  around  ":                       "around",
		"größer 日本":                        "größer 日本",
		"\x00":                             "",
		strings.Repeat("ä", 600):           strings.Repeat("ä", 500),
		"a" + strings.Repeat("\x1b", 9999): "a",
	} {
		if got := sanitize(in, maxSaid); got != want {
			t.Errorf("%s: %q", strconv.QuoteToASCII(in), got)
		}
	}
}
