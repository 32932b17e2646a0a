package limit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/valkey"
	"github.com/mosaicstack/gateway/internal/valkey/valkeytest"
)

// replica is one process's limiter over the store at an address.
func replica(t *testing.T, address string) (*limit.Link, *limit.Shared) {
	t.Helper()
	return over(t, address, memory(t))
}

// patient is a replica that an overloaded machine does not make give up a store that is there.
func patient(t *testing.T, address string, m *limit.Memory) (*limit.Link, *limit.Shared) {
	t.Helper()
	link, l := over(t, address, m)
	link.SetBudget(20 * time.Second)
	return link, l
}

func over(t *testing.T, address string, m *limit.Memory) (*limit.Link, *limit.Shared) {
	t.Helper()
	c, err := valkey.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	link := limit.NewLink(c, slog.New(slog.DiscardHandler))
	return link, link.Over(m)
}

// One suite for every place where buckets are kept. A request costs a minute here, so that the time the test takes
// is nothing.
func TestEveryLimiterKeepsTheSameLimits(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(*testing.T) limit.Taker{
		"memory": func(t *testing.T) limit.Taker { return memory(t) },
		"shared": func(t *testing.T) limit.Taker {
			link, l := patient(t, valkeytest.Start(t).URL(), memory(t))
			t.Cleanup(func() {
				if s := link.Stats(); s.Local != 0 || s.Shared == 0 {
					t.Errorf("%+v: the store was not used", s)
				}
			})
			return l
		},
		"shared, and the store is away": func(t *testing.T) limit.Taker {
			_, l := replica(t, valkeytest.New(t).URL())
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("burst, then refused until one interval is over", func(t *testing.T) {
				t.Parallel()
				l, b := make(t), of("grant", "a", 1, 5)
				for i := range 5 {
					s := take(t, l, b)
					if s.Refused() || s.Remaining != 4-i || s.Name != "grant" || s.Limit != b.Limit {
						t.Fatalf("request %d: %+v", i+1, s)
					}
				}
				s := take(t, l, b)
				if s.Wait <= 50*time.Second || s.Wait > time.Minute || s.Remaining != 0 || s.Reset > 5*time.Minute || s.Reset < 4*time.Minute+50*time.Second {
					t.Errorf("after the burst: %+v", s)
				}
				if s := take(t, l, of("grant", "b", 1, 5)); s.Refused() {
					t.Error("one grant's limit is another's")
				}
			})
			t.Run("what is waited for is there", func(t *testing.T) {
				t.Parallel()
				l, b := make(t), of("grant", "a", 3000, 1)
				s := take(t, l, b)
				for !s.Refused() {
					s = take(t, l, b)
				}
				<-time.After(s.Wait)
				if s := take(t, l, b); s.Refused() {
					t.Errorf("after the wait: %+v", s)
				}
			})
			t.Run("all buckets or none", func(t *testing.T) {
				t.Parallel()
				l := make(t)
				g1, g2, p := of("grant", "1", 1, 10), of("grant", "2", 1, 2), of("peer", "p", 1, 5)
				if ok, s := spend(t, l, 3, g2, p); ok != 2 || s.Name != "grant" {
					t.Errorf("grant 2: %d allowed, refused by %s", ok, s.Name)
				}
				if ok, s := spend(t, l, 6, g1, p); ok != 3 || s.Name != "peer" {
					t.Errorf("grant 1: %d allowed, want 3; refused by %s", ok, s.Name)
				}
				if ok, _ := spend(t, l, 20, g1); ok != 7 {
					t.Errorf("grant 1 alone: %d allowed, want 7", ok)
				}
			})
			t.Run("many at once", func(t *testing.T) {
				t.Parallel()
				l := make(t)
				var ok atomic.Int64
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() {
						s, err := l.Take(t.Context(), of("grant", "a", 1, 30))
						if err != nil {
							t.Error(err)
						} else if !s.Refused() {
							ok.Add(1)
						}
					})
				}
				wg.Wait()
				if ok.Load() != 30 {
					t.Errorf("%d of 100 allowed, want 30", ok.Load())
				}
			})
			t.Run("a client that hangs up is counted and is nobody's failure", func(t *testing.T) {
				t.Parallel()
				l, b := make(t), of("grant", "a", 1, 5)
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				for range 5 {
					if _, err := l.Take(gone, b); err != nil {
						t.Error(err)
					}
				}
				if s := take(t, l, b); !s.Refused() {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestReplicasShareALimitWhateverTheirClocksSay(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	b := of("grant", "a", 1, 30)
	total := 0
	var replicas []*limit.Shared
	for _, skew := range []time.Duration{0, -48 * time.Hour, 400 * 24 * time.Hour} {
		m, err := limit.NewMemoryOn(func() time.Time { return time.Now().Round(0).Add(skew) })
		if err != nil {
			t.Fatal(err)
		}
		_, l := patient(t, server.URL(), m)
		replicas = append(replicas, l)
	}
	for range 20 {
		for _, l := range replicas {
			if s := take(t, l, b); !s.Refused() {
				total++
			} else if s.Wait > time.Minute {
				t.Errorf("wait %s for what one minute brings", s.Wait)
			}
		}
	}
	if total != 30 {
		t.Errorf("three replicas allowed %d together, want 30", total)
	}
}

func TestLosingTheStoreGivesNoFreshBurst(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	link, a := patient(t, server.URL(), memory(t))
	_, other := patient(t, server.URL(), memory(t))
	b := of("grant", "a", 1, 60)
	spend(t, a, 20, b)
	spend(t, other, 30, b)
	spend(t, a, 1, b) // learns what the other spent
	server.Kill()
	if ok, s := spend(t, a, 100, b); ok != 9 || !s.Refused() {
		t.Errorf("51 of 60 were spent and the store was killed: %d more allowed, want 9", ok)
	}
	if link.Err() == nil || !link.Stats().Down {
		t.Error("nothing tells that the store is away")
	}
	server.Start() // and has forgotten everything
	link.Probe(t.Context())
	if err := link.Err(); err != nil {
		t.Fatalf("the store is back: %v", err)
	}
	before := link.Stats().Shared
	if s := take(t, a, b); !s.Refused() {
		t.Errorf("the store came back empty: %+v", s)
	}
	if ok, _ := spend(t, other, 5, b); ok != 0 {
		t.Errorf("another replica, once the first has told the store: %d allowed", ok)
	}
	if link.Stats().Shared != before+1 {
		t.Error("the store that is back is not used")
	}
}

func TestWhatWasSpentWhileTheStoreHungIsToldToIt(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	link, a := replica(t, server.URL())
	_, other := replica(t, server.URL())
	b := of("grant", "a", 1, 20)
	spend(t, a, 1, b)
	server.Hang()
	if ok, _ := spend(t, a, 50, b); ok != 19 {
		t.Errorf("%d allowed while the store hangs, want 19", ok)
	}
	server.Resume()
	link.Probe(t.Context())
	if err := link.Err(); err != nil {
		t.Fatal(err)
	}
	if s := take(t, a, b); !s.Refused() {
		t.Errorf("%+v, want refused", s)
	}
	if ok, _ := spend(t, other, 20, b); ok != 0 {
		t.Errorf("another replica: %d allowed", ok)
	}
}

func TestAHangingStoreIsAskedAFewTimesAndThenNoMore(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	link, l := replica(t, server.URL())
	spend(t, l, 1, of("grant", "a", 120, 60))
	server.Hang()
	defer server.Resume()
	const workers = 8
	var slow atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range 250 {
				started := time.Now()
				if _, err := l.Take(t.Context(), of("grant", fmt.Sprint(w), 120, 60)); err != nil {
					t.Error(err)
				}
				if time.Since(started) >= 50*time.Millisecond {
					slow.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s := link.Stats()
	if s.Local != 2000 || s.Failed < 3 || s.Failed >= 3+workers || !s.Down {
		t.Errorf("%+v, want 2000 limited here and fewer than %d that waited", s, 3+workers)
	}
	t.Logf("%d of 2000 requests waited for the store", slow.Load())
}

// admitting keeps a limiter busy and counts what it lets through.
type admitting struct {
	*limit.Shared
	ok, done atomic.Int64
}

func (a *admitting) until(t *testing.T, what string, reached func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for patience := time.After(30 * time.Second); !reached(); {
		select {
		case <-tick.C:
		case <-patience:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestLimitsHoldThroughKillHangAndRestart(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	link, shared := replica(t, server.URL())
	l := &admitting{Shared: shared}
	const workers = 4
	b := of("grant", "a", 6000, 100)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = link.Run(ctx) })
	started := time.Now()
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				s, err := l.Take(context.Background(), b)
				if err != nil {
					t.Error(err)
					return
				}
				if l.done.Add(1); !s.Refused() {
					l.ok.Add(1)
				} else if s.Wait > 10*time.Millisecond {
					t.Errorf("wait %s for what 10 ms bring", s.Wait)
					return
				}
			}
		})
	}
	more := func(n func() int64) func() bool {
		was := n()
		return func() bool { return n() > was+5 }
	}
	admitted := func() int64 { return l.ok.Load() }
	sharedNow := func() int64 { return int64(link.Stats().Shared) }
	up, down := func() bool { return link.Err() == nil }, func() bool { return link.Err() != nil }

	l.until(t, "the burst is spent", func() bool { return l.ok.Load() > 100 })
	for round := range 2 {
		server.Kill()
		l.until(t, "the loss is told", down)
		l.until(t, "requests are admitted without the store", more(admitted))
		server.Start()
		l.until(t, "the return is told", up)
		l.until(t, "the store is used again", more(sharedNow))
		l.until(t, "requests are admitted with the store", more(admitted))
		server.Hang()
		l.until(t, "the hang is told", down)
		l.until(t, "requests are admitted while it hangs", more(admitted))
		server.Resume()
		l.until(t, fmt.Sprint("the return is told, round ", round), up)
		l.until(t, "the store is used after it hung", more(sharedNow))
	}
	stop()
	wg.Wait()
	// A limiter that is asked all the time lets through the burst and one for every 10 ms. Beside these: what the
	// other workers had under way when one of them gave the store up, and the 50 ms that are taken off of what the
	// store is told when it is back, four times.
	most := 100 + int64(time.Since(started)/(10*time.Millisecond)) + 1 + (workers-1)*int64(link.Stats().Failed) + 4*5
	if l.ok.Load() > most {
		t.Errorf("%d admitted in %s, want at most %d", l.ok.Load(), time.Since(started), most)
	}
	t.Logf("%d of %d admitted, %d allowed by the limit; %+v", l.ok.Load(), l.done.Load(), most, link.Stats())
}

func TestAStoreThatMayNotBeUsedIsNotUsed(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t, "--save", "900 1")
	link, l := replica(t, server.URL())
	link.Probe(t.Context())
	if !errors.Is(link.Err(), valkey.ErrPersists) {
		t.Fatalf("%v, want valkey_persists", link.Err())
	}
	if ok, _ := spend(t, l, 20, of("grant", "a", 1, 10)); ok != 10 {
		t.Errorf("%d allowed, want 10", ok)
	}
	if s := link.Stats(); s.Shared != 0 || s.Failed != 0 || s.Local != 20 {
		t.Errorf("%+v: it was asked", s)
	}
	server.Do("CONFIG", "SET", "save", "")
	link.Probe(t.Context())
	if link.Err() != nil {
		t.Errorf("mended: %v", link.Err())
	}
}

func TestAStoreWhoseMemoryIsFullIsAway(t *testing.T) {
	t.Parallel()
	server := valkeytest.Start(t)
	link, l := replica(t, server.URL())
	server.Do("CONFIG", "SET", "maxmemory", "1")
	if ok, _ := spend(t, l, 20, of("grant", "a", 1, 10)); ok != 10 {
		t.Errorf("%d allowed, want 10", ok)
	}
	link.Probe(t.Context())
	if link.Err() == nil {
		t.Error("a store that takes no writes is taken for one that does")
	}
	server.Do("CONFIG", "SET", "maxmemory", "0")
	link.Probe(t.Context())
	if link.Err() != nil {
		t.Errorf("mended: %v", link.Err())
	}
}
