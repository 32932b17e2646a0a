package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/page"
)

func nullID(id uuid.UUID) any {
	if id == uuid.Nil {
		return nil
	}
	return id
}

// insertEvent is record's statement, for transactions that send theirs in one batch.
const insertEvent = `INSERT INTO federation_audit_log (` + eventColumns + `) VALUES (` + eventValues + `)`

// eventColumns and eventValues are for statements that write an event among other things; its arguments come first.
const (
	eventColumns = `id, request_id, direction, actor, peer_id, peer_ref, peer_name, grant_id, subject_user_id,
		certificate_fingerprint, remote_address, verb, resource, status_code, outcome, denied_reason,
		detail, query_hash, rows_out, bytes_out, duration, occurrences, created_at`
	eventValues = `$1, $2, $3, $4, (SELECT id FROM federation_peers WHERE id = $5), $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
		$17, $18, $19, $20, $21, $22, clock_timestamp()`
)

// eventArgs are the arguments of eventValues, which sets the time itself.
func eventArgs(e audit.Event) []any {
	if e.ID == uuid.Nil {
		e.ID = uuid.New()
	}
	return []any{
		e.ID, e.RequestID, string(e.Direction), e.Actor, nullID(e.PeerID), nullID(e.PeerID), e.PeerName, nullID(e.GrantID), nullID(e.SubjectUserID),
		e.Fingerprint, e.RemoteAddress, e.Verb, e.Resource, e.StatusCode, string(e.Outcome), e.DeniedReason,
		e.Detail, e.QueryHash, e.RowsOut, e.BytesOut, e.Duration, max(e.Occurrences, 1),
	}
}

// record writes the event of an administrative act inside the transaction of the act.
func record(ctx context.Context, tx pgx.Tx, e audit.Event) error {
	_, err := tx.Exec(ctx, insertEvent, eventArgs(e)...)
	return err
}

// AuditFilter narrows a listing. Zero fields do not narrow.
type AuditFilter struct {
	ID            uuid.UUID
	PeerID        uuid.UUID
	SubjectUserID uuid.UUID
	Before        page.Key // only entries older than this position; the zero key starts at the newest
	Limit         int
}

// List returns entries newest first.
func (l *AuditLog) List(ctx context.Context, f AuditFilter) ([]audit.Entry, error) {
	const q = `SELECT ` + entryColumns + ` FROM federation_audit_log
		WHERE ($1::uuid IS NULL OR peer_id = $1) AND ($2::uuid IS NULL OR subject_user_id = $2) AND ($6::uuid IS NULL OR id = $6)
			AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4))
		ORDER BY created_at DESC, id DESC LIMIT $5`
	var at any
	if !f.Before.UpdatedAt.IsZero() {
		at = f.Before.UpdatedAt
	}
	return collect(ctx, l.pool, "list audit log", scanEntry, q, nullID(f.PeerID), nullID(f.SubjectUserID), at, f.Before.ID, f.Limit, nullID(f.ID))
}

// entryColumns are the columns of a row that is read back.
const entryColumns = `id, request_id, direction, actor, coalesce(peer_id, '00000000-0000-0000-0000-000000000000'),
	coalesce(peer_ref, '00000000-0000-0000-0000-000000000000'), peer_name,
	coalesce(grant_id, '00000000-0000-0000-0000-000000000000'), coalesce(subject_user_id, '00000000-0000-0000-0000-000000000000'),
	certificate_fingerprint, remote_address, verb, resource, status_code, outcome, denied_reason, detail, query_hash,
	rows_out, bytes_out, duration, occurrences, created_at, coalesce(log_id, '00000000-0000-0000-0000-000000000000'), coalesce(leaf_index, -1)`

func scanEntry(row pgx.CollectableRow) (audit.Entry, error) {
	var e audit.Entry
	err := row.Scan(&e.ID, &e.RequestID, &e.Direction, &e.Actor, &e.PeerID, &e.PeerRef, &e.PeerName, &e.GrantID, &e.SubjectUserID,
		&e.Fingerprint, &e.RemoteAddress, &e.Verb, &e.Resource, &e.StatusCode, &e.Outcome, &e.DeniedReason, &e.Detail, &e.QueryHash,
		&e.RowsOut, &e.BytesOut, &e.Duration, &e.Occurrences, &e.CreatedAt, &e.LogID, &e.LeafIndex)
	return e, err
}
