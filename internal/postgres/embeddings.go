package postgres

import (
	"context"
	"crypto/sha256"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

// Embeddings stores the rows' embeddings and the queue of rows that wait for one. It is the upkeep.EmbeddingStore of
// the gateway.
type Embeddings struct{ *DB }

// embedFrom is how much of a row's text its embedding is made of, in characters: what most models take.
const embedFrom = 6000

// enoughQueued is the length of the queue at which the sweep waits.
const enoughQueued = 2000

// sweptAll says that the sweep has come to its end.
const sweptAll = "done"

// embeddedText is what is embedded of a row t.
func embeddedText(r scope.Resource) string {
	return `left(` + searchableOf(r).embedded + `, ` + strconv.Itoa(embedFrom) + `)`
}

// Adopt implements upkeep.EmbeddingStore.
func (s *Embeddings) Adopt(ctx context.Context, model string) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO embedding_state (model) VALUES ($1)
		ON CONFLICT (only_one) DO UPDATE SET model = excluded.model, dims = NULL, swept = '', swept_to = NULL, changed_at = now()
		WHERE embedding_state.model <> excluded.model`, model)
	return fail(err, "adopt embedding model")
}

// Sweep implements upkeep.EmbeddingStore. It goes through each table by id, so that a step costs its limit whatever
// the table holds.
func (s *Embeddings) Sweep(ctx context.Context, model string, limit int) (more bool, err error) {
	err = s.inTx(ctx, "sweep embeddings", func(tx pgx.Tx) error {
		var swept string
		var to *uuid.UUID
		var dims *int
		var queued int
		err := tx.QueryRow(ctx, `SELECT swept, swept_to, dims, (SELECT count(*) FROM (SELECT FROM embedding_queue LIMIT $2) q)
			FROM embedding_state WHERE model = $1 AND swept <> $3 FOR UPDATE`, model, enoughQueued, sweptAll).Scan(&swept, &to, &dims, &queued)
		if notFound(err) || err == nil && queued >= enoughQueued {
			return nil
		} else if err != nil {
			return err
		}
		all := resource.EmbeddedResources()
		at := max(slices.Index(all, scope.Resource(swept)), 0)
		if to == nil {
			to = &uuid.UUID{}
		}
		var last *uuid.UUID
		err = tx.QueryRow(ctx, `WITH seen AS (SELECT t.id, t.embedding_model IS DISTINCT FROM $1 OR vector_dims(t.embedding) <> $2 OR t.search IS NULL AS stale
				FROM `+string(all[at])+` t WHERE t.id > $3 ORDER BY t.id LIMIT $4),
			queued AS (INSERT INTO embedding_queue (resource, row_id, priority) SELECT $5, id, 1 FROM seen WHERE stale ON CONFLICT (resource, row_id) DO NOTHING)
			SELECT (SELECT id FROM seen ORDER BY id DESC LIMIT 1)`, model, dims, to, limit, string(all[at])).Scan(&last)
		if err != nil {
			return err
		}
		swept, more = string(all[at]), true
		if last == nil && at+1 < len(all) {
			swept = string(all[at+1])
		} else if last == nil {
			swept, more = sweptAll, false
		}
		_, err = tx.Exec(ctx, `UPDATE embedding_state SET swept = $1, swept_to = $2`, swept, last)
		return err
	})
	return more && err == nil, err
}

// Take implements upkeep.EmbeddingStore. A row that was deleted meanwhile leaves the queue here.
func (s *Embeddings) Take(ctx context.Context, model string, limit int, keep time.Duration) ([]upkeep.Unembedded, error) {
	var out []upkeep.Unembedded
	err := s.inTx(ctx, "take rows to embed", func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `UPDATE embedding_queue SET next_at = now() + $3::interval, attempts = attempts + 1 WHERE (resource, row_id) IN (
				SELECT resource, row_id FROM embedding_queue WHERE next_at <= now() AND EXISTS (SELECT FROM embedding_state WHERE model = $1)
				ORDER BY priority, next_at LIMIT $2 FOR UPDATE SKIP LOCKED)
			RETURNING resource, row_id, attempts - 1`, model, limit, keep)
		if err != nil {
			return err
		}
		taken := map[scope.Resource][]uuid.UUID{}
		attempts := map[uuid.UUID]int{}
		var res string
		var id uuid.UUID
		var n int
		if _, err := pgx.ForEachRow(rows, []any{&res, &id, &n}, func() error {
			taken[scope.Resource(res)] = append(taken[scope.Resource(res)], id)
			attempts[id] = n
			return nil
		}); err != nil {
			return err
		}
		for _, r := range resource.EmbeddedResources() {
			ids := taken[r]
			if len(ids) == 0 {
				continue
			}
			rows, err := tx.Query(ctx, `SELECT t.id, `+embeddedText(r)+` FROM `+string(r)+` t WHERE t.id = ANY($1)`, ids)
			if err != nil {
				return err
			}
			there, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (upkeep.Unembedded, error) {
				u := upkeep.Unembedded{Resource: r}
				err := row.Scan(&u.ID, &u.Text)
				u.Attempts = attempts[u.ID]
				return u, err
			})
			if err != nil {
				return err
			}
			out = append(out, there...)
			if len(there) == len(ids) {
				continue
			}
			if _, err := tx.Exec(ctx, `DELETE FROM embedding_queue q WHERE q.resource = $1 AND q.row_id = ANY($2)
				AND NOT EXISTS (SELECT FROM `+string(r)+` t WHERE t.id = q.row_id)`, string(r), ids); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// Settle implements upkeep.EmbeddingStore. A row that somebody is writing is skipped: it stays queued and is
// embedded again with what it then says. The row's own times do not move.
func (s *Embeddings) Settle(ctx context.Context, model string, rows []upkeep.Embedded) error {
	return s.inTx(ctx, "store embeddings", func(tx pgx.Tx) error {
		// Tells the trigger of doc and updated_at that nothing changes that anybody sees.
		if _, err := tx.Exec(ctx, `SET LOCAL mosaic.resealing = 'on'`); err != nil {
			return err
		}
		var known bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM embedding_state WHERE model = $1)`, model).Scan(&known); err != nil || !known {
			return err // another model was adopted meanwhile
		}
		var batch pgx.Batch
		dims := 0
		for _, r := range rows {
			hash := sha256.Sum256([]byte(r.Text))
			var vector any
			if r.Vector != nil {
				vector, dims = pgvector.NewVector(r.Vector), len(r.Vector)
			}
			table := string(r.Resource)
			batch.Queue(`WITH same AS (SELECT t.id FROM `+table+` t WHERE t.id = $1 AND sha256(convert_to(`+embeddedText(r.Resource)+`, 'UTF8')) = $2 FOR NO KEY UPDATE SKIP LOCKED),
				settled AS (UPDATE `+table+` t SET embedding = $3::vector, embedding_model = $4, search = coalesce(t.search, `+searchableOf(r.Resource).words+`)
					FROM same WHERE t.id = same.id RETURNING t.id)
				DELETE FROM embedding_queue q USING settled WHERE q.resource = $5 AND q.row_id = settled.id`, r.ID, hash[:], vector, model, table)
		}
		if dims > 0 {
			// Vectors of another length are of another model, whatever its name: look for those that are left.
			batch.Queue(`UPDATE embedding_state SET dims = $2, swept = '', swept_to = NULL WHERE model = $1 AND dims IS DISTINCT FROM $2`, model, dims)
		}
		return tx.SendBatch(ctx, &batch).Close()
	})
}

// Postpone implements upkeep.EmbeddingStore.
func (s *Embeddings) Postpone(ctx context.Context, rows []upkeep.Unembedded, in time.Duration) error {
	resources, ids := make([]string, len(rows)), make([]uuid.UUID, len(rows))
	for i, r := range rows {
		resources[i], ids[i] = string(r.Resource), r.ID
	}
	_, err := s.pool.Exec(ctx, `UPDATE embedding_queue q SET next_at = now() + $3::interval
		FROM unnest($1::text[], $2::uuid[]) u(resource, id) WHERE q.resource = u.resource AND q.row_id = u.id`, resources, ids, in)
	return fail(err, "postpone embeddings")
}
