package postgres_test

import (
	"errors"
	"testing"

	"github.com/mosaicstack/gateway/internal/postgres"
)

// A database is at home when each part of its address is right, and the row that says so is the only one and was written
// here.
func TestADatabaseKnowsWhereItLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // copied from a template, and so a copy
	if err := w.db.CheckHome(w.ctx); !errors.Is(err, postgres.ErrRestored) {
		t.Fatalf("a copy: %v", err)
	}
	for _, change := range []string{
		`UPDATE gateway_home SET system_identifier = system_identifier + 1, written_by = pg_current_xact_id()`,
		`UPDATE gateway_home SET database_oid = 1, written_by = pg_current_xact_id()`,
		`UPDATE gateway_home SET table_oid = 1, written_by = pg_current_xact_id()`,
		`UPDATE gateway_home SET settled_at = now()`, // by another transaction than it says
		`INSERT INTO gateway_home SELECT * FROM gateway_home`,
		`DELETE FROM gateway_home`,
	} {
		if err := w.db.AcceptMove(w.ctx, act); err != nil {
			t.Fatal(err)
		}
		if err := w.db.CheckHome(w.ctx); err != nil {
			t.Fatalf("settled: %v", err)
		}
		w.exec(change)
		if err := w.db.CheckHome(w.ctx); !errors.Is(err, postgres.ErrRestored) {
			t.Errorf("%s: %v, want restore_unconfirmed", change, err)
		}
	}
	if err := w.db.AcceptMove(w.ctx, act); err != nil {
		t.Fatal(err)
	}
	if err := w.db.AcceptMove(w.ctx, act); !errors.Is(err, postgres.ErrNotRestored) {
		t.Errorf("accepted at home: %v", err)
	}
}

// What a claim in time keeps alive does not outlive a restore.
func TestNoTokenOfADumpIsGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.claimed()
	done, err := w.db.AcceptRestore(w.ctx, nil, act)
	if err != nil || done.EnrollmentTokens != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, err := w.claim("t"); err == nil {
		t.Error("a token that was being claimed is claimed again")
	}
	if err := w.enroll.Activate(w.ctx, activation(c)); err == nil {
		t.Error("the claim of the dump is activated")
	}
}
