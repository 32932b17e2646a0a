package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/querying/peertest"
)

// liar is a peer that answers with whatever it is told to, over HTTP/2 or as bytes on a TLS connection.
type liar struct {
	enrollmentURL string
	lie           atomic.Pointer[lie]
	told          atomic.Int64 // how often an answer or its bytes were sent

	mu   sync.Mutex
	open map[net.Conn]bool
}

// tells has every question answered with a lie from now on. Connections from before are gone.
func (l *liar) tells(lie lie) {
	l.lie.Store(&lie)
	l.told.Store(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.open {
		_ = conn.Close()
	}
	clear(l.open)
}

func (l *liar) keep(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[conn] = true
}

// newLiar starts one, and a public endpoint that enrolls anybody.
func newLiar(t *testing.T) *liar {
	t.Helper()
	l := &liar{open: map[net.Conn]bool{}}
	ca := peertest.NewCA(t)
	config := ca.TLS(t)
	inner := peertest.Serve(t, config, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if told := l.lie.Load(); told.answer != nil {
			l.told.Add(1)
			told.answer(w, r)
		}
	}))
	federation := l.front(t, ca.TLS(t), inner.Listener.Addr().String())
	enrolls := peertest.Serve(t, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ CSR string }
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		block, _ := pem.Decode([]byte(asked.CSR))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Error(err)
		}
		id := peertest.Leaf{Grant: uuid.New(), User: uuid.New()}
		leaf := ca.Client(t, csr.PublicKey, id)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"grant_id": id.Grant, "subject_user_id": id.User, "certificate": peertest.PEM(leaf), "certificate_chain": ca.Chain(leaf), "ca_root": ca.RootPEM(),
			"federation_url": "https://" + federation, "scope": json.RawMessage(tasksOnly),
		})
	}))
	l.enrollmentURL = enrolls.URL + "/api/federation/enrollment/the-token?ca=" + ca.Fingerprint()
	return l
}

// front passes connections on to the honest server, unless the next one is to be answered with bytes.
func (l *liar) front(t *testing.T, config *tls.Config, server string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				l.keep(conn)
				if told := l.lie.Load(); told.answer == nil {
					l.speak(tls.Server(conn, config), told.bytes)
					return
				}
				to, err := net.Dial("tcp", server)
				if err != nil {
					return
				}
				defer func() { _ = to.Close() }()
				go func() { _, _ = io.Copy(to, conn) }()
				_, _ = io.Copy(conn, to)
			}()
		}
	}()
	return listener.Addr().String()
}

func (l *liar) speak(conn *tls.Conn, said string) {
	if _, err := conn.Read(make([]byte, 16<<10)); err != nil {
		return
	}
	l.told.Add(1)
	_, _ = io.WriteString(conn, said)
	_ = conn.CloseWrite()
	_, _ = io.Copy(io.Discard, conn)
}

// lie is one way of answering wrongly, with a row in it.
type lie struct {
	name   string
	answer func(http.ResponseWriter, *http.Request) // over HTTP/2
	bytes  string                                   // otherwise: sent as they stand, and the connection is closed
	away   bool                                     // it counts as no answer, and some of those open the circuit
}

// honest is the first of the lies, which is none.
const honest = "a page"

// lies are the ways in which an answer that cannot be used may carry a text.
func lies(text string) []lie {
	row := func(fields string) string {
		return fmt.Sprintf(`{"id":%q,"owner_id":%q,"team_id":null,"title":%q,"body":"","status":"open",%s}`, uuid.NewString(), uuid.NewString(), text, fields)
	}
	const at = `"created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"`
	page := func(rows string) string {
		return `{"data":[` + rows + `],"page":{"limit":50,"capped":false,"next_cursor":null}}`
	}
	body := func(status int, media, text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	good := func(text string) func(http.ResponseWriter, *http.Request) { return body(200, "application/json", text) }
	problem := func(status int, code string) func(http.ResponseWriter, *http.Request) {
		return body(status, "application/problem+json", fmt.Sprintf(`{"type":%q,"title":%q,"status":%d,"detail":%q,"code":%q,"hint":%q,"request_id":%q}`, text, text, status, text, code, text, text))
	}
	raw := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	return []lie{
		{name: honest, answer: good(page(row(at)))},
		{name: "half of a page", answer: good(page(row(at))[:200])},
		{name: "no JSON", answer: good(text)},
		{name: "a string", answer: good(`"` + text + `"`)},
		{name: "another type", answer: good(`{"data":"` + text + `","page":{}}`)},
		{name: "a key", answer: good(`{"` + text + `":1,"data":[],"page":{"` + text + `":1}}`)},
		{name: "a key twice", answer: good(page(`{"` + text + `":1,"` + text + `":2}`))},
		{name: "a time", answer: good(page(row(`"updated_at":"` + text + `"`)))},
		{name: "an id", answer: good(page(`{"id":"` + text + `",` + at + `}`))},
		{name: "a cursor", answer: good(`{"data":[` + row(at) + `],"page":{"limit":50,"capped":false,"next_cursor":"` + text + `\n"}}`)},
		{name: "HTML", answer: body(200, "text/html", text)},
		{name: "a content type", answer: body(200, "application/"+text+"; "+text, text)},
		{name: "a refusal", answer: problem(403, "grant_revoked")},
		{name: "a refusal with a code", answer: problem(403, text)},
		{name: "a mistake with a code", answer: problem(422, text)},
		{name: "a limit", answer: problem(404, text)},
		{name: "a failure", away: true, answer: problem(500, text)},
		{name: "a redirect", answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/"+text, http.StatusFound) }},
		{name: "an encoding", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", text)
			good(text)(w, r)
		}},
		{name: "a trailer", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Row")
			good("{")(w, r)
			w.Header().Set("X-Row", text)
		}},
		{name: "a cut connection", away: true, answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			good(text)(w, r)
			panic(http.ErrAbortHandler)
		}},
		{name: "no HTTP", away: true, bytes: text + "\r\n\r\n"},
		{name: "no status", away: true, bytes: raw("HTTP/1.1 " + text + " OK\n\n")},
		{name: "no header", away: true, bytes: raw("HTTP/1.1 200 OK\n" + text + "\n\n")},
		{name: "no length", away: true, bytes: raw("HTTP/1.1 200 OK\nContent-Length: " + text + "\n\n")},
		{name: "no chunk", away: true, bytes: raw("HTTP/1.1 200 OK\nContent-Type: application/json\nTransfer-Encoding: chunked\n\n" + text + "\n")},
		{name: "more than was asked for", away: true, bytes: raw("HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 2\n\n{}" + text + "\nHTTP/1.1 " + text + "\n\n")},
	}
}
