// Package door decides who may hold a connection to a listener, before and after the TLS handshake.
//
// A connection is pending until its handshake is done, and then held by whoever its certificate names; on a
// listener without TLS it is held by its address from the start. Pending connections and held ones are counted
// apart, so that strangers who fill the one leave the other alone. When something is full, the connection that
// has done nothing for the longest makes room: a peer needs milliseconds for what a silent crowd would block for
// as long as it likes. Nothing here ends a request that is under way.
package door

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds are the limits of one listener. A zero is no limit.
type Bounds struct {
	Pending           int           // connections whose handshake is not done
	PendingPerAddress int           // of these, from one address
	Held              int           // connections whose holder is known
	HeldPerHolder     int           // of these, with one certificate; without TLS, from one address
	Failures          int           // failed handshakes of one address in a minute; then it is closed before TLS work
	Handshake         time.Duration // PROXY header and TLS handshake together
	Lifetime          time.Duration // after it a connection is asked to end with its next answer
	Abandoned         int           // requests of a connection that its client reset, before it has to go; if they are most of them
	BytesPerRequest   int64         // what a connection may send for each of its requests, control frames and all
}

// Fit returns b made small enough for a number of open files, in proportion.
func (b Bounds) Fit(files int) Bounds {
	if want := b.Pending + b.Held; want > files {
		b.Pending, b.Held = b.Pending*files/want, b.Held*files/want
	}
	return b
}

// Config is what a Listener needs.
type Config struct {
	Bounds
	TLS     *tls.Config    // nil: plain
	Proxies []netip.Prefix // their connections are not limited by address, unless a PROXY header names the client's
	// ProxyHeader takes PROXY protocol v2 from Proxies. From anybody else such a header is garbage.
	ProxyHeader bool
	// Refused is told of every connection that is turned away or fails its handshake. It must not wait.
	Refused func(addr netip.Addr, reason Reason)
	Log     *slog.Logger
	Now     func() time.Time
}

// Listener hands out connections that may go on: over TLS, those whose handshake is done.
type Listener struct {
	Config
	inner    net.Listener
	failures *failures
	compute  chan struct{} // a place for each handshake that may use a processor at this moment
	ready    chan net.Conn
	ctx      context.Context
	stop     context.CancelFunc
	start    sync.Once
	work     sync.WaitGroup
	failed   error // why accepting ended; read after ctx ended

	opened atomic.Int64

	mu            sync.Mutex
	pending, held crowd
}

// Listen puts a door in front of a listener.
func Listen(inner net.Listener, c Config) *Listener {
	ctx, stop := context.WithCancel(context.Background())
	return &Listener{
		Config: c, inner: inner, failures: newFailures(c.Failures, c.Now),
		// At most half of the processors do handshakes, so that the requests of those who are in go on.
		compute: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		ready:   make(chan net.Conn), ctx: ctx, stop: stop,
		pending: newCrowd(c.Pending, c.PendingPerAddress), held: newCrowd(c.Held, c.HeldPerHolder),
	}
}

// Accept waits for the next connection that may go on.
func (l *Listener) Accept() (net.Conn, error) {
	l.start.Do(func() { l.work.Go(l.run) })
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		if l.failed != nil {
			return nil, l.failed
		}
		return nil, net.ErrClosed
	}
}

// Close ends accepting and every handshake under way. Connections that were handed out stay.
func (l *Listener) Close() error {
	l.stop()
	err := l.inner.Close()
	l.mu.Lock()
	waiting := l.pending.everybody()
	l.mu.Unlock()
	for _, c := range waiting {
		_ = c.Close()
	}
	l.work.Wait()
	return err
}

// Addr is the address listened on.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Count tells how many connections are pending and how many are held.
func (l *Listener) Count() (pending, held int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending.all), len(l.held.all)
}

// Opened tells how many connections were handed out since the start.
func (l *Listener) Opened() int64 { return l.opened.Load() }

// The pauses after an accept that failed for want of something, such as open files.
const (
	shortPause = 5 * time.Millisecond
	longPause  = time.Second
)

// run accepts until the listener is closed. What takes time is done beside it.
func (l *Listener) run() {
	pause := shortPause
	for {
		raw, err := l.inner.Accept()
		if err != nil {
			var passing interface{ Temporary() bool }
			if l.ctx.Err() == nil && errors.As(err, &passing) && passing.Temporary() {
				l.Log.Warn("connection not accepted", "error", err)
				select {
				case <-time.After(pause):
				case <-l.ctx.Done():
				}
				pause = min(2*pause, longPause)
				continue
			}
			if l.ctx.Err() == nil {
				l.failed = err
			}
			l.stop()
			return
		}
		pause = shortPause
		l.meet(raw)
	}
}

// meet looks at a new connection.
func (l *Listener) meet(raw net.Conn) {
	who := client{addr: addrOf(raw.RemoteAddr()), remote: raw.RemoteAddr()}
	proxied := contains(l.Proxies, who.addr)
	if !proxied {
		who.from = network(who.addr)
	}
	c := newConn(l, raw, who)
	if l.TLS == nil {
		if l.admit(&l.held, c, holder{from: who.from}) {
			l.hand(c, c)
		}
		return
	}
	if !l.admit(&l.pending, c, holder{from: who.from}) {
		return
	}
	l.work.Go(func() {
		if l.ctx.Err() != nil {
			_ = c.Close() // it came in while the others were being closed
			return
		}
		_ = c.SetDeadline(time.Now().Add(l.Handshake))
		if proxied && l.ProxyHeader && !l.readProxyHeader(c) {
			return
		}
		l.handshake(c)
	})
}

// admit lets a connection into a crowd, or closes it. Whoever has to make room is closed too.
func (l *Listener) admit(into *crowd, c *Conn, h holder) bool {
	if h.from.IsValid() && into == &l.pending && l.failures.over(h.from) {
		l.refuse(c, AddressFailures)
		return false
	}
	l.mu.Lock()
	if c.left {
		l.mu.Unlock()
		return false // it had to make room while it was on its way here
	}
	gone, full := into.add(c, h)
	l.mu.Unlock()
	if gone != nil {
		l.refuse(gone, CrowdedOut)
	}
	if full != "" {
		l.refuse(c, full)
		return false
	}
	return true
}

// handshake makes a pending connection a held one.
func (l *Listener) handshake(c *Conn) {
	secure := tls.Server(c, l.TLS)
	l.compute <- struct{}{}
	c.handshaking = true
	err := secure.HandshakeContext(context.Background()) // its deadline is the connection's
	c.handshaking = false
	<-l.compute
	if err != nil {
		l.handshakeFailed(c, err)
		return
	}
	_ = c.SetDeadline(time.Time{})
	l.failures.proven(c.who.Load().from)
	l.mu.Lock()
	l.pending.remove(c)
	l.mu.Unlock()
	c.idleSince.Store(time.Now().UnixNano())
	if l.admit(&l.held, c, holderOf(secure)) {
		l.hand(c, secure)
	}
}

func (l *Listener) handshakeFailed(c *Conn, err error) {
	reason := reasonOf(err, c)
	if l.ctx.Err() == nil && !c.turnedAway.Load() {
		if reason != Silent { // no TLS work was done for whoever sent nothing, such as a probe of the port
			l.failures.add(c.who.Load().from)
		}
		l.Log.Debug("TLS handshake error", "client", c.who.Load().addr.String(), "reason", string(reason), "error", err.Error())
		l.refuse(c, reason)
		return
	}
	_ = c.Close()
}

// refuse closes a connection, and tells why.
func (l *Listener) refuse(c *Conn, reason Reason) {
	again := c.turnedAway.Swap(true)
	_ = c.Close()
	if l.Refused != nil && !again {
		l.Refused(c.who.Load().addr, reason)
	}
}

// hand gives a connection to whoever accepts.
func (l *Listener) hand(c *Conn, as net.Conn) {
	select {
	case l.ready <- as:
		l.opened.Add(1)
	case <-l.ctx.Done():
		_ = c.Close()
	}
}

// leave is called once when a connection is closed.
func (l *Listener) leave(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.left = true
	l.pending.remove(c)
	l.held.remove(c)
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// network is what one party has at least: an IPv4 address, or a /64 of IPv6.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // not an address: a unix socket
	}
	return p
}

// addrOf is the IP address of a socket's other end.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// errFlood ends a connection that sends much and asks little.
var errFlood = fmt.Errorf("more was sent than the connection's requests account for: %w", net.ErrClosed)
