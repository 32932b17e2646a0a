package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
)

// The bounds of a redemption. The peer's CA may take its 15 s.
const (
	enrollLimit    = 20 * time.Second
	maxEnrollBytes = 1 << 20
)

// Enroller redeems tokens at other gateways. It implements querying.Enroller.
type Enroller struct {
	// Roots are the authorities that a peer's public https certificate may come from; nil: the system's.
	Roots *x509.CertPool
}

// Enroll posts a token and a certificate request. An https server must have a certificate that this machine
// trusts: the fingerprint in the URL proves the answer, but the token would be gone to whoever took it.
func (e *Enroller) Enroll(ctx context.Context, r querying.EnrollRequest) (querying.Answer, error) {
	body, err := json.Marshal(struct {
		Token string `json:"token"`
		CSR   string `json:"csr"`
		TTL   int64  `json:"ttl_seconds"`
	}{r.Token.Reveal(), r.CSR, int64(r.TTL / time.Second)})
	if err != nil {
		return querying.Answer{}, fmt.Errorf("encode enrollment: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, enrollLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Endpoint, bytes.NewReader(body))
	if err != nil {
		return querying.Answer{}, fmt.Errorf("make enrollment request: %w", err)
	}
	req.Header.Set("Content-Type", typeJSON)
	req.Header.Set("Idempotency-Key", r.IdempotencyKey)
	setNonEmpty(req.Header, "X-Request-Id", r.RequestID)

	where := anyPeer
	if req.URL.Scheme != "https" {
		where = loopbackOnly
	}
	t := transport(where, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: e.Roots})
	t.DisableKeepAlives = true
	defer t.CloseIdleConnections()
	answer, err := exchange(t, req, maxEnrollBytes)
	switch {
	case errors.Is(err, querying.ErrUntrusted):
		return answer, querying.ErrUntrusted.
			With("the certificate of %s is not one that this machine trusts, so the token was not sent", req.URL.Host).
			Advise("give that gateway a certificate of a public CA, or add its CA to this machine's trust store (SSL_CERT_FILE); then run the same command again").
			Because(err)
	case errors.Is(err, querying.ErrDenied): // an alert, and there is no client certificate here to deny
		return answer, querying.ErrUnreachable.With("%s refused the TLS handshake", req.URL.Host).Because(err)
	}
	return answer, err
}

func setNonEmpty(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}
