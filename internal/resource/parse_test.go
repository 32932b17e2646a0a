package resource_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
)

func paths(err error) []string {
	var f *fault.Fault
	if !errors.As(err, &f) {
		return nil
	}
	var out []string
	for _, p := range f.Problems {
		out = append(out, p.Path)
	}
	return out
}

// shown flattens a row to compare it; its secret is revealed.
func shown(r resource.Row) []string {
	var out []string
	for _, v := range r.Values {
		switch data := v.Data.(type) {
		case seal.Secret:
			out = append(out, v.Field.Name+"=secret:"+data.Reveal())
		default:
			out = append(out, fmt.Sprintf("%s=%s", v.Field.Name, data))
		}
	}
	return out
}

const longKey = "sk-live-0123456789abcdef0123456789abcdef"

func TestParseRowTakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		resource scope.Resource
		line     string
		want     []string
	}{
		{"a task with defaults", scope.Tasks, `{"title":"Buy milk"}`, []string{"title=Buy milk", "body=", "status=open"}},
		{"a whole task, keys in another order", scope.Tasks, `{"status":"done","body":"two\nlines","title":"Ä"}`, []string{"title=Ä", "body=two\nlines", "status=done"}},
		{"null for what is optional", scope.Tasks, `{"title":"t","body":null,"status":null}`, []string{"title=t", "body=", "status=open"}},
		{"a note", scope.Notes, ` {"title":"n"} ` + "\r", []string{"title=n", "body="}},
		{"a memory", scope.Memory, `{"content":"c","metadata":{ "a" : [1, 2.50, {"b":null}] }}`, []string{"content=c", `metadata={"a":[1,2.50,{"b":null}]}`}},
		{"a memory with defaults", scope.Memory, `{"content":"c"}`, []string{"content=c", "metadata={}"}},
		{
			"a credential", scope.Credentials, `{"name":"db","kind":"postgres","url":"postgres://x","username":"u","metadata":{},"secret":"s3cret"}`,
			[]string{"name=db", "kind=postgres", "url=postgres://x", "username=u", "metadata={}", "secret=secret:s3cret"},
		},
		{"a credential without a secret", scope.Credentials, `{"name":"db","secret":null}`, []string{"name=db", "kind=", "url=", "username=", "metadata={}"}},
		{
			"an API key shows its prefix", scope.APIKeys, `{"name":"k","secret":"` + longKey + `"}`,
			[]string{"name=k", "service=", "key_prefix=sk-live-", "metadata={}", "secret=secret:" + longKey},
		},
		{
			"a short API key shows nothing", scope.APIKeys, `{"name":"k","secret":"tooshorttoshow"}`,
			[]string{"name=k", "service=", "key_prefix=", "metadata={}", "secret=secret:tooshorttoshow"},
		},
		{
			"a prefix that is given stays", scope.APIKeys, `{"name":"k","key_prefix":"mine","secret":"` + longKey + `"}`,
			[]string{"name=k", "service=", "key_prefix=mine", "metadata={}", "secret=secret:" + longKey},
		},
		{"an API key known by its prefix only", scope.APIKeys, `{"name":"k","key_prefix":"sk-live-"}`, []string{"name=k", "service=", "key_prefix=sk-live-", "metadata={}"}},
		{"the longest title", scope.Notes, `{"title":"` + strings.Repeat("ä", 1000) + `"}`, []string{"title=" + strings.Repeat("ä", 1000), "body="}},
		{"an escaped emoji", scope.Notes, `{"title":"\ud83d\ude00"}`, []string{"title=😀", "body="}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row, err := resource.ParseRow(tt.resource, []byte(tt.line))
			if err != nil {
				t.Fatalf("%v %v", err, paths(err))
			}
			if diff := cmp.Diff(tt.want, shown(row)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if row.Resource != tt.resource {
				t.Errorf("resource %s", row.Resource)
			}
		})
	}
}

func TestParseRowRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for _, tt := range []struct {
		name     string
		resource scope.Resource
		line     string
		want     []string
	}{
		{"nothing", scope.Tasks, ``, []string{"$"}},
		{"null", scope.Tasks, `null`, []string{"$"}},
		{"an array", scope.Tasks, `[{"title":"x"}]`, []string{"$"}},
		{"no JSON", scope.Tasks, `title: x`, []string{"$"}},
		{"two objects", scope.Tasks, `{"title":"x"}{"title":"y"}`, []string{"$"}},
		{"broken UTF-8", scope.Tasks, "{\"title\":\"\xff\"}", []string{"$"}},
		{"a lone surrogate", scope.Tasks, `{"title":"\ud83d"}`, []string{"title"}},
		{"no title", scope.Tasks, `{}`, []string{"title"}},
		{"title null", scope.Tasks, `{"title":null}`, []string{"title"}},
		{"title empty", scope.Tasks, `{"title":""}`, []string{"title"}},
		{"title blank", scope.Tasks, `{"title":" \t\n"}`, []string{"title"}},
		{"title a number", scope.Tasks, `{"title":1}`, []string{"title"}},
		{"title in another case", scope.Tasks, `{"Title":"x"}`, []string{"Title", "title"}},
		{"title too long", scope.Tasks, `{"title":"` + strings.Repeat("ä", 1001) + `"}`, []string{"title"}},
		{"title repeated", scope.Tasks, `{"title":"x","title":"y"}`, []string{"title"}},
		{"NUL in a title", scope.Tasks, `{"title":"a\u0000b"}`, []string{"title"}},
		{"body too long", scope.Notes, `{"title":"x","body":"` + strings.Repeat("x", resource.MaxTextBytes+1) + `"}`, []string{"body"}},
		{"body an object", scope.Notes, `{"title":"x","body":{}}`, []string{"body"}},
		{"a status that is no text", scope.Tasks, `{"title":"x","status":3}`, []string{"status"}},
		{"a field of another resource", scope.Notes, `{"title":"x","status":"open"}`, []string{"status"}},
		{"an id", scope.Notes, `{"id":"0192f0c1-2b3c-7d4e-8f50-61728394a5b6","owner_id":"x","title":"x"}`, []string{"id", "owner_id"}},
		{"no content", scope.Memory, `{"metadata":{}}`, []string{"content"}},
		{"metadata an array", scope.Memory, `{"content":"c","metadata":[]}`, []string{"metadata"}},
		{"metadata a string", scope.Memory, `{"content":"c","metadata":"{}"}`, []string{"metadata"}},
		{"metadata too long", scope.Memory, `{"content":"c","metadata":{"a":"` + strings.Repeat("x", resource.MaxMetadataBytes) + `"}}`, []string{"metadata"}},
		{"metadata too deep", scope.Memory, `{"content":"c","metadata":` + deep + `}`, []string{"metadata" + strings.Repeat(".a", 31)}},
		{"metadata with a repeated key", scope.Memory, `{"content":"c","metadata":{"a":{"b":1,"b":2}}}`, []string{"metadata.a.b"}},
		{"NUL deep in metadata", scope.Memory, `{"content":"c","metadata":{"a":["x","\u0000"]}}`, []string{"metadata.a[1]"}},
		{"NUL in a key of metadata", scope.Memory, `{"content":"c","metadata":{"\u0000":1}}`, []string{`metadata["\x00"]`}},
		{"a number past jsonb's range", scope.Memory, `{"content":"c","metadata":{"a":1e400000,"b":1e-20000,"c":1e99999999999999999999}}`, []string{"metadata.a", "metadata.b", "metadata.c"}},
		{"a number of many digits", scope.Memory, `{"content":"c","metadata":{"a":` + strings.Repeat("9", 65) + `}}`, []string{"metadata.a"}},
		{"too many values", scope.Memory, `{"content":"c","metadata":{"a":[` + strings.Repeat("0,", 20_000) + `0]}}`, []string{"$"}},
		{"a credential without a name", scope.Credentials, `{"secret":"x"}`, []string{"name"}},
		{"an empty secret", scope.Credentials, `{"name":"x","secret":""}`, []string{"secret"}},
		{"a secret that is no string", scope.APIKeys, `{"name":"x","secret":{"v":1}}`, []string{"secret"}},
		{"a secret too long", scope.APIKeys, `{"name":"x","secret":"` + strings.Repeat("x", resource.MaxSecretBytes+1) + `"}`, []string{"secret"}},
		{"a whole key as prefix", scope.APIKeys, `{"name":"x","key_prefix":"` + longKey + `"}`, []string{"key_prefix"}},
		{"a line too long", scope.Notes, `{"title":"x"}` + strings.Repeat(" ", resource.MaxLineBytes), []string{"$"}},
		{"all at once, in the line's order", scope.Tasks, `{"zz":1,"status":2,"body":7,"title":null}`, []string{"zz", "status", "body", "title"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row, err := resource.ParseRow(tt.resource, []byte(tt.line))
			if f := fault.From(err); f.Code != "row_invalid" || f.Kind != fault.Invalid {
				t.Fatalf("err = %v", err)
			}
			if diff := cmp.Diff(tt.want, paths(err)); diff != "" {
				t.Errorf("paths (-want +got):\n%s", diff)
			}
			if row.Values != nil {
				t.Errorf("a refused line gave a row")
			}
		})
	}
}

func TestRefusalsDoNotRepeatSecrets(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		`{"name":"x","secret":"hunter2\u0000"}`, `{"secret":"hunter2"}`, `{"name":"x","secret":["hunter2"]}`, `{"name":"x","secret":"hunter2","secret":"hunter2"}`,
		`{"name":"x","secret":"hunter2"`, `{"name":"x","secret":"hunter2"} hunter2`,
	} {
		_, err := resource.ParseRow(scope.Credentials, []byte(line))
		var f *fault.Fault
		if !errors.As(err, &f) {
			t.Fatalf("%s was taken", line)
		}
		if text := fmt.Sprintf("%v %+v", err, f.Problems); strings.Contains(text, "hunter2") {
			t.Errorf("leaked: %s", text)
		}
	}
	row, err := resource.ParseRow(scope.Credentials, []byte(`{"name":"x","secret":"hunter2"}`))
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", row, row, row); strings.Contains(text, "hunter2") {
		t.Errorf("a row prints its secret: %s", text)
	}
	if doc, err := json.Marshal(row); err != nil || strings.Contains(string(doc), "hunter2") {
		t.Errorf("a row encodes its secret: %s, %v", doc, err)
	}
}

func TestParsePatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		resource scope.Resource
		doc      string
		want     []string // fields, when it is taken
		problems []string // paths, when it is not
	}{
		{"one field", scope.Tasks, `{"status":"done"}`, []string{"status=done"}, nil},
		{"in the catalogue's order", scope.Tasks, `{"body":"b","title":"t"}`, []string{"title=t", "body=b"}, nil},
		{"null goes back to the default", scope.Tasks, `{"status":null,"body":null}`, []string{"body=", "status=open"}, nil},
		{"metadata null", scope.Memory, `{"metadata":null}`, []string{"metadata={}"}, nil},
		{"a new key brings its prefix", scope.APIKeys, `{"secret":"` + longKey + `"}`, []string{"key_prefix=sk-live-", "secret=secret:" + longKey}, nil},
		{"a key taken away takes its prefix", scope.APIKeys, `{"secret":null}`, []string{"key_prefix=", "secret=secret:"}, nil},
		{"a secret taken away", scope.Credentials, `{"secret":null}`, []string{"secret=secret:"}, nil},
		{"a name alone leaves the secret", scope.APIKeys, `{"name":"n"}`, []string{"name=n"}, nil},
		{"nothing", scope.Tasks, `{}`, nil, []string{"$"}},
		{"an unknown field alone", scope.Tasks, `{"owner_id":"x"}`, nil, []string{"owner_id"}},
		{"a required field null", scope.Tasks, `{"title":null}`, nil, []string{"title"}},
		{"a required field empty", scope.Memory, `{"content":""}`, nil, []string{"content"}},
		{"two problems", scope.Tasks, `{"body":1,"status":2}`, nil, []string{"body", "status"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			row, err := resource.ParsePatch(tt.resource, []byte(tt.doc))
			if diff := cmp.Diff(tt.problems, paths(err)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, shown(row)); diff != "" {
				t.Errorf("row (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnknownResourcesHaveNoRows(t *testing.T) {
	t.Parallel()
	for _, parse := range []func(scope.Resource, []byte) (resource.Row, error){resource.ParseRow, resource.ParsePatch} {
		if _, err := parse("users", []byte(`{}`)); !errors.Is(err, resource.ErrUnknown) {
			t.Errorf("err = %v", err)
		}
	}
}

// drawRow draws the fields of a right row, as a caller would write them.
func drawRow(t *rapid.T, r scope.Resource) map[string]any {
	row := map[string]any{}
	for _, f := range resource.Fields(r) {
		if !f.Required && rapid.Bool().Draw(t, "leave out "+f.Name) {
			continue
		}
		text := rapid.StringMatching(`[a-zäö😀"\\\n/<]{1,12}x`)
		switch {
		case f.Kind == resource.JSON:
			row[f.Name] = rapid.MapOf(text, rapid.Int()).Draw(t, f.Name)
		default:
			row[f.Name] = text.Draw(t, f.Name)
		}
	}
	return row
}

func TestRightRowsKeepTheirValues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.SampledFrom(scope.All()).Draw(t, "resource")
		given := drawRow(t, r)
		line, err := json.Marshal(given)
		if err != nil {
			t.Fatal(err)
		}
		row, err := resource.ParseRow(r, line)
		if err != nil {
			t.Fatalf("%s: %v %v", line, err, paths(err))
		}
		for _, f := range resource.Fields(r) {
			want, has := given[f.Name]
			if row.Has(f.Name) != (has || !f.WriteOnly) {
				t.Fatalf("%s: Has = %v", f.Name, row.Has(f.Name))
			}
			if !has {
				continue
			}
			switch {
			case f.WriteOnly:
				if s, ok := row.Secret(); !ok || s.Reveal() != want {
					t.Fatalf("%s changed", f.Name)
				}
			case f.Kind == resource.JSON:
				var got map[string]int
				if err := json.Unmarshal(row.JSON(f.Name), &got); err != nil || !cmp.Equal(want, any(got)) {
					t.Fatalf("%s = %s, %v; want %v", f.Name, row.JSON(f.Name), err, want)
				}
			default:
				if got := row.Text(f.Name); got != want {
					t.Fatalf("%s = %q, want %q", f.Name, got, want)
				}
			}
		}
	})
}

func fuzzSeeds(f *testing.F) {
	for i, doc := range []string{
		`{"title":"x","status":"done"}`, `{"title":"x","body":null}`, `{"content":"c","metadata":{"a":[1e5,"\u0000"]}}`,
		`{"name":"n","secret":"s"}`, `{"name":"n","secret":"` + longKey + `"}`, `{}`, `{"a":1,"a":2}`,
	} {
		f.Add(uint8(i), []byte(doc))
	}
}

// checkRow holds for whatever ParseRow and ParsePatch take.
func checkRow(t *testing.T, row resource.Row) {
	t.Helper()
	for _, v := range row.Values {
		switch data := v.Data.(type) {
		case string:
			if strings.ContainsRune(data, 0) || len(data) > v.Field.MaxBytes {
				t.Fatalf("%s = %q", v.Field.Name, data)
			}
		case json.RawMessage:
			var object map[string]any
			if err := json.Unmarshal(data, &object); err != nil || object == nil {
				t.Fatalf("%s = %s", v.Field.Name, data)
			}
		case seal.Secret:
			if !v.Field.WriteOnly {
				t.Fatalf("%s is a secret", v.Field.Name)
			}
		default:
			t.Fatalf("%s is a %T", v.Field.Name, data)
		}
	}
}

func FuzzParseRow(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, which uint8, line []byte) {
		r := scope.All()[int(which)%len(scope.All())]
		row, err := resource.ParseRow(r, line)
		if err != nil {
			if !errors.Is(err, resource.ErrRowInvalid) || len(paths(err)) == 0 {
				t.Fatal(err)
			}
			return
		}
		checkRow(t, row)
		for _, field := range resource.Fields(r) {
			if !row.Has(field.Name) && !field.WriteOnly || field.Required && strings.TrimSpace(row.Text(field.Name)) == "" {
				t.Fatalf("%s is missing from %v", field.Name, row)
			}
		}
	})
}

func FuzzParsePatch(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, which uint8, doc []byte) {
		r := scope.All()[int(which)%len(scope.All())]
		row, err := resource.ParsePatch(r, doc)
		if err != nil {
			if !errors.Is(err, resource.ErrRowInvalid) || len(paths(err)) == 0 {
				t.Fatal(err)
			}
			return
		}
		checkRow(t, row)
		if len(row.Values) == 0 {
			t.Fatalf("an empty patch was taken: %q", doc)
		}
		names := make([]string, 0, len(row.Values))
		for _, v := range row.Values {
			names = append(names, v.Field.Name)
		}
		if len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Fatalf("fields twice: %v", names)
		}
	})
}
