package serving

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
)

// Each part of these takes a time of its own, so that a step that is measured as another shows.
type (
	slowStore    struct{ ruling }
	slowLimiter  struct{ wait time.Duration }
	slowRecorder struct{ err error }
)

func (s *slowStore) Plan(context.Context, [32]byte) (Plan, error) {
	time.Sleep(2 * time.Second)
	return Plan{}, nil
}

func (s *slowStore) Authorize(context.Context, Check) error {
	time.Sleep(3 * time.Second)
	return s.ask()
}

func (s *slowStore) Search(context.Context, SearchQuery) (Found, error) { return Found{}, s.ask() }

func (l slowLimiter) Take(context.Context, ...grant.Bucket) (grant.Standing, error) {
	time.Sleep(4 * time.Second)
	return grant.Standing{Wait: l.wait}, nil
}

func (r slowRecorder) Record(context.Context, audit.Event) error {
	time.Sleep(5 * time.Second)
	return r.err
}

func TestEveryRequestIsObservedStepByStep(t *testing.T) {
	t.Parallel()
	const s = time.Second
	all := [Steps]bool{true, true, true, true, true}
	tests := []struct {
		name    string
		store   error
		limiter slowLimiter
		record  error
		status  int
		code    string
		steps   [Steps]time.Duration
		reached [Steps]bool
	}{
		{"answered", nil, slowLimiter{}, nil, 200, "", [Steps]time.Duration{0, 2 * s, 3 * s, 4 * s, 5 * s}, all},
		{"refused", ErrGrantRevoked, slowLimiter{}, nil, 403, "grant_revoked", [Steps]time.Duration{0, 2 * s, 3 * s, 0, 5 * s}, [Steps]bool{true, true, true, false, true}},
		{"limited", nil, slowLimiter{s}, nil, 429, "rate_limited", [Steps]time.Duration{0, 2 * s, 3 * s, 4 * s, 0}, [Steps]bool{true, true, true, true, false}},
		{"not recorded", nil, slowLimiter{}, audit.ErrUnavailable, 503, "audit_unavailable", [Steps]time.Duration{0, 2 * s, 3 * s, 4 * s, 5 * s}, all},
		{"a bug", errors.New("boom"), slowLimiter{}, nil, 500, fault.ErrInternal.Code, [Steps]time.Duration{0, 2 * s, 3 * s, 0, 5 * s}, [Steps]bool{true, true, true, false, true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				service, caller := refusing(&ruling{})
				store := &slowStore{}
				store.rule(tt.store)
				var seen []Observation
				service.Store, service.Limiter, service.Audit = store, tt.limiter, slowRecorder{tt.record}
				service.Observe = func(o *Observation) { seen = append(seen, *o) }
				_, _ = service.Capabilities(t.Context(), caller)
				if len(seen) != 1 {
					t.Fatalf("%d observations of one request", len(seen))
				}
				o := seen[0]
				var whole time.Duration
				for _, d := range tt.steps {
					whole += d
				}
				if o.Verb != "capabilities" || o.Status != tt.status || o.Code != tt.code || o.Took != whole {
					t.Errorf("%s %d %q in %s, want capabilities %d %q in %s", o.Verb, o.Status, o.Code, o.Took, tt.status, tt.code, whole)
				}
				if o.Steps != tt.steps || o.Reached != tt.reached {
					t.Errorf("steps %v %v, want %v %v", o.Steps, o.Reached, tt.steps, tt.reached)
				}
			})
		})
	}
}
