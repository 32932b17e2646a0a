package limit_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/limit"
)

func memory(t *testing.T) *limit.Memory {
	t.Helper()
	m, err := limit.NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func of(name, id string, perMinute, burst int) grant.Bucket {
	return grant.Bucket{Name: name, ID: id, Limit: grant.Limit{PerMinute: perMinute, Burst: burst}}
}

func take(t *testing.T, l limit.Taker, buckets ...grant.Bucket) grant.Standing {
	t.Helper()
	s, err := l.Take(t.Context(), buckets...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// spend takes so many times at once, and gives how many were allowed and where the bucket stands then.
func spend(t *testing.T, l limit.Taker, tries int, buckets ...grant.Bucket) (ok int, last grant.Standing) {
	t.Helper()
	for range tries {
		last = take(t, l, buckets...)
		if !last.Refused() {
			ok++
		}
	}
	return ok, last
}

func TestBurstThenRate(t *testing.T) {
	t.Parallel()
	for _, l := range []grant.Limit{{PerMinute: 120, Burst: 60}, {PerMinute: 30, Burst: 30}, {PerMinute: 60, Burst: 1}} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := memory(t)
				b := grant.Bucket{Name: "grant", ID: "k", Limit: l}
				if ok, s := spend(t, m, 2*l.Burst, b); ok != l.Burst || s.Wait != l.Interval() {
					t.Errorf("at once: %d of %d allowed, wait %s", ok, 2*l.Burst, s.Wait)
				}
				time.Sleep(time.Minute)
				if ok, _ := spend(t, m, 2*l.PerMinute, b); ok != min(l.PerMinute, l.Burst) {
					t.Errorf("a minute later: %d allowed, want %d", ok, min(l.PerMinute, l.Burst))
				}
				other := b
				other.ID = "another"
				if ok, _ := spend(t, m, 1, other); ok != 1 {
					t.Error("one bucket's limit is another's")
				}
			})
		})
	}
}

func TestAStandingTellsWhatIsLeftAndWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memory(t)
		b := of("grant", "k", 60, 3)
		for i, want := range []grant.Standing{
			{Remaining: 2, Reset: time.Second},
			{Remaining: 1, Reset: 2 * time.Second},
			{Remaining: 0, Reset: 3 * time.Second},
			{Remaining: 0, Reset: 3 * time.Second, Wait: time.Second},
		} {
			want.Name, want.Limit = b.Name, b.Limit
			if got := take(t, m, b); got != want {
				t.Errorf("request %d: %+v, want %+v", i+1, got, want)
			}
		}
		time.Sleep(500 * time.Millisecond)
		if got := take(t, m, b); got.Wait != 500*time.Millisecond {
			t.Errorf("half of the wait later: %s", got.Wait)
		}
		time.Sleep(500 * time.Millisecond)
		if got := take(t, m, b); got.Refused() {
			t.Errorf("after the wait: %+v", got)
		}
	})
}

func TestAllBucketsAreSpentFromOrNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memory(t)
		g1, g2, p := of("grant", "1", 60, 10), of("grant", "2", 60, 2), of("peer", "p", 60, 5)
		if ok, s := spend(t, m, 3, g2, p); ok != 2 || s.Name != "grant" {
			t.Errorf("grant 2: %d allowed, refused by %s", ok, s.Name)
		}
		// The refused third request took nothing from the peer: three are left there.
		if ok, s := spend(t, m, 6, g1, p); ok != 3 || s.Name != "peer" {
			t.Errorf("grant 1: %d allowed, want 3; refused by %s", ok, s.Name)
		}
		// And the peer's three refusals took nothing from grant 1: seven are left there.
		if ok, _ := spend(t, m, 20, g1); ok != 7 {
			t.Errorf("grant 1 alone: %d allowed, want 7", ok)
		}
	})
}

func TestManyAtOnceNeverExceedTheBurst(t *testing.T) {
	t.Parallel()
	m := memory(t)
	var mu sync.Mutex
	ok := 0
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			s, err := m.Take(t.Context(), of("grant", "k", 1, 50), of("peer", "p", 1, 70))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if !s.Refused() {
				ok++
			}
		})
	}
	wg.Wait()
	if ok != 50 {
		t.Errorf("%d of 200 allowed, want 50", ok)
	}
}

func TestAClockThatIsSetLocksNobodyOut(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // without a monotonic reading
	m, err := limit.NewMemoryOn(func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	b := of("grant", "k", 60, 10)
	spend(t, m, 10, b)
	now = now.Add(-time.Hour)
	s := take(t, m, b)
	if s.Wait > time.Second || s.Reset > 10*time.Second {
		t.Errorf("set back an hour: wait %s, reset %s; want no more than one request's and the burst's", s.Wait, s.Reset)
	}
	if ok, _ := spend(t, m, 10, b); ok != 0 {
		t.Errorf("set back an hour: %d allowed of a spent burst", ok)
	}
	now = now.Add(24 * time.Hour)
	if ok, _ := spend(t, m, 20, b); ok != 10 {
		t.Errorf("set forward a day: %d allowed, want the burst and no more", ok)
	}
}

func TestALimitMadeSmallerHoldsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := memory(t)
		spend(t, m, 100, of("peer", "p", 60, 100))
		small := of("peer", "p", 60, 5)
		if s := take(t, m, small); s.Wait != time.Second || s.Reset != 5*time.Second {
			t.Errorf("wait %s, reset %s; want the small limit's", s.Wait, s.Reset)
		}
	})
}
