package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/querying"
)

const (
	maxHeaderBytes = 64 << 10
	maxRetryAfter  = time.Hour
	refusalLimit   = time.Second // to find out why a connection broke
	userAgent      = "mosaic-gateway"

	// tooLongForPeer is what net/http says of a request over the limit that the server named. It exports no such error.
	tooLongForPeer = "request header list larger than peer's advertised limit"

	typeJSON    = "application/json"
	typeProblem = "application/problem+json"
)

// transport has what all connections to peers have in common.
func transport(r reach, c *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            guardedDial(r),
		TLSClientConfig:        c,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}
}

// exchange sends a request and reads its answer, at most limit bytes of it. The transport is used without an
// http.Client around it: there is nobody to follow a redirect or keep a cookie.
func exchange(t *http.Transport, req *http.Request, limit int64) (querying.Answer, error) {
	var shaken, answered atomic.Bool
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		TLSHandshakeDone:     func(_ tls.ConnectionState, err error) { shaken.Store(err == nil) },
		GotFirstResponseByte: func() { answered.Store(true) },
	})
	h := req.Header
	h.Set("Accept", typeJSON+", "+typeProblem)
	h.Set("Accept-Encoding", "identity")
	h.Set("User-Agent", userAgent)
	host := req.URL.Host
	resp, err := t.RoundTrip(req.WithContext(ctx))
	if err != nil {
		f := classify(ctx, host, err)
		switch {
		case !errors.Is(f, querying.ErrUnreachable):
		case answered.Load():
			// It was reached, and began an answer that is no HTTP or has headers without end.
			f = querying.ErrAnswerInvalid.With("%s answered with something that is not an HTTP answer of reasonable size", host).Because(quiet{err})
		case shaken.Load():
			if denied := refusal(ctx, t, req); denied != nil {
				f = classify(ctx, host, denied)
			}
		}
		return querying.Answer{}, f
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusNotModified && h.Get("If-None-Match") != "" {
		return querying.Answer{Status: resp.StatusCode, ETag: entityTag(resp.Header), Life: life(resp.Header)}, nil
	}
	problem, err := mediaType(resp, host)
	if err != nil {
		return querying.Answer{}, err
	}
	body, err := bounded(ctx, resp, host, limit)
	if err != nil {
		return querying.Answer{}, err
	}
	return querying.Answer{
		Status: resp.StatusCode, Problem: problem, RetryAfter: retryAfter(resp.Header), Body: body, ETag: entityTag(resp.Header), Life: life(resp.Header),
	}, nil
}

// refusal finds out whether a connection that broke right after its handshake was refused. In TLS 1.3 the client
// is done before the server has looked at its certificate, so the server's alert comes when HTTP has begun already,
// and net/http loses it to whatever else goes wrong then. A connection on which nothing is said shows it.
func refusal(ctx context.Context, t *http.Transport, req *http.Request) error {
	ctx, cancel := context.WithTimeout(ctx, refusalLimit)
	defer cancel()
	port := req.URL.Port()
	if port == "" {
		port = "443"
	}
	conn, err := t.DialContext(ctx, "tcp", net.JoinHostPort(req.URL.Hostname(), port))
	if err != nil {
		return nil
	}
	defer func() { _ = conn.Close() }()
	config := t.TLSClientConfig.Clone()
	config.NextProtos = []string{"h2"} // such a server speaks first
	if config.ServerName == "" {
		config.ServerName = req.URL.Hostname()
	}
	secured := tls.Client(conn, config)
	if deadline, ok := ctx.Deadline(); ok {
		_ = secured.SetDeadline(deadline)
	}
	if _, err = secured.Read(make([]byte, 1)); isAlert(err) {
		return err
	}
	return nil
}

// isAlert recognises a TLS alert sent by the other side; crypto/tls has no other mark of it.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// mediaType refuses what is not JSON before its body is read, and says whether it is a problem.
func mediaType(resp *http.Response, host string) (problem bool, err error) {
	invalid := func(format string, args ...any) error {
		return querying.ErrAnswerInvalid.With("%s answered with status %d and %s", host, resp.StatusCode, fmt.Sprintf(format, args...))
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return false, invalid("a redirect, which is not followed")
	}
	if e := resp.Header.Values("Content-Encoding"); len(e) > 1 || len(e) == 1 && !strings.EqualFold(e[0], "identity") {
		return false, invalid("a compressed body, which was not asked for")
	}
	values := resp.Header.Values("Content-Type")
	if len(values) != 1 {
		return false, invalid("%d content types", len(values))
	}
	media, params, err := mime.ParseMediaType(values[0])
	if err != nil || media != typeJSON && media != typeProblem {
		return false, invalid("a body that is not JSON")
	}
	if cs, ok := params["charset"]; ok && !strings.EqualFold(cs, "utf-8") {
		return false, invalid("JSON that is not UTF-8")
	}
	return media == typeProblem, nil
}

func bounded(ctx context.Context, resp *http.Response, host string, limit int64) ([]byte, error) {
	tooLong := querying.ErrAnswerInvalid.With("%s answered with over %d bytes", host, limit)
	if resp.ContentLength > limit {
		return nil, tooLong
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, classify(ctx, host, err)
	}
	if int64(len(body)) > limit {
		return nil, tooLong
	}
	return body, nil
}

// classify is the one place where a transport's error becomes a fault. The host is the only part of the address
// that is repeated, and of what the peer said nothing is.
func classify(ctx context.Context, host string, err error) error {
	var f *fault.Fault
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &f): // of the dial guard
		return f
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("ask %s: %w", host, ctx.Err())
	case isTimeout(ctx, err):
		return querying.ErrTimeout.With("%s did not answer in time", host).Because(quiet{err})
	case errors.As(err, &cert):
		return querying.ErrUntrusted.With("the server at %s did not prove to be the peer", host).Because(quiet{err})
	case strings.Contains(err.Error(), tooLongForPeer):
		return querying.ErrAnswerInvalid.With("%s reads no request of this length", host).Because(quiet{err})
	case isAlert(err):
		return querying.ErrDenied.With("%s refused the connection in the TLS handshake", host).Because(quiet{err})
	}
	return querying.ErrUnreachable.With("%s cannot be reached", host).Because(quiet{err})
}

func isTimeout(ctx context.Context, err error) bool {
	var n net.Error
	return ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// retryAfter reads Retry-After in seconds (RFC 9110, section 10.2.3), at most an hour. The form with a date is
// not used between gateways.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
