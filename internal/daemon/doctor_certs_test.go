package daemon

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.step.sm/crypto/pemutil"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
)

// serverCert is signed by the root itself, so that it may be what no CA would sign today. It ends after left.
func (w *ward) serverCert(t *testing.T, host string, left time.Duration) tls.Certificate {
	t.Helper()
	return signed(t, host, left, w.root, w.rootKey)
}

// signed makes a certificate of two hours' life, by itself when there is no parent.
func signed(t *testing.T, host string, left time.Duration, parent *x509.Certificate, key crypto.Signer) tls.Certificate {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(left)
	template := &x509.Certificate{
		SerialNumber: serialOf(t), Subject: pkix.Name{CommonName: host}, NotBefore: end.Add(-2 * time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	if parent == nil {
		parent, key = template, own
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own, Leaf: leaf}
}

// strangeRoot is the root of nobody's CA.
func strangeRoot(t *testing.T, left time.Duration) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serialOf(t), Subject: pkix.Name{CommonName: "stranger"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(left),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return signPublic(t, template, template, key.Public(), key)
}

func signPublic(t *testing.T, template, parent *x509.Certificate, public any, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pemFile(t *testing.T, certs ...*x509.Certificate) string {
	t.Helper()
	var b bytes.Buffer
	for _, c := range certs {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	return fileOf(t, b.String())
}

func keyFile(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return fileOf(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func fileOf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// signerOf is the key of a CA's root.
func signerOf(t *testing.T, s *stepcatest.Server) crypto.Signer {
	t.Helper()
	key, err := pemutil.Read(filepath.Join(s.Dir, "secrets", "root_ca_key"), pemutil.WithPassword(s.Password))
	if err != nil {
		t.Fatal(err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		t.Fatalf("the root's key is a %T", key)
	}
	return signer
}

func serialOf(t *testing.T) *big.Int {
	t.Helper()
	serial, err := ca.NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return serial
}

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	cert, err := pemutil.ReadCertificate(path)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}
