package resource_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

func TestSearchesAreReadStrictly(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ß", resource.MaxQueryRunes)
	for doc, want := range map[string]resource.SearchRequest{
		`{"query":"ship"}`: {Query: "ship", Limit: 50},
		` {"limit":10000, "mode":"semantic", "query":"a\nb \u0430"} `: {Query: "a\nb \u0430", Mode: resource.Semantic, Limit: 10000},
		`{"query":"x","mode":"lexical","limit":1}`:                    {Query: "x", Mode: resource.Lexical, Limit: 1},
		`{"query":"` + long + `","mode":"hybrid"}`:                    {Query: long, Mode: resource.Hybrid, Limit: 50},
	} {
		got, err := resource.ParseSearch([]byte(doc))
		if err != nil || got != want {
			t.Errorf("%.60s: %+v, %v", doc, got, err)
		}
	}
	for doc, want := range map[string][]string{
		``:                                     {"$"},
		`{}`:                                   {"query"},
		`[]`:                                   {"$"},
		`null`:                                 {"$"},
		`{"query":"x"} {}`:                     {"$"},
		`{"query":"x","query":"y"}`:            {"query"},
		`{"query":"x","Query":"y"}`:            {"Query"},
		`{"query":"x","cursor":null}`:          {"cursor"},
		`{"query":null}`:                       {"query"},
		`{"query":["x"]}`:                      {"query"},
		`{"query":""}`:                         {"query"},
		`{"query":" \t\u00a0\u2003"}`:          {"query"},
		`{"query":"a\u0000b"}`:                 {"query"},
		`{"query":"\ud83d"}`:                   {"query"},
		"{\"query\":\"\xff\"}":                 {"$"},
		`{"query":"` + long + `x"}`:            {"query"},
		`{"query":"x","mode":""}`:              {"mode"},
		`{"query":"x","mode":"Lexical"}`:       {"mode"},
		`{"query":"x","mode":null}`:            {"mode"},
		`{"query":"x","mode":1}`:               {"mode"},
		`{"query":"x","limit":0}`:              {"limit"},
		`{"query":"x","limit":10001}`:          {"limit"},
		`{"query":"x","limit":-1}`:             {"limit"},
		`{"query":"x","limit":1.0}`:            {"limit"},
		`{"query":"x","limit":1e2}`:            {"limit"},
		`{"query":"x","limit":"5"}`:            {"limit"},
		`{"query":"x","limit":null}`:           {"limit"},
		`{"query":"x","limit":9999999999999}`:  {"limit"},
		`{"limit":true,"mode":"x","query":{}}`: {"limit", "mode", "query"},
		`{"query":"` + strings.Repeat("x", 64<<10) + `"}`: {"$"},
	} {
		_, err := resource.ParseSearch([]byte(doc))
		f := fault.From(err)
		var got []string
		for _, p := range f.Problems {
			got = append(got, p.Path)
		}
		if !errors.Is(err, resource.ErrSearchInvalid) || !cmp.Equal(got, want) {
			t.Errorf("%.60q: problems at %v, %v, want them at %v", doc, got, err, want)
		}
	}
}

func TestTheQueryIsNotRepeated(t *testing.T) {
	t.Parallel()
	_, err := resource.ParseSearch([]byte(`{"query":"a secret plan\u0000","mode":7}`))
	if s := fmt.Sprint(err, fault.From(err).Problems); strings.Contains(s, "secret") {
		t.Errorf("told as %s", s)
	}
}

func TestEveryResourceIsSearchedByWords(t *testing.T) {
	t.Parallel()
	for _, r := range scope.All() {
		sensitive := r == scope.Credentials || r == scope.APIKeys
		want := resource.Hybrid
		if sensitive {
			want = resource.Lexical
		}
		if m, err := (resource.SearchRequest{}).ModeFor(r); err != nil || m != want {
			t.Errorf("%s: %s, %v, want %s by default", r, m, err, want)
		}
		if m, err := (resource.SearchRequest{Mode: resource.Lexical}).ModeFor(r); err != nil || m != resource.Lexical {
			t.Errorf("%s by words: %s, %v", r, m, err)
		}
		for _, mode := range []resource.Mode{resource.Semantic, resource.Hybrid} {
			if _, err := (resource.SearchRequest{Mode: mode}).ModeFor(r); errors.Is(err, resource.ErrModeUnsupported) != sensitive {
				t.Errorf("%s as %s: %v", r, mode, err)
			}
		}
	}
}

func FuzzParseSearch(f *testing.F) {
	f.Add([]byte(`{"query":"x","mode":"hybrid","limit":3}`))
	f.Add([]byte(`{"query":"\ud83d\ude00","limit":1e1}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		q, err := resource.ParseSearch(doc)
		if err != nil {
			if !errors.Is(err, resource.ErrSearchInvalid) || len(fault.From(err).Problems) == 0 {
				t.Fatalf("%q: %v", doc, err)
			}
			return
		}
		if n := len([]rune(q.Query)); n < 1 || n > resource.MaxQueryRunes || strings.ContainsRune(q.Query, 0) || q.Limit < 1 || q.Limit > 10000 {
			t.Fatalf("took %q as %+v", doc, q)
		}
	})
}
