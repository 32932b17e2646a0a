package main

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const tasksOnly = `{"resources":["tasks"],"max_rows_per_query":100}`

// TestGateway is what one gateway promises to those who ask it. Its parts share one gateway, each with users and
// peers of its own.
func TestGateway(t *testing.T) {
	t.Parallel()
	g := startGateway(t, filepath.Join(t.TempDir(), "work"))
	for name, test := range map[string]func(*testing.T, *gatewayProcess){
		"only the key of a request reaches the certificate":     certificateIgnoresRequest,
		"an enrollment token is spent once":                     tokenIsSpentOnce,
		"a lost enrollment answer can be had again":             lostAnswer,
		"one of many redemptions wins":                          redemptionRace,
		"bad enrollment requests are refused and spend nothing": badEnrollments,
		"rows of others are never shown":                        rowsOfOthers,
		"pages follow the cap and show every row once":          pagesFollowTheCap,
		"bad parameters are refused with a code":                badParameters,
		"a revoke is in force on an open connection":            revokeOnOpenConnection,
		"answers are in the audit log with their request id":    answersAreAudited,
		"sensitive grants wait for approval":                    sensitiveGrants,
		"the API denies by default":                             apiDenies,
		"certificates of others open nothing":                   foreignCertificates,
		"health says how the gateway is":                        healthAnswers,
		"no name is too odd for an answer":                      oddNames,
		"a resumed peer is answered at once":                    resumedPeer,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared := *g
			shared.t = t
			test(t, &shared)
		})
	}
}

func certificateIgnoresRequest(t *testing.T, g *gatewayProcess) {
	user := g.user("csr@example.org")
	grant, e := g.grantFor("csr-peer", "csr@example.org", tasksOnly)
	utf8 := func(s string) []byte { b, _ := asn1.MarshalWithParams(s, "utf8"); return b }
	eku, _ := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 1}})
	_, csr := newCSR(t, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "root", Organization: []string{"Evil"}},
		DNSNames: []string{"evil.example", "localhost"},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: utf8("00000000-0000-0000-0000-000000000001")},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Value: utf8("00000000-0000-0000-0000-000000000002")},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: eku},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}},
		},
	})
	a := post(t, e.URL, "application/pkcs10", csr)
	if a.Status != http.StatusCreated {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	var issued issuedDoc
	if err := json.Unmarshal(a.Body, &issued); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(issued.Certificate))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string][]string{}
	for _, ext := range leaf.Extensions {
		if s := ext.Id.String(); strings.HasPrefix(s, "1.3.6.1.4.1.99999.") {
			claims[s] = append(claims[s], string(ext.Value))
			if ext.Critical {
				t.Errorf("%s is critical", s)
			}
		}
	}
	want := map[string][]string{"1.3.6.1.4.1.99999.1": {"\x0c\x24" + grant.ID}, "1.3.6.1.4.1.99999.2": {"\x0c\x24" + user}}
	if fmt.Sprint(claims) != fmt.Sprint(want) {
		t.Errorf("claims %q, want %q", claims, want)
	}
	if len(leaf.DNSNames) != 0 || len(leaf.URIs) != 1 || leaf.IsCA || len(leaf.Subject.Organization) != 0 || leaf.Subject.CommonName == "root" ||
		len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("the request shows in the certificate: %+v", leaf.Subject)
	}
	if issued.SerialNumber != leaf.SerialNumber.String() {
		t.Errorf("serial %s in the answer, %s in the certificate", issued.SerialNumber, leaf.SerialNumber)
	}
}

func tokenIsSpentOnce(t *testing.T, g *gatewayProcess) {
	g.user("once@example.org")
	_, e := g.grantFor("once-peer", "once@example.org", tasksOnly)
	_, csr := newCSR(t, &x509.CertificateRequest{})
	for range 2 { // looking does not spend it
		resp, err := http.Get(e.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("GET: %d %v", resp.StatusCode, resp.Header)
		}
	}
	body := jsonBody(t, map[string]string{"csr": csr})
	if a := post(t, e.URL, "application/json", body); a.Status != http.StatusCreated {
		t.Fatalf("first: %d %s", a.Status, a.Body)
	}
	if a := post(t, e.URL, "application/json", body); a.Status != http.StatusGone || a.problem(t).Code != "enrollment_token_used" {
		t.Errorf("second: %d %s", a.Status, a.Body)
	}
}

func lostAnswer(t *testing.T, g *gatewayProcess) {
	g.user("lost@example.org")
	_, e := g.grantFor("lost-peer", "lost@example.org", tasksOnly)
	_, csr := newCSR(t, &x509.CertificateRequest{})
	_, other := newCSR(t, &x509.CertificateRequest{})
	endpoint := g.URL + "/api/federation/enrollment"
	body := jsonBody(t, map[string]string{"token": e.Token, "csr": csr})
	first := post(t, endpoint, "application/json", body, "Idempotency-Key", "k1")
	again := post(t, endpoint, "application/json", body, "Idempotency-Key", "k1")
	if first.Status != http.StatusCreated || again.Status != http.StatusCreated || string(first.Body) != string(again.Body) {
		t.Errorf("%d and %d, want the same answer twice", first.Status, again.Status)
	}
	if a := post(t, endpoint, "application/json", body, "Idempotency-Key", "k2"); a.problem(t).Code != "enrollment_token_used" {
		t.Errorf("another key: %s", a.Body)
	}
	changed := jsonBody(t, map[string]string{"token": e.Token, "csr": other})
	if a := post(t, endpoint, "application/json", changed, "Idempotency-Key", "k1"); a.Status != http.StatusUnprocessableEntity || a.problem(t).Code != "idempotency_key_reused" {
		t.Errorf("another request: %d %s", a.Status, a.Body)
	}
}

func redemptionRace(t *testing.T, g *gatewayProcess) {
	g.user("race@example.org")
	_, e := g.grantFor("race-peer", "race@example.org", tasksOnly)
	_, csr := newCSR(t, &x509.CertificateRequest{})
	body := jsonBody(t, map[string]string{"csr": csr})
	var mu sync.Mutex
	codes := map[string]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			a := post(t, e.URL, "application/json", body)
			code := fmt.Sprint(a.Status)
			if a.Status != http.StatusCreated {
				code = a.problem(t).Code
			}
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
		})
	}
	wg.Wait()
	if codes["201"] != 1 || codes["enrollment_token_used"]+codes["enrollment_in_progress"] != 19 {
		t.Errorf("answers %v, want one 201", codes)
	}
}

func badEnrollments(t *testing.T, g *gatewayProcess) {
	g.user("bad@example.org")
	_, e := g.grantFor("bad-peer", "bad@example.org", tasksOnly)
	_, csr := newCSR(t, &x509.CertificateRequest{})
	unknown := strings.Replace(e.URL, e.Token, strings.Repeat("A", len(e.Token)), 1)
	good := jsonBody(t, map[string]string{"csr": csr})
	for _, tt := range []struct {
		name, url, contentType, body string
		status                       int
		code                         string
	}{
		{"unknown token", unknown, "application/json", good, 404, "enrollment_token_unknown"},
		{"no token at all", g.URL + "/api/federation/enrollment/x", "application/json", good, 404, "enrollment_token_unknown"},
		{"too large", e.URL, "application/json", `{"csr":"` + strings.Repeat("x", 70<<10) + `"}`, 413, "body_too_large"},
		{"form", e.URL, "application/x-www-form-urlencoded", csr, 415, "unsupported_media_type"},
		{"no content type", e.URL, "", csr, 415, "unsupported_media_type"},
		{"broken JSON", e.URL, "application/json", `{"csr":`, 400, "bad_request"},
		{"two documents", e.URL, "application/json", good + good, 400, "bad_request"},
		{"unknown key", e.URL, "application/json", `{"csr":"x","role":"admin"}`, 422, "request_invalid"},
		{"wrong type", e.URL, "application/json", `{"csr":7}`, 422, "request_invalid"},
		{"no request", e.URL, "application/json", `{}`, 422, "csr_invalid"},
		{"no PEM", e.URL, "application/x-pem-file", "hello", 422, "csr_invalid"},
		{"two blocks", e.URL, "application/x-pem-file", csr + csr, 422, "csr_invalid"},
		{"ttl too short", e.URL, "application/json", jsonBody(t, map[string]any{"csr": csr, "ttl_seconds": 59}), 422, "ttl_invalid"},
		{"ttl too long", e.URL, "application/json", jsonBody(t, map[string]any{"csr": csr, "ttl_seconds": 31536001}), 422, "ttl_invalid"},
	} {
		if a := post(t, tt.url, tt.contentType, tt.body); a.Status != tt.status || a.problem(t).Code != tt.code {
			t.Errorf("%s: %d %s, want %d %s", tt.name, a.Status, a.Body, tt.status, tt.code)
		}
	}
	if a := post(t, e.URL, "application/json", good, "Idempotency-Key", strings.Repeat("k", 256)); a.problem(t).Code != "idempotency_key_invalid" {
		t.Errorf("long idempotency key: %s", a.Body)
	}
	if a := post(t, e.URL, "application/json", good, "Content-Encoding", "gzip"); a.Status != 415 {
		t.Errorf("compressed body: %d %s", a.Status, a.Body)
	}
	a := post(t, e.URL, "application/json", good, "Accept", "application/pem-certificate-chain")
	if a.Status != http.StatusCreated || !strings.HasPrefix(string(a.Body), "-----BEGIN CERTIFICATE-----") {
		t.Errorf("the token was spent by a refusal: %d %s", a.Status, a.Body)
	}
}

func rowsOfOthers(t *testing.T, g *gatewayProcess) {
	g.user("mine@example.org", "mine")
	g.user("theirs@example.org", "theirs")
	g.mosaic("team", "create", "rows-team")
	g.mosaic("team", "add", "rows-team", "mine@example.org")
	g.mosaic("team", "add", "rows-team", "theirs@example.org")
	g.importTasks("theirs@example.org", "rows-team", "ours")
	var teams []struct{ ID, Name string }
	g.decode(&teams, "team", "list")
	team := ""
	for _, x := range teams {
		if x.Name == "rows-team" {
			team = x.ID
		}
	}
	_, personal := g.grantFor("rows-peer", "mine@example.org", tasksOnly)
	_, shared := g.grantFor("rows-peer", "mine@example.org", `{"resources":["tasks"],"filters":{"tasks":{"include_teams":["`+team+`"]}},"max_rows_per_query":10}`)
	if got := g.enrol(personal).list("/resources/tasks").titles(); got != "mine" {
		t.Errorf("personal scope shows %q", got)
	}
	p := g.enrol(shared)
	l := p.list("/resources/tasks")
	if got := l.titles(); got != "ours,mine" {
		t.Fatalf("team scope shows %q", got)
	}
	ours := l.Data[0].ID
	if a := p.get("/resources/tasks/" + ours); a.Status != http.StatusOK {
		t.Errorf("get of a team row: %d", a.Status)
	}
	g.mosaic("team", "remove", "rows-team", "mine@example.org")
	if got := p.list("/resources/tasks").titles(); got != "mine" {
		t.Errorf("after leaving the team: %q", got)
	}
	for _, path := range []string{"/resources/tasks/" + ours, "/resources/tasks/00000000-0000-4000-8000-000000000000", "/resources/tasks/x", "/resources/notes", "/resources/credentials", "/resources/planets", "/else"} {
		if a := p.get(path); a.Status != http.StatusNotFound || a.problem(t).Code != "not_found" {
			t.Errorf("%s: %d %s, want what is out of scope and what is not there to look the same", path, a.Status, a.Body)
		}
	}
}

func pagesFollowTheCap(t *testing.T, g *gatewayProcess) {
	var titles []string
	for i := range 12 {
		titles = append(titles, fmt.Sprint(i))
	}
	g.user("pages@example.org", titles...)
	_, e := g.grantFor("pages-peer", "pages@example.org", `{"resources":["tasks","notes"],"max_rows_per_query":5}`)
	p := g.enrol(e)
	first := p.list("/resources/tasks?limit=100")
	if len(first.Data) != 5 || first.Page.Limit != 5 || !first.Page.Capped || first.Page.NextCursor == nil {
		t.Fatalf("a limit above the cap gave %d rows, page %+v", len(first.Data), first.Page)
	}
	got := first.titles()
	for page := first; page.Page.NextCursor != nil; {
		page = p.list("/resources/tasks?limit=4&cursor=" + *page.Page.NextCursor)
		got += "," + page.titles()
	}
	if want := "11,10,9,8,7,6,5,4,3,2,1,0"; got != want {
		t.Errorf("pages gave %s, want %s", got, want)
	}
	if a := p.get("/resources/notes?cursor=" + *first.Page.NextCursor); a.Status != 422 || a.problem(t).Code != "cursor_invalid" {
		t.Errorf("a cursor of another list: %d %s", a.Status, a.Body)
	}
	_, e2 := g.grantFor("pages-peer", "pages@example.org", tasksOnly)
	if a := g.enrol(e2).get("/resources/tasks?cursor=" + *first.Page.NextCursor); a.Status != 422 || a.problem(t).Code != "cursor_invalid" {
		t.Errorf("a cursor of another grant: %d %s", a.Status, a.Body)
	}
}

func badParameters(t *testing.T, g *gatewayProcess) {
	g.user("params@example.org")
	_, e := g.grantFor("params-peer", "params@example.org", tasksOnly)
	p := g.enrol(e)
	for query, code := range map[string]string{
		"limit=0": "limit_invalid", "limit=10001": "limit_invalid", "limit=x": "limit_invalid", "limit=-1": "limit_invalid",
		"cursor=x": "cursor_invalid", "cursor=" + strings.Repeat("A", 5000): "cursor_invalid",
		"updated_since=yesterday": "updated_since_invalid",
	} {
		if a := p.get("/resources/tasks?" + query); a.Status != 422 || a.problem(t).Code != code {
			t.Errorf("%.40s: %d %s, want %s", query, a.Status, a.Body, code)
		}
	}
	if l := p.list("/resources/tasks?updated_since=2020-01-01T00:00:00Z"); len(l.Data) != 0 {
		t.Errorf("%d rows of a user who has none", len(l.Data))
	}
}

func revokeOnOpenConnection(t *testing.T, g *gatewayProcess) {
	g.user("open@example.org", "row")
	grant, e := g.grantFor("open-peer", "open@example.org", tasksOnly)
	p := g.enrol(e)
	if got := p.list("/resources/tasks").titles(); got != "row" {
		t.Fatalf("before: %q", got)
	}
	g.mosaic("federation", "grant", "revoke", grant.ID, "--reason", "test")
	for range 3 { // the connection is still the first one
		if a := p.get("/resources/tasks"); a.Status != http.StatusForbidden || a.problem(t).Code != "grant_revoked" {
			t.Fatalf("after revoke: %d %s", a.Status, a.Body)
		}
	}
	p.http.CloseIdleConnections() // and then a resumed session
	if a := p.get("/capabilities"); a.problem(t).Code != "grant_revoked" {
		t.Errorf("on a resumed session: %d %s", a.Status, a.Body)
	}
}

func answersAreAudited(t *testing.T, g *gatewayProcess) {
	user := g.user("audit@example.org", "a", "b")
	grant, e := g.grantFor("audit-peer", "audit@example.org", tasksOnly)
	p := g.enrol(e)
	good := p.get("/resources/tasks").Header.Get("X-Request-Id")
	bad := p.get("/resources/notes").Header.Get("X-Request-Id")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.base+"/capabilities", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Request-Id", "mine-123")
	if a := do(t, p.http, req); a.Header.Get("X-Request-Id") != "mine-123" {
		t.Errorf("a valid incoming request id was replaced by %q", a.Header.Get("X-Request-Id"))
	}
	var rows []struct {
		RequestID    string `json:"request_id"`
		Verb         string
		Outcome      string
		DeniedReason string `json:"denied_reason"`
		RowsOut      int    `json:"rows_out"`
		GrantID      string `json:"grant_id"`
		Subject      string `json:"subject_user_id"`
		PeerName     string `json:"peer_name"`
	}
	g.decode(&rows, "federation", "audit", "list", "--peer", "audit-peer")
	found := map[string]string{}
	for _, r := range rows {
		if r.Verb == "list" && (r.GrantID != grant.ID || r.Subject != user || r.PeerName != "audit-peer") {
			t.Errorf("audit row of somebody else: %+v", r)
		}
		found[r.RequestID] = fmt.Sprint(r.Verb, r.Outcome, r.DeniedReason, r.RowsOut)
	}
	if found[good] != "listok2" || found[bad] != "listdeniednot_found0" || found["mine-123"] != "capabilitiesok0" {
		t.Errorf("audit rows %v", found)
	}
}

func sensitiveGrants(t *testing.T, g *gatewayProcess) {
	g.user("secret@example.org")
	const secret = "hunter2-which-nobody-may-see"
	file := filepath.Join(t.TempDir(), "credentials.jsonl")
	if err := os.WriteFile(file, []byte(`{"name":"mail","kind":"password","username":"me","secret":"`+secret+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	g.mosaic("resource", "import", "credentials", file, "--owner", "secret@example.org")
	grant, e := g.grantFor("secret-peer", "secret@example.org", `{"resources":["credentials"],"max_rows_per_query":5}`)
	if e.URL != "" {
		t.Fatal("a sensitive grant came with an enrollment URL")
	}
	if _, err := g.try("federation", "grant", "token", grant.ID); err == nil || !strings.Contains(err.Error(), "(grant_approval_required)") {
		t.Fatalf("token before approval: %v", err)
	}
	g.mosaic("federation", "grant", "approve", grant.ID, "--reason", "inventory")
	g.decode(&e, "federation", "grant", "token", grant.ID)
	a := g.enrol(e).get("/resources/credentials")
	if a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"name":"mail"`) || strings.Contains(string(a.Body), secret) || strings.Contains(string(a.Body), "sealed") {
		t.Errorf("credentials: %d %s", a.Status, a.Body)
	}
}

func apiDenies(t *testing.T, g *gatewayProcess) {
	g.user("member@example.org")
	var token struct{ Token string }
	g.decode(&token, "token", "create", "--user", "member@example.org")
	for _, tt := range []struct {
		name, path, auth, body string
		status                 int
		code                   string
	}{
		{"no token", "/api/users", "", "{}", 401, "unauthenticated"},
		{"not a token", "/api/users", "Bearer x", "{}", 401, "token_invalid"},
		{"unknown token", "/api/users", "Bearer mos_" + strings.Repeat("A", 43), "{}", 401, "token_invalid"},
		{"member makes a user", "/api/users", "Bearer " + token.Token, `{"email":"a@b.c"}`, 403, "forbidden"},
		{"no such address", "/api/planets", "Bearer " + token.Token, "{}", 404, "route_not_found"},
	} {
		a := post(t, g.URL+tt.path, "application/json", tt.body, "Authorization", tt.auth)
		if a.Status != tt.status || a.problem(t).Code != tt.code {
			t.Errorf("%s: %d %s, want %d %s", tt.name, a.Status, a.Body, tt.status, tt.code)
		}
	}
	a := post(t, g.URL+"/api/resources/notes", "application/json", `{"title":"by API"}`, "Authorization", "Bearer "+token.Token)
	if a.Status != http.StatusCreated || !strings.Contains(string(a.Body), "by API") {
		t.Errorf("a member's own row: %d %s", a.Status, a.Body)
	}
	a = post(t, g.URL+"/api/resources/notes", "application/json", `{"title":"x","owner_id":"y","z":1}`, "Authorization", "Bearer "+token.Token)
	if p := a.problem(t); p.Code != "row_invalid" || len(p.Errors) != 2 {
		t.Errorf("unknown keys: %d %s, want both named", a.Status, a.Body)
	}
}

func foreignCertificates(t *testing.T, g *gatewayProcess) {
	g.user("foreign@example.org")
	_, e := g.grantFor("foreign-peer", "foreign@example.org", tasksOnly)
	p := g.enrol(e)
	key, _ := newCSR(t, &x509.CertificateRequest{})
	if resp, err := g.client(p.issued, key).http.Get(p.base + "/capabilities"); err == nil {
		resp.Body.Close()
		t.Error("a certificate without its key was let in")
	}
	if resp, err := http.Get(strings.Replace(p.base, "https", "http", 1) + "/capabilities"); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP: %d", resp.StatusCode)
		}
	}
}

func healthAnswers(t *testing.T, g *gatewayProcess) {
	for path, want := range map[string]string{"/health": `"tier":"local"`, "/health/live": `"status":"ok"`, "/health/ready": `"status":"ok"`} {
		resp, err := http.Get(g.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		var body json.RawMessage
		err = json.NewDecoder(resp.Body).Decode(&body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

func oddNames(t *testing.T, g *gatewayProcess) {
	var token struct{ Token string }
	g.mosaic("user", "create", "odd@example.org", "--role", "admin")
	g.decode(&token, "token", "create", "--user", "odd@example.org")
	ask := func(method, path, body string, header ...string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, g.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token.Token)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header[header[i]] = []string{header[i+1]}
		}
		return do(t, http.DefaultClient, req)
	}
	for _, odd := range []string{"%00", "%ff", "urn:uuid:00000000-0000-4000-8000-000000000000", "%7B00000000-0000-4000-8000-000000000000%7D", "a%00b", "..%2f..", strings.Repeat("x", 3000)} {
		for _, at := range []struct{ method, path string }{
			{"GET", "/api/users/" + odd},
			{"DELETE", "/api/users/" + odd},
			{"DELETE", "/api/teams/" + odd},
			{"PUT", "/api/teams/x/members/" + odd},
			{"GET", "/api/federation/peers/" + odd},
			{"DELETE", "/api/federation/peers/" + odd},
			{"GET", "/api/federation/peers/" + odd + "/resources/tasks"},
			{"GET", "/api/federation/audit?peer=" + odd},
			{"GET", "/api/federation/audit?user=" + odd},
			{"GET", "/api/resources/tasks?cursor=" + odd},
		} {
			if a := ask(at.method, at.path, ""); a.Status >= 500 || a.Status < 400 {
				t.Errorf("%s %.80s: %d %s", at.method, at.path, a.Status, a.Body)
			}
		}
	}
	for path, body := range map[string]string{
		"/api/tokens":            `{"user":"a\u0000"}`,
		"/api/users":             `{"email":"a@b.example","email":"c@d.example"}`,
		"/api/teams":             `{"Name":"x"}`,
		"/api/federation/grants": `{"peer":"p","user":"a\u0000","scope":{"resources":["tasks"],"max_rows_per_query":1}}`,
	} {
		if a := ask("POST", path, body); a.Status >= 500 || a.Status < 400 {
			t.Errorf("POST %s %s: %d %s", path, body, a.Status, a.Body)
		}
	}
	if a := ask("GET", "/api/users", "", "Mosaic-Act-For", "\xff"); a.Status >= 500 {
		t.Errorf("acting for bytes: %d %s", a.Status, a.Body)
	}
	g.user("odd-reader@example.org")
	_, e := g.grantFor("odd-peer", "odd-reader@example.org", tasksOnly)
	p := g.enrol(e)
	for query, code := range map[string]string{
		"updated_since=0000-01-01T00:00:00Z": "updated_since_invalid", "updated_since=0001-01-01T00:00:00%2B01:00": "updated_since_invalid",
		"limit=": "limit_invalid", "limit=%zz": "query_invalid", "limit=5&limit=6": "query_invalid", "limits=5": "query_invalid",
	} {
		if a := p.get("/resources/tasks?" + query); a.Status != 422 || a.problem(t).Code != code {
			t.Errorf("%s: %d %s, want %s", query, a.Status, a.Body, code)
		}
	}
	if a := ask("PUT", "/api/federation/enrollment/x", ""); a.Status != http.StatusMethodNotAllowed || len(a.Header.Values("Allow")) != 2 {
		t.Errorf("PUT: %d, Allow %v", a.Status, a.Header.Values("Allow"))
	}
}

func resumedPeer(t *testing.T, g *gatewayProcess) {
	g.user("resume@example.org")
	_, e := g.grantFor("resume-peer", "resume@example.org", tasksOnly, "--rate", "10000/min", "--burst", "1000")
	p := g.enrol(e)
	g.mosaic("federation", "peer", "suspend", "resume-peer")
	for range 70 {
		if a := p.get("/capabilities"); a.problem(t).Code != "peer_suspended" {
			t.Fatalf("suspended: %d %s", a.Status, a.Body)
		}
	}
	g.mosaic("federation", "peer", "resume", "resume-peer")
	if a := p.get("/capabilities"); a.Status != http.StatusOK {
		t.Errorf("resumed: %d %s", a.Status, a.Body)
	}
	// A dead certificate, however often it knocks, is turned away without the database.
	g.mosaic("federation", "peer", "revoke", "resume-peer")
	codes := map[string]int{}
	for range 70 {
		codes[p.get("/capabilities").problem(t).Code]++
	}
	if codes["peer_revoked"] != 60 || codes["rate_limited"] != 10 {
		t.Errorf("revoked: %v, want 60 refusals and then a limit", codes)
	}
}

func TestALostPartIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "work")
	if err := startGateway(t, dir).stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"seal-keyset.json", "ca", "postgres"} {
		away := filepath.Join(t.TempDir(), "away")
		if err := os.Rename(filepath.Join(dir, part), away); err != nil {
			t.Fatal(err)
		}
		if _, err := launch(dir, "--listen", "127.0.0.1:0", "--federation-listen", "127.0.0.1:0"); err == nil || !strings.Contains(err.Error(), "(dir_incomplete)") {
			t.Errorf("without %s: %v", part, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, part)); !os.IsNotExist(err) {
			t.Errorf("%s was made anew", part)
		}
		if err := os.Rename(away, filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
	}
	startGateway(t, dir)
}

func TestAStartCanBeStopped(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "gw")
	cmd := exec.Command("mosaic", "gateway", "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--federation-listen", "127.0.0.1:0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// The directory's marker is there before the database is made.
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if _, err := os.Lstat(filepath.Join(dir, "mosaic.json")); err == nil {
			break
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(stdout)
	if err := cmd.Wait(); err != nil || len(said) > 0 || strings.Contains(stderr.String(), "(internal)") {
		t.Errorf("%v, stdout %q, stderr %s", err, said, stderr.String())
	}
}

func TestKillNineLosesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "work")
	g := startGateway(t, dir)
	g.user("ada@example.org", "kept")
	_, e := g.grantFor("home", "ada@example.org", tasksOnly)
	p := g.enrol(e)
	if got := p.list("/resources/tasks").titles(); got != "kept" {
		t.Fatalf("before: %q", got)
	}
	if err := g.stop(syscall.SIGKILL); err == nil {
		t.Fatal("kill -9 ended the gateway in good order")
	}
	if err := os.Chmod(dir, 0o755); err != nil { // as a copy of a directory may be
		t.Fatal(err)
	}
	after := startGateway(t, dir)
	after.closed(dir)
	if after.CAFingerprint != g.CAFingerprint {
		t.Error("the CA is another one")
	}
	p.base = after.FederationURL + "/federation/v1"
	if got := p.list("/resources/tasks").titles(); got != "kept" {
		t.Errorf("after: %q", got)
	}
	var rows []struct {
		Verb string `json:"verb"`
	}
	after.decode(&rows, "federation", "audit", "list")
	lists := 0
	for _, r := range rows {
		if r.Verb == "list" {
			lists++
		}
	}
	if lists != 2 {
		t.Errorf("%d audit rows for 2 answers", lists)
	}
}

func TestTermStopsEverythingInTime(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "work")
	g := startGateway(t, dir)
	started := time.Now()
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v\n%s", err, g.logs)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
	for _, left := range []string{"ready.json", "admin.sock", "postgres/postmaster.pid"} {
		if _, err := os.Lstat(filepath.Join(dir, left)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}

func TestTwoGateways(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	work, home := startGateway(t, filepath.Join(root, "work")), startGateway(t, filepath.Join(root, "home"), "--name", "home")
	const canary = "canary-7f3a9c51e2d84b06"
	work.user("ada@example.org", canary)
	grant, e := work.grantFor("home", "ada@example.org", tasksOnly)
	home.user("ada@home.example")
	home.user("kid@home.example")
	home.mosaic("federation", "peer", "add", e.URL, "--name", "work", "--user", "ada@home.example")
	var l listDoc
	home.decode(&l, "federation", "query", "work", "tasks", "--user", "ada@home.example")
	if l.titles() != canary || l.Data[0].Source != "work" {
		t.Errorf("query gave %+v", l)
	}
	refused := func(code string, args ...string) {
		t.Helper()
		if _, err := home.try(args...); err == nil || !strings.Contains(err.Error(), "("+code+")") {
			t.Errorf("%v: %v, want %s", args, err, code)
		}
	}
	refused("peer_not_available", "federation", "query", "work", "tasks", "--user", "kid@home.example")
	refused("peer_not_available", "federation", "query", "nowhere", "tasks", "--user", "kid@home.example")
	refused("enrollment_token_used", "federation", "peer", "add", e.URL, "--name", "work")
	refused("enrollment_ca_missing", "federation", "peer", "add", strings.Split(e.URL, "?")[0], "--name", "other")
	work.mosaic("federation", "grant", "revoke", grant.ID)
	refused("peer_denied", "federation", "query", "work", "tasks")
	if err := work.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	refused("peer_unreachable", "federation", "query", "work", "tasks")
	if err := home.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if strings.Contains(home.logs.String(), canary) {
		t.Error("a remote row is in home's log")
	}
	found := 0
	err := filepath.Walk(home.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), canary) {
			found++
			t.Errorf("a remote row is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestManySources asks two other gateways and the own rows at once, while one of the two goes away.
func TestManySources(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	home := startGateway(t, filepath.Join(root, "home"), "--name", "home")
	home.user("ada@home.example", "home-1", "home-2")
	home.user("kid@home.example", "kid-1")
	others := map[string]*gatewayProcess{}
	for _, name := range []string{"work", "lab"} {
		g := startGateway(t, filepath.Join(root, name))
		g.user("ada@example.org", name+"-1", name+"-2", name+"-3")
		_, e := g.grantFor("home", "ada@example.org", `{"resources":["tasks"],"max_rows_per_query":2}`)
		home.mosaic("federation", "peer", "add", e.URL, "--name", name, "--user", "ada@home.example")
		others[name] = g
	}
	type across struct {
		listDoc
		Sources []struct {
			Name, Status, Code string
			Rows               int
		}
	}
	ask := func(args ...string) across {
		t.Helper()
		var l across
		home.decode(&l, append([]string{"federation", "query"}, args...)...)
		return l
	}
	l := ask("all", "tasks", "--local", "--user", "ada@home.example")
	if got := l.titles(); got != "lab-3,lab-2,lab-1,work-3,work-2,work-1,home-2,home-1" || fmt.Sprint(l.Sources) != "[{local ok  2} {lab ok  3} {work ok  3}]" {
		t.Errorf("all: %s %v", got, l.Sources)
	}
	var paged []string
	for args := []string{"all", "tasks", "--local", "--user", "ada@home.example", "--limit", "3"}; ; {
		p := ask(args...)
		for _, row := range p.Data {
			paged = append(paged, row.Title)
		}
		if p.Page.NextCursor == nil {
			break
		}
		args = append(args[:7:7], "--cursor", *p.Page.NextCursor)
	}
	if strings.Join(paged, ",") != l.titles() {
		t.Errorf("in pages: %v", paged)
	}
	if p := ask("all", "tasks", "--local", "--user", "kid@home.example"); p.titles() != "kid-1" || len(p.Sources) != 1 {
		t.Errorf("for somebody without a credential: %s %v", p.titles(), p.Sources)
	}
	home.mosaic("team", "create", "kids")
	home.mosaic("team", "add", "kids", "kid@home.example")
	for who, flag := range map[string][]string{"their team": {"--team", "kids"}, "them": {"--user", "kid@home.example"}} {
		home.mosaic(append([]string{"federation", "peer", "share", "work"}, flag...)...)
		if p := ask("work", "tasks", "--user", "kid@home.example"); len(p.Data) != 2 {
			t.Errorf("shared with %s, they see %s", who, p.titles())
		}
		home.mosaic(append([]string{"federation", "peer", "unshare", "work"}, flag...)...)
	}
	if p := ask("work,nowhere", "tasks", "--user", "kid@home.example"); fmt.Sprint(p.Sources) != "[{work denied peer_not_available 0} {nowhere denied peer_not_available 0}]" {
		t.Errorf("named by somebody without a credential: %v", p.Sources)
	}
	if p := ask("all", "tasks", "--local", "--user", "ada@home.example", "--search", "home"); p.titles() != "home-2,home-1" || len(p.Sources) != 3 {
		t.Errorf("searched for home: %s %v", p.titles(), p.Sources)
	}
	if p := ask("all", "tasks", "--local", "--user", "ada@home.example", "--search", "lab or work", "--limit", "4"); len(p.Data) != 4 || p.Data[0].Source == p.Data[1].Source {
		t.Errorf("the best of two sources: %s %v", p.titles(), p.Sources)
	}
	if err := others["lab"].stop(syscall.SIGKILL); err == nil {
		t.Error("killed, and no error")
	}
	p := ask("lab,work,local", "tasks", "--user", "ada@home.example", "--limit", "17") // which nobody has asked before
	if p.titles() != "work-3,work-2,work-1,home-2,home-1" || fmt.Sprint(p.Sources) != "[{local ok  2} {lab unreachable peer_unreachable 0} {work ok  3}]" {
		t.Errorf("with lab away: %s %v", p.titles(), p.Sources)
	}
	p = ask("lab,work,local", "tasks", "--user", "ada@home.example")
	if p.titles() != l.titles() || fmt.Sprint(p.Sources) != "[{local ok  2} {lab stale peer_unreachable 3} {work ok  3}]" {
		t.Errorf("with lab away, and what it said a moment ago: %s %v", p.titles(), p.Sources)
	}
}

// TestARemovedPeerIsToldAndItsCertificateIsOnTheList hangs up from the asking side, and reads the list of the CA on
// both listeners of the other.
func TestARemovedPeerIsToldAndItsCertificateIsOnTheList(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	work, home := startGateway(t, filepath.Join(root, "work")), startGateway(t, filepath.Join(root, "home"))
	work.user("ada@example.org", "one")
	grant, e := work.grantFor("home", "ada@example.org", tasksOnly)
	_, other := work.grantFor("other", "ada@example.org", tasksOnly)
	peer := work.enrol(other)
	home.mosaic("federation", "peer", "add", e.URL, "--name", "work")
	var shown struct {
		Credentials []struct {
			Serial string `json:"serial_number"`
		}
	}
	home.decode(&shown, "federation", "peer", "show", "work")
	var out struct {
		HungUp []struct {
			GrantID string `json:"grant_id"`
			Told    bool
		} `json:"hung_up"`
	}
	home.decode(&out, "federation", "peer", "remove", "work")
	if len(out.HungUp) != 1 || out.HungUp[0].GrantID != grant.ID || !out.HungUp[0].Told {
		t.Errorf("removing said %+v", out)
	}
	var g grantDoc
	work.decode(&g, "federation", "grant", "show", grant.ID)
	if g.Status != "revoked" {
		t.Errorf("the grant is %s after its peer hung up", g.Status)
	}
	serial, ok := new(big.Int).SetString(shown.Credentials[0].Serial, 10)
	if !ok {
		t.Fatalf("serial %q", shown.Credentials[0].Serial)
	}
	listed := func(a answer) bool {
		t.Helper()
		if a.Status != http.StatusOK || a.Header.Get("Content-Type") != "application/pkix-crl" {
			t.Fatalf("%d %s", a.Status, a.Header.Get("Content-Type"))
		}
		list, err := x509.ParseRevocationList(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(serial) == 0 })
	}
	public := func() answer {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, work.URL+"/api/federation/crl", nil)
		if err != nil {
			t.Fatal(err)
		}
		return do(t, http.DefaultClient, req)
	}
	for deadline := time.Now().Add(time.Minute); !listed(public()) || !listed(peer.get("/crl")); <-time.After(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the certificate is not on the list after a minute")
		}
	}
}
