package fedapi_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/embed"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

const searchTasks = fedapi.Base + "/resources/tasks/search"

// post sends JSON; the headers are pairs.
func (g *gateway) post(c *http.Client, path, body string, headers ...string) answer {
	g.t.Helper()
	return g.send(c, http.MethodPost, path, strings.NewReader(body), append([]string{"Content-Type", "application/json"}, headers...)...)
}

func TestASearchIsAnsweredAndOnRecord(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	for _, title := range []string{"Rotate the database password", "Buy <b>milk</b>\x1b[2J", "The databases' passwords"} {
		if _, err := g.pool.Exec(t.Context(), `INSERT INTO tasks (owner_id, title) VALUES ($1, $2)`, made.SubjectUserID, title); err != nil {
			t.Fatal(err)
		}
	}
	task := upkeep.NewEmbeddings(upkeep.EmbeddingsConfig{Store: &postgres.Embeddings{DB: g.stores}, Embedder: embed.Hash{}, Refuses: func(error) bool { return false }, Log: slog.New(slog.DiscardHandler)})
	if err := task.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := task.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := g.client(g.presenting(cert), http2)
	a := g.post(c, searchTasks, `{"query":"database password","limit":11}`)
	var doc struct {
		Data []struct {
			ID, Title, Snippet, Status string
			Score                      float64
		}
		Page struct {
			Limit  int
			Capped bool
			Next   *string `json:"next_cursor"`
		}
		Search map[string]any
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if len(doc.Data) != 2 || doc.Data[0].Title != "Rotate the database password" || doc.Data[0].Snippet != "Rotate the «database» «password»" ||
		doc.Data[1].Snippet != "The «databases»' «passwords»" || doc.Data[0].Score <= doc.Data[1].Score || doc.Data[0].Status != "open" || doc.Data[0].ID == "" {
		t.Errorf("%s", a.body)
	}
	if doc.Page.Limit != 10 || !doc.Page.Capped || doc.Page.Next != nil || !strings.Contains(string(a.body), `"next_cursor":null`) {
		t.Errorf("page %+v, want it capped by the grant to 10", doc.Page)
	}
	if doc.Search["mode"] != "hybrid" || doc.Search["model"] != embed.HashModel || doc.Search["pending"] != 0.0 {
		t.Errorf("search %v", doc.Search)
	}
	if a.Header.Get("RateLimit-Limit") == "" || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", a.Header)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'search' AND resource = 'tasks' AND status_code = 200 AND rows_out = 2
		AND octet_length(query_hash) = 32 AND request_id = $1`, a.Header.Get("X-Request-Id")); n != 1 {
		t.Errorf("%d audit rows of it, want one with the hash of the query", n)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log l WHERE l::text ILIKE '%database password%'`); n != 0 {
		t.Error("the audit log has the query itself")
	}
	for len(g.log) > 0 {
		if line := <-g.log; strings.Contains(line, "password") {
			t.Errorf("the log has the query or a row: %s", line)
		}
	}
}

func TestASearchThatCannotBeReadIsRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	c := g.client(g.presenting(cert), http1)
	for name, tt := range map[string]struct {
		path, body, code string
		headers          []string
		status           int
	}{
		"another media type":   {searchTasks, `{"query":"x"}`, "unsupported_media_type", []string{"Content-Type", "text/plain"}, 415},
		"no media type":        {searchTasks, `{"query":"x"}`, "unsupported_media_type", []string{"Content-Type", ""}, 415},
		"another charset":      {searchTasks, `{"query":"x"}`, "unsupported_media_type", []string{"Content-Type", "application/json; charset=latin1"}, 415},
		"compressed":           {searchTasks, `{"query":"x"}`, "content_encoding_unsupported", []string{"Content-Encoding", "gzip"}, 415},
		"too long":             {searchTasks, `{"query":"` + strings.Repeat("x", 64<<10) + `"}`, "body_too_large", nil, 413},
		"no JSON":              {searchTasks, `query=x`, "search_invalid", nil, 422},
		"empty":                {searchTasks, ``, "search_invalid", nil, 422},
		"unknown key":          {searchTasks, `{"query":"x","cursor":"y"}`, "search_invalid", nil, 422},
		"key twice":            {searchTasks, `{"query":"x","query":"y"}`, "search_invalid", nil, 422},
		"NUL":                  {searchTasks, `{"query":"x\u0000"}`, "search_invalid", nil, 422},
		"broken UTF-8":         {searchTasks, "{\"query\":\"\xff\"}", "search_invalid", nil, 422},
		"a parameter":          {searchTasks + "?limit=3", `{"query":"x"}`, "query_invalid", nil, 422},
		"outside the scope":    {fedapi.Base + "/resources/notes/search", `{"query":"x"}`, "not_found", nil, 404},
		"no such resource":     {fedapi.Base + "/resources/users/search", `x`, "not_found", nil, 404},
		"somewhere else":       {fedapi.Base + "/resources/tasks/search/more", `{}`, "not_found", nil, 404},
		"a post to a resource": {fedapi.Base + "/resources/tasks", `{}`, "method_not_allowed", nil, 405},
	} {
		a := g.post(c, tt.path, tt.body, tt.headers...)
		t.Run(name, func(t *testing.T) { a.wantProblem(t, tt.status, tt.code) })
	}
	a, err := g.ask(c, http.MethodDelete, searchTasks, nil)
	if err != nil || a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != http.MethodPost {
		t.Errorf("DELETE: %d, allowed is %q, %v", a.StatusCode, a.Header.Get("Allow"), err)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'search' AND outcome = 'denied'`); n != 14 {
		t.Errorf("%d refused searches are on record, want 14", n)
	}
}
