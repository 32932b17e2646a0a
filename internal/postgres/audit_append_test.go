package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// writer runs an audit.Writer on the world's log until the test ends.
func (w *world) writer() *audit.Writer {
	w.t.Helper()
	writer := audit.NewWriter(w.audit, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = writer.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	return writer
}

// peer makes one, and gives its id.
func (w *world) peer(name string) uuid.UUID {
	w.t.Helper()
	var id uuid.UUID
	w.scalar(&id, `INSERT INTO federation_peers (name, state) VALUES ($1, 'active') RETURNING id`, name)
	return id
}

func drawnEvent(t *rapid.T, peers []uuid.UUID) audit.Event {
	text := rapid.StringOfN(rapid.Rune(), 0, 40, -1).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) })
	id := rapid.Custom(func(t *rapid.T) uuid.UUID {
		var u uuid.UUID
		copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		return u
	})
	var fingerprint []byte
	if rapid.Bool().Draw(t, "has fingerprint") {
		fingerprint = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "fingerprint")
	}
	return audit.Event{
		RequestID: text.Draw(t, "request_id"), Direction: rapid.SampledFrom([]audit.Direction{audit.Inbound, audit.Outbound, audit.Admin}).Draw(t, "direction"),
		Actor: text.Draw(t, "actor"), PeerID: rapid.SampledFrom(peers).Draw(t, "peer"), PeerName: text.Draw(t, "peer_name"),
		GrantID: id.Draw(t, "grant"), SubjectUserID: id.Draw(t, "subject"), Fingerprint: fingerprint, RemoteAddress: text.Draw(t, "address"),
		Verb: text.Draw(t, "verb"), Resource: text.Draw(t, "resource"), StatusCode: int(rapid.Int32().Draw(t, "status")),
		Outcome: rapid.SampledFrom([]audit.Outcome{audit.OK, audit.Denied, audit.Failed}).Draw(t, "outcome"), DeniedReason: text.Draw(t, "reason"),
		Detail: text.Draw(t, "detail"), QueryHash: fingerprint, RowsOut: int(rapid.Int32().Draw(t, "rows")), BytesOut: rapid.Int64().Draw(t, "bytes"),
		Duration:    time.Duration(rapid.Int64().Draw(t, "duration")),
		Occurrences: int(rapid.Int32Min(0).Draw(t, "occurrences")),
		CreatedAt:   time.UnixMicro(rapid.Int64Range(0, 4e15).Draw(t, "at")).Add(time.Duration(rapid.IntRange(0, 999).Draw(t, "ns"))),
	}
}

// TestARowIsReadBackAsItWasHashed: whatever an event holds, the row of it gives the same leaf.
func TestARowIsReadBackAsItWasHashed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	peers := []uuid.UUID{uuid.Nil, w.peer("home"), uuid.New()} // none, one that is there, one that is gone
	log := audit.NewLog()
	rapid.Check(t, func(t *rapid.T) {
		events := make([]audit.Event, rapid.IntRange(1, 2).Draw(t, "rows")) // one goes another way than many
		for i := range events {
			events[i] = drawnEvent(t, peers)
		}
		b := log.Next(events)
		if err := w.audit.Append(w.ctx, b); err != nil {
			t.Fatal(err)
		}
		log.Stored(b)
		if stored, err := w.audit.Stored(w.ctx, b.Events); err != nil || !stored {
			t.Fatalf("stored %t, %v", stored, err)
		}
		for i, e := range b.Events {
			got, err := w.audit.List(w.ctx, postgres.AuditFilter{ID: e.ID, Limit: 2})
			if err != nil || len(got) != 1 {
				t.Fatalf("%d rows, %v", len(got), err)
			}
			back := got[0]
			if here := e.PeerID == peers[1]; (back.PeerID == peers[1]) != here || back.PeerRef != e.PeerID {
				t.Fatalf("peer_id %s and peer_ref %s for %s", back.PeerID, back.PeerRef, e.PeerID)
			}
			if back.LogID != b.LogID || back.LeafIndex != b.First+int64(i) {
				t.Fatalf("leaf %d of %s", back.LeafIndex, back.LogID)
			}
			leaf := audit.NewLeaf(back.Hashed())
			if !bytes.Equal(leaf[:], b.Leaves[i*audit.LeafSize:][:audit.LeafSize]) {
				t.Fatalf("wrote %+v\nread  %+v", e, back.Event)
			}
		}
	})
}

// TestABadRowCostsNoNeighbour sends rows that the database refuses among good ones.
func TestABadRowCostsNoNeighbour(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := map[string]func(e *audit.Event){
		"NUL":           func(e *audit.Event) { e.Detail = "a\x00b" },
		"no UTF-8":      func(e *audit.Event) { e.RequestID = "\xff" },
		"no direction":  func(e *audit.Event) { e.Direction = "sideways" },
		"a huge number": func(e *audit.Event) { e.RowsOut = 1 << 40 },
	}
	writer := w.writer()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if err := writer.Record(w.ctx, audit.Event{Direction: audit.Inbound, Verb: "list", Outcome: audit.OK}); err != nil {
				t.Error(err)
			}
		})
	}
	for name, spoil := range bad {
		wg.Go(func() {
			e := audit.Event{Direction: audit.Inbound, Verb: "bad", Outcome: audit.OK}
			spoil(&e)
			if err := writer.Record(w.ctx, e); !errors.Is(err, audit.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	var good, leaves, wrong int
	w.scalar(&good, `SELECT count(*) FROM federation_audit_log WHERE verb = 'list'`)
	w.scalar(&wrong, `SELECT count(*) FROM federation_audit_log WHERE verb = 'bad'`)
	w.scalar(&leaves, `SELECT sum(leaf_count) FROM federation_audit_batches`)
	if good != 100 || wrong != 0 || leaves != 100 {
		t.Errorf("%d good rows, %d bad ones, %d leaves", good, wrong, leaves)
	}
}

// TestAPeerThatIsBeingDeletedStallsNobody holds the lock that a DELETE holds, for as long as the test likes. What is
// committed meanwhile is not seen by what the DELETE sets off, and is found afterwards.
func TestAPeerThatIsBeingDeletedStallsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	leaving, other := w.peer("leaving"), w.peer("other")
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background()) //nolint:errcheck // it is committed below
	if _, err := tx.Exec(w.ctx, `DELETE FROM federation_peers WHERE id = $1`, leaving); err != nil {
		t.Fatal(err)
	}
	writer := w.writer()
	for range 20 {
		for _, id := range []uuid.UUID{leaving, other} {
			start := time.Now()
			if err := writer.Record(w.ctx, audit.Event{Direction: audit.Inbound, PeerID: id, Verb: "list", Outcome: audit.OK}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("a row took %s", took)
			}
		}
	}
	if err := tx.Commit(w.ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := w.upkeep.ForgetRemovedPeers(w.ctx); err != nil || n != 20 {
		t.Errorf("%d rows forgot the peer that left, %v", n, err)
	}
	var named, kept int
	w.scalar(&named, `SELECT count(*) FROM federation_audit_log WHERE peer_id = $1`, other)
	w.scalar(&kept, `SELECT count(*) FROM federation_audit_log WHERE peer_ref = $1 AND peer_id IS NULL`, leaving)
	if named != 20 || kept != 20 {
		t.Errorf("%d rows name the peer that stays, %d remember the one that left", named, kept)
	}
}

// TestACommitWhoseAnswerIsLostIsThereOnce: the writer sends it again, and the rows' ids keep it single.
func TestACommitWhoseAnswerIsLostIsThereOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lossy := &lossySink{AuditLog: w.audit, seen: map[uuid.UUID]bool{}}
	writer := audit.NewWriter(lossy, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- writer.Run(ctx) }()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := writer.Record(w.ctx, audit.Event{Direction: audit.Inbound, Verb: "list", Outcome: audit.OK}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var rows, leaves int
	w.scalar(&rows, `SELECT count(*) FROM federation_audit_log`)
	w.scalar(&leaves, `SELECT sum(leaf_count) FROM federation_audit_batches`)
	if rows != 50 || leaves != 50 {
		t.Errorf("%d rows and %d leaves of 50", rows, leaves)
	}
}

// lossySink loses the answer to the first try of every batch: in turn of one that was committed, and of one that was
// not.
type lossySink struct {
	*postgres.AuditLog
	mu   sync.Mutex
	seen map[uuid.UUID]bool
}

func (s *lossySink) Append(ctx context.Context, b *audit.Batch) error {
	s.mu.Lock()
	again, odd := s.seen[b.Events[0].ID], len(s.seen)%2 == 1
	s.seen[b.Events[0].ID] = true
	s.mu.Unlock()
	switch {
	case again:
		return s.AuditLog.Append(ctx, b)
	case odd:
		return audit.ErrInDoubt
	}
	if err := s.AuditLog.Append(ctx, b); err != nil {
		return err
	}
	return audit.ErrInDoubt
}

// TestABatchThatWasNeverSentIsNotInDoubt: a connection that was gone before has carried nothing, one that is lost on the
// way may have carried all.
func TestABatchThatWasNeverSentIsNotInDoubt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acquired, err := w.pool.Acquire(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	conn := acquired.Hijack()
	if _, err := conn.Exec(w.ctx, `SELECT pg_terminate_backend(pg_backend_pid())`); !errors.Is(postgres.AppendError(err), audit.ErrInDoubt) {
		t.Errorf("a connection that is lost on the way: %v", err)
	}
	if err := conn.Close(w.ctx); err != nil {
		t.Fatal(err)
	}
	_, err = conn.PgConn().CopyFrom(w.ctx, strings.NewReader(""), `COPY federation_audit_log FROM STDIN`)
	if err = postgres.AppendError(err); err == nil || errors.Is(err, audit.ErrInDoubt) || errors.Is(err, audit.ErrRefused) {
		t.Errorf("a connection that was closed: %v", err)
	}
}
