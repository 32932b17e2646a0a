package stepca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/smallstep/certificates/api"

	"github.com/mosaicstack/gateway/internal/ca"
)

var errNotCA = errors.New("GET /1.0/roots: something that is not a CA")

// maxRoots of a CA: one, and another while it is rolled over. More is somebody's mistake.
const maxRoots = 8

// trust is what is believed at one time. It is never changed, only replaced.
type trust struct {
	roots []*x509.Certificate // of what the CA signs
	http  *http.Client        // believes the CA's listener by the pinned roots and by these
}

func newTrust(pinned, roots []*x509.Certificate) *trust {
	pool := x509.NewCertPool()
	for _, root := range slices.Concat(pinned, roots) {
		pool.AddCert(root)
	}
	return &trust{roots: roots, http: &http.Client{
		// A CA redirects nobody; following one would send the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 3 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 8,
			IdleConnTimeout:     90 * time.Second,
		},
	}}
}

// Roots implements ca.Authority: the roots that the CA named last, and the pinned ones until it was asked.
func (c *Client) Roots(ctx context.Context) ([]*x509.Certificate, error) {
	if err := ctx.Err(); err != nil {
		return nil, ca.ErrUnavailable.Because(err)
	}
	return slices.Clone(c.trust.Load().roots), nil
}

// RefreshRoots asks the CA for its roots (GET /1.0/roots). Its word is taken because its listener has proved, by a root
// that was believed before, to be the CA: nobody else can name one. When it fails, what was believed stays.
func (c *Client) RefreshRoots(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	a, err := c.once(ctx, http.MethodGet, "/1.0/roots", nil)
	if err != nil {
		return refused(err)
	}
	var said api.RootsResponse
	if err := json.Unmarshal(a.body, &said); err != nil {
		return ca.Refuse(ca.ErrAnswer, fmt.Errorf("GET /1.0/roots: %w", err))
	}
	var roots []*x509.Certificate
	for _, crt := range said.Certificates {
		if crt.Certificate == nil || !crt.IsCA {
			return ca.Refuse(ca.ErrAnswer, errNotCA)
		}
		roots = append(roots, crt.Certificate)
	}
	if len(roots) == 0 || len(roots) > maxRoots {
		return ca.Refuse(ca.ErrAnswer, fmt.Errorf("GET /1.0/roots: %d certificates", len(roots)))
	}
	if old := c.trust.Load(); !slices.EqualFunc(old.roots, roots, (*x509.Certificate).Equal) {
		c.trust.Store(newTrust(c.pinned, roots))
		old.http.CloseIdleConnections()
	}
	return nil
}
