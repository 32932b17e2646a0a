package serving

import (
	"context"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/identity"
)

// RetireAfter is how long a certificate is still good after its successor was first used. A client of many replicas
// has brought the new one to all of them by then, and what was under way has ended.
const RetireAfter = 5 * time.Minute

// Renew gives the certificate that follows by, for the certificate request in body.
type Renew func(ctx context.Context, by identity.Identity, body []byte, act audit.Act) (answer []byte, err error)

// RenewRequest is POST /certificate/renew, its body as it came.
type RenewRequest struct {
	Body    []byte
	Mistake error // what is wrong with the request as a whole; told only to those who may ask
}

// Renew answers with the next certificate of the caller's grant, in the shape of an enrollment's answer.
//
// Errors: the refusals of this package, and those of enroll.Service.Renew.
func (s *Service) Renew(ctx context.Context, c Caller, q RenewRequest) (Answer, error) {
	r := s.begin(c, "renew", "", nil)
	return r.do(ctx, func(Plan) (answer, error) {
		if err := s.authorizedError(ctx, r.check(), q.Mistake); err != nil {
			return answer{}, err
		}
		if err := r.spend(ctx); err != nil { // the CA is asked for nobody who is over their limit
			return answer{}, err
		}
		act := audit.Act{RequestID: c.RequestID, Actor: "grant:" + c.Identity.GrantID.String(), RemoteAddress: c.RemoteAddress}
		body, err := s.Config.Renew(ctx, c.Identity, q.Body, act)
		return answer{body: body}, err
	})
}

// used notes that the certificate was used, once for each replica: the next plan knows. If it cannot be noted the
// request goes on, and the next one tries again: an older certificate is good a little longer, and no longer than its
// own end.
func (r *run) used(ctx context.Context) {
	if err := r.s.Store.Used(ctx, r.check()); err != nil {
		r.s.Log.Warn("first use of a certificate not noted", "grant_id", r.plan.GrantID, "error", err)
		return
	}
	r.plan.Unused = false
	r.s.plans.noteUsed(r.caller.Identity.Fingerprint)
}
