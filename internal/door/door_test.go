package door

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const patience = 30 * time.Second

// stormy is a client of HTTP/2 that resets what it asks.
type stormy struct {
	t      *testing.T
	f      *http2.Framer
	next   uint32
	begun  chan struct{} // a request has reached the handler
	left   chan struct{} // and the handler has seen its client go
	answer atomic.Bool   // requests are answered, and do not wait for their client to go
}

// newStormy connects to a server whose requests wait until their client resets them.
func newStormy(t *testing.T, b Bounds) *stormy {
	t.Helper()
	s := &stormy{t: t, next: 1, begun: make(chan struct{}), left: make(chan struct{})}
	cert := httptest.NewTLSServer(nil)
	cert.Close() // it has made the certificate of this test
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.Handshake = patience
	l := Listen(inner, Config{
		Bounds: b, TLS: &tls.Config{Certificates: cert.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13},
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if s.answer.Load() {
			return
		}
		s.begun <- struct{}{}
		<-r.Context().Done()
		s.left <- struct{}{}
	})}
	l.Guard(server)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })

	conn, err := tls.Dial("tcp", inner.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) //nolint:gosec // a test of what comes after
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	s.f = http2.NewFramer(conn, conn)
	if err := s.f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask begins a request and gives its stream; false when the connection has ended.
func (s *stormy) ask() (uint32, bool) {
	s.t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	stream := s.next
	s.next += 2
	err := s.f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	return stream, err == nil
}

// reset asks, and resets when the request is under way.
func (s *stormy) reset() {
	s.t.Helper()
	stream, _ := s.ask()
	select {
	case <-s.begun:
	case <-time.After(patience):
		s.t.Fatal("the request did not arrive")
	}
	_ = s.f.WriteRSTStream(stream, http2.ErrCodeCancel)
	<-s.left
}

// ended reads until the connection ends, and reports whether the server ended it; with a stream, until that is answered.
func (s *stormy) ended(stream uint32) bool {
	s.t.Helper()
	for {
		frame, err := s.f.ReadFrame()
		if err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				s.t.Fatal("neither an answer nor an end")
			}
			return true
		}
		if _, ok := frame.(*http2.HeadersFrame); ok && frame.Header().StreamID == stream {
			return false
		}
	}
}

func TestAConnectionWhoseRequestsAreResetHasToGo(t *testing.T) {
	t.Parallel()
	s := newStormy(t, Bounds{Abandoned: 10})
	for range 11 {
		s.reset()
	}
	if !s.ended(0) {
		t.Error("the connection is open")
	}
}

func TestWhoResetsNowAndThenMayStay(t *testing.T) {
	t.Parallel()
	s := newStormy(t, Bounds{Abandoned: 10})
	s.answer.Store(true)
	for range 40 {
		stream, _ := s.ask()
		if s.ended(stream) {
			t.Fatal("closed before anything was reset")
		}
	}
	s.answer.Store(false)
	for range 20 {
		s.reset()
	}
	s.answer.Store(true)
	stream, _ := s.ask()
	if s.ended(stream) {
		t.Error("20 of 60 requests were reset, and the connection was closed")
	}
}

func TestAddressesAreCountedByTheNetworkTheyHave(t *testing.T) {
	t.Parallel()
	for a, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := network(netip.MustParseAddr(a)); got.String() != want {
			t.Errorf("%s counts as %s, want %s", a, got, want)
		}
	}
	if network(netip.Addr{}).IsValid() {
		t.Error("what has no address is counted")
	}
	if got := addrOf(&net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.7")}); network(got).String() != "192.0.2.7/32" {
		t.Errorf("an IPv4 address in IPv6 counts as %s", network(got))
	}
}

func TestFailuresAreForgottenAfterTheirMinuteAndTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	f := newFailures(30, func() time.Time { return now })
	bad := netip.MustParsePrefix("192.0.2.7/32")
	for range 30 {
		if f.over(bad) {
			t.Fatal("over before 30")
		}
		f.add(bad)
	}
	if !f.over(bad) {
		t.Error("30 failures and more room")
	}
	f.proven(bad)
	if f.over(bad) {
		t.Error("a peer came from there, and the room is no larger")
	}
	now = now.Add(time.Minute)
	for range 299 {
		f.add(bad)
	}
	if f.over(bad) {
		t.Error("over before 300")
	}
	f.add(bad)
	if !f.over(bad) {
		t.Error("300 failures in a minute and more room")
	}
	now = now.Add(-2 * time.Hour)
	if f.over(bad) {
		t.Error("a clock that was set back locks out")
	}
	now = now.Add(2 * time.Hour)
	var b [16]byte
	for n := range 2 * maxNetworks {
		b[0], b[5], b[6], b[7] = 0x20, byte(n>>16), byte(n>>8), byte(n)
		f.add(netip.PrefixFrom(netip.AddrFrom16(b), 64))
	}
	if len(f.by) > maxNetworks {
		t.Errorf("%d networks are kept, want at most %d", len(f.by), maxNetworks)
	}
}

func TestBoundsFitTheFilesThereAre(t *testing.T) {
	t.Parallel()
	b := Bounds{Pending: 2000, Held: 8000}
	if got := b.Fit(20_000); got != b {
		t.Errorf("%+v", got)
	}
	if got := b.Fit(1000); got.Pending != 200 || got.Held != 800 {
		t.Errorf("%d and %d in 1000 files", got.Pending, got.Held)
	}
}
