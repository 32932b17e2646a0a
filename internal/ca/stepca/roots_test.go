package stepca_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/smallstep/certificates/api"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/stepca"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
)

func wantRoots(t *testing.T, c *stepca.Client, want ...*x509.Certificate) {
	t.Helper()
	got, err := c.Roots(catest.Context(t))
	if err != nil || !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
		t.Errorf("%d roots, want %d: %v", len(got), len(want), err)
	}
}

// TestTheRootsOfTheCAAreFollowed rolls the root of a stock step-ca over, as docs/root-rollover.md has it. The client
// that was pinned to the old one follows, and one that is pinned to both can be started at any time.
func TestTheRootsOfTheCAAreFollowed(t *testing.T) {
	t.Parallel()
	s := stepcatest.Start(t)
	c := s.Client(t)
	old := s.Roots[0]
	refresh := func(c *stepca.Client) {
		t.Helper()
		if err := c.RefreshRoots(catest.Context(t)); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(c *stepca.Client) ca.Chain {
		t.Helper()
		req := catest.NewRequest(t)
		chain, err := c.IssueLeaf(catest.Context(t), req)
		if err != nil {
			t.Fatal(err)
		}
		catest.CheckLeaf(t, c, req, chain)
		return chain
	}
	wantRoots(t, c, old)
	refresh(c)
	wantRoots(t, c, old)

	var both []*x509.Certificate
	s.RestartInPlace(t, func() {
		a := s.Authority(t)
		if err := a.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		both, _ = a.Roots(t.Context())
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	})
	sign(c) // nobody has told the client yet: the issuer is vouched for by the old root too
	wantRoots(t, c, old)
	refresh(c)
	wantRoots(t, c, both...)
	chain := sign(c)
	if len(chain.Intermediates) != 2 {
		t.Errorf("%d issuers in the chain, want the new one twice", len(chain.Intermediates))
	}

	s.RestartInPlace(t, func() {
		a := s.Authority(t)
		if err := errors.Join(a.Finish(t.Context()), a.Close()); err != nil {
			t.Fatal(err)
		}
	})
	refresh(c)
	wantRoots(t, c, both[0])
	sign(c)
	conf := s.Config()
	conf.Roots = both
	pinned := newClient(t, conf)
	sign(pinned)
	refresh(pinned)
	wantRoots(t, pinned, both[0])
	left := newClient(t, s.Config())
	wantFault(t, left.RefreshRoots(catest.Context(t)), ca.ErrTrust)
	wantRoots(t, left, old)
}

// TestRootsThatCannotBeReadChangeNothing: what was believed stays.
func TestRootsThatCannotBeReadChangeNothing(t *testing.T) {
	t.Parallel()
	leaf := selfSigned(t, false)
	answer := func(list ...*x509.Certificate) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			var doc api.RootsResponse
			for _, c := range list {
				doc.Certificates = append(doc.Certificates, api.Certificate{Certificate: c})
			}
			w.WriteHeader(http.StatusCreated) // as step-ca answers
			_ = json.NewEncoder(w).Encode(doc)
		}
	}
	crowd := make([]*x509.Certificate, 9)
	for i := range crowd {
		crowd[i] = strangerRoot(t)
	}
	for name, handler := range map[string]http.HandlerFunc{
		"two": answer(crowd[:2]...), "none": answer(), "a leaf": answer(strangerRoot(t), leaf), "too many": answer(crowd...),
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }, "a failure": status(http.StatusInternalServerError, "x"),
	} {
		f := httptest.NewTLSServer(handler)
		t.Cleanup(f.Close)
		key := marshal(t, newJWK(t))
		p := stepca.Provisioner{Name: "x", KeyJSON: key}
		c := newClient(t, stepca.Config{URL: f.URL, Roots: []*x509.Certificate{f.Certificate()}, Federation: p, Server: p})
		if err := c.RefreshRoots(catest.Context(t)); (err == nil) != (name == "two") {
			t.Errorf("%s: %v", name, err)
		}
		if name == "two" {
			wantRoots(t, c, crowd[:2]...)
		} else {
			wantRoots(t, c, f.Certificate())
		}
	}
}
