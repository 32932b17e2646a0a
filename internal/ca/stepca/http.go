package stepca

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/smallstep/certificates/errs"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fault"
)

const (
	maxAnswer  = 32 << 20 // a CRL of a million entries
	maxMessage = 300      // what is kept of a CA's message for the log
)

// answer is a 2xx answer of the CA, or what came of another one.
type answer struct {
	sent bool // there was a connection for the request: the CA may have acted on it, whatever came back
	body []byte
	date time.Time // the CA's clock, from the Date header; zero when it sent none
}

// refusedError is an answer below 500 that Step-CA gave for a reason: a 4xx or 501 in its own JSON form. It is for
// this package and for the log; callers get the fault it stands for.
type refusedError struct {
	call    string
	status  int
	message string
	answer  answer
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s: %d: %s", e.call, e.status, e.message)
}

// get asks for one path under the CA's URL, again after network errors and 5xx.
func (c *Client) get(ctx context.Context, path string) (answer, error) {
	var a answer
	err := c.retry(ctx, func() (err error) {
		a, err = c.once(ctx, http.MethodGet, path, nil)
		return err
	})
	return a, err
}

// retry runs do until it succeeds, fails for good, or has failed maxAttempts times. Waiting has jitter, so that
// replicas which lost their CA together do not come back together.
func (c *Client) retry(ctx context.Context, do func() error) error {
	for i := 0; ; i++ {
		err := do()
		var again *transientError
		if !errors.As(err, &again) {
			return err
		}
		if i+1 == maxAttempts || !c.pause(ctx, i) {
			return again.error
		}
	}
}

// pause waits before attempt i+2, and reports whether there is time left for it.
func (c *Client) pause(ctx context.Context, i int) bool {
	wait := c.backoff << i
	timer := time.NewTimer(wait/2 + rand.N(wait))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// transientError marks a failure that another attempt may not meet.
type transientError struct{ error }

func (e *transientError) Unwrap() error { return e.error }

func transient(err error) error { return &transientError{err} }

// once makes one attempt.
func (c *Client) once(ctx context.Context, method, path string, body []byte) (answer, error) {
	attempt, cancel := context.WithTimeout(ctx, c.attempt)
	defer cancel()
	var connected atomic.Bool
	attempt = httptrace.WithClientTrace(attempt, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	name := method + " " + path
	if i := strings.IndexByte(name, '?'); i >= 0 {
		name = name[:i]
	}
	req, err := http.NewRequestWithContext(attempt, method, c.endpoint(path), bytes.NewReader(body))
	if err != nil {
		return answer{}, ErrConfig.Because(err)
	}
	req.Header.Set("Accept", "application/json, application/pkix-crl")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.trust.Load().http.Do(req)
	a := answer{sent: connected.Load()}
	if err != nil {
		return a, networkFault(ctx, name, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return a, networkFault(ctx, name, err)
	}
	if len(data) > maxAnswer {
		return a, ca.Refuse(ca.ErrAnswer, fmt.Errorf("%s: over %d bytes", name, maxAnswer))
	}
	a.body = data
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.date = date
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return a, nil
	}
	return a, answerFault(name, resp.StatusCode, a)
}

// endpoint puts a path behind the path of the CA's URL.
func (c *Client) endpoint(path string) string {
	path, query, _ := strings.Cut(path, "?")
	u := c.base.JoinPath(path)
	u.RawQuery = query
	return u.String()
}

// answerFault sorts an answer that is no success.
func answerFault(name string, status int, a answer) error {
	var said errs.ErrorResponse
	stepCA := json.Unmarshal(a.body, &said) == nil && said.Status == status
	if !stepCA {
		said.Message = "not an answer of Step-CA"
	}
	// Only an answer of Step-CA itself is a refusedError, also among the causes: callers look for it there.
	cause := fmt.Errorf("%s: %d: %s", name, status, clip(said.Message))
	switch {
	case stepCA && (status < 500 || status == http.StatusNotImplemented):
		return &refusedError{call: name, status: status, message: clip(said.Message), answer: a}
	case status == http.StatusTooManyRequests:
		return ca.ErrUnavailable.With("the certificate authority, or a proxy before it, asks to wait").Because(cause)
	case status >= 500:
		return transient(ca.ErrUnavailable.With("the certificate authority failed").Because(cause))
	default:
		// A redirect, an HTML page, a plain 404: somebody else's server, or the wrong path.
		return ca.Refuse(ca.ErrAnswer, cause)
	}
}

// clip keeps what is worth logging of a foreign text: printable and short.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "")
	}
	return s
}

// networkFault sorts an error of the transport. A peer that cannot prove itself is not tried again: it will not
// learn to within a second, and the next attempt would carry another token to it.
func networkFault(ctx context.Context, name string, err error) error {
	cause := fmt.Errorf("%s: %w", name, unwrapURL(err))
	var (
		verification *tls.CertificateVerificationError
		record       tls.RecordHeaderError
		alert        tls.AlertError
		invalid      x509.CertificateInvalidError
		dns          *net.DNSError
		timeout      net.Error
	)
	switch {
	case ctx.Err() != nil: // the caller's context, not the attempt's
		return ca.ErrUnavailable.With("the certificate authority did not answer in time").Because(errors.Join(ctx.Err(), cause))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return ca.Refuse(ca.ErrTrust.With("the certificate authority's own certificate has ended or not begun").
			Advise("compare the clocks of the gateway and the CA, and restart a CA that has been suspended"), cause)
	case errors.As(err, &verification):
		return ca.Refuse(ca.ErrTrust, cause)
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return ca.Refuse(ca.ErrTrust.With("what answers at STEP_CA_URL does not speak TLS"), cause)
	case errors.As(err, &alert):
		return ca.Refuse(ca.ErrTrust.With("what answers at STEP_CA_URL refused the TLS handshake"), cause)
	case errors.As(err, &dns):
		return transient(ca.ErrUnavailable.With("the host in STEP_CA_URL is not found").
			Advise("check the host in STEP_CA_URL and the gateway's DNS; a service that is starting appears shortly").Because(cause))
	case errors.As(err, &timeout) && timeout.Timeout():
		return transient(ca.ErrUnavailable.With("the certificate authority did not answer in time").Because(cause))
	default:
		return transient(ca.ErrUnavailable.With("the certificate authority cannot be reached").Because(cause))
	}
}

// unwrapURL drops the URL from an error of http.Client: it is in the configuration, and stays out of the log.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// refused turns a refusal that nobody could explain better into a fault.
func refused(err error) error {
	var no *refusedError
	var known *fault.Fault
	if errors.As(err, &no) && !errors.As(err, &known) {
		return ca.Refuse(ca.ErrRefused, err)
	}
	return err
}
