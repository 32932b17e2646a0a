package postgres_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// lived fills the audit log with so many rows for each peer, over the ten months before this one.
func (w *world) lived(rows int, peers ...uuid.UUID) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, `SELECT ensure_audit_partitions((now() - interval '10 months')::date, 13)`); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.pool.Exec(w.ctx, `INSERT INTO federation_audit_log (request_id, direction, peer_id, peer_ref, verb, status_code, outcome, created_at)
		SELECT 'old', 'inbound', p, p, 'list', 200, 'ok', now() - n * interval '300 days' / $2 FROM unnest($1::uuid[]) p, generate_series(1, $2) n`, peers, rows); err != nil {
		w.t.Fatal(err)
	}
}

// TestForgettingAPeerReadsItsRowsOnly: peers are found, and a portion of a peer's rows is changed, by the index, however
// many rows there are of others, and whether or not the plan knows which peer it is.
func TestForgettingAPeerReadsItsRowsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leaving := w.peer("leaving")
	w.lived(6000, leaving, w.peer("one"), w.peer("two"), w.peer("three"))
	conn, err := w.pool.Acquire(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	newest := pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			if _, err := conn.Exec(w.ctx, `ANALYZE federation_audit_log`); err != nil {
				t.Fatal(err)
			}
		}
		for _, mode := range []string{"custom", "generic"} {
			for name, s := range map[string]struct {
				statement lastStatement
				most      float64
			}{
				"find":    {lastStatement{sql: postgres.RemovedPeers}, 5 * 15}, // a row of each partition for each peer, and the end
				"portion": {lastStatement{sql: postgres.UnlinkPortion, args: []any{pgtype.UUID{Bytes: leaving, Valid: true}, newest, 500}}, 2*500 + 30},
			} {
				plan, text := carriedOut(t, conn.Conn(), s.statement, mode)
				var read float64
				plan.each(nil, func(n node, _ []node) {
					if strings.HasSuffix(n.Type, "Scan") && strings.HasPrefix(n.Relation, "federation_audit_log") {
						read += (n.Rows + n.Removed) * n.Loops
					}
				})
				if read == 0 || read > s.most {
					t.Errorf("%s, analyzed %t, %s plan: %.0f rows were read, want at most %.0f\n%s", name, analyzed, mode, read, s.most, text)
				}
			}
		}
	}
}

// TestTwoReplicasForgetRemovedPeersAtOnce: each row once, those of peers that stay not at all.
func TestTwoReplicasForgetRemovedPeersAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	staying, gone := []uuid.UUID{w.peer("one"), w.peer("two")}, []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	const rows = 2500 // more than a portion
	w.lived(rows, append(staying, gone...)...)
	ahead := time.Now().Add(100 * 24 * time.Hour) // by the clock of some replica
	if _, err := w.pool.Exec(w.ctx, `INSERT INTO federation_audit_log (request_id, direction, peer_id, peer_ref, verb, status_code, outcome, created_at)
		VALUES ('ahead', 'inbound', $1, $1, 'list', 200, 'ok', $2)`, gone[1], ahead); err != nil {
		t.Fatal(err)
	}
	var total atomic.Int64
	var replicas sync.WaitGroup
	for range 2 {
		replicas.Go(func() {
			n, err := w.upkeep.ForgetRemovedPeers(w.ctx)
			if err != nil {
				t.Error(err)
			}
			total.Add(n)
		})
	}
	replicas.Wait()
	var named, dangling, kept int
	w.scalar(&named, `SELECT count(*) FROM federation_audit_log WHERE peer_id = ANY($1)`, staying)
	w.scalar(&dangling, `SELECT count(*) FROM federation_audit_log WHERE peer_id = ANY($1)`, gone)
	w.scalar(&kept, `SELECT count(*) FROM federation_audit_log WHERE peer_ref = ANY($1)`, gone)
	if want := len(gone)*rows + 1; named != len(staying)*rows || dangling != 0 || kept != want || total.Load() != int64(want) {
		t.Errorf("%d rows name peers that stay, %d peers that are gone; %d of %d remember those, and %d were counted", named, dangling, kept, want, total.Load())
	}
}

// TestAPeerThatIsDeletedBySQLIsForgotten: as the foreign key did it, in the transaction of whoever deletes.
func TestAPeerThatIsDeletedBySQLIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leaving, staying := w.peer("leaving"), w.peer("staying")
	w.lived(300, leaving, staying)
	if _, err := w.pool.Exec(w.ctx, `DELETE FROM federation_peers WHERE id = $1`, leaving); err != nil {
		t.Fatal(err)
	}
	var named, kept int
	w.scalar(&named, `SELECT count(*) FROM federation_audit_log WHERE peer_id IS NOT NULL AND peer_id = peer_ref`)
	w.scalar(&kept, `SELECT count(*) FROM federation_audit_log WHERE peer_ref = $1 AND peer_id IS NULL`, leaving)
	if named != 300 || kept != 300 {
		t.Errorf("%d rows name the peer that stays, %d remember the one that left", named, kept)
	}
}

// TestAPortionThatAnotherHasTakenFromIsNotTheLast: fewer rows than a portion has are then changed, and there are more.
func TestAPortionThatAnotherHasTakenFromIsNotTheLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone := uuid.New()
	w.lived(4500, gone)
	err := w.behind(func() error {
		_, err := w.upkeep.ForgetRemovedPeers(w.ctx)
		return err
	}, `UPDATE federation_audit_log SET peer_id = NULL WHERE peer_id = $1 AND created_at = (SELECT max(created_at) FROM federation_audit_log WHERE peer_id = $1)`, gone)
	if err != nil {
		t.Fatal(err)
	}
	var dangling int
	w.scalar(&dangling, `SELECT count(*) FROM federation_audit_log WHERE peer_id IS NOT NULL`)
	if dangling != 0 {
		t.Errorf("%d rows still name the peer that is gone", dangling)
	}
}

// TestTheAuditLogIsReadInTheOrderOfItsKey: a listing, newest first, and an export walk the primary key of each month, no
// further than their page, wherever it begins.
func TestTheAuditLogIsReadInTheOrderOfItsKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.lived(3000, w.peer("one"), w.peer("two"))
	if _, err := w.pool.Exec(w.ctx, `ANALYZE federation_audit_log`); err != nil {
		t.Fatal(err)
	}
	c := w.pool.Config()
	last := &lastStatement{}
	c.ConnConfig.Tracer = last
	pool, err := pgxpool.NewWithConfig(w.ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	log := &postgres.AuditLog{DB: postgres.New(pool)}
	conn, err := w.pool.Acquire(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	half := page.Key{UpdatedAt: time.Now().Add(-150 * 24 * time.Hour), ID: uuid.Max}
	for name, read := range map[string]func() (int, error){
		"list": func() (int, error) { l, err := log.List(w.ctx, postgres.AuditFilter{Limit: 50}); return len(l), err },
		"list, half-way": func() (int, error) {
			l, err := log.List(w.ctx, postgres.AuditFilter{Limit: 50, Before: half})
			return len(l), err
		},
		"export": func() (int, error) {
			l, err := log.Rows(w.ctx, time.Time{}, time.Time{}, page.Key{}, 50)
			return len(l), err
		},
		"export, half-way": func() (int, error) { l, err := log.Rows(w.ctx, time.Time{}, time.Time{}, half, 50); return len(l), err },
	} {
		if n, err := read(); err != nil || n != 50 {
			t.Fatalf("%s: %d rows, %v", name, n, err)
		}
		plan, text := carriedOut(t, conn.Conn(), *last, "custom")
		var rows float64
		plan.each(nil, func(n node, _ []node) {
			if strings.Contains(n.Type, "Sort") || strings.HasPrefix(n.Relation, "federation_audit_log") && !strings.HasSuffix(n.Index, "_pkey") && n.Loops > 0 {
				t.Errorf("%s: %s of %s by %s", name, n.Type, n.Relation, n.Index)
			}
			if strings.HasPrefix(n.Relation, "federation_audit_log") {
				rows += (n.Rows + n.Removed) * n.Loops
			}
		})
		if rows < 50 || rows > 50+15 {
			t.Errorf("%s: %.0f rows were read\n%s", name, rows, text)
		}
	}
}
