package door

import (
	"net"
	"sync"
)

// mostTogether is how much of an answer is kept back to be sent in one piece.
const mostTogether = 64 << 10

// together sends several writes as one. An answer of twenty kilobytes is three TLS records, and net/http and
// crypto/tls write each by itself: three calls into the kernel, and a client that is woken three times.
type together struct {
	mu   sync.Mutex
	held bool
	kept []byte
}

var keeping = sync.Pool{New: func() any { b := make([]byte, 0, 32<<10); return &b }}

func (t *together) write(to net.Conn, b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.held {
		return to.Write(b)
	}
	if len(t.kept)+len(b) <= mostTogether {
		t.kept = append(t.kept, b...)
		return len(b), nil
	}
	// Too much to keep: what there is goes first.
	t.held = false
	if _, err := to.Write(t.kept); err != nil {
		return 0, err
	}
	t.kept = t.kept[:0]
	return to.Write(b)
}

// Together sends what f writes to the connection in one piece, if it is not too much. When that fails the connection is
// closed: its other end has a part of what TLS takes for sent.
func (c *Conn) Together(f func()) {
	buffer := keeping.Get().(*[]byte)
	t := &c.out
	t.mu.Lock()
	t.held, t.kept = true, (*buffer)[:0]
	t.mu.Unlock()
	f()
	t.mu.Lock()
	var err error
	if len(t.kept) > 0 {
		_, err = c.Conn.Write(t.kept)
	}
	*buffer = t.kept
	t.held, t.kept = false, nil
	t.mu.Unlock()
	keeping.Put(buffer)
	if err != nil {
		_ = c.Close()
	}
}
