package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/account"
)

func TestOwnRowsAreSearched(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	ada, bo := a.user("ada@example.org", account.Member), a.user("bo@example.org", account.Member)
	token, _ := a.token("ada@example.org")
	a.exec(`INSERT INTO notes (owner_id, title, body) VALUES ($1, 'Passport', 'at the town hall'), ($2, 'Passport of bo', ''), ($1, 'Milk', '')`, ada.ID, bo.ID)
	a.exec(`INSERT INTO credentials (owner_id, name, username) VALUES ($1, 'registry', 'deployer')`, ada.ID)
	ask := func(resource, body string) answer {
		t.Helper()
		return a.ask(http.MethodPost, a.url+"/api/resources/"+resource+"/search", body, "Authorization", "Bearer "+token, "Content-Type", "application/json")
	}
	got := ask("notes", `{"query":"passport hall","limit":3}`)
	if s := string(got.body); got.status != 200 || strings.Count(s, `"id"`) != 1 || !strings.Contains(s, `"title":"Passport"`) || !strings.Contains(s, `"snippet":"«Passport» at the town «hall»"`) ||
		!strings.HasSuffix(s, `"page":{"limit":3,"capped":false,"next_cursor":null},"search":{"mode":"hybrid","model":"builtin-hash-v1","pending":2}}`) {
		t.Errorf("%d %s", got.status, s)
	}
	if got := ask("credentials", `{"query":"deployer"}`); got.status != 200 || !strings.HasSuffix(string(got.body), `"search":{"mode":"lexical","model":null}}`) || strings.Count(string(got.body), `"id"`) != 1 {
		t.Errorf("credentials: %d %s", got.status, got.body)
	}
	for body, code := range map[string]string{
		`{"query":""}`: "search_invalid", `{"query":"x","query":"y"}`: "search_invalid", `{`: "search_invalid",
		`{"query":"` + strings.Repeat("x", 64<<10) + `"}`: "body_too_large",
	} {
		if got := ask("notes", body); got.code(t) != code {
			t.Errorf("%.40s: %d %s, want %s", body, got.status, got.body, code)
		}
	}
	if got := ask("credentials", `{"query":"x","mode":"semantic"}`); got.status != 422 || got.code(t) != "search_mode_unsupported" {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := ask("users", `{"query":"x"}`); got.code(t) != "resource_unknown" {
		t.Errorf("%d %s", got.status, got.body)
	}
}
