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

func allowed(t *testing.T, m *limit.Memory, key string, l grant.Limit, tries int) (ok int, wait time.Duration) {
	t.Helper()
	for range tries {
		w, err := m.Allow(t.Context(), key, l)
		if err != nil {
			t.Fatal(err)
		}
		if w == 0 {
			ok++
		} else {
			wait = w
		}
	}
	return ok, wait
}

func TestBurstThenRate(t *testing.T) {
	t.Parallel()
	for _, l := range []grant.Limit{{PerMinute: 120, Burst: 60}, {PerMinute: 30, Burst: 30}, {PerMinute: 60, Burst: 1}} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, err := limit.NewMemory()
				if err != nil {
					t.Fatal(err)
				}
				if ok, wait := allowed(t, m, "k", l, 2*l.Burst); ok != l.Burst || wait <= 0 {
					t.Errorf("at once: %d of %d allowed, wait %s", ok, 2*l.Burst, wait)
				}
				time.Sleep(time.Minute)
				if ok, _ := allowed(t, m, "k", l, 2*l.PerMinute); ok != min(l.PerMinute, l.Burst) {
					t.Errorf("a minute later: %d allowed, want %d", ok, min(l.PerMinute, l.Burst))
				}
				if ok, _ := allowed(t, m, "another", l, 1); ok != 1 {
					t.Error("one key's limit is another's")
				}
			})
		})
	}
}

func TestManyAtOnceNeverExceedTheBurst(t *testing.T) {
	t.Parallel()
	m, err := limit.NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ok := 0
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			wait, err := m.Allow(t.Context(), "k", grant.Limit{PerMinute: 1, Burst: 50})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if wait == 0 {
				ok++
			}
		})
	}
	wg.Wait()
	if ok != 50 {
		t.Errorf("%d of 200 allowed, want 50", ok)
	}
}
