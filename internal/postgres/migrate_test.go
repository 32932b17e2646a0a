package postgres_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/migrations"
)

// withForeignKey is the last schema in which the audit log has a foreign key to the peers.
const withForeignKey = 13

// at gives a world whose schema is of some version, and what moves it.
func at(t *testing.T, version int64) (*world, *pgxpool.Config, *goose.Provider) {
	t.Helper()
	c := pg.Blank(t)
	db := stdlib.OpenDB(*c.ConnConfig.Copy())
	t.Cleanup(func() { _ = db.Close() })
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), c.Copy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	store := postgres.New(pool)
	return &world{t: t, ctx: t.Context(), pool: pool, db: store, upkeep: &postgres.Upkeep{DB: store}}, c, p
}

// TestTheForeignKeyOfTheAuditLogGoesAndComes: up, down and up again, with rows in many partitions, and a row in between
// that names a peer that is gone. At each version the rows of a peer that is deleted forget it.
func TestTheForeignKeyOfTheAuditLogGoesAndComes(t *testing.T) {
	t.Parallel()
	w, _, p := at(t, withForeignKey)
	for round, step := range []func() error{
		func() error { return nil },
		func() error { _, err := p.UpTo(w.ctx, withForeignKey+1); return err },
		func() error { _, err := p.DownTo(w.ctx, withForeignKey); return err },
		func() error { _, err := p.UpTo(w.ctx, withForeignKey+1); return err },
	} {
		leaving, staying := w.peer("leaving"), w.peer("staying"+string(rune('a'+round)))
		w.lived(200, leaving, staying)
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", round, err)
		}
		if _, err := w.pool.Exec(w.ctx, `DELETE FROM federation_peers WHERE id = $1`, leaving); err != nil {
			t.Fatal(err)
		}
		var named, kept, dangling int
		w.scalar(&named, `SELECT count(*) FROM federation_audit_log WHERE peer_id = $1`, staying)
		w.scalar(&kept, `SELECT count(*) FROM federation_audit_log WHERE peer_ref = $1 AND peer_id IS NULL`, leaving)
		w.scalar(&dangling, `SELECT count(*) FROM federation_audit_log a WHERE peer_id IS NOT NULL AND NOT EXISTS (SELECT FROM federation_peers p WHERE p.id = a.peer_id)`)
		if named != 200 || kept != 200 || dangling != 0 {
			t.Errorf("step %d: %d rows name the peer that stays, %d remember the one that left, %d name nobody", round, named, kept, dangling)
		}
		_, err := w.pool.Exec(w.ctx, `INSERT INTO federation_audit_log (request_id, direction, peer_id, verb, status_code, outcome) VALUES ('r', 'inbound', $1, 'list', 200, 'ok')`, uuid.New())
		if keyed := round%2 == 0; (err != nil) != keyed {
			t.Errorf("step %d: a row of a peer that is not there: %v", round, err)
		}
	}
}

// older is what a replica from before the migration sends for a batch: the foreign key takes a lock on the peer, and
// waits no longer than that for it.
func older(ctx context.Context, pool *pgxpool.Pool, peer uuid.UUID) error {
	_, err := pool.Exec(ctx, `SET LOCAL lock_timeout = 200;
		INSERT INTO federation_audit_batches (log_id, first_leaf, leaf_count, leaves, root) VALUES (gen_random_uuid(), 0, 1, decode(repeat('00', 40), 'hex'), decode(repeat('00', 32), 'hex'));
		INSERT INTO federation_audit_log (request_id, direction, peer_id, peer_ref, verb, status_code, outcome) VALUES ('r', 'inbound', '`+peer.String()+`', '`+peer.String()+`', 'list', 200, 'ok')`,
		pgx.QueryExecModeSimpleProtocol)
	return err
}

// TestAMigrationThatHasToWaitStallsNobody: somebody has read the audit log and stays, as a backup does. Replicas go on
// answering meanwhile, and the migration is done when the backup has ended.
func TestAMigrationThatHasToWaitStallsNobody(t *testing.T) {
	t.Parallel()
	w, c, _ := at(t, withForeignKey)
	peer := w.peer("home")
	backup, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer backup.Rollback(context.Background()) //nolint:errcheck // it only reads
	if _, err := backup.Exec(w.ctx, `SELECT count(*) FROM federation_audit_log`); err != nil {
		t.Fatal(err)
	}
	var migrating atomic.Bool
	migrating.Store(true)
	var replicas sync.WaitGroup
	var recorded, longest atomic.Int64
	for _, act := range []func() error{
		func() error { return older(w.ctx, w.pool, peer) },
		func() error { // an act of an admin takes the peer first and the audit log then
			return pgx.BeginFunc(w.ctx, w.pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(w.ctx, `UPDATE federation_peers SET updated_at = now() WHERE id = $1`, peer); err != nil {
					return err
				}
				_, err := tx.Exec(w.ctx, `INSERT INTO federation_audit_log (request_id, direction, peer_id, verb, status_code, outcome) VALUES ('a', 'admin', $1, 'peer.limit', 200, 'ok')`, peer)
				return err
			})
		},
	} {
		replicas.Go(func() {
			for migrating.Load() {
				start := time.Now()
				err := act()
				for err != nil && (strings.Contains(err.Error(), "55P03") || strings.Contains(err.Error(), "40P01")) { // which a replica does again
					err = act()
				}
				if err != nil {
					t.Error(err)
					return
				}
				recorded.Add(1)
				longest.Store(max(longest.Load(), int64(time.Since(start))))
			}
		})
	}
	waits := make(chan struct{}, 100)
	log := &said{what: "migration waits", signal: waits}
	migrated := make(chan error, 1)
	go func() { migrated <- postgres.Migrate(w.ctx, c.Copy(), slog.New(slog.NewTextHandler(log, nil))) }()
	for range 2 {
		select {
		case <-waits:
		case err := <-migrated:
			t.Fatalf("the migration did not wait: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("the migration neither ends nor gives way")
		}
	}
	before := recorded.Load()
	if err := backup.Rollback(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Error(err)
	}
	migrating.Store(false)
	replicas.Wait()
	if before < 10 || time.Duration(longest.Load()) > 3*time.Second {
		t.Errorf("%d rows were recorded while the migration waited, one of them in %s", before, time.Duration(longest.Load()))
	}
	if err := older(w.ctx, w.pool, peer); err != nil {
		t.Errorf("an older replica after the migration: %v", err)
	}
}

// said is a log that tells of lines with some words.
type said struct {
	what   string
	signal chan<- struct{}
}

func (s *said) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(s.what)) {
		s.signal <- struct{}{}
	}
	return len(line), nil
}
