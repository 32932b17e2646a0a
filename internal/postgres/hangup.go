package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/serving"
)

// HangUp implements serving.Store. The grant is locked before it is looked at, so that what the check finds is what
// is revoked.
func (s *Serving) HangUp(ctx context.Context, c serving.Check, act audit.Act, request audit.Event) error {
	const reason = "given back by the peer"
	return s.inTx(ctx, "hang up", func(tx pgx.Tx) error {
		g, err := lockGrant(ctx, tx, c.GrantID)
		if err != nil {
			return serving.ErrCertificateUnknown.Because(err)
		}
		var code string
		err = tx.QueryRow(ctx, aliveCTE+`SELECT refusal FROM a`, c.Fingerprint[:], c.GrantID, c.UserID, c.Version).Scan(&code)
		if notFound(err) {
			return serving.ErrCertificateUnknown
		} else if err != nil {
			return err
		}
		if err := refusal(code); err != nil {
			return err
		}
		if err := revokeGrants(ctx, tx, []uuid.UUID{g.ID}, reason); err != nil {
			return err
		}
		e := act.Event("grant.revoke")
		e.PeerID, e.PeerName, e.GrantID, e.SubjectUserID, e.Fingerprint, e.Detail = g.PeerID, g.Peer, g.ID, g.SubjectUserID, c.Fingerprint[:], reason
		if err := record(ctx, tx, e); err != nil {
			return err
		}
		return record(ctx, tx, request)
	})
}
