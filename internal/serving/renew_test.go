package serving

import (
	"context"
	"errors"
	"testing"
)

// fresh is a store whose certificate has not been used.
type fresh struct {
	ruling
	used   int
	broken bool
}

func (s *fresh) Plan(context.Context, [32]byte) (Plan, error) { return Plan{Unused: true}, nil }

func (s *fresh) Used(context.Context, Check) error {
	s.used++
	if s.broken {
		return errors.New("the database is away")
	}
	return nil
}

// TestTheFirstUseIsNotedOnce: what a certificate's first request pays, its others do not.
func TestTheFirstUseIsNotedOnce(t *testing.T) {
	t.Parallel()
	s := &fresh{broken: true}
	service, caller := refusing(&s.ruling)
	service.Store, service.Limiter = s, unlimited{}
	ask := func() {
		t.Helper()
		if _, err := service.Capabilities(t.Context(), caller); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	s.broken = false
	for range 5 {
		ask()
	}
	if s.used != 2 {
		t.Errorf("noted %d times, want once in vain and once for good", s.used)
	}
	s.rule(ErrPeerSuspended)
	service.plans.byID = nil
	if _, err := service.Capabilities(t.Context(), caller); !errors.Is(err, ErrPeerSuspended) || s.used != 2 {
		t.Errorf("%v; noted %d times: who may not ask has not used the certificate", err, s.used)
	}
}
