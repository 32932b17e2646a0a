package door

import (
	"crypto/sha256"
	"crypto/tls"
	"net/netip"
)

// holder is whom a connection counts for: an address's network before the handshake and without TLS, a
// certificate after it. The zero holder is nobody in particular: only the whole is limited.
type holder struct {
	from        netip.Prefix
	certificate [sha256.Size]byte
}

func holderOf(c *tls.Conn) holder {
	sent := c.ConnectionState().PeerCertificates
	if len(sent) == 0 {
		return holder{}
	}
	return holder{certificate: sha256.Sum256(sent[0].Raw)}
}

// crowd is the connections of one kind, bounded as a whole and for each holder.
type crowd struct {
	most, each int
	all        map[*Conn]holder
	of         map[holder]map[*Conn]struct{}
}

func newCrowd(most, each int) crowd {
	return crowd{most: most, each: each, all: map[*Conn]holder{}, of: map[holder]map[*Conn]struct{}{}}
}

// lookedAt is how many connections are looked at for the one to make room, when the whole is full: the oldest of
// a sample is nearly the oldest, and the search costs the same in any crowd.
const lookedAt = 64

// add takes c in. The one that has to make room is taken out and returned. When nobody can make room, c is not
// taken in, and the reason says which bound it is.
func (w *crowd) add(c *Conn, h holder) (gone *Conn, full Reason) {
	switch {
	case h != holder{} && w.each > 0 && len(w.of[h]) >= w.each:
		if gone = idlest(w.of[h], w.each); gone == nil {
			return nil, HolderFull
		}
	case w.most > 0 && len(w.all) >= w.most:
		if gone = idlest(w.all, lookedAt); gone == nil {
			return nil, ListenerFull
		}
	}
	if gone != nil {
		w.remove(gone)
	}
	w.all[c] = h
	if h != (holder{}) {
		if w.of[h] == nil {
			w.of[h] = map[*Conn]struct{}{}
		}
		w.of[h][c] = struct{}{}
	}
	return gone, ""
}

func (w *crowd) remove(c *Conn) {
	h, in := w.all[c]
	if !in {
		return
	}
	delete(w.all, c)
	delete(w.of[h], c)
	if len(w.of[h]) == 0 {
		delete(w.of, h)
	}
}

func (w *crowd) everybody() []*Conn {
	list := make([]*Conn, 0, len(w.all))
	for c := range w.all {
		list = append(list, c)
	}
	return list
}

// idlest is the connection without a request for the longest, among some of a crowd; nil when all have one.
func idlest[T any](among map[*Conn]T, some int) (found *Conn) {
	for c := range among { // in an order of Go's choosing, so a sample
		if since := c.idleSince.Load(); since != 0 && (found == nil || since < found.idleSince.Load()) {
			found = c
		}
		if some--; some == 0 {
			break
		}
	}
	return found
}
