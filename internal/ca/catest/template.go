package catest

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.step.sm/crypto/jose"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/identity"
)

// Provisioner is a JWK provisioner as somebody outside sees it who has its password.
type Provisioner struct {
	Name         string
	EncryptedKey string // from the CA's list of provisioners
	Password     []byte
	Audience     string // the CA's sign endpoint
}

// Token signs a token by hand, with the given claims and nothing else of ours: what the template does with a
// token must not hang on who minted it.
func (p Provisioner) Token(t *testing.T, subject string, claims map[string]any) string {
	t.Helper()
	jwe, err := jose.ParseEncrypted(p.EncryptedKey)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := jwe.Decrypt(p.Password)
	if err != nil {
		t.Fatal(err)
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(plain); err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jwk.Key},
		new(jose.SignerOptions).WithType("JWT").WithHeader("kid", jwk.KeyID))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	all := map[string]any{
		"iss": p.Name, "sub": subject, "aud": p.Audience, "jti": hex.EncodeToString(id),
		"nbf": now.Unix(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	}
	maps.Copy(all, claims)
	token, err := jose.Signed(signer).Claims(all).CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// absent marks a claim that the token does not have.
type absent struct{}

// RunTemplate checks that the template mosaic-fed.tpl fails loudly on every claim that is not exactly right, and
// what it makes of those that are. sign asks the CA to sign csr for a token made by hand.
func RunTemplate(t *testing.T, p Provisioner, sign func(ctx context.Context, csr *x509.CertificateRequest, token string) (ca.Chain, error)) {
	t.Helper()
	grant, user := uuid.New().String(), uuid.New().String()
	try := func(t *testing.T, change map[string]any) (ca.Chain, error) {
		t.Helper()
		claims := map[string]any{ca.ClaimGrantID: grant, ca.ClaimSubjectID: user}
		for name, value := range change {
			if _, gone := value.(absent); gone {
				delete(claims, name)
				continue
			}
			claims[name] = value
		}
		return sign(Context(t), NewCSR(t, NewKey(t), x509.CertificateRequest{}), p.Token(t, "anything", claims))
	}
	for claim, values := range badClaims(grant) {
		for name, value := range values {
			t.Run(claim+" "+name, func(t *testing.T) {
				t.Parallel()
				if chain, err := try(t, map[string]any{claim: value}); err == nil {
					t.Errorf("signed %v", chain.Leaf.Subject)
				} else {
					wantFault(t, err, ca.ErrPolicy)
				}
			})
		}
	}
	t.Run("the two claims suffice", func(t *testing.T) {
		t.Parallel()
		chain, err := try(t, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantClaim(t, chain.Leaf, identity.DefaultArc.Grant(), grant)
		wantClaim(t, chain.Leaf, identity.DefaultArc.User(), user)
		if len(chain.Leaf.URIs)+len(chain.Leaf.DNSNames) != 0 {
			t.Errorf("names %v %v came from nowhere", chain.Leaf.URIs, chain.Leaf.DNSNames)
		}
	})
	for name, host := range map[string]string{
		"a name": "gateway-b.example", "a short name": "b", "an address": "127.0.0.1", "an IPv6 address": "[2001:db8::1]",
		"digits": "1.example", "an underscore": "my_gateway.example", "253 characters": strings.Repeat("abcdefg.", 31) + "abcde",
	} {
		t.Run("the host may be "+name, func(t *testing.T) {
			t.Parallel()
			chain, err := try(t, map[string]any{ca.ClaimHost: host})
			if err != nil {
				t.Fatal(err)
			}
			profile := identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: host}
			id, err := profile.Parse(chain.Leaf)
			if err != nil {
				t.Fatal(err)
			}
			if id.GrantID.String() != grant || id.UserID.String() != user {
				t.Errorf("speaks for %v and %v", id.GrantID, id.UserID)
			}
		})
	}
	for _, serial := range []string{"1", "89", "340282366920938463463374607431768211455"} {
		t.Run("the serial may be "+serial, func(t *testing.T) {
			t.Parallel()
			chain, err := try(t, map[string]any{ca.ClaimSerial: serial})
			if err != nil {
				t.Fatal(err)
			}
			if got := chain.Leaf.SerialNumber.String(); got != serial {
				t.Errorf("signed with serial %s", got)
			}
		})
	}
}

// badClaims lists for every claim the values that must not be signed.
func badClaims(grant string) map[string]map[string]any {
	ids := map[string]any{
		"missing": absent{}, "null": nil, "empty": "", "35 characters": grant[:35], "37 characters": grant + "0",
		"a number": 7, "a bool": true, "upper case": strings.ToUpper("abcdef01-" + grant[9:]), "a list": []string{grant},
		"an empty list": []string{}, "an object": map[string]string{"id": grant}, "no hyphens": strings.ReplaceAll(grant, "-", ""),
		"braces": "{" + grant + "}", "a URN": "urn:uuid:" + grant, "a line break behind": grant + "\n", "a space before": " " + grant,
		"not hexadecimal": "g" + grant[1:], "JSON": `","isCA":true,"x":"`, "a template": "{{ .Insecure.CR }}",
		"36 bytes in fewer characters": strings.Repeat("é", 18), "no value": "<no value>",
	}
	serials := map[string]any{
		"null": nil, "a number": 12345, "empty": "", "zero": "0", "octal": "017", "hexadecimal": "0x1f", "negative": "-1",
		"a sign": "+1", "an exponent": "1e9", "40 digits": strings.Repeat("9", 40), "a list": []string{"1"},
		"an object": map[string]int{"n": 1}, "a line break behind": "1\n", "underscores": "1_000", "a fraction": "1.5",
	}
	hosts := map[string]any{
		"null": nil, "a number": 7, "empty": "", "upper case": "Example.org", "a path": "a/grant/x", "a port": "a:443",
		"userinfo": "x@a", "a space": "a b", "a hyphen before": "-a", "a dot behind": "a.", "two dots": "a..b",
		"a list": []string{"a"}, "a query": "a?b", "a fragment": "a#b", "a percent": "a%2fb", "a quote": `a","isCA":true,"x":"b`,
		"254 characters": strings.Repeat("abcdefg.", 31) + "abcdef", "a label of 64": strings.Repeat("a", 64),
		"a bare IPv6 address": "::1", "not ASCII": "bücher.example", "a line break behind": "a\n",
	}
	return map[string]map[string]any{
		ca.ClaimGrantID: ids, ca.ClaimSubjectID: ids, ca.ClaimSerial: serials, ca.ClaimHost: hosts,
	}
}

func wantClaim(t *testing.T, leaf *x509.Certificate, oid asn1.ObjectIdentifier, text string) {
	t.Helper()
	n := 0
	for _, ext := range leaf.Extensions {
		if !ext.Id.Equal(oid) {
			continue
		}
		n++
		if want := "\x0c\x24" + text; string(ext.Value) != want || ext.Critical {
			t.Errorf("extension %v is %x, want %x", oid, ext.Value, want)
		}
	}
	if n != 1 {
		t.Errorf("extension %v is there %d times", oid, n)
	}
}
