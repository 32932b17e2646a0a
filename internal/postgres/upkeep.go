package postgres

import (
	"context"
	"fmt"
	"math/big"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/serving"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

// Upkeep stores what the gateway does unasked. It is the upkeep.Store of the gateway.
type Upkeep struct {
	*DB
	Removal Removal // what dropping audit rows needs
}

// upkeepAct is who the audit log says it was.
var upkeepAct = audit.Act{RequestID: "upkeep", Actor: "upkeep", RemoteAddress: "local"}

// TakeRevocations implements upkeep.Store. Taking is an UPDATE that moves the due time, so that no transaction is
// open while the CA is asked, and a replica that dies gives its share back by itself.
func (s *Upkeep) TakeRevocations(ctx context.Context, limit int, keep time.Duration) ([]upkeep.Revocation, error) {
	return collect(ctx, s.pool, "take revocations", func(row pgx.CollectableRow) (upkeep.Revocation, error) {
		var r upkeep.Revocation
		var serial string
		if err := row.Scan(&serial, &r.Reason, &r.Attempts); err != nil {
			return r, err
		}
		var ok bool
		if r.Serial, ok = new(big.Int).SetString(serial, 10); !ok {
			return r, fmt.Errorf("serial %q is no number", serial)
		}
		return r, nil
	}, `UPDATE federation_ca_revocations SET next_at = now() + $2::interval, attempts = attempts + 1 WHERE serial IN (
			SELECT serial FROM federation_ca_revocations WHERE done_at IS NULL AND next_at <= now() ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING serial, reason, attempts - 1`, limit, keep)
}

// SettleRevocation implements upkeep.Store.
func (s *Upkeep) SettleRevocation(ctx context.Context, serial *big.Int, done bool, retryIn time.Duration) error {
	return s.inTx(ctx, "settle revocation", func(tx pgx.Tx) error {
		if !done {
			_, err := tx.Exec(ctx, `UPDATE federation_ca_revocations SET next_at = now() + $2::interval WHERE serial = $1`, serial.String(), retryIn)
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE federation_ca_revocations SET done_at = now() WHERE serial = $1`, serial.String()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE federation_sign_attempts SET outcome = 'revoked' WHERE serial = $1 AND outcome = 'orphaned'`, serial.String())
		return err
	})
}

// SweepAttempts implements upkeep.Store. A signer that is alive settles its own attempt before its lease ends: what
// is still pending after that belongs to a gateway that was killed.
func (s *Upkeep) SweepAttempts(ctx context.Context) (int64, error) {
	var n int64
	err := s.inTx(ctx, "sweep signing attempts", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT serial FROM federation_sign_attempts WHERE outcome = 'pending' AND lease_until < now()
			ORDER BY lease_until LIMIT 100 FOR UPDATE SKIP LOCKED`)
		if err != nil {
			return err
		}
		serials, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, serial := range serials {
			if err := orphan(ctx, tx, serial); err != nil {
				return err
			}
		}
		n = int64(len(serials))
		return nil
	})
	return n, err
}

// ExpireGrants implements upkeep.Store. An expired grant is refused by its time alone; this writes it down, once,
// with its audit row.
func (s *Upkeep) ExpireGrants(ctx context.Context) (int64, error) {
	var n int64
	err := s.inTx(ctx, "expire grants", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `UPDATE federation_grants g SET status = 'expired', updated_at = now(), version = g.version + 1
			FROM federation_peers p WHERE p.id = g.peer_id AND g.id IN (
				SELECT id FROM federation_grants WHERE status IN ('pending', 'active') AND expires_at <= now() ORDER BY expires_at LIMIT 100 FOR UPDATE SKIP LOCKED)
			RETURNING `+grantColumns)
		if err != nil {
			return err
		}
		expired, err := pgx.CollectRows(rows, scanGrant)
		if err != nil {
			return err
		}
		for _, g := range expired {
			e := upkeepAct.Event("grant.expire")
			e.PeerID, e.PeerName, e.GrantID, e.SubjectUserID = g.PeerID, g.Peer, g.ID, g.SubjectUserID
			if err := record(ctx, tx, e); err != nil {
				return err
			}
		}
		n = int64(len(expired))
		return nil
	})
	return n, err
}

// ForgetAnswers implements upkeep.Store.
func (s *Upkeep) ForgetAnswers(ctx context.Context) (int64, error) {
	tag, err := s.pool.Exec(ctx, `UPDATE federation_enrollment_tokens SET answer = NULL WHERE answer IS NOT NULL AND expires_at <= now()`)
	if err != nil {
		return 0, fail(err, "forget enrollment answers")
	}
	n := tag.RowsAffected()
	tag, err = s.pool.Exec(ctx, `UPDATE federation_certificates SET renewal_answer = NULL WHERE fingerprint IN (
		SELECT fingerprint FROM federation_certificates WHERE renewal_answer IS NOT NULL
			AND (revoked_at IS NOT NULL OR not_after <= now() OR first_used_at <= now() - $1::interval)
		FOR NO KEY UPDATE SKIP LOCKED)`, serving.RetireAfter)
	return n + tag.RowsAffected(), fail(err, "forget renewal answers")
}

// EnsurePartitions implements upkeep.Store.
func (s *Upkeep) EnsurePartitions(ctx context.Context) error {
	return (&AuditLog{DB: s.DB}).EnsurePartitions(ctx)
}
