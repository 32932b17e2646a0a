package door

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// bytesBeforeRequests is how many requests' worth of bytes a connection may send before its first one.
const bytesBeforeRequests = 8

// Conn is a connection that the door knows.
type Conn struct {
	net.Conn
	door        *Listener
	source      io.Reader // the connection, behind the buffer that read a PROXY header
	who         atomic.Pointer[client]
	born        time.Time
	handshaking bool // whoever does the handshake is the only one to touch it
	left        bool // guarded by the listener's mu

	idleSince  atomic.Int64 // nanoseconds of Unix time; zero while a request is under way
	turnedAway atomic.Bool
	read       atomic.Int64
	allowed    atomic.Int64
	asked      atomic.Int64 // requests
	abandoned  atomic.Int64 // of these, how many the client reset before they were answered
	out        together
	closed     sync.Once
	closeErr   error
}

// client is whose connection it is, proxies resolved.
type client struct {
	addr   netip.Addr
	remote net.Addr     // the same, as net.Conn gives it
	from   netip.Prefix // invalid: not limited by address
}

func newConn(l *Listener, raw net.Conn, who client) *Conn {
	now := time.Now()
	c := &Conn{Conn: raw, source: raw, door: l, born: now}
	c.who.Store(&who)
	c.idleSince.Store(now.UnixNano())
	c.allowed.Store(bytesBeforeRequests * l.BytesPerRequest)
	return c
}

// RemoteAddr is the client's address, proxies resolved.
func (c *Conn) RemoteAddr() net.Addr { return c.who.Load().remote }

// Read lets others compute while a handshake waits for its client, and ends a connection that sends too much.
func (c *Conn) Read(b []byte) (int, error) {
	if c.handshaking {
		<-c.door.compute
		defer func() { c.door.compute <- struct{}{} }()
	}
	n, err := c.source.Read(b)
	if sent := c.read.Add(int64(n)); n > 0 && c.door.BytesPerRequest > 0 && sent > c.allowed.Load() {
		c.door.refuse(c, Flood)
		return 0, errFlood
	}
	return n, err
}

func (c *Conn) Write(b []byte) (int, error) {
	if c.handshaking {
		<-c.door.compute
		defer func() { c.door.compute <- struct{}{} }()
	}
	return c.out.write(c.Conn, b)
}

// abandon notes that the client did not wait for an answer. Some do that now and then; a connection on which it is
// the rule makes work and takes nothing (CVE-2023-44487).
func (c *Conn) abandon() {
	most := int64(c.door.Abandoned)
	if n := c.abandoned.Add(1); most > 0 && n > most && n > c.asked.Load()/2 {
		c.door.refuse(c, Flood)
	}
}

// Close may be called by many; one of them leaves.
func (c *Conn) Close() error {
	c.closed.Do(func() {
		c.door.leave(c)
		c.closeErr = c.Conn.Close()
	})
	return c.closeErr
}

// sent reports whether the client has sent anything.
func (c *Conn) sent() bool { return c.read.Load() > 0 }
