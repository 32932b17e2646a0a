package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/page"
)

// Rows implements audit.Source. It walks the primary key: each portion is one range of it.
func (l *AuditLog) Rows(ctx context.Context, since, until time.Time, after page.Key, limit int) ([]audit.Entry, error) {
	const q = `SELECT ` + entryColumns + ` FROM federation_audit_log
		WHERE created_at >= $1 AND (created_at, id) > ($1, $2) AND ($3::timestamptz IS NULL OR created_at < $3)
		ORDER BY created_at, id LIMIT $4`
	from, id := after.UpdatedAt, after.ID
	if from.IsZero() {
		// Before the first one of its instant: no id is zero.
		from, id = since, uuid.Nil
	}
	var end any
	if !until.IsZero() {
		end = until
	}
	return collect(ctx, l.pool, "export audit log", scanEntry, q, from, id, end, limit)
}

// Batches implements audit.Source.
func (l *AuditLog) Batches(ctx context.Context, log uuid.UUID, first int64, limit int) ([]audit.StoredBatch, error) {
	return collect(ctx, l.pool, "export audit batches", func(row pgx.CollectableRow) (audit.StoredBatch, error) {
		var b audit.StoredBatch
		var root []byte
		err := row.Scan(&b.LogID, &b.First, &b.Leaves, &root)
		copy(b.Root[:], root)
		return b, err
	}, `SELECT log_id, first_leaf, leaves, root FROM federation_audit_batches
		WHERE (log_id, first_leaf) > ($1, $2) ORDER BY log_id, first_leaf LIMIT $3`, log, first, limit)
}

// Retention implements audit.Source.
func (l *AuditLog) Retention(ctx context.Context) (r audit.Retention, err error) {
	var id uuid.UUID
	var at time.Time
	err = l.pool.QueryRow(ctx, `SELECT dropped_before, row_id, row_created_at FROM federation_audit_retention ORDER BY dropped_before DESC LIMIT 1`).
		Scan(&r.Before, &id, &at)
	if notFound(err) {
		return audit.Retention{Entry: audit.Entry{LeafIndex: -1}}, nil
	}
	if err != nil {
		return r, fail(err, "read audit retention")
	}
	rows, err := collect(ctx, l.pool, "read audit retention", scanEntry, `SELECT `+entryColumns+` FROM federation_audit_log WHERE created_at = $1 AND id = $2`, at, id)
	if err != nil {
		return r, err
	}
	r.Entry.LeafIndex = -1
	if len(rows) > 0 {
		r.Entry = rows[0]
	}
	return r, nil
}
