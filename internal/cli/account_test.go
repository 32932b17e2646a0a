package cli_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	alice = `{"id":"0a000000-0000-4000-8000-000000000001","email":"alice@example.org","display_name":"Alice","role":"member","disabled_at":null,"created_at":"2026-03-01T11:58:00Z","updated_at":"2026-03-01T11:58:00Z"}`
	bob   = `{"id":"0b000000-0000-4000-8000-000000000002","email":"bob@example.org","display_name":"","role":"admin","disabled_at":"2026-02-28T12:00:00Z","created_at":"2025-12-01T12:00:00Z","updated_at":"2026-02-28T12:00:00Z"}`
	team  = `{"id":"0c000000-0000-4000-8000-000000000003","name":"design","created_at":"2026-03-01T09:00:00Z","members":["0a000000-0000-4000-8000-000000000001","0d000000-0000-4000-8000-000000000004"]}`
)

// sent checks the one request that was made: its line, and its body as JSON.
func (g *gateway) sent(t *testing.T, line, body string) {
	t.Helper()
	seen := g.only(t)
	if got := seen.method + " " + seen.uri; got != line {
		t.Errorf("asked %s, want %s", got, line)
	}
	if body == "" {
		if seen.body != "" {
			t.Errorf("sent %q, want no body", seen.body)
		}
		return
	}
	var got, want any
	if err := json.Unmarshal([]byte(seen.body), &got); err != nil {
		t.Fatalf("sent %q: %v", seen.body, err)
	}
	if err := json.Unmarshal([]byte(body), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	if kind := seen.header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("content type %q, want application/json", kind)
	}
}

// Every command that is one request: what it sends, what a person sees, what a script gets.
func TestAccountCommands(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, line     string
		route          string
		answer         reply
		sends, body    string
		stdout, stderr string
		json           string
	}{
		{
			"user create", "user create alice@example.org", "POST /api/users", doc(201, alice), "POST /api/users", `{"email":"alice@example.org"}`,
			"id     0a000000-0000-4000-8000-000000000001\nemail  alice@example.org\nname   Alice\nrole   member\n", "", alice,
		},
		{
			"user create with everything", "user create a@b.c --name Al --role auditor", "POST /api/users", doc(201, alice), "POST /api/users",
			`{"email":"a@b.c","display_name":"Al","role":"auditor"}`,
			"id     0a000000-0000-4000-8000-000000000001\nemail  alice@example.org\nname   Alice\nrole   member\n", "", alice,
		},
		{
			"user list", "user list", "GET /api/users", doc(200, `{"data":[`+alice+`,`+bob+`]}`), "GET /api/users", "",
			"ID                                    EMAIL              NAME   ROLE    STATE             CREATED\n" +
				"0a000000-0000-4000-8000-000000000001  alice@example.org  Alice  member  active            2m ago\n" +
				"0b000000-0000-4000-8000-000000000002  bob@example.org    -      admin   disabled 24h ago  90d ago\n",
			"", `[` + alice + `,` + bob + `]`,
		},
		{"no users", "user list", "GET /api/users", doc(200, `{"data":[]}`), "GET /api/users", "", "", "no users yet: mosaic user create EMAIL\n", "[]"},
		{"no list", "user list", "GET /api/users", doc(200, `{"data":null}`), "GET /api/users", "", "", "no users yet: mosaic user create EMAIL\n", "[]"},
		{
			"team create", "team create design", "POST /api/teams", doc(201, team), "POST /api/teams", `{"name":"design"}`,
			"id    0c000000-0000-4000-8000-000000000003\nname  design\n", "", team,
		},
		{
			"team add", "team add design a+b/c@example.org", "PUT /api/teams/{team}/members/{user}", doc(204, ""), "PUT /api/teams/design/members/a+b%2Fc@example.org", "",
			"", "a+b/c@example.org is in team design\n", `{"ok":true}`,
		},
		{
			"team remove", "team remove design alice@example.org", "DELETE /api/teams/{team}/members/{user}", doc(204, ""), "DELETE /api/teams/design/members/alice@example.org", "",
			"", "alice@example.org is no longer in team design\n", `{"ok":true}`,
		},
		{
			"token create", "token create --user alice@example.org --ttl 1h", "POST /api/tokens",
			doc(201, `{"id":"t1","token":"mos_secret","user_id":"u","name":"","expires_at":"2026-03-01T13:00:00Z"}`), "POST /api/tokens", `{"user":"alice@example.org","ttl":"1h"}`,
			"mos_secret\n", "token t1, expires 2026-03-01T13:00:00Z (in 60m); it is not shown again\n",
			`{"id":"t1","token":"mos_secret","user_id":"u","name":"","expires_at":"2026-03-01T13:00:00Z"}`,
		},
		{"token revoke", "token revoke t1", "DELETE /api/tokens/{id}", doc(204, ""), "DELETE /api/tokens/t1", "", "", "token t1 is revoked\n", `{"ok":true}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := serve(t, map[string]reply{tt.route: tt.answer})
			g.mosaic(t, tt.line).want(t, 0, tt.stdout, tt.stderr)
			g.sent(t, tt.sends, tt.body)

			g = serve(t, map[string]reply{tt.route: tt.answer})
			got := g.mosaic(t, tt.line+" --json")
			got.want(t, 0, tt.json+"\n", "")
			got.one(t)
			g.sent(t, tt.sends, tt.body)
		})
	}
}

func TestATableShowsNamesWhereTheGatewayHasIDs(t *testing.T) {
	t.Parallel()
	tokens := `[{"id":"t1","user_id":"0b000000-0000-4000-8000-000000000002","expires_at":"2026-03-02T12:00:00Z","created_at":"2026-03-01T12:00:00Z"},` +
		`{"id":"t2","user_id":"u","expires_at":"2026-03-01T12:00:00Z","last_used_at":"2026-03-01T11:59:48Z","created_at":"2026-02-28T12:00:00Z"},` +
		`{"id":"t3","user_id":"u","expires_at":null,"revoked_at":"2026-03-01T12:00:00Z","created_at":"2026-02-27T00:00:00Z"}]`
	g := serve(t, map[string]reply{
		"GET /api/users":  doc(200, `{"data":[`+alice+`,`+bob+`]}`),
		"GET /api/teams":  doc(200, `{"data":[`+team+`]}`),
		"GET /api/tokens": doc(200, `{"data":`+tokens+`}`),
	})
	g.mosaic(t, "team list").want(t, 0,
		"ID                                    NAME    MEMBERS                                                  CREATED\n"+
			"0c000000-0000-4000-8000-000000000003  design  alice@example.org, 0d000000-0000-4000-8000-000000000004  3h ago\n", "")
	g.mosaic(t, "token list").want(t, 0,
		"ID  USER             STATE    EXPIRES  LAST USED  CREATED\n"+
			"t1  bob@example.org  live     in 24h   -          now\n"+
			"t2  u                expired  now      12s ago    24h ago\n"+
			"t3  u                revoked  -        -          3d ago\n", "")

	before := len(g.asked())
	g.mosaic(t, "token list --json").want(t, 0, tokens+"\n", "")
	if n := len(g.asked()) - before; n != 1 {
		t.Errorf("a script's list took %d requests, want 1: names are for people", n)
	}
}

// Whoever may list teams and not users still sees the teams.
func TestATableFallsBackToIDs(t *testing.T) {
	t.Parallel()
	g := serve(t, map[string]reply{
		"GET /api/teams": doc(200, `{"data":[`+team+`]}`),
		"GET /api/users": problem(403, `{"detail":"no","code":"forbidden"}`),
	})
	got := g.mosaic(t, "team list")
	if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, "0a000000-0000-4000-8000-000000000001, 0d000000") {
		t.Errorf("exit code %d, stdout %q, stderr %q; want the ids", got.code, got.stdout, got.stderr)
	}
}

func TestRemoteTextCannotActOnTheTerminal(t *testing.T) {
	t.Parallel()
	evil := `{"data":[{"id":"1","email":"\u001b[2J\u0007a\u009b31m\u202egro\u2066.x\r\n2  root@example.org","display_name":"\u0000\u007f` + "\u009b\u202e" + `\ttab","role":"member","created_at":"2026-03-01T12:00:00Z"}]}`
	g := serve(t, map[string]reply{"GET /api/users": doc(200, evil), "POST /api/users": doc(201, strings.TrimSuffix(strings.TrimPrefix(evil, `{"data":[`), `]}`))})
	g.mosaic(t, "user list").want(t, 0,
		"ID  EMAIL                              NAME  ROLE    STATE   CREATED\n"+
			"1   [2Ja31mgro.x  2  root@example.org   tab  member  active  now\n", "")
	g.mosaic(t, "user create a@b.c").want(t, 0, "id     1\nemail  [2Ja31mgro.x\n       2  root@example.org\nname    tab\nrole   member\n", "")

	got := g.mosaic(t, "user list --json")
	if strings.ContainsAny(got.stdout, "\x1b\x7f\u009b\u202e") {
		t.Errorf("stdout %q holds characters that act on a terminal", got.stdout)
	}
	var want any
	if err := json.Unmarshal([]byte(evil), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.(map[string]any)["data"], got.one(t)); diff != "" {
		t.Errorf("the document means something else (-want +got):\n%s", diff)
	}
}
