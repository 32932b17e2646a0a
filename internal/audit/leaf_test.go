package audit_test

import (
	"bytes"
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/audit"
)

func full() audit.Event {
	return audit.Event{
		ID: uuid.MustParse("00000000-0000-4000-8000-000000000001"), RequestID: "req-1", Direction: audit.Inbound, Actor: "grant:x",
		PeerID: uuid.MustParse("00000000-0000-4000-8000-000000000002"), PeerName: "home",
		GrantID:       uuid.MustParse("00000000-0000-4000-8000-000000000003"),
		SubjectUserID: uuid.MustParse("00000000-0000-4000-8000-000000000004"),
		Fingerprint:   bytes.Repeat([]byte{5}, 32), RemoteAddress: "192.0.2.7", Verb: "list", Resource: "tasks", StatusCode: 200, Outcome: audit.OK,
		DeniedReason: "none", Detail: "détail", QueryHash: bytes.Repeat([]byte{6}, 32), RowsOut: 50, BytesOut: 12345, Duration: 1500 * time.Microsecond,
		Occurrences: 3, CreatedAt: time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC),
	}
}

// TestTheLeafIsTheOneThatWasSigned: the encoding is for ever, because old checkpoints cover it.
func TestTheLeafIsTheOneThatWasSigned(t *testing.T) {
	t.Parallel()
	leaf := audit.NewLeaf(full())
	const want = "00064c2bc70badc88a070d3e4dc79d2be88da600829fdd51dcfdd98ca84bd6ce0d2803faaddd8cb4"
	if got := hex.EncodeToString(leaf[:]); got != want {
		t.Errorf("leaf %s, want %s: a change of the encoding needs another version number beside this one", got, want)
	}
	if !leaf.Time().Equal(full().CreatedAt) {
		t.Errorf("time %s", leaf.Time())
	}
}

// TestEveryFieldIsInTheLeaf changes one field after the other.
func TestEveryFieldIsInTheLeaf(t *testing.T) {
	t.Parallel()
	other := uuid.MustParse("00000000-0000-4000-8000-0000000000ff")
	changes := map[string]func(e *audit.Event){
		"id":             func(e *audit.Event) { e.ID = other },
		"request_id":     func(e *audit.Event) { e.RequestID = "x" },
		"direction":      func(e *audit.Event) { e.Direction = audit.Outbound },
		"actor":          func(e *audit.Event) { e.Actor = "x" },
		"peer_ref":       func(e *audit.Event) { e.PeerID = other },
		"peer_name":      func(e *audit.Event) { e.PeerName = "x" },
		"grant_id":       func(e *audit.Event) { e.GrantID = uuid.Nil },
		"subject":        func(e *audit.Event) { e.SubjectUserID = other },
		"fingerprint":    func(e *audit.Event) { e.Fingerprint = nil },
		"remote_address": func(e *audit.Event) { e.RemoteAddress = "x" },
		"verb":           func(e *audit.Event) { e.Verb = "x" },
		"resource":       func(e *audit.Event) { e.Resource = "x" },
		"status":         func(e *audit.Event) { e.StatusCode++ },
		"outcome":        func(e *audit.Event) { e.Outcome = audit.Failed },
		"denied_reason":  func(e *audit.Event) { e.DeniedReason = "" },
		"detail":         func(e *audit.Event) { e.Detail = "x" },
		"query_hash":     func(e *audit.Event) { e.QueryHash[0] ^= 1 },
		"rows":           func(e *audit.Event) { e.RowsOut = -e.RowsOut },
		"bytes":          func(e *audit.Event) { e.BytesOut++ },
		"duration":       func(e *audit.Event) { e.Duration += time.Microsecond },
		"occurrences":    func(e *audit.Event) { e.Occurrences++ },
		"created_at":     func(e *audit.Event) { e.CreatedAt = e.CreatedAt.Add(time.Microsecond) },
		// The same characters in other fields are another row.
		"moved text": func(e *audit.Event) { e.DeniedReason, e.Detail = e.DeniedReason+e.Detail, "" },
	}
	seen := map[audit.Leaf]string{audit.NewLeaf(full()): "nothing"}
	for name, change := range changes {
		e := full()
		change(&e)
		leaf := audit.NewLeaf(e)
		if same, ok := seen[leaf]; ok {
			t.Errorf("changing %s gives the same leaf as changing %s", name, same)
		}
		seen[leaf] = name
	}
}

// TestALogThatGrowsInBatchesHasTheSameRoot: how rows are grouped says nothing about what they are.
func TestALogThatGrowsInBatchesHasTheSameRoot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var events []audit.Event
		for range rapid.IntRange(1, 70).Draw(t, "events") {
			e := full()
			e.ID = uuid.New()
			events = append(events, e)
		}
		at := rapid.IntRange(1, len(events)).Draw(t, "cut")
		whole, parts := audit.NewLog(), audit.NewLog()
		want := whole.Next(events)
		first := parts.Next(events[:at])
		if again := parts.Next(events[:at]); again.Root != first.Root || again.First != 0 {
			t.Fatal("a batch that was not stored moved the log")
		}
		parts.Stored(first)
		if at == len(events) {
			if first.Root != want.Root {
				t.Fatal("another root")
			}
			return
		}
		if second := parts.Next(events[at:]); second.Root != want.Root || second.First != int64(at) {
			t.Fatalf("cut at %d: another root, or leaf %d", at, second.First)
		}
	})
}
