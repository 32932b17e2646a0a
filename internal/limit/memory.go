// Package limit counts requests against limits by the generic cell rate algorithm: in this process's memory, or in
// a store that all replicas share with this process's memory beside it.
//
// A bucket is one number, its theoretical arrival time: when it would be full again if nothing else came. It is
// kept and compared as a distance from now, so replicas whose clocks differ agree.
package limit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"

	"github.com/mosaicstack/gateway/internal/grant"
)

const maxKeys = 1 << 16 // the least recently used bucket is forgotten beyond this

// Memory keeps buckets in this process.
type Memory struct {
	now func() time.Time

	mu    sync.Mutex // one request looks at all of its buckets before it spends from any
	kept  *memstore.MemStore
	store throttled.GCRAStoreCtx
	rules map[grant.Limit]*throttled.GCRARateLimiterCtx
}

// NewMemory returns a limiter in which nothing has happened yet.
func NewMemory() (*Memory, error) { return NewMemoryOn(time.Now) }

// NewMemoryOn is NewMemory on a clock of the caller's. A clock that carries a monotonic reading (see package time)
// may be set at any time without an effect here. One that does not may forgive what was spent when it is set
// forward; when it is set back, nobody waits longer than for one request.
func NewMemoryOn(clock func() time.Time) (*Memory, error) {
	kept, err := memstore.New(maxKeys)
	if err != nil {
		return nil, fmt.Errorf("make limiter store: %w", err)
	}
	start := clock()
	m := &Memory{
		now:  func() time.Time { return start.Add(clock().Sub(start)) },
		kept: kept, store: throttled.WrapStoreWithContext(kept), rules: map[grant.Limit]*throttled.GCRARateLimiterCtx{},
	}
	kept.SetTimeNow(m.now)
	return m, nil
}

// Take spends one from every bucket, or nothing when one of them is empty, and tells where the tightest one stands.
func (m *Memory) Take(ctx context.Context, buckets ...grant.Bucket) (grant.Standing, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var tightest grant.Standing
	for _, quantity := range []int{0, 1} { // look, then spend
		if quantity == 0 && len(buckets) == 1 {
			continue
		}
		tightest = grant.Standing{}
		for _, b := range buckets {
			s, err := m.take(ctx, b, quantity)
			if err != nil {
				return s, err
			}
			tightest = tightest.Tighter(s)
		}
		if tightest.Refused() {
			break
		}
	}
	return tightest, nil
}

func (m *Memory) take(ctx context.Context, b grant.Bucket, quantity int) (grant.Standing, error) {
	rule, err := m.rule(b.Limit)
	if err != nil {
		return grant.Standing{}, err
	}
	key := b.Key()
	m.forgive(key, b.Limit)
	limited, result, err := rule.RateLimitCtx(ctx, key, quantity)
	if err != nil {
		return grant.Standing{}, fmt.Errorf("rate limit: %w", err)
	}
	wait := time.Duration(0)
	if limited || quantity == 0 {
		wait = max(result.RetryAfter, 0) // a look tells of it without being limited
	}
	return b.Standing(max(result.ResetAfter, 0), wait), nil
}

// forgive caps what a bucket owes at its whole burst. More than that cannot be spent: the clock was set back, or
// the limit was made smaller.
func (m *Memory) forgive(key string, l grant.Limit) {
	at, now, err := m.kept.GetWithTime(key)
	if most := now.Add(l.Tolerance()).UnixNano(); err == nil && at > most {
		_, _ = m.kept.CompareAndSwapWithTTL(key, at, most, 0) // m.mu is held: nobody else writes
	}
}

// owed is how far the bucket's arrival time is ahead of now.
func (m *Memory) owed(b grant.Bucket, now time.Time) time.Duration {
	at, _, err := m.kept.GetWithTime(b.Key())
	if err != nil || at < 0 {
		return 0
	}
	return max(time.Unix(0, at).Sub(now), 0)
}

// learn moves the bucket's arrival time to at, unless it is later already.
func (m *Memory) learn(b grant.Bucket, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := b.Key()
	was, _, err := m.kept.GetWithTime(key)
	switch next := at.UnixNano(); {
	case err != nil || was >= next:
	case was < 0:
		_, _ = m.kept.SetIfNotExistsWithTTL(key, next, 0)
	default:
		_, _ = m.kept.CompareAndSwapWithTTL(key, was, next, 0) // m.mu is held: nobody else writes
	}
}

func (m *Memory) rule(l grant.Limit) (*throttled.GCRARateLimiterCtx, error) {
	if r := m.rules[l]; r != nil {
		return r, nil
	}
	// MaxBurst is what may come on top of the first request.
	r, err := throttled.NewGCRARateLimiterCtx(m.store, throttled.RateQuota{MaxRate: throttled.PerDuration(1, l.Interval()), MaxBurst: l.Burst - 1})
	if err != nil {
		return nil, fmt.Errorf("make rate limit: %w", err)
	}
	m.rules[l] = r
	return r, nil
}

// Taker is where buckets are kept: a Memory or a Shared.
type Taker interface {
	Take(ctx context.Context, buckets ...grant.Bucket) (grant.Standing, error)
}

// Fixed is one limit of its own, for things that are limited alike for everybody.
type Fixed struct {
	Limiter Taker
	Name    string // of what is limited
	Limit   grant.Limit
}

// Allow answers zero and counts the event, or answers how long to wait and counts nothing.
func (f Fixed) Allow(ctx context.Context, key string) (time.Duration, error) {
	s, err := f.Limiter.Take(ctx, grant.Bucket{Name: f.Name, ID: key, Limit: f.Limit})
	return s.Wait, err
}
