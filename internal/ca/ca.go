// Package ca is the contract between the gateway and its certificate authority.
//
// Two adapters keep it: ca/stepca talks to a stock Step-CA over HTTP, ca/embedded runs Step-CA's own authority in
// this process. Both pass the suite in ca/catest, so a use case cannot tell them apart. The contract says what is
// signed and how it fails; it holds no key, and it trusts no CA: what comes back is checked by
// identity.VerifyIssued before anything relies on it.
package ca

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/identity"
)

// The claims of a signing token that the template mosaic-fed.tpl reads.
const (
	ClaimGrantID   = "mosaic_grant_id"
	ClaimSubjectID = "mosaic_subject_user_id"
	ClaimSerial    = "mosaic_serial_number"   // optional: decimal
	ClaimHost      = "mosaic_federation_host" // optional: trust domain of the URI name
)

// The provisioners a federation CA has by default.
const (
	FederationProvisioner = "mosaic-fed"     // signs federation leaves; the only one that can emit the two OIDs
	ServerProvisioner     = "mosaic-gateway" // signs the federation listener's own certificate
)

// The lifetimes our provisioners allow.
const (
	MinLifetime     = time.Minute
	DefaultLifetime = 24 * time.Hour
	MaxLifetime     = 8760 * time.Hour
)

// Authority signs and revokes. Every method honours the context and fails with one of this package's faults, or
// with identity.ErrCSR when the request itself cannot be signed. All methods may be called concurrently.
type Authority interface {
	// IssueLeaf signs a federation certificate. Of the certificate request only the public key counts. It may fail and
	// yet have signed: MayHaveSigned tells.
	IssueLeaf(ctx context.Context, req LeafRequest) (Chain, error)
	// IssueServer signs a certificate for a TLS server of ours.
	IssueServer(ctx context.Context, req ServerRequest) (Chain, error)
	// Revoke puts a serial number on the CA's list. Revoking one twice, or one that was never signed, is not an
	// error: orphans are revoked by the serial that was recorded before signing.
	Revoke(ctx context.Context, serial *big.Int, reason string) error
	// Roots gives the roots that certificates of this CA chain to.
	Roots(ctx context.Context) ([]*x509.Certificate, error)
	// CRL gives the current revocation list (RFC 5280, section 5) in DER, signed by the CA.
	CRL(ctx context.Context) ([]byte, error)
	// Ready reports whether IssueLeaf would be able to work now, by a real call.
	Ready(ctx context.Context) error
	// LifetimeLimits gives the shortest and the longest lifetime the CA allows a federation certificate.
	// Step-CA refuses what lies outside, it does not cap.
	LifetimeLimits(ctx context.Context) (shortest, longest time.Duration, err error)
}

// LeafRequest asks for a federation client certificate.
type LeafRequest struct {
	CSR           *x509.CertificateRequest
	GrantID       uuid.UUID
	SubjectUserID uuid.UUID
	Host          string    // trust domain of the URI name: the federation host
	Serial        *big.Int  // 128 bits from NewSerial, recorded before signing; nil lets the CA choose
	NotBefore     time.Time // zero: the moment of signing, less the CA's backdate
	NotAfter      time.Time
}

// Check refuses a request that no authority could sign as asked.
func (r LeafRequest) Check() error {
	if err := checkCSR(r.CSR); err != nil {
		return err
	}
	switch {
	case r.GrantID == uuid.Nil || r.SubjectUserID == uuid.Nil:
		return ErrRequest.With("a federation certificate needs a grant id and a subject user id")
	case !isHost(r.Host):
		return ErrRequest.With("a federation certificate needs a host name or address as its federation host")
	case r.Serial != nil && (r.Serial.Sign() <= 0 || r.Serial.BitLen() > serialBits):
		return ErrRequest.With("the serial number is not a positive number of at most %d bits", serialBits)
	}
	return checkLifetime(r.NotBefore, r.NotAfter)
}

// ServerRequest asks for the listener's own certificate (serverAuth).
type ServerRequest struct {
	CSR      *x509.CertificateRequest
	Names    []string // DNS names and IP addresses
	NotAfter time.Time
}

// Check refuses a request that no authority could sign as asked.
func (r ServerRequest) Check() error {
	if err := checkCSR(r.CSR); err != nil {
		return err
	}
	if len(r.Names) == 0 {
		return ErrRequest.With("a server certificate needs a DNS name or an IP address")
	}
	for _, name := range r.Names {
		if !isHost(name) { // a name with a scheme or an @ would be signed as a URI or as a mail address
			return ErrRequest.With("%q is neither a DNS name nor an IP address", name)
		}
	}
	return checkLifetime(time.Time{}, r.NotAfter)
}

// hostName is a DNS name (RFC 1123, section 2.1) as certificates carry it; underscores are in use.
var hostName = regexp.MustCompile(`^(?i:[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*)$`)

func isHost(s string) bool {
	return net.ParseIP(s) != nil || len(s) <= 253 && hostName.MatchString(s)
}

func checkCSR(csr *x509.CertificateRequest) error {
	if csr == nil || len(csr.Raw) == 0 {
		return identity.ErrCSR.With("there is no certificate request")
	}
	if err := identity.CheckPublicKey(csr.PublicKey); err != nil {
		return identity.ErrCSR.With("the certificate request's key is not accepted").Because(err)
	}
	return nil
}

func checkLifetime(notBefore, notAfter time.Time) error {
	if notAfter.IsZero() {
		return ErrLifetime.With("the certificate request gives no end of the lifetime")
	}
	if !notBefore.IsZero() && !notAfter.After(notBefore) {
		return ErrLifetime.With("the lifetime ends before it begins")
	}
	return nil
}

// CheckLimits refuses with ErrLifetime what a Step-CA provisioner of these limits would refuse: it counts from
// NotBefore, or from a minute before now when none is asked for, and forgives that minute at the upper end.
func CheckLimits(notBefore, notAfter time.Time, shortest, longest time.Duration, now time.Time) error {
	if notBefore.IsZero() {
		notBefore = now.Add(-backdate)
	}
	lifetime := notAfter.Truncate(time.Second).Sub(notBefore.Truncate(time.Second))
	switch {
	case notAfter.Truncate(time.Second).Before(now.Truncate(time.Second)):
		return ErrLifetime.With("the lifetime ends in the past")
	case lifetime < shortest:
		return ErrLifetime.With("the certificate authority allows no lifetime under %v", shortest)
	case lifetime > longest+backdate:
		return ErrLifetime.With("the certificate authority allows no lifetime over %v", longest)
	}
	return nil
}

// SigningTimes gives the times to send to Step-CA for those that were asked for: in whole seconds, and with one
// second added in front of a lifetime of exactly the CA's backdate, which it takes for no lifetime at all and
// answers with an internal error (0.30.2, authority/tls.go: lifetime is counted from NotBefore plus backdate).
func SigningTimes(notBefore, notAfter time.Time) (begin, end time.Time) {
	begin, end = notBefore.Truncate(time.Second), notAfter.Truncate(time.Second)
	if !begin.IsZero() && end.Sub(begin) == backdate {
		begin = begin.Add(-time.Second)
	}
	return begin, end
}

// backdate is how far Step-CA puts the beginning of a certificate into the past by default.
const backdate = time.Minute

// Chain is a certificate with what stands between it and the root.
type Chain struct {
	Leaf          *x509.Certificate
	Intermediates []*x509.Certificate // the leaf's issuer first; never the root
}

// PEM is the chain as TLS servers and clients load it (RFC 7468): the leaf first.
func (c Chain) PEM() string {
	var b strings.Builder
	for _, cert := range append([]*x509.Certificate{c.Leaf}, c.Intermediates...) {
		if cert != nil {
			b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
		}
	}
	return b.String()
}

// RootsPEM is a list of roots as it is handed out.
func RootsPEM(roots []*x509.Certificate) string {
	var b strings.Builder
	for _, root := range roots {
		b.WriteString(Chain{Leaf: root}.PEM())
	}
	return b.String()
}

const serialBits = 128

// NewSerial draws a serial number of 128 random bits (RFC 5280, section 4.1.2.2 wants positive and at most 20
// octets; CA/Browser Forum 7.1 wants 64 bits of randomness). It is recorded before signing, so that a certificate
// whose answer was lost can still be revoked.
func NewSerial(random io.Reader) (*big.Int, error) {
	for {
		var b [serialBits / 8]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return nil, fmt.Errorf("draw a serial number: %w", err)
		}
		// Below 2^64 is as likely as a collision, and looks like a counter to whoever reads it.
		if binary.BigEndian.Uint64(b[:8]) != 0 {
			return new(big.Int).SetBytes(b[:]), nil
		}
	}
}
