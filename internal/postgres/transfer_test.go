package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// Whoever adds a table decides whether a gateway that moves takes it along.
func TestATransferKnowsEveryTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	anew := []string{"embedding_queue", "embedding_state", "gateway_home", "goose_db_version", "tier_migration"}
	var tables []string
	w.scalar(&tables, `SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname NOT LIKE 'river%'`)
	known := append(slices.Clone(postgres.Transferred), anew...)
	slices.Sort(known)
	if !slices.Equal(tables, known) {
		t.Errorf("tables %v\nknown  %v", tables, known)
	}
}

// copied is a world that moves into an empty one.
func copied(t *testing.T) (from, to *world, transfer *postgres.Transfer) {
	t.Helper()
	from, to = newWorld(t), newWorld(t)
	ada := from.user("ada@example.org", account.Member)
	from.enrolled(ada, tasksOnly)
	from.exec(`INSERT INTO tasks (owner_id, title) SELECT $1, 'task ' || n FROM generate_series(1, 500) n`, ada.ID)
	from.exec(`INSERT INTO memory (owner_id, content, embedding, embedding_model) SELECT $1, 'remembered', '[1,2,3]', 'm'`, ada.ID)
	from.exec(`INSERT INTO credentials (owner_id, name, secret_sealed) VALUES ($1, 'mail', '\x0100000001aabb')`, ada.ID)
	from.exec(`UPDATE federation_audit_log SET created_at = created_at - interval '40 days' WHERE id = (SELECT id FROM federation_audit_log LIMIT 1)`)
	opens := func(sealed []byte, _, _, _ string) error {
		if len(sealed) < 5 || sealed[4] != 2 {
			return errStopped
		}
		return nil
	}
	return from, to, &postgres.Transfer{From: from.db, To: to.db, Opens: opens, Rekey: func(old []byte, table, column, id string) ([]byte, error) {
		if table != "credentials" || column != "secret_sealed" || id == "" || !bytes.HasSuffix(old, []byte{0xaa, 0xbb}) {
			t.Errorf("%s.%s of %s: %x", table, column, id, old)
		}
		return append([]byte{1, 0, 0, 0, 2}, old[5:]...), nil
	}}
}

var errStopped = errors.New("stopped")

// A copy that is stopped in any table goes on with that table, and what has arrived is what was sent.
func TestATransferGoesOnWhereItWasStopped(t *testing.T) {
	t.Parallel()
	from, to, transfer := copied(t)
	for _, at := range []string{"users", "tasks", "federation_audit_log"} {
		ctx, cancel := context.WithCancelCause(from.ctx)
		transfer.Progress = func(table string, _, _ int64) {
			if table == at {
				cancel(errStopped)
			}
		}
		if err := transfer.Copy(ctx); err == nil {
			t.Fatalf("it was not stopped in %s", at)
		}
		var rows int
		if to.scalar(&rows, `SELECT count(*)::int FROM `+at); rows != 0 {
			t.Errorf("stopped in %s, %d rows of it are there", at, rows)
		}
		if err := to.db.CheckTierMigration(to.ctx); !errors.Is(err, postgres.ErrTierMigration) {
			t.Errorf("serving before it is finished: %v", err)
		}
	}
	again := map[string]bool{}
	transfer.Progress = func(table string, _, _ int64) { again[table] = true }
	if err := transfer.Copy(from.ctx); err != nil {
		t.Fatal(err)
	}
	if again["users"] || again["tasks"] || !again["federation_audit_log"] {
		t.Errorf("copied again: %v", again)
	}
	if err := transfer.Finish(from.ctx); err != nil {
		t.Fatal(err)
	}
	if err := to.db.CheckTierMigration(to.ctx); err != nil {
		t.Error(err)
	}
	var sealed []byte
	if to.scalar(&sealed, `SELECT secret_sealed FROM credentials`); !bytes.Equal(sealed, []byte{1, 0, 0, 0, 2, 0xaa, 0xbb}) {
		t.Errorf("sealed: %x", sealed)
	}
	var misplaced int
	if to.scalar(&misplaced, `SELECT count(*)::int FROM federation_audit_log_default`); misplaced != 0 {
		t.Errorf("%d audit rows outside their months", misplaced)
	}
	if live := to.live(); len(live) != 1 {
		t.Errorf("live certificates: %v", live)
	}
}

// A source that is written to while it is copied is not copied.
func TestACopyOfAMovingSourceIsRefused(t *testing.T) {
	t.Parallel()
	from, _, transfer := copied(t)
	var once sync.Once
	transfer.Progress = func(table string, _, _ int64) {
		if table == "federation_grants" {
			once.Do(func() { from.exec(`INSERT INTO users (email) VALUES ('late@example.org')`) })
		}
	}
	if err := transfer.Copy(from.ctx); !errors.Is(err, postgres.ErrTargetDiffers) {
		t.Errorf("%v, want target_differs", err)
	}
}

func TestATransferFindsWhatDiffers(t *testing.T) {
	t.Parallel()
	from, to, transfer := copied(t)
	if err := transfer.Copy(from.ctx); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(){
		"tasks": func() { to.exec(`UPDATE tasks SET status = 'done' WHERE title = 'task 7'`) },
		"users": func() { from.exec(`INSERT INTO users (email) VALUES ('late@example.org')`) },
	} {
		change()
		var paths []string
		for _, p := range fault.From(transfer.Verify(from.ctx)).Problems {
			paths = append(paths, p.Path)
		}
		if !slices.Contains(paths, name) {
			t.Errorf("%s was changed; it says %v", name, paths)
		}
	}
}

// A copy under other keys than the target will have is no copy.
func TestATransferOpensWhatIsSealed(t *testing.T) {
	t.Parallel()
	from, to, transfer := copied(t)
	if err := transfer.Copy(from.ctx); err != nil {
		t.Fatal(err)
	}
	to.exec(`SET mosaic.resealing = 'on'; UPDATE credentials SET secret_sealed = '\x0100000003aabb'`)
	if err := transfer.Verify(from.ctx); !errors.Is(err, postgres.ErrTargetKeys) {
		t.Errorf("%v, want target_keys_differ", err)
	}
}

func TestATransferWantsAnEmptyTarget(t *testing.T) {
	t.Parallel()
	_, to, transfer := copied(t)
	to.user("somebody@example.org", account.Member)
	if _, err := transfer.Plan(to.ctx); !errors.Is(err, postgres.ErrTargetNotEmpty) {
		t.Errorf("%v, want target_not_empty", err)
	}
	if err := transfer.Copy(to.ctx); !errors.Is(err, postgres.ErrTargetNotEmpty) {
		t.Errorf("%v, want target_not_empty", err)
	}
	// Nor is the rest of another gateway's copy gone on with.
	another := newWorld(t)
	to = newWorld(t)
	to.exec(`INSERT INTO tier_migration (source) VALUES ('another')`)
	transfer = &postgres.Transfer{From: another.db, To: to.db}
	if _, err := transfer.Plan(to.ctx); !errors.Is(err, postgres.ErrTargetNotEmpty) {
		t.Errorf("%v, want target_not_empty", err)
	}
}
