package token

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/smallstep/cli-utils/token"
	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/x509util"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/identity"
)

// lifetime of a token: one attempt, with the CA's minute of leeway on both sides.
const lifetime = time.Minute

// idBytes of randomness make a token's id. The CA burns a token by this id, so two alike would refuse each other.
const idBytes = 32

// Minter makes tokens for one provisioner of one CA. It holds no state: a Minter is copied freely.
type Minter struct {
	Provisioner    string   // its name: the issuer
	Key            *Key     // its private key
	SignAudience   []string // the CA's sign endpoint under each name it may know itself by
	RevokeAudience []string // likewise the revoke endpoint
	Now            func() time.Time
	Random         io.Reader
}

// Leaf makes the token for a federation certificate.
//
// Step-CA wants the request's common name to be the token's subject, and its names to be the token's. So the
// token repeats what the request says about itself, and the template uses none of it. A request whose names do
// not survive that (a DNS name that reads as an address, say) is refused here as identity.ErrCSR: at the CA it
// would look like a fault of our configuration.
func (m Minter) Leaf(req ca.LeafRequest) (string, error) { return m.LeafWithout(req, "") }

// LeafWithout is Leaf without one of the claims: a token that the template has to refuse.
func (m Minter) LeafWithout(req ca.LeafRequest, claim string) (string, error) {
	subject := req.CSR.Subject.CommonName
	if subject == "" {
		subject = req.GrantID.String()
	}
	sans := requestNames(req.CSR)
	if !utf8.ValidString(subject) || !carries(sans, req.CSR) {
		return "", identity.ErrCSR.With("the names in the certificate request cannot be carried; they are not used, leave them out")
	}
	claims := map[string]any{
		ca.ClaimGrantID:   req.GrantID.String(),
		ca.ClaimSubjectID: req.SubjectUserID.String(),
		ca.ClaimHost:      identity.SPIFFE(req.Host, req.GrantID, req.SubjectUserID).Host,
		"cnf":             confirmation(req.CSR),
	}
	if len(sans) > 0 {
		claims[token.SANSClaim] = sans
	}
	if req.Serial != nil {
		claims[ca.ClaimSerial] = req.Serial.String()
	}
	delete(claims, claim)
	return m.mint(subject, m.SignAudience, claims)
}

// Server makes the token for a TLS server's certificate. The ordinary template prints the token's subject and
// names, so here they are what is asked for, and the request must agree or be silent.
func (m Minter) Server(req ca.ServerRequest) (string, error) {
	cn := req.CSR.Subject.CommonName
	if cn != "" && !slices.Contains(req.Names, cn) || !carries(req.Names, req.CSR) {
		return "", ca.ErrRequest.With("the names in the server's certificate request are not those it is for")
	}
	return m.mint(req.Names[0], m.SignAudience, map[string]any{
		token.SANSClaim: req.Names,
		"cnf":           confirmation(req.CSR),
	})
}

// Revoke makes the token that revokes a serial number.
func (m Minter) Revoke(serial *big.Int) (string, error) {
	return m.mint(serial.String(), m.RevokeAudience, nil)
}

func (m Minter) mint(subject string, audience []string, claims map[string]any) (string, error) {
	id := make([]byte, idBytes)
	if _, err := io.ReadFull(m.Random, id); err != nil {
		return "", fmt.Errorf("draw a token id: %w", err)
	}
	now := m.Now()
	t := token.Claims{
		Claims: jose.Claims{
			ID:        hex.EncodeToString(id),
			Issuer:    m.Provisioner,
			Subject:   subject,
			Audience:  audience,
			IssuedAt:  jose.NewNumericDate(now),
			NotBefore: jose.NewNumericDate(now),
			Expiry:    jose.NewNumericDate(now.Add(lifetime)),
		},
		ExtraClaims:  maps.Clone(claims),
		ExtraHeaders: map[string]any{"kid": m.Key.id},
	}
	signed, err := t.Sign(m.Key.alg, m.Key.private)
	if err != nil {
		return "", ca.Refuse(ca.ErrKeyUnusable, err)
	}
	return signed, nil
}

// confirmation binds a token to one certificate request (RFC 7800): a token that leaks signs nothing else.
func confirmation(csr *x509.CertificateRequest) map[string]string {
	sum := sha256.Sum256(csr.Raw)
	return map[string]string{"x5rt#S256": base64.RawURLEncoding.EncodeToString(sum[:])}
}

// requestNames lists a request's alternative names as a token carries them: as text, without their kind.
func requestNames(csr *x509.CertificateRequest) []string {
	names := slices.Concat(csr.DNSNames, csr.EmailAddresses)
	for _, ip := range csr.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range csr.URIs {
		names = append(names, uri.String())
	}
	return names
}

// carries reports whether names, once the CA has guessed the kind of each, equal the request's names of every
// kind it has any of.
func carries(names []string, csr *x509.CertificateRequest) bool {
	dns, ips, mails, uris := x509util.SplitSANs(names)
	text := func(ip net.IP) string { return ip.String() }
	link := func(u *url.URL) string { return u.String() }
	same := func(s string) string { return s }
	return agree(csr.DNSNames, dns, same) && agree(csr.EmailAddresses, mails, same) &&
		agree(csr.IPAddresses, ips, text) && agree(csr.URIs, uris, link)
}

// agree compares two lists of names as sets; a request that has none of a kind agrees with any.
func agree[T any](requested, carried []T, text func(T) string) bool {
	if len(requested) == 0 {
		return true
	}
	set := func(list []T) []string {
		out := make([]string, 0, len(list))
		for _, v := range list {
			out = append(out, text(v))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return slices.Equal(set(requested), set(carried))
}
