package door

import (
	"bufio"
	"errors"

	"github.com/pires/go-proxyproto"
)

// readProxyHeader takes the client's address from a trusted proxy's PROXY header, version 2, and reports whether
// to go on. A connection without one is the proxy's own: it is served, and not limited by address, because all
// who are behind the proxy would share the limit. There is nothing to guess: no TLS record begins like the header.
func (l *Listener) readProxyHeader(c *Conn) bool {
	buffered := bufio.NewReaderSize(c.Conn, proxyHeaderBuffer)
	c.source = buffered
	header, err := proxyproto.Read(buffered)
	if errors.Is(err, proxyproto.ErrNoProxyProtocol) || err == nil && header.Command.IsLocal() {
		return true
	}
	if err != nil || header.Version != 2 || !addrOf(header.SourceAddr).IsValid() {
		l.refuse(c, ProxyHeader)
		return false
	}
	addr := addrOf(header.SourceAddr)
	c.who.Store(&client{addr: addr, remote: header.SourceAddr, from: network(addr)})
	l.mu.Lock()
	l.pending.remove(c)
	l.mu.Unlock()
	return l.admit(&l.pending, c, holder{from: network(addr)})
}

// proxyHeaderBuffer holds a header with the fields that proxies add; a longer one is read in parts.
const proxyHeaderBuffer = 256
