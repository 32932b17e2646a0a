package portainer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

const (
	maxAnswer = 16 << 20
	maxError  = 64 << 10 // of the body of a refusal
	maxWords  = 2000     // characters of it that are shown
)

// call is one request.
type call struct {
	method  string
	path    string // below /api, escaped
	query   url.Values
	body    any
	docker  bool          // it goes through to the environment's Docker
	changes string        // the stack that it does something to: it may have been done although no answer came
	timeout time.Duration // zero for that of a question
	hide    []Variable    // whose values may come back in a refusal
}

// do asks and decodes the answer of a success.
func (c *Client) do(ctx context.Context, r call, into any) error {
	limited, cancel := context.WithTimeout(ctx, cmp.Or(r.timeout, c.timeout))
	defer cancel()
	resp, err := c.open(ctx, limited, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return c.failed(ctx, r, err)
	case len(doc) > maxAnswer:
		return ErrTooLarge
	case resp.StatusCode == http.StatusNoContent && r.changes == "":
		return nil // a list with nothing in it, in some versions
	}
	// What is no route of the API is answered with the page of Portainer's own interface, and 200.
	if err := json.Unmarshal(doc, into); err != nil {
		f := ErrAnswer.With("%s answered %d, but not as Portainer does", c.name, resp.StatusCode)
		if r.changes != "" {
			f = f.Advise(look, r.changes)
		}
		return f // without its cause, which quotes the answer
	}
	return nil
}

// open sends a request and returns the answer of a success, whose body is the caller's to close. ctx is the command's
// own, limited the one with the request's deadline.
func (c *Client) open(ctx, limited context.Context, r call) (*http.Response, error) {
	address := c.base + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		doc, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("portainer: request: %w", err)
		}
		body = bytes.NewReader(doc)
	}
	req, err := http.NewRequestWithContext(limited, r.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("portainer: request: %w", err)
	}
	req.Header.Set("X-API-Key", c.key.Reveal())
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(ctx, r, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.refused(r, resp)
}

// failed turns a transport's error into what a person can act on. When ctx has ended, somebody has pressed a key, and
// its error is returned.
func (c *Client) failed(ctx context.Context, r call, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		err = ue.Err // without the address, which has the question in it
	}
	var f *fault.Fault
	untrusted := (*tls.CertificateVerificationError)(nil)
	alert := (*net.OpError)(nil)
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		f = ErrTimeout.With("%s did not answer within %s", c.name, cmp.Or(r.timeout, c.timeout))
	case errors.As(err, &untrusted):
		return ErrUntrusted.With("the certificate of %s is not trusted", c.name).Because(err)
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record), errors.As(err, &alert) && alert.Op == "remote error": // so crypto/tls calls an alert
		return ErrTLS.With("no TLS connection to %s comes about", c.name).Because(err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		f = ErrConnectionLost.Because(err)
	default:
		f = ErrUnreachable.With("%s does not answer", c.name).Because(err)
	}
	if r.changes != "" && !errors.Is(f, ErrUnreachable) {
		f = f.Advise(look, r.changes)
	}
	return f
}

// refused reads what Portainer, the Docker behind it, or a proxy before it says instead of doing it.
func (c *Client) refused(r call, resp *http.Response) error {
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode < 400 {
		return ErrRedirect.With("%s answers with a redirect to %q, which is not followed", c.name, c.words(resp.Header.Get("Location"), r.hide))
	}
	// Half a body is as good as none here.
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
	var says struct {
		Message string `json:"message"`
		Details string `json:"details"` // Docker has none
	}
	if json.Unmarshal(raw, &says) != nil || says.Message == "" {
		f := ErrAnswer.With("%s answered %s, but not as Portainer does", c.name, status)
		if r.docker && resp.StatusCode >= 500 { // Portainer passes it on without a word of its own
			f = f.Advise("the Docker of the environment may be away, or Portainer itself: mosaic stack endpoints")
		}
		if r.changes != "" && resp.StatusCode >= 500 {
			f = f.Advise(look, r.changes)
		}
		return f
	}
	text := says.Message
	if says.Details != "" && !strings.Contains(text, says.Details) {
		text += ": " + says.Details
	}
	who, refused, broken := "Portainer", ErrRefused, ErrFailed
	if r.docker && says.Details == "" {
		who, refused, broken = "Docker", ErrDockerRefused, ErrDockerFailed
	}
	f := refused
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		f = ErrKey
	case http.StatusForbidden:
		f = ErrForbidden
	case http.StatusNotFound:
		f = ErrNotFound
	case http.StatusConflict:
		f = ErrConflict
	default:
		if resp.StatusCode >= 500 {
			f = broken
		}
	}
	if r.changes != "" && errors.Is(f, ErrFailed) {
		f = f.Advise("mend what it says; see what is there now: mosaic stack status %s", r.changes)
	}
	return f.With("%s answered %s: %s", who, status, c.words(text, r.hide))
}

// words makes remote text fit to be shown: without the key, with the names of variables in the place of their values,
// and not longer than somebody reads. Values under four characters are no secrets, and everywhere.
func (c *Client) words(text string, hide []Variable) string {
	const tooShort = 4
	longestFirst := slices.Clone(hide)
	slices.SortStableFunc(longestFirst, func(a, b Variable) int { return len(b.Value.Reveal()) - len(a.Value.Reveal()) })
	var swap []string
	if key := c.key.Reveal(); key != "" {
		swap = append(swap, key, c.key.String())
	}
	for _, v := range longestFirst {
		value := v.Value.Reveal()
		if len(value) < tooShort {
			continue
		}
		for _, form := range forms(value) {
			swap = append(swap, form, "${"+v.Name+"}")
		}
	}
	text = strings.NewReplacer(swap...).Replace(text)
	return cut(text)
}

// forms are the ways in which a value stands in what programs say of it: as it is, in quotes, and in an address.
func forms(value string) []string {
	doc, _ := json.Marshal(value) // of a string: it cannot fail
	quoted := strconv.Quote(value)
	all := []string{value, quoted[1 : len(quoted)-1], string(doc[1 : len(doc)-1]), url.QueryEscape(value), url.PathEscape(value), url.UserPassword("", value).String()[1:]}
	slices.Sort(all)
	return slices.Compact(all)
}

func cut(text string) string {
	if runes := []rune(text); len(runes) > maxWords {
		return string(runes[:maxWords]) + " …"
	}
	return text
}
