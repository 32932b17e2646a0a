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

const sensitive = `{"resources":["credentials"],"max_rows_per_query":1}`

func TestAnApprovalNamesItsAdminAndIsLoggedAsAWarning(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	admin := a.bearer()
	a.user("ada@example.org", account.Member)
	root := a.text(`SELECT id::text FROM users WHERE email = 'root@example.org'`)
	warned := func(msg, id string) {
		t.Helper()
		for line := range strings.SplitSeq(a.logs.String(), "\n") {
			if strings.Contains(line, `"level":"WARN","msg":"`+msg+`"`) && strings.Contains(line, `"grant_id":"`+id+`"`) {
				return
			}
		}
		t.Errorf("no warning %q about %s in the log:\n%s", msg, id, a.logs.String())
	}
	var made struct {
		Grant struct {
			ID         string
			ApprovedBy string `json:"approved_by"`
		}
	}
	got := a.ask(http.MethodPost, a.url+"/api/federation/grants", `{"peer":"home","user":"ada@example.org","scope":`+sensitive+`}`, admin...)
	if err := json.Unmarshal(got.body, &made); err != nil || got.status != http.StatusCreated {
		t.Fatalf("%d %s", got.status, got.body)
	}
	warned("sensitive grant created", made.Grant.ID)
	got = a.ask(http.MethodPost, a.url+"/api/federation/grants/"+made.Grant.ID+"/approve", `{"reason":"inventory"}`, admin...)
	if err := json.Unmarshal(got.body, &made.Grant); err != nil || got.status != http.StatusOK || made.Grant.ApprovedBy != root {
		t.Errorf("%d %s, want approved by %s", got.status, got.body, root)
	}
	warned("sensitive grant approved", made.Grant.ID)
	if by := a.text(`SELECT coalesce(approved_by::text, '') FROM federation_grants`); by != root {
		t.Errorf("approved by %q on record, want %s", by, root)
	}
}

func TestTeamsThatAreNotHereAreWarnedOf(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	admin := a.bearer()
	a.user("ada@example.org", account.Member)
	here, err := a.accounts.CreateTeam(t.Context(), "design", act)
	if err != nil {
		t.Fatal(err)
	}
	const gone, lost = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
	create := func(doc string) []fault.Problem {
		t.Helper()
		got := a.ask(http.MethodPost, a.url+"/api/federation/grants", `{"peer":"home","user":"ada@example.org","scope":`+doc+`}`, admin...)
		var made struct{ Warnings []fault.Problem }
		if err := json.Unmarshal(got.body, &made); err != nil || got.status != http.StatusCreated || made.Warnings == nil {
			t.Fatalf("%d %s", got.status, got.body)
		}
		return made.Warnings
	}
	got := create(`{"resources":["tasks","notes"],"filters":{
		"notes":{"include_teams":["` + lost + `"]},
		"tasks":{"include_teams":["` + gone + `","` + here.ID.String() + `","` + lost + `"]}},"max_rows_per_query":1}`)
	var paths []string
	for _, w := range got {
		paths = append(paths, w.Path)
	}
	want := []string{"filters.tasks.include_teams[0]", "filters.tasks.include_teams[2]", "filters.notes.include_teams[0]"}
	if diff := cmp.Diff(want, paths); diff != "" || !strings.Contains(got[0].Detail, gone) {
		t.Errorf("warnings %v (-want +got):\n%s", got, diff)
	}
	if w := create(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":["` + here.ID.String() + `"]}},"max_rows_per_query":1}`); len(w) != 0 {
		t.Errorf("a team that is here: %v", w)
	}
}

func TestAnIDThatIsNoneIsAnsweredForLikeOneThatNothingHas(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	admin := a.bearer()
	a.user("ada@example.org", account.Member)
	g, _ := a.grantFor("home", "ada@example.org", tasksOnly)
	for _, tt := range []struct{ method, path, code string }{
		{"GET", "/api/federation/grants/%s", "grant_not_found"},
		{"POST", "/api/federation/grants/%s/token", "grant_not_found"},
		{"POST", "/api/federation/grants/%s/approve", "grant_not_found"},
		{"POST", "/api/federation/grants/%s/revoke", "grant_not_found"},
		{"DELETE", "/api/tokens/%s", "token_not_found"},
	} {
		body := map[string]string{"POST": `{"reason":"r"}`}[tt.method]
		if strings.HasSuffix(tt.path, "/token") {
			body = `{}`
		}
		for _, id := range []string{"nope", "00000000-0000-4000-8000-000000000000", strings.ReplaceAll(g.ID.String(), "-", ""), "%7B" + g.ID.String() + "%7D"} {
			got := a.ask(tt.method, a.url+strings.ReplaceAll(tt.path, "%s", id), body, admin...)
			a.wantCode(got, http.StatusNotFound, tt.code)
			if !strings.Contains(string(got.body), "list the ") {
				t.Errorf("%s %s: no word of where the ids are: %s", tt.method, id, got.body)
			}
		}
	}
}
