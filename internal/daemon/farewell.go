package daemon

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// lingerWithin is how long a replica that was told to stop goes on answering those who are connected.
const lingerWithin = 2 * time.Second

// farewell takes leave of the clients of a replica. A server that stops closes connections that are idle, and between
// two requests of a busy client a connection is: that client's next request would be cut off. So the replica first
// lets in nobody new and says with each answer that it is the connection's last ("Connection: close", RFC 9112
// section 9.6; over HTTP/2 the server makes a GOAWAY of it, RFC 9113 section 6.8), until nobody is left or the time is
// over. Nil takes no leave.
type farewell struct {
	said atomic.Bool
	open atomic.Int64  // connections
	gone chan struct{} // told when one has ended
}

func newFarewell() *farewell { return &farewell{gone: make(chan struct{}, 1)} }

// of makes a server that is not started yet take part.
func (f *farewell) of(s *http.Server) {
	if f == nil {
		return
	}
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.said.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	also := s.ConnState
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if also != nil {
			also(c, state)
		}
		switch state {
		case http.StateNew:
			f.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			f.open.Add(-1)
			select {
			case f.gone <- struct{}{}:
			default:
			}
		case http.StateActive, http.StateIdle:
		}
	}
}

// say returns when all connections have ended, or after lingerWithin.
func (f *farewell) say() {
	if f == nil {
		return
	}
	f.said.Store(true)
	over := time.NewTimer(lingerWithin)
	defer over.Stop()
	for f.open.Load() > 0 {
		select {
		case <-f.gone:
		case <-over.C:
			return
		}
	}
}
