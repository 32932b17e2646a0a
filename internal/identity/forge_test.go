package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/identity"
)

const host = "gateway-b.example"

var (
	grantID = uuid.MustParse("6f9619ff-8b86-4011-b42d-00cf4fc964ff")
	userID  = uuid.MustParse("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d")
)

func profile() identity.Profile {
	return identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: host}
}

// testCA is a root and an intermediate that sign whatever a test asks for.
type testCA struct {
	root, issuer *x509.Certificate
	issuerKey    crypto.Signer
	leafKey      crypto.Signer
	now          time.Time
}

// authority makes the CA of a test binary once: forging a hundred certificates needs no hundred CAs.
var authority = sync.OnceValues(func() (*testCA, error) {
	now := time.Now().Truncate(time.Second)
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(365 * 24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
		}
	}
	root, err := sign(template("root"), template("root"), rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	issuer, err := sign(template("issuer"), root, issuerKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	return &testCA{root: root, issuer: issuer, issuerKey: issuerKey, leafKey: leafKey, now: now}, nil
})

func newCA(t testing.TB) *testCA {
	t.Helper()
	c, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sign(template, parent *x509.Certificate, public any, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// forgery is a certificate to be made: a good one until a test changes it.
type forgery struct {
	x509.Certificate
	public any
}

func utf8String(s string) []byte { return append([]byte{0x0c, byte(len(s))}, s...) }

func extension(oid asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: oid, Value: value}
}

func (c *testCA) good() *forgery {
	return &forgery{
		Certificate: x509.Certificate{
			SerialNumber:          new(big.Int).Lsh(big.NewInt(5), 120),
			Subject:               pkix.Name{CommonName: grantID.String()},
			NotBefore:             c.now.Add(-time.Minute),
			NotAfter:              c.now.Add(24 * time.Hour),
			KeyUsage:              x509.KeyUsageDigitalSignature,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true,
			URIs:                  []*url.URL{identity.SPIFFE(host, grantID, userID)},
			ExtraExtensions: []pkix.Extension{
				extension(identity.DefaultArc.Grant(), utf8String(grantID.String())),
				extension(identity.DefaultArc.User(), utf8String(userID.String())),
			},
		},
		public: c.leafKey.Public(),
	}
}

// grantValue replaces the value of the grant's extension.
func (f *forgery) grantValue(value []byte) { f.ExtraExtensions[0].Value = value }

// add appends an extension.
func (f *forgery) add(oid asn1.ObjectIdentifier, critical bool, value []byte) {
	f.ExtraExtensions = append(f.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: value})
}

// san replaces the alternative names by the given GeneralNames, each as tag and content.
func (f *forgery) san(t testing.TB, names ...asn1.RawValue) {
	t.Helper()
	f.URIs = nil
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	f.add(asn1.ObjectIdentifier{2, 5, 29, 17}, false, value)
}

func generalName(tag int, content string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(content)}
}

// rsaOf makes an RSA public key of so many bits that nobody has the private half of.
func rsaOf(bits int, exponent int) *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return &rsa.PublicKey{N: n.SetBit(n, 0, 1), E: exponent}
}
