package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
)

// Sequence implements audit.Ledger.
func (l *AuditLog) Sequence(ctx context.Context, limit int, next func([]audit.Event) *audit.Batch) (int, error) {
	n := 0
	err := l.inTx(ctx, "sequence audit rows", func(tx pgx.Tx) error {
		entries, err := collect(ctx, tx, "sequence audit rows", scanEntry, `SELECT `+entryColumns+` FROM federation_audit_log
			WHERE leaf_index IS NULL ORDER BY created_at, id LIMIT $1 FOR UPDATE SKIP LOCKED`, limit)
		if err != nil || len(entries) == 0 {
			return err
		}
		n = len(entries)
		events := make([]audit.Event, n)
		ids, times := make([]uuid.UUID, n), make([]time.Time, n)
		for i, e := range entries {
			events[i], ids[i], times[i] = e.Hashed(), e.ID, e.CreatedAt
		}
		b := next(events)
		batch := &pgx.Batch{}
		batch.Queue(`INSERT INTO federation_audit_batches (log_id, first_leaf, leaf_count, leaves, root) VALUES ($1, $2, $3, $4, $5)`,
			b.LogID, b.First, n, b.Leaves, b.Root[:])
		batch.Queue(`UPDATE federation_audit_log a SET log_id = $1, leaf_index = $2 + e.n - 1
			FROM unnest($3::uuid[], $4::timestamptz[]) WITH ORDINALITY AS e(id, created_at, n)
			WHERE a.id = e.id AND a.created_at = e.created_at`, b.LogID, b.First, ids, times)
		return tx.SendBatch(ctx, batch).Close()
	})
	return n, err
}

// Heads implements audit.Ledger. The newest batch of each log is found by jumping from log to log in the primary key:
// the work grows with the number of logs, not of batches.
func (l *AuditLog) Heads(ctx context.Context) ([]audit.Head, error) {
	return collect(ctx, l.pool, "read audit logs", func(row pgx.CollectableRow) (audit.Head, error) {
		var h audit.Head
		var root []byte
		err := row.Scan(&h.LogID, &h.Size, &root)
		copy(h.Root[:], root)
		return h, err
	}, `WITH RECURSIVE logs AS (
			(SELECT log_id FROM federation_audit_batches ORDER BY log_id LIMIT 1)
			UNION ALL
			SELECT (SELECT b.log_id FROM federation_audit_batches b WHERE b.log_id > l.log_id ORDER BY b.log_id LIMIT 1)
			FROM logs l WHERE l.log_id IS NOT NULL)
		SELECT l.log_id, h.first_leaf + h.leaf_count, h.root FROM logs l
		CROSS JOIN LATERAL (SELECT b.first_leaf, b.leaf_count, b.root FROM federation_audit_batches b
			WHERE b.log_id = l.log_id ORDER BY b.first_leaf DESC LIMIT 1) h
		WHERE l.log_id IS NOT NULL ORDER BY l.log_id`)
}

// Key implements audit.Ledger.
func (l *AuditLog) Key(ctx context.Context) (audit.StoredKey, error) {
	return auditKey(ctx, l.pool)
}

func auditKey(ctx context.Context, q querier) (k audit.StoredKey, err error) {
	err = q.QueryRow(ctx, `SELECT id, verifier, private_key_sealed FROM federation_audit_keys`).Scan(&k.ID, &k.Verifier, &k.Sealed)
	if notFound(err) {
		return audit.StoredKey{}, nil
	}
	return k, fail(err, "read audit key")
}

// KeepKey implements audit.Ledger. There is room for one row: whoever comes second waits, and reads the other's.
func (l *AuditLog) KeepKey(ctx context.Context, k audit.StoredKey) (kept audit.StoredKey, err error) {
	err = l.inTx(ctx, "keep audit key", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO federation_audit_keys (id, verifier, private_key_sealed) VALUES ($1, $2, $3)
			ON CONFLICT (only_one) DO NOTHING`, k.ID, k.Verifier, k.Sealed); err != nil {
			return err
		}
		kept, err = auditKey(ctx, tx)
		return err
	})
	return kept, err
}

// LastCheckpoint implements audit.Ledger.
func (l *AuditLog) LastCheckpoint(ctx context.Context) (string, error) {
	var signed string
	err := l.pool.QueryRow(ctx, `SELECT note FROM federation_audit_checkpoints ORDER BY id DESC LIMIT 1`).Scan(&signed)
	if notFound(err) {
		return "", nil
	}
	return signed, fail(err, "read checkpoint")
}

// KeepCheckpoint implements audit.Ledger. The newest hundred stay, and of the others the last one of each day.
func (l *AuditLog) KeepCheckpoint(ctx context.Context, size int64, signed string) error {
	return l.inTx(ctx, "keep checkpoint", func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue(`INSERT INTO federation_audit_checkpoints (size, note) VALUES ($1, $2)`, size, signed)
		batch.Queue(`DELETE FROM federation_audit_checkpoints c
			WHERE c.id IN (SELECT id FROM federation_audit_checkpoints ORDER BY id DESC OFFSET 100 LIMIT 10)
			AND c.created_at::date = (SELECT n.created_at::date FROM federation_audit_checkpoints n WHERE n.id > c.id ORDER BY n.id LIMIT 1)`)
		return tx.SendBatch(ctx, batch).Close()
	})
}
