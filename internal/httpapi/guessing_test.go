package httpapi_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/httpapi"
)

func TestWrongTokensAreLimitedPerAddressAndGoodOnesAreNot(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.user("ada@example.org", account.Admin)
	good, _ := a.token("ada@example.org")
	wrong := func(n int) answer {
		switch n % 3 {
		case 0:
			return a.ask(http.MethodGet, a.url+"/api/users", "", "Authorization", "Bearer garbage")
		case 1:
			return a.ask(http.MethodPost, a.url+"/api/users", `{}`, "Authorization", "Bearer "+good+"x", "Content-Type", jsonType)
		}
		return a.ask(http.MethodGet, a.url+"/api/tokens", "", "Authorization", "Bearer "+account.TokenPrefix+fmt.Sprintf("%042dA", n))
	}
	a.drained(guesses, wrong, func(_ int, got answer) { a.wantCode(got, http.StatusUnauthorized, "token_invalid") })
	for n := range 3 {
		a.wantWait(wrong(n))
	}
	for range 40 {
		if got := a.ask(http.MethodGet, a.url+"/api/users", "", "Authorization", "Bearer "+good); got.status != http.StatusOK {
			t.Fatalf("the good token of the same address: %d %s", got.status, got.body)
		}
	}
	for range 40 { // no token is no guess
		a.wantCode(a.ask(http.MethodGet, a.url+"/api/users", ""), http.StatusUnauthorized, "unauthenticated")
	}
	// Enrollment tokens are guessed at elsewhere.
	a.wantCode(a.ask(http.MethodGet, a.enrollment(guess(1)), ""), http.StatusNotFound, "enrollment_token_unknown")
}

func TestWrongTokensCountForTheClientBehindATrustedProxy(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *httpapi.Config) {
		c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	})
	from := func(client string) answer {
		return a.ask(http.MethodGet, a.url+"/api/users", "", "Authorization", "Bearer garbage", "X-Forwarded-For", client)
	}
	invalid := func(_ int, got answer) { a.wantCode(got, http.StatusUnauthorized, "token_invalid") }
	a.drained(guesses, func(n int) answer { return from("2001:db8:1:2::" + strings.Repeat("f", 1+n%4)) }, invalid)
	invalid(0, from("2001:db8:1:3::1"))
	invalid(0, from("203.0.113.8"))
}

// TestGuessesAreOnRecordAsOneRow guesses at both kinds of token, and reads the audit log when the minute has ended.
func TestGuessesAreOnRecordAsOneRow(t *testing.T) {
	t.Parallel()
	var refusals *audit.Aggregator
	a := newAPI(t, func(c *httpapi.Config) {
		at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) // one minute, however slow the machine is
		refusals = audit.NewAggregator(c.Record, c.Log, func() time.Time { return at })
		c.Note = refusals.Note
	})
	a.user("mel@example.org", account.Member)
	member, _ := a.token("mel@example.org")
	for n := range 20 {
		a.ask(http.MethodGet, a.enrollment(guess(n)), "")
		a.ask(http.MethodGet, a.url+"/api/users", "", "Authorization", "Bearer garbage")
		a.ask(http.MethodGet, a.url+"/api/users", "", "Authorization", "Bearer "+member)
	}
	refusals.Flush(t.Context())
	for reason, want := range map[string]string{
		"enrollment_token_unknown": "inbound enrollment.redeem 127.0.0.0/24 404 20 ",
		"token_invalid":            "admin api.authenticate 127.0.0.0/24 401 20 nobody",
		"forbidden":                "admin user-list 127.0.0.0/24 403 20 mel@example.org",
	} {
		got := a.text(`SELECT coalesce(string_agg(concat_ws(' ', direction, verb, remote_address, status_code, occurrences, actor), '; '), 'nothing')
			FROM federation_audit_log WHERE denied_reason = '` + reason + `' AND outcome = 'denied'`)
		if got != want {
			t.Errorf("%s: %q, want %q", reason, got, want)
		}
	}
}
