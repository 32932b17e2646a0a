package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// How often the files are looked at: who replaces them need not restart anything.
const filesEvery = time.Minute

var errCertificateFiles = &fault.Fault{
	Kind: fault.Invalid, Code: "listener_certificate_invalid", Detail: "the certificate of the federation listener cannot be used",
	Hint: "let MOSAIC_FEDERATION_TLS_CERT_FILE name a PEM chain, leaf first, and MOSAIC_FEDERATION_TLS_KEY_FILE its private key",
}

// certificateFiles is a certificate of the federation listener that somebody else renews.
type certificateFiles struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]
}

func newCertificateFiles(c gatewayConfig) (*certificateFiles, error) {
	f := &certificateFiles{certFile: c.settings.FederationCert, keyFile: c.settings.FederationKey, log: c.log}
	return f, f.read()
}

func (f *certificateFiles) read() error {
	pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return errCertificateFiles.Because(err)
	}
	f.current.Store(&pair)
	return nil
}

func (f *certificateFiles) get() (*tls.Certificate, error) { return f.current.Load(), nil }

// intermediates are none: these files need not come from the federation CA, so clients send their own.
func (f *certificateFiles) intermediates() []*x509.Certificate { return nil }

func (f *certificateFiles) root(roots []*x509.Certificate) *x509.Certificate { return roots[0] }

// renew leaves it to whoever looks after the files.
func (f *certificateFiles) renew(context.Context) error { return nil }

// run reads the files again and again. A pair that does not fit, as in the middle of a replacement, is passed over.
func (f *certificateFiles) run(ctx context.Context) error {
	for range ticks(ctx, filesEvery) {
		if err := f.read(); err != nil {
			f.log.Warn("listener certificate not read again", "error", err)
		}
	}
	return nil
}
