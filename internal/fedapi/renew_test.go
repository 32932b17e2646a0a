package fedapi_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

const renewPath = fedapi.Base + "/certificate/renew"

// renewal is the body of a renewal for a key.
func renewal(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: newCSR(t, key, "192.0.2.1").Raw})
	body, err := json.Marshal(map[string]string{"csr": string(csr)})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// issued reads the certificate out of the answer.
func (a answer) issued(t *testing.T, key *ecdsa.PrivateKey) (enroll.Issued, *tls.Certificate) {
	t.Helper()
	var out enroll.Issued
	if err := json.Unmarshal(a.body, &out); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s, want a certificate", a.StatusCode, a.body)
	}
	cert, err := tls.X509KeyPair([]byte(out.Chain), keyPEM(t, key))
	if err != nil {
		t.Fatal(err)
	}
	return out, &cert
}

func (g *gateway) renew(c *http.Client) *tls.Certificate {
	g.t.Helper()
	key := newKey(g.t)
	_, cert := g.post(c, renewPath, renewal(g.t, key)).issued(g.t, key)
	return cert
}

// upkeep runs one task.
func (g *gateway) upkeep(name string) {
	g.t.Helper()
	for _, task := range upkeep.New(upkeep.Config{Store: &postgres.Upkeep{DB: g.stores}, CA: g.ca, Log: slog.New(slog.DiscardHandler)}).Tasks() {
		if task.Name == name {
			if err := task.Run(g.t.Context()); err != nil {
				g.t.Fatal(err)
			}
			return
		}
	}
	g.t.Fatalf("no task %s", name)
}

const live = `SELECT count(*) FROM federation_certificates WHERE revoked_at IS NULL`

func TestTheFirstUseOfARenewedCertificateRetiresTheOldOneAfterFiveMinutes(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	old := g.client(g.presenting(cert), http2)
	g.get(old, capabilities)
	key := newKey(t)
	a := g.post(old, renewPath, renewal(t, key))
	out, second := a.issued(t, key)
	if out.GrantID != made.ID || out.SubjectUserID != made.SubjectUserID || out.CARoot == "" || len(out.Scope) == 0 || out.FederationURL != g.enroll.FederationURL {
		t.Errorf("%+v, want the answer of an enrollment", out)
	}
	if len(second.Leaf.IPAddresses) != 0 {
		t.Error("the names of the certificate request are in the certificate")
	}
	if was, is := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore), out.NotAfter.Sub(out.NotBefore); is < was-time.Second || is > was+time.Second {
		t.Errorf("it lives %s, want %s like the one before", is, was)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb IN ('renew', 'certificate.renew') AND request_id = $1 AND status_code = 200`, a.Header.Get("X-Request-Id")); n != 2 {
		t.Errorf("%d of 2 on record", n)
	}
	retiring := `SELECT count(*) FROM federation_certificates WHERE retire_at BETWEEN now() + interval '4 minutes' AND now() + interval '5 minutes'`
	g.get(old, capabilities).grantID(t)
	if n := g.count(retiring); n != 0 {
		t.Error("the old certificate retires though the new one was not used")
	}
	next := g.client(g.presenting(second), http2)
	for range 3 {
		g.get(next, capabilities).grantID(t)
	}
	g.get(old, capabilities).grantID(t)
	if n := g.count(retiring+` AND serial = $1`, cert.Leaf.SerialNumber.String()); n != 1 || g.count(live) != 2 {
		t.Fatalf("after the first use: %d retire and %d are live, want the old one to retire and two live", n, g.count(live))
	}
	g.upkeep("retire-certificates")
	g.get(old, capabilities).grantID(t)

	g.exec(`UPDATE federation_certificates SET retire_at = now() WHERE retire_at IS NOT NULL`)
	g.get(old, capabilities).wantProblem(t, http.StatusUnauthorized, "certificate_revoked")
	g.post(old, renewPath, renewal(t, newKey(t))).wantProblem(t, http.StatusUnauthorized, "certificate_revoked")
	if n := g.count(`SELECT count(*) FROM federation_ca_revocations`); n != 0 {
		t.Errorf("%d revocations queued before it was written down", n)
	}
	g.upkeep("retire-certificates")
	g.upkeep("retire-certificates")
	if n := g.count(`SELECT count(*) FROM federation_ca_revocations WHERE serial = $1`, cert.Leaf.SerialNumber.String()); n != 1 || g.count(live) != 1 {
		t.Errorf("%d revocations queued, %d live; want one and one", n, g.count(live))
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'certificate.retire'`); n != 1 {
		t.Errorf("%d retirements on record, want one", n)
	}
	third := g.client(g.presenting(g.renew(next)), http2)
	g.get(third, capabilities).grantID(t)
	g.get(next, capabilities).grantID(t)
}

// TestAtMostTwoCertificatesAreLive renews twice with one certificate: the second successor replaces the first.
func TestAtMostTwoCertificatesAreLive(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	old := g.client(g.presenting(cert), http2)
	second := g.renew(old)
	third := g.renew(old)
	g.get(g.client(g.presenting(second), http2), capabilities).wantProblem(t, http.StatusUnauthorized, "certificate_revoked")
	g.get(g.client(g.presenting(third), http2), capabilities).grantID(t)
	g.get(old, capabilities).grantID(t)
	if n := g.count(live); n != 2 {
		t.Errorf("%d are live, want two", n)
	}
}

func TestTheSameRenewalGetsTheSameAnswerUntilItsCertificateWasUsed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	old := g.client(g.presenting(cert), http2)
	key := newKey(t)
	body := renewal(t, key)
	answers := make([]answer, 4)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = g.post(old, renewPath, body) })
	}
	wg.Wait()
	answers = append(answers, g.post(old, renewPath, body))
	for _, a := range answers {
		if a.StatusCode != http.StatusOK || !bytes.Equal(a.body, answers[0].body) {
			t.Fatalf("%d %s\nwant the same as %s", a.StatusCode, a.body, answers[0].body)
		}
	}
	if n := g.count(live); n != 2 {
		t.Errorf("%d are live, want two", n)
	}
	if n := g.count(`SELECT count(*) FROM federation_sign_attempts WHERE purpose = 'renew' AND outcome = 'recorded'`); n != 1 {
		t.Errorf("%d attempts were recorded, want one", n)
	}
	if n := g.count(`SELECT count(*) FROM federation_sign_attempts a WHERE outcome NOT IN ('recorded', 'orphaned')
		OR outcome = 'orphaned' AND NOT EXISTS (SELECT FROM federation_ca_revocations r WHERE r.serial = a.serial)`); n != 0 {
		t.Errorf("%d attempts are not settled", n)
	}
	_, next := answers[0].issued(t, key)
	g.get(g.client(g.presenting(next), http2), capabilities).grantID(t)
	g.upkeep("forget-answers")
	if a := g.post(old, renewPath, body); !bytes.Equal(a.body, answers[0].body) {
		t.Errorf("%d %s, want the same answer while both are good", a.StatusCode, a.body)
	}
	g.exec(`UPDATE federation_certificates SET first_used_at = now() - interval '5 minutes' WHERE first_used_at IS NOT NULL`)
	g.upkeep("forget-answers")
	g.post(old, renewPath, body).wantProblem(t, http.StatusUnprocessableEntity, "csr_invalid")
	if n := g.count(`SELECT count(*) FROM federation_certificates WHERE renewal_answer IS NOT NULL`); n != 0 {
		t.Error("the answer is still kept")
	}
}

func TestOfTwoRenewalsAtOnceOneIsLive(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	old := g.client(g.presenting(cert), http2)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if a := g.post(old, renewPath, renewal(t, newKey(t))); a.StatusCode != http.StatusOK {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	wg.Wait()
	if n, queued := g.count(live), g.count(`SELECT count(*) FROM federation_ca_revocations`); n != 2 || queued != 5 {
		t.Errorf("%d are live and %d queued for the CA, want 2 and 5", n, queued)
	}
}

func TestARevokeWhileARenewalIsSignedWins(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	g.enroll.Step = func(step string) {
		if step == "signed" {
			if _, err := (&postgres.Grants{DB: g.stores}).Revoke(t.Context(), made.ID, "", act); err != nil {
				t.Error(err)
			}
		}
	}
	g.post(g.client(g.presenting(cert), http2), renewPath, renewal(t, newKey(t))).wantProblem(t, http.StatusForbidden, "grant_revoked")
	if n, queued := g.count(live), g.count(`SELECT count(*) FROM federation_ca_revocations`); n != 0 || queued != 2 {
		t.Errorf("%d are live and %d queued for the CA, want none and both", n, queued)
	}
}

func TestARenewalThatCannotBeReadChangesNothing(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	c := g.client(g.presenting(cert), http2)
	for name, tt := range map[string]struct {
		path, body, code string
		status           int
		headers          []string
	}{
		"the key in use":   {renewPath, renewal(t, cert.PrivateKey.(*ecdsa.PrivateKey)), "csr_invalid", 422, nil},
		"no request":       {renewPath, `{"csr":"hello"}`, "csr_invalid", 422, nil},
		"an unknown key":   {renewPath, `{"csr":"hello","ttl_seconds":60}`, "renewal_invalid", 422, nil},
		"a key twice":      {renewPath, `{"csr":"a","csr":"b"}`, "renewal_invalid", 422, nil},
		"a number":         {renewPath, `{"csr":1}`, "renewal_invalid", 422, nil},
		"nothing":          {renewPath, `{}`, "renewal_invalid", 422, nil},
		"no JSON":          {renewPath, `hello`, "renewal_invalid", 422, nil},
		"another type":     {renewPath, `hello`, "unsupported_media_type", 415, []string{"Content-Type", "application/x-pem-file"}},
		"with parameters":  {renewPath + "?ttl=1", renewal(t, newKey(t)), "query_invalid", 422, nil},
		"more than 64 KiB": {renewPath, `{"csr":"` + string(bytes.Repeat([]byte("x"), 64<<10)) + `"}`, "body_too_large", 413, nil},
	} {
		t.Run(name, func(t *testing.T) {
			g.post(c, tt.path, tt.body, tt.headers...).wantProblem(t, tt.status, tt.code)
		})
	}
	g.get(c, renewPath).wantProblem(t, http.StatusMethodNotAllowed, "method_not_allowed")
	if n := g.count(`SELECT count(*) FROM federation_sign_attempts WHERE purpose = 'renew'`); n != 0 {
		t.Errorf("the CA was asked %d times", n)
	}
	g.exec(`UPDATE federation_grants SET expires_at = now() + interval '30 seconds'`)
	for range 61 { // it must not count as dead
		g.post(c, renewPath, renewal(t, newKey(t)))
		g.exec(`UPDATE federation_grants SET expires_at = now() + interval '30 seconds', rate_per_minute = 1000, burst = 1000, version = version + 1`)
	}
	g.post(c, renewPath, renewal(t, newKey(t))).wantProblem(t, http.StatusConflict, "grant_ending")
	g.get(c, capabilities).grantID(t)
}
