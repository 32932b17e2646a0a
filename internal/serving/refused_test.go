package serving

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
)

func print32(n uint64) (f [32]byte) {
	binary.BigEndian.PutUint64(f[:], n)
	return f
}

func TestADeadCertificateWaitsAfterSixtyRefusalsUntilItsMinuteIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRefusedLately(time.Now)
		dead, other := print32(1), print32(2)
		for i := range 60 {
			if wait := r.Wait(dead); wait != 0 {
				t.Fatalf("after %d refusals the certificate waits %s, want it looked at", i, wait)
			}
			r.Add(dead)
			time.Sleep(500 * time.Millisecond) // 30 s in all: a minute counts from the first refusal
		}
		if wait := r.Wait(dead); wait != 30*time.Second {
			t.Errorf("after 60 refusals in 30 s: %s, want the rest of the minute", wait)
		}
		if wait := r.Wait(other); wait != 0 {
			t.Errorf("another certificate waits %s", wait)
		}
		time.Sleep(30*time.Second - time.Nanosecond)
		if wait := r.Wait(dead); wait != time.Nanosecond {
			t.Errorf("a moment before the minute ends: %s, want 1ns", wait)
		}
		time.Sleep(time.Nanosecond)
		if wait := r.Wait(dead); wait != 0 {
			t.Errorf("after the minute: %s, want it looked at again", wait)
		}
	})
}

func TestEveryMinuteOfRefusalsBeginsAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRefusedLately(time.Now)
		dead := print32(1)
		for range 59 {
			r.Add(dead)
		}
		time.Sleep(time.Minute)
		r.Add(dead) // without a Wait in between: the window must end by itself
		if wait := r.Wait(dead); wait != 0 {
			t.Errorf("59 refusals a minute ago and one now: %s, want it looked at", wait)
		}
		for range 59 {
			r.Add(dead)
		}
		if wait := r.Wait(dead); wait != time.Minute {
			t.Errorf("60 refusals in the second minute: %s, want 1m", wait)
		}
	})
}

func TestAClockSetBackForgivesInsteadOfLockingOut(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := NewRefusedLately(func() time.Time { return now })
	dead := print32(1)
	for range 60 {
		r.Add(dead)
	}
	now = now.Add(-time.Hour)
	if wait := r.Wait(dead); wait != 0 {
		t.Errorf("the clock went back an hour: %s, want 0 and never over a minute", wait)
	}
}

func TestRefusalsOfManyCertificatesTakeBoundedMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRefusedLately(time.Now)
		for n := range uint64(2*maxRefused + 10) {
			r.Add(print32(n))
			if len(r.counts) > maxRefused {
				t.Fatalf("%d certificates are kept, want at most %d", len(r.counts), maxRefused)
			}
		}
		dead := print32(1 << 40)
		for range 60 {
			r.Add(dead)
		}
		if r.Wait(dead) == 0 {
			t.Error("after a flood of others a dead certificate is not turned away any more")
		}
	})
}

func TestACertificateThatWasNeverRefusedIsNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRefusedLately(time.Now)
		for n := range uint64(1000) {
			r.Wait(print32(n))
		}
		if len(r.counts) != 0 {
			t.Errorf("%d certificates are kept for having asked", len(r.counts))
		}
		r.Add(print32(1))
		time.Sleep(time.Minute)
		r.Wait(print32(1))
		if len(r.counts) != 0 {
			t.Error("a certificate whose minute is over is kept")
		}
	})
}

// ruling is a store whose every answer is the same, and counts how often it was asked.
type ruling struct {
	mu    sync.Mutex
	err   error
	asked int
}

func (s *ruling) ask() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.err
}

func (s *ruling) rule(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.asked = err, 0
}

func (s *ruling) Plan(context.Context, [32]byte) (Plan, error)                { return Plan{}, nil }
func (s *ruling) Authorize(context.Context, Check) error                      { return s.ask() }
func (s *ruling) List(context.Context, ListQuery) (Rows, error)               { return Rows{}, s.ask() }
func (s *ruling) HangUp(context.Context, Check, audit.Act, audit.Event) error { return s.ask() }
func (s *ruling) Used(context.Context, Check) error                           { return nil }
func (s *ruling) Get(context.Context, GetQuery) (b []byte, e error)           { return nil, s.ask() }

func (s *ruling) Search(context.Context, SearchQuery) (Found, error) { return Found{}, s.ask() }

type forgetful struct{}

func (forgetful) Record(context.Context, audit.Event) error { return nil }

type unlimited struct{}

func (unlimited) Take(context.Context, ...grant.Bucket) (grant.Standing, error) {
	return grant.Standing{}, nil
}

func refusing(s *ruling) (*Service, Caller) {
	service := New(Config{
		Store: s, Audit: forgetful{}, Limiter: unlimited{}, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Refused: NewRefusedLately(time.Now), Hash: func([]byte) []byte { return nil },
	})
	return service, Caller{Identity: identity.Identity{
		GrantID: uuid.Nil, UserID: uuid.Nil, Fingerprint: print32(7), NotAfter: time.Now().Add(24 * time.Hour),
	}}
}

func TestWhatIsDeadForGoodStopsCostingTheDatabaseAnything(t *testing.T) {
	t.Parallel()
	for _, final := range []*fault.Fault{
		ErrCertificateUnknown, ErrCertificateRevoked, ErrCertificateExpired, ErrGrantRevoked, ErrGrantExpired, ErrPeerRevoked,
	} {
		t.Run(final.Code, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &ruling{err: final}
				s, caller := refusing(store)
				for i := range 60 {
					if _, err := s.Capabilities(t.Context(), caller); !errors.Is(err, final) {
						t.Fatalf("request %d: %v, want %s", i+1, err, final.Code)
					}
				}
				for range 100 {
					_, err := s.Capabilities(t.Context(), caller)
					if f := fault.From(err); !errors.Is(err, ErrRateLimited) || f.RetryAfter != time.Minute {
						t.Fatalf("request after 60 refusals: %v after %s, want rate_limited after 1m", err, f.RetryAfter)
					}
				}
				if store.asked != 60 {
					t.Errorf("the store was asked %d times for 160 requests, want 60", store.asked)
				}
				time.Sleep(time.Minute) // being turned away must not prolong it
				if _, err := s.Capabilities(t.Context(), caller); !errors.Is(err, final) {
					t.Errorf("after the minute: %v, want %s again", err, final.Code)
				}
			})
		})
	}
}

func TestWhatCanBeLiftedIsNeverCounted(t *testing.T) {
	t.Parallel()
	for _, passing := range []*fault.Fault{
		ErrPeerSuspended, ErrSubjectDisabled, ErrGrantPending, ErrNotFound, ErrRateLimited, audit.ErrUnavailable, fault.ErrInternal,
	} {
		t.Run(passing.Code, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &ruling{err: passing}
				s, caller := refusing(store)
				for i := range 200 {
					if _, err := s.Capabilities(t.Context(), caller); !errors.Is(err, passing) {
						t.Fatalf("request %d: %v, want %s", i+1, err, passing.Code)
					}
				}
				if store.asked != 200 {
					t.Errorf("the store was asked %d times, want every one of 200", store.asked)
				}
				store.rule(nil) // the peer is resumed, the user enabled, the part is back
				if _, err := s.Capabilities(t.Context(), caller); err != nil {
					t.Errorf("at once afterwards: %v, want an answer", err)
				}
			})
		})
	}
}

func TestALiveCertificateIsNotTouchedByTheDeadOnesOfItsGrant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &ruling{err: ErrCertificateRevoked}
		s, old := refusing(store)
		for range 70 {
			_, _ = s.Capabilities(t.Context(), old)
		}
		store.rule(nil)
		renewed := old
		renewed.Identity.Fingerprint = print32(8)
		for range 200 {
			if _, err := s.Capabilities(t.Context(), renewed); err != nil {
				t.Fatalf("the grant's live certificate: %v", err)
			}
		}
		if _, err := s.Capabilities(t.Context(), old); !errors.Is(err, ErrRateLimited) {
			t.Errorf("the replaced one: %v, want rate_limited", err)
		}
	})
}
