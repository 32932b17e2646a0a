package serving

import "sync"

// The memory of an answer is used again: a page is tens of kilobytes, and making that much anew for each request
// keeps the collector busier than the request itself.
const (
	firstBody = 32 << 10
	maxKept   = 256 << 10 // larger ones are rare, and are not kept for the next small one
)

type bodies struct{ pool sync.Pool }

// lent is the memory of one body.
type lent struct {
	of    *bodies
	bytes []byte
}

func (b *bodies) lend() *lent {
	if l, ok := b.pool.Get().(*lent); ok {
		return l
	}
	return &lent{of: b, bytes: make([]byte, 0, firstBody)}
}

// back returns the memory, with what it has grown to. A nil lent was never borrowed.
func (l *lent) back() {
	if l == nil || cap(l.bytes) > maxKept {
		return
	}
	l.bytes = l.bytes[:0]
	l.of.pool.Put(l)
}
