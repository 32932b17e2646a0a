// Package identity says whom a certificate speaks for.
//
// A federation certificate is an X.509 leaf (RFC 5280) whose meaning is in two private extensions, the grant's
// id and the subject user's id, repeated in one URI name so that ordinary tools show it too. The package reads
// such a certificate by a strict profile: everything that is not exactly what the federation's CA emits is
// refused with its own reason, because a leaf that is almost right was made by somebody else. It knows nothing
// of databases, TLS or the CA's product.
package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Identity is what a certificate of the profile says.
type Identity struct {
	GrantID     uuid.UUID // the grant it was issued for
	UserID      uuid.UUID // the user on whose behalf it reads
	Fingerprint [32]byte  // SHA-256 of the DER: the key of the certificate registry
	Key         [32]byte  // KeyHash of its public key
	Serial      string    // decimal
	NotBefore   time.Time
	NotAfter    time.Time
}

// Fingerprint is the SHA-256 of a certificate's DER.
func Fingerprint(der []byte) [32]byte { return sha256.Sum256(der) }

// KeyHash is the SHA-256 of a public key as a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7). Equal keys have equal
// hashes, however they were written.
func KeyHash(public any) ([32]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	return sha256.Sum256(der), err
}

// FingerprintHex is Fingerprint in lower-case hexadecimal, as in ?ca= of an enrollment URL.
func FingerprintHex(der []byte) string {
	sum := Fingerprint(der)
	return hex.EncodeToString(sum[:])
}

// SPIFFE is the URI name of a federation certificate: spiffe://host/grant/<grant>/user/<user>. The host is
// written in lower case, an IPv6 address in brackets.
func SPIFFE(host string, grant, user uuid.UUID) *url.URL {
	return &url.URL{
		Scheme: "spiffe",
		Host:   trustDomain(host),
		Path:   "/grant/" + grant.String() + "/user/" + user.String(),
	}
}

// trustDomain is the one spelling of a federation host.
func trustDomain(host string) string {
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return host
}
