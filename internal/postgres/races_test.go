package postgres_test

import (
	"errors"
	"io"
	"math/big"
	"strconv"
	"testing"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// behind runs do while a transaction with the statements of first is open, and commits that one when do waits for it.
// It fails the test when do does not wait: then it has decided without what the other was changing.
func (w *world) behind(do func() error, first string, args ...any) error {
	w.t.Helper()
	tx, err := w.pool.Begin(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	defer tx.Rollback(w.ctx) //nolint:errcheck // after a commit it does nothing
	if _, err := tx.Exec(w.ctx, first, args...); err != nil {
		w.t.Fatal(err)
	}
	done := w.waiting(do)
	if err := tx.Commit(w.ctx); err != nil {
		w.t.Fatal(err)
	}
	return <-done
}

// waiting starts do, and returns when it waits for a lock.
func (w *world) waiting(do func() error) <-chan error {
	w.t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	for {
		select {
		case err := <-done:
			w.t.Errorf("it did not wait for the other transaction, and ended with: %v", err)
			done <- err
			return done
		default:
		}
		var blocked bool
		w.scalar(&blocked, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')`)
		if blocked {
			return done
		}
	}
}

// failing makes every INSERT into the audit log fail with a SQLSTATE, until so many have failed, and tells how often
// it was tried. A sequence counts: it does not roll back.
func (w *world) failing(state string, times int) (tried func() int) {
	w.t.Helper()
	for _, sql := range []string{
		`CREATE SEQUENCE tries`,
		`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('tries') <= TG_ARGV[0]::bigint THEN RAISE EXCEPTION 'given up' USING ERRCODE = TG_ARGV[1]; END IF;
			RETURN NEW;
		END $$`,
	} {
		w.exec(sql)
	}
	w.exec(`CREATE TRIGGER fail BEFORE INSERT ON federation_audit_log FOR EACH ROW EXECUTE FUNCTION fail('` + strconv.Itoa(times) + `', '` + state + `')`)
	return func() int {
		var n int
		w.scalar(&n, `SELECT last_value::int FROM tries`)
		return n
	}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func TestATransactionGivenUpForAnotherIsRunAgain(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		state string
		times int
		tries int
		want  error
	}{
		"deadlock, once":               {"40P01", 1, 2, nil},
		"serialization failure, twice": {"40001", 2, 3, nil},
		"deadlock, for ever":           {"40P01", 1000, 3, postgres.ErrBusy},
		"full, once":                   {"53100", 1, 1, postgres.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			tried := w.failing(tt.state, tt.times)
			_, err := w.accounts.CreateTeam(w.ctx, "design", act)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			var teams, rows, want int
			w.scalar(&teams, `SELECT count(*)::int FROM teams`)
			w.scalar(&rows, `SELECT count(*)::int FROM federation_audit_log`)
			if tt.want == nil {
				want = 1
			}
			if n := tried(); n != tt.tries || teams != want || rows != want {
				t.Errorf("%d tries left %d teams and %d audit rows, want %d tries, and %d", n, teams, rows, tt.tries, want)
			}
		})
	}
}

// A stream is read once: a second run would store what is left of it and call that success.
func TestAnImportIsNeverRunAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	tried := w.failing("40P01", 1)
	row, err := resource.ParseRow(scope.Notes, []byte(`{"title":"t"}`))
	if err != nil {
		t.Fatal(err)
	}
	left := 3
	_, err = w.resources.Import(w.ctx, scope.Notes, ada.Email, "", func() (resource.Row, error) {
		if left == 0 {
			return resource.Row{}, io.EOF
		}
		left--
		return row, nil
	}, act)
	var stored int
	w.scalar(&stored, `SELECT count(*)::int FROM notes`)
	if !errors.Is(err, postgres.ErrBusy) || tried() != 1 || stored != 0 {
		t.Errorf("%v after %d tries, with %d rows stored; want database_busy after one, and none", err, tried(), stored)
	}
}

func mustSerial(t *testing.T, decimal string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(decimal, 10)
	if !ok {
		t.Fatalf("%q is no number", decimal)
	}
	return n
}
