// Package catest is the conformance suite of ca.Authority. The authority in process and the client of a remote
// Step-CA both run it, so that what a use case was tested against is what it meets in production.
package catest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

// Host is the federation host that the suite's certificates are for.
const Host = "gateway-b.example"

// deadline bounds one call of the suite: longer than any CA takes, shorter than a test's patience.
const deadline = 30 * time.Second

// Profile is the leaf profile of the suite's certificates.
func Profile() identity.Profile {
	return identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: Host}
}

// Run checks that the authorities newAuthority makes keep the contract. They must sign with the arc
// identity.DefaultArc and allow lifetimes from a minute to a year.
func Run(t *testing.T, newAuthority func(t *testing.T) ca.Authority) {
	t.Helper()
	tests := []struct {
		name string
		run  func(*testing.T, ca.Authority)
	}{
		{"a leaf is signed as asked", leafAsAsked},
		{"the CA chooses a serial when none is asked for", serialChosen},
		{"what a request smuggles never reaches the leaf", smuggling},
		{"requests with names the CA would misread are the requester's fault", unreadableNames},
		{"every allowed kind of key is signed", allowedKeys},
		{"weak keys are refused before the CA sees them", weakKeys},
		{"lifetimes outside the limits are refused", lifetimes},
		{"the limits are those of the provisioner", limits},
		{"a request that makes no sense is refused", nonsense},
		{"one request can be signed again", signedAgain},
		{"many at once all succeed", concurrent},
		{"a server certificate serves its names", server},
		{"a revoked serial is on the list", revoke},
		{"the list is signed by the issuer and grows", crl},
		{"a context that has ended ends every call", ended},
		{"a working authority is ready", ready},
		{"the root is a root", roots},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newAuthority(t))
		})
	}
}

// Context is a context with the suite's deadline.
func Context(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// NewKey makes a P-256 key.
func NewKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// NewCSR makes a certificate request of key that says what template says.
func NewCSR(t *testing.T, key crypto.Signer, template x509.CertificateRequest) *x509.CertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// NewRequest asks for a certificate of one day with a fresh key, grant, user and serial number.
func NewRequest(t *testing.T) ca.LeafRequest {
	t.Helper()
	serial, err := ca.NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca.LeafRequest{
		CSR:           NewCSR(t, NewKey(t), x509.CertificateRequest{}),
		GrantID:       uuid.New(),
		SubjectUserID: uuid.New(),
		Host:          Host,
		Serial:        serial,
		NotAfter:      time.Now().Add(24 * time.Hour).Truncate(time.Second),
	}
}

// CheckLeaf fails the test unless chain is what req asked a for, by the check every certificate goes through.
func CheckLeaf(t *testing.T, a ca.Authority, req ca.LeafRequest, chain ca.Chain) {
	t.Helper()
	roots, err := a.Roots(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	want := identity.Want{
		Profile: Profile(), PublicKey: req.CSR.PublicKey, GrantID: req.GrantID, UserID: req.SubjectUserID,
		Serial: req.Serial, NotBefore: req.NotBefore, NotAfter: req.NotAfter,
	}
	if _, _, err := identity.VerifyIssued(chain.Leaf, chain.Intermediates, roots, want, time.Now()); err != nil {
		t.Fatalf("issued certificate: %v", err)
	}
}

func issue(t *testing.T, a ca.Authority, req ca.LeafRequest) ca.Chain {
	t.Helper()
	chain, err := a.IssueLeaf(Context(t), req)
	if err != nil {
		t.Fatalf("IssueLeaf: %v", err)
	}
	return chain
}

// wantFault fails the test unless err is a fault of the code of want.
// wantUnsigned is wantFault of a signing call that cannot have left a certificate behind.
func wantUnsigned(t *testing.T, err error, want *fault.Fault) {
	t.Helper()
	wantFault(t, err, want)
	if ca.MayHaveSigned(err) {
		t.Errorf("%v: there may be a certificate, says the authority", err)
	}
}

func wantFault(t *testing.T, err error, want *fault.Fault) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want %s", want.Code)
	}
	if got := fault.From(err); got.Code != want.Code {
		t.Fatalf("got %v, want %s", err, want.Code)
	}
	if f := fault.From(err); f.Detail == "" || f.Hint == "" {
		t.Fatalf("fault %s has no detail or no hint", f.Code)
	}
}

func leafAsAsked(t *testing.T, a ca.Authority) {
	req := NewRequest(t)
	req.NotBefore = time.Now().Add(-10 * time.Second).Truncate(time.Second)
	chain := issue(t, a, req)
	CheckLeaf(t, a, req, chain)
	leaf := chain.Leaf
	if !leaf.NotBefore.Equal(req.NotBefore) || !leaf.NotAfter.Equal(req.NotAfter) {
		t.Errorf("valid from %v to %v, asked for %v to %v", leaf.NotBefore, leaf.NotAfter, req.NotBefore, req.NotAfter)
	}
	if leaf.Subject.String() != "CN="+req.GrantID.String() {
		t.Errorf("subject %q, want the grant's id alone", leaf.Subject)
	}
	if len(chain.Intermediates) == 0 {
		t.Error("the chain has no intermediate")
	}
	for _, oid := range []asn1.ObjectIdentifier{identity.DefaultArc.Grant(), identity.DefaultArc.User()} {
		n := 0
		for _, ext := range leaf.Extensions {
			if ext.Id.Equal(oid) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("extension %v is there %d times", oid, n)
		}
	}
}

func serialChosen(t *testing.T, a ca.Authority) {
	req := NewRequest(t)
	req.Serial = nil
	chain := issue(t, a, req)
	CheckLeaf(t, a, req, chain)
	if chain.Leaf.SerialNumber.BitLen() < 64 {
		t.Errorf("serial %v has under 64 bits", chain.Leaf.SerialNumber)
	}
}

// smuggling sends requests that ask for everything a federation certificate must not have.
func smuggling(t *testing.T, a ca.Authority) {
	other := uuid.New().String()
	ext := func(oid asn1.ObjectIdentifier, value []byte) pkix.Extension {
		return pkix.Extension{Id: oid, Value: value}
	}
	utf8 := append([]byte{0x0c, 0x24}, other...)
	foreign, err := url.Parse("spiffe://" + Host + "/grant/" + other + "/user/" + other)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]x509.CertificateRequest{
		"the claims' extensions": {ExtraExtensions: []pkix.Extension{
			ext(identity.DefaultArc.Grant(), utf8), ext(identity.DefaultArc.User(), utf8),
		}},
		"a CA bit and key usage": {ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{0x03, 0x02, 0x01, 0x06}},
		}},
		"serverAuth": {ExtraExtensions: []pkix.Extension{
			ext(asn1.ObjectIdentifier{2, 5, 29, 37}, []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, 1}),
		}},
		"names of every kind": {
			DNSNames: []string{Host, "*.example"}, EmailAddresses: []string{"root@example.com"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, URIs: []*url.URL{foreign},
		},
		"a subject": {Subject: pkix.Name{
			CommonName: other, Organization: []string{"Somebody Else"}, SerialNumber: "1", Country: []string{"XX"},
		}},
		"a subject that is a template": {Subject: pkix.Name{CommonName: `{{ fail "x" }}", "isCA": true, "x": "`}},
		"a subject and names": {
			Subject: pkix.Name{CommonName: "gateway-a"}, DNSNames: []string{"gateway-a", "gateway-a.example"},
		},
	}
	for name, template := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := NewRequest(t)
			req.CSR = NewCSR(t, NewKey(t), template)
			chain := issue(t, a, req)
			CheckLeaf(t, a, req, chain)
			if chain.Leaf.Subject.String() != "CN="+req.GrantID.String() {
				t.Errorf("subject %q came from the request", chain.Leaf.Subject)
			}
		})
	}
}

func unreadableNames(t *testing.T, a ca.Authority) {
	for _, name := range []string{"192.0.2.1", "mail@example.com", "https://example.com"} {
		req := NewRequest(t)
		req.CSR = NewCSR(t, NewKey(t), x509.CertificateRequest{DNSNames: []string{name}})
		_, err := a.IssueLeaf(Context(t), req)
		wantUnsigned(t, err, identity.ErrCSR)
	}
}

func nonsense(t *testing.T, a ca.Authority) {
	tests := map[string]struct {
		change func(*ca.LeafRequest)
		want   *fault.Fault
	}{
		"no request":           {func(r *ca.LeafRequest) { r.CSR = nil }, identity.ErrCSR},
		"no grant":             {func(r *ca.LeafRequest) { r.GrantID = uuid.Nil }, ca.ErrRequest},
		"no user":              {func(r *ca.LeafRequest) { r.SubjectUserID = uuid.Nil }, ca.ErrRequest},
		"no host":              {func(r *ca.LeafRequest) { r.Host = "" }, ca.ErrRequest},
		"serial zero":          {func(r *ca.LeafRequest) { r.Serial = new(big.Int) }, ca.ErrRequest},
		"negative serial":      {func(r *ca.LeafRequest) { r.Serial = big.NewInt(-5) }, ca.ErrRequest},
		"serial of 129 bits":   {func(r *ca.LeafRequest) { r.Serial = new(big.Int).Lsh(big.NewInt(1), 128) }, ca.ErrRequest},
		"no end of life":       {func(r *ca.LeafRequest) { r.NotAfter = time.Time{} }, ca.ErrLifetime},
		"a host with a slash":  {func(r *ca.LeafRequest) { r.Host = "a/b" }, ca.ErrRequest},
		"a host with a quote":  {func(r *ca.LeafRequest) { r.Host = `a"b` }, ca.ErrRequest},
		"a host with userinfo": {func(r *ca.LeafRequest) { r.Host = "a@b" }, ca.ErrRequest},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := NewRequest(t)
			test.change(&req)
			_, err := a.IssueLeaf(Context(t), req)
			wantUnsigned(t, err, test.want)
		})
	}
}

// signedAgain: a retry after a lost answer brings the same request under another serial number.
func signedAgain(t *testing.T, a ca.Authority) {
	req := NewRequest(t)
	first := issue(t, a, req)
	again := NewRequest(t)
	req.Serial = again.Serial
	second := issue(t, a, req)
	CheckLeaf(t, a, req, second)
	if first.Leaf.SerialNumber.Cmp(second.Leaf.SerialNumber) == 0 {
		t.Error("two certificates have one serial number")
	}
}

func concurrent(t *testing.T, a ca.Authority) {
	const n = 16
	requests := make([]ca.LeafRequest, n)
	for i := range requests {
		requests[i] = NewRequest(t)
	}
	ctx := Context(t)
	chains, errs := make([]ca.Chain, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() { chains[i], errs[i] = a.IssueLeaf(ctx, requests[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i, chain := range chains {
		CheckLeaf(t, a, requests[i], chain)
	}
}

func server(t *testing.T, a ca.Authority) {
	names := []string{"fed.example", "127.0.0.1", "::1"}
	req := ca.ServerRequest{
		CSR:      NewCSR(t, NewKey(t), x509.CertificateRequest{}),
		Names:    names,
		NotAfter: time.Now().Add(time.Hour),
	}
	chain, err := a.IssueServer(Context(t), req)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := a.Roots(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := verifyServer(chain, trust, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := verifyServer(chain, trust, "other.example"); err == nil {
		t.Error("serves a name it was not asked for")
	}
	if _, err := Profile().Parse(chain.Leaf); err == nil {
		t.Error("a server's certificate passes as a federation leaf")
	}
	req.Names = nil
	_, err = a.IssueServer(Context(t), req)
	wantFault(t, err, ca.ErrRequest)
	req.Names = []string{"spiffe://" + Host + "/grant/x"}
	_, err = a.IssueServer(Context(t), req)
	wantFault(t, err, ca.ErrRequest)
}

func verifyServer(chain ca.Chain, trust []*x509.Certificate, name string) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: name}
	for _, c := range trust {
		opts.Roots.AddCert(c)
	}
	for _, c := range chain.Intermediates {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain.Leaf.Verify(opts)
	return err
}

func ready(t *testing.T, a ca.Authority) {
	if err := a.Ready(Context(t)); err != nil {
		t.Error(err)
	}
}

func roots(t *testing.T, a ca.Authority) {
	certs, err := a.Roots(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(certs) != 1 || !certs[0].IsCA || certs[0].CheckSignatureFrom(certs[0]) != nil {
		t.Errorf("got %d roots, want one that signed itself", len(certs))
	}
	if slices.Contains(certs, nil) {
		t.Error("a root is nil")
	}
}
