package fedapi_test

import (
	"net/http"
	"testing"

	"github.com/mosaicstack/gateway/internal/fedapi"
)

func TestAHangUpIsDoneOnceAndOnRecordWithIt(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	g.exec(`UPDATE federation_grants SET rate_per_minute = 1, burst = 1 WHERE id = $1`, made.ID)
	c := g.client(g.presenting(cert), http2)
	const hangup = fedapi.Base + "/hangup"
	active := func() int {
		return g.count(`SELECT count(*) FROM federation_grants WHERE id = $1 AND status = 'active'`, made.ID)
	}
	g.get(c, capabilities)
	g.post(c, hangup, ``).wantProblem(t, http.StatusTooManyRequests, "rate_limited")
	if active() != 1 {
		t.Fatal("carried out, and answered with 429")
	}
	other, made2 := g.enrol("bob@example.org")
	o := g.client(g.presenting(other), http2)
	made = made2
	a := g.post(o, hangup, ``)
	if a.StatusCode != http.StatusOK || active() != 0 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for verb, direction := range map[string]string{"hangup": "inbound", "grant.revoke": "admin"} {
		if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE request_id = $1 AND verb = $2 AND direction = $3 AND grant_id = $4 AND status_code = 200`,
			a.Header.Get("X-Request-Id"), verb, direction, made.ID); n != 1 {
			t.Errorf("%d rows of %s, want 1", n, verb)
		}
	}
	g.post(o, hangup, ``).wantProblem(t, http.StatusForbidden, "grant_revoked")
}
