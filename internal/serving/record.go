package serving

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/span"
)

// refuse records a refusal, and returns it; if it cannot be recorded, nothing but that is said.
func (r *run) refuse(ctx context.Context, err error) error {
	f := fault.From(err)
	if dead(f) {
		r.s.Refused.Add(r.caller.Identity.Fingerprint)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if f.Kind == fault.RateLimited {
		// A flood must not become a flood of audit rows: it is one, with a number, at the end of the minute.
		if r.s.Note != nil {
			e := r.event(f.Kind.Status(), audit.Denied, f.Code, answer{})
			e.QueryHash, e.Duration = nil, 0
			r.s.Note(e)
		}
		return err
	}
	outcome := audit.Denied
	if f.Kind == fault.Internal || f.Kind == fault.Unavailable {
		outcome = audit.Failed
	}
	if recorded := r.record(ctx, r.event(f.Kind.Status(), outcome, f.Code, answer{})); recorded != nil {
		return recorded
	}
	return err
}

// record makes an event durable. It has a time of its own: a request whose time is over is on record like any other,
// and says why it failed, and not that the audit log did.
func (r *run) record(ctx context.Context, e audit.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWithin)
	defer cancel()
	ctx, commit := span.Start(ctx, span.Audit)
	err := r.s.Audit.Record(ctx, e)
	commit.End()
	r.lap(StepAudit)
	return err
}

// TurnedAway counts a request that was refused before it came here, as what a limit turns away is. Of the caller there
// may be nothing but the request's id and address.
func (s *Service) TurnedAway(c Caller, verb, res string, err error) {
	if s.Note == nil {
		return
	}
	f := fault.From(err)
	e := s.begin(c, verb, known(res), nil).event(f.Kind.Status(), audit.Denied, f.Code, answer{})
	if c.Identity.GrantID == uuid.Nil {
		e.Actor, e.Fingerprint = "", nil // nobody is known to have asked
	}
	s.Note(e)
}

func (r *run) event(status int, outcome audit.Outcome, reason string, a answer) audit.Event {
	id := r.caller.Identity
	e := audit.Event{
		RequestID: r.caller.RequestID, Direction: audit.Inbound, Actor: "grant:" + id.GrantID.String(),
		PeerID: r.plan.PeerID, PeerName: r.plan.PeerName, GrantID: id.GrantID, SubjectUserID: id.UserID,
		Fingerprint: id.Fingerprint[:], RemoteAddress: r.caller.RemoteAddress,
		Verb: r.verb, Resource: r.res, StatusCode: status, Outcome: outcome, DeniedReason: reason,
		RowsOut: a.rows, BytesOut: int64(len(a.body)), Duration: r.s.Now().Sub(r.started),
	}
	if r.query != nil {
		e.QueryHash = r.s.Hash(r.query)
	}
	return e
}
