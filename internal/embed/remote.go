package embed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/sony/gobreaker/v2"
)

// The bounds of asking an endpoint. A query is somebody who waits; a batch of rows is not.
const (
	queryWithin    = 2500 * time.Millisecond // all tries together
	batchWithin    = 30 * time.Second        // one try
	queryTries     = 2
	batchTries     = 3
	queriesAtOnce  = 8
	batchesAtOnce  = 4
	firstPause     = 200 * time.Millisecond
	maxPause       = 5 * time.Second
	maxAnswerBytes = 16 << 20
	tripAfter      = 5                // failures in a row pause all asking
	restFor        = 10 * time.Second // after that, one call tries
	maxRetryAfter  = time.Hour
)

// remote asks an OpenAI-compatible endpoint. Queries and rows have circuits of their own: a slow endpoint that is
// too late for the one may do well for the other.
type remote struct {
	url, model string
	key        string // the header's value; empty for none
	pause      func(context.Context, time.Duration) error
	transport  *http.Transport
	queries    lane
	rows       lane
}

type lane struct {
	slots   chan struct{}
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
	tries   int
}

func newLane(name string, slots, tries int) lane {
	return lane{
		slots: make(chan struct{}, slots), tries: tries,
		circuit: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
			Name: name, MaxRequests: 1, Timeout: restFor,
			ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
			IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, ErrInput) },
			IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
		}),
	}
}

func newRemote(url string, c Config) *remote {
	r := &remote{
		url: url, model: c.Model, pause: c.Pause,
		queries: newLane("queries", queriesAtOnce, queryTries), rows: newLane("rows", batchesAtOnce, batchTries),
		transport: &http.Transport{
			Proxy: nil, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSHandshakeTimeout: 5 * time.Second,
			ForceAttemptHTTP2: true, DisableCompression: true, MaxConnsPerHost: queriesAtOnce + batchesAtOnce,
			MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		},
	}
	if !c.APIKey.IsZero() {
		r.key = "Bearer " + c.APIKey.Reveal()
	}
	if r.pause == nil {
		r.pause = pause
	}
	return r
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *remote) Model() string { return r.model }
func (r *remote) Remote() bool  { return true }

// Floor is where vectors stop pointing the same way at all. How similar unrelated texts are depends on the model, so
// no higher floor would be right for all.
func (r *remote) Floor() float64 { return 0 }

func (r *remote) Query(ctx context.Context, text string) ([]float32, error) {
	bounded, cancel := context.WithTimeout(ctx, queryWithin)
	defer cancel()
	got, err := r.ask(bounded, r.queries, []string{text})
	switch {
	case err == nil:
		return got[0], nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, ErrInput):
		return nil, ErrUnavailable.Because(err)
	}
	return nil, err
}

func (r *remote) Documents(ctx context.Context, texts []string) ([][]float32, error) {
	if len(texts) == 0 || len(texts) > MaxBatch {
		return nil, fmt.Errorf("a batch of %d texts", len(texts))
	}
	return r.ask(ctx, r.rows, texts)
}

// ask tries a few times. It waits for its turn, and when the endpoint has failed often, it does not even try.
func (r *remote) ask(ctx context.Context, l lane, texts []string) ([][]float32, error) {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return nil, ErrUnavailable.Because(ctx.Err())
	}
	for try := 1; ; try++ {
		done, err := l.circuit.Allow()
		if err != nil {
			return nil, ErrUnavailable.Because(err).After(restFor)
		}
		got, err := r.once(ctx, texts)
		done(err)
		if err == nil || errors.Is(err, ErrInput) {
			return got, err
		}
		var f *failure
		again := errors.As(err, &f) && f.passing
		wait := time.Duration(0)
		if f != nil {
			wait = f.retryAfter
		}
		if !again || try == l.tries || wait > maxPause {
			return nil, unavailable(err, wait)
		}
		if wait == 0 {
			wait = rand.N(firstPause<<(try-1)) + firstPause/2 //nolint:gosec // spreads tries, hides nothing
		}
		if paused := r.pause(ctx, wait); paused != nil {
			return nil, unavailable(err, 0)
		}
	}
}

func unavailable(err error, wait time.Duration) error {
	f := ErrUnavailable.Because(err)
	if wait > 0 {
		f = f.After(wait)
	}
	return f
}

// failure is one try that failed. It tells of the endpoint, and nothing of what was sent or answered.
type failure struct {
	what       string
	passing    bool // worth another try
	retryAfter time.Duration
	cause      error
}

func (f *failure) Error() string {
	if f.cause != nil {
		return "embeddings endpoint: " + f.what + ": " + f.cause.Error()
	}
	return "embeddings endpoint: " + f.what
}

func (f *failure) Unwrap() error { return f.cause }

func (r *remote) once(ctx context.Context, texts []string) ([][]float32, error) {
	ctx, cancel := context.WithTimeout(ctx, batchWithin)
	defer cancel()
	body, err := json.Marshal(struct {
		Model string   `json:"model"`
		Input []string `json:"input"`
	}{r.model, texts})
	if err != nil {
		return nil, &failure{what: "request cannot be written"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return nil, &failure{what: "request cannot be made"}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "mosaic-gateway")
	if r.key != "" {
		req.Header.Set("Authorization", r.key)
	}
	// The transport itself: an http.Client would follow a redirect, and take the text to another place.
	resp, err := r.transport.RoundTrip(req)
	if err != nil {
		return nil, &failure{what: "no answer", passing: true, cause: err}
	}
	defer func() { _ = resp.Body.Close() }()
	if err := refused(resp); err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, &failure{what: "answer broke off", passing: true, cause: err}
	case len(answer) > maxAnswerBytes:
		return nil, &failure{what: "answer is too long"}
	}
	return readVectors(answer, len(texts))
}

// refused reads the head of an answer.
func refused(resp *http.Response) error {
	switch status := resp.StatusCode; {
	case status == http.StatusOK:
		media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		if err != nil || media != "application/json" {
			return &failure{what: "answer is not JSON"}
		}
		return nil
	case status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity:
		return fmt.Errorf("%w: status %d", ErrInput, status)
	default:
		passing := status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500
		return &failure{what: "status " + strconv.Itoa(status), passing: passing, retryAfter: retryAfter(resp.Header)}
	}
}

// retryAfter reads Retry-After in both of its forms (RFC 9110, section 10.2.3), at most an hour.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}
