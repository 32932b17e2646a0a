package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// unlinkAtOnce is how many audit rows forget their peer in one transaction.
const unlinkAtOnce = 2000

// removedPeers are the ids that audit rows have of peers that are gone. It jumps from one peer to the next in the index,
// so that the work grows with the number of peers and not of rows.
const removedPeers = `WITH RECURSIVE named AS (
		(SELECT peer_id FROM federation_audit_log WHERE peer_id IS NOT NULL ORDER BY peer_id LIMIT 1)
		UNION ALL
		SELECT (SELECT a.peer_id FROM federation_audit_log a WHERE a.peer_id > n.peer_id ORDER BY a.peer_id LIMIT 1)
		FROM named n WHERE n.peer_id IS NOT NULL)
	SELECT n.peer_id FROM named n WHERE n.peer_id IS NOT NULL AND NOT EXISTS (SELECT FROM federation_peers p WHERE p.id = n.peer_id)`

// ForgetRemovedPeers implements upkeep.Store. A row that is committed while its peer is being removed may keep the peer's
// id: the audit log's commits lock no peer.
func (s *Upkeep) ForgetRemovedPeers(ctx context.Context) (int64, error) {
	gone, err := collect(ctx, s.pool, "find removed peers", pgx.RowTo[uuid.UUID], removedPeers)
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

// unlinkPortion makes the newest so many rows of a peer forget it, and says from when on, how many there were, and how
// many of them nobody else had taken meanwhile. It changes a range of the index: a join of the table with those rows
// reads all of it.
const unlinkPortion = `WITH portion AS MATERIALIZED (SELECT min(created_at) AS since, count(*) AS rows FROM (
			SELECT created_at FROM federation_audit_log WHERE peer_id = $1 AND created_at <= coalesce($2, 'infinity'::timestamptz) ORDER BY created_at DESC LIMIT $3) newest),
		gone AS (UPDATE federation_audit_log SET peer_id = NULL
			WHERE peer_id = $1 AND created_at <= coalesce($2, 'infinity'::timestamptz) AND created_at >= (SELECT since FROM portion) RETURNING 1)
	SELECT since, rows, (SELECT count(*) FROM gone) FROM portion`

// unlinkRows makes the audit rows of a peer forget it, newest first. It goes down in time, so that no portion walks
// again through the index entries that the ones before it have left behind.
func (db *DB) unlinkRows(ctx context.Context, id uuid.UUID) (total int64, err error) {
	for until := (*time.Time)(nil); ; {
		var rows, n int64
		var since *time.Time
		if err := retried(func() error {
			return fail(db.pool.QueryRow(ctx, unlinkPortion, id, until, unlinkAtOnce).Scan(&since, &rows, &n), "unlink audit rows")
		}); err != nil {
			return total, err
		}
		if total += n; rows < unlinkAtOnce {
			return total, nil
		}
		until = since
	}
}
