package postgres

import (
	"context"
	"math/big"

	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
)

// ErrRestored means that the database is a copy, and nobody has said yet that it takes the original's place.
var ErrRestored = &fault.Fault{
	Kind: fault.Conflict, Code: "restore_unconfirmed",
	Detail: "this database was restored from a dump: what was revoked after the dump is not revoked in it",
	Hint:   "run mosaic gateway accept-restore: it voids tokens, takes over the CA's revocation list and suspends peers until you resume them",
}

// ErrNotRestored means that there is nothing to accept.
var ErrNotRestored = &fault.Fault{
	Kind: fault.Conflict, Code: "not_restored", Detail: "this database is no copy: there is nothing to accept",
	Hint: "check that DATABASE_URL names the database that was restored",
}

// atHome tells whether the database is where its own row says.
const atHome = `SELECT count(*) = 1 AND bool_and((h.system_identifier, h.database_oid, h.table_oid) = (s.system_identifier, d.oid, 'gateway_home'::regclass) AND h.xmin = h.written_by::xid)
	FROM gateway_home h, pg_control_system() s, pg_database d WHERE d.datname = current_database()`

// CheckHome refuses a database that was restored from a dump until the restore is accepted: ErrRestored. A directory
// that was copied file by file is not told from its original.
func (db *DB) CheckHome(ctx context.Context) error {
	var home bool
	if err := db.pool.QueryRow(ctx, atHome).Scan(&home); err != nil {
		return fail(err, "check home")
	}
	if !home {
		return ErrRestored
	}
	return nil
}

// Accepted is what accepting a restore has changed.
type Accepted struct {
	EnrollmentTokens int64    `json:"enrollment_tokens_voided"`
	APITokens        int64    `json:"api_tokens_revoked"`
	Certificates     int64    `json:"certificates_revoked"` // those on the CA's list
	Peers            []string `json:"peers_suspended"`
}

// AcceptRestore makes a restored database the gateway's. Every token of the dump is void, the serials that the CA lists
// as revoked are revoked here too, and no peer is answered before an admin has looked at its grants and resumed it.
// All of it is one transaction, and the error is ErrNotRestored when the database is no copy.
func (db *DB) AcceptRestore(ctx context.Context, listed []*big.Int, act audit.Act) (Accepted, error) {
	serials := make([]string, len(listed))
	for i, s := range listed {
		serials[i] = s.String()
	}
	var out Accepted
	err := db.inTx(ctx, "accept restore", func(tx pgx.Tx) error {
		if err := settleHere(ctx, tx); err != nil {
			return err
		}
		out = Accepted{Peers: []string{}}
		for _, step := range []struct {
			sql   string
			args  []any
			count *int64
		}{
			{`UPDATE federation_enrollment_tokens SET expires_at = least(expires_at, now()), claimed_at = NULL, claim_lease_until = NULL, claim_generation = claim_generation + 1
				WHERE spent_at IS NULL`, nil, &out.EnrollmentTokens},
			{`UPDATE api_tokens SET revoked_at = now() WHERE revoked_at IS NULL AND expires_at > now()`, nil, &out.APITokens},
			{`UPDATE federation_certificates SET revoked_at = now(), revoked_reason = 'on the CA''s list at a restore' WHERE revoked_at IS NULL AND serial = ANY($1)`, []any{serials}, &out.Certificates},
		} {
			tag, err := tx.Exec(ctx, step.sql, step.args...)
			if err != nil {
				return err
			}
			*step.count = tag.RowsAffected()
		}
		rows, err := tx.Query(ctx, `UPDATE federation_peers SET state = 'suspended', updated_at = now(), version = version + 1 WHERE state = 'active' RETURNING name`)
		if err != nil {
			return err
		}
		if out.Peers, err = pgx.AppendRows(out.Peers, rows, pgx.RowTo[string]); err != nil {
			return err
		}
		return record(ctx, tx, act.Event("gateway.accept-restore"))
	})
	return out, err
}

// LiveCertificates counts the certificates that open something: only the CA's list can tell which of them were revoked
// after a dump.
func (db *DB) LiveCertificates(ctx context.Context) (int64, error) {
	var n int64
	err := db.pool.QueryRow(ctx, `SELECT count(*) FROM federation_certificates WHERE revoked_at IS NULL AND not_after > now()`).Scan(&n)
	return n, fail(err, "count certificates")
}

// AcceptMove says that a database which lives elsewhere now is the same one and has lost nothing: it was moved while
// no gateway wrote to it, by pg_upgrade for one.
func (db *DB) AcceptMove(ctx context.Context, act audit.Act) error {
	return db.inTx(ctx, "accept move", func(tx pgx.Tx) error {
		if err := settleHere(ctx, tx); err != nil {
			return err
		}
		return record(ctx, tx, act.Event("gateway.accept-move"))
	})
}

// settleHere notes that the database lives here now, once.
func settleHere(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `LOCK TABLE gateway_home IN EXCLUSIVE MODE`); err != nil {
		return err
	}
	var home bool
	if err := tx.QueryRow(ctx, atHome).Scan(&home); err != nil {
		return err
	}
	if home {
		return ErrNotRestored
	}
	if _, err := tx.Exec(ctx, `DELETE FROM gateway_home`); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `INSERT INTO gateway_home (system_identifier, database_oid, table_oid)
		SELECT s.system_identifier, d.oid, 'gateway_home'::regclass FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()`)
	return err
}
