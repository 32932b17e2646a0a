package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
)

// recorder keeps what it is given, unless it is down.
type recorder struct {
	mu   sync.Mutex
	down bool
	rows []audit.Event
}

func (r *recorder) Record(_ context.Context, e audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return errors.New("no database")
	}
	r.rows = append(r.rows, e)
	return nil
}

func (r *recorder) written() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.rows)
}

func (r *recorder) counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := map[string]int{}
	for _, e := range r.rows {
		n[e.RemoteAddress+" "+e.DeniedReason] += e.Occurrences
	}
	return n
}

func aggregating(t *testing.T) (*audit.Aggregator, *recorder, func()) {
	r := &recorder{}
	a := audit.NewAggregator(r, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	return a, r, func() { cancel(); <-done }
}

func guess(address, reason string) audit.Event {
	return audit.Event{RequestID: "r", Direction: audit.Inbound, RemoteAddress: address, Verb: "enrollment.redeem", DeniedReason: reason, StatusCode: 404}
}

func TestGuessingIsOneRowAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, r, stop := aggregating(t)
		for range 1000 {
			a.Note(guess("192.0.2.1", "unknown"))
			a.Note(guess("192.0.2.254", "unknown"))
			a.Note(guess("::ffff:192.0.3.1", "unknown"))
			a.Note(guess("2001:db8::1", "unknown"))
			a.Note(guess("2001:db8:0:0:ffff::2", "unknown"))
			a.Note(guess("192.0.2.1", "rate_limited"))
		}
		if r.written() != 0 {
			t.Errorf("%d rows before the minute has ended", r.written())
		}
		time.Sleep(70 * time.Second)
		synctest.Wait()
		want := map[string]int{"192.0.2.0/24 unknown": 2000, "192.0.3.0/24 unknown": 1000, "2001:db8::/64 unknown": 2000, "192.0.2.0/24 rate_limited": 1000}
		if got := r.counts(); r.written() != 4 || !maps.Equal(got, want) {
			t.Errorf("%d rows: %v", r.written(), got)
		}
		a.Note(guess("192.0.2.1", "unknown"))
		stop()
		if r.written() != 4 {
			t.Error("the stop wrote, which is for Flush")
		}
		a.Flush(t.Context())
		if got := r.counts(); got["192.0.2.0/24 unknown"] != 2001 || r.written() != 5 {
			t.Errorf("after the end: %v", got)
		}
	})
}

func TestAFloodOfAddressesIsBoundedAndCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, r, stop := aggregating(t)
		r.mu.Lock()
		r.down = true
		r.mu.Unlock()
		for range 3 { // minutes in which nothing can be written
			for i := range 20_000 {
				a.Note(guess(fmt.Sprintf("10.%d.%d.1", i/256, i%256), "unknown"))
			}
			time.Sleep(time.Minute)
		}
		r.mu.Lock()
		r.down = false
		r.mu.Unlock()
		time.Sleep(2 * time.Minute)
		stop()
		total := 0
		for _, n := range r.counts() {
			total += n
		}
		if total != 60_000 || r.written() > 2100 {
			t.Errorf("%d refusals in %d rows, of 60000", total, r.written())
		}
	})
}
