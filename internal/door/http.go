package door

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"
)

type connKey struct{}

// Guard makes a server tell the door which connections have a request under way, and ends old connections
// gracefully: with their next answer, so that no request is lost (RFC 9112, section 9.6; RFC 9113, section 6.8).
func (l *Listener) Guard(s *http.Server) {
	alsoContext, alsoState := s.ConnContext, s.ConnState
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if alsoContext != nil {
			ctx = alsoContext(ctx, c)
		}
		return context.WithValue(ctx, connKey{}, connOf(c))
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if alsoState != nil {
			alsoState(c, state)
		}
		dc := connOf(c)
		if dc == nil {
			return
		}
		switch state {
		case http.StateActive:
			dc.idleSince.Store(0)
		case http.StateIdle:
			dc.idleSince.Store(time.Now().UnixNano())
		}
	}
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*Conn)
		if c != nil {
			c.asked.Add(1)
			c.allowed.Add(l.BytesPerRequest)
			if l.Lifetime > 0 && time.Since(c.born) > l.Lifetime {
				w.Header().Set("Connection", "close")
			}
		}
		next.ServeHTTP(w, r)
		if c != nil && r.Context().Err() != nil {
			c.abandon()
		}
	})
}

func connOf(c net.Conn) *Conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	dc, _ := c.(*Conn)
	return dc
}
