package embedded

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
)

// SignToken lets a test spend a token that no Minter of ours would make.
func (a *Authority) SignToken(ctx context.Context, csr *x509.CertificateRequest, token string) (ca.Chain, error) {
	return a.sign(ctx, csr, token, time.Time{}, time.Now().Add(time.Hour))
}

// Renew asks Step-CA itself to renew a certificate.
func (a *Authority) Renew(cert *x509.Certificate) error {
	_, err := a.auth.Renew(cert)
	return err
}
