package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// who may call an operation. Everybody else is denied.
type who []account.Role

var (
	admins     = who{account.Admin}
	readers    = who{account.Admin, account.Auditor} // who sees what the gateway does
	rowHolders = who{account.Admin, account.Member}  // who has rows and asks peers
)

// permitted is one operation, as an admin calls it with success.
type permitted struct {
	who  who
	ok   int    // what an admin is answered
	path string // of the objects that newCast makes
	body string
}

// operations is every operation of the API by its id. One that is added to the API is added here, with whoever may
// call it.
var operations = map[string]permitted{
	"user-create": {admins, 201, "/api/users", `{"email":"new@example.org"}`},
	"user-list":   {readers, 200, "/api/users", ""},
	"user-show":   {readers, 200, "/api/users/target@example.org", ""},
	"user-update": {admins, 200, "/api/users/target@example.org", `{"role":"admin"}`},
	"user-delete": {admins, 204, "/api/users/target@example.org", ""},

	"team-create": {admins, 201, "/api/teams", `{"name":"new"}`},
	"team-list":   {readers, 200, "/api/teams", ""},
	"team-delete": {admins, 204, "/api/teams/empty", ""},
	"team-add":    {admins, 204, "/api/teams/empty/members/target@example.org", ""},
	"team-remove": {admins, 204, "/api/teams/crew/members/target@example.org", ""},

	"token-create": {admins, 201, "/api/tokens", `{"user":"admin@example.org"}`},
	"token-list":   {admins, 200, "/api/tokens", ""},
	"token-revoke": {admins, 204, "/api/tokens/{token}", ""},

	"resource-list":   {rowHolders, 200, "/api/resources/tasks", ""},
	"resource-show":   {rowHolders, 200, "/api/resources/tasks/{task}", ""},
	"resource-create": {rowHolders, 201, "/api/resources/tasks", `{"title":"new"}`},
	"resource-update": {rowHolders, 200, "/api/resources/tasks/{task}", `{"title":"changed"}`},
	"resource-delete": {rowHolders, 204, "/api/resources/tasks/{task}", ""},
	"resource-search": {rowHolders, 200, "/api/resources/tasks/search", `{"query":"new"}`},
	"resource-import": {admins, 200, "/api/resources/tasks/import?owner=target@example.org", `{"title":"new"}`},

	"grant-create":  {admins, 201, "/api/federation/grants", `{"peer":"new","user":"target@example.org","scope":{"resources":["tasks"],"max_rows_per_query":1}}`},
	"grant-list":    {readers, 200, "/api/federation/grants", ""},
	"grant-show":    {readers, 200, "/api/federation/grants/{grant}", ""},
	"grant-token":   {admins, 201, "/api/federation/grants/{grant}/token", `{}`},
	"grant-approve": {admins, 200, "/api/federation/grants/{sensitive}/approve", `{"reason":"because"}`},
	"grant-revoke":  {admins, 200, "/api/federation/grants/{grant}/revoke", `{}`},

	"peer-list":         {readers, 200, "/api/federation/peers", ""},
	"peer-show":         {readers, 200, "/api/federation/peers/home", ""},
	"peer-add":          {admins, 422, "/api/federation/peers", `{"enrollment_url":"https://nowhere.example/"}`},
	"peer-suspend":      {admins, 200, "/api/federation/peers/active/suspend", `{}`},
	"peer-resume":       {admins, 200, "/api/federation/peers/suspended/resume", `{}`},
	"peer-revoke":       {admins, 200, "/api/federation/peers/home/revoke", `{}`},
	"peer-limit":        {admins, 200, "/api/federation/peers/home/limit", `{"rate":"600/min"}`},
	"peer-unlimit":      {admins, 200, "/api/federation/peers/home/limit", ""},
	"peer-remove":       {admins, 200, "/api/federation/peers/home", ""},
	"peer-share-user":   {admins, 404, "/api/federation/peers/home/users/ada@example.org", ""},
	"peer-share-team":   {admins, 404, "/api/federation/peers/home/teams/platform", ""},
	"peer-unshare-user": {admins, 404, "/api/federation/peers/home/users/ada@example.org", ""},
	"peer-unshare-team": {admins, 404, "/api/federation/peers/home/teams/platform", ""},

	// Nobody here holds a credential, and so a peer is not available: 403 of its own code, after the role was asked.
	"peer-query-list":   {rowHolders, 403, "/api/federation/peers/home/resources/tasks", ""},
	"federated-search":  {rowHolders, 200, "/api/federation/resources/tasks/search", `{"query":"x"}`},
	"federated-list":    {rowHolders, 200, "/api/federation/resources/tasks", ""},
	"peer-capabilities": {rowHolders, 403, "/api/federation/peers/home/capabilities", ""},
	"peer-query-search": {rowHolders, 403, "/api/federation/peers/home/resources/tasks/search", `{"query":"new"}`},
	"peer-query-get":    {rowHolders, 403, "/api/federation/peers/home/resources/tasks/{task}", ""},

	"audit-list":       {readers, 200, "/api/federation/audit", ""},
	"audit-export":     {readers, 200, "/api/federation/audit/export", ""},
	"audit-checkpoint": {readers, 200, "/api/federation/audit/checkpoint", ""},
	"audit-key":        {readers, 200, "/api/federation/audit/key", ""},

	"keyring-show":   {admins, 200, "/api/keyring", ""},
	"keyring-rotate": {admins, 204, "/api/keyring/rotate", ""},
	"keyring-retire": {admins, 204, "/api/keyring/retire", `{"id":7}`},

	"ca-show":   {admins, 200, "/api/federation/ca/roots", ""},
	"ca-rotate": {admins, 204, "/api/federation/ca/rotate", ""},
	"ca-finish": {admins, 204, "/api/federation/ca/finish", `{"force":true}`},
}

// endpoint is an operation as the API describes it.
type endpoint struct{ method, template string }

// public are the operations for strangers: whoever holds an enrollment token, and whoever probes.
var public = []string{"enrollment-redeem", "enrollment-redeem-path", "enrollment-explain", "federation-crl", "health", "health-live", "health-ready"}

// described reads every operation that asks who is calling out of the API's own description.
func (a *api) described() map[string]endpoint {
	a.t.Helper()
	got := a.ask(http.MethodGet, a.url+"/openapi.json", "")
	var doc struct {
		Paths map[string]map[string]struct {
			ID       string `json:"operationId"`
			Security []map[string][]string
		}
	}
	if err := json.Unmarshal(got.body, &doc); err != nil || got.status != http.StatusOK {
		a.t.Fatalf("openapi.json: %d %v", got.status, err)
	}
	out := map[string]endpoint{}
	for template, methods := range doc.Paths {
		for method, op := range methods {
			if _, twice := out[op.ID]; twice || op.ID == "" {
				a.t.Errorf("%s %s: operation id %q is missing or taken", method, template, op.ID)
			}
			if len(op.Security) == 1 && len(op.Security[0]) == 0 {
				if !slices.Contains(public, op.ID) {
					a.t.Errorf("%s is described as open to everybody", op.ID)
				}
				continue
			}
			out[op.ID] = endpoint{strings.ToUpper(method), template}
		}
	}
	return out
}

// fits tells whether a path is one of a template's.
func (e endpoint) fits(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	want, got := strings.Split(e.template, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(w, g string) bool { return w == g || strings.HasPrefix(w, "{") })
}

// caller is somebody who asks, by the headers they send.
type caller struct {
	name   string
	header []string
	code   string // what they are refused with; empty for a role that may be allowed
	role   account.Role
}

func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// cast is who asks and what there is to ask for.
type cast struct {
	callers []caller
	admin   caller
	objects *strings.Replacer
}

func (a *api) newCast() cast {
	a.t.Helper()
	admin, member, auditor := a.user("admin@example.org", account.Admin), a.user("member@example.org", account.Member), a.user("auditor@example.org", account.Auditor)
	target := a.user("target@example.org", account.Member)
	for _, email := range []string{"gone@example.org", "off@example.org"} {
		a.user(email, account.Admin)
	}
	for _, team := range []string{"crew", "empty"} {
		if _, err := a.accounts.CreateTeam(a.t.Context(), team, act); err != nil {
			a.t.Fatal(err)
		}
	}
	for _, u := range []account.User{admin, member, auditor, target} {
		if err := a.accounts.AddMember(a.t.Context(), "crew", u.Email, act); err != nil {
			a.t.Fatal(err)
		}
	}
	g, _ := a.grantFor("home", target.Email, `{"resources":["tasks"],"max_rows_per_query":5}`)
	sensitive, _ := a.grantFor("home", target.Email, `{"resources":["credentials"],"max_rows_per_query":5}`)
	a.exec(`INSERT INTO federation_peers (name, state) VALUES ('active', 'active'), ('suspended', 'suspended')`)
	_, spare := a.token(target.Email)
	task := a.task(admin, "crew")

	secret := func(email string) []string { s, _ := a.token(email); return bearer(s) }
	revoked, revokedID := a.token(admin.Email)
	if err := a.accounts.RevokeToken(a.t.Context(), revokedID, uuid.Nil, act); err != nil {
		a.t.Fatal(err)
	}
	expired, expiredID := a.token(admin.Email)
	a.exec(`UPDATE api_tokens SET expires_at = now() WHERE id = $1`, expiredID)
	gone := secret("gone@example.org")
	if err := a.accounts.DeleteUser(a.t.Context(), "gone@example.org", act); err != nil {
		a.t.Fatal(err)
	}
	disabled, yes := secret("off@example.org"), true
	if _, err := a.accounts.UpdateUser(a.t.Context(), "off@example.org", postgres.UserChange{Disabled: &yes}, act); err != nil {
		a.t.Fatal(err)
	}
	as := func(h []string, user string) []string { return append(slices.Clone(h), httpapi.HeaderActFor, user) }
	adminHeader := secret(admin.Email)
	c := cast{admin: caller{"an admin", adminHeader, "", account.Admin}, objects: strings.NewReplacer(
		"{token}", spare.String(), "{task}", task.String(), "{grant}", g.ID.String(), "{sensitive}", sensitive.ID.String(),
	)}
	c.callers = []caller{
		{"nobody", nil, "unauthenticated", ""},
		{"a name and password", []string{"Authorization", "Basic YWRtaW46YWRtaW4="}, "unauthenticated", ""},
		{"an empty token", bearer(""), "unauthenticated", ""},
		{"garbage", bearer("x"), "token_invalid", ""},
		{"a token nobody has", bearer(account.TokenPrefix + strings.Repeat("A", 43)), "token_invalid", ""},
		{"an admin's token without its prefix", bearer(strings.TrimPrefix(adminHeader[1], "Bearer "+account.TokenPrefix)), "token_invalid", ""},
		{"an admin's revoked token", bearer(revoked), "token_invalid", ""},
		{"an admin's expired token", bearer(expired), "token_invalid", ""},
		{"a disabled admin's token", disabled, "token_invalid", ""},
		{"a deleted admin's token", gone, "token_invalid", ""},
		{"an admin who acts for a disabled user", as(adminHeader, "off@example.org"), "forbidden", ""},
		{"a member who acts for an admin", as(secret(member.Email), admin.Email), "forbidden", ""},
		{"an auditor who acts for an admin", as(secret(auditor.Email), admin.Email), "forbidden", ""},
		{"an auditor", secret(auditor.Email), "", account.Auditor},
		{"a member", secret(member.Email), "", account.Member},
	}
	return c
}

// state is a digest of everything the API can change, but for when a token was last used.
func (a *api) state() string {
	a.t.Helper()
	all := []string{fmt.Sprint(a.keyring.changes.Load(), a.ca.changes.Load())}
	for _, table := range []string{
		"users", "teams", "team_members", "api_tokens", "tasks", "federation_peers", "federation_grants",
		"federation_enrollment_tokens", "federation_certificates", "federation_credentials", "federation_audit_log",
	} {
		all = append(all, a.text(`SELECT coalesce(md5(string_agg(d, ',' ORDER BY d)), '') FROM (SELECT (to_jsonb(t) - 'last_used_at')::text d FROM `+table+` t) x`))
	}
	return strings.Join(all, " ")
}

func TestEveryOperationIsInTheTableOfRoles(t *testing.T) {
	t.Parallel()
	described := newAPI(t).described()
	for id, e := range described {
		if _, ok := operations[id]; !ok {
			t.Errorf("%s (%s %s) has no row in the table: say who may call it", id, e.method, e.template)
		}
	}
	for id, op := range operations {
		if e, ok := described[id]; !ok {
			t.Errorf("%s is in the table and not in the API", id)
		} else if !e.fits(op.path) {
			t.Errorf("%s is called at %s, which is not %s", id, op.path, e.template)
		}
	}
}

func TestEveryOperationAnswersTheRolesOfTheTableAndNobodyElse(t *testing.T) {
	t.Parallel()
	for id, op := range operations {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			e, ok := a.described()[id]
			if !ok {
				t.Fatal("not in the API")
			}
			people := a.newCast()
			call := func(c caller) answer {
				return a.ask(e.method, a.url+people.objects.Replace(op.path), op.body, append(slices.Clone(c.header), "Content-Type", contentType(id))...)
			}
			before := a.state()
			var allowed []caller
			for _, c := range people.callers {
				if slices.Contains(op.who, c.role) {
					allowed = append(allowed, c)
					continue
				}
				want, status := c.code, http.StatusUnauthorized
				if want == "" {
					want = "forbidden"
				}
				if want == "forbidden" {
					status = http.StatusForbidden
				}
				got := call(c)
				if code := got.code(t); got.status != status || code != want {
					t.Errorf("%s: %d %s, want %d %s", c.name, got.status, got.body, status, want)
				}
				if challenge := got.header.Get("WWW-Authenticate"); (challenge != "") != (status == http.StatusUnauthorized) {
					t.Errorf("%s: WWW-Authenticate %q with status %d", c.name, challenge, status)
				}
			}
			if a.state() != before {
				t.Error("a caller who was denied has changed something")
			}
			for _, c := range allowed {
				got := call(c)
				if got.status == http.StatusUnauthorized || got.status >= 500 || got.status == http.StatusForbidden && got.code(t) == "forbidden" {
					t.Errorf("%s: %d %s, want it allowed", c.name, got.status, got.body)
				}
			}
			if got := call(people.admin); got.status != op.ok || got.status == http.StatusForbidden && got.code(t) != "peer_not_available" {
				t.Errorf("an admin: %d %s, want %d", got.status, got.body, op.ok)
			}
		})
	}
}

func contentType(operation string) string {
	if operation == "resource-import" {
		return "application/x-ndjson"
	}
	return "application/json"
}

func TestAnOperationThatNamesNoPermissionAnswersNobody(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		metadata map[string]any
		admin    int
	}{
		{"no metadata", nil, 403},
		{"no permission", map[string]any{"else": account.UsersRead}, 403},
		{"an empty permission", map[string]any{httpapi.PermissionKey: account.Permission("")}, 403},
		{"an unknown permission", map[string]any{httpapi.PermissionKey: account.Permission("planets:read")}, 403},
		{"a permission of another type", map[string]any{httpapi.PermissionKey: string(account.UsersRead)}, 403},
		{"a permission", map[string]any{httpapi.PermissionKey: account.UsersRead}, 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			a.user("admin@example.org", account.Admin)
			admin, _ := a.token("admin@example.org")
			var ran atomic.Int32
			url := a.serve(httpapi.Guard(a.config, huma.Operation{Method: http.MethodGet, Path: "/new", OperationID: "new", Metadata: tt.metadata}, func() { ran.Add(1) }))
			got := a.ask(http.MethodGet, url+"/new", "", bearer(admin)...)
			if got.status != tt.admin || (ran.Load() > 0) != (tt.admin == http.StatusOK) {
				t.Errorf("an admin: %d %s, handler ran %d times; want %d", got.status, got.body, ran.Load(), tt.admin)
			}
			if got.status == http.StatusForbidden && got.code(t) != "forbidden" {
				t.Errorf("%s, want forbidden", got.body)
			}
			if got := a.ask(http.MethodGet, url+"/new", ""); got.status != http.StatusUnauthorized {
				t.Errorf("nobody: %d, want 401", got.status)
			}
		})
	}
}

func TestARoleThatChangesCountsFromTheNextRequest(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.user("admin@example.org", account.Admin)
	a.user("other@example.org", account.Admin)
	admin, _ := a.token("admin@example.org")
	other, _ := a.token("other@example.org")
	users := func() int { return a.ask(http.MethodGet, a.url+"/api/users", "", bearer(other)...).status }
	change := func(doc string) {
		t.Helper()
		if got := a.ask(http.MethodPatch, a.url+"/api/users/other@example.org", doc, append(bearer(admin), "Content-Type", "application/json")...); got.status != http.StatusOK {
			t.Fatalf("%d %s", got.status, got.body)
		}
	}
	for _, step := range []struct {
		change string
		want   int
	}{
		{`{}`, 200}, {`{"role":"member"}`, 403}, {`{"role":"auditor"}`, 200}, {`{"disabled":true}`, 401}, {`{"disabled":false}`, 200},
	} {
		change(step.change)
		if got := users(); got != step.want {
			t.Errorf("after %s: %d, want %d", step.change, got, step.want)
		}
	}
}
