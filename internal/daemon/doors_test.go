package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/httpapi"
)

// doorPatience is how long anything here may take on a busy machine.
const doorPatience = 30 * time.Second

// public is the public listener with the API of a replica that starts: the server, its bounds and its door are those
// that serve, and /health is answered.
type public struct {
	t       *testing.T
	door    *door.Listener
	addr    string
	mu      sync.Mutex
	refused map[door.Reason]int
}

func newPublic(t *testing.T, trusted ...netip.Prefix) *public {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	waits := &waiting{tier: "federated", version: "test"}
	f := newFront(httpapi.Starting(httpapi.Config{Health: waits, Log: log, Now: time.Now}, waits.anybody), log)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &public{t: t, addr: inner.Addr().String(), refused: map[door.Reason]int{}}
	p.door = apiDoor(inner, f.server, trusted, func(_ netip.Addr, r door.Reason) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.refused[r]++
	}, log, time.Now)
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(p.door) }()
	t.Cleanup(func() {
		_ = f.server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return p
}

func (p *public) dial(from string) net.Conn {
	p.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: doorPatience}
	c, err := d.DialContext(p.t.Context(), "tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(doorPatience))
	return c
}

// alive asks for /health/live over a connection.
func (p *public) alive(c net.Conn) error {
	if _, err := io.WriteString(c, "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("X-Request-Id") == "" {
		return fmt.Errorf("%s %v", resp.Status, err)
	}
	return nil
}

func soon(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(doorPatience); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not so after %s: %s", doorPatience, what)
		}
	}
}

// The one that is idle the longest makes room, and never one with a request under way.
func TestSilentConnectionsMakeRoomAtThePublicListener(t *testing.T) { //nolint:paralleltest // measures the process
	p := newPublic(t)
	kept := p.dial("127.0.0.1")
	if err := p.alive(kept); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	most := apiBounds().HeldPerHolder
	if most == 0 {
		t.Fatal("an address may have any number")
	}
	crowd := 2 * most
	if os.Getenv("MOSAIC_TORTURE") != "" {
		crowd = 10 * most
	}
	for i := range crowd {
		c := p.dial("127.0.0.2")
		if i%2 == 0 { // half of them begin a request
			_, _ = io.WriteString(c, "GET /health HTTP/1.1\r\nX-")
		}
	}
	soon(t, "the crowd is down to what one address may have", func() bool {
		_, held := p.door.Count()
		p.mu.Lock()
		defer p.mu.Unlock()
		return held <= most+1 && p.refused[door.CrowdedOut] >= crowd-most
	})
	if err := p.alive(kept); err != nil {
		t.Errorf("a connection of another address, from before: %v", err)
	}
	if err := p.alive(p.dial("127.0.0.2")); err != nil {
		t.Errorf("a new connection of the crowd's own address: %v", err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse); grown > 64<<20 { //nolint:gosec // sizes of a heap
		t.Errorf("%d MiB for a crowd of %d", grown>>20, crowd)
	}
}

func TestATrustedProxyIsNotLimitedByItsAddress(t *testing.T) {
	t.Parallel()
	p := newPublic(t, netip.MustParsePrefix("127.0.0.3/32"))
	for range apiBounds().HeldPerHolder + 100 {
		p.dial("127.0.0.3")
	}
	soon(t, "all are in", func() bool { _, held := p.door.Count(); return held == apiBounds().HeldPerHolder+100 })
}

func TestASlowClientOfThePublicListenerIsClosed(t *testing.T) {
	t.Parallel()
	p := newPublic(t)
	for name, first := range map[string]string{
		"a header":              "GET /health HTTP/1.1\r\nHost: x\r\nX-",
		"a request line":        "GET /hea",
		"half an HTTP/2 prefix": "PRI * HTTP/2.0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := p.dial("127.0.0.4")
			_, _ = io.WriteString(c, first)
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is open still")
			}
		})
	}
}

func TestOddRequestsToThePublicListener(t *testing.T) {
	t.Parallel()
	p := newPublic(t)
	long := strings.Repeat("a", 64<<10)
	for name, tt := range map[string]struct {
		request string
		status  int
	}{
		"a long header":         {"GET /health/live HTTP/1.1\r\nHost: x\r\nX: " + long + "\r\n\r\n", 431},
		"absolute form":         {"GET http://evil.example/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		"OPTIONS *":             {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 503},
		"h2c upgrade":           {"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 200},
		"h2c at once":           {"PRI * HTTP/2.0\r\nHost: x\r\n\r\nSM\r\n\r\n", 405},
		"length and chunks":     {"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200},
		"no UTF-8 in the path":  {"GET /\xff\xfe%ff HTTP/1.1\r\nHost: x\r\n\r\n", 503},
		"a method that is none": {"FOO /health/live HTTP/1.1\r\nHost: x\r\n\r\n", 405},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := p.dial("127.0.0.5")
			_, _ = io.WriteString(c, tt.request)
			r := bufio.NewReader(c)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != tt.status || resp.ProtoMajor != 1 {
				t.Errorf("%s %s %s, want %d", resp.Proto, resp.Status, body, tt.status)
			}
			if strings.Contains(tt.request, "chunked") {
				if b, err := r.ReadByte(); err == nil {
					t.Errorf("the request behind it was answered too: %q", b)
				}
			}
		})
	}
}

func TestARequestUnderWayMakesNoRoom(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	arrived, finish := make(chan struct{}), make(chan struct{})
	s := apiServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-finish }), slog.New(slog.DiscardHandler))
	l := doorOf(inner, s, door.Config{Bounds: door.Bounds{Held: 2, HeldPerHolder: 2}, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	newFarewell().of(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	p := &public{t: t, addr: inner.Addr().String()}
	busy := []net.Conn{p.dial("127.0.0.1"), p.dial("127.0.0.1")}
	for _, c := range busy {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		<-arrived
	}
	if _, err := p.dial("127.0.0.1").Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third connection while both are busy: %v, want it closed", err)
	}
	close(finish)
	for _, c := range busy {
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("a request that was under way: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), doorPatience)
	defer cancel()
	_ = s.Shutdown(ctx)
}
