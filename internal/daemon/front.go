package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/httpapi"
)

// front is an HTTP server whose handler can be replaced while it serves: a replica that waits for its parts answers
// probes and says what it waits for, and the API takes over on the same connections.
type front struct {
	server  *http.Server
	handler atomic.Pointer[http.Handler]
}

func newFront(h http.Handler, log *slog.Logger) *front {
	f := &front{}
	f.serve(h)
	f.server = apiServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*f.handler.Load()).ServeHTTP(w, r) }), log)
	return f
}

func (f *front) serve(h http.Handler) { f.handler.Store(&h) }

// waiting is how a replica is that is not assembled yet.
type waiting struct {
	tier, version string
	what          atomic.Pointer[wanted]
}

// wanted is a part, and what was wrong with it when it was last tried.
type wanted struct {
	part string
	err  error // nil before the first try has ended
}

func (w *waiting) on(part string, err error) { w.what.Store(&wanted{part, err}) }

// Report implements httpapi.Health.
func (w *waiting) Report(context.Context) httpapi.Report {
	r := httpapi.Report{Status: httpapi.HealthDown, Tier: w.tier, Version: w.version, Checks: map[string]string{}}
	if what := w.what.Load(); what != nil {
		r.Checks[what.part] = httpapi.HealthDown
	}
	return r
}

// anybody is what everybody is told: that it waits. Which part it is, /health says.
func (w *waiting) anybody() error { return httpapi.ErrStarting }

// admin is what whoever uses the admin socket is told: what is wrong, under its own code and with its own hint, because
// much of it waits for what an admin does.
func (w *waiting) admin() error {
	what := w.what.Load()
	if what == nil {
		return httpapi.ErrStarting
	}
	var f *fault.Fault
	if !errors.As(what.err, &f) {
		return httpapi.ErrStarting.With("the gateway waits for its %s", what.part)
	}
	f = f.With("the gateway does not serve yet: %s", f.Detail)
	f.Kind = fault.Unavailable // whatever it is to the gateway, to the caller it is this
	return f
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
