package audit_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
)

// sink is a store whose commits take as long as the test says.
type sink struct {
	took time.Duration
	bad  string // a batch that holds this verb is refused
	down error

	mu      sync.Mutex
	batches [][]audit.Event
}

func (s *sink) Append(ctx context.Context, b *audit.Batch) error {
	events := b.Events
	select {
	case <-time.After(s.took):
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.down != nil {
		return s.down
	}
	for _, e := range events {
		if s.bad != "" && e.Verb == s.bad {
			return audit.ErrRefused
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, append([]audit.Event(nil), events...))
	return nil
}

// Stored implements audit.Sink.
func (s *sink) Stored(context.Context, []audit.Event) (bool, error) { return false, nil }

func (s *sink) stored() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.batches {
		n += len(b)
	}
	return n
}

// running starts a writer, and returns what stops it and waits until it has stopped.
func running(t *testing.T, s *sink) (*audit.Writer, func()) {
	t.Helper()
	w := audit.NewWriter(s, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return w, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestEventsThatArriveDuringACommitShareTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: time.Second}
		w, stop := running(t, s)
		start := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := w.Record(t.Context(), audit.Event{Verb: "list"}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("100 events took %s; nobody waits for more than two commits", took)
		}
		if len(s.batches) > 2 || s.stored() != 100 {
			t.Errorf("%d events in %d batches, want 100 in 2", s.stored(), len(s.batches))
		}
		stop()
	})
}

func TestRecordReturnsOnlyWhenTheEventIsCommitted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: time.Second}
		w, stop := running(t, s)
		if err := w.Record(t.Context(), audit.Event{}); err != nil || s.stored() != 1 {
			t.Errorf("%v with %d events stored", err, s.stored())
		}
		stop()
	})
}

func TestOneBadEventDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: time.Millisecond, bad: "bad"}
		w, stop := running(t, s)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				verb := "list"
				if i == 5 {
					verb = "bad"
				}
				if err := w.Record(t.Context(), audit.Event{Verb: verb}); (err != nil) != (verb == "bad") {
					t.Errorf("%s: %v", verb, err)
				}
			})
		}
		wg.Wait()
		if s.stored() != 9 {
			t.Errorf("%d events stored, want the 9 good ones", s.stored())
		}
		stop()
	})
}

func TestWhatCannotBeStoredIsUnavailable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, stop := running(t, &sink{down: errors.New("no database")})
		if err := w.Record(t.Context(), audit.Event{}); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("%v, want audit_unavailable", err)
		}
		stop()
		if err := w.Record(t.Context(), audit.Event{}); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("after the stop: %v, want audit_unavailable", err)
		}
	})
}

func TestStopCommitsWhatIsQueued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: time.Second}
		w, stop := running(t, s)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if err := w.Record(t.Context(), audit.Event{}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		stop()
		wg.Wait()
		if s.stored() != 20 {
			t.Errorf("%d of 20 events stored", s.stored())
		}
	})
}

// TestWhoIsAloneCommitsWithoutTheQueue: nothing takes from the queue of a writer that does not run.
func TestWhoIsAloneCommitsWithoutTheQueue(t *testing.T) {
	t.Parallel()
	s := &sink{}
	w := audit.NewWriter(s, slog.New(slog.DiscardHandler), time.Now)
	for range 2 {
		w.Coming(1)
		if err := w.Record(t.Context(), audit.Event{}); err != nil {
			t.Error(err)
		}
		w.Coming(-1)
	}
	if s.stored() != 2 {
		t.Errorf("%d events stored, want 2", s.stored())
	}
}

// TestStopWaitsForWhoIsAlone: what the writer stores to may be closed when it has ended.
func TestStopWaitsForWhoIsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: time.Second}
		w, stop := running(t, s)
		recorded := make(chan error, 1)
		go func() { recorded <- w.Record(t.Context(), audit.Event{}) }()
		synctest.Wait()
		stop()
		if s.stored() != 1 {
			t.Error("the writer has ended before the event was stored")
		}
		if err := <-recorded; err != nil {
			t.Error(err)
		}
		if err := w.Record(t.Context(), audit.Event{}); !errors.Is(err, audit.ErrUnavailable) || s.stored() != 1 {
			t.Errorf("after the stop: %v with %d events stored", err, s.stored())
		}
	})
}

func TestAFullQueueTurnsAwayInsteadOfGrowing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: time.Hour}
		w, stop := running(t, s)
		refused := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 6000 {
			wg.Go(func() {
				if err := w.Record(t.Context(), audit.Event{}); errors.Is(err, audit.ErrUnavailable) {
					mu.Lock()
					refused++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if refused == 0 {
			t.Error("6000 events were taken by a store that is stuck")
		}
		stop()
	})
}
