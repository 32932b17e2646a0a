package door

import (
	"net/netip"
	"sync"
	"time"
)

const (
	failureWindow = time.Minute
	maxNetworks   = 1 << 16
	// An address from which a peer has come lately has more room for failures: strangers behind the same address
	// must not lock the peer out, and what they could cost is little still.
	provenFor  = time.Hour
	provenRoom = 10
)

// failures counts failed handshakes by network.
type failures struct {
	most int
	now  func() time.Time

	mu sync.Mutex
	by map[netip.Prefix]record
}

type record struct {
	since  time.Time // of the first failure counted
	count  int
	proven time.Time // when a handshake last succeeded
}

func newFailures(most int, now func() time.Time) *failures {
	return &failures{most: most, now: now, by: map[netip.Prefix]record{}}
}

// over reports whether a network has no failure left in this minute.
func (f *failures) over(p netip.Prefix) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, now := f.by[p], f.now()
	room := f.most
	if within(now, r.proven, provenFor) {
		room *= provenRoom
	}
	return f.most > 0 && r.count >= room && within(now, r.since, failureWindow)
}

func (f *failures) add(p netip.Prefix) {
	f.change(p, func(r *record, now time.Time) {
		if !within(now, r.since, failureWindow) {
			r.since, r.count = now, 0
		}
		r.count++
	})
}

func (f *failures) proven(p netip.Prefix) {
	f.change(p, func(r *record, now time.Time) { r.proven = now })
}

func (f *failures) change(p netip.Prefix, how func(*record, time.Time)) {
	if !p.IsValid() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	r, known := f.by[p]
	if !known && len(f.by) >= maxNetworks {
		f.forget()
	}
	how(&r, f.now())
	f.by[p] = r
}

// forget makes room: first for what is over, else for any one. Whoever has many networks cannot make it forget
// all of them.
func (f *failures) forget() {
	now, some := f.now(), 64
	for p, r := range f.by {
		if !within(now, r.since, failureWindow) && !within(now, r.proven, provenFor) {
			delete(f.by, p)
			return
		}
		if some--; some == 0 {
			delete(f.by, p)
			return
		}
	}
}

// within reports whether t was at most d ago. A clock that was set back forgives.
func within(now, t time.Time, d time.Duration) bool {
	past := now.Sub(t)
	return past >= 0 && past < d
}
