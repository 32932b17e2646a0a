package postgres

import (
	"context"
	"errors"
	"math/big"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/serving"
)

// answered finds what a request for renewal was answered with. It is gone when the certificate was used, revoked or is
// over: whoever sends the request then has the certificate already, or would get one that opens nothing.
func answered(ctx context.Context, q querier, by identity.Identity, hash [32]byte) (answer []byte, err error) {
	err = q.QueryRow(ctx, `SELECT CASE WHEN revoked_at IS NULL AND not_after > now() AND (retire_at IS NULL OR retire_at > now()) THEN renewal_answer END
		FROM federation_certificates WHERE grant_id = $1 AND renewal_request_hash = $2`, by.GrantID, hash[:]).Scan(&answer)
	switch {
	case notFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case answer == nil:
		return nil, identity.ErrCSR.With("this certificate request was answered before, and its certificate was used or is over; make a new key")
	}
	return answer, nil
}

// BeginRenewal implements enroll.RenewalStore.
func (e *Enrollment) BeginRenewal(ctx context.Context, r enroll.RenewalRequest) (enroll.Renewal, error) {
	var out enroll.Renewal
	err := e.inTx(ctx, "begin renewal", func(tx pgx.Tx) (err error) {
		if out.Again, err = answered(ctx, tx, r.By, r.Hash); err != nil || out.Again != nil {
			return err
		}
		if out.Grant, err = findGrant(ctx, tx, r.By.GrantID, ""); errors.Is(err, ErrGrantNotFound) {
			return serving.ErrCertificateUnknown
		} else if err != nil {
			return err
		}
		var seconds float64
		err = tx.QueryRow(ctx, `WITH attempt AS (
				INSERT INTO federation_sign_attempts (serial, grant_id, generation, purpose, lease_until) VALUES ($1, $2, 0, 'renew', now() + $3::interval))
			SELECT now(), coalesce(lifetime_seconds, extract(epoch FROM not_after - not_before))::float8 FROM federation_certificates WHERE fingerprint = $4`,
			r.Serial.String(), r.By.GrantID, r.Lease, r.By.Fingerprint[:]).Scan(&out.Now, &seconds)
		if notFound(err) {
			return serving.ErrCertificateUnknown
		}
		out.Lifetime = time.Duration(seconds) * time.Second
		return err
	})
	return out, err
}

// DropRenewal implements enroll.RenewalStore.
func (e *Enrollment) DropRenewal(ctx context.Context, serial *big.Int, signed ...*big.Int) error {
	_, err := e.dropRenewal(ctx, serial, signed)
	return err
}

func (e *Enrollment) dropRenewal(ctx context.Context, serial *big.Int, signed []*big.Int) (recorded bool, err error) {
	err = e.inTx(ctx, "drop renewal", func(tx pgx.Tx) error {
		recorded, err = settleAttempt(ctx, tx, serial, signed)
		return err
	})
	return recorded, err
}

// RecordRenewal implements enroll.RenewalStore. A transaction that fails is settled as in Activate.
func (e *Enrollment) RecordRenewal(ctx context.Context, r enroll.Renewed) (answer []byte, err error) {
	err = e.inTx(ctx, "record renewal", func(tx pgx.Tx) (err error) {
		answer, err = recordRenewal(ctx, tx, r)
		return err
	})
	if err == nil {
		return answer, nil
	}
	serial, _ := new(big.Int).SetString(r.Identity.Serial, 10)
	recorded, dropped := e.dropRenewal(ctx, serial, []*big.Int{serial})
	switch {
	case dropped != nil:
		return nil, errors.Join(err, dropped)
	case recorded:
		return r.Answer, nil
	}
	return nil, err
}

// recordRenewal locks the grant before it looks, as every revoke does: of a revoke and a renewal one waits for the
// other, and what a revoke has closed is not opened again.
func recordRenewal(ctx context.Context, tx pgx.Tx, r enroll.Renewed) ([]byte, error) {
	g, err := lockGrant(ctx, tx, r.By.GrantID)
	if errors.Is(err, ErrGrantNotFound) {
		return nil, serving.ErrCertificateUnknown
	} else if err != nil {
		return nil, err
	}
	var code string
	err = tx.QueryRow(ctx, aliveCTE+`SELECT refusal FROM a`, r.By.Fingerprint[:], r.By.GrantID, r.By.UserID, g.Version).Scan(&code)
	if notFound(err) {
		return nil, serving.ErrCertificateUnknown
	} else if err != nil {
		return nil, err
	}
	if err := refusal(code); err != nil {
		return nil, err
	}
	id := r.Identity
	if before, err := answered(ctx, tx, r.By, r.Hash); err != nil {
		return nil, err
	} else if before != nil {
		return before, orphan(ctx, tx, id.Serial) // the same request, at the same time
	}
	event := r.Act.Event("certificate.renew")
	event.Direction = audit.Inbound
	event.PeerID, event.PeerName, event.GrantID, event.SubjectUserID = g.PeerID, g.Peer, g.ID, g.SubjectUserID
	event.Fingerprint, event.StatusCode = id.Fingerprint[:], 200
	var batch pgx.Batch
	batch.Queue(`UPDATE federation_sign_attempts SET outcome = 'recorded', settled_at = now() WHERE serial = $1 AND outcome = 'pending'`, id.Serial).
		Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() != 1 {
				return ca.ErrUnavailable // signing outlived the lease: the serial is on its way to be revoked
			}
			return nil
		})
	batch.Queue(`UPDATE federation_certificates SET revoked_at = now(), revoked_reason = 'superseded'
		WHERE grant_id = $1 AND revoked_at IS NULL AND fingerprint <> $2`, g.ID, r.By.Fingerprint[:])
	batch.Queue(`INSERT INTO federation_certificates (fingerprint, serial, grant_id, subject_user_id, not_before, not_after, lifetime_seconds, renewal_request_hash, renewal_answer, ca_root)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, id.Fingerprint[:], id.Serial, id.GrantID, id.UserID, id.NotBefore, id.NotAfter,
		int64(r.Lifetime/time.Second), r.Hash[:], r.Answer, r.Root[:])
	batch.Queue(insertEvent, eventArgs(event)...)
	return r.Answer, tx.SendBatch(ctx, &batch).Close()
}

// Used implements serving.Store. The grant's row is locked before the certificates, which is the order of every revoke.
func (s *Serving) Used(ctx context.Context, c serving.Check) error {
	return s.inTx(ctx, "note first use", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM federation_grants WHERE id = $1 FOR SHARE`, c.GrantID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `WITH used AS (
				UPDATE federation_certificates SET first_used_at = now() WHERE fingerprint = $1 AND first_used_at IS NULL RETURNING grant_id, created_at)
			UPDATE federation_certificates c SET retire_at = now() + $2::interval FROM used
			WHERE c.grant_id = used.grant_id AND c.fingerprint <> $1 AND c.created_at < used.created_at AND c.revoked_at IS NULL AND c.retire_at IS NULL`,
			c.Fingerprint[:], serving.RetireAfter)
		return err
	})
}

// RetireCertificates implements upkeep.Store. A certificate past its retirement is refused by its time alone; this
// writes it down, once, and the CA hears of it.
func (s *Upkeep) RetireCertificates(ctx context.Context) (int64, error) {
	var n int64
	err := s.inTx(ctx, "retire certificates", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `UPDATE federation_certificates c SET revoked_at = now(), revoked_reason = 'replaced by a renewal'
			FROM federation_grants g JOIN federation_peers p ON p.id = g.peer_id
			WHERE g.id = c.grant_id AND c.fingerprint IN (
				SELECT fingerprint FROM federation_certificates WHERE retire_at <= now() AND revoked_at IS NULL ORDER BY retire_at LIMIT 100 FOR UPDATE SKIP LOCKED)
			RETURNING c.fingerprint, g.id, g.subject_user_id, p.id, p.name`)
		if err != nil {
			return err
		}
		retired, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (audit.Event, error) {
			e := upkeepAct.Event("certificate.retire")
			err := row.Scan(&e.Fingerprint, &e.GrantID, &e.SubjectUserID, &e.PeerID, &e.PeerName)
			return e, err
		})
		if err != nil {
			return err
		}
		for _, e := range retired {
			if err := record(ctx, tx, e); err != nil {
				return err
			}
		}
		n = int64(len(retired))
		return nil
	})
	return n, err
}
