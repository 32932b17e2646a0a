package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

const (
	callTimeout    = 30 * time.Second // the gateway's own slowest answer, of its CA, takes 15 s
	maxAnswerBytes = 64 << 20
)

// client speaks to one gateway.
type client struct {
	http    *http.Client
	base    string // without a slash at its end
	name    string // what errors call the gateway
	token   string // empty on the admin socket
	agent   string
	timeout time.Duration
	// unreachable says why nobody could be connected to.
	unreachable func(err error) error
}

// newHTTPClient follows no redirect: it would carry a token, or an enrollment URL, to whoever is named there.
func newHTTPClient(t *http.Transport) *http.Client {
	t.DisableKeepAlives = true // one run asks one or two things
	t.TLSHandshakeTimeout = 10 * time.Second
	t.ExpectContinueTimeout = 5 * time.Second // then the file is sent to a server that does not know the question
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request is one thing to ask for.
type request struct {
	method string
	path   []string // the parts of the path, each escaped on its way
	query  url.Values
	actFor string      // the user an admin asks as; empty for themselves
	body   any         // sent as JSON
	header http.Header // more headers, or in place of the usual ones
	lines  io.Reader   // sent instead as JSON lines, as they come, and without a time limit
}

func get(path ...string) request { return request{method: http.MethodGet, path: path} }

func post(body any, path ...string) request {
	return request{method: http.MethodPost, path: path, body: body}
}

func remove(path ...string) request { return request{method: http.MethodDelete, path: path} }

// answer is what came back, whatever its status.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do asks and returns the document of a success; nil when there is none. Every other answer is an error.
func (c *client) do(ctx context.Context, r request) (json.RawMessage, error) {
	got, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	switch {
	case got.status >= 400:
		return nil, c.refused(got)
	case got.status >= 300:
		return nil, errRedirect.With("%s answers with a redirect to %q, which is not followed", c.name, got.header.Get("Location"))
	case len(got.body) > 0 && !json.Valid(got.body):
		return nil, errNotAGateway.With("%s answered %d, but not with JSON as a Mosaic gateway does", c.name, got.status)
	}
	return got.body, nil
}

func (c *client) send(ctx context.Context, r request) (answer, error) {
	limited := ctx
	if r.lines == nil {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	req, err := c.build(limited, r)
	if err != nil {
		return answer{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, c.failed(ctx, err, c.unreachable)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return answer{}, c.failed(ctx, err, func(err error) error { return errConnectionLost.Because(err) })
	case len(body) > maxAnswerBytes:
		return answer{}, errAnswerTooLarge
	}
	return answer{resp.StatusCode, resp.Header, body}, nil
}

func (c *client) build(ctx context.Context, r request) (*http.Request, error) {
	address := c.base
	for _, part := range r.path {
		address += "/" + url.PathEscape(part)
	}
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	body := r.lines
	if r.body != nil {
		doc, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("cli: request: %w", err)
		}
		body = bytes.NewReader(doc)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("cli: request: %w", err)
	}
	h := req.Header
	h.Set("User-Agent", c.agent)
	h.Set("Accept", "application/json, application/problem+json")
	for name, values := range r.header {
		h[name] = values
	}
	if c.token != "" {
		h.Set("Authorization", "Bearer "+c.token)
	}
	if r.actFor != "" {
		h.Set("Mosaic-Act-For", r.actFor)
	}
	switch {
	case r.lines != nil:
		h.Set("Content-Type", "application/x-ndjson")
		h.Set("Expect", "100-continue") // a refusal comes before the file is sent
	case r.body != nil:
		h.Set("Content-Type", "application/json")
	}
	return req, nil
}

// failed turns a transport's error into what a person can act on. ctx is the command's own context: when that has
// ended, somebody pressed a key.
func (c *client) failed(ctx context.Context, err error, otherwise func(error) error) error {
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err // without the address, which has user names in it
	}
	untrusted := (*tls.CertificateVerificationError)(nil)
	ours := (*fault.Fault)(nil)
	switch {
	case ctx.Err() != nil:
		return errInterrupted
	case errors.As(err, &ours): // the file that was being sent
		return ours
	case errors.Is(err, context.DeadlineExceeded):
		return errTimeout.With("%s did not answer within %s", c.name, c.timeout)
	case errors.As(err, &untrusted):
		return errUntrusted.With("the certificate of %s is not trusted", c.name).Because(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errConnectionLost.Because(err)
	}
	return otherwise(err)
}

// refused reads problem details (RFC 9457). What is none was not written by a gateway.
func (c *client) refused(got answer) error {
	var p struct {
		Title     string          `json:"title"`
		Detail    string          `json:"detail"`
		Code      string          `json:"code"`
		Hint      string          `json:"hint"`
		RequestID string          `json:"request_id"`
		Errors    []fault.Problem `json:"errors"`
	}
	kind, _, _ := mime.ParseMediaType(got.header.Get("Content-Type"))
	if kind != "application/problem+json" || json.Unmarshal(got.body, &p) != nil || p.Code == "" {
		return errNotAGateway.With("%s answered %d %s, but not as a Mosaic gateway does", c.name, got.status, http.StatusText(got.status))
	}
	if p.Detail == "" {
		p.Detail = p.Title
	}
	r := &refusal{status: got.status, requestID: p.RequestID}
	r.says = fault.Fault{Code: p.Code, Detail: p.Detail, Hint: p.Hint, Problems: p.Errors}
	if s, err := strconv.Atoi(strings.TrimSpace(got.header.Get("Retry-After"))); err == nil && s > 0 && s < 1<<20 {
		r.says.RetryAfter = time.Duration(s) * time.Second
	}
	return r
}
