package serving

import (
	"context"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/span"
)

// Step is a part of a request's way whose time is told apart.
type Step uint8

// The steps, in their order. What a request did not reach took no time, and is not observed.
const (
	StepRefusedLately Step = iota
	StepPlan               // the parsed scope, from memory or read
	StepStatement          // parameters, and the one statement that decides and reads
	StepLimit
	StepAudit // until the record is durable, of an answer as well as of a refusal
	Steps     // how many there are
)

func (s Step) String() string {
	return [Steps]string{"refused_lately", "plan", "statement", "limit", "audit"}[s]
}

// Observation is how one request went. Its texts come from closed sets: nothing in it is chosen by a peer.
type Observation struct {
	Verb     string
	Resource string // empty when the request names none that exists
	Status   int
	Code     string // of the refusal; empty for an answer
	Took     time.Duration
	Steps    [Steps]time.Duration
	Reached  [Steps]bool
}

// Observe is told of every request when its answer is decided. It is on every request's way: it must not wait,
// and must not keep o.
type Observe func(o *Observation)

// lap notes that a step has ended: it took the time since the one before.
func (r *run) lap(s Step) {
	now := r.s.Now()
	r.seen.Steps[s] += now.Sub(r.lapped)
	r.seen.Reached[s] = true
	r.lapped = now
}

// observed tells the observer how the request ended, and the request's span whom and what it was about.
func (r *run) observed(ctx context.Context, err error) {
	request := span.Of(ctx)
	request.Asks(r.verb, r.res)
	request.Between(r.plan.PeerID, r.caller.Identity.GrantID)
	if r.s.Observe == nil {
		return
	}
	o := &r.seen
	o.Verb, o.Resource, o.Took = r.verb, r.res, r.s.Now().Sub(r.started)
	if err != nil {
		f := fault.From(err)
		o.Status, o.Code = f.Kind.Status(), f.Code
	}
	r.s.Observe(o)
}
