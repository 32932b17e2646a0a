package identity_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func TestParseReadsTheIdentity(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	leaf, err := sign(&ca.good().Certificate, ca.issuer, ca.leafKey.Public(), ca.issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	got, err := profile().Parse(leaf)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.KeyHash(leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	want := identity.Identity{
		Key: key, GrantID: grantID, UserID: userID, Fingerprint: identity.Fingerprint(leaf.Raw),
		Serial: leaf.SerialNumber.String(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
	if got != want {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// The profile is strict about meaning, not about what ordinary CAs add.
func TestParseAcceptsWhatCAsDo(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	old := identity.Arc("1.3.6.1.4.1.55555.7")
	tests := map[string]func(*forgery){
		"Step-CA's own extension": func(f *forgery) {
			f.add(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 1}, false, []byte{0x30, 0x00})
		},
		"key ids, CRL and AIA": func(f *forgery) {
			f.SubjectKeyId = []byte{1, 2, 3}
			f.CRLDistributionPoints = []string{"http://crl.example/ca.crl"}
			f.OCSPServer = []string{"http://ocsp.example"}
			f.IssuingCertificateURL = []string{"http://ca.example/ca.crt"}
		},
		"no basic constraints":     func(f *forgery) { f.BasicConstraintsValid = false },
		"an unknown plain one":     func(f *forgery) { f.add(asn1.ObjectIdentifier{1, 2, 3, 4}, false, []byte{5, 0}) },
		"an arc being phased out":  func(f *forgery) { f.ExtraExtensions[0].Id, f.ExtraExtensions[1].Id = old.Grant(), old.User() },
		"Ed25519":                  func(f *forgery) { f.public = ed.Public() },
		"P-384":                    func(f *forgery) { f.public = ecPublic(t, elliptic.P384()) },
		"RSA 3072":                 func(f *forgery) { f.public = rsaOf(3072, 65537) },
		"RSA 8192":                 func(f *forgery) { f.public = rsaOf(8192, 65537) },
		"a serial of one":          func(f *forgery) { f.SerialNumber = big.NewInt(1) },
		"an empty subject":         func(f *forgery) { f.Subject.CommonName = "" },
		"a critical name, without": func(f *forgery) { f.Subject.CommonName = ""; f.BasicConstraintsValid = false },
	}
	p := profile()
	p.Arcs = append(p.Arcs, old)
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ca.good()
			change(f)
			leaf, err := sign(&f.Certificate, ca.issuer, f.public, ca.issuerKey)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Parse(leaf); err != nil {
				t.Error(err)
			}
		})
	}
}

// atParse marks forgeries that Go's own parser refuses: they never become a certificate to judge.
const atParse = "x509: "

func TestParseRefusesForgeries(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	uri := identity.SPIFFE(host, grantID, userID).String()
	other := uuid.New()
	san := func(names ...asn1.RawValue) func(*testing.T, *forgery) {
		return func(t *testing.T, f *forgery) { t.Helper(); f.san(t, names...) }
	}
	do := func(change func(*forgery)) func(*testing.T, *forgery) {
		return func(_ *testing.T, f *forgery) { change(f) }
	}
	value := func(v []byte) func(*testing.T, *forgery) { return do(func(f *forgery) { f.grantValue(v) }) }
	text := grantID.String()
	tests := map[string]struct {
		change func(*testing.T, *forgery)
		want   string
	}{
		"the grant twice": {do(func(f *forgery) { f.add(identity.DefaultArc.Grant(), false, utf8String(text)) }), atParse},
		"the user twice, another": {do(func(f *forgery) {
			f.add(identity.DefaultArc.User(), false, utf8String(other.String()))
		}), atParse},
		"no grant":               {do(func(f *forgery) { f.ExtraExtensions = f.ExtraExtensions[1:] }), "names no grant id"},
		"no user":                {do(func(f *forgery) { f.ExtraExtensions = f.ExtraExtensions[:1] }), "names no subject user id"},
		"neither":                {do(func(f *forgery) { f.ExtraExtensions = nil }), "neither a grant nor"},
		"another arc":            {do(func(f *forgery) { f.ExtraExtensions[0].Id = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99998, 1} }), "names no grant id"},
		"below the arc":          {do(func(f *forgery) { f.ExtraExtensions[0].Id = append(identity.DefaultArc.Grant(), 1) }), "names no grant id"},
		"critical":               {do(func(f *forgery) { f.ExtraExtensions[0].Critical = true }), "marked critical"},
		"trailing byte":          {value(append(utf8String(text), 0)), "bytes follow"},
		"trailing DER":           {value(append(utf8String(text), utf8String(text)...)), "bytes follow"},
		"PrintableString":        {value(append([]byte{0x13, 0x24}, text...)), "not a UTF8String"},
		"IA5String":              {value(append([]byte{0x16, 0x24}, text...)), "not a UTF8String"},
		"BMPString":              {value(bmpString(text)), "not a UTF8String"},
		"OCTET STRING inside":    {value(append([]byte{0x04, 0x26}, utf8String(text)...)), "not a UTF8String"},
		"constructed UTF8String": {value(append([]byte{0x2c, 0x26}, utf8String(text)...)), "not a UTF8String"},
		"bare text":              {value([]byte(text)), "not a UTF8String"},
		"empty":                  {value(nil), "not a UTF8String"},
		"only a tag":             {value([]byte{0x0c}), "not the length"},
		"long form of length":    {value(append([]byte{0x0c, 0x81, 0x24}, text...)), "not the length"},
		"indefinite length":      {value(append(append([]byte{0x0c, 0x80}, text...), 0, 0)), "not the length"},
		"length zero":            {value([]byte{0x0c, 0}), "not the length"},
		"35 characters":          {value(utf8String(text[:35])), "not the length"},
		"37 characters":          {value(utf8String(text + "0")), "not the length"},
		"cut short":              {value(utf8String(text)[:20]), "cut short"},
		"upper case":             {value(utf8String(strings.ToUpper(text))), "lower case"},
		"one upper-case letter":  {value(utf8String("6F" + text[2:])), "lower case"},
		"not hexadecimal":        {value(utf8String("g" + text[1:])), "not a UUID"},
		"hyphens elsewhere":      {value(utf8String("6f9619ff8-b86-4011-b42d-00cf4fc964ff")), "not a UUID"},
		"spaces":                 {value(utf8String(strings.Repeat(" ", 36))), "not a UUID"},
		"NULs":                   {value(append([]byte{0x0c, 0x24}, make([]byte, 36)...)), "not a UUID"},
		"a template's <no value>": {
			value(append([]byte{0x0c, 0x24}, "<no value>"...)), "cut short",
		},

		"no EKU":            {do(func(f *forgery) { f.ExtKeyUsage = nil }), "no extended key usage"},
		"any EKU":           {do(func(f *forgery) { f.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "any extended key usage"},
		"serverAuth":        {do(func(f *forgery) { f.ExtKeyUsage[0] = x509.ExtKeyUsageServerAuth }), "not clientAuth"},
		"serverAuth beside": {do(func(f *forgery) { f.ExtKeyUsage = append(f.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }), "2 extended key usages"},
		"clientAuth twice":  {do(func(f *forgery) { f.ExtKeyUsage = append(f.ExtKeyUsage, x509.ExtKeyUsageClientAuth) }), "2 extended key usages"},
		"unknown EKU":       {do(func(f *forgery) { f.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }), "unknown extended key usage"},
		"no key usage":      {do(func(f *forgery) { f.KeyUsage = 0 }), "no key usage"},
		"keyEncipherment":   {do(func(f *forgery) { f.KeyUsage |= x509.KeyUsageKeyEncipherment }), "key usage is more"},
		"keyCertSign":       {do(func(f *forgery) { f.KeyUsage |= x509.KeyUsageCertSign }), "key usage is more"},
		"a CA":              {do(func(f *forgery) { f.IsCA = true }), "is a CA"},
		"a path length": {do(func(f *forgery) {
			f.BasicConstraintsValid = false
			f.add(asn1.ObjectIdentifier{2, 5, 29, 19}, true, []byte{0x30, 0x03, 0x02, 0x01, 0x01})
		}), "path length"},
		"an unknown critical extension": {do(func(f *forgery) { f.add(asn1.ObjectIdentifier{1, 2, 3, 4}, true, []byte{5, 0}) }), "critical extension 1.2.3.4"},
		"P-224":                         {do(func(f *forgery) { f.public = ecPublic(t, elliptic.P224()) }), "P-224"},
		"P-521":                         {do(func(f *forgery) { f.public = ecPublic(t, elliptic.P521()) }), "P-521"},
		"RSA 1024":                      {do(func(f *forgery) { f.public = rsaOf(1024, 65537) }), "1024 bits"},
		"RSA 2048":                      {do(func(f *forgery) { f.public = rsaOf(2048, 65537) }), "2048 bits"},
		"RSA 3071":                      {do(func(f *forgery) { f.public = rsaOf(3071, 65537) }), "3071 bits"},
		"RSA 8193":                      {do(func(f *forgery) { f.public = rsaOf(8193, 65537) }), "8193 bits"},
		"RSA, exponent 3":               {do(func(f *forgery) { f.public = rsaOf(3072, 3) }), "exponent is 3"},
		"RSA, even exponent":            {do(func(f *forgery) { f.public = rsaOf(3072, 65538) }), "exponent is 65538"},
		"RSA, huge exponent":            {do(func(f *forgery) { f.public = rsaOf(3072, 1<<40+1) }), "exponent is 1099511627777"},
		"ends before it begins":         {do(func(f *forgery) { f.NotAfter = f.NotBefore.Add(-time.Hour) }), "ends before"},
		"serial of 21 octets":           {do(func(f *forgery) { f.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 159) }), "20 octets"},

		"no name":            {do(func(f *forgery) { f.URIs = nil }), "no subject alternative name"},
		"the URI twice":      {do(func(f *forgery) { f.URIs = append(f.URIs, f.URIs[0]) }), "2 URI names"},
		"two URIs":           {san(generalName(6, uri), generalName(6, "spiffe://x/y")), "2 URI names"},
		"a DNS name too":     {do(func(f *forgery) { f.DNSNames = []string{host} }), "not a URI"},
		"a DNS name instead": {san(generalName(2, host)), "not a URI"},
		"a mail address too": {do(func(f *forgery) { f.EmailAddresses = []string{"a@b.example"} }), "not a URI"},
		"an address too":     {do(func(f *forgery) { f.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }), "not a URI"},
		"an otherName too": {san(generalName(6, uri),
			asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{0x06, 1, 42}}), "not a URI"},
		"a directory name too": {san(generalName(6, uri),
			asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0}}), "not a URI"},
		"a registered id too": {san(generalName(6, uri), generalName(8, "\x2a\x03")), "not a URI"},
		"another host":        {do(uris(identity.SPIFFE("gateway-c.example", grantID, userID))), "another federation host"},
		"the host as prefix":  {do(uris(identity.SPIFFE(host+".evil.example", grantID, userID))), "another federation host"},
		"the host with port":  {do(uris(identity.SPIFFE(host+":443", grantID, userID))), "another federation host"},
		"userinfo":            {san(generalName(6, "spiffe://x@"+uri[len("spiffe://"):])), "another federation host"},
		"https":               {san(generalName(6, "https"+uri[len("spiffe"):])), "another federation host"},
		"upper-case scheme":   {san(generalName(6, "SPIFFE"+uri[len("spiffe"):])), "another federation host"},
		"another grant":       {do(uris(identity.SPIFFE(host, other, userID))), "different grants or users"},
		"another user":        {do(uris(identity.SPIFFE(host, grantID, other))), "different grants or users"},
		"grant and user swapped": {
			do(uris(identity.SPIFFE(host, userID, grantID))),
			"different grants or users",
		},
		"a query":          {san(generalName(6, uri+"?x")), "different grants or users"},
		"a trailing slash": {san(generalName(6, uri+"/")), "different grants or users"},
		"an escape":        {san(generalName(6, strings.Replace(uri, "/grant/", "/%67rant/", 1))), "different grants or users"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := ca.good()
			test.change(t, f)
			leaf, err := sign(&f.Certificate, ca.issuer, f.public, ca.issuerKey)
			if err == nil {
				_, err = profile().Parse(leaf)
				wantProfileFault(t, err)
			} else if test.want != atParse {
				t.Fatalf("forging failed: %v", err)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("refused with %q, want a word of %q", err, test.want)
			}
		})
	}
}

// Go's parser refuses a second extension of one kind. The profile does not rely on it.
func TestParseCountsExtensionsItself(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	old := identity.Arc("1.3.6.1.4.1.55555")
	leaf := func(t *testing.T) *x509.Certificate {
		t.Helper()
		cert, err := sign(&ca.good().Certificate, ca.issuer, ca.leafKey.Public(), ca.issuerKey)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	t.Run("the grant twice", func(t *testing.T) {
		t.Parallel()
		cert := leaf(t)
		cert.Extensions = append(cert.Extensions, extension(identity.DefaultArc.Grant(), utf8String(grantID.String())))
		_, err := profile().Parse(cert)
		wantProfileFault(t, err)
	})
	t.Run("two arcs", func(t *testing.T) {
		t.Parallel()
		cert := leaf(t)
		cert.Extensions = append(cert.Extensions,
			extension(old.Grant(), utf8String(grantID.String())), extension(old.User(), utf8String(userID.String())))
		p := profile()
		if _, err := p.Parse(cert); err != nil {
			t.Errorf("claims under an arc that means nothing here are only unknown extensions: %v", err)
		}
		p.Arcs = append(p.Arcs, old)
		_, err := p.Parse(cert)
		wantProfileFault(t, err)
	})
	t.Run("half under each arc", func(t *testing.T) {
		t.Parallel()
		f := ca.good()
		f.ExtraExtensions[1].Id = old.User()
		cert, err := sign(&f.Certificate, ca.issuer, f.public, ca.issuerKey)
		if err != nil {
			t.Fatal(err)
		}
		p := profile()
		p.Arcs = append(p.Arcs, old)
		_, err = p.Parse(cert)
		wantProfileFault(t, err)
	})
	t.Run("two names", func(t *testing.T) {
		t.Parallel()
		cert := leaf(t)
		for _, ext := range cert.Extensions {
			if ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
				cert.Extensions = append(cert.Extensions, ext)
				break
			}
		}
		_, err := profile().Parse(cert)
		wantProfileFault(t, err)
	})
	t.Run("nothing at all", func(t *testing.T) {
		t.Parallel()
		for _, cert := range []*x509.Certificate{nil, {}} {
			_, err := profile().Parse(cert)
			wantProfileFault(t, err)
		}
	})
}

func TestParseWithoutArcRefusesEverything(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	leaf, err := sign(&ca.good().Certificate, ca.issuer, ca.leafKey.Public(), ca.issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []identity.Profile{{}, {Host: host}, {Arcs: []identity.Arc{identity.DefaultArc}}} {
		_, err := p.Parse(leaf)
		wantProfileFault(t, err)
	}
}

func wantProfileFault(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, identity.ErrProfile) {
		t.Fatalf("got %v, want %s", err, identity.ErrProfile.Code)
	}
	if f := fault.From(err); f.Kind != fault.Unauthenticated || f.Detail == identity.ErrProfile.Detail || f.Hint == "" {
		t.Errorf("fault %+v is of another kind, or says no reason or no remedy", f)
	}
}

func uris(list ...*url.URL) func(*forgery) { return func(f *forgery) { f.URIs = list } }

func ecPublic(t *testing.T, curve elliptic.Curve) any {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func bmpString(s string) []byte {
	out := []byte{0x1e, byte(2 * len(s))}
	for _, r := range []byte(s) {
		out = append(out, 0, r)
	}
	return out
}
