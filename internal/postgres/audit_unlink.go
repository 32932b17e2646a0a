package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// unlinkAtOnce is how many audit rows forget their peer in one transaction.
const unlinkAtOnce = 2000

// ForgetRemovedPeers implements upkeep.Store. A row that is committed while its peer is being removed may keep the peer's
// id: the audit log's commits lock no peer. The peers that rows name are found by jumping from one to the next in the
// index, so that the work grows with the number of peers and not of rows.
func (s *Upkeep) ForgetRemovedPeers(ctx context.Context) (int64, error) {
	gone, err := collect(ctx, s.pool, "find removed peers", pgx.RowTo[uuid.UUID], `WITH RECURSIVE named AS (
			(SELECT peer_id FROM federation_audit_log WHERE peer_id IS NOT NULL ORDER BY peer_id LIMIT 1)
			UNION ALL
			SELECT (SELECT a.peer_id FROM federation_audit_log a WHERE a.peer_id > n.peer_id ORDER BY a.peer_id LIMIT 1)
			FROM named n WHERE n.peer_id IS NOT NULL)
		SELECT n.peer_id FROM named n WHERE n.peer_id IS NOT NULL AND NOT EXISTS (SELECT FROM federation_peers p WHERE p.id = n.peer_id)`)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, id := range gone {
		n, err := s.unlinkRows(ctx, id)
		if total += n; err != nil {
			return total, err
		}
	}
	return total, nil
}

// unlinkRows makes the audit rows of a peer forget it, newest first. It goes down in time, so that no portion walks
// again through the index entries that the ones before it have left behind.
func (db *DB) unlinkRows(ctx context.Context, id uuid.UUID) (total int64, err error) {
	at := time.Now().Add(24 * time.Hour) // whose clock is further ahead leaves rows for the DELETE
	for {
		var n int64
		var last *time.Time
		if err := db.pool.QueryRow(ctx, `WITH gone AS (UPDATE federation_audit_log a SET peer_id = NULL
			FROM (SELECT created_at, id FROM federation_audit_log WHERE peer_id = $1 AND created_at <= $3 ORDER BY created_at DESC LIMIT $2) b
			WHERE a.created_at = b.created_at AND a.id = b.id RETURNING a.created_at)
			SELECT count(*), min(created_at) FROM gone`, id, unlinkAtOnce, at).Scan(&n, &last); err != nil {
			return total, fail(err, "unlink audit rows")
		}
		if total += n; n < unlinkAtOnce {
			return total, nil
		}
		at = *last
	}
}
