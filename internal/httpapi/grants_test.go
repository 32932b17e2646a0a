package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/scope"
)

// bearer is the header of an admin's request.
func (a *api) bearer() []string {
	a.t.Helper()
	a.user("root@example.org", account.Admin)
	secret, _ := a.token("root@example.org")
	return []string{"Content-Type", jsonType, "Authorization", "Bearer " + secret}
}

// problems are those of a problem document.
func (a answer) problems(t *testing.T) []fault.Problem {
	t.Helper()
	var p struct{ Errors []fault.Problem }
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatal(err)
	}
	return p.Errors
}

func TestEveryProblemOfAScopeArrivesWithItsPath(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	admin := a.bearer()
	a.user("ada@example.org", account.Member)
	deep := strings.Repeat("[", 60) + strings.Repeat("]", 60)
	for name, doc := range map[string]string{
		"a repeated key":             `{"resources":["tasks"],"resources":["notes"],"max_rows_per_query":1}`,
		"a repeated key inside":      `{"resources":["tasks"],"filters":{"tasks":{"include_personal":true,"include_personal":false}},"max_rows_per_query":1}`,
		"half a surrogate":           `{"resources":["tasks","\ud83d"],"max_rows_per_query":1}`,
		"half a surrogate as a key":  `{"resources":["tasks"],"\udc00":1,"max_rows_per_query":1}`,
		"nested deeply":              `{"resources":` + deep + `,"max_rows_per_query":1}`,
		"many values":                `{"resources":[` + strings.Repeat("0,", 25_000) + `0],"max_rows_per_query":1}`,
		"a repeated key and others":  `{"resources":["tasks",7],"resources":[],"extra":null,"max_rows_per_query":0}`,
		"everything wrong, in order": `{"extra":1,"extra":2,"resources":["x","tasks","tasks"],"filters":{"notes":{"include_teams":["\ud83d"]}},"max_rows_per_query":"1"}`,
		"a list":                     `[]`,
		"a string":                   `"tasks"`,
		"null":                       `null`,
		"empty":                      `{}`,
	} {
		_, want := scope.Parse([]byte(doc))
		f := fault.From(want)
		got := a.ask(http.MethodPost, a.url+"/api/federation/grants", `{"peer":"home","user":"ada@example.org","scope":`+doc+`}`, admin...)
		a.wantCode(got, http.StatusUnprocessableEntity, "scope_invalid")
		if diff := cmp.Diff(f.Problems, got.problems(t)); diff != "" || len(f.Problems) == 0 {
			t.Errorf("%s: problems (-the parser's +the answer's):\n%s", name, diff)
		}
	}
}

func TestTheBodyAroundAScopeIsReadStrictly(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	admin := a.bearer()
	a.user("ada@example.org", account.Member)
	for name, tt := range map[string]struct {
		body   string
		status int
		code   string
		paths  string
	}{
		"a repeated key":   {`{"peer":"home","peer":"work","user":"ada@example.org","scope":` + tasksOnly + `}`, 422, "request_invalid", "peer"},
		"two scopes":       {`{"peer":"home","user":"ada@example.org","scope":` + tasksOnly + `,"scope":{"a":1,"a":1}}`, 422, "request_invalid", "scope"},
		"half a surrogate": {`{"peer":"home","user":"ada\ud83d@example.org","scope":` + tasksOnly + `}`, 422, "request_invalid", "user"},
		"both":             {`{"peer":"home","peer":"\udc00","user":"u","scope":` + tasksOnly + `}`, 422, "request_invalid", "peer peer"},
		"cut short":        {`{"peer":"home","user":"ada@example.org","scope":{"resources":["tasks"]`, 400, "bad_request", ""},
		"something behind": {`{"peer":"home","user":"ada@example.org","scope":` + tasksOnly + `}{}`, 400, "bad_request", ""},
		"a deep stranger":  {`{"peer":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `,"user":"u","scope":` + tasksOnly + `}`, 400, "bad_request", ""},
		"broken UTF-8":     {"{\"peer\":\"home\",\"user\":\"u\",\"scope\":{\"\xff\":1}}", 400, "bad_request", ""},
		"a text":           {`"x"`, 422, "request_invalid", "$"},
	} {
		got := a.ask(http.MethodPost, a.url+"/api/federation/grants", tt.body, admin...)
		if c := got.code(t); got.status != tt.status || c != tt.code {
			t.Errorf("%s: %d %s, want %d %s", name, got.status, got.body, tt.status, tt.code)
		}
		var paths []string
		for _, p := range got.problems(t) {
			paths = append(paths, p.Path)
		}
		if strings.Join(paths, " ") != tt.paths {
			t.Errorf("%s: problems at %q, want %q", name, paths, tt.paths)
		}
	}
}
