package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/span"
)

// The bounds of a connection pool. An answer is cut at 8 MiB by the peer; the rest is for what surrounds it.
const (
	maxAnswerBytes = 9 << 20
	maxRequestHead = 12 << 10 // a gateway reads 16 KiB; beyond, a connection fails as if nobody were there
	idleConns      = 4
	idleFor        = 90 * time.Second
	pingAfter      = 15 * time.Second // of silence on a connection with a request on it
	pingTimeout    = 5 * time.Second
	lastRequests   = 30 * time.Second // after which the requests of a pool that is not used any more are over
)

// Client asks peers over mutual TLS. It keeps one pool of connections for each credential, made when it is first
// used. It implements querying.Client, and is safe for concurrent use. Make one with NewClient.
type Client struct {
	// Now is the clock that peers' certificates are judged by; nil: the machine's.
	Now func() time.Time

	mu    sync.Mutex
	pools map[uuid.UUID]pool
}

// pool belongs to one certificate: a renewed credential keeps its id and changes its serial, and its old
// connections still speak with the old certificate.
type pool struct {
	serial    string
	roots     string        // that vouch for the peer: without one of them old connections are not enough
	behind    time.Duration // by how much our clock is corrected in judging the peer's certificate
	transport *http.Transport
}

// NewClient returns a Client without connections.
func NewClient() *Client { return &Client{pools: map[uuid.UUID]pool{}} }

// Do implements querying.Client: it sends one request. The context bounds all of it. Of this gateway's trace the peer is
// told the two ids and whether it is recorded here; a tracestate or baggage is never sent.
func (c *Client) Do(ctx context.Context, t querying.Target, call querying.Call) (querying.Answer, error) {
	ctx, asked := span.StartCall(ctx)
	defer asked.End()
	if above := span.Traceparent(ctx); above != "" {
		call.Traceparent = above
	}
	answer, err := c.send(ctx, t, call)
	if err != nil {
		asked.Failed(fault.From(err).Code)
	} else {
		asked.Answered(answer.Status)
	}
	return answer, err
}

func (c *Client) send(ctx context.Context, t querying.Target, call querying.Call) (querying.Answer, error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "https" {
		return querying.Answer{}, fmt.Errorf("credential %s has no https address", t.CredentialID)
	}
	answer, err := c.try(ctx, t, call, u, 0)
	if d, behind := c.behind(err); behind {
		return c.try(ctx, t, call, u, d)
	}
	return answer, err
}

// behind tells by how much our clock is behind the peer's, when its certificate was refused because it begins in our
// future. A gateway's certificate is new whenever it was started or renewed, and a clock that is some minutes wrong is
// no reason to be without the peer until then. The chain to the pinned CA is verified anew, and the end of its life.
func (c *Client) behind(err error) (time.Duration, bool) {
	var refused *tls.CertificateVerificationError
	var why x509.CertificateInvalidError
	if !errors.As(err, &refused) || !errors.As(refused.Err, &why) || why.Reason != x509.Expired {
		return 0, false
	}
	d := refused.UnverifiedCertificates[0].NotBefore.Sub(c.now())
	return d + time.Second, d > 0 && d <= identity.MaxBehind
}

func (c *Client) now() time.Time {
	if c.Now == nil {
		return time.Now()
	}
	return c.Now()
}

func (c *Client) try(ctx context.Context, t querying.Target, call querying.Call, u *url.URL, behind time.Duration) (querying.Answer, error) {
	transport, err := c.pool(t, u.Hostname(), behind)
	if err != nil {
		return querying.Answer{}, err
	}
	target := u.JoinPath(call.Path)
	target.RawQuery = call.Query.Encode()
	req, err := http.NewRequestWithContext(ctx, call.Method, target.String(), bytes.NewReader(call.Body))
	if err != nil {
		return querying.Answer{}, fmt.Errorf("make request: %w", err)
	}
	if call.Body != nil {
		req.Header.Set("Content-Type", typeJSON)
	}
	setNonEmpty(req.Header, "X-Request-Id", call.RequestID)
	setNonEmpty(req.Header, "Traceparent", call.Traceparent)
	setNonEmpty(req.Header, "If-None-Match", call.IfNoneMatch)
	if headSize(req) > maxRequestHead {
		return querying.Answer{}, querying.ErrQuestionTooLong
	}
	answer, err := exchange(transport, req, maxAnswerBytes)
	if errors.Is(err, querying.ErrTimeout) {
		c.distrust(t.CredentialID, transport)
	}
	return answer, err
}

// headSize is how long a request is without its body, counted as HTTP/2 does (RFC 9113, section 6.5.2): 32 bytes more for
// each field.
func headSize(req *http.Request) int {
	const perField = 32
	n := len(req.URL.String()) + 4*perField
	for name, values := range req.Header {
		for _, v := range values {
			n += len(name) + len(v) + perField
		}
	}
	return n
}

// distrust lets the next request dial anew. A connection on which an answer did not come in time may be half of one:
// its other end has gone without a word, or something between forgot it. That would swallow every request until the
// pings find out, and be away long after the peer is back. Requests under way on it keep it.
func (c *Client) distrust(id uuid.UUID, t *http.Transport) {
	c.mu.Lock()
	if c.pools[id].transport == t {
		delete(c.pools, id)
	}
	c.mu.Unlock()
	time.AfterFunc(lastRequests, t.CloseIdleConnections)
}

// Forget closes the idle connections of a credential; requests under way finish.
func (c *Client) Forget(id uuid.UUID) {
	c.mu.Lock()
	old := c.pools[id]
	delete(c.pools, id)
	c.mu.Unlock()
	old.close()
}

// Close closes all idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	pools := c.pools
	c.pools = map[uuid.UUID]pool{}
	c.mu.Unlock()
	for _, p := range pools {
		p.close()
	}
}

func (p pool) close() {
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}

func (c *Client) pool(t querying.Target, host string, behind time.Duration) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept, ok := c.pools[t.CredentialID]
	if ok && kept.serial == t.Serial && kept.roots == t.CARootPEM && kept.behind >= behind {
		return kept.transport, nil
	}
	config, err := tlsConfig(t, host, func() time.Time { return c.now().Add(behind) })
	if err != nil {
		return nil, err
	}
	made := transport(anyPeer, config)
	made.MaxIdleConnsPerHost = idleConns
	made.IdleConnTimeout = idleFor
	made.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
	c.pools[t.CredentialID] = pool{serial: t.Serial, roots: t.CARootPEM, behind: behind, transport: made}
	kept.close()
	return made, nil
}

// tlsConfig trusts the roots that the credential is pinned to and nobody else, and speaks TLS 1.3 only.
func tlsConfig(t querying.Target, host string, now func() time.Time) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(t.CARootPEM)) {
		return nil, fmt.Errorf("credential %s has no CA root", t.CredentialID)
	}
	key, err := t.Key()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	cert, err := tls.X509KeyPair([]byte(t.ChainPEM), key)
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", t.CredentialID, errors.New("certificate and key do not fit"))
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: host, Time: now,
		// Sent whatever CAs the server names: it has to say no to it, rather than ask why there was none.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}, nil
}
