package scope_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope"
)

const (
	team1 = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6"
	team2 = "0192f0c1-2b3c-7d4e-8f50-61728394a5b7"
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

func TestParseTakes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, doc string
		want      scope.Scope
	}{
		{
			"the example of the specification",
			`{"resources": ["tasks","notes","memory"],
			  "excluded_resources": ["credentials","api_keys"],
			  "filters": {"tasks": {"include_teams": ["` + team1 + `"], "include_personal": true}},
			  "max_rows_per_query": 500}`,
			scope.Scope{
				Resources:         []scope.Resource{scope.Tasks, scope.Notes, scope.Memory},
				ExcludedResources: []scope.Resource{scope.Credentials, scope.APIKeys},
				Filters: map[scope.Resource]scope.Filter{
					scope.Tasks: {IncludeTeams: []uuid.UUID{uuid.MustParse(team1)}, IncludePersonal: true},
				},
				MaxRowsPerQuery: 500,
			},
		},
		{
			"the smallest", `{"resources":["tasks"],"max_rows_per_query":1}`,
			scope.Scope{Resources: []scope.Resource{scope.Tasks}, MaxRowsPerQuery: 1},
		},
		{
			"keys in another order", `{"max_rows_per_query":10000,"filters":{},"excluded_resources":[],"resources":["api_keys"]}`,
			scope.Scope{Resources: []scope.Resource{scope.APIKeys}, MaxRowsPerQuery: 10000},
		},
		{
			"an empty filter is the default", `{"resources":["notes"],"filters":{"notes":{}},"max_rows_per_query":5}`,
			scope.Scope{
				Resources:       []scope.Resource{scope.Notes},
				Filters:         map[scope.Resource]scope.Filter{scope.Notes: {IncludePersonal: true}},
				MaxRowsPerQuery: 5,
			},
		},
		{
			"a team in upper case", `{"resources":["notes"],"filters":{"notes":{"include_personal":false,"include_teams":["` + strings.ToUpper(team1) + `"]}},"max_rows_per_query":5}`,
			scope.Scope{
				Resources:       []scope.Resource{scope.Notes},
				Filters:         map[scope.Resource]scope.Filter{scope.Notes: {IncludeTeams: []uuid.UUID{uuid.MustParse(team1)}}},
				MaxRowsPerQuery: 5,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := scope.Parse([]byte(tt.doc))
			if err != nil {
				t.Fatalf("%v %v", err, paths(err))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("scope (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	max := `"max_rows_per_query":1`
	tests := []struct {
		name, doc string
		wantPaths []string
	}{
		{"nothing", ``, []string{"$"}},
		{"null", `null`, []string{"$"}},
		{"an array", `[]`, []string{"$"}},
		{"a string", `"tasks"`, []string{"$"}},
		{"no JSON", `{resources}`, []string{"$"}},
		{"trailing data", `{"resources":["tasks"],` + max + `} x`, []string{"$"}},
		{"two documents", `{"resources":["tasks"],` + max + `}{}`, []string{"$"}},
		{"broken UTF-8", "{\"resources\":[\"tasks\xff\"]," + max + "}", []string{"$"}},
		{"an empty object", `{}`, []string{"resources", "max_rows_per_query"}},
		{"no resources", `{` + max + `}`, []string{"resources"}},
		{"resources null", `{"resources":null,` + max + `}`, []string{"resources"}},
		{"resources a string", `{"resources":"tasks",` + max + `}`, []string{"resources"}},
		{"resources an object", `{"resources":{"tasks":true},` + max + `}`, []string{"resources"}},
		{"resources empty", `{"resources":[],` + max + `}`, []string{"resources"}},
		{"resource unknown", `{"resources":["tasks","secrets"],` + max + `}`, []string{"resources[1]"}},
		{"resource in another case", `{"resources":["Tasks"],` + max + `}`, []string{"resources[0]"}},
		{"resource with a space", `{"resources":["tasks "],` + max + `}`, []string{"resources[0]"}},
		{"resource repeated", `{"resources":["tasks","notes","tasks"],` + max + `}`, []string{"resources[2]"}},
		{"resource null", `{"resources":["tasks",null],` + max + `}`, []string{"resources[1]"}},
		{"resource a number", `{"resources":[1,"tasks"],` + max + `}`, []string{"resources[0]"}},
		{"excluded null", `{"resources":["tasks"],"excluded_resources":null,` + max + `}`, []string{"excluded_resources"}},
		{"excluded unknown", `{"resources":["tasks"],"excluded_resources":["x"],` + max + `}`, []string{"excluded_resources[0]"}},
		{"excluded repeated", `{"resources":["tasks"],"excluded_resources":["notes","notes"],` + max + `}`, []string{"excluded_resources[1]"}},
		{"excluded resource is also granted", `{"resources":["memory"],"excluded_resources":["memory"],"max_rows_per_query":1}`, []string{"excluded_resources[0]"}},
		{"filters null", `{"resources":["tasks"],"filters":null,` + max + `}`, []string{"filters"}},
		{"filters an array", `{"resources":["tasks"],"filters":[],` + max + `}`, []string{"filters"}},
		{"filter of an unknown resource", `{"resources":["tasks"],"filters":{"x":{}},` + max + `}`, []string{"filters.x"}},
		{"filter of a resource not granted", `{"resources":["tasks"],"filters":{"notes":{}},` + max + `}`, []string{"filters.notes"}},
		{"filter null", `{"resources":["tasks"],"filters":{"tasks":null},` + max + `}`, []string{"filters.tasks"}},
		{"filter with an unknown key", `{"resources":["tasks"],"filters":{"tasks":{"include_all":true}},` + max + `}`, []string{"filters.tasks.include_all"}},
		{"teams null", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":null}},` + max + `}`, []string{"filters.tasks.include_teams"}},
		{"teams a string", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":"` + team1 + `"}},` + max + `}`, []string{"filters.tasks.include_teams"}},
		{"team no UUID", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":["design"]}},` + max + `}`, []string{"filters.tasks.include_teams[0]"}},
		{"team null", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":[null]}},` + max + `}`, []string{"filters.tasks.include_teams[0]"}},
		{"team without dashes", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":["` + strings.ReplaceAll(team1, "-", "") + `"]}},` + max + `}`, []string{"filters.tasks.include_teams[0]"}},
		{"team in braces", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":["{` + team1 + `}"]}},` + max + `}`, []string{"filters.tasks.include_teams[0]"}},
		{"team as a URN", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":["urn:uuid:` + team1 + `"]}},` + max + `}`, []string{"filters.tasks.include_teams[0]"}},
		{"team repeated in another case", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":["` + team1 + `","` + strings.ToUpper(team1) + `"]}},` + max + `}`, []string{"filters.tasks.include_teams[1]"}},
		{"include_personal null", `{"resources":["tasks"],"filters":{"tasks":{"include_personal":null}},` + max + `}`, []string{"filters.tasks.include_personal"}},
		{"include_personal a string", `{"resources":["tasks"],"filters":{"tasks":{"include_personal":"true"}},` + max + `}`, []string{"filters.tasks.include_personal"}},
		{"include_personal a number", `{"resources":["tasks"],"filters":{"tasks":{"include_personal":1}},` + max + `}`, []string{"filters.tasks.include_personal"}},
		{"a filter that selects nothing", `{"resources":["tasks"],"filters":{"tasks":{"include_personal":false}},` + max + `}`, []string{"filters.tasks"}},
		{"a filter that selects nothing, spelled out", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":[],"include_personal":false}},` + max + `}`, []string{"filters.tasks"}},
		{"no max", `{"resources":["tasks"]}`, []string{"max_rows_per_query"}},
		{"max null", `{"resources":["tasks"],"max_rows_per_query":null}`, []string{"max_rows_per_query"}},
		{"max a string", `{"resources":["tasks"],"max_rows_per_query":"5"}`, []string{"max_rows_per_query"}},
		{"max zero", `{"resources":["tasks"],"max_rows_per_query":0}`, []string{"max_rows_per_query"}},
		{"max minus zero", `{"resources":["tasks"],"max_rows_per_query":-0}`, []string{"max_rows_per_query"}},
		{"max negative", `{"resources":["tasks"],"max_rows_per_query":-1}`, []string{"max_rows_per_query"}},
		{"max too large", `{"resources":["tasks"],"max_rows_per_query":10001}`, []string{"max_rows_per_query"}},
		{"max past 64 bits", `{"resources":["tasks"],"max_rows_per_query":18446744073709551617}`, []string{"max_rows_per_query"}},
		{"max a fraction", `{"resources":["tasks"],"max_rows_per_query":1.5}`, []string{"max_rows_per_query"}},
		{"max a whole fraction", `{"resources":["tasks"],"max_rows_per_query":1.0}`, []string{"max_rows_per_query"}},
		{"max with an exponent", `{"resources":["tasks"],"max_rows_per_query":1e2}`, []string{"max_rows_per_query"}},
		{"max true", `{"resources":["tasks"],"max_rows_per_query":true}`, []string{"max_rows_per_query"}},
		{"an unknown key", `{"resources":["tasks"],"max_rows":5,` + max + `}`, []string{"max_rows"}},
		{"a key in another case", `{"Resources":["tasks"],` + max + `}`, []string{"Resources", "resources"}},
		{"a repeated key", `{"resources":["tasks"],` + max + `,"resources":["notes"]}`, []string{"resources"}},
		{"a repeated key deep down", `{"resources":["tasks"],"filters":{"tasks":{"include_personal":true,"include_personal":false}},` + max + `}`, []string{"filters.tasks.include_personal"}},
		{"a repeated filter", `{"resources":["tasks"],"filters":{"tasks":{},"tasks":{}},` + max + `}`, []string{"filters.tasks"}},
		{
			"everything at once, in document order",
			`{"max_rows_per_query":0,"filters":{"notes":{"include_teams":["x"]},"zzz":1},"excluded_resources":["tasks","what"],"resources":["tasks","tasks"],"more":null}`,
			[]string{
				"max_rows_per_query", "filters.notes", "filters.notes.include_teams[0]", "filters.zzz", "filters.zzz",
				"excluded_resources[0]", "excluded_resources[1]", "resources[1]", "more",
			},
		},
		{"unreadable resources do not blame the filters", `{"resources":5,"filters":{"tasks":{}},` + max + `}`, []string{"resources"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := scope.Parse([]byte(tt.doc))
			if !errors.Is(err, scope.ErrInvalid) {
				t.Fatalf("err = %v, want scope_invalid", err)
			}
			if diff := cmp.Diff(tt.wantPaths, paths(err)); diff != "" {
				t.Errorf("paths (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(scope.Scope{}, got); diff != "" {
				t.Errorf("a refused document gave a scope:\n%s", diff)
			}
		})
	}
}

func TestParseBoundsTeamsAndBytes(t *testing.T) {
	t.Parallel()
	doc := func(n int) []byte {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = fmt.Sprintf(`"00000000-0000-4000-8000-%012x"`, i)
		}
		return []byte(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":[` + strings.Join(ids, ",") + `]}},"max_rows_per_query":1}`)
	}
	if s, err := scope.Parse(doc(scope.MaxTeams)); err != nil || len(s.Filter(scope.Tasks).IncludeTeams) != scope.MaxTeams {
		t.Errorf("64 teams: %v", err)
	}
	_, err := scope.Parse(doc(scope.MaxTeams + 1))
	if diff := cmp.Diff([]string{"filters.tasks.include_teams"}, paths(err)); diff != "" {
		t.Errorf("65 teams (-want +got):\n%s", diff)
	}
	small := `{"resources":["tasks"],"max_rows_per_query":1}`
	if _, err := scope.Parse([]byte(small + strings.Repeat(" ", scope.MaxDocumentBytes-len(small)))); err != nil {
		t.Errorf("64 KiB: %v", err)
	}
	if _, err := scope.Parse([]byte(small + strings.Repeat(" ", scope.MaxDocumentBytes-len(small)+1))); !errors.Is(err, scope.ErrInvalid) {
		t.Errorf("a byte over 64 KiB: %v", err)
	}
}

func TestOneProblemIsToldInTheDetail(t *testing.T) {
	t.Parallel()
	_, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":1e2}`))
	var f *fault.Fault
	if !errors.As(err, &f) {
		t.Fatal(err)
	}
	if want := `the scope document is refused: max_rows_per_query must be an integer from 1 to 10000, not "1e2"`; f.Detail != want {
		t.Errorf("detail = %q, want %q", f.Detail, want)
	}
	if f.Kind != fault.Invalid || f.Hint == "" {
		t.Errorf("fault = %+v", f)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		`{"resources":["tasks","notes"],"excluded_resources":["credentials"],"filters":{"tasks":{"include_teams":["` + team1 + `"],"include_personal":false}},"max_rows_per_query":500}`,
		`{"resources":["tasks"],"max_rows_per_query":1}`, `{"resources":[null],"filters":[]}`, `{"a":1,"a":2}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		s, err := scope.Parse(doc)
		if err != nil {
			if len(paths(err)) == 0 {
				t.Fatalf("refused without a problem: %v", err)
			}
			return
		}
		again, err := scope.Parse([]byte(s.String()))
		if err != nil {
			t.Fatalf("the printed scope is refused: %v", err)
		}
		if diff := cmp.Diff(s, again); diff != "" {
			t.Fatalf("printing changed the scope:\n%s", diff)
		}
	})
}
