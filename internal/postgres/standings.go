package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/querying"
)

// Standings implements querying.Standings. A peer without an active credential has none.
func (s *Credentials) Standings(ctx context.Context) ([]querying.Standing, error) {
	return collect(ctx, s.pool, "read how credentials stand", func(row pgx.CollectableRow) (out querying.Standing, err error) {
		return out, row.Scan(&out.Peer, &out.NotAfter, &out.Failures)
	}, `SELECT p.name, coalesce(min(c.not_after) FILTER (WHERE c.not_after > now()), max(c.not_after)), max(c.renewal_attempts) FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
		WHERE c.state = 'active' GROUP BY p.name ORDER BY p.name LIMIT 1000`)
}
