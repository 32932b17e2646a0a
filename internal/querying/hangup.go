package querying

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/resource"
)

// VerbHangUp is how giving a grant back stands in the audit log.
const VerbHangUp resource.Verb = "hangup"

// HungUp says what became of giving one grant back.
type HungUp struct {
	GrantID uuid.UUID `json:"grant_id"`
	Told    bool      `json:"told"`             // the peer has revoked it, or had done so before
	Detail  string    `json:"detail,omitempty"` // why the peer could not be told
}

// HangUp gives every grant back that this gateway holds at a peer, each within the deadline of a query. A peer that
// cannot be told is no reason to keep its credential, so nothing here is an error: what could not be done is told.
func (s *Service) HangUp(ctx context.Context, c Caller, held []Credential) []HungUp {
	out := make([]HungUp, len(held))
	var wg sync.WaitGroup
	for i, credential := range held {
		wg.Go(func() {
			r := &run{s: s, caller: c, verb: VerbHangUp, query: []byte(VerbHangUp), started: s.Now(), credential: credential}
			_, err := r.ask(ctx, func() (Call, error) { return Call{Method: http.MethodPost, Path: apiBase + "hangup"}, nil })
			if err = r.record(ctx, err, 0, 0); errors.Is(err, ErrDenied) {
				err = nil // it lets this certificate do nothing, so there is nothing to give back
			}
			out[i] = HungUp{GrantID: credential.RemoteGrantID, Told: err == nil}
			if err != nil {
				out[i].Detail = fault.From(err).Detail
			}
		})
	}
	wg.Wait()
	return out
}
