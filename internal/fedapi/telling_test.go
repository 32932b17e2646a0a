package fedapi_test

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fedapi"
)

// TestA404DoesNotTellWhatIsHiddenFromWhatIsNot asks for what is not there and for what is not to be seen, and wants
// the same status, headers and body, and the same on record but for the hash of what was asked for.
func TestA404DoesNotTellWhatIsHiddenFromWhatIsNot(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	row := func(sql string, args ...any) string {
		t.Helper()
		var id uuid.UUID
		if err := g.pool.QueryRow(t.Context(), sql+` RETURNING id`, args...).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id.String()
	}
	ada := made.SubjectUserID
	bo := row(`INSERT INTO users (email) VALUES ('bo@example.org')`)
	team := row(`INSERT INTO teams (name) VALUES ('ours')`)
	if _, err := g.pool.Exec(t.Context(), `INSERT INTO team_members (team_id, user_id) VALUES ($1, $2)`, team, ada); err != nil {
		t.Fatal(err)
	}
	gone := row(`INSERT INTO tasks (owner_id, title) VALUES ($1, 'gone')`, ada)
	if _, err := g.pool.Exec(t.Context(), `DELETE FROM tasks WHERE id = $1`, gone); err != nil {
		t.Fatal(err)
	}
	note := row(`INSERT INTO notes (owner_id, title) VALUES ($1, 'a note')`, ada)

	get, post := http.MethodGet, http.MethodPost
	tasks, notes := fedapi.Base+"/resources/tasks", fedapi.Base+"/resources/notes"
	groups := map[string][]struct{ name, method, path string }{
		"get": {
			{"no row has this id", get, tasks + "/" + uuid.NewString()},
			{"a row that was deleted", get, tasks + "/" + gone},
			{"another user's row", get, tasks + "/" + row(`INSERT INTO tasks (owner_id, title) VALUES ($1, 'his')`, bo)},
			{"another user's long row", get, tasks + "/" + row(`INSERT INTO tasks (owner_id, title, body) VALUES ($1, 'his', repeat('long ', 40000))`, bo)},
			{"a row of a team that the scope leaves out", get, tasks + "/" + row(`INSERT INTO tasks (owner_id, team_id, title) VALUES ($1, $2, 'ours')`, ada, team)},
			{"her own row of another resource", get, tasks + "/" + note},
			{"no UUID", get, tasks + "/" + strings.Repeat("x", 36)},
		},
		"get elsewhere": {
			{"her own row in a resource outside the scope", get, notes + "/" + note},
			{"no row in a resource outside the scope", get, notes + "/" + uuid.NewString()},
		},
		"list elsewhere": {
			{"a resource outside the scope", get, notes},
			{"another one, which is empty", get, fedapi.Base + "/resources/memory"},
			{"a sensitive one", get, fedapi.Base + "/resources/api_keys"},
			{"no such resource", get, fedapi.Base + "/resources/widgets"},
			{"a mistake in what is not in scope", get, notes + "?limit=0"},
		},
		"search elsewhere": {
			{"a resource outside the scope", post, notes + "/search"},
			{"no such resource", post, fedapi.Base + "/resources/widgets/search"},
		},
	}
	for _, version := range []string{http1, http2} {
		c := g.client(g.presenting(cert), version)
		var all *seen404
		for group, cases := range groups {
			var first *onRecord
			for _, tt := range cases {
				got := g.ask404(c, tt.method, tt.path)
				if all == nil {
					all = &got
				} else if !reflect.DeepEqual(*all, got) {
					t.Errorf("%s, %s: %s is answered with\n%+v\nand another 404 with\n%+v", version, group, tt.name, got, *all)
				}
				record := g.lastRecord(t)
				if first == nil {
					first = &record
				}
				if group != "get" {
					record.Resource = first.Resource // which one was named is on record, for the serving side only
				}
				if record != *first {
					t.Errorf("%s, %s: %s is on record as\n%+v\nand another 404 as\n%+v", version, group, tt.name, record, *first)
				}
			}
		}
		if all.Status != http.StatusNotFound || !strings.Contains(all.Body, `"code":"not_found"`) || all.Header.Get("Content-Length") == "" {
			t.Errorf("%+v is no 404", all)
		}
	}
}

// seen404 is all that a caller sees of an answer, without what goes on by itself: the date and the limit's count.
type seen404 struct {
	Status int
	Header http.Header
	Body   string
	Length int64
	Coding []string
}

func (g *gateway) ask404(c *http.Client, method, path string) seen404 {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, "https://"+g.addr+path, strings.NewReader(`{"query":"x"}`))
	if method == http.MethodGet {
		req, err = http.NewRequestWithContext(g.t.Context(), method, "https://"+g.addr+path, nil)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Request-Id", "the-same-for-all")
	resp, err := c.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, name := range []string{"Date", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit"} {
		if resp.Header.Get(name) == "" {
			g.t.Errorf("%s %s is answered without %s", method, path, name)
		}
		resp.Header.Set(name, "moves")
	}
	return seen404{resp.StatusCode, resp.Header, string(body), resp.ContentLength, resp.TransferEncoding}
}

// onRecord is the audit row of a request, without its times, its id and the hash of what was asked for.
type onRecord struct {
	RequestID, Direction, Actor, Peer, Grant, Subject, Verb, Resource, Outcome, Reason, Detail string
	Status, Rows, Occurrences                                                                  int
	Bytes                                                                                      int64
	Hashed                                                                                     bool
}

func (g *gateway) lastRecord(t *testing.T) onRecord {
	t.Helper()
	var r onRecord
	err := g.pool.QueryRow(context.WithoutCancel(t.Context()), `SELECT request_id, direction, actor, peer_id::text, grant_id::text, subject_user_id::text, verb, resource,
		outcome, denied_reason, detail, status_code, rows_out, occurrences, bytes_out, query_hash IS NOT NULL
		FROM federation_audit_log WHERE direction = 'inbound' ORDER BY created_at DESC LIMIT 1`).
		Scan(&r.RequestID, &r.Direction, &r.Actor, &r.Peer, &r.Grant, &r.Subject, &r.Verb, &r.Resource,
			&r.Outcome, &r.Reason, &r.Detail, &r.Status, &r.Rows, &r.Occurrences, &r.Bytes, &r.Hashed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
