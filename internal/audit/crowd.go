package audit

import (
	"sync"
	"sync/atomic"
	"time"
)

// How long a batch waits for its crowd: for each request, about what it takes where two processors do everything.
const (
	perRequest  = 250 * time.Microsecond
	gatherLimit = 8 * time.Millisecond
	crowdFor    = 10 * time.Millisecond
)

// crowd is how many requests have been under way at once lately: clients that ask again and again are between two
// requests for a part of the time, and are still about to come.
type crowd struct {
	now  atomic.Int64 // under way
	peak atomic.Int64 // of now, since the last turn

	mu     sync.Mutex
	turned time.Time
	before int64 // the peak until then
}

func (c *crowd) come(n int) {
	now := c.now.Add(int64(n))
	for {
		peak := c.peak.Load()
		if now <= peak || c.peak.CompareAndSwap(peak, now) {
			return
		}
	}
}

// size is the most of the last 10 to 20 ms, and of now if that is long ago.
func (c *crowd) size(at time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if past := at.Sub(c.turned); past >= crowdFor || past < 0 {
		now := c.now.Load()
		c.before = c.peak.Swap(now)
		if past >= 2*crowdFor {
			c.before = now
		}
		c.turned = at
	}
	return int(max(c.before, c.peak.Load()))
}
