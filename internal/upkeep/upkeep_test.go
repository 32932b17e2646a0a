package upkeep_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
})

func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }

// authority counts what it was told, and says what the test wants.
type authority struct {
	mu    sync.Mutex
	told  map[string]int
	fails error
}

func (a *authority) Revoke(_ context.Context, serial *big.Int, _ string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fails != nil {
		return a.fails
	}
	a.told[serial.String()]++
	return nil
}

type world struct {
	t    *testing.T
	pool *pgxpool.Pool
	ca   *authority
}

func newWorld(t *testing.T) *world {
	return &world{t: t, pool: pg.Pool(t), ca: &authority{told: map[string]int{}}}
}

func (w *world) keeper() *upkeep.Keeper {
	// What a removal is signed with is shown in postgres; here it only has to be there.
	removal := func(_ context.Context, before time.Time, _ uuid.UUID) (string, error) {
		return before.Format(time.RFC3339), nil
	}
	return upkeep.New(upkeep.Config{Store: &postgres.Upkeep{DB: postgres.New(w.pool), Removal: removal}, CA: w.ca, Log: slog.New(slog.DiscardHandler)})
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(sql string, args ...any) (n int) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) queue(serials int) {
	for i := range serials {
		w.exec(`INSERT INTO federation_ca_revocations (serial, reason) VALUES ($1, 'test')`, fmt.Sprint(i+1))
	}
}

// run runs one task by its name, as its job would.
func (w *world) run(name string) error {
	for _, task := range w.keeper().Tasks() {
		if task.Name == name {
			return task.Run(w.t.Context())
		}
	}
	w.t.Fatalf("no task %s", name)
	return nil
}

func TestTwoReplicasTellTheCAOfEachSerialOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(60)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := w.run("revoke-at-ca"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := w.run("revoke-at-ca"); err != nil {
		t.Fatal(err)
	}
	if len(w.ca.told) != 60 {
		t.Errorf("%d of 60 serials told", len(w.ca.told))
	}
	for serial, n := range w.ca.told {
		if n != 1 {
			t.Errorf("serial %s told %d times", serial, n)
		}
	}
	if open := w.count(`SELECT count(*) FROM federation_ca_revocations WHERE done_at IS NULL`); open != 0 {
		t.Errorf("%d are still queued", open)
	}
}

func TestACAThatIsAwayIsToldLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(3)
	w.ca.fails = ca.ErrUnavailable.Because(errors.New("no route"))
	if err := w.run("revoke-at-ca"); !errors.Is(err, ca.ErrUnavailable) {
		t.Fatalf("%v, want ca_unavailable", err)
	}
	if done := w.count(`SELECT count(*) FROM federation_ca_revocations WHERE done_at IS NOT NULL`); done != 0 {
		t.Fatalf("%d count as done", done)
	}
	w.ca.fails = nil
	if err := w.run("revoke-at-ca"); err != nil || len(w.ca.told) != 0 {
		t.Errorf("asked again at once: %v, %d told", err, len(w.ca.told))
	}
	w.exec(`UPDATE federation_ca_revocations SET next_at = now()`)
	if err := w.run("revoke-at-ca"); err != nil || len(w.ca.told) != 3 {
		t.Errorf("after the wait: %v, %d of 3 told", err, len(w.ca.told))
	}
}

func TestASerialTheCARefusesDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queue(3)
	w.ca.fails = ca.Refuse(ca.ErrPolicy, errors.New("no"))
	if err := w.run("revoke-at-ca"); err != nil {
		t.Fatal(err)
	}
	if tried := w.count(`SELECT count(*) FROM federation_ca_revocations WHERE attempts = 1 AND done_at IS NULL AND next_at > now()`); tried != 3 {
		t.Errorf("%d of 3 tried and put off", tried)
	}
}

func TestGrantsExpireOnRecordAndOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	db := postgres.New(w.pool)
	act := audit.Act{RequestID: "test", Actor: "test"}
	if _, err := (&postgres.Accounts{DB: db}).CreateUser(t.Context(), account.User{Email: "a@example.org", Role: account.Member}, act); err != nil {
		t.Fatal(err)
	}
	s, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":10}`))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if _, _, err := (&postgres.Grants{DB: db}).CreateGrant(t.Context(), postgres.NewGrant{PeerName: "home", SubjectUser: "a@example.org", Scope: s},
			postgres.NewToken{Hash: [32]byte{byte(i)}, TTL: 1e9}, act); err != nil {
			t.Fatal(err)
		}
	}
	w.exec(`UPDATE federation_grants SET expires_at = now() WHERE id IN (SELECT id FROM federation_grants ORDER BY id LIMIT 6)`)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := w.run("expire-grants"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	expired := w.count(`SELECT count(*) FROM federation_grants WHERE status = 'expired'`)
	recorded := w.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'grant.expire'`)
	if expired != 6 || recorded != 6 {
		t.Errorf("%d expired, %d on record; want 6 and 6", expired, recorded)
	}
}

func TestSweepTakesOnlyAttemptsWhoseLeaseEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO federation_sign_attempts (serial, generation, purpose, outcome, lease_until) VALUES
		('1', 1, 'enroll', 'pending', now() - interval '1 second'), ('2', 1, 'enroll', 'pending', now() + interval '20 seconds'),
		('3', 1, 'enroll', 'recorded', now() - interval '1 hour'), ('4', 1, 'enroll', 'refused', now() - interval '1 hour')`)
	if err := w.run("sweep-attempts"); err != nil {
		t.Fatal(err)
	}
	if err := w.run("revoke-at-ca"); err != nil {
		t.Fatal(err)
	}
	if len(w.ca.told) != 1 || w.ca.told["1"] != 1 {
		t.Errorf("the CA was told of %v, want serial 1 alone", w.ca.told)
	}
	if n := w.count(`SELECT count(*) FROM federation_sign_attempts WHERE serial = '1' AND outcome = 'revoked'`); n != 1 {
		t.Error("the orphan's end is not on record")
	}
}

func TestAnswersAreForgottenWithTheirToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`INSERT INTO users (email) VALUES ('a@example.org')`)
	w.exec(`INSERT INTO federation_peers (name) VALUES ('home')`)
	w.exec(`INSERT INTO federation_grants (peer_id, subject_user_id, scope) SELECT p.id, u.id, '{"resources":["tasks"],"max_rows_per_query":1}' FROM federation_peers p, users u`)
	w.exec(`INSERT INTO federation_enrollment_tokens (grant_id, token_hash, expires_at, answer)
		SELECT id, decode(repeat(n, 32), 'hex'), now() + i::interval, '{}' FROM federation_grants, (VALUES ('01', '-1 second'), ('02', '1 hour')) v (n, i)`)
	if err := w.run("forget-answers"); err != nil {
		t.Fatal(err)
	}
	if n := w.count(`SELECT count(*) FROM federation_enrollment_tokens WHERE answer IS NOT NULL`); n != 1 {
		t.Errorf("%d answers kept, want the one of the live token", n)
	}
}

// TestAuditRowsAreKeptUnlessToldOtherwise: nothing is dropped by a gateway that was not told how long to keep it.
func TestAuditRowsAreKeptUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec(`SELECT ensure_audit_partitions('2020-01-01', 0)`)
	k := w.keeper()
	if n, err := k.DropAuditRows(t.Context()); n != 0 || err != nil {
		t.Errorf("%d months dropped, %v", n, err)
	}
	k.AuditMonths = 12
	if n, err := k.DropAuditRows(t.Context()); n != 1 || err != nil {
		t.Errorf("%d months dropped of 1, %v", n, err)
	}
}

// TestRemovedPeersAreForgotten: a row may be committed with the id of a peer that is being removed.
func TestRemovedPeersAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone := uuid.New()
	w.exec(`INSERT INTO federation_audit_log (request_id, direction, peer_id, peer_ref, verb, status_code, outcome) VALUES ('r', 'inbound', $1, $1, 'list', 200, 'ok')`, gone)
	if err := w.run("forget-removed-peers"); err != nil {
		t.Fatal(err)
	}
	if n := w.count(`SELECT count(*) FROM federation_audit_log WHERE peer_id IS NULL AND peer_ref = $1`, gone); n != 1 {
		t.Errorf("%d rows have forgotten the peer and remember who it was, want 1", n)
	}
}
