// Package limit is the rate limiter of one gateway process: the generic cell rate algorithm, kept in memory.
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

const (
	maxKeys = 1 << 16 // the least recently used key is forgotten beyond this
	// The algorithm compares and swaps; requests of one key at the same instant make each other try again.
	casAttempts = 10_000
)

// Memory limits by key. Each key is one limit's own bucket.
type Memory struct {
	store throttled.GCRAStoreCtx

	mu     sync.RWMutex
	quotas map[grant.Limit]*throttled.GCRARateLimiterCtx
}

// NewMemory returns a limiter in which nothing has happened yet.
func NewMemory() (*Memory, error) {
	store, err := memstore.NewCtx(maxKeys)
	if err != nil {
		return nil, fmt.Errorf("make limiter store: %w", err)
	}
	return &Memory{store: store, quotas: map[grant.Limit]*throttled.GCRARateLimiterCtx{}}, nil
}

// Allow answers zero and counts the event, or answers how long to wait and counts nothing.
func (m *Memory) Allow(ctx context.Context, key string, l grant.Limit) (time.Duration, error) {
	q, err := m.quota(l)
	if err != nil {
		return 0, err
	}
	limited, result, err := q.RateLimitCtx(ctx, key, 1)
	if err != nil {
		return 0, fmt.Errorf("rate limit: %w", err)
	}
	if limited {
		return max(result.RetryAfter, time.Second), nil
	}
	return 0, nil
}

func (m *Memory) quota(l grant.Limit) (*throttled.GCRARateLimiterCtx, error) {
	m.mu.RLock()
	q := m.quotas[l]
	m.mu.RUnlock()
	if q != nil {
		return q, nil
	}
	// MaxBurst is what may come on top of the first request.
	q, err := throttled.NewGCRARateLimiterCtx(m.store, throttled.RateQuota{MaxRate: throttled.PerMin(l.PerMinute), MaxBurst: l.Burst - 1})
	if err != nil {
		return nil, fmt.Errorf("make rate limit: %w", err)
	}
	q.SetMaxCASAttemptsLimit(casAttempts)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.quotas[l] = q
	return q, nil
}

// Fixed is one limit of its own, for things that are limited alike for everybody.
type Fixed struct {
	Limiter *Memory
	Limit   grant.Limit
}

// Allow is Memory.Allow under the fixed limit.
func (f Fixed) Allow(ctx context.Context, key string) (time.Duration, error) {
	return f.Limiter.Allow(ctx, key, f.Limit)
}
