package fedapi_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/fedapi"
)

// patience is how long anything here may take on a busy machine. What is late is hanging.
const patience = 30 * time.Second

// torture runs the storms in full. make test runs them smaller.
func torture(long, short int) int {
	if os.Getenv("MOSAIC_TORTURE") != "" {
		return long
	}
	return short
}

// dial opens a TLS connection from a loopback address of the test's choosing.
func (g *gateway) dial(from string, cert *tls.Certificate, protocol string) (*tls.Conn, error) {
	raw, err := g.dialRaw(from)
	if err != nil {
		return nil, err
	}
	conf := g.presenting(cert)
	conf.NextProtos = []string{protocol}
	c := tls.Client(raw, conf)
	_ = c.SetDeadline(time.Now().Add(patience))
	if err := c.HandshakeContext(g.t.Context()); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

func (g *gateway) dialRaw(from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	return d.DialContext(g.t.Context(), "tcp", g.addr)
}

// mustDial is dial for a connection that has to be let in.
func (g *gateway) mustDial(from string, cert *tls.Certificate, protocol string) *tls.Conn {
	g.t.Helper()
	c, err := g.dial(from, cert, protocol)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.NetConn().Close() })
	return c
}

// bystander is somebody else, who asks all the time while an attack goes on: over a connection of before, and over
// new ones. Every one of these requests must be answered, and in time.
type bystander struct {
	g    *gateway
	cert *tls.Certificate
	kept *http.Client
}

func (g *gateway) bystander() *bystander {
	g.t.Helper()
	many := 1_000_000
	cert, _ := g.enrolAt("bystander@example.org", &many)
	b := &bystander{g: g, cert: cert, kept: g.client(g.presenting(cert), http1)}
	if err := b.ask(b.kept); err != nil {
		g.t.Fatal(err)
	}
	return b
}

func (b *bystander) ask(c *http.Client) error {
	started := time.Now()
	a, err := b.g.ask(c, http.MethodGet, capabilities, nil)
	if took := time.Since(started); err == nil && took > patience/2 {
		return fmt.Errorf("answered after %s", took)
	}
	if err == nil && a.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %s", a.StatusCode, a.body)
	}
	return err
}

// watch asks until the attack has returned.
func (b *bystander) watch(attack func()) {
	b.g.t.Helper()
	b.during(attack, b.kept, b.g.client(b.g.presenting(b.cert), http1))
}

func (b *bystander) during(attack func(), clients ...*http.Client) {
	b.g.t.Helper()
	over := make(chan struct{})
	var asking sync.WaitGroup
	for _, c := range clients {
		asking.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond) // it is no load of its own
			defer pace.Stop()
			for n := 0; ; n++ {
				if err := b.ask(c); err != nil {
					b.g.t.Errorf("bystander, kept connection %t, request %d: %v", c == b.kept, n, err)
					return
				}
				if c != b.kept {
					c.CloseIdleConnections()
				}
				select {
				case <-over:
					return
				case <-pace.C:
				}
			}
		})
	}
	defer asking.Wait()
	defer close(over)
	attack()
}

// footprint is what the process holds.
type footprint struct {
	heap       uint64
	goroutines int
}

func measure() footprint {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{m.HeapAlloc + m.StackInuse, runtime.NumGoroutine()}
}

// wantWithin fails when the process has grown by more than this since before.
func (f footprint) wantWithin(t *testing.T, what string, mib uint64, goroutines int) {
	t.Helper()
	now := measure()
	grown := int64(now.heap) - int64(f.heap) //nolint:gosec // sizes of a heap
	t.Logf("%s: %.1f MiB and %d goroutines more", what, float64(grown)/(1<<20), now.goroutines-f.goroutines)
	if grown > int64(mib<<20) { //nolint:gosec // as above
		t.Errorf("%s: %d MiB more, want at most %d", what, grown>>20, mib)
	}
	if more := now.goroutines - f.goroutines; more > goroutines {
		t.Errorf("%s: %d goroutines more, want at most %d", what, more, goroutines)
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not so after %s: %s", patience, what)
		}
	}
}

// raw sends bytes over a connection of its own, and gives the answers until the server closes or n were read.
func (g *gateway) raw(cert *tls.Certificate, request string, n int) (answers []*http.Response, bodies [][]byte, closed bool) {
	g.t.Helper()
	c := g.mustDial("127.0.0.1", cert, "http/1.1")
	sent := make(chan struct{})
	go func() { // the server may answer and close before it has read all
		defer close(sent)
		_, _ = io.WriteString(c, request)
	}()
	defer func() { _ = c.NetConn().Close(); <-sent }()
	r := bufio.NewReader(c)
	for len(answers) < n {
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			return answers, bodies, true
		}
		b, err := io.ReadAll(a.Body)
		if err != nil {
			return answers, bodies, true
		}
		answers, bodies = append(answers, a), append(bodies, b)
		if a.Close {
			_, err := r.ReadByte()
			return answers, bodies, err != nil
		}
	}
	return answers, bodies, false
}

func TestOddRequestsGetAClearAnswer(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	const host = "\r\nHost: x\r\nConnection: close\r\n"
	long := strings.Repeat("a", 64<<10)
	keep := "GET " + capabilities + " HTTP/1.1\r\nHost: x\r\n" // and ask on the same connection
	smuggled := "GET " + fedapi.Base + "/resources/tasks HTTP/1.1" + host + "\r\n"
	get := func(path string) string { return "GET " + path + " HTTP/1.1" + host }
	tests := []struct {
		name, request string
		status        int
		code          string // "": not ours to say, or an answer
	}{
		{"a long header", get(capabilities) + "X-Long: " + long + "\r\n\r\n", 431, ""},
		{"a long request line", get("/"+long) + "\r\n", 431, ""},
		{"ten thousand headers", get(capabilities) + strings.Repeat("A: b\r\n", 10_000) + "\r\n", 431, ""},
		{"a target in absolute form", get("https://evil.example"+capabilities) + "\r\n", 200, ""},
		{"a target for a proxy", "CONNECT evil.example:443 HTTP/1.1" + host + "\r\n", 404, "not_found"},
		{"TRACE", "TRACE " + capabilities + " HTTP/1.1" + host + "\r\n", 405, "method_not_allowed"},
		{"a method that is none", "FOO " + capabilities + " HTTP/1.1" + host + "\r\n", 405, "method_not_allowed"},
		{"a method of odd bytes", "G\x00T " + capabilities + " HTTP/1.1" + host + "\r\n", 400, ""},
		{"OPTIONS for the server", "OPTIONS * HTTP/1.1" + host + "\r\n", 404, "not_found"},
		{"HTTP/2 in clear inside", "PRI * HTTP/2.0\r\nConnection: close\r\n\r\nSM\r\n\r\n", 400, ""},
		{"an upgrade to HTTP/2 in clear", get(capabilities) + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 200, ""},
		{"an upgrade to a web socket", get(capabilities) + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 200, ""},
		{"two lengths", get(capabilities) + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, ""},
		{"a length and chunks", keep + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 200, ""},
		{"chunks under another name", get(capabilities) + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, ""},
		{"chunks twice", get(capabilities) + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, ""},
		{"a space before the colon", get(capabilities) + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, ""},
		{"a negative length", get(capabilities) + "Content-Length: -1\r\n\r\n", 400, ""},
		{"a length over every bound", get(capabilities) + "Content-Length: 99999999999999999999\r\n\r\n", 400, ""},
		{"a chunk extension without end", keep + "Transfer-Encoding: chunked\r\n\r\n1;" + long + long + long, 200, ""},
		{"trailers without end", keep + "Transfer-Encoding: chunked\r\nTrailer: A\r\n\r\n0\r\n" + strings.Repeat("A: b\r\n", 100_000), 200, ""},
		{"a body that does not come", get(capabilities) + "Content-Length: 10\r\n\r\n", 200, ""},
		{"a body that waits to be asked for", get(capabilities) + "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n", 200, ""},
		{"an expectation that is none", get(capabilities) + "Expect: a miracle\r\n\r\n", 417, ""},
		{"no host", "GET " + capabilities + " HTTP/1.1\r\n\r\n", 400, ""},
		{"two hosts", get(capabilities) + "Host: y\r\n\r\n", 400, ""},
		{"HTTP/0.9", "GET " + capabilities + "\r\n\r\n", 400, ""},
		{"HTTP/3.0", "GET " + capabilities + " HTTP/3.0" + host + "\r\n", 505, ""},
		{"a zero byte in a header", get(capabilities) + "X: a\x00b\r\n\r\n", 400, ""},
		{"a request id of odd bytes", get(capabilities) + "X-Request-Id: \xff\xfe\r\n\r\n", 200, ""},
		{"a compressed body", get(capabilities) + "Content-Encoding: gzip\r\n\r\n", 415, "content_encoding_unsupported"},
		{"bytes that are no UTF-8 in the path", get(fedapi.Base+"/resources/\xff\xfe") + "\r\n", 404, "not_found"},
		{"the same, escaped", get(fedapi.Base+"/resources/%ff%fe%00/%ff") + "\r\n", 404, "not_found"},
		{"an id that is no UTF-8", get(fedapi.Base+"/resources/tasks/%ff%00") + "\r\n", 404, "not_found"},
		{"an escape that is none", get(fedapi.Base+"/resources/%zz") + "\r\n", 400, ""},
		{"dots in the path", get(fedapi.Base+"/resources/../../../etc/passwd") + "\r\n", 404, "not_found"},
		{"bytes that are no UTF-8 in the query", get(fedapi.Base+"/resources/tasks?limit=\xff") + "\r\n", 422, "limit_invalid"},
		{"a name that is no UTF-8 in the query", get(fedapi.Base+"/resources/tasks?%ff=1") + "\r\n", 422, "query_invalid"},
		{"a limit over every integer", get(fedapi.Base+"/resources/tasks?limit=99999999999999999999") + "\r\n", 422, "limit_invalid"},
		{"a negative limit", get(fedapi.Base+"/resources/tasks?limit=-1") + "\r\n", 422, "limit_invalid"},
		{"a limit in other digits", get(fedapi.Base+"/resources/tasks?limit=%EF%BC%91") + "\r\n", 422, "limit_invalid"},
		{"a limit with an exponent", get(fedapi.Base+"/resources/tasks?limit=1e3") + "\r\n", 422, "limit_invalid"},
		{"a cursor of odd bytes", get(fedapi.Base+"/resources/tasks?cursor=%ff%00") + "\r\n", 422, "cursor_invalid"},
		{"a cursor as long as fits", get(fedapi.Base+"/resources/tasks?cursor="+long[:12<<10]) + "\r\n", 422, "cursor_invalid"},
		{"a date of another age", get(fedapi.Base+"/resources/tasks?updated_since=%2B292277026596-01-01T00:00:00Z") + "\r\n", 422, "updated_since_invalid"},
		{"a thousand parameters", get(fedapi.Base+"/resources/tasks?"+strings.Repeat("limit=1&", 1000)) + "\r\n", 422, "query_invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			answers, bodies, closed := g.raw(cert, tt.request, 2)
			if len(answers) != 1 {
				if len(answers) == 0 {
					t.Fatalf("no answer, connection closed: %t; want %d", closed, tt.status)
				}
				t.Fatalf("%d answers to one request; the second is %d %s", len(answers), answers[1].StatusCode, bodies[1])
			}
			a := answer{Response: answers[0], body: bodies[0]}
			if a.StatusCode != tt.status || a.Proto != "HTTP/1.1" && a.Proto != "HTTP/1.0" {
				t.Fatalf("%s %d %s, want %d", a.Proto, a.StatusCode, a.body, tt.status)
			}
			if tt.code != "" {
				a.wantProblem(t, tt.status, tt.code)
			}
			if tt.status == http.StatusOK && a.grantID(t) != made.ID.String() {
				t.Errorf("answered for %s", a.body)
			}
		})
	}
}

func TestWhoeverIsSlowIsClosedAndOthersAreServed(t *testing.T) {
	t.Parallel()
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" // a ClientHello's first bytes
	type slow struct {
		name string
		open func(*gateway, *tls.Certificate) io.ReadWriteCloser
	}
	tests := []slow{
		{"says nothing", func(g *gateway, _ *tls.Certificate) io.ReadWriteCloser { return g.plain("") }},
		{"begins a handshake", func(g *gateway, _ *tls.Certificate) io.ReadWriteCloser { return g.plain(hello) }},
		{"begins a header", func(g *gateway, cert *tls.Certificate) io.ReadWriteCloser {
			c := g.mustDial("127.0.0.1", cert, "http/1.1")
			_, _ = io.WriteString(c, "GET "+capabilities+" HTTP/1.1\r\nHost: x\r\nX-")
			return c
		}},
		{"drips a header", func(g *gateway, cert *tls.Certificate) io.ReadWriteCloser {
			c := g.mustDial("127.0.0.1", cert, "http/1.1")
			go func() {
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for b := range strings.SplitSeq("GET "+capabilities+" HTTP/1.1\r\nX: "+strings.Repeat("a", 10_000), "") {
					if _, err := io.WriteString(c, b); err != nil {
						return
					}
					<-tick.C
				}
			}()
			return c
		}},
	}
	if torture(1, 0) == 1 { // Go waits 10 s for it
		tests = append(tests, slow{"has an HTTP/2 connection and no preface", func(g *gateway, cert *tls.Certificate) io.ReadWriteCloser {
			return g.mustDial("127.0.0.1", cert, "h2")
		}})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			cert, _ := g.enrol("ada@example.org")
			other := g.bystander()
			other.watch(func() {
				c := tt.open(g, cert)
				started := time.Now()
				_, err := io.Copy(io.Discard, c) // until the server closes
				if took := time.Since(started); errors.Is(err, os.ErrDeadlineExceeded) || took > patience-time.Second {
					t.Errorf("open after %s: %v", took, err)
				}
			})
		})
	}
}

// plain sends bytes over a TCP connection.
func (g *gateway) plain(first string) net.Conn {
	g.t.Helper()
	c, err := g.dialRaw("127.0.0.1")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, first); err != nil {
		g.t.Fatal(err)
	}
	return c
}

// fill gives a user tasks that make an answer of about 8 MiB.
func (g *gateway) fill(email string) {
	g.t.Helper()
	if _, err := g.pool.Exec(g.t.Context(), `INSERT INTO tasks (owner_id, title, body)
		SELECT u.id, 'large', repeat(md5(n::text), 25000) FROM users u, generate_series(1, 10) n WHERE u.email = $1`, email); err != nil {
		g.t.Fatal(err)
	}
}

const list = fedapi.Base + "/resources/tasks?limit=10"

func TestAnAnswerThatIsNotReadIsGivenUpAfterItsDeadline(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	other := g.bystander()
	g.fill("ada@example.org")
	// A new connection would come before the CA's beginning: only the kept one watches.
	other.during(func() {
		raw, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_ = raw.(*net.TCPConn).SetReadBuffer(4 << 10)
		c := tls.Client(raw, g.presenting(cert))
		if _, err := io.WriteString(c, "GET "+capabilities+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 4<<10)); err != nil {
			t.Fatal(err) // from here on the handshake is behind both
		}
		g.clock.ahead.Store(int64(-9 * time.Second)) // of the 10 s one is left
		if _, err := io.WriteString(c, "GET "+list+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the listener has closed the connection", func() bool { _, held := g.door.Count(); return held == 1 })
	}, other.kept)
}

func TestWhatIsAskedAndNotReadIsBounded(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	other := g.bystander()
	g.fill("ada@example.org")
	c := g.framer(cert)
	other.watch(func() {
		// No window is ever opened: each answer waits in the gateway after its first 64 KiB.
		for i := range 40 {
			c.get(uint32(2*i+1), list)              //nolint:gosec // small
			c.status(uint32(2*i + 1))               //nolint:gosec // small
			if c.statuses[uint32(2*i+1)] == "429" { //nolint:gosec // small
				if i < 3 {
					t.Errorf("refused after %d answers", i)
				}
				return
			}
		}
		t.Error("40 answers of 8 MiB wait unread, and the next is not refused")
	})
}

func TestACertificateHasSoManyRequestsUnderWay(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	other := g.bystander()
	// All that Ada asks waits for a row that is locked.
	tx, err := g.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), `LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	first, second := g.framer(cert), g.framer(cert)
	for i := range uint32(100) {
		first.get(2*i+1, list)
		second.get(2*i+1, list)
	}
	var out bytes.Buffer
	second.wait(func() bool { return second.statuses[199] != "" })
	_ = json.NewEncoder(&out).Encode(second.statuses)
	if !strings.Contains(out.String(), "429") {
		t.Errorf("200 requests of one certificate at once, none is told to slow down: %s", out.String())
	}
	select {
	case e := <-g.noted:
		if e.DeniedReason != "too_many_in_flight" || e.StatusCode != http.StatusTooManyRequests || e.GrantID != made.ID || e.Verb != "list" || e.Resource != "tasks" || e.RemoteAddress != "127.0.0.1" {
			t.Errorf("counted for the audit log as %+v", e)
		}
	case <-time.After(patience):
		t.Error("what is told to slow down is not counted for the audit log")
	}
	_ = tx.Rollback(t.Context())
	if err := other.ask(other.kept); err != nil {
		t.Errorf("another certificate: %v", err)
	}
}
