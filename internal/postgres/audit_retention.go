package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/audit"
)

// Removal signs that the rows from before a time are dropped, and gives the detail of the row with this id that says so.
type Removal func(ctx context.Context, before time.Time, row uuid.UUID) (detail string, err error)

// EnsurePartitions makes the audit partitions of this month and the next three.
func (l *AuditLog) EnsurePartitions(ctx context.Context) error {
	_, err := l.pool.Exec(ctx, `SELECT ensure_audit_partitions((now() AT TIME ZONE 'UTC')::date, 3)`)
	return fail(err, "make audit partitions")
}

// DropBefore drops the partitions whose rows are all from before a time, oldest first, each in a transaction with the
// row that says so, whose detail comes from say. The batches keep time and hash of each dropped row. A month that has to
// wait makes the later ones wait too: what is signed is that nothing from before is left. It gives the number of
// partitions.
//
// Dropping needs the table for a moment, and everybody would queue behind a drop that waits: so it does not wait
// long, and the next run tries again.
func (l *AuditLog) DropBefore(ctx context.Context, before time.Time, say Removal) (int64, error) {
	type partition struct {
		Name  string
		Until time.Time
	}
	parts, err := collect(ctx, l.pool, "list audit partitions", pgx.RowToStructByPos[partition], `SELECT c.relname, p.until FROM (
			SELECT inhrelid, (to_date(substring(inhrelid::regclass::text FROM '[0-9]{6}$'), 'YYYYMM') + interval '1 month') AT TIME ZONE 'UTC' AS until
			FROM pg_inherits WHERE inhparent = 'federation_audit_log'::regclass AND inhrelid::regclass::text ~ '^federation_audit_log_[0-9]{6}$') p
		JOIN pg_class c ON c.oid = p.inhrelid WHERE p.until <= $1 ORDER BY p.until`, before)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, p := range parts {
		id := uuid.New()
		detail, err := say(ctx, p.Until, id) // before the lock: it may have to read the key
		if err != nil {
			return n, err
		}
		dropped, err := l.drop(ctx, p.Name, p.Until, id, detail)
		if sqlState(err) == lockNotAvailable {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if !dropped {
			return n, nil
		}
		n++
	}
	return n, nil
}

// DropAuditRows implements upkeep.Store.
func (s *Upkeep) DropAuditRows(ctx context.Context, months int) (int64, error) {
	var before time.Time
	if err := s.pool.QueryRow(ctx, `SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') - make_interval(months => $1)) AT TIME ZONE 'UTC'`, months).Scan(&before); err != nil {
		return 0, fail(err, "drop audit rows")
	}
	return (&AuditLog{DB: s.DB}).DropBefore(ctx, before, s.Removal)
}

func (l *AuditLog) drop(ctx context.Context, name string, until time.Time, id uuid.UUID, detail string) (dropped bool, err error) {
	table := pgx.Identifier{name}.Sanitize()
	err = l.inTx(ctx, "drop audit partition", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = 200; SET LOCAL statement_timeout = 60000`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `LOCK TABLE federation_audit_log IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
		// A row without a leaf would be gone without a trace. It gets one within seconds.
		var open bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+table+` WHERE leaf_index IS NULL)`).Scan(&open); err != nil || open {
			return err
		}
		if _, err := tx.Exec(ctx, `DROP TABLE `+table); err != nil {
			return err
		}
		e := upkeepAct.Event(audit.RetentionVerb)
		e.ID, e.Detail = id, detail
		args := eventArgs(e)
		if _, err := tx.Exec(ctx, `WITH row AS (`+insertEvent+` RETURNING id, created_at)
			INSERT INTO federation_audit_retention (dropped_before, row_id, row_created_at) SELECT $23, id, created_at FROM row`, append(args, until)...); err != nil {
			return fmt.Errorf("record removal: %w", err)
		}
		dropped = true
		return nil
	})
	return dropped, err
}
