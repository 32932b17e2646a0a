package fedapi_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.step.sm/crypto/pemutil"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/identity"
)

// authority is a CA with its issuer's key, as whoever else may have something signed by it has it.
type authority struct {
	*embedded.Authority
	root, issuer *x509.Certificate
	issuerKey    crypto.Signer
}

// The CAs of the test binary, made once: the gateway's own, and a stranger's.
var (
	caDirs []string
	ours   = sync.OnceValues(openCA)
	theirs = sync.OnceValues(openCA)
	making sync.Mutex
)

func openCA() (*authority, error) {
	making.Lock()
	defer making.Unlock()
	dir, err := os.MkdirTemp("", "mosaic-fedapi-ca-")
	if err != nil {
		return nil, err
	}
	caDirs = append(caDirs, dir)
	a, err := embedded.Open(context.Background(), embedded.Config{Dir: filepath.Join(dir, "ca"), Name: "Test", Arc: identity.DefaultArc})
	if err != nil {
		return nil, err
	}
	roots, err := a.Roots(context.Background())
	if err != nil {
		return nil, err
	}
	password, err := os.ReadFile(filepath.Join(dir, "ca", "password"))
	if err != nil {
		return nil, err
	}
	key, err := pemutil.Read(filepath.Join(dir, "ca", "secrets", "intermediate_ca_key"), pemutil.WithPassword([]byte(strings.TrimSpace(string(password)))))
	if err != nil {
		return nil, err
	}
	issuer, err := pemutil.ReadCertificate(filepath.Join(dir, "ca", "certs", "intermediate_ca.crt"))
	if err != nil {
		return nil, err
	}
	return &authority{a, roots[0], issuer, key.(crypto.Signer)}, nil
}

func mustCA(t *testing.T, get func() (*authority, error)) *authority {
	t.Helper()
	a, err := get()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t *testing.T, key crypto.Signer, names ...string) *x509.CertificateRequest {
	t.Helper()
	template := &x509.CertificateRequest{}
	for _, n := range names {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(n))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func chained(key crypto.Signer, c ca.Chain) *tls.Certificate {
	out := &tls.Certificate{PrivateKey: key, Leaf: c.Leaf, Certificate: [][]byte{c.Leaf.Raw}}
	for _, i := range c.Intermediates {
		out.Certificate = append(out.Certificate, i.Raw)
	}
	return out
}

// signed has the federation's provisioner sign a certificate that no registry will ever hold.
func (a *authority) signed(t *testing.T, grantID, userID uuid.UUID) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	chain, err := a.IssueLeaf(t.Context(), ca.LeafRequest{
		CSR: newCSR(t, key), GrantID: grantID, SubjectUserID: userID, Host: fedHost, NotAfter: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return chained(key, chain)
}

// server has the provisioner of listeners sign a certificate.
func (a *authority) server(t *testing.T) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	chain, err := a.IssueServer(t.Context(), ca.ServerRequest{
		CSR: newCSR(t, key, fedHost), Names: []string{fedHost}, NotAfter: time.Now().Add(24 * time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return chained(key, chain)
}

// stepProvisioner is the extension in which Step-CA says which provisioner a certificate came from.
var stepProvisioner = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 1}

// forged has the CA's issuer sign whatever change makes of a perfect certificate for grant and user, as another
// provisioner of the same CA could.
func (a *authority) forged(t *testing.T, grantID, userID uuid.UUID, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	from, err := asn1.Marshal(struct {
		Type               int
		Name, CredentialID []byte
	}{1, []byte("somebody-else"), []byte("kid")})
	if err != nil {
		t.Fatal(err)
	}
	claim := func(id uuid.UUID) []byte { return append([]byte{0x0c, 0x24}, id.String()...) }
	serial := uuid.New()
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]), Subject: pkix.Name{CommonName: grantID.String()},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{identity.SPIFFE(fedHost, grantID, userID)},
		ExtraExtensions: []pkix.Extension{
			{Id: identity.DefaultArc.Grant(), Value: claim(grantID)},
			{Id: identity.DefaultArc.User(), Value: claim(userID)},
			{Id: stepProvisioner, Value: from},
		},
	}
	change(template)
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.issuer, key.Public(), a.issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return chained(key, ca.Chain{Leaf: leaf, Intermediates: []*x509.Certificate{a.issuer}})
}
