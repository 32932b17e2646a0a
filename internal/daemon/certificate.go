package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
)

// The life of the federation listener's own certificate, and how soon a failed renewal is tried again.
const (
	listenerLife  = 24 * time.Hour
	renewalRetry  = time.Minute
	renewalWithin = 15 * time.Second
)

// certificateSource gives the federation listener its certificate.
type certificateSource interface {
	get() (*tls.Certificate, error)
	intermediates() []*x509.Certificate
	// root is the one of roots that the certificate leads to, and the first for a certificate from elsewhere.
	root(roots []*x509.Certificate) *x509.Certificate
	renew(ctx context.Context) error
	run(ctx context.Context) error
}

// newCertificate takes the certificate from the files that the settings name, else from the CA.
func newCertificate(ctx context.Context, c gatewayConfig, host string) (certificateSource, error) {
	if c.settings.FederationCert != "" {
		return newCertificateFiles(c)
	}
	return newListenerCertificate(ctx, c, host)
}

// listenerCertificate is the federation listener's own certificate. Its key lives in memory only: every start
// and every renewal makes a new one.
type listenerCertificate struct {
	ca      ca.Authority
	names   []string
	now     func() time.Time
	log     *slog.Logger
	current atomic.Pointer[issuedListener]
}

type issuedListener struct {
	tls   tls.Certificate
	chain ca.Chain
}

func newListenerCertificate(ctx context.Context, c gatewayConfig, host string) (*listenerCertificate, error) {
	l := &listenerCertificate{ca: c.ca, names: []string{host}, now: c.now, log: c.log}
	// On one machine people reach it by every name of that machine.
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		l.names = []string{host, "localhost"}
	}
	return l, l.renew(ctx)
}

func (l *listenerCertificate) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewalWithin)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make listener key: %w", err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: l.names[0]}}
	for _, name := range l.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return fmt.Errorf("make listener certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return fmt.Errorf("make listener certificate request: %w", err)
	}
	chain, err := l.ca.IssueServer(ctx, ca.ServerRequest{CSR: csr, Names: l.names, NotAfter: l.now().Add(listenerLife)})
	if err != nil {
		return err
	}
	issued := &issuedListener{chain: chain, tls: tls.Certificate{PrivateKey: key, Leaf: chain.Leaf, Certificate: [][]byte{chain.Leaf.Raw}}}
	for _, c := range chain.Intermediates {
		issued.tls.Certificate = append(issued.tls.Certificate, c.Raw)
	}
	l.current.Store(issued)
	return nil
}

// get is what the TLS configuration asks at every handshake.
func (l *listenerCertificate) get() (*tls.Certificate, error) { return &l.current.Load().tls, nil }

// intermediates are the CA certificates between our leaf and the root: clients' leaves have the same ones.
func (l *listenerCertificate) intermediates() []*x509.Certificate {
	return l.current.Load().chain.Intermediates
}

func (l *listenerCertificate) root(roots []*x509.Certificate) *x509.Certificate {
	chain := l.current.Load().chain
	return rootOf(chain.Leaf, chain.Intermediates, roots)
}

// run renews at half of the certificate's life, and then every minute until it works.
func (l *listenerCertificate) run(ctx context.Context) error {
	for {
		leaf := l.current.Load().chain.Leaf
		wait := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2).Sub(l.now())
		timer := time.NewTimer(max(wait, renewalRetry))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := l.renew(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("listener certificate not renewed", "error", err, "not_after", leaf.NotAfter)
		}
	}
}
