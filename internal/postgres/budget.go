package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/serving"
)

// today is the day of a row budget, by the one clock all replicas share.
const today = `(now() AT TIME ZONE 'UTC')::date`

// untilMidnight is how long a day of UTC lasts still.
func untilMidnight(day string) string {
	return `extract(epoch FROM ((` + day + ` + 1)::timestamp AT TIME ZONE 'UTC') - now())::float8`
}

// Reserve implements serving.Budgets. It is one statement, which holds the row's lock: two requests at the same
// instant, on any replicas, cannot both be given the last row. A clock that is set back does not begin an earlier day.
func (s *Serving) Reserve(ctx context.Context, grantID uuid.UUID, perDay int64, rows int) (serving.Reservation, error) {
	const used = `CASE WHEN b.day < excluded.day THEN 0 ELSE b.delivered END`
	const granted = `least($3::bigint, $2::bigint - ` + used + `)`
	var out serving.Reservation
	var seconds float64
	err := s.pool.QueryRow(ctx, `INSERT INTO federation_row_budgets AS b (grant_id, day, delivered, granted)
		VALUES ($1, `+today+`, least($3::bigint, $2::bigint), least($3::bigint, $2::bigint))
		ON CONFLICT (grant_id) DO UPDATE SET day = greatest(b.day, excluded.day), granted = `+granted+`, delivered = `+used+` + `+granted+`
			WHERE `+used+` < $2::bigint
		RETURNING granted, day, `+untilMidnight("day"), grantID, perDay, rows).Scan(&out.Rows, &out.Day, &seconds)
	if notFound(err) { // nothing is left, and nothing was written
		_, out.Ends, err = s.Delivered(ctx, grantID)
		return out, err
	}
	out.Ends = time.Duration(seconds * float64(time.Second))
	return out, fail(err, "reserve rows")
}

// Return implements serving.Budgets.
func (s *Serving) Return(ctx context.Context, grantID uuid.UUID, r serving.Reservation, rows int) error {
	_, err := s.pool.Exec(ctx, `UPDATE federation_row_budgets SET delivered = greatest(delivered - $3::bigint, 0) WHERE grant_id = $1 AND day = $2`,
		grantID, r.Day, rows)
	return fail(err, "return rows")
}

// Delivered implements serving.Budgets.
func (s *Serving) Delivered(ctx context.Context, grantID uuid.UUID) (rows int64, ends time.Duration, err error) {
	var seconds float64
	err = s.pool.QueryRow(ctx, `SELECT coalesce(b.delivered, 0), `+untilMidnight(`greatest(b.day, `+today+`)`)+`
		FROM (SELECT) AS one LEFT JOIN federation_row_budgets b ON b.grant_id = $1 AND b.day >= `+today, grantID).Scan(&rows, &seconds)
	return rows, time.Duration(seconds * float64(time.Second)), fail(err, "read row budget")
}
