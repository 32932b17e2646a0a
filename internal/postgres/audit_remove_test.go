package postgres_test

import (
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
)

// TestRemovingAPeerWithManyRowsStallsNobody removes a peer while others, and the peer itself, go on being recorded.
func TestRemovingAPeerWithManyRowsStallsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	many := 20_000
	if os.Getenv("MOSAIC_TORTURE") != "" {
		many = 200_000
	}
	leaving, other := w.peer("leaving"), w.peer("other")
	if _, err := w.pool.Exec(w.ctx, `SET statement_timeout = 0; INSERT INTO federation_audit_log (request_id, direction, peer_id, peer_ref, peer_name, verb, status_code, outcome, created_at, log_id, leaf_index)
		SELECT 'old', 'inbound', '`+leaving.String()+`'::uuid, '`+leaving.String()+`'::uuid, 'leaving', 'list', 200, 'ok', now() - n * interval '1 second', gen_random_uuid(), n FROM generate_series(1, `+strconv.Itoa(many)+`) n`); err != nil {
		t.Fatal(err)
	}
	writer := w.writer()
	var stop atomic.Bool
	took := make(chan []time.Duration)
	for _, id := range []uuid.UUID{leaving, other} {
		go func() {
			var mine []time.Duration
			for !stop.Load() {
				start := time.Now()
				if err := writer.Record(w.ctx, audit.Event{Direction: audit.Inbound, PeerID: id, Verb: "get", Outcome: audit.OK}); err != nil {
					t.Error(err)
				}
				mine = append(mine, time.Since(start))
			}
			took <- mine
		}()
	}
	start := time.Now()
	if err := w.peers.Remove(w.ctx, "leaving", act); err != nil {
		t.Error(err)
	}
	removal := time.Since(start)
	t.Logf("removed a peer of %d rows in %s", many, removal)
	stop.Store(true)
	for range 2 {
		mine := <-took
		if worst := slices.Max(mine); worst > 2*time.Second || len(mine) < 5 {
			t.Errorf("%d rows were recorded during a removal of %s, one of them in %s", len(mine), removal, worst)
		}
	}
	if _, err := w.upkeep.ForgetRemovedPeers(w.ctx); err != nil { // what was recorded while it was removed, and after
		t.Error(err)
	}
	var linked, kept int
	w.scalar(&linked, `SELECT count(*) FROM federation_audit_log WHERE peer_id = $1`, leaving)
	w.scalar(&kept, `SELECT count(*) FROM federation_audit_log WHERE peer_ref = $1 AND request_id = 'old'`, leaving)
	if linked != 0 || kept != many {
		t.Errorf("%d rows still name the peer, %d of %d remember it", linked, kept, many)
	}
	if again := w.peer("leaving"); again == leaving {
		t.Error("the name cannot be used again")
	}
}
