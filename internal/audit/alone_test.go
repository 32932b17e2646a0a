package audit_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
)

// ledger is a store as the database is one: it takes a batch only where its log ends, and a row only once. What it
// answers is by lot. It holds its writer to one batch at a time.
type ledger struct {
	t    *testing.T
	draw *rand.Rand

	mu     sync.Mutex
	busy   bool
	size   map[uuid.UUID]int64 // of each log
	doubt  map[uuid.UUID]bool  // logs that nobody may go on with
	rows   map[uuid.UUID]bool
	calls  int
	single int // batches of one row
	most   int // rows in a batch
}

func newLedger(t *testing.T) *ledger {
	return &ledger{t: t, draw: rand.New(rand.NewPCG(1, 2)), size: map[uuid.UUID]int64{}, doubt: map[uuid.UUID]bool{}, rows: map[uuid.UUID]bool{}}
}

func (l *ledger) Append(_ context.Context, b *audit.Batch) error {
	l.mu.Lock()
	if l.busy {
		l.t.Error("two batches at once")
	}
	l.busy = true
	lot, took := l.draw.IntN(20), time.Duration(l.draw.IntN(400))*time.Microsecond
	l.mu.Unlock()
	time.Sleep(took)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy = false
	l.calls++
	if len(b.Events) == 1 {
		l.single++
	}
	l.most = max(l.most, len(b.Events))
	if l.doubt[b.LogID] {
		l.t.Errorf("log %s is gone on with after doubt", b.LogID)
	}
	if b.First != l.size[b.LogID] {
		l.t.Errorf("a batch for leaf %d of a log of %d", b.First, l.size[b.LogID])
		return audit.ErrRefused
	}
	if lot == 0 {
		return errors.New("no connection")
	}
	if lot == 1 {
		l.doubt[b.LogID] = true
		return audit.ErrInDoubt // it has not arrived
	}
	for _, e := range b.Events {
		if l.rows[e.ID] || e.Verb == "bad" {
			return audit.ErrRefused
		}
	}
	l.size[b.LogID] += int64(len(b.Events))
	for _, e := range b.Events {
		l.rows[e.ID] = true
	}
	if lot <= 3 {
		l.doubt[b.LogID] = true
		if lot == 2 {
			return audit.ErrInDoubt
		}
		if len(b.Events) == 1 && b.Events[0].Verb == "alone" {
			panic("after the commit")
		}
		return audit.ErrInDoubt
	}
	return nil
}

func (l *ledger) Stored(_ context.Context, events []audit.Event) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if !l.rows[e.ID] {
			return false, nil
		}
	}
	return true, nil
}

// attempt records an event as a request does, whose panic is caught where requests begin.
func attempt(w *audit.Writer, e audit.Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("panic")
		}
	}()
	return w.Record(context.Background(), e)
}

// TestAloneAndTogetherOneLogIsContinued: whoever commits where it is and the queue write one log, one after the other,
// whatever becomes of a batch; and whoever is told that it is on record is.
func TestAloneAndTogetherOneLogIsContinued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		w := audit.NewWriter(l, slog.New(slog.DiscardHandler), time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		told := func(verb string) {
			e := audit.Event{ID: uuid.New(), Verb: verb}
			if err := attempt(w, e); err != nil {
				return
			}
			if stored, _ := l.Stored(t.Context(), []audit.Event{e}); !stored {
				t.Error("an event is said to be on record and is not")
			}
		}
		for range 40 {
			for range 10 {
				w.Coming(1)
				told("alone")
				told("bad")
				w.Coming(-1)
			}
			var crowd sync.WaitGroup
			for i := range 16 {
				crowd.Go(func() {
					for range 4 {
						if i%2 == 0 { // the others are not announced, as those are who ask other gateways
							w.Coming(1)
							defer w.Coming(-1)
						}
						time.Sleep(time.Duration(i*37) * time.Microsecond)
						told([]string{"crowd", "bad"}[i/15])
					}
				})
			}
			crowd.Wait()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if l.single < 800 || l.most < 4 {
			t.Errorf("%d batches of one row, and at most %d rows in one: not both ways were gone", l.single, l.most)
		}
	})
}

// TestAPanicDoesNotStopTheLog: nobody knows whether the log grew, so it is not gone on with, and the turn is given back.
func TestAPanicDoesNotStopTheLog(t *testing.T) {
	t.Parallel()
	s := &panicking{}
	w := audit.NewWriter(s, slog.New(slog.DiscardHandler), time.Now)
	for i := range 3 {
		if err := attempt(w, audit.Event{}); (err != nil) != (i == 0) {
			t.Errorf("event %d: %v", i, err)
		}
	}
	if len(s.batches) == 3 && (s.batches[1].LogID == s.batches[0].LogID || s.batches[2].LogID != s.batches[1].LogID) {
		t.Error("the log of the panic is gone on with, or the one after it is not")
	}
}

type panicking struct {
	ledger
	batches []*audit.Batch
}

func (p *panicking) Append(_ context.Context, b *audit.Batch) error {
	if p.batches = append(p.batches, b); len(p.batches) == 1 {
		panic("after the commit")
	}
	return nil
}

// TestNobodyOvertakesTheQueue: who comes later and is alone waits behind those who wait.
func TestNobodyOvertakesTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := audit.NewWriter(s, slog.New(slog.DiscardHandler), time.Now)
		recorded := make(chan error, 2)
		w.Coming(2)
		go func() { recorded <- w.Record(t.Context(), audit.Event{Verb: "first"}) }()
		synctest.Wait()
		w.Coming(-2)
		go func() { recorded <- w.Record(t.Context(), audit.Event{Verb: "second"}) }()
		synctest.Wait()
		if s.stored() != 0 || w.Waiting() != 2 {
			t.Errorf("%d events are stored and %d wait, want both to wait", s.stored(), w.Waiting())
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		for range 2 {
			if err := <-recorded; err != nil {
				t.Error(err)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestTheQueueIsNotKeptWaiting: of those who commit where they are, none goes before a batch that waits for its turn.
func TestTheQueueIsNotKeptWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const commit = time.Millisecond
		s := &sink{took: commit}
		w, stop := running(t, s)
		var others sync.WaitGroup
		start := time.Now()
		for range 3 { // announced by nobody
			others.Go(func() {
				for time.Since(start) < 200*commit {
					if err := w.Record(t.Context(), audit.Event{Verb: "outbound"}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		w.Coming(2)
		for time.Since(start) < 200*commit {
			before := time.Now()
			if err := w.Record(t.Context(), audit.Event{Verb: "list"}); err != nil {
				t.Error(err)
			}
			if took := time.Since(before); took > 3*commit {
				t.Errorf("it took %s", took)
			}
		}
		w.Coming(-2)
		others.Wait()
		stop()
	})
}

// TestStopEndsAWaitForOthers: nobody comes any more, so a batch that waits for a crowd is committed at once.
func TestStopEndsAWaitForOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w, stop := running(t, s)
		w.Coming(1000)
		start := time.Now()
		recorded := make(chan error, 1)
		go func() { recorded <- w.Record(t.Context(), audit.Event{}) }()
		synctest.Wait()
		stop()
		if err := <-recorded; err != nil || s.stored() != 1 || time.Since(start) != 0 {
			t.Errorf("%v after %s, with %d events stored", err, time.Since(start), s.stored())
		}
	})
}
