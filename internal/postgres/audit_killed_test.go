package postgres_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// opened is a world whose stores have the pools of a gateway, over connections that dial makes.
func opened(t *testing.T, dial func(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error)) *world {
	t.Helper()
	c := pg.Database(t)
	db, err := postgres.Open(t.Context(), postgres.Config{DSN: c.ConnString(), Dial: dial(c.ConnConfig.DialFunc)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return &world{t: t, ctx: t.Context(), pool: db.Pool(), db: db, audit: &postgres.AuditLog{DB: db}, upkeep: &postgres.Upkeep{DB: db}}
}

// TestConnectionsThatAreKilledLoseNoRecord: one client and sixteen in turn, and backends that are killed in between and
// in the middle. Whoever was told that it is on record is, each row is in one log, and no log is wrong.
func TestConnectionsThatAreKilledLoseNoRecord(t *testing.T) {
	t.Parallel()
	w := opened(t, func(d func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
		return d
	})
	writer := w.writer()
	var mu sync.Mutex
	var told []uuid.UUID
	var asked, refused atomic.Int64
	kill, kills := make(chan struct{}), make(chan int)
	ask := func() {
		if asked.Add(1)%23 == 0 {
			select {
			case kill <- struct{}{}:
			default: // it is busy with the one before
			}
		}
		writer.Coming(1)
		defer writer.Coming(-1)
		e := audit.Event{ID: uuid.New(), Direction: audit.Inbound, Verb: "list", Outcome: audit.OK}
		if err := writer.Record(w.ctx, e); err != nil {
			refused.Add(1)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, e.ID)
	}
	killer, err := w.pool.Acquire(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer killer.Release()
	go func() {
		n := 0
		for range kill {
			var some int
			if err := killer.QueryRow(w.ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE datname = current_database() AND query LIKE ANY ('{%audit_batch%,%federation_audit_batches%}') AND pid <> pg_backend_pid()`).Scan(&some); err != nil {
				t.Error(err)
			}
			n += some
		}
		kills <- n
	}()
	for range 15 {
		for range 40 {
			ask()
		}
		var crowd sync.WaitGroup
		for range 16 {
			crowd.Go(func() {
				for range 10 {
					ask()
				}
			})
		}
		crowd.Wait()
	}
	close(kill)
	died := <-kills
	var there, twice int
	w.scalar(&there, `SELECT count(*) FROM federation_audit_log WHERE id = ANY($1)`, told)
	w.scalar(&twice, `SELECT count(*) - count(DISTINCT id) FROM federation_audit_log`)
	t.Logf("%d kills, %d on record, %d refused", died, len(told), refused.Load())
	if there != len(told) || twice != 0 || died < 5 || len(told) < 1000 {
		t.Errorf("%d of %d are on record, %d twice, after %d kills", there, len(told), twice, died)
	}
	doc, o := w.proof(w.notary(w.ring()))
	if r := w.verify(doc, o); !r.OK || r.Rows < int64(there) || r.Logs < 2 {
		t.Errorf("the log does not verify: %+v", r)
	}
}

// TestACommitThatIsStuckHoldsNobodyForLong: a connection that carries nothing any more, as behind a firewall that forgot
// it. Who waits for its commit is told within the limit, and the next one goes over another connection.
func TestACommitThatIsStuckHoldsNobodyForLong(t *testing.T) {
	t.Parallel()
	var dialled []*silent
	var mu sync.Mutex
	w := opened(t, func(d func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := d(ctx, network, address)
			if err != nil {
				return nil, err
			}
			mu.Lock()
			defer mu.Unlock()
			dialled = append(dialled, &silent{Conn: c})
			return dialled[len(dialled)-1], nil
		}
	})
	t.Cleanup(func() { // or the pool gives them 15 seconds to say goodbye
		mu.Lock()
		defer mu.Unlock()
		for _, c := range dialled {
			_ = c.Close()
		}
	})
	writer := w.writer()
	record := func() (time.Duration, error) {
		start := time.Now()
		err := writer.Record(w.ctx, audit.Event{Direction: audit.Inbound, Verb: "list", Outcome: audit.OK})
		return time.Since(start), err
	}
	if _, err := record(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	for _, c := range dialled {
		c.mute.Store(true)
	}
	mu.Unlock()
	if took, err := record(); err == nil || took > 8*time.Second {
		t.Errorf("a commit that is stuck: %v in %s", err, took)
	}
	if took, err := record(); err != nil || took > 3*time.Second {
		t.Errorf("the next one: %v in %s", err, took)
	}
}

// silent is a connection that may lose what is written.
type silent struct {
	net.Conn
	mute atomic.Bool
}

func (s *silent) Write(p []byte) (int, error) {
	if s.mute.Load() {
		return len(p), nil
	}
	return s.Conn.Write(p)
}
