package limit_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/limit"
)

// told is a store that keeps what it was told, and fails when it is to.
type told struct {
	err   error
	owed  []time.Duration
	stood time.Duration // until the bucket is full, as it answers
}

func (s *told) Take(_ context.Context, b []grant.Bucket, owed []time.Duration) ([]grant.Standing, error) {
	s.owed = owed
	return []grant.Standing{{Name: b[0].Name, Limit: b[0].Limit, Remaining: 1, Reset: s.stood}}, s.err
}

func (s *told) Ready(context.Context) error { return nil }

// TestWhatIsOwedNeverMakesTheStoresNumberLarger: what is told is as long under way as a request may wait, so that
// much is taken off of it.
func TestWhatIsOwedNeverMakesTheStoresNumberLarger(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m, err := limit.NewMemoryOn(func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	store := &told{stood: 10 * time.Second}
	link := limit.NewLink(store, slog.New(slog.DiscardHandler))
	link.SetBudget(time.Minute)
	l, b := link.Over(m), of("grant", "a", 60, 60)
	take(t, l, b)
	take(t, l, b)
	if want := 10*time.Second - 50*time.Millisecond; store.owed[0] > want || store.owed[0] < want-time.Millisecond {
		t.Errorf("told %s, want %s", store.owed[0], want)
	}
}

// TestFailuresAreInARowOnlyWhenNothingGoodIsBetween: a look at the store that finds it well begins the row anew.
func TestFailuresAreInARowOnlyWhenNothingGoodIsBetween(t *testing.T) {
	t.Parallel()
	store := &told{err: errors.New("a hiccup")}
	link := limit.NewLink(store, slog.New(slog.DiscardHandler))
	link.SetBudget(time.Minute)
	l, b := link.Over(memory(t)), of("grant", "a", 60, 60)
	for range 2 {
		take(t, l, b)
		take(t, l, b)
		link.Probe(t.Context())
	}
	take(t, l, b)
	take(t, l, b)
	if err := link.Err(); err != nil {
		t.Errorf("never three failures in a row, and the store is given up: %v", err)
	}
	take(t, l, b)
	if link.Err() == nil {
		t.Error("three failures in a row, and the store is not given up")
	}
}
