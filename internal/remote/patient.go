package remote

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/sony/gobreaker/v2"

	"github.com/mosaicstack/gateway/internal/querying"
)

// When a peer that does not answer is left alone, and how it is tried again.
const (
	tripAfter    = 5                // failures in a row open the breaker
	probeAfter   = 10 * time.Second // one request is let through, which decides
	tries        = 3                // of a call that may be repeated
	shortestRest = 50 * time.Millisecond
	longestHold  = time.Minute // a peer that asks for more patience than this does so at each answer
)

// Patient asks peers through a Client, and spares those that cannot answer. A peer that failed several times in a row
// is not asked again until a probe gets through; so a question to many sources does not wait for it. A call that may
// be repeated is, when the connection failed, with jitter. And a peer that says when to come again is taken at its
// word: until then its last answer is given in its place. What it cannot answer of one question only, as a search
// that is too much for it, says nothing of the others.
//
// It implements querying.Client, and is safe for concurrent use. Make one with NewPatient.
type Patient struct {
	inner querying.Client
	now   func() time.Time

	// Retried is told when a call to a peer is sent again. It is set before the first call; nil: nobody counts.
	Retried func(peer string)

	mu       sync.Mutex
	breakers map[string]*breaker // by the peer's address
	asked    map[uuid.UUID]asked // by credential, until it is forgotten
	holds    map[uuid.UUID]hold  // by credential: limits are of a grant
}

// breaker knows of its last failure whether it was an answer. A peer that answered is there, whatever it said.
type breaker struct {
	*gobreaker.CircuitBreaker[querying.Answer]
	answered atomic.Bool
}

// hold is what a peer answered when it asked to wait.
type hold struct {
	answer querying.Answer
	until  time.Time
}

// NewPatient returns a Patient around inner.
func NewPatient(inner querying.Client, now func() time.Time) *Patient {
	return &Patient{
		inner: inner, now: now,
		breakers: map[string]*breaker{}, asked: map[uuid.UUID]asked{}, holds: map[uuid.UUID]hold{},
	}
}

// asked is a peer as it was asked last with a credential.
type asked struct{ peer, address string }

// failure carries an answer that counts as none past the breaker.
type failure struct{ answer querying.Answer }

func (failure) Error() string { return "the peer answered that it cannot answer" }

// Do implements querying.Client.
func (p *Patient) Do(ctx context.Context, t querying.Target, call querying.Call) (querying.Answer, error) {
	if held, ok := p.held(t.CredentialID); ok {
		return held, nil
	}
	breaker := p.breaker(t)
	rest := shortestRest
	for try := 1; ; try++ {
		answer, err := breaker.Execute(func() (querying.Answer, error) {
			if try > 1 && p.Retried != nil {
				p.Retried(t.Peer)
			}
			a, err := p.inner.Do(ctx, t, call)
			if err == nil && a.Status >= http.StatusInternalServerError && !a.OfThisQuestion() {
				err = failure{a}
			}
			if !answers(err) {
				breaker.answered.Store(errors.As(err, &failure{}))
			}
			return a, err
		})
		var failed failure
		switch {
		case errors.As(err, &failed):
			p.note(t.CredentialID, failed.answer)
			return failed.answer, nil
		case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
			return answer, breaker.leftAlone()
		case err == nil:
			p.note(t.CredentialID, answer)
			return answer, nil
		case try == tries || !call.Repeatable || !errors.Is(err, querying.ErrUnreachable) || !pause(ctx, rest):
			return answer, err
		}
		rest *= 3
	}
}

// pause waits for a while that is not the same twice, and tells whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	d = d/2 + rand.N(d)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Forget implements querying.Client.
func (p *Patient) Forget(credentialID uuid.UUID) {
	p.mu.Lock()
	delete(p.holds, credentialID)
	delete(p.asked, credentialID)
	p.mu.Unlock()
	p.inner.Forget(credentialID)
}

// The states of a peer's circuit, as Circuits gives them.
const (
	circuitClosed   = iota // the peer is asked
	circuitHalfOpen        // one request finds out whether it is back
	circuitOpen            // it is left alone
)

// Circuits tells of each peer that was asked whether it is left alone: 0 no, 1 one request finds out, 2 yes.
func (p *Patient) Circuits() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]int, len(p.asked))
	for _, a := range p.asked {
		state := circuitClosed
		switch p.breakers[a.address].State() {
		case gobreaker.StateHalfOpen:
			state = circuitHalfOpen
		case gobreaker.StateOpen:
			state = circuitOpen
		}
		out[a.peer] = max(out[a.peer], state)
	}
	return out
}

// leftAlone is why a peer is not asked. One that answered until then is not away: what it said may have been the
// trouble of a moment, after which it refuses.
func (b *breaker) leftAlone() error {
	if b.answered.Load() {
		return querying.ErrUnreachable.With("the peer answered several times that it cannot answer, and is left alone for a moment").
			After(probeAfter).Because(querying.ErrAnswered)
	}
	return querying.ErrUnreachable.With("the peer has not answered for a while and is left alone for a moment").After(probeAfter)
}

func (p *Patient) breaker(t querying.Target) *breaker {
	p.mu.Lock()
	defer p.mu.Unlock()
	address := t.URL
	p.asked[t.CredentialID] = asked{t.Peer, address}
	b, ok := p.breakers[address]
	if !ok {
		b = &breaker{CircuitBreaker: gobreaker.NewCircuitBreaker[querying.Answer](gobreaker.Settings{
			Name: address, MaxRequests: 1, Timeout: probeAfter, Interval: 10 * time.Minute,
			ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
			IsSuccessful: answers,
			IsExcluded:   saysNothing,
		})}
		p.breakers[address] = b
	}
	return b
}

// answers tells whether a peer is there: one that refuses or lies is.
func answers(err error) bool {
	var failed failure
	return !errors.Is(err, querying.ErrUnreachable) && !errors.Is(err, querying.ErrTimeout) && !errors.As(err, &failed)
}

// saysNothing tells whether a call ended on this side, so that nothing is known of the peer.
func saysNothing(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, querying.ErrQuestionTooLong)
}

func (p *Patient) held(id uuid.UUID) (querying.Answer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h, ok := p.holds[id]
	if !ok {
		return querying.Answer{}, false
	}
	left := h.until.Sub(p.now())
	if left <= 0 || left > longestHold { // over, or the clock was set back
		delete(p.holds, id)
		return querying.Answer{}, false
	}
	h.answer.RetryAfter = left
	return h.answer, true
}

// note holds back all that a credential may ask, for all who share it: so only when the peer speaks of all of it.
func (p *Patient) note(id uuid.UUID, a querying.Answer) {
	if a.RetryAfter <= 0 || a.OfThisQuestion() || a.Status != http.StatusTooManyRequests && a.Status != http.StatusServiceUnavailable {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds[id] = hold{a, p.now().Add(min(a.RetryAfter, longestHold))}
}
