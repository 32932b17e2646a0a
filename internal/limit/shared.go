package limit

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
)

const (
	// budget is what a request waits for the shared store at most. Then it is limited in memory.
	budget = 50 * time.Millisecond
	// failures in a row are what it takes to stop asking: one may be a hiccup of this machine.
	failures = 3
	// How often the store is looked at, and how long that may take. No request waits for it.
	probeEvery  = time.Second
	probeWithin = time.Second
)

// Store keeps buckets for all replicas.
type Store interface {
	// Take spends one from every bucket, or nothing when one of them is empty, and tells where each stands. What
	// is owed is what this replica knows to have been spent of each; the store may know less.
	Take(ctx context.Context, buckets []grant.Bucket, owed []time.Duration) ([]grant.Standing, error)
	// Ready tells whether Take may be relied on.
	Ready(ctx context.Context) error
}

// Link is the way to a store that may be away. It is up or down. While it is down nobody asks the store but Run,
// so that a store that hangs costs no request more than budget, and only the first few that.
type Link struct {
	store  Store
	log    *slog.Logger
	budget time.Duration

	asked, local, failed atomic.Uint64
	inARow               atomic.Int32
	down                 atomic.Pointer[outage] // nil: up

	mu sync.Mutex // one change of state at a time
}

type outage struct {
	since time.Time
	why   error
}

// NewLink returns a link that is up. Call Run, and first Probe if requests may come before it.
func NewLink(store Store, log *slog.Logger) *Link {
	return &Link{store: store, log: log, budget: budget}
}

// Run looks at the store until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		l.Probe(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Probe looks at the store now: the link is up afterwards if it may be relied on, and down if not.
func (l *Link) Probe(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	err := l.store.Ready(within)
	if ctx.Err() != nil {
		return // it is we who end
	}
	if err != nil {
		l.lose(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inARow.Store(0)
	if was := l.down.Swap(nil); was != nil {
		l.log.Info("limits are shared again", "away", time.Since(was.since).Round(time.Millisecond))
	}
}

func (l *Link) lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := outage{time.Now(), err}
	if was := l.down.Load(); was != nil {
		now.since = was.since
	} else {
		f := fault.From(err)
		l.log.Warn("limits are this replica's own until the shared ones are back", "code", f.Code, "error", err, "hint", f.Hint)
	}
	l.down.Store(&now)
}

// Err is nil while limits are shared, else why they are not. It asks nobody.
func (l *Link) Err() error {
	if o := l.down.Load(); o != nil {
		return o.why
	}
	return nil
}

// Stats are counters since the start, for metrics.
type Stats struct {
	Shared uint64 // requests limited for all replicas together
	Local  uint64 // requests limited in this process because the store was away or late
	Failed uint64 // requests that asked the store in vain; they are among the local ones
	Down   bool   // limits are this replica's own now
}

// Stats tells how requests were limited.
func (l *Link) Stats() Stats {
	return Stats{Shared: l.asked.Load(), Local: l.local.Load(), Failed: l.failed.Load(), Down: l.down.Load() != nil}
}

// take asks the store, if it is there. ok tells whether it answered.
func (l *Link) take(ctx context.Context, buckets []grant.Bucket, owed []time.Duration) (_ []grant.Standing, ok bool) {
	if l.down.Load() != nil {
		l.local.Add(1)
		return nil, false
	}
	// Not the request's cancellation: a client that hangs up is no failure of the store.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.budget)
	defer cancel()
	out, err := l.store.Take(ctx, buckets, owed)
	if err == nil {
		l.asked.Add(1)
		l.inARow.Store(0)
		return out, true
	}
	l.failed.Add(1)
	l.local.Add(1)
	if l.inARow.Add(1) >= failures {
		l.lose(err)
	}
	return nil, false
}

// Shared limits for all replicas together through a link, and in this process's memory while the link is down.
//
// The memory is kept at what the store said last, and the store is told what the memory knows. So a replica that
// loses the store goes on from where the limits stood and not with fresh bursts; and a store that comes back having
// forgotten, or having missed what was spent meanwhile, is told.
type Shared struct {
	link   *Link
	memory *Memory
}

// Over returns a limiter over the link with a memory of its own.
func (l *Link) Over(m *Memory) *Shared { return &Shared{link: l, memory: m} }

// Take is Memory.Take for all replicas. It fails for no reason of the store's.
func (s *Shared) Take(ctx context.Context, buckets ...grant.Bucket) (grant.Standing, error) {
	sent := s.memory.now()
	owed := make([]time.Duration, len(buckets))
	for i, b := range buckets {
		// What is owed is a distance from now, and the way to the store takes up to the budget: with that taken
		// off it never makes the store's own number larger while the store has missed nothing.
		owed[i] = s.memory.owed(b, sent) - budget
	}
	standings, ok := s.link.take(ctx, buckets, owed)
	if !ok {
		return s.memory.Take(ctx, buckets...)
	}
	var tightest grant.Standing
	for i, b := range buckets {
		s.memory.learn(b, sent.Add(standings[i].Reset))
		tightest = tightest.Tighter(standings[i])
	}
	return tightest, nil
}
