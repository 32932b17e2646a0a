package fedapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/fedapi"
)

// TestTenThousandSilentConnectionsShutNobodyOut opens them from the peer's own address and from others. It runs
// alone, because it measures the process.
func TestTenThousandSilentConnectionsShutNobodyOut(t *testing.T) { //nolint:paralleltest // measures the process
	var files unix.Rlimit // Go has raised it to the hard limit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	crowd, addresses := 10_000, 40
	g := newGateway(t, func(g *gateway) {
		if files.Cur < 14_000 { // both ends of each connection are in this process
			crowd, g.bounds.Pending = int(files.Cur)/2, int(files.Cur)/8 //nolint:gosec // bounded above
		}
	})
	other := g.bystander()
	before := measure()
	conns := make([]net.Conn, crowd)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	other.watch(func() {
		var opening sync.WaitGroup
		for part := range addresses {
			opening.Go(func() {
				from := fmt.Sprintf("127.0.0.%d", 1+part)
				for i := part; i < crowd; i += addresses {
					var err error
					if conns[i], err = g.dialRaw(from); err != nil {
						t.Errorf("connection %d: %v", i, err)
						return
					}
				}
			})
		}
		opening.Wait()
		if pending, held := g.door.Count(); pending > g.bounds.Pending || held > 10 {
			t.Errorf("%d connections pending and %d held, want at most %d and the bystander's", pending, held, g.bounds.Pending)
		}
		// The sockets of the clients are in this process too: an open one is about 1 KiB of heap.
		before.wantWithin(t, fmt.Sprintf("with %d silent connections", crowd), 80, 2*g.bounds.Pending)
	})
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, "those that left are forgotten", func() bool { pending, _ := g.door.Count(); return pending == 0 })
}

func TestIdleConnectionsOfPeersAreCheap(t *testing.T) { //nolint:paralleltest // measures the process
	g := newGateway(t)
	other := g.bystander()
	many := 1_000_000
	cert, _ := g.enrolAt("ada@example.org", &many)
	each := torture(500, 100)
	crowd := torture(4, 1)
	certs := []*tls.Certificate{cert}
	for len(certs) < crowd {
		more, _ := g.enrolAt(fmt.Sprintf("user%d@example.org", len(certs)), &many)
		certs = append(certs, more)
	}
	before := measure()
	other.watch(func() {
		for i := range each * crowd {
			c := g.client(g.presenting(certs[i%crowd]), []string{http1, http2}[i%2])
			if a := g.get(c, capabilities); a.StatusCode != http.StatusOK {
				t.Fatalf("connection %d: %d %s", i, a.StatusCode, a.body)
			}
		}
		if _, held := g.door.Count(); held < each*crowd {
			t.Errorf("%d connections are held, want %d", held, each*crowd)
		}
	})
	// Both ends are here: 100 KiB for the two.
	before.wantWithin(t, fmt.Sprintf("with %d idle connections", each*crowd), uint64(each*crowd/10), 8*each*crowd) //nolint:gosec // small
}

func TestACertificateHasSoManyConnections(t *testing.T) {
	t.Parallel()
	g := newGateway(t, func(g *gateway) { g.bounds.HeldPerHolder = 10 })
	other := g.bystander()
	cert, _ := g.enrol("ada@example.org")
	first := g.mustDial("127.0.0.1", cert, "http/1.1")
	for range 30 {
		g.mustDial("127.0.0.1", cert, "http/1.1")
	}
	if _, err := first.Read(make([]byte, 1)); !ended(err) {
		t.Errorf("the connection that was idle the longest: %v, want it closed", err)
	}
	eventually(t, "the rest is closed", func() bool { return g.refused.of(door.CrowdedOut) == 21 })
	if _, held := g.door.Count(); held != 11 {
		t.Errorf("%d are held, want 10 and the bystander's", held)
	}
	if err := other.ask(other.kept); err != nil {
		t.Errorf("another certificate's connection: %v", err)
	}
}

// ended reports a connection closed by the other side, and not our patience.
func ended(err error) bool {
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// knock begins a handshake that has to fail, and reports whether the listener said so: it did TLS work.
func (g *gateway) knock(from string) (told bool) {
	g.t.Helper()
	c, err := g.dialRaw(from)
	if err != nil {
		g.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	old := g.presenting(nil)
	old.MaxVersion = tls.VersionTLS12
	err = tls.Client(c, old).HandshakeContext(g.t.Context())
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		g.t.Errorf("a handshake that has to fail: %v", err)
	}
	return strings.Contains(err.Error(), "protocol version")
}

func TestAnAddressWithManyFailedHandshakesIsClosedUnseen(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for i := range 30 {
		if !g.knock("127.0.0.9") {
			t.Fatalf("failure %d: closed without a word, want a TLS alert", i+1)
		}
	}
	eventually(t, "30 failures are counted", func() bool { return g.refused.of(door.Protocol) == 30 })
	for range 10 {
		if g.knock("127.0.0.9") {
			t.Fatal("TLS work was done after 30 failures")
		}
	}
	eventually(t, "whoever records it is told of 10", func() bool { return g.refused.of(door.AddressFailures) == 10 })
	if !g.knock("127.0.0.8") {
		t.Error("another address is closed too")
	}
	cert, _ := g.enrol("ada@example.org")
	if _, err := g.dial("127.0.0.9", cert, "h2"); err == nil {
		t.Error("a good certificate of that address was let in: the limit is not before the handshake")
	}
	g.clock.ahead.Store(int64(time.Minute))
	g.mustDial("127.0.0.9", cert, "h2")
	eventually(t, "the handshake is done on the listener's side too", func() bool { _, held := g.door.Count(); return held == 1 })
	// A peer has come from there: strangers of the address now have to fail ten times as often to lock it out.
	for range 100 {
		if !g.knock("127.0.0.9") {
			t.Fatal("closed unseen, with a known peer at the address")
		}
	}
	g.mustDial("127.0.0.9", cert, "h2")
}

func TestAProbeOfThePortIsNoFailure(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for range 60 {
		c, err := g.dialRaw("127.0.0.7")
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	eventually(t, "they were seen", func() bool { return g.refused.of(door.Silent) == 60 })
	cert, _ := g.enrol("ada@example.org")
	g.mustDial("127.0.0.7", cert, "h2")
}

// proxied asks through a PROXY header.
func (g *gateway) proxied(from string, cert *tls.Certificate, header []byte) (*http.Response, error) {
	raw, err := g.dialRaw(from)
	if err != nil {
		return nil, err
	}
	conf := g.presenting(cert)
	tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
	tr.DialContext = func(context.Context, string, string) (net.Conn, error) { // one connection, made before
		_, err := raw.Write(header)
		return raw, err
	}
	c := &http.Client{Transport: tr, Timeout: patience}
	resp, err := c.Get("https://" + g.addr + capabilities) //nolint:noctx // bounded by the client
	if err == nil {
		_ = resp.Body.Close()
	}
	return resp, err
}

func proxyHeader(t *testing.T, version byte, client string) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(client), 4711)), &net.TCPAddr{IP: net.IPv6loopback, Port: 3443})
	if netip.MustParseAddr(client).Is4() {
		h = proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(client), 4711)), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3443})
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestThePROXYProtocolCountsFromTrustedProxiesOnly(t *testing.T) {
	t.Parallel()
	g := newGateway(t, func(g *gateway) { g.proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.5/32")} })
	cert, _ := g.enrol("ada@example.org")
	local, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, from string
		header     []byte
		recorded   string // the address in the audit log; empty: refused
	}{
		{"a proxy's, IPv4", "127.0.0.5", proxyHeader(t, 2, "192.0.2.7"), "192.0.2.7"},
		{"a proxy's, IPv6", "127.0.0.5", proxyHeader(t, 2, "2001:db8::7"), "2001:db8::7"},
		{"a proxy's own connection", "127.0.0.5", local, "127.0.0.5"},
		{"a proxy without a header", "127.0.0.5", nil, "127.0.0.5"},
		{"a proxy's, version 1", "127.0.0.5", proxyHeader(t, 1, "192.0.2.8"), ""},
		{"a proxy's, cut off", "127.0.0.5", proxyHeader(t, 2, "192.0.2.9")[:20], ""},
		{"a proxy's, twice", "127.0.0.5", append(proxyHeader(t, 2, "192.0.2.10"), proxyHeader(t, 2, "192.0.2.11")...), ""},
		{"a proxy's, endless", "127.0.0.5", append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff"), bytes.Repeat([]byte{0xee}, 0xffff)...), ""},
		{"a stranger's", "127.0.0.6", proxyHeader(t, 2, "192.0.2.12"), ""},
		{"a stranger without one", "127.0.0.6", nil, "127.0.0.6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'capabilities' AND remote_address = $1`, tt.recorded)
			resp, err := g.proxied(tt.from, cert, tt.header)
			if tt.recorded == "" {
				if err == nil {
					t.Fatalf("answered %d", resp.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'capabilities' AND remote_address = $1`, tt.recorded); got != before+1 {
				t.Errorf("%d requests of %s are on record, want %d", got, tt.recorded, before+1)
			}
		})
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'capabilities'`); n != 5 {
		t.Errorf("%d requests on record, want the 5 that were answered", n)
	}
}

func TestFailuresBehindAProxyCountForTheClientAndNotForTheProxy(t *testing.T) {
	t.Parallel()
	g := newGateway(t, func(g *gateway) { g.proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.5/32")} })
	cert, _ := g.enrol("ada@example.org")
	stranger, peer := proxyHeader(t, 2, "192.0.2.1"), proxyHeader(t, 2, "192.0.2.2")
	for range 31 {
		_, _ = g.proxied("127.0.0.5", nil, stranger)
	}
	eventually(t, "the stranger is closed unseen", func() bool {
		_, err := g.proxied("127.0.0.5", cert, stranger)
		return err != nil && g.refused.of(door.AddressFailures) > 0
	})
	if _, err := g.proxied("127.0.0.5", cert, peer); err != nil {
		t.Errorf("a peer behind the same proxy: %v", err)
	}
	for range 40 { // without a header nobody can be told from anybody
		g.knock("127.0.0.5")
	}
	if _, err := g.proxied("127.0.0.5", cert, peer); err != nil {
		t.Errorf("after failures of the proxy itself: %v", err)
	}
}

func TestTheBoundsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	b := fedapi.Bounds()
	if b.Failures != 30 || b.Handshake > 10*time.Second || b.Pending == 0 || b.PendingPerAddress == 0 || b.Held == 0 || b.HeldPerHolder == 0 || b.Lifetime == 0 || b.Abandoned == 0 || b.BytesPerRequest == 0 {
		t.Errorf("%+v", b)
	}
}
