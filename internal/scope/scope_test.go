package scope_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/scope"
)

// pool is a few teams, so that two drawn scopes often share some.
func pool() []uuid.UUID {
	ids := make([]uuid.UUID, 6)
	for i := range ids {
		ids[i] = uuid.UUID{15: byte(i + 1)}
	}
	return ids
}

// subset draws some of list, in a drawn order; nil for none, as Parse gives it.
func subset[T any](t *rapid.T, list []T, atLeast int, label string) []T {
	n := rapid.IntRange(atLeast, len(list)).Draw(t, label+" count")
	if n == 0 {
		return nil
	}
	return slices.Clone(rapid.Permutation(list).Draw(t, label)[:n])
}

func drawScope(t *rapid.T, label string) scope.Scope {
	s := scope.Scope{MaxRowsPerQuery: rapid.IntRange(1, scope.MaxRows).Draw(t, label+" rows")}
	s.Resources = subset(t, scope.All(), 1, label+" resources")
	rest := slices.DeleteFunc(scope.All(), func(r scope.Resource) bool { return slices.Contains(s.Resources, r) })
	s.ExcludedResources = subset(t, rest, 0, label+" excluded")
	for _, r := range subset(t, s.Resources, 0, label+" filtered") {
		if s.Filters == nil {
			s.Filters = map[scope.Resource]scope.Filter{}
		}
		f := scope.Filter{IncludePersonal: rapid.Bool().Draw(t, label+" personal")}
		least := 1
		if f.IncludePersonal {
			least = 0
		}
		f.IncludeTeams = subset(t, pool(), least, label+" teams")
		s.Filters[r] = f
	}
	return s
}

// row is a kind of row a scope may open: of one resource, of one team or (nil) personal.
type row struct {
	resource scope.Resource
	team     *uuid.UUID
}

func opens(s scope.Scope, r row) bool {
	if !s.Allows(r.resource) {
		return false
	}
	f := s.Filter(r.resource)
	if r.team == nil {
		return f.IncludePersonal
	}
	return slices.Contains(f.IncludeTeams, *r.team)
}

func everyRow() []row {
	var rows []row
	for _, r := range scope.All() {
		rows = append(rows, row{r, nil})
		for _, id := range pool() {
			rows = append(rows, row{r, &id})
		}
	}
	return rows
}

func TestPrintingAndParsingGiveTheSameScope(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScope(t, "s")
		doc, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := scope.Parse(doc)
		if err != nil {
			t.Fatalf("%s: %v", doc, err)
		}
		if diff := cmp.Diff(s, got); diff != "" {
			t.Fatalf("scope (-printed +parsed):\n%s", diff)
		}
		var nested struct{ Scope scope.Scope }
		if err := json.Unmarshal([]byte(`{"Scope":`+string(doc)+`}`), &nested); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, nested.Scope); diff != "" {
			t.Fatalf("a scope inside another document (-want +got):\n%s", diff)
		}
	})
}

func TestNarrowIsTheIntersection(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawScope(t, "a"), drawScope(t, "b")
		n, ok := a.Narrow(b)
		left := false
		for _, r := range everyRow() {
			both := opens(a, r) && opens(b, r)
			left = left || both
			if ok && opens(n, r) != both {
				t.Fatalf("%v: narrowed %v, both %v\na %s\nb %s\nn %s", r, opens(n, r), both, a, b, n)
			}
		}
		if ok != left {
			t.Fatalf("ok = %v, but something is left: %v", ok, left)
		}
		if !ok {
			if diff := cmp.Diff(scope.Scope{}, n); diff != "" {
				t.Fatalf("nothing is left, and yet:\n%s", diff)
			}
			return
		}
		if n.MaxRowsPerQuery != min(a.MaxRowsPerQuery, b.MaxRowsPerQuery) {
			t.Fatalf("max rows %d", n.MaxRowsPerQuery)
		}
		for _, r := range slices.Concat(a.ExcludedResources, b.ExcludedResources) {
			if !slices.Contains(n.ExcludedResources, r) {
				t.Fatalf("%s is no longer excluded", r)
			}
		}
		if parsed, err := scope.Parse([]byte(n.String())); err != nil || !cmp.Equal(n, parsed) {
			t.Fatalf("a narrowed scope is no scope: %v", err)
		}
	})
}

func TestNarrowingByItselfChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawScope(t, "s")
		n, ok := s.Narrow(s)
		if diff := cmp.Diff(s, n); !ok || diff != "" {
			t.Fatalf("ok = %v (-before +after):\n%s", ok, diff)
		}
	})
}

func TestNarrowDoesNotShareMemory(t *testing.T) {
	t.Parallel()
	a := scope.Scope{Resources: []scope.Resource{scope.Tasks}, ExcludedResources: make([]scope.Resource, 0, 8), MaxRowsPerQuery: 1}
	a.ExcludedResources = append(a.ExcludedResources, scope.Notes)
	b := scope.Scope{Resources: []scope.Resource{scope.Tasks}, ExcludedResources: []scope.Resource{scope.Memory}, MaxRowsPerQuery: 1}
	if _, ok := a.Narrow(b); !ok {
		t.Fatal("nothing left")
	}
	if got := a.ExcludedResources[:2][1]; got != "" {
		t.Errorf("Narrow wrote %q behind its receiver's exclusions", got)
	}
}

func TestCanonicalDocumentHasEveryKey(t *testing.T) {
	t.Parallel()
	s, err := scope.Parse([]byte(`{"max_rows_per_query":7,"resources":["notes","tasks"],"filters":{"tasks":{},"notes":{"include_teams":["` + team2 + `"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"resources":["notes","tasks"],"excluded_resources":[],` +
		`"filters":{"notes":{"include_teams":["` + team2 + `"],"include_personal":true},"tasks":{"include_teams":[],"include_personal":true}},` +
		`"max_rows_per_query":7}`
	if got := s.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUnmarshalIsAsStrictAsParse(t *testing.T) {
	t.Parallel()
	for _, doc := range []string{`{}`, `null`, `{"resources":["tasks"],"max_rows_per_query":1,"x":1}`} {
		s := scope.Scope{MaxRowsPerQuery: 3}
		if err := s.UnmarshalJSON([]byte(doc)); err == nil {
			t.Errorf("%s was taken", doc)
		}
		if s.MaxRowsPerQuery != 3 {
			t.Errorf("%s: a refused document changed the scope", doc)
		}
	}
}

func TestAllowsFollowsResourcesAndExclusions(t *testing.T) {
	t.Parallel()
	s := scope.Scope{
		Resources:         []scope.Resource{scope.Tasks, scope.Memory},
		ExcludedResources: []scope.Resource{scope.Memory}, // Parse refuses this; a scope made in code is safe all the same
	}
	want := map[scope.Resource]bool{scope.Tasks: true}
	for _, r := range append(scope.All(), "", "users") {
		if got := s.Allows(r); got != want[r] {
			t.Errorf("Allows(%q) = %v", r, got)
		}
	}
}

func TestSensitivity(t *testing.T) {
	t.Parallel()
	for r, want := range map[scope.Resource]bool{
		scope.Tasks: false, scope.Notes: false, scope.Memory: false, scope.Credentials: true, scope.APIKeys: true,
	} {
		if got := r.Sensitive(); got != want {
			t.Errorf("%s.Sensitive() = %v", r, got)
		}
		s := scope.Scope{Resources: []scope.Resource{scope.Tasks, r}}
		if got := s.Sensitive(); got != want {
			t.Errorf("a scope with %s: Sensitive() = %v", r, got)
		}
	}
	if (scope.Scope{ExcludedResources: []scope.Resource{scope.Credentials}}).Sensitive() {
		t.Error("an excluded resource makes nothing sensitive")
	}
}

func TestKnownIsExact(t *testing.T) {
	t.Parallel()
	for _, r := range scope.All() {
		if !scope.Known(string(r)) {
			t.Errorf("%s is not known", r)
		}
	}
	for _, s := range []string{"", "Tasks", "task", " tasks", "api-keys", "users"} {
		if scope.Known(s) {
			t.Errorf("%q is known", s)
		}
	}
}

func TestExplainInPlainWords(t *testing.T) {
	t.Parallel()
	one, two := uuid.MustParse(team1), uuid.MustParse(team2)
	s := scope.Scope{
		Resources:         []scope.Resource{scope.Tasks, scope.Notes, scope.Memory, scope.APIKeys},
		ExcludedResources: []scope.Resource{scope.Credentials},
		Filters: map[scope.Resource]scope.Filter{
			scope.Tasks: {IncludeTeams: []uuid.UUID{one, two}, IncludePersonal: true},
			scope.Notes: {IncludeTeams: []uuid.UUID{two}},
		},
		MaxRowsPerQuery: 500,
	}
	names := func(id uuid.UUID) string {
		if id == one {
			return "design"
		}
		return ""
	}
	want := []string{
		"tasks: the user's personal rows and rows of teams design and " + team2 + ".",
		"notes: rows of team " + team2 + ", no personal rows.",
		"memory: the user's personal rows.",
		"api_keys: the user's personal rows; metadata only, and an admin must approve it.",
		"Never: credentials.",
		"At most 500 rows per query.",
	}
	if diff := cmp.Diff(want, s.Explain(names)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s = scope.Scope{Resources: []scope.Resource{scope.Notes}, MaxRowsPerQuery: 1}
	if diff := cmp.Diff([]string{"notes: the user's personal rows.", "At most 1 row per query."}, s.Explain(nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
