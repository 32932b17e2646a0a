package catest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func allowedKeys(t *testing.T, a ca.Authority) {
	for name, key := range map[string]crypto.Signer{
		"P-384": ecKey(t, elliptic.P384()), "Ed25519": edKey(t), "RSA 3072": rsaKey(t, 3072),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := NewRequest(t)
			req.CSR = NewCSR(t, key, x509.CertificateRequest{})
			CheckLeaf(t, a, req, issue(t, a, req))
		})
	}
}

func weakKeys(t *testing.T, a ca.Authority) {
	for name, key := range map[string]crypto.Signer{
		"P-521": ecKey(t, elliptic.P521()), "P-224": ecKey(t, elliptic.P224()), "RSA 2048": rsaKey(t, 2048),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := NewRequest(t)
			req.CSR = NewCSR(t, key, x509.CertificateRequest{})
			_, err := a.IssueLeaf(Context(t), req)
			wantUnsigned(t, err, identity.ErrCSR)
		})
	}
}

func ecKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func edKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func lifetimes(t *testing.T, a ca.Authority) {
	now := time.Now().Truncate(time.Second)
	tests := map[string]struct{ begin, end time.Duration }{
		"a second":               {0, time.Second},
		"just under a minute":    {0, 59 * time.Second},
		"just over a year":       {0, ca.MaxLifetime + 2*time.Minute},
		"a century":              {0, 100 * ca.MaxLifetime},
		"over already":           {-2 * time.Hour, -time.Hour},
		"ends before it begins":  {time.Hour, time.Minute},
		"ends when it begins":    {time.Hour, time.Hour},
		"over, with a long past": {-ca.MaxLifetime, -time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := NewRequest(t)
			req.NotBefore, req.NotAfter = now.Add(test.begin), now.Add(test.end)
			_, err := a.IssueLeaf(Context(t), req)
			wantUnsigned(t, err, ca.ErrLifetime)
		})
	}
	for name, lifetime := range map[string]time.Duration{"a minute": time.Minute, "a year": ca.MaxLifetime} {
		t.Run(name+" is allowed", func(t *testing.T) {
			t.Parallel()
			req := NewRequest(t)
			req.NotBefore, req.NotAfter = now, now.Add(lifetime)
			chain := issue(t, a, req)
			CheckLeaf(t, a, req, chain)
			// A second more in front is what ca.SigningTimes may add.
			if got := chain.Leaf.NotAfter.Sub(chain.Leaf.NotBefore); got < lifetime || got > lifetime+time.Second {
				t.Errorf("lives %v, asked for %v", got, lifetime)
			}
		})
	}
}

func limits(t *testing.T, a ca.Authority) {
	shortest, longest, err := a.LifetimeLimits(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if shortest != ca.MinLifetime || longest != ca.MaxLifetime {
		t.Errorf("limits are %v to %v, want %v to %v", shortest, longest, ca.MinLifetime, ca.MaxLifetime)
	}
}

func revoke(t *testing.T, a ca.Authority) {
	req := NewRequest(t)
	issue(t, a, req)
	if listed(t, a, req.Serial) {
		t.Fatal("on the list before it was revoked")
	}
	for range 2 { // twice is no error
		if err := a.Revoke(Context(t), req.Serial, "grant revoked"); err != nil {
			t.Fatal(err)
		}
		if !listed(t, a, req.Serial) {
			t.Fatal("not on the list after it was revoked")
		}
	}
	orphan := NewRequest(t).Serial
	if err := a.Revoke(Context(t), orphan, "orphan"); err != nil {
		t.Fatalf("a serial that was never signed: %v", err)
	}
	if !listed(t, a, orphan) {
		t.Error("the orphan is not on the list")
	}
	for _, serial := range []*big.Int{nil, new(big.Int), big.NewInt(-1)} {
		wantFault(t, a.Revoke(Context(t), serial, ""), ca.ErrRequest)
	}
}

func readCRL(t *testing.T, a ca.Authority) *x509.RevocationList {
	t.Helper()
	der, err := a.CRL(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func listed(t *testing.T, a ca.Authority, serial *big.Int) bool {
	t.Helper()
	for _, entry := range readCRL(t, a).RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(serial) == 0 {
			return true
		}
	}
	return false
}

func crl(t *testing.T, a ca.Authority) {
	req := NewRequest(t)
	chain := issue(t, a, req)
	before := readCRL(t, a)
	if err := a.Revoke(Context(t), req.Serial, "test"); err != nil {
		t.Fatal(err)
	}
	after := readCRL(t, a)
	if err := after.CheckSignatureFrom(chain.Intermediates[0]); err != nil {
		t.Errorf("the list is not the issuer's: %v", err)
	}
	if after.Number.Cmp(before.Number) <= 0 {
		t.Errorf("the list's number went from %v to %v", before.Number, after.Number)
	}
	if !after.NextUpdate.After(time.Now()) {
		t.Errorf("the list ended at %v", after.NextUpdate)
	}
}

func ended(t *testing.T, a ca.Authority) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"IssueLeaf": func() error { _, err := a.IssueLeaf(ctx, NewRequest(t)); return err },
		"IssueServer": func() error {
			_, err := a.IssueServer(ctx, ca.ServerRequest{
				CSR:   NewCSR(t, NewKey(t), x509.CertificateRequest{}),
				Names: []string{"fed.example"}, NotAfter: time.Now().Add(time.Hour),
			})
			return err
		},
		"Revoke":         func() error { return a.Revoke(ctx, big.NewInt(7), "") },
		"CRL":            func() error { _, err := a.CRL(ctx); return err },
		"Ready":          func() error { return a.Ready(ctx) },
		"Roots":          func() error { _, err := a.Roots(ctx); return err },
		"LifetimeLimits": func() error { _, _, err := a.LifetimeLimits(ctx); return err },
	}
	for name, call := range calls {
		err := call()
		wantFault(t, err, ca.ErrUnavailable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v does not say that the context was cancelled", name, err)
		}
		if signs := strings.HasPrefix(name, "Issue"); signs && ca.MayHaveSigned(err) {
			t.Errorf("%s: nobody was asked, and there may be a certificate", name)
		}
		if fault.From(err).RetryAfter == 0 {
			t.Errorf("%s: no time to wait", name)
		}
	}
}
