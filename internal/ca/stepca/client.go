// Package stepca is the client of a stock Step-CA 0.30 over HTTP.
//
// It is written on Step-CA's own wire types but not on its client, which drops the path of the CA's URL, reads
// identities from the environment and hides the reason of a refusal behind a retry. Here every call has a deadline,
// trusts only the pinned roots and those that a CA trusted by them names, and mints a fresh token per attempt, because the CA burns a token even when signing
// fails. Only network errors and 5xx answers are tried again. Step-CA answers every refused token with the same
// sentence, so a refusal is followed by the calls that tell whether the clock, the provisioner's name, its key or
// the audience is to blame, and comes back as the fault of that cause with its remedy.
//
// A retried signing request may leave two certificates of one serial number behind, if the CA signed the first one
// and its answer was lost. Both are of one key and one grant, one is registered, and a revoke stops both.
package stepca

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/smallstep/certificates/api"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
)

// ErrConfig is the fault of settings that no CA could be reached with.
var ErrConfig = &fault.Fault{
	Kind: fault.Internal, Code: "ca_config_invalid",
	Detail: "the settings of the certificate authority are not usable",
	Hint:   "set STEP_CA_URL to an https URL and STEP_CA_ROOT_CERT_PATH to the PEM file of the CA's root",
}

// The defaults of Config. An enrollment is answered within 15 s also when the CA hangs, so a call with all its
// attempts takes less.
const (
	defaultTimeout = 12 * time.Second
	defaultAttempt = 5 * time.Second
	defaultBackoff = 150 * time.Millisecond
	maxAttempts    = 3
)

// Provisioner is one of the CA's JWK provisioners, and how to come by its key: KeyJSON, or, when that is empty, the
// CA's own encryptedKey. Password decrypts either; a plain JWK in KeyJSON needs none.
type Provisioner struct {
	Name     string
	Password []byte
	KeyJSON  []byte
}

// Format keeps the secrets out of every fmt verb.
func (p Provisioner) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "provisioner %s [sealed]", p.Name)
}

// LogValue keeps the secrets out of logs.
func (p Provisioner) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(p)) }

// Config says where the CA is and how to ask it.
type Config struct {
	URL        string              // its path is kept in front of every call
	Roots      []*x509.Certificate // pinned: what the CA's listener is trusted by, and what it signs until it has told its roots
	Federation Provisioner
	Server     Provisioner
	Now        func() time.Time // default time.Now

	Timeout time.Duration // of a call with all its attempts, default 12 s
	Attempt time.Duration // of one attempt, default 5 s
	Backoff time.Duration // before the second attempt, doubled before the third, each with jitter; default 150 ms
}

// Client asks one Step-CA. It implements ca.Authority.
type Client struct {
	base       *url.URL
	trust      atomic.Pointer[trust]
	now        func() time.Time
	timeout    time.Duration
	attempt    time.Duration
	backoff    time.Duration
	federation *source
	server     *source
	pinned     []*x509.Certificate
}

var _ ca.Authority = (*Client)(nil)

// New checks cfg and makes a Client; it calls nobody. The error is ErrConfig, ca.ErrKeyUnusable or ca.ErrPassword.
func New(cfg Config) (*Client, error) {
	base, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if len(cfg.Roots) == 0 {
		return nil, ErrConfig.With("no root of the certificate authority is pinned")
	}
	c := &Client{
		base:    base,
		pinned:  slices.Clone(cfg.Roots),
		now:     cfg.Now,
		timeout: orDefault(cfg.Timeout, defaultTimeout),
		attempt: orDefault(cfg.Attempt, defaultAttempt),
		backoff: orDefault(cfg.Backoff, defaultBackoff),
	}
	c.trust.Store(newTrust(c.pinned, c.pinned))
	if c.now == nil {
		c.now = time.Now
	}
	if c.federation, err = newSource(cfg.Federation); err != nil {
		return nil, err
	}
	c.server, err = newSource(cfg.Server)
	return c, err
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, ErrConfig.With("STEP_CA_URL is not a URL").Because(err)
	case u.Scheme != "https" || u.Hostname() == "":
		return nil, ErrConfig.With("STEP_CA_URL is not an https URL")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, ErrConfig.With("STEP_CA_URL has more than a host and a path")
	}
	return u, nil
}

// ParseRoots reads the PEM file of a CA's roots: one or more CA certificates. The error is ErrConfig.
func ParseRoots(data []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, ErrConfig.With("the CA's root file holds something that is not a certificate").Because(err)
		}
		if !cert.IsCA {
			return nil, ErrConfig.With("the CA's root file holds a certificate that is not a CA's")
		}
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, ErrConfig.With("the CA's root file holds no PEM certificate")
	}
	return roots, nil
}

// Close drops idle connections. The Client stays usable.
func (c *Client) Close() { c.trust.Load().http.CloseIdleConnections() }

// IssueLeaf implements ca.Authority.
func (c *Client) IssueLeaf(ctx context.Context, req ca.LeafRequest) (ca.Chain, error) {
	if err := req.Check(); err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.sign(ctx, c.federation, req.CSR, req.NotBefore, req.NotAfter, func(m minter) (string, error) { return m.Leaf(req) })
}

// IssueServer implements ca.Authority.
func (c *Client) IssueServer(ctx context.Context, req ca.ServerRequest) (ca.Chain, error) {
	if err := req.Check(); err != nil {
		return ca.Chain{}, ca.Unsigned(err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.sign(ctx, c.server, req.CSR, time.Time{}, req.NotAfter, func(m minter) (string, error) { return m.Server(req) })
}

// sign asks for one certificate, with a fresh token from mint for each attempt.
func (c *Client) sign(ctx context.Context, p *source, csr *x509.CertificateRequest, notBefore, notAfter time.Time,
	mint func(minter) (string, error),
) (ca.Chain, error) {
	begin, end := ca.SigningTimes(notBefore, notAfter)
	var chain ca.Chain
	signed := false // whether one of the attempts may have been signed
	err := c.withToken(ctx, p, mint, func(ott string) error {
		body, err := json.Marshal(api.SignRequest{
			CsrPEM: api.NewCertificateRequest(csr), OTT: ott,
			NotBefore: api.NewTimeDuration(begin), NotAfter: api.NewTimeDuration(end),
		})
		if err != nil {
			return err
		}
		answer, err := c.once(ctx, http.MethodPost, "/1.0/sign", body)
		var no *refusedError
		signed = signed || answer.sent && !errors.As(err, &no)
		if err != nil {
			return err
		}
		chain, err = c.readChain(answer.body)
		return err
	})
	var no *refusedError
	if errors.As(err, &no) && (no.status == http.StatusForbidden || no.status == http.StatusBadRequest) {
		err = c.explainForbidden(ctx, p, begin, end, no)
	}
	if err = refused(err); err != nil && !signed {
		err = ca.Unsigned(err)
	}
	return chain, err
}

// readChain takes the chain from an answer: certChain, else crt and ca as CAs before 0.10 sent them, else the leaf.
func (c *Client) readChain(body []byte) (ca.Chain, error) {
	var answer api.SignResponse
	if err := json.Unmarshal(body, &answer); err != nil {
		return ca.Chain{}, ca.Refuse(ca.ErrAnswer, err)
	}
	certs := answer.CertChainPEM
	if len(certs) == 0 {
		certs = []api.Certificate{answer.ServerPEM, answer.CaPEM}
	}
	if certs[0].Certificate == nil {
		return ca.Chain{}, ca.Refuse(ca.ErrAnswer.With("the certificate authority's answer holds no certificate"), errNoCertificate)
	}
	chain := ca.Chain{Leaf: certs[0].Certificate}
	for _, cert := range certs[1:] {
		if cert.Certificate != nil && !slices.ContainsFunc(c.trust.Load().roots, cert.Equal) {
			chain.Intermediates = append(chain.Intermediates, cert.Certificate)
		}
	}
	return chain, nil
}

var errNoCertificate = errors.New("no crt in the answer")

// Revoke implements ca.Authority.
func (c *Client) Revoke(ctx context.Context, serial *big.Int, reason string) error {
	if serial == nil || serial.Sign() <= 0 {
		return ca.ErrRequest.With("a serial number to revoke is positive")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err := c.withToken(ctx, c.federation, func(m minter) (string, error) { return m.Revoke(serial) }, func(ott string) error {
		body, err := json.Marshal(api.RevokeRequest{Serial: serial.String(), OTT: ott, Reason: reason, Passive: true})
		if err != nil {
			return err
		}
		_, err = c.once(ctx, http.MethodPost, "/1.0/revoke", body)
		return err
	})
	var no *refusedError
	if !errors.As(err, &no) {
		return err
	}
	switch no.status {
	case http.StatusBadRequest:
		// The request is well formed and its token was accepted: what is left of Step-CA's reasons for a 400 is
		// that the serial is revoked already (0.30.2, authority/tls.go), which is what was asked for.
		return nil
	case http.StatusNotImplemented:
		return ca.Refuse(ca.ErrNoDatabase, err)
	default:
		return refused(err)
	}
}

// CRL implements ca.Authority.
func (c *Client) CRL(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	answer, err := c.get(ctx, "/1.0/crl")
	var no *refusedError
	if errors.As(err, &no) && no.status == http.StatusNotFound {
		return nil, ca.Refuse(ca.ErrNoCRL, err)
	}
	if err != nil {
		return nil, refused(err)
	}
	if _, err := x509.ParseRevocationList(answer.body); err != nil {
		return nil, ca.Refuse(ca.ErrAnswer, fmt.Errorf("GET /1.0/crl: %w", err))
	}
	return answer.body, nil
}

// Ready implements ca.Authority. Step-CA's /health says ok whatever happens, so the provisioners are asked for:
// that needs the CA's configuration, and shows whether our name, key, password and clock fit.
func (c *Client) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	list, date, err := c.provisioners(ctx)
	if err != nil {
		return err
	}
	if err := c.checkClock(date); err != nil {
		return err
	}
	for _, p := range []*source{c.federation, c.server} {
		if err := p.match(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// LifetimeLimits implements ca.Authority. What the CA said is believed for a minute: enrollments ask every time.
func (c *Client) LifetimeLimits(ctx context.Context) (shortest, longest time.Duration, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, ca.ErrUnavailable.Because(err)
	}
	if shortest, longest, ok := c.federation.knownLimits(c.now()); ok {
		return shortest, longest, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.askLimits(ctx, c.federation)
}
