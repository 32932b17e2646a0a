package fedapi_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fedapi"
)

const listTasks = fedapi.Base + "/resources/tasks"

// holding is a request of a peer that keeps answers: with no tag, it holds none.
func holding(tag string) http.Header {
	if tag == "" {
		tag = `""`
	}
	return http.Header{"If-None-Match": {tag}}
}

// kept wants an answer that may be kept, and gives its tag.
func (a answer) kept(t *testing.T, status int, control string) string {
	t.Helper()
	tag := a.Header.Get("ETag")
	if a.StatusCode != status || a.Header.Get("Cache-Control") != control || len(tag) < 3 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.body)
	}
	if status == http.StatusNotModified && (len(a.body) > 0 || a.Header.Get("X-Request-Id") == "" || a.Header.Get("RateLimit-Limit") == "") {
		t.Fatalf("%v %q", a.Header, a.body)
	}
	return tag
}

func TestAnAnswerThatIsHeldIsConfirmedAfterTheWholeCheck(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	var id string
	for range 3 {
		if err := g.pool.QueryRow(t.Context(), `INSERT INTO tasks (owner_id, title) VALUES ($1, 'Buy milk') RETURNING id`, made.SubjectUserID).Scan(&id); err != nil {
			t.Fatal(err)
		}
	}
	const control = "private, max-age=300"
	for _, version := range []string{http1, http2} {
		c := g.client(g.presenting(cert), version)
		for name, ask := range map[string]func(tag string) answer{
			"list":          func(tag string) answer { return g.get(c, listTasks, holding(tag)) },
			"a page of two": func(tag string) answer { return g.get(c, listTasks+"?limit=2", holding(tag)) }, // its cursor is sealed anew each time
			"get":           func(tag string) answer { return g.get(c, listTasks+"/"+id, holding(tag)) },
			"search": func(tag string) answer {
				return g.post(c, searchTasks, `{"query":"milk","mode":"lexical"}`, "If-None-Match", holding(tag)["If-None-Match"][0])
			},
		} {
			tag := ask("").kept(t, http.StatusOK, control)
			if again := ask(tag).kept(t, http.StatusNotModified, control); again != tag {
				t.Errorf("%s: the tag %s was confirmed as %s", name, tag, again)
			}
			if again := ask(`"x", W/`+tag).kept(t, http.StatusNotModified, control); again != tag {
				t.Errorf("%s: %s among others is %s", name, tag, again)
			}
			ask(`"x"`).kept(t, http.StatusOK, control)
			if a := ask("*"); len(a.body) == 0 {
				t.Errorf("%s: the tag of an answer that is not sent: %d %v", name, a.StatusCode, a.Header)
			}
			if _, err := g.pool.Exec(t.Context(), `UPDATE tasks SET title = title || ' and milk' WHERE id = $1`, id); err != nil {
				t.Fatal(err)
			}
			if changed := ask(tag).kept(t, http.StatusOK, control); changed == tag {
				t.Errorf("%s: another answer has the same tag", name)
			}
		}
		// Whoever keeps nothing is told to keep nothing.
		if a := g.get(c, listTasks); a.StatusCode != 200 || a.Header.Get("ETag") != "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %v", a.StatusCode, a.Header)
		}
		if a := g.get(c, capabilities, holding("")); a.StatusCode != 200 || a.Header.Get("ETag") != "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("capabilities: %d %v", a.StatusCode, a.Header)
		}
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE direction = 'inbound' AND status_code = 304`); n != 16 {
		t.Errorf("%d confirmations on record, want 16", n)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE status_code = 304 AND (rows_out <> 0 OR bytes_out <> 0 OR outcome <> 'ok' OR grant_id <> $1 OR query_hash IS NULL)`, made.ID); n != 0 {
		t.Errorf("%d confirmations say that something left, or not who asked", n)
	}
	// Refused is refused, whatever is held.
	c := g.client(g.presenting(cert), http2)
	tag := g.get(c, listTasks, holding("")).kept(t, http.StatusOK, control)
	for _, sql := range []string{
		`UPDATE federation_grants SET status = 'revoked', revoked_at = now(), version = version + 1`,
		`UPDATE federation_grants SET status = 'active', revoked_at = NULL, version = version + 1`,
	} {
		if _, err := g.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		a := g.get(c, listTasks, holding(tag))
		if strings.Contains(sql, "'revoked'") {
			a.wantProblem(t, http.StatusForbidden, "grant_revoked")
		} else {
			a.kept(t, http.StatusNotModified, control)
		}
	}
}

func TestACursorOfAnAnswerThatWasConfirmedGoesOn(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	if _, err := g.pool.Exec(t.Context(), `INSERT INTO tasks (owner_id, title) SELECT $1, 'Task ' || n FROM generate_series(1, 5) n`, made.SubjectUserID); err != nil {
		t.Fatal(err)
	}
	c := g.client(g.presenting(cert), http2)
	read := func(a answer) (ids []string, cursor string) {
		var doc struct {
			Data []struct{ ID string }
			Page struct {
				Next *string `json:"next_cursor"`
			}
		}
		if err := json.Unmarshal(a.body, &doc); err != nil {
			t.Fatal(err)
		}
		for _, row := range doc.Data {
			ids = append(ids, row.ID)
		}
		if doc.Page.Next != nil {
			cursor = *doc.Page.Next
		}
		return ids, cursor
	}
	first := g.get(c, listTasks+"?limit=2", holding(""))
	tag := first.kept(t, http.StatusOK, "private, max-age=300")
	ids, cursor := read(first)
	seen := map[string]bool{}
	for {
		for _, id := range ids {
			if seen[id] {
				t.Errorf("%s came twice", id)
			}
			seen[id] = true
		}
		if cursor == "" {
			break
		}
		g.get(c, listTasks+"?limit=2", holding(tag)).kept(t, http.StatusNotModified, "private, max-age=300")
		ids, cursor = read(g.get(c, listTasks+"?limit=2&cursor="+cursor, holding("")))
	}
	if len(seen) != 5 {
		t.Errorf("%d of 5 rows", len(seen))
	}
}

// A grant of which nothing may be kept gives no tag, and confirms nothing.
func TestNothingIsKeptOfAGrantThatForbidsIt(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	if _, err := g.pool.Exec(t.Context(), `UPDATE federation_grants SET cache_seconds = 0`); err != nil {
		t.Fatal(err)
	}
	c := g.client(g.presenting(cert), http2)
	for _, tag := range []string{"", "*", `"x"`} {
		if a := g.get(c, listTasks, holding(tag)); a.StatusCode != 200 || a.Header.Get("ETag") != "" || a.Header.Get("Cache-Control") != "no-store" || len(a.body) == 0 {
			t.Errorf("%s: %d %v", tag, a.StatusCode, a.Header)
		}
	}
}

// What does not leave is no row of the grant's budget.
func TestAConfirmationSpendsNoRows(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	for _, sql := range []string{`INSERT INTO tasks (owner_id, title) SELECT $1, 'Task ' || n FROM generate_series(1, 5) n`, `UPDATE federation_grants SET rows_per_day = 8 WHERE subject_user_id = $1`} {
		if _, err := g.pool.Exec(t.Context(), sql, made.SubjectUserID); err != nil {
			t.Fatal(err)
		}
	}
	c := g.client(g.presenting(cert), http2)
	tag := g.get(c, listTasks, holding("")).kept(t, http.StatusOK, "private, max-age=300")
	for range 5 {
		g.get(c, listTasks, holding(tag)).kept(t, http.StatusNotModified, "private, max-age=300")
	}
	if n := g.count(`SELECT delivered FROM federation_row_budgets`); n != 5 {
		t.Errorf("%d rows of the budget are spent, want 5", n)
	}
}

// A tag that can be made without this gateway's key would let its holder try out what the rows say. One that is the same
// for two grants would tell each what the other sees.
func TestATagSaysNothingOfTheRows(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	seen := map[string]bool{}
	for _, email := range []string{"ada@example.org", "bob@example.org"} {
		cert, _ := g.enrol(email)
		a := g.get(g.client(g.presenting(cert), http2), listTasks, holding(""))
		tag := a.kept(t, http.StatusOK, "private, max-age=300")
		if sum := sha256.Sum256(a.body); seen[tag] || tag == `"`+base64.RawURLEncoding.EncodeToString(sum[:])+`"` {
			t.Errorf("%s of %s", tag, a.body)
		}
		seen[tag] = true
	}
}
