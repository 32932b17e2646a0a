package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/mosaicstack/gateway/internal/httpapi"
)

// front is the public HTTP server, whose handler can be replaced while it serves: a replica that waits for its
// parts answers probes, and the API takes over on the same connections.
type front struct {
	server   *http.Server
	handler  atomic.Pointer[http.Handler]
	farewell *farewell // of the whole replica
}

func newFront(h http.Handler, log *slog.Logger) *front {
	f := &front{farewell: newFarewell()}
	f.serve(h)
	f.server = apiServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*f.handler.Load()).ServeHTTP(w, r) }), log)
	f.farewell.of(f.server)
	return f
}

func (f *front) serve(h http.Handler) { f.handler.Store(&h) }

// waiting is the health of a replica that is not assembled yet.
type waiting struct {
	tier, version string
	part          atomic.Pointer[string]
}

func (w *waiting) on(part string) { w.part.Store(&part) }

// Report implements httpapi.Health.
func (w *waiting) Report(context.Context) httpapi.Report {
	r := httpapi.Report{Status: httpapi.HealthDown, Tier: w.tier, Version: w.version, Checks: map[string]string{}}
	if part := w.part.Load(); part != nil {
		r.Checks[*part] = httpapi.HealthDown
	}
	return r
}

// gate is a TCP listener that can be shut and opened again at the same address. While it is shut connections are
// refused, so that a proxy in front goes to another replica. It begins shut.
type gate struct {
	mu      sync.Mutex
	changed chan struct{} // closed at every change
	address net.Addr
	inner   net.Listener // nil while it is shut
	closed  bool
}

// newGate takes the address once, to find out whether it can be had and which port 0 becomes.
func newGate(address string) (*gate, error) {
	l, err := listen(address)
	if err != nil {
		return nil, err
	}
	return &gate{changed: make(chan struct{}), address: l.Addr()}, l.Close()
}

// open lets connections in.
func (g *gate) open() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.inner != nil {
		return nil
	}
	l, err := listen(g.address.String())
	if err != nil {
		return err
	}
	g.inner = l
	g.wake()
	return nil
}

// shut refuses connections until the next open. Those that are there stay.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inner != nil {
		_ = g.inner.Close()
		g.inner = nil
		g.wake()
	}
}

func (g *gate) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// Accept implements net.Listener. It waits while the gate is shut.
func (g *gate) Accept() (net.Conn, error) {
	for {
		g.mu.Lock()
		inner, closed, changed := g.inner, g.closed, g.changed
		g.mu.Unlock()
		switch {
		case closed:
			return nil, net.ErrClosed
		case inner == nil:
			<-changed
			continue
		}
		conn, err := inner.Accept()
		if errors.Is(err, net.ErrClosed) {
			continue // shut or closed in the meantime
		}
		return conn, err
	}
}

// Close implements net.Listener.
func (g *gate) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	g.closed = true
	g.wake()
	if g.inner != nil {
		return g.inner.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (g *gate) Addr() net.Addr { return g.address }
