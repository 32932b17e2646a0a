package fedapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/identity"
)

// Anchors are the CA certificates that a client's chain may consist of. They are never changed, only replaced: a set
// that is another pointer is another trust.
type Anchors struct {
	roots, between *x509.CertPool
}

// NewAnchors makes a set of the roots in trust, and of the intermediates that clients need not send.
func NewAnchors(roots, intermediates []*x509.Certificate) *Anchors {
	a := &Anchors{roots: x509.NewCertPool(), between: x509.NewCertPool()}
	for _, c := range roots {
		a.roots.AddCert(c)
	}
	for _, c := range intermediates {
		a.between.AddCert(c)
	}
	return a
}

// Trust is what client certificates are checked against.
type Trust struct {
	Anchors func() *Anchors // those of this moment
	Profile identity.Profile
	Now     func() time.Time
}

// TLSConfig is the configuration of the federation listener. It needs no SNI. Chain and profile are checked in
// VerifyConnection and not by the default verifier, because that one is not asked again when a session is
// resumed (crypto/tls, Config.VerifyPeerCertificate), and a certificate must not outlive a change of trust
// inside a session ticket.
func TLSConfig(certificate func() (*tls.Certificate, error), t Trust) *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		ClientAuth:     tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := t.verify(cs.PeerCertificates, t.Anchors()); err != nil {
				return &door.Untrusted{Err: err}
			}
			return nil
		},
	}
	type current struct {
		anchors *Anchors
		config  *tls.Config
	}
	var last atomic.Pointer[current]
	listener := base.Clone()
	// The handshake names the CA, so that clients pick the right certificate. Session tickets are the listener's own
	// whichever configuration is given here.
	listener.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		a := t.Anchors()
		if c := last.Load(); c != nil && c.anchors == a {
			return c.config, nil
		}
		c := &current{a, base.Clone()}
		c.config.ClientCAs = a.roots
		last.Store(c)
		return c.config, nil
	}
	return listener
}

// verify checks a client's chain (RFC 5280, section 6) and the strict leaf profile.
func (t Trust) verify(sent []*x509.Certificate, a *Anchors) error {
	if len(sent) == 0 {
		return errors.New("no client certificate")
	}
	leaf := sent[0]
	// Parse first: it is cheap and bounds what the path builder is given.
	if _, err := t.Profile.Parse(leaf); err != nil {
		return err
	}
	return a.verify(leaf, sent[1:], t.Now())
}

func (a *Anchors) verify(leaf *x509.Certificate, sent []*x509.Certificate, now time.Time) error {
	between := a.between.Clone()
	for _, c := range sent {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: between, CurrentTime: identity.JudgedAt(leaf, now), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return fmt.Errorf("client certificate chain: %w", err)
	}
	return nil
}
