package audit_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
)

// doubtful never knows whether what it was given is stored, and keeps the logs that it was for.
type doubtful struct {
	mu   sync.Mutex
	logs []uuid.UUID
}

func (d *doubtful) Append(_ context.Context, b *audit.Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logs = append(d.logs, b.LogID)
	return audit.ErrInDoubt
}

func (d *doubtful) Stored(context.Context, []audit.Event) (bool, error) { return false, nil }

// TestALogInDoubtIsNotGoneOnWith: nobody knows how far it has come, so every batch after it is for a fresh one.
func TestALogInDoubtIsNotGoneOnWith(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &doubtful{}
		w := audit.NewWriter(d, slog.New(slog.DiscardHandler), time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		for range 3 {
			if err := w.Record(t.Context(), audit.Event{}); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("%v, want audit_unavailable", err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		seen := map[uuid.UUID]bool{}
		for _, id := range d.logs {
			if seen[id] {
				t.Errorf("log %s is gone on with", id)
			}
			seen[id] = true
		}
		if len(d.logs) != 6 {
			t.Errorf("%d batches were tried, want each twice", len(d.logs))
		}
	})
}

// TestARecordThatIsGivenUpIsUnavailable: a request that is given up is not on record for all that anybody knows.
func TestARecordThatIsGivenUpIsUnavailable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, stop := running(t, &sink{took: time.Second})
		w.Coming(2) // not alone: it waits for its turn with others
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := w.Record(ctx, audit.Event{}); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("%v, want audit_unavailable", err)
		}
		stop()
	})
}

// halting is a ledger whose first transaction fails at its end.
type halting struct {
	audit.Ledger
	batches []*audit.Batch
}

func (h *halting) Sequence(_ context.Context, _ int, next func([]audit.Event) *audit.Batch) (int, error) {
	h.batches = append(h.batches, next([]audit.Event{full()}))
	if len(h.batches) == 1 {
		return 0, errors.New("no answer to the commit")
	}
	return 1, nil
}

// TestASequencerBeginsAnewAfterAFailure: the transaction that failed may have grown its log.
func TestASequencerBeginsAnewAfterAFailure(t *testing.T) {
	t.Parallel()
	h := &halting{}
	n := audit.NewNotary(audit.NotaryConfig{Ledger: h, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if _, err := n.Sequence(t.Context()); err == nil {
		t.Error("the failure is not told")
	}
	for range 2 {
		if rows, err := n.Sequence(t.Context()); err != nil || rows != 1 {
			t.Errorf("%d rows, %v", rows, err)
		}
	}
	if b := h.batches; b[1].LogID == b[0].LogID || b[2].LogID != b[1].LogID || b[2].First != 1 {
		t.Errorf("logs %s, %s and %s at %d", b[0].LogID, b[1].LogID, b[2].LogID, b[2].First)
	}
}
