// Package peertest is another gateway for tests: a CA of its own, certificates as the federation profile wants
// them, and a real mutual-TLS listener in front of whatever handler a test wants to be asked.
package peertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/identity"
)

// Host is where every listener of a test is, and so the federation host of its certificates.
const Host = "127.0.0.1"

// CA is a root with one intermediate, which signs.
type CA struct {
	Root         *x509.Certificate
	Intermediate *x509.Certificate
	key          *ecdsa.PrivateKey
}

// NewCA makes a CA.
func NewCA(t testing.TB) *CA {
	t.Helper()
	rootKey, key := newKey(t), newKey(t)
	root := authority("test root", 1)
	rootCert := sign(t, root, root, rootKey.Public(), rootKey)
	return &CA{
		Root: rootCert, key: key,
		Intermediate: sign(t, authority("test intermediate", 0), rootCert, key.Public(), rootKey),
	}
}

func authority(name string, pathLen int) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, SerialNumber: serial(), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0, KeyUsage: x509.KeyUsageCertSign,
	}
}

// RootPEM is the root in PEM.
func (ca *CA) RootPEM() string { return PEM(ca.Root) }

// Fingerprint is what an enrollment URL has in ca=.
func (ca *CA) Fingerprint() string { return identity.FingerprintHex(ca.Root.Raw) }

// Leaf says what a client certificate carries. Zero fields take the values of a good one.
type Leaf struct {
	Grant, User         uuid.UUID
	Host                string
	Arc                 identity.Arc
	NotBefore, NotAfter time.Time
	Usage               x509.ExtKeyUsage // zero: clientAuth
	Extra               []pkix.Extension
}

// Client signs a client certificate.
func (ca *CA) Client(t testing.TB, key crypto.PublicKey, l Leaf) *x509.Certificate {
	t.Helper()
	now := time.Now()
	if l.Host == "" {
		l.Host = Host
	}
	if l.Arc == "" {
		l.Arc = identity.DefaultArc
	}
	if l.NotBefore.IsZero() {
		l.NotBefore = now.Add(-time.Minute)
	}
	if l.NotAfter.IsZero() {
		l.NotAfter = now.Add(time.Hour)
	}
	if l.Usage == 0 {
		l.Usage = x509.ExtKeyUsageClientAuth
	}
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: l.NotBefore, NotAfter: l.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{l.Usage},
		URIs: []*url.URL{identity.SPIFFE(l.Host, l.Grant, l.User)},
		ExtraExtensions: append([]pkix.Extension{
			{Id: l.Arc.Grant(), Value: append([]byte{0x0c, 36}, l.Grant.String()...)},
			{Id: l.Arc.User(), Value: append([]byte{0x0c, 36}, l.User.String()...)},
		}, l.Extra...),
	}
	return sign(t, template, ca.Intermediate, key, ca.key)
}

// Server makes the listener's certificate, for Host.
func (ca *CA) Server(t testing.TB) tls.Certificate {
	t.Helper()
	key := newKey(t)
	now := time.Now()
	leaf := sign(t, &x509.Certificate{
		SerialNumber: serial(), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.ParseIP(Host)},
	}, ca.Intermediate, key.Public(), ca.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Intermediate.Raw}, PrivateKey: key}
}

// Chain is a leaf and the intermediate in PEM.
func (ca *CA) Chain(leaf *x509.Certificate) string { return PEM(leaf, ca.Intermediate) }

// TLS is the configuration of a federation listener: TLS 1.3, and a client certificate of this CA.
func (ca *CA) TLS(t testing.TB) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.Server(t)},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
	}
}

// Listen serves h over mutual TLS and HTTP/2 until the test ends.
func (ca *CA) Listen(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	return Serve(t, ca.TLS(t), h)
}

// Serve serves h under a TLS configuration, nil for plain HTTP, until the test ends.
func Serve(t testing.TB, c *tls.Config, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what some tests are about
	s.EnableHTTP2 = true
	if s.TLS = c; c != nil {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Key makes a P-256 key, and gives it in PKCS #8 PEM too.
func Key(t testing.TB) (keyPEM []byte, public crypto.PublicKey) {
	t.Helper()
	key := newKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), key.Public()
}

// PEM is certificates in PEM.
func PEM(list ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range list {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Builder takes every write
	}
	return b.String()
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serial is of 122 random bits, and positive.
func serial() *big.Int {
	id := uuid.New()
	return new(big.Int).SetBytes(id[:])
}

func sign(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
