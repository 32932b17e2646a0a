package serving

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
)

// HangUp gives the caller's grant back: it and its certificates are revoked, and the certificate that asked opens
// nothing any more when this has returned.
//
// What is done cannot be undone, so all that can refuse it comes before: the limit, and its record is written with it.
//
// Errors: the refusals of this package.
func (s *Service) HangUp(ctx context.Context, c Caller) (Answer, error) {
	r := s.begin(c, "hangup", "", nil)
	return r.do(ctx, func(Plan) (answer, error) {
		if err := s.Store.Authorize(ctx, r.check()); err != nil {
			return answer{}, err
		}
		if err := r.spend(ctx); err != nil {
			return answer{}, err
		}
		act := audit.Act{RequestID: c.RequestID, Actor: "grant:" + c.Identity.GrantID.String(), RemoteAddress: c.RemoteAddress}
		body, err := json.Marshal(struct {
			GrantID uuid.UUID `json:"grant_id"`
			Status  string    `json:"status"`
		}{c.Identity.GrantID, "revoked"})
		if err != nil {
			return answer{}, err
		}
		a := answer{body: body, recorded: true}
		if err := s.Store.HangUp(ctx, r.check(), act, r.event(200, audit.OK, "", a)); err != nil {
			return answer{}, err
		}
		return a, nil
	})
}

// CRL answers with the CA's revocation list (RFC 5280, section 5) in DER.
//
// Errors: the refusals of this package, and those of the CA when no list was ever had from it.
func (s *Service) CRL(ctx context.Context, c Caller) (Answer, error) {
	r := s.begin(c, "crl", "", nil)
	return r.do(ctx, func(Plan) (answer, error) {
		if err := s.Store.Authorize(ctx, r.check()); err != nil {
			return answer{}, err
		}
		list, err := s.Config.CRL(ctx)
		return answer{body: list}, err
	})
}

// Roots answers with every root that certificates of this gateway may lead to now. A peer believes it because this
// gateway has proved itself by a root that the peer believed before.
//
// Errors: the refusals of this package, and those of the CA.
func (s *Service) Roots(ctx context.Context, c Caller) (Answer, error) {
	r := s.begin(c, "roots", "", nil)
	return r.do(ctx, func(Plan) (answer, error) {
		if err := s.Store.Authorize(ctx, r.check()); err != nil {
			return answer{}, err
		}
		roots, err := s.Config.Roots(ctx)
		if err != nil {
			return answer{}, err
		}
		body, err := json.Marshal(struct {
			CARoots string `json:"ca_roots"`
		}{ca.RootsPEM(roots)})
		return answer{body: body}, err
	})
}
