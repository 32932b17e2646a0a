package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/querying"
)

// DueRenewals implements querying.RenewalStore. Taking is an UPDATE that moves the next try, so that no transaction is
// open while the peer is asked, and a replica that dies gives its share back by itself, soon enough for a short life.
func (s *Credentials) DueRenewals(ctx context.Context, now time.Time, limit int, keep time.Duration) ([]querying.Due, error) {
	return collect(ctx, s.pool, "take due renewals", func(row pgx.CollectableRow) (querying.Due, error) {
		var d querying.Due
		err := row.Scan(&d.ID, &d.RemoteGrantID, &d.FederationURL, &d.ChainPEM, &d.CARootPEM, &d.SealedKey, &d.Serial, &d.NotAfter,
			&d.RemoteSubjectUserID, &d.SealedNext, &d.NextCSR, &d.Attempts, &d.Peer.ID, &d.Peer.Name)
		return d, err
	}, `WITH due AS (
			SELECT c.id FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
			WHERE c.state = 'active' AND p.state = 'active' AND coalesce(c.renewal_next_at, c.renew_after) <= $1 AND c.not_after > $1
			ORDER BY c.not_after LIMIT $2 FOR UPDATE OF c SKIP LOCKED)
		UPDATE federation_credentials c
		SET renewal_next_at = $1::timestamptz + least($3::interval, (c.not_after - $1::timestamptz) / 4), renewal_started_at = coalesce(c.renewal_started_at, $1)
		FROM due, federation_peers p WHERE c.id = due.id AND p.id = c.peer_id
		RETURNING `+credentialColumns+`, c.remote_subject_user_id, c.renewal_key_pem, coalesce(c.renewal_csr_pem, ''), c.renewal_attempts, p.id, p.name`,
		now, limit, keep)
}

// BeginRenewal implements querying.RenewalStore. The first of several tries stores its key, and all use it.
func (s *Credentials) BeginRenewal(ctx context.Context, id uuid.UUID, serial string, sealedKey []byte, csr string) (sealed []byte, stored string, err error) {
	err = s.pool.QueryRow(ctx, `UPDATE federation_credentials
		SET renewal_key_pem = coalesce(renewal_key_pem, $3), renewal_csr_pem = CASE WHEN renewal_key_pem IS NULL THEN $4 ELSE renewal_csr_pem END
		WHERE id = $1 AND state = 'active' AND serial = $2 RETURNING renewal_key_pem, renewal_csr_pem`, id, serial, sealedKey, csr).Scan(&sealed, &stored)
	if notFound(err) {
		return nil, "", querying.ErrInterrupted
	}
	return sealed, stored, fail(err, "begin renewal at peer")
}

// CompleteRenewal implements querying.RenewalStore.
func (s *Credentials) CompleteRenewal(ctx context.Context, r querying.Renewed) error {
	return s.inTx(ctx, "complete renewal at peer", func(tx pgx.Tx) error {
		p, err := findPeer(ctx, tx, r.Due.Peer.ID.String(), "FOR NO KEY UPDATE")
		if errors.Is(err, ErrPeerNotFound) || err == nil && p.State == peer.Revoked {
			return querying.ErrInterrupted
		} else if err != nil {
			return err
		}
		c := r.Certified
		tag, err := tx.Exec(ctx, `UPDATE federation_credentials
			SET certificate_chain_pem = $4, client_key_pem = $5, serial = $6, not_before = $7, not_after = $8, renew_after = $9, ca_root_pem = $10, csr_pem = renewal_csr_pem,
				renewal_key_pem = NULL, renewal_csr_pem = NULL, renewal_started_at = NULL, renewal_next_at = NULL, renewal_attempts = 0, renewal_error = NULL,
				updated_at = now()
			WHERE id = $1 AND state = 'active' AND serial = $2 AND renewal_csr_pem = $3`,
			r.Due.ID, r.Due.Serial, r.Due.NextCSR, c.ChainPEM, r.SealedKey, c.Serial, c.NotBefore, c.NotAfter, c.RenewAfter, c.CARootPEM)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return querying.ErrInterrupted
		}
		if c.CARootPEM != r.Due.CARootPEM {
			if err := adoptRoots(ctx, tx, p.ID, c.CARootPEM, c.CAFingerprint); err != nil {
				return err
			}
		}
		e := r.Act.Event("certificate.renew")
		e.Direction, e.PeerID, e.PeerName, e.GrantID, e.StatusCode = audit.Outbound, p.ID, p.Name, c.GrantID, 200
		e.Detail = "credential " + r.Due.ID.String()
		return record(ctx, tx, e)
	})
}

// FailRenewal implements querying.RenewalStore.
func (s *Credentials) FailRenewal(ctx context.Context, f querying.Failure) error {
	_, err := s.pool.Exec(ctx, `UPDATE federation_credentials SET renewal_attempts = renewal_attempts + 1, renewal_error = $3, renewal_next_at = $4,
			renewal_key_pem = CASE WHEN NOT $5 THEN renewal_key_pem END, renewal_csr_pem = CASE WHEN NOT $5 THEN renewal_csr_pem END
		WHERE id = $1 AND state = 'active' AND serial = $2`, f.ID, f.Serial, f.Reason, f.Next, f.Anew)
	return fail(err, "note failed renewal")
}

// Overdue implements querying.RenewalStore. One that has been over for a day has had its alarm.
func (s *Credentials) Overdue(ctx context.Context, now time.Time) (overdue bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
		WHERE c.state = 'active' AND p.state = 'active' AND c.renewal_attempts > 0 AND c.not_after > $1::timestamptz - interval '1 day'
			AND $1::timestamptz >= c.renewal_started_at + (c.not_after - c.renewal_started_at) / 2)`, now).Scan(&overdue)
	return overdue, fail(err, "look for overdue renewals")
}
