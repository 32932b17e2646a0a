package enroll_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func body(t *testing.T, csr []byte) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]string{"csr": string(csr)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func identityOf(t *testing.T, certificate string) identity.Identity {
	t.Helper()
	block, _ := pem.Decode([]byte(certificate))
	if block == nil {
		t.Fatalf("no certificate: %q", certificate)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	id, err := profile.Parse(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestRenewalsAtStepCA renews at a real Step-CA, while it is away, and when it is back, again and again: the life of
// the certificates is the one that was asked for at first.
func TestRenewalsAtStepCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := stepcatest.Start(t)
	s := service(w.db, server.Client(t), nil)
	g, token := w.granted()
	ttl := int64(300)
	first, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t), TTL: &ttl})
	if err != nil {
		t.Fatal(err)
	}
	by := identityOf(t, first.Certificate)
	server.Stop()
	request := body(t, newCSR(t))
	started := time.Now()
	_, err = s.Renew(t.Context(), by, request, act)
	wantCode(t, err, ca.ErrUnavailable)
	if f := fault.From(err); f.RetryAfter <= 0 || time.Since(started) > 15*time.Second {
		t.Errorf("answered after %s, Retry-After %s", time.Since(started), f.RetryAfter)
	}
	if live := w.live(g); !slices.Equal(live, []string{first.SerialNumber}) {
		t.Errorf("live: %v, want the one in use alone", live)
	}
	s = service(w.db, server.Restart(t).Client(t), nil)
	for range 4 {
		answer, err := s.Renew(t.Context(), by, request, act)
		if err != nil {
			t.Fatal(err)
		}
		var next enroll.Issued
		if err := json.Unmarshal(answer, &next); err != nil {
			t.Fatal(err)
		}
		id := identityOf(t, next.Certificate)
		if id.GrantID != g.ID || id.UserID != g.SubjectUserID || id.Key == by.Key {
			t.Errorf("%+v", id)
		}
		if life := id.NotAfter.Sub(id.NotBefore); life < 299*time.Second || life > 361*time.Second {
			t.Errorf("it lives %s, want 5 min like the first", life)
		}
		if live := w.live(g); !slices.Contains(live, by.Serial) || !slices.Contains(live, id.Serial) || len(live) != 2 {
			t.Errorf("live: %v, want %s and %s", live, by.Serial, id.Serial)
		}
		by, request = id, body(t, newCSR(t))
	}
}

// TestARenewalEndsWithItsGrant cuts the life short.
func TestARenewalEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := service(w.db, w.embeddedCA(), nil)
	g, token := w.granted()
	first, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)})
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(10 * time.Minute)
	if _, err := w.pool.Exec(t.Context(), `UPDATE federation_grants SET expires_at = $1`, end); err != nil {
		t.Fatal(err)
	}
	answer, err := s.Renew(t.Context(), identityOf(t, first.Certificate), body(t, newCSR(t)), act)
	if err != nil {
		t.Fatal(err)
	}
	var next enroll.Issued
	if err := json.Unmarshal(answer, &next); err != nil {
		t.Fatal(err)
	}
	if next.NotAfter.After(end) || next.NotAfter.Before(end.Add(-time.Second)) || next.GrantID != g.ID {
		t.Errorf("it ends %s, want %s with its grant", next.NotAfter, end)
	}
}
