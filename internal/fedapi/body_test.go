package fedapi_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fedapi"
)

// send asks with a body that may never end.
func (g *gateway) send(c *http.Client, method, path string, body io.Reader, headers ...string) answer {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, "https://"+g.addr+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	var a answer
	if a.Response, err = c.Do(req); err != nil {
		g.t.Fatal(err)
	}
	defer func() { _ = a.Response.Body.Close() }()
	if a.body, err = io.ReadAll(a.Response.Body); err != nil {
		g.t.Fatal(err)
	}
	return a
}

// TestACompressedRequestIsAMistakeLikeAnother: it is told to those who may ask, limited and on record, under every
// address, and does nothing.
func TestACompressedRequestIsAMistakeLikeAnother(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	g.exec(`UPDATE federation_grants SET rate_per_minute = 1, burst = 9 WHERE id = $1`, made.ID)
	c := g.client(g.presenting(cert), http2)
	for i, tt := range []struct{ method, path, verb string }{
		{http.MethodGet, capabilities, "capabilities"},
		{http.MethodGet, fedapi.Base + "/crl", "crl"},
		{http.MethodGet, tasks, "list"},
		{http.MethodGet, tasks + "/8ac5cd17-30b6-4a4c-8b9c-4a4f1a2a7a10", "get"},
		{http.MethodPost, searchTasks, "search"},
		{http.MethodPost, fedapi.Base + "/certificate/renew", "renew"},
		{http.MethodPost, fedapi.Base + "/hangup", "hangup"},
		{http.MethodGet, "/elsewhere", "unknown"},
		{http.MethodPut, tasks, "unknown"},
	} {
		a := g.send(c, tt.method, tt.path, nil, "Content-Encoding", "gzip", "X-Request-Id", tt.verb+tt.method)
		a.wantProblem(t, http.StatusUnsupportedMediaType, "content_encoding_unsupported")
		if left := a.number(t, "RateLimit-Remaining"); left != 8-i {
			t.Errorf("%s %s: %d remaining, want %d", tt.method, tt.path, left, 8-i)
		}
		if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE request_id = $1 AND verb = $2 AND status_code = 415 AND grant_id = $3`, tt.verb+tt.method, tt.verb, made.ID); n != 1 {
			t.Errorf("%s %s: %d rows on record, want 1", tt.method, tt.path, n)
		}
	}
	g.send(c, http.MethodGet, tasks, nil, "Content-Encoding", "gzip").wantProblem(t, http.StatusTooManyRequests, "rate_limited")
	if n := g.count(`SELECT count(*) FROM federation_grants WHERE id = $1 AND status = 'active'`, made.ID); n != 1 {
		t.Error("the grant was hung up")
	}
	g.exec(`UPDATE federation_grants SET status = 'revoked', revoked_at = now(), version = version + 1 WHERE id = $1`, made.ID)
	g.send(c, http.MethodGet, tasks, nil, "Content-Encoding", "gzip").wantProblem(t, http.StatusForbidden, "grant_revoked")
}

func TestABodyThatDoesNotComeIsTheClientsMistake(t *testing.T) {
	t.Parallel()
	for _, version := range []string{http1, http2} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			cert, _ := g.enrol("ada@example.org")
			c := g.client(g.presenting(cert), version)
			if a := g.post(c, searchTasks, `{"query":"x"}`); a.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			if a := g.get(c, capabilities); a.StatusCode != http.StatusOK || !a.reused {
				t.Errorf("after a body that came: %d, the connection was kept: %t", a.StatusCode, a.reused)
			}
			g.clock.ahead.Store(int64(-4 * time.Second)) // of the 5 s one is left
			body, w := io.Pipe()
			go func() { _, _ = io.WriteString(w, `{"query":`) }()
			defer w.Close()
			started := time.Now()
			a := g.send(c, http.MethodPost, searchTasks, body, "Content-Type", "application/json", "X-Request-Id", "slow")
			g.clock.ahead.Store(0)
			a.wantProblem(t, http.StatusBadRequest, "body_too_slow")
			if took := time.Since(started); took < 900*time.Millisecond {
				t.Errorf("given up after %s", took)
			}
			if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE request_id = 'slow' AND verb = 'search' AND denied_reason = 'body_too_slow' AND outcome = 'denied'`); n != 1 {
				t.Errorf("%d rows on record, want one that says so", n)
			}
			if a := g.get(c, capabilities); a.StatusCode != http.StatusOK {
				t.Errorf("afterwards: %d %s", a.StatusCode, a.body)
			}
		})
	}
}
