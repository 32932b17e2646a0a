package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/httpapi"
)

const (
	tasksOnly = `{"resources":["tasks"],"max_rows_per_query":5}`
	jsonType  = "application/json"
	pemType   = "application/x-pem-file"
	chainType = "application/pem-certificate-chain"
)

// enrollment is the address of a token, or the one without.
func (a *api) enrollment(token string) string {
	if token == "" {
		return a.url + "/api/federation/enrollment"
	}
	return a.url + "/api/federation/enrollment/" + token
}

// live makes a user with a grant, and gives the token of its enrollment.
func (a *api) live(email string) string {
	a.t.Helper()
	a.user(email, account.Member)
	_, token := a.grantFor("home", email, tasksOnly)
	return token
}

// guess is a token that cannot be anybody's.
func guess(n int) string { return fmt.Sprintf("%06d%s", n, strings.Repeat("A", 37)) }

func object(t *testing.T, v map[string]any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// drained asks until it is told to wait, and checks how many answers a limit gave: its burst, and what flowed back
// meanwhile.
func (a *api) drained(limit grant.Limit, ask func(n int) answer, before func(n int, got answer)) {
	a.t.Helper()
	started := time.Now()
	for n := range 10 * limit.Burst {
		got := ask(n)
		if got.status != http.StatusTooManyRequests {
			before(n, got)
			continue
		}
		flowed := int(time.Since(started).Minutes()*float64(limit.PerMinute)) + 1
		if n < limit.Burst || n > limit.Burst+flowed {
			a.t.Errorf("told to wait after %d requests in %s, want %d and at most %d more", n, time.Since(started), limit.Burst, flowed)
		}
		a.wantWait(got)
		return
	}
	a.t.Fatalf("%d requests and never told to wait", 10*limit.Burst)
}

func (a *api) wantWait(got answer) {
	a.t.Helper()
	wait, err := strconv.Atoi(got.header.Get("Retry-After"))
	if got.status != http.StatusTooManyRequests || got.code(a.t) != "rate_limited" || err != nil || wait < 1 || wait > 60 {
		a.t.Errorf("%d %s with Retry-After %q, want 429 rate_limited and how many seconds to wait", got.status, got.body, got.header.Get("Retry-After"))
	}
}

func (a *api) wantCode(got answer, status int, code string) {
	a.t.Helper()
	if c := got.code(a.t); got.status != status || c != code {
		a.t.Errorf("%d %s, want %d %s", got.status, got.body, status, code)
	}
}

func TestGuessesAreLimitedPerAddressAndLiveTokensAreNot(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token, expired := a.live("ada@example.org"), a.live("old@example.org")
	a.exec(`UPDATE federation_enrollment_tokens t SET expires_at = now() FROM federation_grants g JOIN users u ON u.id = g.subject_user_id
		WHERE g.id = t.grant_id AND u.email = 'old@example.org'`)
	csr := newCSR(t)
	// Every way to guess counts, and an expired token counts like one that never was.
	a.drained(guesses, func(n int) answer {
		switch n % 5 {
		case 0:
			return a.ask(http.MethodGet, a.enrollment(guess(n)), "")
		case 1:
			return a.ask(http.MethodPost, a.enrollment(guess(n)), csr, "Content-Type", pemType)
		case 2:
			return a.ask(http.MethodPost, a.enrollment(""), object(t, map[string]any{"token": guess(n), "csr": csr}), "Content-Type", jsonType)
		case 3:
			return a.ask(http.MethodGet, a.enrollment("no-token-at-all"), "")
		}
		return a.ask(http.MethodGet, a.enrollment(expired), "")
	}, func(n int, got answer) {
		if n%5 == 4 {
			a.wantCode(got, http.StatusGone, "enrollment_token_expired")
			return
		}
		a.wantCode(got, http.StatusNotFound, "enrollment_token_unknown")
	})
	for range 40 {
		if got := a.ask(http.MethodGet, a.enrollment(token), ""); got.status != http.StatusOK {
			t.Fatalf("the live token of the same address: %d %s", got.status, got.body)
		}
	}
	if got := a.ask(http.MethodPost, a.enrollment(token), csr, "Content-Type", pemType); got.status != http.StatusCreated {
		t.Errorf("redeeming it: %d %s", got.status, got.body)
	}
	// A used token is no guess: whoever lost an answer may ask again.
	for range 40 {
		a.wantCode(a.ask(http.MethodPost, a.enrollment(token), csr, "Content-Type", pemType), http.StatusGone, "enrollment_token_used")
	}
}

func TestGuessesCountForTheClientBehindATrustedProxy(t *testing.T) {
	t.Parallel()
	trusting := newAPI(t, func(c *httpapi.Config) {
		c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	})
	from := func(a *api, client string, n int) answer {
		return a.ask(http.MethodGet, a.enrollment(guess(n)), "", "X-Forwarded-For", client)
	}
	unknown := func(a *api) func(int, answer) {
		return func(_ int, got answer) { a.wantCode(got, http.StatusNotFound, "enrollment_token_unknown") }
	}
	// What the client itself wrote, to the left, changes nothing.
	trusting.drained(guesses, func(n int) answer { return from(trusting, fmt.Sprintf("198.51.100.%d, 203.0.113.7", n), n) }, unknown(trusting))
	trusting.wantCode(from(trusting, "203.0.113.8", 0), http.StatusNotFound, "enrollment_token_unknown")
	trusting.wantCode(trusting.ask(http.MethodGet, trusting.enrollment(guess(0)), ""), http.StatusNotFound, "enrollment_token_unknown")

	wary := newAPI(t)
	wary.drained(guesses, func(n int) answer { return from(wary, fmt.Sprintf("203.0.113.%d", n), n) }, unknown(wary))
}

func TestTriesWithALiveTokenAreLimitedPerToken(t *testing.T) {
	t.Parallel()
	csr := newCSR(t)
	for name, try := range map[string]struct {
		method, contentType, body string
		status                    int
	}{
		"looking":         {http.MethodGet, "", "", http.StatusOK},
		"bad requests":    {http.MethodPost, jsonType, `{"csr":"no request"}`, http.StatusUnprocessableEntity},
		"a closed peer's": {http.MethodPost, pemType, csr, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			token := a.live("ada@example.org")
			if try.status == http.StatusForbidden {
				a.exec(`UPDATE federation_peers SET state = 'suspended'`)
			}
			a.drained(tries, func(int) answer {
				return a.ask(try.method, a.enrollment(token), try.body, "Content-Type", try.contentType)
			}, func(n int, got answer) {
				if got.status != try.status {
					t.Fatalf("try %d: %d %s, want %d", n, got.status, got.body, try.status)
				}
			})
			a.exec(`UPDATE federation_peers SET state = 'active'`)
			neighbour := a.live("bo@example.org")
			if got := a.ask(http.MethodPost, a.enrollment(neighbour), csr, "Content-Type", pemType); got.status != http.StatusCreated {
				t.Errorf("another token of the same address: %d %s", got.status, got.body)
			}
			a.wantCode(a.ask(http.MethodGet, a.enrollment(guess(1)), ""), http.StatusNotFound, "enrollment_token_unknown")
			if n := a.text(`SELECT count(*)::text FROM federation_certificates`); n != "1" {
				t.Errorf("%s certificates, want the neighbour's", n)
			}
		})
	}
}

func TestRequestsThatCannotBeReadAreRefusedAndSpendNothing(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token, csr := a.live("ada@example.org"), newCSR(t)
	good := object(t, map[string]any{"csr": csr})
	exactly := func(n int) string { return good + strings.Repeat(" ", n-len(good)) }
	for _, tt := range []struct {
		name, token, contentType, body string
		header                         []string
		status                         int
		code                           string
	}{
		{"a byte over 64 KiB", token, jsonType, exactly(64<<10 + 1), nil, 413, "body_too_large"},
		{"a PEM over 64 KiB", token, pemType, csr + strings.Repeat("\n", 64<<10), nil, 413, "body_too_large"},
		{"too large and of no type", token, "text/plain", strings.Repeat("x", 65<<10), nil, 413, "body_too_large"},
		{"plain text", token, "text/plain", csr, nil, 415, "unsupported_media_type"},
		{"a type that cannot be read", token, "application/json; charset", good, nil, 415, "unsupported_media_type"},
		{"two types", token, "application/json, text/plain", good, nil, 415, "unsupported_media_type"},
		{"a bare PEM without a token in the address", "", pemType, csr, nil, 415, "unsupported_media_type"},
		{"gzip", token, jsonType, good, []string{"Content-Encoding", "gzip"}, 415, "content_encoding_unsupported"},
		{"nothing", token, jsonType, "", nil, 400, "bad_request"},
		{"half a document", token, jsonType, `{"csr":"`, nil, 400, "bad_request"},
		{"something behind the document", token, jsonType, good + "x", nil, 400, "bad_request"},
		{"a key nobody knows", token, jsonType, object(t, map[string]any{"csr": csr, "grant_id": "x"}), nil, 422, "request_invalid"},
		{"a list", token, jsonType, `[]`, nil, 422, "request_invalid"},
		{"a string", token, jsonType, `"x"`, nil, 422, "request_invalid"},
		{"a lifetime of another type", token, jsonType, object(t, map[string]any{"csr": csr, "ttl_seconds": "60"}), nil, 422, "request_invalid"},
		{"a lifetime with a fraction", token, jsonType, object(t, map[string]any{"csr": csr, "ttl_seconds": 60.5}), nil, 422, "request_invalid"},
		{"a lifetime beyond int64", token, jsonType, `{"csr":"x","ttl_seconds":99999999999999999999}`, nil, 422, "request_invalid"},
		{"a negative lifetime", token, jsonType, object(t, map[string]any{"csr": csr, "ttl_seconds": -1}), nil, 422, "ttl_invalid"},
		{"the token twice", token, jsonType, object(t, map[string]any{"csr": csr, "token": token}), nil, 422, "request_invalid"},
		{"no token", "", jsonType, good, nil, 422, "request_invalid"},
		{"a null token", "", jsonType, `{"token":null,"csr":"x"}`, nil, 422, "request_invalid"},
		{"an empty token", "", jsonType, `{"token":"","csr":"x"}`, nil, 404, "enrollment_token_unknown"},
		{"a null request", token, jsonType, `{"csr":null}`, nil, 422, "csr_invalid"},
		{"null", token, jsonType, `null`, nil, 422, "csr_invalid"},
		{"an empty request", token, jsonType, `{"csr":""}`, nil, 422, "csr_invalid"},
		{"a certificate instead of a request", token, pemType, strings.ReplaceAll(csr, "CERTIFICATE REQUEST", "CERTIFICATE"), nil, 422, "csr_invalid"},
		{"a broken request", token, pemType, strings.Replace(csr, "\n", "\nAAAA", 1), nil, 422, "csr_invalid"},
		{"an empty idempotency key", token, jsonType, good, []string{"Idempotency-Key", ""}, 422, "idempotency_key_invalid"},
		{"an idempotency key with a space", token, jsonType, good, []string{"Idempotency-Key", "a b"}, 422, "idempotency_key_invalid"},
		{"an idempotency key that is not ASCII", token, jsonType, good, []string{"Idempotency-Key", "schlüssel"}, 422, "idempotency_key_invalid"},
	} {
		got := a.ask(http.MethodPost, a.enrollment(tt.token), tt.body, append([]string{"Content-Type", tt.contentType}, tt.header...)...)
		if c := got.code(t); got.status != tt.status || c != tt.code {
			t.Errorf("%s: %d %s, want %d %s", tt.name, got.status, got.body, tt.status, tt.code)
		}
		if bytes.Contains(got.body, []byte("9999999999")) {
			t.Errorf("%s: the answer repeats what was sent: %s", tt.name, got.body)
		}
	}
	// A body of unknown length is bounded like any other.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.enrollment(token), io.MultiReader(strings.NewReader(exactly(65<<10))))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", jsonType)
	a.wantCode(a.send(req), http.StatusRequestEntityTooLarge, "body_too_large")

	got := a.ask(http.MethodPost, a.enrollment(token), exactly(64<<10), "Content-Type", "Application/JSON; charset=utf-8", "Idempotency-Key", strings.Repeat("~", 255))
	if got.status != http.StatusCreated {
		t.Errorf("exactly 64 KiB: %d %s; a refusal has spent the token, or the limit is off by one", got.status, got.body)
	}
}

// private is what every answer under the enrollment address must say, whoever gives it.
func private(t *testing.T, name string, got answer) {
	t.Helper()
	for header := range got.header {
		if strings.HasPrefix(header, "Access-Control-") {
			t.Errorf("%s: %s lets other sites read the answer", name, header)
		}
	}
	if got.header.Get("Cache-Control") != "no-store" || got.header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("%s: %d with Cache-Control %q and Referrer-Policy %q, want no-store and no-referrer",
			name, got.status, got.header.Get("Cache-Control"), got.header.Get("Referrer-Policy"))
	}
	if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("X-Request-Id") == "" || got.header.Get("Set-Cookie") != "" {
		t.Errorf("%s: headers %v", name, got.header)
	}
}

func TestEveryEnrollmentAnswerIsForItsCallerAlone(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token, second, csr := a.live("ada@example.org"), a.live("bo@example.org"), newCSR(t)
	origin := []string{"Origin", "https://evil.example", "Referer", "https://evil.example/"}
	for _, tt := range []struct {
		name, method, token, body string
		header                    []string
		status                    int
	}{
		{"the page", "GET", token, "", nil, 200},
		{"the page as HTML", "GET", token, "", []string{"Accept", "text/html"}, 200},
		{"an unknown token", "GET", guess(1), "", nil, 404},
		{"a preflight", "OPTIONS", token, "", []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type"}, 405},
		{"a preflight without a token", "OPTIONS", "", "", []string{"Access-Control-Request-Method", "POST"}, 405},
		{"HEAD", "HEAD", token, "", nil, 405},
		{"another method", "PUT", token, "{}", nil, 405},
		{"a method nobody knows", "BREW", token, "", nil, 405},
		{"GET without a token", "GET", "", "", nil, 405},
		{"an address below", "GET", token + "/x", "", nil, 404},
		{"a slash behind", "GET", token + "/", "", nil, 404},
		{"a compressed body", "POST", token, "x", []string{"Content-Type", jsonType, "Content-Encoding", "gzip"}, 415},
		{"a wrong type", "POST", token, "x", []string{"Content-Type", "text/html"}, 415},
		{"a large body", "POST", token, strings.Repeat("x", 65<<10), []string{"Content-Type", pemType}, 413},
		{"a broken body", "POST", token, "{", []string{"Content-Type", jsonType}, 400},
		{"a bad request", "POST", token, "x", []string{"Content-Type", pemType}, 422},
		{"a certificate as JSON", "POST", token, object(t, map[string]any{"csr": csr}), []string{"Content-Type", jsonType}, 201},
		{"a certificate as PEM", "POST", second, csr, []string{"Content-Type", pemType, "Accept", chainType}, 201},
		{"a used token", "POST", token, csr, []string{"Content-Type", pemType}, 410},
		{"the page of a used token", "GET", token, "", []string{"Accept", "text/html"}, 410},
	} {
		got := a.ask(tt.method, a.enrollment(tt.token), tt.body, append(origin, tt.header...)...)
		if got.status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.name, got.status, got.body, tt.status)
		}
		private(t, tt.name, got)
		if want := map[string]string{"a certificate as JSON": jsonType, "a certificate as PEM": chainType}[tt.name]; want != "" && got.header.Get("Content-Type") != want {
			t.Errorf("%s: content type %q", tt.name, got.header.Get("Content-Type"))
		}
		if bytes.Contains(got.body, []byte(token)) || bytes.Contains(got.body, []byte(second)) {
			t.Errorf("%s: the answer repeats the token: %s", tt.name, got.body)
		}
	}
	for n := range guesses.Burst + 30 {
		got := a.ask(http.MethodGet, a.enrollment(guess(n)), "", origin...)
		private(t, "a guess", got)
		if got.status == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("no guess was told to wait")
}

func TestThePageTellsAPersonWhatToDoAndRunsNothing(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token := a.live("ada@example.org")
	page := a.ask(http.MethodGet, a.enrollment(token), "", "Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
	if page.header.Get("Content-Type") != "text/html; charset=utf-8" || page.header.Get("Content-Security-Policy") != "default-src 'none'" {
		t.Errorf("%v", page.header)
	}
	plain := a.ask(http.MethodGet, a.enrollment(token), "")
	if plain.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%v", plain.header)
	}
	for _, got := range []answer{page, plain} {
		if !bytes.Contains(got.body, []byte("mosaic federation peer add")) || !bytes.Contains(got.body, []byte("openssl req")) {
			t.Errorf("the page does not say what to run:\n%s", got.body)
		}
	}
}

func TestTheLogNeverHoldsATokenOrWhatAStrangerWrote(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token, spent, csr := a.live("ada@example.org"), a.live("bo@example.org"), newCSR(t)
	const stranger, key = "text-of-a-stranger-8c1f", "idempotency-key-91ab"
	both := func(extra string) string {
		return object(t, map[string]any{"token": token, "csr": csr, extra: stranger})
	}
	requests := 0
	ask := func(method, target, body string, header ...string) answer {
		requests++
		return a.ask(method, target, body, append(header, "User-Agent", stranger, "Referer", a.enrollment(token), "X-Request-Id", "req-"+strconv.Itoa(requests))...)
	}
	for _, bad := range []struct{ contentType, body string }{
		{jsonType, both("unknown")},
		{jsonType, object(t, map[string]any{token: 1})},
		{jsonType, object(t, map[string]any{stranger: token})},
		{jsonType, `{"token":"` + token + `"`},
		{jsonType, `{"token":["` + token + `"]}`},
		{jsonType, `"` + token + `"`},
		{jsonType, token},
		{pemType, token},
		{"text/" + stranger, token},
		{stranger, token},
		{pemType, "-----BEGIN " + stranger + "-----\n\n-----END " + stranger + "-----\n"},
	} {
		ask(http.MethodPost, a.enrollment(""), bad.body, "Content-Type", bad.contentType)
		ask(http.MethodPost, a.enrollment(token), bad.body, "Content-Type", bad.contentType)
	}
	for _, target := range []string{
		a.enrollment(token), a.enrollment(token) + "?ca=" + token, a.enrollment(token) + "/", a.enrollment(token) + "/" + stranger,
		a.enrollment("") + "?token=" + token, a.url + "/" + token, a.url + "//api/federation/enrollment/" + token,
		a.enrollment(url.PathEscape("../" + token)), a.enrollment(token[:20]), a.enrollment(token + "A"), a.url + "/api/users?token=" + token,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodOptions, "STRANGER"} {
			ask(method, target, "")
		}
	}
	ask(http.MethodPost, a.enrollment(spent), object(t, map[string]any{"csr": csr}), "Content-Type", jsonType, "Idempotency-Key", key)
	ask(http.MethodPost, a.enrollment(spent), csr, "Content-Type", pemType, "Idempotency-Key", key+" ")
	ask(http.MethodPost, a.enrollment(""), object(t, map[string]any{"token": token, "csr": csr}), "Content-Type", jsonType, "Authorization", "Bearer "+token, "Idempotency-Key", key)

	log := a.logs.String()
	if lines := strings.Count(log, `"msg":"request"`); lines != requests {
		t.Fatalf("%d lines for %d requests", lines, requests)
	}
	for what, text := range map[string]string{
		"a token": token, "half a token": token[:20], "a spent token": spent, "half a spent token": spent[20:], "a stranger's text": stranger, "an idempotency key": key,
		"a certificate request": strings.Split(csr, "\n")[1][:40],
	} {
		if i := strings.Index(log, text); i >= 0 {
			t.Errorf("the log holds %s: …%s…", what, log[max(0, i-300):min(len(log), i+100)])
		}
	}
	if !strings.Contains(log, `"route":"/api/federation/enrollment/{token}"`) {
		t.Error("the log does not hold the route's pattern")
	}
}

func TestTheSameAnswerIsGivenAgainForTheSameKey(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token, csr := a.live("ada@example.org"), newCSR(t)
	redeem := func(csr, key string) answer {
		return a.ask(http.MethodPost, a.enrollment(""), object(t, map[string]any{"token": token, "csr": csr}), "Content-Type", jsonType, "Idempotency-Key", key)
	}
	first := redeem(csr, "k1")
	if again := redeem(csr, "k1"); first.status != http.StatusCreated || again.status != http.StatusCreated || !bytes.Equal(first.body, again.body) {
		t.Errorf("%d and %d, want the same certificate twice", first.status, again.status)
	}
	a.wantCode(redeem(csr, "k2"), http.StatusGone, enroll.ErrTokenUsed.Code)
	a.wantCode(redeem(newCSR(t), "k1"), http.StatusUnprocessableEntity, enroll.ErrKeyReused.Code)
}

func TestARedemptionIsReadStrictly(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token := a.live("ada@example.org")
	one, two := object(t, map[string]any{"csr": newCSR(t)}), object(t, map[string]any{"csr": newCSR(t)})
	got := a.ask(http.MethodPost, a.enrollment(token), strings.TrimSuffix(one, "}")+","+strings.TrimPrefix(two, "{"), "Content-Type", jsonType)
	a.wantCode(got, http.StatusUnprocessableEntity, "request_invalid")
	if p := got.problems(t); len(p) != 1 || p[0].Path != "csr" {
		t.Errorf("problems %v, want the repeated csr", p)
	}
	if got := a.ask(http.MethodPost, a.enrollment(token), one, "Content-Type", jsonType); got.status != http.StatusCreated {
		t.Errorf("the token was spent: %d %s", got.status, got.body)
	}
}

// patient is a connection whose deadline for reading is noted.
type patient struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (p *patient) SetReadDeadline(at time.Time) error {
	p.deadline = at
	return nil
}

// trickle notes the deadline that was in force when its first byte was read.
type trickle struct {
	io.Reader
	of   *patient
	read time.Time
}

func (t *trickle) Read(b []byte) (int, error) {
	if t.read.IsZero() {
		t.read = t.of.deadline
	}
	return t.Reader.Read(b)
}

func TestABodyThatTricklesIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	token := a.live("ada@example.org")
	w := &patient{ResponseRecorder: httptest.NewRecorder()}
	body := &trickle{Reader: strings.NewReader(newCSR(t)), of: w}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/federation/enrollment/"+token, body)
	r.Header.Set("Content-Type", pemType)
	began := time.Now()
	httpapi.New(a.config).ServeHTTP(w, r)
	if w.Code != http.StatusCreated {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if within := body.read.Sub(began); body.read.IsZero() || within > 20*time.Second {
		t.Errorf("the body may take %s, want a deadline of 15 s before its first byte is read", within)
	}
}
