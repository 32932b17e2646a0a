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

// TestAMinuteIsWrittenWhenItHasEnded, and not in two rows.
func TestAMinuteIsWrittenWhenItHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, r, stop := aggregating(t)
		defer stop()
		time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
		a.Note(guess("192.0.2.1", "token_invalid"))
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if n := r.written(); n != 0 {
			t.Errorf("%d rows of a minute that goes on", n)
		}
		a.Note(guess("192.0.2.2", "token_invalid"))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n, counts := r.written(), r.counts(); n != 1 || counts["192.0.2.0/24 token_invalid"] != 2 {
			t.Errorf("%d rows: %v", n, counts)
		}
	})
}

// crowded is a store that is away, and while it says so, others are refused and take the room.
type crowded struct {
	recorder
	meanwhile func()
	once      sync.Once
}

func (c *crowded) Record(ctx context.Context, e audit.Event) error {
	c.once.Do(c.meanwhile)
	return c.recorder.Record(ctx, e)
}

// TestARowWithoutRoomIsCountedUnderOneAddress: what could not be written comes back to a table that is full.
func TestARowWithoutRoomIsCountedUnderOneAddress(t *testing.T) {
	t.Parallel()
	c := &crowded{recorder: recorder{down: true}}
	now := time.Now()
	a := audit.NewAggregator(c, slog.New(slog.DiscardHandler), func() time.Time { return now })
	for i := range 3 {
		for range 5 {
			a.Note(guess(fmt.Sprintf("192.0.%d.1", i), "token_invalid"))
		}
	}
	c.meanwhile = func() {
		for i := range 2048 {
			a.Note(guess(fmt.Sprintf("10.%d.%d.1", i/256, i%256), "other"))
		}
	}
	a.Flush(t.Context())
	c.mu.Lock()
	c.down = false
	c.mu.Unlock()
	a.Flush(t.Context())
	counts := c.counts()
	if counts["many token_invalid"] != 15 || counts["192.0.0.0/24 token_invalid"]+counts["192.0.1.0/24 token_invalid"]+counts["192.0.2.0/24 token_invalid"] != 0 {
		t.Errorf("%d of 15 under one address, %d addresses in all", counts["many token_invalid"], len(counts))
	}
}
