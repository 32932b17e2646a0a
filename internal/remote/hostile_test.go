package remote_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
)

func header(w http.ResponseWriter, name, value string) {
	w.Header()[name] = append(w.Header()[name], value)
}

func TestHostileAnswersAreRefused(t *testing.T) {
	t.Parallel()
	chunk := bytes.Repeat([]byte(" "), 64<<10)
	for name, handler := range map[string]http.HandlerFunc{
		"an endless body": func(w http.ResponseWriter, r *http.Request) {
			header(w, "Content-Type", "application/json")
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"a length over the limit": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Type", "application/json")
			header(w, "Content-Length", "1000000000000")
			_, _ = w.Write(chunk)
		},
		"HTML": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Type", "text/html")
			_, _ = w.Write([]byte("{}"))
		},
		"no content type": func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = nil
			_, _ = w.Write([]byte("{}"))
		},
		"JSON lines": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Type", "application/jsonl")
			_, _ = w.Write([]byte("{}"))
		},
		"a damaged content type": func(w http.ResponseWriter, _ *http.Request) { header(w, "Content-Type", "application/json; =") },
		"two content types": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Type", "application/json")
			header(w, "Content-Type", "text/html")
		},
		"JSON in UTF-16": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Type", "application/json; charset=utf-16")
		},
		"gzip": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "Content-Type", "application/json")
			header(w, "Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write([]byte("{}"))
			_ = z.Close()
		},
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			header(w, "Content-Type", "application/json")
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"a confirmation that nobody asked for": func(w http.ResponseWriter, _ *http.Request) {
			header(w, "ETag", `"t"`)
			w.WriteHeader(http.StatusNotModified)
		},
		"many headers": func(w http.ResponseWriter, _ *http.Request) {
			for i := range 4096 {
				header(w, "X-Junk", strings.Repeat("b", 32)+string(rune('a'+i%26)))
			}
			answerJSON(w, "{}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := peertest.NewCA(t)
			var asked atomic.Int32
			s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				handler(w, r)
			}))
			_, err := get(t, client(t), target(t, ca, s))
			if !errors.Is(err, querying.ErrAnswerInvalid) {
				t.Errorf("%v", err)
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// One header that is longer than all may be ends an HTTP/2 connection before it counts as an answer, and the
// connection is not used again.
func TestAHugeHeaderEndsTheConnection(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/huge" {
			header(w, "X-Junk", strings.Repeat("a", 256<<10))
		}
		answerJSON(w, `{}`)
	}))
	to, c := target(t, ca, s), client(t)
	if _, err := c.Do(t.Context(), to, querying.Call{Method: http.MethodGet, Path: "/huge"}); !errors.Is(err, querying.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if _, err := get(t, c, to); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

// raw answers each TLS connection with fixed bytes over HTTP/1.1, and then more bytes without end.
func raw(t *testing.T, ca *peertest.CA, start, endless string) string {
	t.Helper()
	l, err := tls.Listen("tcp", peertest.Host+":0", ca.TLS(t))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answerRaw(c, start, endless)
		}
	}()
	return "https://" + l.Addr().String()
}

func answerRaw(c net.Conn, start, endless string) {
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, 4096)); err != nil {
		return
	}
	if _, err := io.WriteString(c, start); err != nil {
		return
	}
	for more := []byte(strings.Repeat(endless, 1024)); endless != ""; {
		if _, err := c.Write(more); err != nil {
			return
		}
	}
}

func TestHostileHTTP1IsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		start, endless string
		want           error
	}{
		"headers without end":     {"HTTP/1.1 200 OK\r\n", "X-Junk: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", querying.ErrAnswerInvalid},
		"one header without end":  {"HTTP/1.1 200 OK\r\nX-Junk: ", "aaaaaaaaaaaaaaaa", querying.ErrAnswerInvalid},
		"interim answers forever": {"", "HTTP/1.1 103 Early Hints\r\n\r\n", querying.ErrAnswerInvalid},
		"no HTTP":                 {"SSH-2.0-OpenSSH_9.2\r\n", "", querying.ErrAnswerInvalid},
		"a body that breaks off":  {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", "", querying.ErrUnreachable},
		"chunks without end":      {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", "8\r\naaaaaaaa\r\n", querying.ErrAnswerInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := peertest.NewCA(t)
			s := ca.Listen(t, http.NotFoundHandler())
			to := target(t, ca, s)
			to.URL = raw(t, ca, test.start, test.endless)
			if _, err := get(t, client(t), to); !errors.Is(err, test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAPeerThatIsAwayIsUnreachable(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, `{}`) }))
	to, c := target(t, ca, s), client(t)
	if _, err := get(t, c, to); err != nil {
		t.Fatal(err)
	}
	s.CloseClientConnections()
	s.Close()
	if _, err := get(t, c, to); !errors.Is(err, querying.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func TestASlowPeerTimesOutAndAGoneCallerIsNot(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	asked := make(chan struct{}, 2)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" { // an answer that begins and does not end
			header(w, "Content-Type", "application/json")
			_, _ = w.Write([]byte("{"))
			_ = http.NewResponseController(w).Flush()
		}
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	to, c := target(t, ca, s), client(t)
	for _, path := range []string{"/silent", "/begun"} {
		// The deadline is far shorter than the peer's silence, which has no end.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := c.Do(ctx, to, querying.Call{Method: http.MethodGet, Path: path})
		cancel()
		if !errors.Is(err, querying.ErrTimeout) {
			t.Errorf("%s: %v", path, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := c.Do(ctx, to, querying.Call{Method: http.MethodGet, Path: "/silent"})
		failed <- err
	}()
	for range 3 { // the last of the three is the request that is given up
		<-asked
	}
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestRefusalsAreAnswers(t *testing.T) {
	t.Parallel()
	ca := peertest.NewCA(t)
	retry := make(chan string, 1)
	s := ca.Listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		header(w, "Content-Type", "application/problem+json; charset=UTF-8")
		header(w, "Retry-After", <-retry)
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"code":"rate_limited"}`))
	}))
	to, c := target(t, ca, s), client(t)
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, "86400": time.Hour, "-1": 0, "soon": 0, "Wed, 21 Oct 2026 07:28:00 GMT": 0, "99999999999999999999": 0,
	} {
		retry <- value
		a, err := get(t, c, to)
		if err != nil {
			t.Fatal(err)
		}
		if a.Status != 429 || !a.Problem || a.RetryAfter != want || string(a.Body) != `{"code":"rate_limited"}` {
			t.Errorf("%q: %+v", value, a)
		}
	}
}
