package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func csrDER(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"x.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestParseCSRPEM(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	der := csrDER(t, ca.leafKey)
	good := block("CERTIFICATE REQUEST", der)
	forged := bytes.Clone(der)
	forged[len(forged)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		pem  []byte
		want string // what a refusal says; empty: accepted
	}{
		"one block":                {good, ""},
		"the old label":            {block("NEW CERTIFICATE REQUEST", der), ""},
		"white space around":       {[]byte("\r\n\t " + string(good) + "\n\n "), ""},
		"CRLF":                     {bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), ""},
		"no line break at the end": {bytes.TrimRight(good, "\n"), ""},
		"nothing":                  {nil, "is empty"},
		"white space":              {[]byte(" \n"), "is empty"},
		"DER":                      {der, "not PEM"},
		"text before":              {append([]byte("Certificate Request:\n"), good...), "not PEM"},
		"text after":               {append(bytes.Clone(good), "thanks"...), "something follows"},
		"two":                      {append(bytes.Clone(good), good...), "holds 2 blocks"},
		"a key behind":             {append(bytes.Clone(good), block("PRIVATE KEY", []byte{0})...), "holds 2 blocks"},
		"a damaged one before":     {append([]byte("-----BEGIN CERTIFICATE REQUEST-----\n!!\n"), good...), "holds 2 blocks"},
		"not closed":               {good[:len(good)-10], "not closed"},
		"closed by another label":  {bytes.Replace(good, []byte("END CERTIFICATE REQUEST"), []byte("END CERTIFICATE"), 1), "not closed"},
		"not base64":               {[]byte("-----BEGIN CERTIFICATE REQUEST-----\n****\n-----END CERTIFICATE REQUEST-----\n"), "not closed"},
		"a certificate":            {block("CERTIFICATE", ca.root.Raw), `"CERTIFICATE"`},
		"a private key":            {block("PRIVATE KEY", der), `"PRIVATE KEY"`},
		"headers":                  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Headers: map[string]string{"A": "b"}, Bytes: der}), "headers"},
		"not a request":            {block("CERTIFICATE REQUEST", ca.root.Raw), "PKCS #10"},
		"empty block":              {block("CERTIFICATE REQUEST", nil), "PKCS #10"},
		"bytes behind the request": {block("CERTIFICATE REQUEST", append(bytes.Clone(der), 0)), "PKCS #10"},
		"another's signature":      {block("CERTIFICATE REQUEST", forged), "not signed by its own key"},
		"RSA 2048":                 {block("CERTIFICATE REQUEST", csrDER(t, weak)), "2048 bits"},
		"P-521":                    {block("CERTIFICATE REQUEST", csrDER(t, p521)), "P-521"},
		"too much":                 {append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 64<<10)...), "at most"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			csr, err := identity.ParseCSRPEM(test.pem)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(csr.Raw, der) {
					t.Error("another request came out")
				}
				return
			}
			if !errors.Is(err, identity.ErrCSR) || csr != nil {
				t.Fatalf("got %v, want %s", err, identity.ErrCSR.Code)
			}
			f := fault.From(err)
			if !strings.Contains(f.Detail, test.want) {
				t.Errorf("refused with %q, want a word of %q", f.Detail, test.want)
			}
			if f.Kind != fault.Invalid || !strings.Contains(f.Hint, "openssl req") {
				t.Errorf("fault %+v is of another kind or shows no command", f)
			}
		})
	}
}

// A label is copied into an answer, so it must not carry terminal controls or be endless.
func TestParseCSRPEMTamesForeignLabels(t *testing.T) {
	t.Parallel()
	_, err := identity.ParseCSRPEM(block("X\x1b[31m"+strings.Repeat("Y", 500), []byte{0}))
	if detail := fault.From(err).Detail; strings.ContainsRune(detail, 0x1b) || len(detail) > 200 {
		t.Errorf("detail %q", detail)
	}
}

func TestCheckPublicKey(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	for name, key := range map[string]any{
		"nothing": nil, "a string": "key", "a nil RSA key": (*rsa.PublicKey)(nil), "a nil EC key": (*ecdsa.PublicKey)(nil),
		"an even modulus": func() any { k := rsaOf(3072, 65537); k.N.SetBit(k.N, 0, 0); return k }(),
		"a private key":   ca.leafKey, "RSA without modulus": &rsa.PublicKey{E: 65537},
	} {
		if err := identity.CheckPublicKey(key); !errors.Is(err, identity.ErrPublicKey) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := identity.CheckPublicKey(ca.leafKey.Public()); err != nil {
		t.Error(err)
	}
}

func FuzzParseCSRPEM(f *testing.F) {
	ca := newCA(f)
	good := block("CERTIFICATE REQUEST", csrDER(f, ca.leafKey))
	f.Add(good)
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		csr, err := identity.ParseCSRPEM(data)
		if err != nil {
			if !errors.Is(err, identity.ErrCSR) {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		if csr.CheckSignature() != nil || identity.CheckPublicKey(csr.PublicKey) != nil {
			t.Fatal("accepted a request it promised to refuse")
		}
		if bytes.Count(data, []byte("BEGIN")) != 1 {
			t.Fatal("accepted more than one block")
		}
	})
}
