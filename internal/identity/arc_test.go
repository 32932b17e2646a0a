package identity_test

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/identity"
)

func TestParseArc(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"1.3.6.1.4.1.99999", "1.3.6.1.4.1.99999.7.1", "2.999.1", "1.2.840", "0.39.1", "1.3.6.1.4.1.2147483647"} {
		arc, err := identity.ParseArc(s)
		if err != nil || arc.String() != s {
			t.Errorf("%s: got %q, %v", s, arc, err)
		}
		der, err := asn1.Marshal(arc.Grant())
		if err != nil || len(der) == 0 {
			t.Errorf("%s: the grant's identifier cannot be encoded: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "1", "1.3", "1..3", ".1.3.6", "1.3.6.", "1.3.06", "1.3.+6", "1.3.-6", "1.3.6 ", "3.1.1", "0.40.1", "1.40.1",
		"1.3.2147483648", "1.3.x", "1.3.6.1.4.1.99999\n", "2.5.29", "2.5.29.37", "1.3.6.1.5.5.7.3", "1.3.6.1.5.5",
		"1.3.6.1.4.1.37476.9000.64", "1.3.6.1", "1.2.3.4.5.6.7.8.9.10.11.12.13.14.15.16.17.18.19.20.21.22.23.24.25",
	} {
		if arc, err := identity.ParseArc(s); !errors.Is(err, identity.ErrArc) || arc != "" {
			t.Errorf("%q: got %q, %v", s, arc, err)
		}
	}
}

func TestArcUnmarshalText(t *testing.T) {
	t.Parallel()
	arc := identity.DefaultArc
	if err := arc.UnmarshalText([]byte("nonsense")); !errors.Is(err, identity.ErrArc) || arc != identity.DefaultArc {
		t.Errorf("got %q, %v", arc, err)
	}
	if err := arc.UnmarshalText([]byte("1.3.6.1.4.1.55555")); err != nil || arc != "1.3.6.1.4.1.55555" {
		t.Errorf("got %q, %v", arc, err)
	}
	if !arc.User().Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 2}) {
		t.Errorf("user is %v", arc.User())
	}
	if oid := identity.Arc("x").Grant(); oid != nil {
		t.Errorf("an arc that is none gives %v", oid)
	}
}

func TestSPIFFE(t *testing.T) {
	t.Parallel()
	rest := "/grant/" + grantID.String() + "/user/" + userID.String()
	for in, want := range map[string]string{
		"gateway-b.example": "spiffe://gateway-b.example",
		"Gateway-B.Example": "spiffe://gateway-b.example",
		"127.0.0.1":         "spiffe://127.0.0.1",
		"::1":               "spiffe://[::1]",
		"0:0::1":            "spiffe://[::1]",
		"2001:DB8::1":       "spiffe://[2001:db8::1]",
	} {
		if got := identity.SPIFFE(in, grantID, userID).String(); got != want+rest {
			t.Errorf("%s: got %s", in, got)
		}
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	// The SHA-256 of nothing.
	const want = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if got := identity.FingerprintHex(nil); got != want {
		t.Errorf("got %s", got)
	}
}

// FuzzParse: whatever Go's parser lets through, the profile answers with an identity that stands in the bytes, or
// with its fault.
func FuzzParse(f *testing.F) {
	ca := newCA(f)
	seed := func(change func(*forgery)) {
		forged := ca.good()
		change(forged)
		leaf, err := sign(&forged.Certificate, ca.issuer, forged.public, ca.issuerKey)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(leaf.Raw)
	}
	seed(func(*forgery) {})
	seed(func(g *forgery) { g.grantValue(append(utf8String(grantID.String()), 0)) })
	seed(func(g *forgery) { g.san(f, generalName(6, "spiffe://x"), generalName(2, "y")) })
	seed(func(g *forgery) { g.BasicConstraintsValid = false })
	f.Add(ca.root.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		id, err := profile().Parse(leaf)
		if err != nil {
			if !errors.Is(err, identity.ErrProfile) {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		for _, u := range []uuid.UUID{id.GrantID, id.UserID} {
			if !bytes.Contains(der, utf8String(u.String())) {
				t.Fatalf("%v does not stand in the certificate", u)
			}
		}
		if leaf.IsCA || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
			t.Fatal("accepted a certificate that is good for more")
		}
		if identity.CheckPublicKey(leaf.PublicKey) != nil || len(leaf.UnhandledCriticalExtensions) > 0 {
			t.Fatal("accepted a certificate it promised to refuse")
		}
	})
}
