package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/cli"
	"github.com/mosaicstack/gateway/internal/unixsock"
)

// now is the moment all tests happen at.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// received is what a gateway was asked.
type received struct {
	method, uri string
	header      http.Header
	body        string
}

// gateway is a real HTTP server that speaks the documented JSON. It answers each route with one document, and
// 404 with problem details to everything else.
type gateway struct {
	dir string // with its admin socket
	url string // of the same server on loopback

	mu   sync.Mutex
	seen []received
}

// reply answers one request.
type reply func(w http.ResponseWriter, r *http.Request)

// doc answers with a JSON document.
func doc(status int, body string) reply {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// problem answers with problem details.
func problem(status int, body string) reply {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// serve starts a gateway with routes in the syntax of http.ServeMux.
func serve(t *testing.T, routes map[string]reply) *gateway {
	t.Helper()
	g := &gateway{dir: t.TempDir()}
	mux := http.NewServeMux()
	mux.HandleFunc("/", problem(404, `{"code":"route_not_found","detail":"there is nothing at this address"}`))
	for pattern, answer := range routes {
		mux.HandleFunc(pattern, answer)
	}
	note := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := received{method: r.Method, uri: r.RequestURI, header: r.Header.Clone()}
		if r.Header.Get("Content-Type") != "application/x-ndjson" { // what is streamed is the route's to read
			body, _ := io.ReadAll(r.Body)
			seen.body = string(body)
		}
		g.mu.Lock()
		g.seen = append(g.seen, seen)
		g.mu.Unlock()
		mux.ServeHTTP(w, r)
	})
	l, err := unixsock.Listen(g.dir, "admin.sock", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{l, nil} {
		s := httptest.NewUnstartedServer(note)
		if l != nil {
			s.Listener.Close()
			s.Listener = l
		}
		s.Start()
		t.Cleanup(s.Close)
		if l == nil {
			g.url = s.URL
		}
	}
	return g
}

// asked returns the requests so far.
func (g *gateway) asked() []received {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]received{}, g.seen...)
}

// only returns the one request there was.
func (g *gateway) only(t *testing.T) received {
	t.Helper()
	seen := g.asked()
	if len(seen) != 1 {
		t.Fatalf("the gateway was asked %d times: %v", len(seen), seen)
	}
	return seen[0]
}

// call is one run of the command line.
type call struct {
	args    []string
	env     map[string]string
	stdin   io.Reader
	stdout  io.Writer // instead of the result's
	gateway cli.Gateway
	ctx     context.Context
}

// result is what a run left behind.
type result struct {
	code           int
	stdout, stderr string
}

func (c call) run(t *testing.T) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	env := cli.Env{
		Args: c.args, Getenv: func(name string) string { return c.env[name] }, Stdin: c.stdin, Stdout: &stdout, Stderr: &stderr,
		Now: func() time.Time { return now }, Version: "v1.2.3", Gateway: c.gateway,
	}
	if env.Stdin == nil {
		env.Stdin = strings.NewReader("")
	}
	if c.stdout != nil {
		env.Stdout = c.stdout
	}
	if c.ctx == nil {
		c.ctx = t.Context()
	}
	code := cli.Main(c.ctx, env)
	return result{code, stdout.String(), stderr.String()}
}

// mosaic runs a command line, split at spaces, against the admin socket of g.
func (g *gateway) mosaic(t *testing.T, line string, more ...string) result {
	t.Helper()
	return call{args: append(strings.Fields(line), append(more, "--dir", g.dir)...)}.run(t)
}

// want checks a whole run.
func (r result) want(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if r.stdout != stdout {
		t.Errorf("stdout:\n%s\nwant:\n%s", r.stdout, stdout)
	}
	if r.stderr != stderr {
		t.Errorf("stderr:\n%s\nwant:\n%s", r.stderr, stderr)
	}
}

// refused checks that a run failed with a code, and printed nothing for a script to take for an answer.
func (r result) refused(t *testing.T, exit int, code string) {
	t.Helper()
	first, _, _ := strings.Cut(r.stderr, "\n")
	if r.code != exit || !strings.HasPrefix(first, "mosaic: ") || !strings.HasSuffix(first, " ("+code+")") {
		t.Errorf("exit code %d, stderr %q; want %d and the code %s", r.code, r.stderr, exit, code)
	}
	if r.stdout != "" {
		t.Errorf("stdout has %q, want nothing", r.stdout)
	}
}

// one decodes stdout, which must be exactly one JSON document.
func (r result) one(t *testing.T) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(r.stdout))
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("stdout %q is no JSON document: %v", r.stdout, err)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Errorf("stdout %q is more than one JSON document", r.stdout)
	}
	return v
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
