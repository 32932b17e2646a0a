package token_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"go.step.sm/crypto/jose"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/token"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

func generate(t testing.TB, kty, crv, alg string) *jose.JSONWebKey {
	t.Helper()
	jwk, err := jose.GenerateJWK(kty, crv, alg, "sig", "", 2048)
	if err != nil {
		t.Fatal(err)
	}
	return jwk
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seal encrypts a JWK with few iterations: how slow a password is to guess is not what is tested.
func seal(t testing.TB, jwk *jose.JSONWebKey, password string) *jose.JSONWebEncryption {
	t.Helper()
	encrypter, err := jose.NewEncrypter(jose.DefaultEncAlgorithm,
		jose.Recipient{Algorithm: jose.PBES2_HS256_A128KW, Key: []byte(password), PBES2Count: 1000}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := encrypter.Encrypt(marshal(t, jwk))
	if err != nil {
		t.Fatal(err)
	}
	return jwe
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	ec := generate(t, "EC", "P-256", "ES256")
	sealed := seal(t, ec, "secret")
	compact, err := sealed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	public := ec.Public()
	with := func(change func(*jose.JSONWebKey)) []byte { k := *ec; change(&k); return marshal(t, k) }
	tests := map[string]struct {
		data     []byte
		password string
		want     *fault.Fault // nil: accepted
		says     string
	}{
		"P-256":           {data: marshal(t, ec)},
		"P-384":           {data: marshal(t, generate(t, "EC", "P-384", "ES384"))},
		"P-521":           {data: marshal(t, generate(t, "EC", "P-521", "ES512"))},
		"Ed25519":         {data: marshal(t, generate(t, "OKP", "Ed25519", "EdDSA"))},
		"RSA":             {data: marshal(t, generate(t, "RSA", "", "RS256"))},
		"RSA-PSS":         {data: marshal(t, generate(t, "RSA", "", "PS384"))},
		"no id":           {data: with(func(k *jose.JSONWebKey) { k.KeyID = "" })},
		"no alg":          {data: with(func(k *jose.JSONWebKey) { k.Algorithm = "" })},
		"white space":     {data: []byte("\n " + string(marshal(t, ec)) + "\n")},
		"compact JWE":     {data: []byte(compact + "\n"), password: "secret"},
		"JSON JWE":        {data: []byte(sealed.FullSerialize()), password: "secret"},
		"a password more": {data: marshal(t, ec), password: "not needed"},

		"wrong password":   {data: []byte(compact), password: "wrong", want: ca.ErrPassword, says: "decrypt"},
		"no password":      {data: []byte(compact), want: ca.ErrPassword, says: "no password"},
		"nothing":          {want: ca.ErrKeyUnusable, says: "empty"},
		"text":             {data: []byte("secret"), want: ca.ErrKeyUnusable, says: "neither"},
		"PEM":              {data: []byte("-----BEGIN PRIVATE KEY-----\n"), want: ca.ErrKeyUnusable, says: "neither"},
		"the public half":  {data: marshal(t, public), want: ca.ErrKeyUnusable, says: "public"},
		"symmetric":        {data: []byte(`{"kty":"oct","k":"c2VjcmV0"}`), want: ca.ErrKeyUnusable, says: "symmetric"},
		"symmetric, HS256": {data: []byte(`{"kty":"oct","alg":"HS256","k":"c2VjcmV0"}`), want: ca.ErrKeyUnusable, says: "401"},
		"for encryption":   {data: with(func(k *jose.JSONWebKey) { k.Use = "enc" }), want: ca.ErrKeyUnusable, says: `"enc"`},
		"another alg":      {data: with(func(k *jose.JSONWebKey) { k.Algorithm = "ES384" }), want: ca.ErrKeyUnusable, says: "ES384"},
		"HS256 for an EC":  {data: with(func(k *jose.JSONWebKey) { k.Algorithm = "HS256" }), want: ca.ErrKeyUnusable, says: "HS256"},
		"unknown kty":      {data: []byte(`{"kty":"XYZ"}`), want: ca.ErrKeyUnusable, says: "not a JWK"},
		"a broken EC key":  {data: []byte(`{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}`), want: ca.ErrKeyUnusable, says: "not a JWK"},
		"a sealed public": {
			data: []byte(seal(t, &public, "secret").FullSerialize()), password: "secret", want: ca.ErrKeyUnusable, says: "public",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, err := token.ParseKey(test.data, []byte(test.password))
			if test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				if key.ID() == "" {
					t.Error("the key has no id")
				}
				return
			}
			if err == nil || fault.From(err).Code != test.want.Code || !errors.Is(err, ca.ErrRefused) || key != nil {
				t.Fatalf("got %v, want %s", err, test.want.Code)
			}
			if !strings.Contains(fault.From(err).Detail, test.says) {
				t.Errorf("%q does not say %q", fault.From(err).Detail, test.says)
			}
		})
	}
}

func TestShortRSAKeysAreRefused(t *testing.T) {
	t.Parallel()
	// A JWK of 1024 bits: its numbers need not be primes to be too few.
	n := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 128))
	p := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 64))
	data := fmt.Sprintf(`{"kty":"RSA","n":"%s","e":"AQAB","d":"%s","p":"%s","q":"%s"}`, n, n, p, p)
	if _, err := token.ParseKey([]byte(data), nil); err == nil || fault.From(err).Code != ca.ErrKeyUnusable.Code {
		t.Errorf("got %v", err)
	}
}

func TestKeyFitsItsPublicHalf(t *testing.T) {
	t.Parallel()
	jwk, other := generate(t, "EC", "P-256", "ES256"), generate(t, "EC", "P-256", "ES256").Public()
	key, err := token.ParseKey(marshal(t, jwk), nil)
	if err != nil {
		t.Fatal(err)
	}
	public := jwk.Public()
	if !key.Fits(&public) || key.Fits(&other) || key.Fits(nil) {
		t.Error("the key takes another's half for its own, or not its own")
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	t.Parallel()
	key, err := token.ParseKey(marshal(t, generate(t, "EC", "P-256", "ES256")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key)
	for _, got := range []string{fmt.Sprintf("%v", key), fmt.Sprintf("%+v", key), fmt.Sprintf("%#v", key), log.String()} {
		if !strings.Contains(got, "[sealed]") || strings.Contains(got, "private") {
			t.Errorf("prints as %s", got)
		}
	}
}

// claimsOf checks a token's signature and gives its claims and its key id.
func claimsOf(t *testing.T, signed string, key *jose.JSONWebKey) (map[string]any, string) {
	t.Helper()
	tok, err := jose.ParseSigned(signed)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := tok.Claims(key.Public().Key, &claims); err != nil {
		t.Fatal(err)
	}
	return claims, tok.Headers[0].KeyID
}

func newMinter(t *testing.T) (token.Minter, *jose.JSONWebKey) {
	t.Helper()
	jwk := generate(t, "EC", "P-256", "ES256")
	jwk.KeyID = "the-key"
	key, err := token.ParseKey(marshal(t, jwk), nil)
	if err != nil {
		t.Fatal(err)
	}
	return token.Minter{
		Provisioner: "mosaic-fed", Key: key, Now: func() time.Time { return time.Unix(1_700_000_000, 0) }, Random: rand.Reader,
		SignAudience: []string{"https://ca.example/1.0/sign"}, RevokeAudience: []string{"https://ca.example/1.0/revoke"},
	}, jwk
}

func TestLeafToken(t *testing.T) {
	t.Parallel()
	m, jwk := newMinter(t)
	req := catest.NewRequest(t)
	req.Host = "Gateway-B.Example"
	signed, err := m.Leaf(req)
	if err != nil {
		t.Fatal(err)
	}
	claims, kid := claimsOf(t, signed, jwk)
	sum := sha256.Sum256(req.CSR.Raw)
	want := map[string]any{
		"iss": "mosaic-fed", "sub": req.GrantID.String(), "aud": "https://ca.example/1.0/sign", "jti": claims["jti"],
		"iat": 1.7e9, "nbf": 1.7e9, "exp": 1.7e9 + 60,
		"cnf":             map[string]any{"x5rt#S256": base64.RawURLEncoding.EncodeToString(sum[:])},
		ca.ClaimGrantID:   req.GrantID.String(),
		ca.ClaimSubjectID: req.SubjectUserID.String(),
		ca.ClaimSerial:    req.Serial.String(),
		ca.ClaimHost:      "gateway-b.example",
	}
	if got, want := string(marshal(t, claims)), string(marshal(t, want)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if kid != "the-key" || len(claims["jti"].(string)) != 64 {
		t.Errorf("kid %q, jti %q", kid, claims["jti"])
	}
	again, err := m.Leaf(req)
	if err != nil {
		t.Fatal(err)
	}
	if other, _ := claimsOf(t, again, jwk); other["jti"] == claims["jti"] {
		t.Error("two tokens have one id")
	}
}

// The token repeats what the request calls itself, because the CA compares the two.
func TestLeafTokenCarriesTheRequestsNames(t *testing.T) {
	t.Parallel()
	m, jwk := newMinter(t)
	link, err := url.Parse("urn:x:y")
	if err != nil {
		t.Fatal(err)
	}
	req := catest.NewRequest(t)
	req.Serial = nil
	req.CSR = catest.NewCSR(t, catest.NewKey(t), x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "me"}, DNSNames: []string{"b.example", "a.example"},
		EmailAddresses: []string{"me@a.example"}, IPAddresses: []net.IP{net.ParseIP("2001:db8::1")}, URIs: []*url.URL{link},
	})
	signed, err := m.Leaf(req)
	if err != nil {
		t.Fatal(err)
	}
	claims, _ := claimsOf(t, signed, jwk)
	want := `["b.example","a.example","me@a.example","2001:db8::1","urn:x:y"]`
	if got := string(marshal(t, claims["sans"])); got != want || claims["sub"] != "me" {
		t.Errorf("sub %v, sans %s, want %s", claims["sub"], got, want)
	}
	if _, there := claims[ca.ClaimSerial]; there {
		t.Error("a serial number that was not asked for")
	}
}

func TestNamesThatCannotBeCarried(t *testing.T) {
	t.Parallel()
	m, _ := newMinter(t)
	for name, template := range map[string]x509.CertificateRequest{
		"an address as DNS name":  {DNSNames: []string{"192.0.2.1"}},
		"mail as DNS name":        {DNSNames: []string{"a@b"}},
		"a URI as DNS name":       {DNSNames: []string{"https://a"}},
		"a URI without scheme":    {URIs: []*url.URL{{Path: "/x"}}},
		"a name that is not text": {Subject: pkix.Name{CommonName: "\xff"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := catest.NewRequest(t)
			der, err := x509.CreateCertificateRequest(rand.Reader, &template, catest.NewKey(t))
			if err != nil {
				return // cannot even be asked for
			}
			if req.CSR, err = x509.ParseCertificateRequest(der); err != nil {
				return
			}
			if _, err := m.Leaf(req); !errors.Is(err, identity.ErrCSR) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestServerToken(t *testing.T) {
	t.Parallel()
	m, jwk := newMinter(t)
	names := []string{"fed.example", "127.0.0.1"}
	csr := func(template x509.CertificateRequest) *x509.CertificateRequest {
		return catest.NewCSR(t, catest.NewKey(t), template)
	}
	for _, template := range []x509.CertificateRequest{
		{}, {Subject: pkix.Name{CommonName: "127.0.0.1"}}, {DNSNames: names[:1]},
	} {
		signed, err := m.Server(ca.ServerRequest{CSR: csr(template), Names: names})
		if err != nil {
			t.Fatal(err)
		}
		claims, _ := claimsOf(t, signed, jwk)
		if got := string(marshal(t, claims["sans"])); claims["sub"] != names[0] || got != `["fed.example","127.0.0.1"]` {
			t.Errorf("sub %v, sans %s", claims["sub"], got)
		}
		for name := range claims {
			if strings.HasPrefix(name, "mosaic_") {
				t.Errorf("a server's token has the claim %s", name)
			}
		}
	}
	for _, template := range []x509.CertificateRequest{
		{Subject: pkix.Name{CommonName: "other.example"}}, {DNSNames: []string{"other.example"}}, {DNSNames: append(names[:1:1], "other.example")},
	} {
		if _, err := m.Server(ca.ServerRequest{CSR: csr(template), Names: names}); !errors.Is(err, ca.ErrRequest) {
			t.Errorf("got %v", err)
		}
	}
}

func TestRevokeToken(t *testing.T) {
	t.Parallel()
	m, jwk := newMinter(t)
	m.RevokeAudience = append(m.RevokeAudience, "https://ca.example/pki/1.0/revoke")
	signed, err := m.Revoke(big.NewInt(12345))
	if err != nil {
		t.Fatal(err)
	}
	claims, _ := claimsOf(t, signed, jwk)
	audience, ok := claims["aud"].([]any)
	if claims["sub"] != "12345" || !ok || !slices.Equal(audience, []any{m.RevokeAudience[0], m.RevokeAudience[1]}) {
		t.Errorf("sub %v, aud %v", claims["sub"], claims["aud"])
	}
}

func TestNoRandomnessNoToken(t *testing.T) {
	t.Parallel()
	m, _ := newMinter(t)
	m.Random = iotest.ErrReader(errors.New("dry"))
	if signed, err := m.Revoke(big.NewInt(1)); err == nil {
		t.Errorf("made %s", signed)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(marshal(f, generate(f, "EC", "P-256", "ES256")))
	f.Add([]byte(seal(f, generate(f, "OKP", "Ed25519", "EdDSA"), "x").FullSerialize()))
	f.Add([]byte(`{"kty":"oct","k":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := token.ParseKey(data, nil)
		if err != nil {
			if !errors.Is(err, ca.ErrRefused) {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		m := token.Minter{Provisioner: "x", Key: key, RevokeAudience: []string{"y"}, Now: time.Now, Random: rand.Reader}
		if _, err := m.Revoke(big.NewInt(1)); err != nil {
			t.Fatalf("a key that was accepted cannot sign: %v", err)
		}
	})
}
