package fedapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/identity"
)

// Trust is what client certificates are checked against.
type Trust struct {
	Roots         []*x509.Certificate // the federation CA, pinned
	Intermediates []*x509.Certificate // known to us, for clients that send only their leaf
	Profile       identity.Profile
	Now           func() time.Time
}

// TLSConfig is the configuration of the federation listener. It needs no SNI. Chain and profile are checked in
// VerifyConnection and not by the default verifier, because that one is not asked again when a session is
// resumed (crypto/tls, Config.VerifyPeerCertificate), and a certificate must not outlive a change of trust
// inside a session ticket.
func TLSConfig(certificate func() (*tls.Certificate, error), t Trust) *tls.Config {
	roots := x509.NewCertPool()
	for _, c := range t.Roots {
		roots.AddCert(c)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		ClientAuth:     tls.RequireAnyClientCert,
		ClientCAs:      roots, // names the CA in the handshake, so that clients pick the right certificate
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := t.verify(cs.PeerCertificates, roots); err != nil {
				return &door.Untrusted{Err: err}
			}
			return nil
		},
	}
}

// verify checks a client's chain (RFC 5280, section 6) and the strict leaf profile.
func (t Trust) verify(sent []*x509.Certificate, roots *x509.CertPool) error {
	if len(sent) == 0 {
		return errors.New("no client certificate")
	}
	between := x509.NewCertPool()
	for _, c := range t.Intermediates {
		between.AddCert(c)
	}
	for _, c := range sent[1:] {
		between.AddCert(c)
	}
	leaf := sent[0]
	// Parse first: it is cheap and bounds what the path builder is given.
	if _, err := t.Profile.Parse(leaf); err != nil {
		return err
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: identity.JudgedAt(leaf, t.Now()), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return fmt.Errorf("client certificate chain: %w", err)
	}
	return nil
}
