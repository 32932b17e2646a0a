package cli_test

import (
	"fmt"
	"strings"
	"testing"
)

const (
	grantID = "9a000000-0000-4000-8000-000000000009"

	plainScope     = `{"resources":["tasks","notes"],"excluded_resources":["credentials"],"filters":{"tasks":{"include_teams":["0c000000-0000-4000-8000-000000000003"],"include_personal":true}},"max_rows_per_query":500}`
	sensitiveScope = `{"resources":["credentials"],"excluded_resources":[],"filters":{},"max_rows_per_query":1}`

	enrollment = `{"url":"https://work.example.org/api/federation/enrollment/TOKEN?ca=abc","token":"TOKEN","expires_at":"2026-03-01T12:15:00Z","ca_fingerprint":"abc"}`
)

// aGrant is a grant on the wire.
func aGrant(status, scope, more string) string {
	return fmt.Sprintf(`{"id":%q,"peer_id":"p","peer":"home","subject_user_id":"0a000000-0000-4000-8000-000000000001","status":%q,"scope":%s,"rate_per_minute":120,"burst":60,
		"expires_at":"2026-05-30T12:00:00Z","created_at":"2026-03-01T12:00:00Z"%s}`, grantID, status, scope, more)
}

// federated starts a gateway that knows alice and the team design, with further routes.
func federated(t *testing.T, routes map[string]reply) *gateway {
	t.Helper()
	routes["GET /api/users"] = doc(200, `{"data":[`+alice+`]}`)
	routes["GET /api/teams"] = doc(200, `{"data":[`+team+`]}`)
	return serve(t, routes)
}

func TestGrantCreateSaysWhatItOpensAndWhatToDoNext(t *testing.T) {
	t.Parallel()
	g := federated(t, map[string]reply{
		"POST /api/federation/grants": doc(201, `{"grant":`+aGrant("pending", plainScope, "")+`,"enrollment":`+enrollment+`}`),
	})
	scope := write(t, plainScope)
	g.mosaic(t, "federation grant create --peer home --user alice@example.org --scope "+scope).want(t, 0,
		`grant       9a000000-0000-4000-8000-000000000009
peer        home
user        alice@example.org
status      pending
opens       tasks: the user's personal rows and rows of team design.
            notes: the user's personal rows.
            Never: credentials.
            At most 500 rows per query.
rate        120/min, burst 60
created     2026-03-01T12:00:00Z (now)
expires     2026-05-30T12:00:00Z (in 90d)
enrollment  https://work.example.org/api/federation/enrollment/TOKEN?ca=abc
valid       once, until 2026-03-01T12:15:00Z (in 15m)
`, "hint: on the other gateway: mosaic federation peer add 'https://work.example.org/api/federation/enrollment/TOKEN?ca=abc' --name NAME\n")
}

func TestGrantCreatePassesWarningsOnToScriptsToo(t *testing.T) {
	t.Parallel()
	answer := `{"grant":` + aGrant("pending", plainScope, "") + `,"enrollment":` + enrollment +
		`,"warnings":[{"path":"filters.tasks.include_teams[0]","detail":"there is no team \u001b[31mx here"}]}`
	g := federated(t, map[string]reply{"POST /api/federation/grants": doc(201, answer)})
	r := g.mosaic(t, "federation grant create --json --peer home --user u --scope "+write(t, plainScope))
	r.want(t, 0, answer+"\n", "warning: filters.tasks.include_teams[0]: there is no team [31mx here\n")
}

func TestGrantCreateSendsWhatItWasGivenAndNothingElse(t *testing.T) {
	t.Parallel()
	answer := `{"grant":` + aGrant("pending", plainScope, "") + `,"enrollment":` + enrollment + `}`
	// Keys that repeat and numbers in other forms are for the gateway to refuse: they reach it as they are written.
	odd := `{"resources":["tasks"],"resources":["notes"],"max_rows_per_query":1e2}`
	tests := []struct{ name, flags, scope, body string }{
		{"the least", "", plainScope, `{"peer":"home","user":"u","scope":` + plainScope + `}`},
		{
			"everything", "--expires 90d --token-ttl 1h --rate 2/s --burst 0", odd,
			`{"peer":"home","user":"u","scope":` + odd + `,"expires":"90d","token_ttl":"1h","rate":"2/s","burst":0}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := federated(t, map[string]reply{"POST /api/federation/grants": doc(201, answer)})
			c := call{
				args:  strings.Fields("federation grant create --json --peer home --user u --scope - --dir " + g.dir + " " + tt.flags),
				stdin: strings.NewReader(" " + tt.scope + "\n"),
			}
			c.run(t).want(t, 0, answer+"\n", "")
			if got := g.only(t).body; got != tt.body {
				t.Errorf("sent %s, want %s", got, tt.body)
			}
		})
	}
}

func TestAScopeThatIsNoDocumentIsRefusedHere(t *testing.T) {
	t.Parallel()
	g := serve(t, nil)
	for _, scope := range []string{"", "tasks", "[]", `{"resources":`, `{} {}`, "{\"resources\":[\"\xff\"]}x", `{"a":"` + strings.Repeat("x", 64<<10) + `"}`} {
		g.mosaic(t, "federation grant create --peer p --user u --scope", write(t, scope)).refused(t, 1, "scope_invalid")
	}
	g.mosaic(t, "federation grant create --peer p --user u --scope /nope").want(t, 1, "",
		"mosaic: /nope cannot be read: no such file or directory (file_unreadable)\nhint: check its name and its permissions; - reads standard input\n")
	g.mosaic(t, "federation grant create --peer p --user u --scope", t.TempDir()).refused(t, 1, "file_unreadable")
	if seen := g.asked(); len(seen) > 0 {
		t.Errorf("the gateway was asked: %v", seen)
	}
}

func TestASensitiveGrantWaitsForApproval(t *testing.T) {
	t.Parallel()
	answer := `{"grant":` + aGrant("pending", sensitiveScope, "") + `,"enrollment":null}`
	g := federated(t, map[string]reply{"POST /api/federation/grants": doc(201, answer)})
	line := "federation grant create --peer home --user u --scope " + write(t, sensitiveScope)
	got := g.mosaic(t, line)
	want := "The scope holds credentials or API keys: an admin has to approve the grant before it can be enrolled.\n" +
		"hint: mosaic federation grant approve " + grantID + " --reason REASON --dir " + g.dir + ", then mosaic federation grant token " + grantID + " --dir " + g.dir + "\n"
	if got.code != 0 || got.stderr != want || !strings.Contains(got.stdout, "status   pending, needs approval\n") || strings.Contains(got.stdout, "enrollment") {
		t.Errorf("exit code %d, stdout:\n%s\nstderr:\n%s\nwant the status, and:\n%s", got.code, got.stdout, got.stderr, want)
	}
	g.mosaic(t, line+" --json").want(t, 0, answer+"\n", "")
}

func TestGrantCommands(t *testing.T) {
	t.Parallel()
	active := aGrant("active", plainScope, `,"activated_at":"2026-03-01T12:00:00Z"`)
	revoked := aGrant("revoked", plainScope, `,"approved_at":"2026-03-01T12:00:00Z","approval_reason":"audit","revoked_at":"2026-03-01T12:00:00Z","revoked_reason":"left\nthe firm"`)
	strange := strings.Replace(aGrant("dormant", `{"resources":["dreams"],"depth":3}`, ""), `"2026-05-30T12:00:00Z"`, "null", 1)
	g := federated(t, map[string]reply{
		"GET /api/federation/grants":                        doc(200, `{"data":[`+active+`,`+aGrant("pending", sensitiveScope, "")+`,`+strange+`]}`),
		"GET /api/federation/grants/active":                 doc(200, active),
		"GET /api/federation/grants/revoked":                doc(200, revoked),
		"GET /api/federation/grants/strange":                doc(200, strange),
		"POST /api/federation/grants/" + grantID + "/token": doc(201, `{"grant":`+active+`,"enrollment":`+enrollment+`}`),
		"POST /api/federation/grants/{id}/approve":          doc(200, active),
		"POST /api/federation/grants/{id}/revoke":           doc(200, revoked),
	})
	g.mosaic(t, "federation grant list").want(t, 0,
		`ID                                    PEER  USER               STATUS                   RESOURCES    EXPIRES  CREATED
9a000000-0000-4000-8000-000000000009  home  alice@example.org  active                   tasks,notes  in 90d   now
9a000000-0000-4000-8000-000000000009  home  alice@example.org  pending, needs approval  credentials  in 90d   now
9a000000-0000-4000-8000-000000000009  home  alice@example.org  dormant                  dreams       -        now
`, "")
	for id, want := range map[string][]string{
		"active":  {"status     active\n", "activated  2026-03-01T12:00:00Z (now)\n"},
		"revoked": {"approved  2026-03-01T12:00:00Z (now): audit\n", "revoked   2026-03-01T12:00:00Z (now): left\n          the firm\n"},
		"strange": {"status   dormant\n", `opens    {"resources":["dreams"],"depth":3}` + "\n", "expires  when revoked\n"},
	} {
		got := g.mosaic(t, "federation grant show "+id)
		for _, part := range want {
			if got.code != 0 || got.stderr != "" || !strings.Contains(got.stdout, part) {
				t.Errorf("grant show %s: exit code %d, stderr %q, stdout:\n%s\nwant %q", id, got.code, got.stderr, got.stdout, part)
			}
		}
	}
	g.mosaic(t, "federation grant show active --json").want(t, 0, active+"\n", "")
	g.mosaic(t, "federation grant token "+grantID).want(t, 0, "https://work.example.org/api/federation/enrollment/TOKEN?ca=abc\n",
		"valid once, until 2026-03-01T12:15:00Z (in 15m)\nhint: on the other gateway: mosaic federation peer add 'https://work.example.org/api/federation/enrollment/TOKEN?ca=abc' --name NAME\n")
	g.mosaic(t, "federation grant token --json "+grantID).want(t, 0, enrollment+"\n", "")
	g.mosaic(t, "federation grant approve 1 --reason audit").want(t, 0, "", "grant "+grantID+" is approved\nhint: mosaic federation grant token "+grantID+" --dir "+g.dir+"\n")
	g.mosaic(t, "federation grant revoke 1").want(t, 0, "", "grant "+grantID+" of peer home is revoked\n")
	g.mosaic(t, "federation grant revoke 1 --reason gone --json").want(t, 0, revoked+"\n", "")
	g.mosaic(t, "federation grant show missing").refused(t, 1, "route_not_found")

	bodies := map[string]string{}
	for _, r := range g.asked() {
		if r.method == "POST" {
			bodies[r.uri] += r.body
		}
	}
	for uri, want := range map[string]string{"/approve": `{"reason":"audit"}`, "/revoke": `{}{"reason":"gone"}`} {
		if got := bodies["/api/federation/grants/1"+uri]; got != want {
			t.Errorf("%s sent %s, want %s", uri, got, want)
		}
	}
}

const held = `{"id":"c1","state":"active","remote_grant_id":"rg","remote_subject_user_id":"ru","federation_url":"https://work.example.org:3443","not_after":"2026-03-31T12:00:00Z","users":["0a000000-0000-4000-8000-000000000001","x"]}`

func aPeer(name, state, credentials string) string {
	return fmt.Sprintf(`{"id":"p1","name":%q,"display_name":"","state":%q,"endpoint_url":"https://work.example.org:3443","ca_fingerprint":"abc","created_at":"2026-03-01T12:00:00Z",
		"last_seen_at":null,"revoked_at":null,"grants":2,"credentials":[%s]}`, name, state, credentials)
}

func TestPeerCommands(t *testing.T) {
	t.Parallel()
	failing := strings.NewReplacer(`"2026-03-31T12:00:00Z"`, `"2026-02-28T12:00:00Z"`, `"users"`, `"renewal_error":"the peer is away","users"`).Replace(held)
	making := strings.NewReplacer(`"active"`, `"pending"`, `"2026-03-31T12:00:00Z"`, `null`, `"rg"`, "null").Replace(held)
	work := aPeer("work", "active", held)
	const removed = `{"ok":true,"hung_up":[{"grant_id":"rg","told":true},{"grant_id":"rh","told":false,"detail":"it is away"}]}`
	g := federated(t, map[string]reply{
		"GET /api/federation/peers":                 doc(200, `{"data":[`+work+`,`+aPeer("old", "suspended", failing+","+making)+`,`+aPeer("new", "pending", "")+`]}`),
		"GET /api/federation/peers/{peer}":          doc(200, work),
		"POST /api/federation/peers/{peer}/suspend": doc(200, work),
		"POST /api/federation/peers/{peer}/resume":  doc(200, work),
		"POST /api/federation/peers/{peer}/revoke":  doc(200, work),
		"DELETE /api/federation/peers/{peer}":       doc(200, removed),
	})
	g.mosaic(t, "federation peer list").want(t, 0,
		`ID  NAME  STATE      GRANTS  CREDENTIALS                                      ENDPOINT                       LAST SEEN
p1  work  active     2       active, expires in 30d                           https://work.example.org:3443  -
p1  old   suspended  2       active, expired 24h ago, renewal fails; pending  https://work.example.org:3443  -
p1  new   pending    2       -                                                https://work.example.org:3443  -
`, "")
	g.mosaic(t, "federation peer show work").want(t, 0,
		`id              p1
name            work
display name    -
state           active
endpoint        https://work.example.org:3443
CA fingerprint  abc
grants          2
created         2026-03-01T12:00:00Z (now)
last seen       -
credential      c1 (active)
                their grant rg
                their user ru
                asked at https://work.example.org:3443
                used by alice@example.org, x
                until 2026-03-31T12:00:00Z (in 30d)
`, "")
	g.mosaic(t, "federation peer show work --json").want(t, 0, work+"\n", "")
	g.mosaic(t, "federation peer suspend work --reason odd").want(t, 0, "", "peer work is suspended\n")
	g.mosaic(t, "federation peer resume work").want(t, 0, "", "peer work is active again\n")
	g.mosaic(t, "federation peer revoke work --json").want(t, 0, work+"\n", "")
	g.mosaic(t, "federation peer remove work").want(t, 0, "", "peer work is removed\nits grant rg was given back\nits grant rh could not be given back: it is away\n")
	g.mosaic(t, "federation peer remove work --json").want(t, 0, removed+"\n", "")
}

func TestPeerAddTakesTheURLFromWhereItIs(t *testing.T) {
	t.Parallel()
	const url = "https://work.example.org/api/federation/enrollment/TOKEN?ca=abc"
	answer := `{"peer":` + aPeer("work", "active", held) + `,"credential":` + held + `}`
	for name, arg := range map[string]string{"itself": url, "a file": write(t, url+"\n"), "standard input": "-"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := federated(t, map[string]reply{"POST /api/federation/peers": doc(201, answer)})
			c := call{args: strings.Fields("federation peer add --json --name work --user alice@example.org --dir " + g.dir + " " + arg), stdin: strings.NewReader(url + "\n")}
			c.run(t).want(t, 0, answer+"\n", "")
			g.sent(t, "POST /api/federation/peers", `{"enrollment_url":"`+url+`","name":"work","user":"alice@example.org"}`)
		})
	}
	g := federated(t, map[string]reply{"POST /api/federation/peers": doc(201, answer)})
	g.mosaic(t, "federation peer add --json --replace-ca "+url).want(t, 0, answer+"\n", "")
	g.sent(t, "POST /api/federation/peers", `{"enrollment_url":"`+url+`","replace_ca":true}`)
	g = federated(t, map[string]reply{"POST /api/federation/peers": doc(201, answer)})
	g.mosaic(t, "federation peer add "+url).want(t, 0,
		`peer        work
state       active
credential  c1 (active)
            their grant rg
            their user ru
            asked at https://work.example.org:3443
            used by alice@example.org, x
            until 2026-03-31T12:00:00Z (in 30d)
`, "hint: ask it: mosaic federation query work tasks --dir "+g.dir+"\n")
	g.mosaic(t, "federation peer add TOKEN").want(t, 1, "",
		"mosaic: ENROLLMENT_URL is neither an enrollment URL nor a file that can be read (file_unreadable)\nhint: check its name and its permissions; - reads standard input\n")
}

func TestQueryAsksForWhatWasMeant(t *testing.T) {
	t.Parallel()
	const base = "/api/federation/peers/work/resources/tasks"
	tests := []struct{ line, sends, body, actFor string }{
		{"work tasks", "GET " + base, "", ""},
		{"work tasks --limit 0 --cursor a/b+c= --user alice@example.org", "GET " + base + "?cursor=a%2Fb%2Bc%3D&limit=0", "", "alice@example.org"},
		{"work tasks 7", "GET " + base + "/7", "", ""},
		{"work tasks a?b --user u", "GET " + base + "/a%3Fb", "", "u"},
		{"work tasks --search ship", "POST " + base + "/search", `{"query":"ship"}`, ""},
		{"work tasks --search ship --limit 3", "POST " + base + "/search", `{"query":"ship","limit":3}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			t.Parallel()
			answer := `{"data":[],"page":{"limit":50,"capped":false,"next_cursor":null}}`
			g := serve(t, map[string]reply{"/api/federation/peers/": doc(200, answer)})
			g.mosaic(t, "federation query --json "+tt.line).want(t, 0, answer+"\n", "")
			g.sent(t, tt.sends, tt.body)
			if got := g.only(t).header.Values("Mosaic-Act-For"); strings.Join(got, ",") != tt.actFor {
				t.Errorf("acts for %q, want %q", got, tt.actFor)
			}
		})
	}
}

func TestQueryShowsRowsToAPerson(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("word ", 20)
	row := `{"id":"r1","title":"Ship \u001b[31mit","body":"` + long + `\nsecond","status":"open","owner_id":"u","team_id":null,"created_at":"2026-02-01T12:00:00Z","updated_at":"2026-03-01T11:55:00Z","source":"work","novel":{"a":1}}`
	g := serve(t, map[string]reply{
		"GET /api/federation/peers/work/resources/tasks":    doc(200, `{"data":[`+row+`,{"id":"r2"}],"page":{"limit":2,"capped":true,"next_cursor":"x y"}}`),
		"GET /api/federation/peers/work/resources/tasks/r1": doc(200, `{"data":`+row+`}`),
		"GET /api/federation/peers/work/resources/notes":    doc(200, `{"data":[],"page":{"limit":50,"capped":false,"next_cursor":null}}`),
		"GET /api/federation/peers/work/resources/dreams":   doc(200, `{"data":[{"id":"d1","depth":3}],"page":{"limit":50}}`),
	})
	g.mosaic(t, "federation query work tasks --limit 9 --user alice@example.org").want(t, 0,
		`ID  TITLE        BODY                                              STATUS  UPDATED  SOURCE
r1  Ship [31mit  word word word word word word word word word wo…  open    5m ago   work
r2  -            -                                                 -       -        -
`, "the peer gives no more than 2 at a time\nhint: more rows: mosaic federation query work tasks --dir "+g.dir+" --limit 9 --user alice@example.org --cursor 'x y'\n")
	g.mosaic(t, "federation query work tasks r1").want(t, 0, "id          r1\ntitle       Ship [31mit\nbody        "+long+"\n            second\nstatus      open\n"+
		"owner_id    u\nteam_id     -\ncreated_at  2026-02-01T12:00:00Z\nupdated_at  2026-03-01T11:55:00Z\nsource      work\nnovel       {\"a\":1}\n", "")
	g.mosaic(t, "federation query work notes").want(t, 0, "", "no rows of notes are visible there\n")
	g.mosaic(t, "federation query work dreams").want(t, 0, "ID  UPDATED  SOURCE\nd1  -        -\n", "")
}

func TestAuditList(t *testing.T) {
	t.Parallel()
	entries := `[{"request_id":"r1","direction":"inbound","actor":"","peer_name":"home","verb":"list","resource":"tasks","status_code":200,"outcome":"ok","denied_reason":"","detail":"","rows_out":3,"occurrences":1,"created_at":"2026-03-01T11:00:00.5Z"},` +
		`{"request_id":"r2","direction":"inbound","actor":"","peer_name":"home","verb":"list","resource":"tasks","status_code":403,"outcome":"denied","denied_reason":"grant_revoked","detail":"","rows_out":0,"occurrences":12,"created_at":"2026-03-01T10:00:00Z"},` +
		`{"request_id":"r3","direction":"admin","actor":"socket:uid=0","peer_name":"","verb":"user.create","resource":"","status_code":200,"outcome":"ok","denied_reason":"","detail":"a@b.c","rows_out":0,"occurrences":1,"created_at":"2026-02-28T10:00:00Z"}]`
	g := serve(t, map[string]reply{"GET /api/federation/audit": doc(200, `{"data":`+entries+`,"page":{"limit":3,"capped":false,"next_cursor":"c"}}`)})
	more := "only the newest 3 entries are shown: --limit N shows more, up to 10000\n"
	g.mosaic(t, "federation audit list").want(t, 0,
		`TIME                  DIRECTION  PEER  ACTOR         VERB         RESOURCE  OUTCOME                               ROWS  DETAIL  REQUEST ID
2026-03-01T11:00:00Z  inbound    home  -             list         tasks     200 ok                                3     -       r1
2026-03-01T10:00:00Z  inbound    home  -             list         tasks     403 denied: grant_revoked (12 times)  0     -       r2
2026-02-28T10:00:00Z  admin      -     socket:uid=0  user.create  -         200 ok                                0     a@b.c   r3
`, more)
	got := g.mosaic(t, "federation audit list --limit 3 --peer home --user a@b.c --json")
	got.want(t, 0, entries+"\n", more)
	if rows, ok := got.one(t).([]any); !ok || len(rows) != 3 {
		t.Errorf("got %v, want an array of 3", rows)
	}
	if uri := g.asked()[1].uri; uri != "/api/federation/audit?limit=3&peer=home&user=a%40b.c" {
		t.Errorf("asked %s", uri)
	}
	g = serve(t, map[string]reply{"GET /api/federation/audit": doc(200, `{"data":[],"page":{"limit":50,"capped":false,"next_cursor":null}}`)})
	g.mosaic(t, "federation audit list").want(t, 0, "", "the audit log has nothing of that\n")
	g.mosaic(t, "federation audit list --json").want(t, 0, "[]\n", "")
}
