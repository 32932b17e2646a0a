package fedapi_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
)

func TestConnectionsBelowTLS13AreRefused(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	old := g.presenting(cert)
	old.MaxVersion = tls.VersionTLS12
	g.wantRefused(old, "unsupported versions")
	if got := g.get(g.client(g.presenting(cert), http1), capabilities).grantID(t); got != made.ID.String() {
		t.Errorf("over TLS 1.3 the certificate speaks for %s, want %s", got, made.ID)
	}
}

func TestStrangersAreRefusedInTheHandshake(t *testing.T) {
	t.Parallel()
	grantID, userID := uuid.New(), uuid.New()
	tests := []struct {
		name, reason string
		cert         func(*testing.T, *gateway) *tls.Certificate
	}{
		{"no client certificate", "didn't provide a certificate", func(*testing.T, *gateway) *tls.Certificate { return nil }},
		{"a perfect certificate of another CA", "unknown authority", func(t *testing.T, _ *gateway) *tls.Certificate {
			return mustCA(t, theirs).signed(t, grantID, userID)
		}},
		{"another CA's leaf under our intermediate", "unknown authority", func(t *testing.T, g *gateway) *tls.Certificate {
			c := mustCA(t, theirs).signed(t, grantID, userID)
			c.Certificate = [][]byte{c.Certificate[0], g.ca.issuer.Raw, g.ca.root.Raw}
			return c
		}},
		{"another CA's whole chain with its root", "unknown authority", func(t *testing.T, _ *gateway) *tls.Certificate {
			a := mustCA(t, theirs)
			c := a.signed(t, grantID, userID)
			c.Certificate = append(c.Certificate, a.root.Raw)
			return c
		}},
		{"our own listener's certificate", "certificate_profile", func(t *testing.T, g *gateway) *tls.Certificate { return g.ca.server(t) }},
		{"an expired certificate", "expired", func(t *testing.T, g *gateway) *tls.Certificate {
			return g.ca.forged(t, grantID, userID, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Minute)
			})
		}},
		{"a certificate of tomorrow", "not yet valid", func(t *testing.T, g *gateway) *tls.Certificate {
			return g.ca.forged(t, grantID, userID, func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
			})
		}},
		{"a certificate without claims", "certificate_profile", func(t *testing.T, g *gateway) *tls.Certificate {
			return g.ca.forged(t, grantID, userID, func(c *x509.Certificate) { c.ExtraExtensions = nil })
		}},
		{"a certificate for another gateway", "certificate_profile", func(t *testing.T, g *gateway) *tls.Certificate {
			return g.ca.forged(t, grantID, userID, func(c *x509.Certificate) {
				c.URIs = []*url.URL{identity.SPIFFE("other.example", grantID, userID)}
			})
		}},
		{"a name and claims that disagree", "certificate_profile", func(t *testing.T, g *gateway) *tls.Certificate {
			return g.ca.forged(t, grantID, userID, func(c *x509.Certificate) {
				c.URIs = []*url.URL{identity.SPIFFE(fedHost, userID, grantID)}
			})
		}},
		{"a certificate for servers too", "certificate_profile", func(t *testing.T, g *gateway) *tls.Certificate {
			return g.ca.forged(t, grantID, userID, func(c *x509.Certificate) {
				c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
			})
		}},
		{"the CA itself", "certificate_profile", func(_ *testing.T, g *gateway) *tls.Certificate {
			return &tls.Certificate{Certificate: [][]byte{g.ca.issuer.Raw}, PrivateKey: g.ca.issuerKey}
		}},
		{"a certificate of somebody else's key", "invalid signature", func(t *testing.T, g *gateway) *tls.Certificate {
			c := g.ca.signed(t, grantID, userID)
			c.PrivateKey = newKey(t)
			return c
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			g.wantRefused(g.presenting(tt.cert(t, g)), tt.reason)
		})
	}
}

func TestALeafAloneIsCompletedWithTheIntermediatesWeKnow(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	alone := *cert
	alone.Certificate = cert.Certificate[:1]
	if got := g.get(g.client(g.presenting(&alone), http2), capabilities).grantID(t); got != made.ID.String() {
		t.Errorf("a leaf without intermediates speaks for %s, want %s", got, made.ID)
	}

	unknowing := newGateway(t)
	trust := unknowing.trust()
	rootOnly := fedapi.NewAnchors([]*x509.Certificate{unknowing.ca.root}, nil)
	trust.Anchors = func() *fedapi.Anchors { return rootOnly }
	unknowing.addr = unknowing.listen(trust)
	unknowing.wantRefused(unknowing.presenting(&alone), "unknown authority")
}

func TestTheListenerProvesItselfWithoutBeingNamed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	conf := g.presenting(cert) // an address as ServerName sends no SNI (RFC 6066, section 3)
	conn, err := tls.Dial("tcp", g.addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if sent := conn.ConnectionState().PeerCertificates; len(sent) != 2 || !sent[1].Equal(g.ca.issuer) {
		t.Errorf("the listener sent %d certificates, want its leaf and the intermediate", len(sent))
	}
}

func TestACertificateThatExpiresOnAnOpenConnectionIsRefused(t *testing.T) {
	t.Parallel()
	for _, version := range []string{http1, http2} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			cert, made := g.enrol("ada@example.org")
			c := g.client(g.presenting(cert), version)
			leaf, err := x509.ParseCertificate(cert.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			// Shortly before its end it is still good: what refuses below is the end and nothing else.
			g.clock.ahead.Store(int64(time.Until(leaf.NotAfter) - time.Minute))
			if got := g.get(c, capabilities).grantID(t); got != made.ID.String() {
				t.Fatalf("speaks for %s", got)
			}
			g.clock.ahead.Store(int64(time.Until(leaf.NotAfter) + time.Second))
			for _, path := range []string{capabilities, fedapi.Base + "/resources/tasks", fedapi.Base + "/resources/tasks/" + uuid.NewString(), "/else"} {
				a := g.get(c, path)
				a.wantProblem(t, http.StatusUnauthorized, "certificate_expired")
				if !a.reused {
					t.Error("asked over a new connection, not the open one")
				}
			}
			if _, err := g.ask(g.client(g.presenting(cert), version), http.MethodGet, capabilities, nil); err == nil {
				t.Error("a new connection with the expired certificate was let in")
			}
		})
	}
}

// dialled asks over a TLS connection of its own, and tells whether that one resumed an earlier session.
func (g *gateway) dialled(addr string, conf *tls.Config) (resumed bool, status int, err error) {
	conn, err := (&net.Dialer{}).DialContext(g.t.Context(), "tcp", addr)
	if err != nil {
		return false, 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(conn, conf)
	// The state is read at the end: a server that refuses may close before our side is through.
	defer func() { resumed = c.ConnectionState().DidResume }()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", capabilities); err != nil {
		return false, 0, err
	}
	a, err := io.ReadAll(c) // to the end: the session's ticket comes with it
	if err != nil {
		return false, 0, err
	}
	_, err = fmt.Sscanf(string(a), "HTTP/1.1 %d", &status)
	return false, status, err
}

// The default verifier of crypto/tls is not asked when a session is resumed. Each case makes a session that the
// server would resume, changes what is trusted, and wants the resumption itself refused.
func TestAResumedSessionIsVerifiedAgain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, reason string
		change       func(*testing.T, *gateway, *fedapi.Trust)
	}{
		{"nothing changed", "", func(*testing.T, *gateway, *fedapi.Trust) {}},
		{"the certificate has expired", "expired", func(_ *testing.T, g *gateway, _ *fedapi.Trust) { g.clock.ahead.Store(int64(48 * time.Hour)) }},
		{"the root is not trusted any more", "unknown authority", func(t *testing.T, _ *gateway, trust *fedapi.Trust) {
			none := fedapi.NewAnchors([]*x509.Certificate{mustCA(t, theirs).root}, nil)
			trust.Anchors = func() *fedapi.Anchors { return none }
		}},
		{"the gateway has another host", "certificate_profile", func(_ *testing.T, _ *gateway, trust *fedapi.Trust) { trust.Profile.Host = "fed.example" }},
		{"the arc is not accepted any more", "certificate_profile", func(_ *testing.T, _ *gateway, trust *fedapi.Trust) {
			trust.Profile.Arcs = []identity.Arc{"1.3.6.1.4.1.12345"}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			cert, _ := g.enrol("ada@example.org")
			conf := g.presenting(cert)
			conf.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			if resumed, status, err := g.dialled(g.addr, conf); resumed || status != http.StatusOK || err != nil {
				t.Fatalf("first connection: resumed %t, %d %v", resumed, status, err)
			}
			if resumed, status, err := g.dialled(g.addr, conf); !resumed || status != http.StatusOK || err != nil {
				t.Fatalf("second connection: resumed %t, %d %v; want the session resumed, or this test shows nothing", resumed, status, err)
			}
			trust := g.trust()
			tt.change(t, g, &trust)
			resumed, status, err := g.dialled(g.listen(trust), conf)
			if !resumed {
				t.Fatalf("the session was not resumed: %d %v", status, err)
			}
			if tt.reason == "" {
				if status != http.StatusOK || err != nil {
					t.Errorf("%d %v, want an answer", status, err)
				}
				return
			}
			if err == nil {
				t.Fatalf("the resumed session was answered with %d", status)
			}
			if line := g.handshakeError(); !strings.Contains(line, tt.reason) {
				t.Errorf("refused because of %s, want %s", line, tt.reason)
			}
		})
	}
}

func TestWhatTheRegistryDoesNotHoldOpensNothing(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(*testing.T, *gateway, grant.Grant) *tls.Certificate{
		"signed and never recorded": func(t *testing.T, g *gateway, of grant.Grant) *tls.Certificate {
			return g.ca.signed(t, of.ID, of.SubjectUserID)
		},
		"from another provisioner of the same CA": func(t *testing.T, g *gateway, of grant.Grant) *tls.Certificate {
			return g.ca.forged(t, of.ID, of.SubjectUserID, func(*x509.Certificate) {})
		},
		"for a grant that does not exist": func(t *testing.T, g *gateway, _ grant.Grant) *tls.Certificate {
			return g.ca.signed(t, uuid.New(), uuid.New())
		},
		"with the serial number of a live one": func(t *testing.T, g *gateway, of grant.Grant) *tls.Certificate {
			var serial string
			if err := g.pool.QueryRow(t.Context(), `SELECT serial FROM federation_certificates WHERE grant_id = $1`, of.ID).Scan(&serial); err != nil {
				t.Fatal(err)
			}
			return g.ca.forged(t, of.ID, of.SubjectUserID, func(c *x509.Certificate) { c.SerialNumber.SetString(serial, 10) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			live, made := g.enrol("ada@example.org")
			cert := make(t, g, made)
			c := g.client(g.presenting(cert), http2)
			paths := []string{capabilities, fedapi.Base + "/resources/tasks", fedapi.Base + "/resources/tasks?limit=0", fedapi.Base + "/resources/tasks/" + uuid.NewString(), fedapi.Base + "/else", "/"}
			for _, path := range paths {
				g.get(c, path).wantProblem(t, http.StatusUnauthorized, "certificate_unknown")
			}
			print := identity.Fingerprint(cert.Leaf.Raw)
			if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE outcome = 'denied' AND denied_reason = 'certificate_unknown' AND certificate_fingerprint = $1`, print[:]); n != len(paths) {
				t.Errorf("%d of %d refusals are on record", n, len(paths))
			}
			if got := g.get(g.client(g.presenting(live), http2), capabilities).grantID(t); got != made.ID.String() {
				t.Errorf("the live certificate speaks for %s", got)
			}
		})
	}
}

func TestClientCertificateHeadersAreNotIdentity(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	ada, adas := g.enrol("ada@example.org")
	bo, bos := g.enrol("bo@example.org")
	orphan := g.ca.signed(t, adas.ID, adas.SubjectUserID)
	bosPEM := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bo.Certificate[0]}))
	claims := http.Header{}
	for _, name := range []string{
		"X-Forwarded-Client-Cert", "Ssl-Client-Cert", "X-Ssl-Client-Cert", "X-Client-Cert", "X-Client-Certificate",
		"X-Forwarded-Tls-Client-Cert", "Client-Cert", "X-Amzn-Mtls-Clientcert",
	} {
		claims.Set(name, url.QueryEscape(bosPEM))
	}
	print := identity.Fingerprint(bo.Certificate[0])
	claims.Add("X-Forwarded-Client-Cert", fmt.Sprintf("Hash=%x;URI=%s", print, identity.SPIFFE(fedHost, bos.ID, bos.SubjectUserID)))
	claims.Set("Ssl-Client-Verify", "SUCCESS")
	claims.Set("X-Forwarded-For", "192.0.2.1")
	for _, version := range []string{http1, http2} {
		if got := g.get(g.client(g.presenting(ada), version), capabilities, claims.Clone()).grantID(t); got != adas.ID.String() {
			t.Errorf("%s: Ada's connection with Bo's certificate in its headers speaks for %s, want %s", version, got, adas.ID)
		}
		g.get(g.client(g.presenting(orphan), version), capabilities, claims.Clone()).wantProblem(t, http.StatusUnauthorized, "certificate_unknown")
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE direction = 'inbound' AND verb = 'capabilities' AND remote_address = '127.0.0.1'`); n != 4 {
		t.Errorf("%d of 4 requests are on record under the address they came from", n)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE direction = 'inbound' AND verb = 'capabilities' AND grant_id = $1`, bos.ID); n != 0 {
		t.Errorf("%d requests are on record as Bo's", n)
	}

	none := newGateway(t)
	if a, err := none.ask(none.client(none.presenting(nil), http1), http.MethodGet, capabilities, claims.Clone()); err == nil {
		t.Errorf("headers instead of a certificate were answered with %d", a.StatusCode)
	}
}

func TestARequestWithoutACertificateIsNobodys(t *testing.T) {
	t.Parallel()
	// As if somebody served the handler on a listener without TLS.
	g := newGateway(t)
	for name, state := range map[string]*tls.ConnectionState{"plain HTTP": nil, "TLS without a client certificate": {}} {
		for _, path := range []string{capabilities, fedapi.Base + "/resources/tasks", "/else"} {
			req := httptest.NewRequest(http.MethodGet, path, nil)
			req.TLS = state
			rec := httptest.NewRecorder()
			g.server(profile(), nil).Handler.ServeHTTP(rec, req)
			if !strings.Contains(rec.Body.String(), "certificate_profile") || rec.Code != http.StatusUnauthorized {
				t.Errorf("%s %s: %d %s, want 401", name, path, rec.Code, rec.Body)
			}
			if len(g.noted) != 1 {
				t.Fatalf("%s %s: counted %d times for the audit log, want once", name, path, len(g.noted))
			}
			if e := <-g.noted; e.DeniedReason != "certificate_profile" || e.RemoteAddress == "" || e.Actor != "" || e.Fingerprint != nil || e.Verb == "" || path == "/else" && e.Verb != "unknown" {
				t.Errorf("%s %s: counted as %+v", name, path, e)
			}
		}
	}
}

func TestTheProfileIsReadAgainForEveryNewConnection(t *testing.T) {
	t.Parallel()
	// As if a handshake had let through what the profile refuses: the handler must not rely on it.
	g := newGateway(t)
	_, made := g.enrol("ada@example.org")
	wrong := g.ca.forged(t, made.ID, made.SubjectUserID, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} })
	req := httptest.NewRequest(http.MethodGet, capabilities, nil)
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{wrong.Leaf}}
	rec := httptest.NewRecorder()
	g.server(profile(), nil).Handler.ServeHTTP(rec, req)
	if rec.Code != http.StatusUnauthorized || !strings.Contains(rec.Body.String(), "certificate_profile") {
		t.Errorf("%d %s, want 401 certificate_profile", rec.Code, rec.Body)
	}
}

func TestBothVersionsOfHTTPAnswerAlike(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	var bodies []string
	for _, version := range []string{http1, http2} {
		a := g.get(g.client(g.presenting(cert), version), capabilities)
		if a.Proto != version || a.StatusCode != http.StatusOK || a.TLS.Version != tls.VersionTLS13 {
			t.Errorf("answered %d over %s and TLS %x, want 200 over %s", a.StatusCode, a.Proto, a.TLS.Version, version)
		}
		if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: headers %v", version, a.Header)
		}
		bodies = append(bodies, string(a.body))
	}
	if bodies[0] != bodies[1] {
		t.Errorf("answers differ:\n%s\n%s", bodies[0], bodies[1])
	}
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	t.Parallel()
	for _, version := range []string{http1, http2} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			cert, made := g.enrol("ada@example.org")
			c := g.client(g.presenting(cert), version)
			large := func(n int) http.Header { return http.Header{"X-Large": {strings.Repeat("x", n)}} }
			if got := g.get(c, capabilities, large(12<<10)).grantID(t); got != made.ID.String() {
				t.Errorf("with 12 KiB of headers: %s", got)
			}
			answered := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'capabilities'`)
			// Over HTTP/2 the limit is announced, and our own client does not even send it.
			if a, err := g.ask(c, http.MethodGet, capabilities, large(64<<10)); err == nil && a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Errorf("64 KiB of headers were answered with %d, want 431", a.StatusCode)
			} else if err != nil && version == http1 {
				t.Errorf("64 KiB of headers: %v, want 431", err)
			}
			if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'capabilities'`); n != answered {
				t.Error("the request was served")
			}
			if got := g.get(c, capabilities).grantID(t); got != made.ID.String() {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

func TestOtherMethodsAreNotAllowed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	paths := []string{capabilities, fedapi.Base + "/resources/tasks", fedapi.Base + "/resources/tasks/" + uuid.NewString()}
	for _, version := range []string{http1, http2} {
		c := g.client(g.presenting(cert), version)
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "BREW", "get"} {
			for _, path := range paths {
				a, err := g.ask(c, method, path, nil)
				if err != nil {
					t.Fatalf("%s %s %s: %v", version, method, path, err)
				}
				a.wantProblem(t, http.StatusMethodNotAllowed, "method_not_allowed")
				if allow := a.Header.Get("Allow"); !strings.Contains(allow, http.MethodGet) || strings.Contains(allow, method) {
					t.Errorf("%s %s: Allow %q, want what is taken there (RFC 9110, section 15.5.6)", method, path, allow)
				}
			}
		}
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'unknown' AND denied_reason = 'method_not_allowed'`); n != 48 {
		t.Errorf("%d of 48 are on record", n)
	}
}

// TestFailedHandshakesAreCountedForTheAuditLog: whoever knocks without a certificate of ours leaves a trace, and
// whoever has one is not counted.
func TestFailedHandshakesAreCountedForTheAuditLog(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	c := g.client(g.presenting(cert), http2)
	g.get(c, capabilities)
	c.CloseIdleConnections()
	for _, conf := range []*tls.Config{g.presenting(nil), g.presenting(mustCA(t, theirs).signed(t, uuid.New(), uuid.New()))} {
		if _, err := g.ask(g.client(conf, http1), http.MethodGet, capabilities, nil); err == nil {
			t.Fatal("answered")
		}
	}
	plain, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(plain, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, plain)
	_ = plain.Close()
	silent, err := net.Dial("tcp", g.addr) // a probe of the port
	if err != nil {
		t.Fatal(err)
	}
	_ = silent.Close()
	eventually(t, "it is seen", func() bool { return g.refused.of(door.Silent) == 1 })
	reasons := map[string]int{}
	for range 3 {
		e := <-g.noted
		if reasons[e.DeniedReason]++; e.Verb != "connect" || e.RemoteAddress != "127.0.0.1" || e.Direction != audit.Inbound {
			t.Errorf("%+v", e)
		}
	}
	if want := map[string]int{"protocol": 1, "certificate": 1, "not_tls": 1}; !maps.Equal(reasons, want) {
		t.Errorf("%v, want %v", reasons, want)
	}
	g.get(c, capabilities)
	if len(g.noted) != 0 {
		t.Error("a connection with a good certificate was counted")
	}
}

// TestWhatALimitTurnsAwayIsCountedForTheAuditLog exhausts a grant.
func TestWhatALimitTurnsAwayIsCountedForTheAuditLog(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	c := g.client(g.presenting(cert), http2)
	refused := 0
	for range 70 {
		if a := g.get(c, capabilities); a.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 || len(g.noted) != refused {
		t.Fatalf("%d of %d are counted", len(g.noted), refused)
	}
	if e := <-g.noted; e.DeniedReason != "rate_limited" || e.StatusCode != http.StatusTooManyRequests || e.GrantID != made.ID || e.RemoteAddress != "127.0.0.1" || e.QueryHash != nil {
		t.Errorf("%+v", e)
	}
}

func TestHeadIsNotAllowedAndSaysSoWithoutABody(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	for _, version := range []string{http1, http2} {
		c := g.client(g.presenting(cert), version)
		a, err := g.ask(c, http.MethodHead, capabilities, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a.StatusCode != http.StatusMethodNotAllowed || len(a.body) != 0 || a.Header.Get("Content-Type") != "application/problem+json" || a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %d %v with %d bytes, want 405", version, a.StatusCode, a.Header, len(a.body))
		}
		if next := g.get(c, capabilities); next.grantID(t) != made.ID.String() || !next.reused {
			t.Errorf("%s: the connection was not good for another request", version)
		}
	}
}

func TestAnUnknownPathIsNotFoundAndOnRecord(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	c := g.client(g.presenting(cert), http2)
	paths := []string{"/", "/federation", "/federation/v2/capabilities", fedapi.Base, fedapi.Base + "/capabilities/", fedapi.Base + "/resources", "/api/users", "/health"}
	for _, path := range paths {
		g.get(c, path).wantProblem(t, http.StatusNotFound, "not_found")
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'unknown' AND denied_reason = 'not_found'`); n != len(paths) {
		t.Errorf("%d of %d probes are on record", n, len(paths))
	}
}

func TestTheListenerNamesItsCAToClients(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	conf := g.presenting(cert)
	var named [][]byte
	conf.GetClientCertificate = func(i *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		named = i.AcceptableCAs
		return cert, nil
	}
	g.get(g.client(conf, http1), capabilities)
	if !slices.ContainsFunc(named, func(dn []byte) bool { return string(dn) == string(g.ca.root.RawSubject) }) {
		t.Error("a client with many certificates is not told which one to take")
	}
}
