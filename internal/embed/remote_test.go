package embed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/seal"
)

// endpoint is an embeddings endpoint of a test's own: answers are taken in turn, the last one for ever.
type endpoint struct {
	*httptest.Server
	t       *testing.T
	answers []http.HandlerFunc
	asked   atomic.Int64
	paused  []time.Duration
	mu      sync.Mutex
}

const (
	testKey  = "sk-of-a-test"
	testText = "what somebody wrote"
)

func newEndpoint(t *testing.T, answers ...http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{t: t, answers: answers}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(e.asked.Add(1)) - 1
		e.answers[min(n, len(e.answers)-1)](w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) embedder() *remote {
	e.t.Helper()
	got, err := New(Config{URL: e.URL + "/v1", Model: "m", APIKey: seal.NewSecret(testKey), Pause: func(ctx context.Context, d time.Duration) error {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.paused = append(e.paused, d)
		return ctx.Err()
	}})
	if err != nil {
		e.t.Fatal(err)
	}
	r, ok := got.(*remote)
	if !ok {
		e.t.Fatalf("%T", got)
	}
	e.t.Cleanup(r.transport.CloseIdleConnections)
	return r
}

// good answers as the API does, with a vector that says how long each text is; the last text comes first.
func good(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Model string
		Input []string
	}
	_ = json.NewDecoder(r.Body).Decode(&req)
	type item struct {
		Object    string    `json:"object"`
		Index     int       `json:"index"`
		Embedding []float64 `json:"embedding"`
	}
	var data []item
	for i := len(req.Input) - 1; i >= 0; i-- {
		data = append(data, item{"embedding", i, []float64{float64(len(req.Input[i])), -0.5, 1e-3}})
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": data, "model": req.Model, "usage": map[string]int{"total_tokens": 3}})
}

func says(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestTheEndpointIsAskedAsOpenAIIs(t *testing.T) {
	t.Parallel()
	var got struct {
		method, path, auth, body string
	}
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got.method, got.path, got.auth, got.body = r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), string(b)
		r.Body = io.NopCloser(strings.NewReader(string(b)))
		good(w, r)
	})
	r := e.embedder()
	v, err := r.Documents(t.Context(), []string{"a", "bbb"})
	if err != nil || len(v) != 2 || v[0][0] != 1 || v[1][0] != 3 {
		t.Errorf("%v, %v: want the vectors in the order of the texts, by their index", v, err)
	}
	if got.method != "POST" || got.path != "/v1/embeddings" || got.auth != "Bearer "+testKey || got.body != `{"model":"m","input":["a","bbb"]}` {
		t.Errorf("asked %+v", got)
	}
	q, err := r.Query(t.Context(), "four")
	if err != nil || len(q) != 3 || q[0] != 4 {
		t.Errorf("query: %v, %v", q, err)
	}
}

func TestURLsOfAllForms(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://e/v1":                        "http://e/v1/embeddings",
		"http://e/v1/":                       "http://e/v1/embeddings",
		"http://e/v1/embeddings":             "http://e/v1/embeddings",
		"https://e/v1/embeddings/":           "https://e/v1/embeddings/",
		"https://e":                          "https://e/embeddings",
		"https://e/d/embeddings?api-version": "https://e/d/embeddings?api-version",
	} {
		got, err := New(Config{URL: in, Model: "m"})
		if err != nil || got.(*remote).url != want || !got.Remote() || got.Model() != "m" {
			t.Errorf("%s: %+v, %v, want %s", in, got, err, want)
		}
	}
	for _, c := range []Config{
		{URL: "e/v1", Model: "m"},
		{URL: "ftp://e", Model: "m"},
		{URL: "http://", Model: "m"},
		{URL: "http://e"},
		{Model: "m"},
		{APIKey: seal.NewSecret("k")},
		{URL: "http://u:" + testKey + "@e", Model: "m"},
		{URL: "http://e", Model: HashModel},
		{URL: "http://e", Model: "a\nb"},
		{URL: "http://e", Model: strings.Repeat("m", 201)},
	} {
		if _, err := New(c); !errors.Is(err, ErrConfig) || strings.Contains(err.Error(), testKey) {
			t.Errorf("%+v: %v, want it refused", c, err)
		}
	}
	if got, err := New(Config{}); err != nil || got != (Hash{}) {
		t.Errorf("nothing is set: %v, %v", got, err)
	}
}

func TestPassingFaultsAreTriedAgain(t *testing.T) {
	t.Parallel()
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, tt := range map[string]struct {
		fault http.HandlerFunc
		pause time.Duration // zero: some
	}{
		"429 that says when":    {says(429, `{}`, "Retry-After", "3"), 3 * time.Second},
		"429 that does not":     {says(429, `{}`), 0},
		"500":                   {says(500, `{}`), 0},
		"503 with a short wait": {says(503, `{}`, "Retry-After", "1"), time.Second},
		"no answer":             {hangUp, 0},
		"half an answer": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"data":[`)
			panic(http.ErrAbortHandler)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, tt.fault, good)
			if _, err := e.embedder().Documents(t.Context(), []string{testText}); err != nil {
				t.Fatalf("%v, want the second try to do", err)
			}
			if e.asked.Load() != 2 || len(e.paused) != 1 || e.paused[0] <= 0 || e.paused[0] > 5*time.Second || tt.pause != 0 && e.paused[0] != tt.pause {
				t.Errorf("asked %d times, paused %v, want %s once", e.asked.Load(), e.paused, tt.pause)
			}
		})
	}
}

func TestFaultsThatStayEndInUnavailable(t *testing.T) {
	t.Parallel()
	vectors := func(list ...string) string {
		for i := range list {
			list[i] = fmt.Sprintf(`{"index":%d,"embedding":%s}`, i, list[i])
		}
		return `{"data":[` + strings.Join(list, ",") + `]}`
	}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		tries  int64
		after  time.Duration
	}{
		"500 for ever":          {says(500, testText), 3, 0},
		"429 for an hour":       {says(429, `{}`, "Retry-After", "3600"), 1, time.Hour},
		"429 for a year":        {says(429, `{}`, "Retry-After", "31536000"), 1, time.Hour},
		"401":                   {says(401, testText), 1, 0},
		"404":                   {says(404, `{}`), 1, 0},
		"a redirect":            {says(307, `{}`, "Location", "/elsewhere"), 1, 0},
		"no JSON":               {says(200, testText), 1, 0},
		"another media type":    {says(200, vectors(`[1]`, `[2]`), "Content-Type", "text/html"), 1, 0},
		"one vector too few":    {says(200, vectors(`[1]`)), 1, 0},
		"one vector too many":   {says(200, vectors(`[1]`, `[1]`, `[1]`)), 1, 0},
		"no vectors":            {says(200, `{"data":null}`), 1, 0},
		"an index twice":        {says(200, `{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}`), 1, 0},
		"an index out of range": {says(200, `{"data":[{"index":0,"embedding":[1]},{"index":2,"embedding":[1]}]}`), 1, 0},
		"no index":              {says(200, `{"data":[{"embedding":[1]},{"embedding":[1]}]}`), 1, 0},
		"two dimensions":        {says(200, vectors(`[1,2]`, `[1]`)), 1, 0},
		"no dimension":          {says(200, vectors(`[]`, `[]`)), 1, 0},
		"too many dimensions":   {says(200, vectors(`[`+strings.Repeat("1,", MaxDims)+`1]`, `[1]`)), 1, 0},
		"NaN":                   {says(200, vectors(`[NaN]`, `[1]`)), 1, 0},
		"a string":              {says(200, vectors(`["NaN"]`, `[1]`)), 1, 0},
		"null in a vector":      {says(200, vectors(`[1,null]`, `[1,2]`)), 1, 0},
		"over a float's range":  {says(200, vectors(`[1e39]`, `[1]`)), 1, 0},
		"over every range":      {says(200, vectors(`[1e999]`, `[1]`)), 1, 0},
		"a vector of zeros":     {says(200, vectors(`[0,0]`, `[1,1]`)), 1, 0},
		"a huge body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			line := []byte(strings.Repeat(" ", 1<<20))
			for range 32 {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, tt.answer)
			_, err := e.embedder().Documents(t.Context(), []string{testText, testText})
			f := fault.From(err)
			if !errors.Is(err, ErrUnavailable) || f.RetryAfter <= 0 || tt.after != 0 && f.RetryAfter != tt.after {
				t.Errorf("%v after %s, want embeddings_unavailable", err, f.RetryAfter)
			}
			if e.asked.Load() != tt.tries {
				t.Errorf("asked %d times, want %d", e.asked.Load(), tt.tries)
			}
			if s := err.Error(); strings.Contains(s, testText) || strings.Contains(s, testKey) {
				t.Errorf("the error repeats what was sent: %s", s)
			}
		})
	}
}

func TestRefusedTextsAreToldApart(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 413, 422} {
		r := newEndpoint(t, says(status, `{"error":"too many tokens"}`)).embedder()
		if _, err := r.Documents(t.Context(), []string{testText}); !errors.Is(err, ErrInput) {
			t.Errorf("%d: %v, want ErrInput", status, err)
		}
		if _, err := r.Query(t.Context(), testText); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%d for a query: %v, want embeddings_unavailable", status, err)
		}
	}
	if _, err := newEndpoint(t, good).embedder().Documents(t.Context(), make([]string, MaxBatch+1)); err == nil {
		t.Error("a batch that is too long was sent")
	}
}

func TestASlowEndpointKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	e := newEndpoint(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	r := e.embedder()
	began := time.Now()
	if _, err := r.Query(t.Context(), testText); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v, want embeddings_unavailable", err)
	}
	if took := time.Since(began); took > 2*queryWithin {
		t.Errorf("gave up after %s", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Query(ctx, testText); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever hung up gets %v", err)
	}
}

func TestAnEndpointThatKeepsFailingIsLeftAlone(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, says(500, `{}`))
	r := e.embedder()
	for range 20 {
		if _, err := r.Documents(t.Context(), []string{testText}); !errors.Is(err, ErrUnavailable) {
			t.Fatal(err)
		}
	}
	if n := e.asked.Load(); n != tripAfter {
		t.Errorf("asked %d times, want %d and then none", n, tripAfter)
	}
	// Queries have a circuit of their own.
	if _, err := r.Query(t.Context(), testText); !errors.Is(err, ErrUnavailable) || e.asked.Load() == tripAfter {
		t.Errorf("a query was not tried: %v", err)
	}
}

func TestFewCallsAreUnderWayAtOnce(t *testing.T) {
	t.Parallel()
	var now, most atomic.Int64
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	e := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		arrived <- struct{}{}
		<-release
		good(w, r)
	})
	r := e.embedder()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := r.Documents(t.Context(), []string{testText}); err != nil {
				t.Error(err)
			}
		})
	}
	for range batchesAtOnce {
		<-arrived
	}
	close(release)
	wg.Wait()
	if most.Load() != batchesAtOnce {
		t.Errorf("%d calls at once, want %d", most.Load(), batchesAtOnce)
	}
}

func FuzzReadVectors(f *testing.F) {
	f.Add([]byte(`{"data":[{"index":1,"embedding":[1,2]},{"index":0,"embedding":[3,4.5e-3]}]}`))
	f.Add([]byte(`{"data":[{"index":0,"embedding":[1e39]},{}]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		v, err := readVectors(answer, 2)
		if err != nil {
			return
		}
		if len(v) != 2 || len(v[0]) == 0 || len(v[0]) != len(v[1]) {
			t.Fatalf("took %q as %v", answer, v)
		}
	})
}
