package fedapi_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/postgres"
)

func (g *gateway) exec(sql string, args ...any) {
	g.t.Helper()
	if _, err := g.pool.Exec(g.t.Context(), sql, args...); err != nil {
		g.t.Fatal(err)
	}
}

// number is a header that has to be a whole number of at least 0.
func (a answer) number(t *testing.T, name string) int {
	t.Helper()
	n, err := strconv.Atoi(a.Header.Get(name))
	if err != nil || n < 0 {
		t.Errorf("%d: %s is %q, want a number", a.StatusCode, name, a.Header.Get(name))
	}
	return n
}

const tasks = fedapi.Base + "/resources/tasks"

func TestAnswersTellWhereTheirLimitStands(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	g.exec(`UPDATE federation_grants SET rate_per_minute = 2, burst = 4 WHERE id = $1`, made.ID)
	c := g.client(g.presenting(cert), http2)
	for i, path := range []string{tasks, capabilities, fedapi.Base + "/resources/nothing", tasks + "?limit=0", tasks} {
		a := g.get(c, path)
		remaining, limited := max(3-i, 0), i == 4
		if got := a.number(t, "RateLimit-Remaining"); got != remaining || a.number(t, "RateLimit-Limit") != 4 {
			t.Errorf("%s: %d of %s remaining, want %d of 4", path, got, a.Header.Get("RateLimit-Limit"), remaining)
		}
		if reset, full := a.number(t, "RateLimit-Reset"), 30*(4-remaining); reset > full || reset < full-15 {
			t.Errorf("%s: whole again in %d s, want about %d", path, reset, full)
		}
		want := `"grant";r=` + strconv.Itoa(remaining) + `;t=` + a.Header.Get("RateLimit-Reset")
		if a.Header.Get("RateLimit-Policy") != `"grant";q=2;w=60;burst=4` || a.Header.Get("RateLimit") != want {
			t.Errorf("%s: policy %q, %q", path, a.Header.Get("RateLimit-Policy"), a.Header.Get("RateLimit"))
		}
		if !limited {
			if a.Header.Get("Retry-After") != "" || a.StatusCode == http.StatusTooManyRequests {
				t.Errorf("%s: %d with Retry-After %q", path, a.StatusCode, a.Header.Get("Retry-After"))
			}
			continue
		}
		a.wantProblem(t, http.StatusTooManyRequests, "rate_limited")
		if wait := a.number(t, "Retry-After"); wait < 1 || wait > 30 {
			t.Errorf("wait %d s for what 30 s bring", wait)
		}
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE direction = 'inbound' AND verb IN ('list', 'capabilities')`); n != 4 {
		t.Errorf("%d audit rows, want the four that were answered", n)
	}

	g.exec(`UPDATE federation_peers SET state = 'suspended'`)
	a := g.get(c, tasks)
	a.wantProblem(t, http.StatusForbidden, "peer_suspended")
	for name := range a.Header {
		if strings.HasPrefix(name, "Ratelimit") {
			t.Errorf("who may not ask is told of limits: %s", name)
		}
	}
}

func TestAPeersLimitIsInForceWhenItWasSet(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	other, _ := g.enrol("bob@example.org")
	peers := &postgres.Peers{DB: g.stores}
	a, b := g.client(g.presenting(cert), http2), g.client(g.presenting(other), http2)
	for _, c := range []*http.Client{a, b} { // their plans are kept from here on
		if got := g.get(c, tasks); got.Header.Get("RateLimit-Limit") != "60" {
			t.Fatalf("%d %v", got.StatusCode, got.Header)
		}
	}
	if err := peers.SetLimit(t.Context(), "home", &grant.Limit{PerMinute: 1, Burst: 3}, act); err != nil {
		t.Fatal(err)
	}
	for i, c := range []*http.Client{a, b, a} {
		if got := g.get(c, tasks); got.StatusCode != http.StatusOK || got.number(t, "RateLimit-Remaining") != 2-i || !strings.HasPrefix(got.Header.Get("RateLimit-Policy"), `"peer";q=1;`) {
			t.Errorf("request %d: %d %v", i+1, got.StatusCode, got.Header)
		}
	}
	g.get(b, tasks).wantProblem(t, http.StatusTooManyRequests, "rate_limited")
	if err := peers.SetLimit(t.Context(), "home", nil, act); err != nil {
		t.Fatal(err)
	}
	if got := g.get(b, tasks); got.StatusCode != http.StatusOK || !strings.HasPrefix(got.Header.Get("RateLimit-Policy"), `"grant";`) {
		t.Errorf("the limit was lifted: %d %v", got.StatusCode, got.Header)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'peer.limit' AND detail IN ('1/min, burst 3', 'no limit')`); n != 2 {
		t.Errorf("%d audit rows of the two changes", n)
	}
}

func TestACertificateThatKeepsKnockingIsToldHowLongToWait(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	g.exec(`UPDATE federation_certificates SET revoked_at = now(), revoked_reason = 'test'`)
	c := g.client(g.presenting(cert), http2)
	for range 60 {
		g.get(c, tasks).wantProblem(t, http.StatusUnauthorized, "certificate_revoked")
	}
	a := g.get(c, tasks)
	a.wantProblem(t, http.StatusTooManyRequests, "rate_limited")
	if wait := a.number(t, "Retry-After"); wait < 1 || wait > 60 || a.number(t, "RateLimit-Remaining") != 0 || a.number(t, "RateLimit-Reset") != wait {
		t.Errorf("%v", a.Header)
	}
}

func TestABudgetOfRowsHoldsForTheDay(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	g.exec(`UPDATE federation_grants SET rows_per_day = 7 WHERE id = $1`, made.ID)
	g.exec(`INSERT INTO tasks (owner_id, title) SELECT $1, 'task ' || n FROM generate_series(1, 20) n`, made.SubjectUserID)
	c := g.client(g.presenting(cert), http2)
	rows := func(a answer) int { return strings.Count(string(a.body), `"title"`) }

	if a := g.get(c, tasks+"?limit=4"); rows(a) != 4 || !strings.Contains(string(a.body), `"capped":false`) {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := g.get(c, tasks+"?limit=4"); rows(a) != 3 || !strings.Contains(string(a.body), `"limit":3,"capped":true`) || strings.Contains(string(a.body), `"next_cursor":null`) {
		t.Errorf("of four rows three are left: %d %s", a.StatusCode, a.body)
	}
	spent := func(a answer) {
		t.Helper()
		a.wantProblem(t, http.StatusTooManyRequests, "row_budget_spent")
		left := time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour))
		if wait := time.Duration(a.number(t, "Retry-After")) * time.Second; (wait-left).Abs() > time.Minute && left > time.Minute {
			t.Errorf("wait %s, the day ends in %s", wait, left)
		}
	}
	spent(g.get(c, tasks))
	if a := g.get(c, capabilities); !strings.Contains(string(a.body), `"row_budget":{"rows_per_day":7,"remaining":0,"resets_at":"`) {
		t.Errorf("%s", a.body)
	}
	if n := g.count(`SELECT coalesce(sum(rows_out), 0) FROM federation_audit_log WHERE verb = 'list'`); n != 7 {
		t.Errorf("%d rows on record, want 7", n)
	}
	g.exec(`UPDATE federation_row_budgets SET day = day - 1`)
	if a := g.get(c, tasks+"?limit=4"); rows(a) != 4 {
		t.Errorf("the next day: %d %s", a.StatusCode, a.body)
	}
}
