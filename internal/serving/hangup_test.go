package serving

import (
	"context"
	"errors"
	"testing"

	"github.com/mosaicstack/gateway/internal/audit"
)

// hanging is a store that keeps what was hung up.
type hanging struct {
	ruling
	rows []audit.Event
}

func (h *hanging) HangUp(_ context.Context, _ Check, act audit.Act, request audit.Event) error {
	if err := h.ask(); err != nil {
		return err
	}
	h.rows = append(h.rows, act.Event("grant.revoke"), request)
	return nil
}

func TestAHangUpOverTheLimitIsNotCarriedOut(t *testing.T) {
	t.Parallel()
	store := &hanging{}
	s, c := refusing(&store.ruling)
	limiter := &refusingLimiter{}
	s.Store, s.Limiter = store, limiter
	a, err := s.HangUp(t.Context(), c)
	if !errors.Is(err, ErrRateLimited) || a.Limit.Name != "grant" || len(store.rows) != 0 || limiter.takes.Load() != 1 {
		t.Errorf("%v, %d rows, counted %d times", err, len(store.rows), limiter.takes.Load())
	}
	store.rule(ErrPeerSuspended)
	if _, err := s.HangUp(t.Context(), c); !errors.Is(err, ErrPeerSuspended) || limiter.takes.Load() != 1 {
		t.Errorf("%v; whoever may not ask spends nothing, counted %d times", err, limiter.takes.Load())
	}
}

// TestAHangUpIsAnsweredWhenItIsDone: its record is part of it, so nothing that comes after can fail.
func TestAHangUpIsAnsweredWhenItIsDone(t *testing.T) {
	t.Parallel()
	store := &hanging{}
	s, c := refusing(&store.ruling)
	counted := &countingLimiter{}
	s.Store, s.Audit, s.Limiter = store, failingRecorder{}, counted
	a, err := s.HangUp(t.Context(), c)
	if err != nil || len(a.Body) == 0 || counted.takes.Load() != 1 {
		t.Fatalf("%q %v, counted %d times", a.Body, err, counted.takes.Load())
	}
	if r := store.rows[1]; r.Verb != "hangup" || r.StatusCode != 200 || r.Outcome != audit.OK || r.Direction != audit.Inbound || r.BytesOut != int64(len(a.Body)) {
		t.Errorf("the request is on record as %+v", r)
	}
}

// breaking is a store that panics.
type breaking struct{ *granting }

func (breaking) List(context.Context, ListQuery) (Rows, error) { panic("boom") }

func TestAPanicIsOnRecordAsAnError(t *testing.T) {
	t.Parallel()
	s, store, _, c := granted(t, 0, func(*Plan) {})
	log := &heeding{}
	s.Audit, s.Store = log, breaking{store}
	defer func() {
		if recover() == nil {
			t.Error("the panic did not reach whoever turns it into an answer")
		}
		if len(log.events) != 1 || log.events[0].StatusCode != 500 || log.events[0].Outcome != audit.Failed || log.events[0].DeniedReason != "internal" || log.events[0].Verb != "list" {
			t.Errorf("on record: %+v", log.events)
		}
	}()
	_, _ = s.List(t.Context(), c, ListRequest{Resource: "tasks"})
}
