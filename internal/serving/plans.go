package serving

import (
	"context"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/identity"
)

// plans keeps parsed grants by certificate. It decides nothing: the statement refuses a plan whose version is
// not the grant's.
type plans struct {
	mu   sync.RWMutex
	byID map[[32]byte]Plan
}

// plan finds the plan of a certificate, from the store when fresh is asked for or none is kept.
func (s *Service) plan(ctx context.Context, id identity.Identity, fresh bool) (Plan, error) {
	if !fresh {
		s.plans.mu.RLock()
		p, ok := s.plans.byID[id.Fingerprint]
		s.plans.mu.RUnlock()
		if ok {
			return p, nil
		}
	}
	p, err := s.Store.Plan(ctx, id.Fingerprint)
	if err != nil {
		return Plan{}, err
	}
	if p.GrantID != id.GrantID || p.UserID != id.UserID {
		return Plan{}, ErrCertificateUnknown // the registry knows this certificate for somebody else
	}
	s.plans.mu.Lock()
	defer s.plans.mu.Unlock()
	if s.plans.byID == nil || len(s.plans.byID) >= maxPlans {
		s.plans.byID = make(map[[32]byte]Plan)
	}
	s.plans.byID[id.Fingerprint] = p
	return p, nil
}

// noteUsed remembers that the first use of a certificate is on record.
func (p *plans) noteUsed(fingerprint [32]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if plan, ok := p.byID[fingerprint]; ok {
		plan.Unused = false
		p.byID[fingerprint] = plan
	}
}

// How long a certificate counts as refused lately, and how many refusals a minute it still gets an exact reason
// for.
const (
	refusedFor       = time.Minute
	refusalsInMinute = 60
	maxRefused       = 100_000
)

// RefusedLately counts refusals per certificate, so that a dead one that keeps knocking costs the database
// nothing. A live certificate is never in it.
type RefusedLately struct {
	now func() time.Time

	mu     sync.Mutex
	counts map[[32]byte]refusals
}

type refusals struct {
	since time.Time
	count int
}

// NewRefusedLately returns an empty RefusedLately.
func NewRefusedLately(now func() time.Time) *RefusedLately {
	return &RefusedLately{now: now, counts: map[[32]byte]refusals{}}
}

// Add counts a refusal.
func (r *RefusedLately) Add(fingerprint [32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.counts) >= maxRefused {
		r.counts = map[[32]byte]refusals{}
	}
	c := r.counts[fingerprint]
	if now := r.now(); now.Sub(c.since) >= refusedFor || now.Before(c.since) {
		c = refusals{since: now}
	}
	c.count++
	r.counts[fingerprint] = c
}

// Wait is zero when the certificate's next request may be looked at, else how long it is turned away unseen.
func (r *RefusedLately) Wait(fingerprint [32]byte) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.counts[fingerprint]
	if !ok {
		return 0
	}
	past := r.now().Sub(c.since)
	if past >= refusedFor || past < 0 {
		delete(r.counts, fingerprint)
		return 0
	}
	if c.count < refusalsInMinute {
		return 0
	}
	return refusedFor - past
}
