package postgres_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
)

// notary is one replica's.
func (w *world) notary(ring audit.Ring) *audit.Notary {
	return audit.NewNotary(audit.NotaryConfig{Ledger: &postgres.AuditLog{DB: w.db}, Ring: ring, Random: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
}

func (w *world) ring() *seal.Ring {
	w.t.Helper()
	keys, _, err := seal.Generate()
	if err != nil {
		w.t.Fatal(err)
	}
	return seal.NewRing(keys)
}

// proof is an export of everything, with its proof, and the key and checkpoint that it is held against.
func (w *world) proof(n *audit.Notary) (doc []byte, o audit.VerifyOptions) {
	w.t.Helper()
	signed, err := n.Checkpoint(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := n.Verifier(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.export(audit.ExportOptions{Checkpoint: signed, Key: key}), audit.VerifyOptions{Key: key, Earlier: signed}
}

func (w *world) export(o audit.ExportOptions) []byte {
	w.t.Helper()
	var out bytes.Buffer
	o.Format = audit.FormatLines
	if err := audit.Export(w.ctx, w.audit, &out, o, func() error { return nil }); err != nil {
		w.t.Fatal(err)
	}
	return out.Bytes()
}

func (w *world) verify(doc []byte, o audit.VerifyOptions) audit.Report {
	w.t.Helper()
	r, err := audit.Verify(bytes.NewReader(doc), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// busy fills the log from both sides: answers through the writer, and acts of administrators.
func (w *world) busy() {
	w.t.Helper()
	writer := w.writer()
	home := w.peer("home")
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if err := writer.Record(w.ctx, audit.Event{Direction: audit.Inbound, RequestID: fmt.Sprint("r", i), PeerID: home, PeerName: "home", Verb: "list", Outcome: audit.OK}); err != nil {
				w.t.Error(err)
			}
		})
	}
	for i := range 5 {
		w.user(fmt.Sprintf("u%d@example.org", i), account.Member)
	}
	wg.Wait()
}

// TestEveryRowComesIntoALogOnce lets several replicas sequence at once, while acts go on.
func TestEveryRowComesIntoALogOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ring := w.ring()
	var wg sync.WaitGroup
	for range 4 {
		n := w.notary(ring)
		wg.Go(func() {
			for range 10 {
				if _, err := n.Sequence(w.ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	w.busy()
	wg.Wait()
	n := w.notary(ring)
	doc, o := w.proof(n)
	r := w.verify(doc, o)
	if !r.OK || r.Rows != 65 || r.Leaves != 65 || r.OwnKey {
		t.Errorf("%+v", r)
	}
	var open int
	if w.scalar(&open, `SELECT count(*) FROM federation_audit_log WHERE leaf_index IS NULL`); open != 0 {
		t.Errorf("%d rows are in no log", open)
	}
	// Removing the peer changes rows, but nothing that was signed.
	if err := w.peers.Remove(w.ctx, "home", act); err != nil {
		t.Fatal(err)
	}
	doc, _ = w.proof(n)
	if r := w.verify(doc, o); !r.OK || r.Rows != 66 || bytes.Contains(doc, []byte(`"peer_id":"`)) {
		t.Errorf("after the peer was removed: %+v", r)
	}
}

// TestWhoeverWritesToTheTablesIsFound does what somebody with the database's password can do.
func TestWhoeverWritesToTheTablesIsFound(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, sql, kind string }{
		{"a row is changed", `UPDATE federation_audit_log SET rows_out = 1 WHERE request_id = 'r7'`, "changed"},
		{"a peer's name is changed", `UPDATE federation_audit_log SET peer_name = 'other' WHERE request_id = 'r7'`, "changed"},
		{"a row is removed", `DELETE FROM federation_audit_log WHERE request_id = 'r7'`, "removed"},
		{"a row is inserted", `INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome, log_id, leaf_index)
			SELECT 'new', 'inbound', 'list', 200, 'ok', log_id, leaf_index FROM federation_audit_log WHERE request_id = 'r7'`, "changed"},
		{"a row is hidden from the log", `UPDATE federation_audit_log SET log_id = gen_random_uuid() WHERE request_id = 'r7'`, "removed"},
		{"all rows are removed", `TRUNCATE federation_audit_log`, "removed"},
		{"a leaf is changed with its row", `UPDATE federation_audit_batches SET leaves = overlay(leaves PLACING '\x00'::bytea FROM 9)`, "rewritten"},
		{"a batch is removed", `DELETE FROM federation_audit_batches WHERE first_leaf = 0`, "rewritten"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.busy()
			_, o := w.proof(w.notary(w.ring()))
			w.exec(tt.sql)
			doc := w.export(audit.ExportOptions{Checkpoint: o.Earlier, Key: o.Key})
			if r := w.verify(doc, o); r.OK || r.Problems[0].Kind != tt.kind && !(tt.kind == "rewritten" && r.Problems[0].Kind == "removed") {
				t.Errorf("%+v", r.Problems)
			}
		})
	}
}

// TestALogThatDoesNotContinueIsNotSigned: the gateway itself notices when its tables went back.
func TestALogThatDoesNotContinueIsNotSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.busy()
	n := w.notary(w.ring())
	before, o := w.proof(n)
	if err := n.Ready(w.ctx); err != nil {
		t.Error(err)
	}
	again, err := n.Checkpoint(w.ctx)
	if err != nil || again != o.Earlier {
		t.Errorf("nothing has changed, and there is another checkpoint (%v)", err)
	}
	w.exec(`DELETE FROM federation_audit_batches b WHERE first_leaf = (SELECT max(first_leaf) FROM federation_audit_batches WHERE log_id = b.log_id)`)
	if _, err := n.Checkpoint(w.ctx); !errors.Is(err, audit.ErrLogDamaged) {
		t.Errorf("signed: %v", err)
	}
	if err := n.Ready(w.ctx); !errors.Is(err, audit.ErrLogDamaged) {
		t.Errorf("health: %v", err)
	}
	// An export carries what was signed last, so that it can be told what is gone, without anything kept elsewhere.
	last, err := n.Evidence(w.ctx)
	if err != nil || last != o.Earlier {
		t.Fatalf("the last checkpoint is not the evidence: %v", err)
	}
	r := w.verify(w.export(audit.ExportOptions{Checkpoint: last, Key: o.Key}), audit.VerifyOptions{Key: o.Key})
	if r.OK || r.Problems[0].Kind != "removed" || r.Problems[0].LogID == nil || r.Problems[0].LeafIndex == nil {
		t.Errorf("%+v", r)
	}
	if r := w.verify(before, o); !r.OK {
		t.Errorf("the export that was kept: %+v", r)
	}
}

// TestOneClusterHasOneKey: replicas that start at once sign with the same key, which is sealed, and moves to a new
// sealing key like every other secret.
func TestOneClusterHasOneKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, doc, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	ring := seal.NewRing(first)
	keys := make(chan string, 8)
	for range cap(keys) {
		go func() {
			key, err := w.notary(ring).Verifier(w.ctx)
			if err != nil {
				t.Error(err)
			}
			keys <- key
		}()
	}
	want := <-keys
	for range cap(keys) - 1 {
		if got := <-keys; got != want || got == "" {
			t.Errorf("key %q beside %q", got, want)
		}
	}
	var sealed string
	if w.scalar(&sealed, `SELECT encode(private_key_sealed, 'escape') FROM federation_audit_keys`); strings.Contains(sealed, "PRIVATE") {
		t.Error("the key is stored in clear")
	}
	if doc, err = seal.Rotated(doc); err != nil {
		t.Fatal(err)
	}
	next, err := seal.Parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	ring.Replace(next)
	store := &postgres.Sealed{DB: w.db}
	if n, err := store.Reseal(w.ctx, ring.Primary(), 10, func(old []byte, table, column, id string) ([]byte, error) {
		plain, err := ring.Open(old, table, column, id)
		if err != nil {
			return nil, err
		}
		return ring.Seal(plain, table, column, id)
	}); err != nil || n != 1 {
		t.Errorf("%d values moved, %v", n, err)
	}
	if rows, err := store.SealedRows(w.ctx); err != nil || rows[next.Primary()] != 1 || len(rows) != 1 {
		t.Errorf("%v, %v", rows, err)
	}
	if key, err := w.notary(ring).Verifier(w.ctx); err != nil || key != want {
		t.Errorf("after a rotation: %q, %v", key, err)
	}
	if _, err := w.notary(w.ring()).Verifier(w.ctx); err == nil {
		t.Error("another keyring opened the key")
	}
}

// TestADroppedMonthKeepsItsHashes fills three months, drops two, and verifies what is left.
func TestADroppedMonthKeepsItsHashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.notary(w.ring())
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	log := audit.NewLog()
	for _, at := range []time.Time{month.AddDate(0, -2, 3), month.AddDate(0, -1, 3), month} {
		w.exec(`SELECT ensure_audit_partitions($1::date, 0)`, at)
		var events []audit.Event
		for i := range 10 {
			events = append(events, audit.Event{Direction: audit.Inbound, Verb: "list", Outcome: audit.OK, CreatedAt: at.Add(time.Duration(i) * time.Second)})
		}
		b := log.Next(events)
		if err := w.audit.Append(w.ctx, b); err != nil {
			t.Fatal(err)
		}
		log.Stored(b)
	}
	_, before := w.proof(n)
	// A row that is in no log yet would be gone without a trace: its month stays.
	w.exec(`INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome, created_at) VALUES ('late', 'admin', 'x', 200, 'ok', $1)`, month.AddDate(0, -1, 4))
	store := &postgres.Upkeep{DB: w.db, Removal: n.Removal}
	if dropped, err := store.DropAuditRows(w.ctx, 0); err != nil || dropped != 1 {
		t.Fatalf("%d partitions dropped, %v", dropped, err)
	}
	if _, err := n.Sequence(w.ctx); err != nil {
		t.Fatal(err)
	}
	// A reader is not waited for, and nobody waits behind the one who waits.
	reader, err := w.pool.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := reader.QueryRow(w.ctx, `SELECT count(*) FROM federation_audit_log`).Scan(&rows); err != nil || rows != 22 {
		t.Fatalf("%d rows, %v", rows, err)
	}
	if dropped, err := store.DropAuditRows(w.ctx, 0); err != nil || dropped != 0 {
		t.Fatalf("%d partitions dropped under a reader, %v", dropped, err)
	}
	if err := reader.Rollback(w.ctx); err != nil {
		t.Fatal(err)
	}
	if dropped, err := store.DropAuditRows(w.ctx, 0); err != nil || dropped != 1 {
		t.Fatalf("%d partitions dropped, %v", dropped, err)
	}
	doc, _ := w.proof(n)
	r := w.verify(doc, before)
	if !r.OK || r.Dropped != 21 || r.Rows != 12 || r.Leaves != 33 || !r.DroppedTo.Equal(month) {
		t.Errorf("%+v", r)
	}
	// What was kept may not go the same way.
	w.exec(`DELETE FROM federation_audit_log WHERE verb = 'list'`)
	doc, _ = w.proof(n)
	if r := w.verify(doc, before); r.OK {
		t.Error("rows that were deleted by hand pass as dropped")
	}
}

// TestAForgedRetentionIsFound writes, with the database's password, the row and the record of a retention, and deletes
// what they would explain. The gateway brings the row into the log and signs it like any other.
func TestAForgedRetentionIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.busy()
	n := w.notary(w.ring())
	_, o := w.proof(n)
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	for _, before := range []time.Time{now.Add(time.Minute), month.AddDate(0, 1, 0)} {
		w.exec(`WITH row AS (INSERT INTO federation_audit_log (request_id, direction, actor, verb, status_code, outcome, detail, created_at)
				VALUES ('upkeep', 'admin', 'upkeep', 'audit.retention', 200, 'ok', $1, clock_timestamp()) RETURNING id, created_at)
			INSERT INTO federation_audit_retention (dropped_before, row_id, row_created_at) SELECT $2, id, created_at FROM row`,
			before.Format(time.RFC3339), before)
		w.exec(`DELETE FROM federation_audit_log WHERE request_id = 'r7'`)
		doc, _ := w.proof(n)
		if r := w.verify(doc, o); r.OK || r.Dropped != 0 || len(r.Problems) < 2 || r.Problems[0].Kind != "changed" || r.Problems[1].Kind != "removed" {
			t.Errorf("before %s: %+v", before, r)
		}
	}
}

// TestAMonthThatWaitsMakesTheLaterOnesWait: what is signed is that nothing from before is left.
func TestAMonthThatWaitsMakesTheLaterOnesWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.notary(w.ring())
	now := time.Now().UTC()
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	w.exec(`SELECT ensure_audit_partitions($1::date, 3)`, month.AddDate(0, -2, 0))
	w.exec(`INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome, created_at) VALUES ('late', 'admin', 'x', 200, 'ok', $1)`, month.AddDate(0, -2, 4))
	store := &postgres.Upkeep{DB: w.db, Removal: n.Removal}
	if dropped, err := store.DropAuditRows(w.ctx, 0); err != nil || dropped != 0 {
		t.Errorf("%d partitions dropped past one that waits, %v", dropped, err)
	}
	if _, err := n.Sequence(w.ctx); err != nil {
		t.Fatal(err)
	}
	if dropped, err := store.DropAuditRows(w.ctx, 0); err != nil || dropped != 2 {
		t.Errorf("%d partitions dropped, %v", dropped, err)
	}
	doc, o := w.proof(n)
	if r := w.verify(doc, o); !r.OK || r.Dropped != 1 {
		t.Errorf("%+v", r)
	}
}

// TestAnExportIsReadInPortions: a range is one walk over the primary key, whatever the size of the log.
func TestAnExportIsReadInPortions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome, created_at)
		SELECT n::text, 'inbound', 'list', 200, 'ok', now() - n % 7 * interval '1 second' FROM generate_series(1, 3500) n`)
	if lines := bytes.Count(w.export(audit.ExportOptions{}), []byte("\n")); lines != 3500 {
		t.Errorf("%d lines", lines)
	}
	w.exec(`ANALYZE federation_audit_log`)
	rows, err := w.pool.Query(w.ctx, `EXPLAIN SELECT id FROM federation_audit_log WHERE created_at >= now() - interval '1 hour' AND (created_at, id) > (now() - interval '1 hour', '00000000-0000-0000-0000-000000000000'::uuid) ORDER BY created_at, id LIMIT 1000`)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(plan, "\n"); strings.Contains(text, "->  Sort") || strings.Contains(text, "Seq Scan") {
		t.Errorf("an export sorts or scans:\n%s", text)
	}
}
