package postgres_test

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
})

func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }

// act is who does things in these tests.
var act = audit.Act{RequestID: "test", Actor: "test"}

// world is a database of a test's own, with the stores on it.
type world struct {
	t         *testing.T
	ctx       context.Context
	pool      *pgxpool.Pool
	db        *postgres.DB
	accounts  *postgres.Accounts
	resources *postgres.Resources
	grants    *postgres.Grants
	peers     *postgres.Peers
	enroll    *postgres.Enrollment
	serving   *postgres.Serving
	audit     *postgres.AuditLog
	upkeep    *postgres.Upkeep
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pool := pg.Pool(t)
	db := postgres.New(pool)
	return &world{
		t: t, ctx: t.Context(), pool: pool, db: db,
		accounts: &postgres.Accounts{DB: db}, resources: &postgres.Resources{DB: db, Seal: openSealer{}}, grants: &postgres.Grants{DB: db},
		peers: &postgres.Peers{DB: db}, enroll: &postgres.Enrollment{DB: db}, serving: &postgres.Serving{DB: db}, audit: &postgres.AuditLog{DB: db}, upkeep: &postgres.Upkeep{DB: db},
	}
}

// openSealer marks what would be sealed, so that a test can see that it was handed over.
type openSealer struct{}

func (openSealer) Seal(p []byte, table, column, id string) ([]byte, error) {
	return append([]byte(table+"/"+column+"/"+id+":"), p...), nil
}

func (w *world) user(email string, role account.Role) account.User {
	w.t.Helper()
	u, err := w.accounts.CreateUser(w.ctx, account.User{Email: email, Role: role}, act)
	if err != nil {
		w.t.Fatalf("create user: %v", err)
	}
	return u
}

func (w *world) team(name string, members ...account.User) uuid.UUID {
	w.t.Helper()
	tm, err := w.accounts.CreateTeam(w.ctx, name, act)
	if err != nil {
		w.t.Fatalf("create team: %v", err)
	}
	for _, u := range members {
		if err := w.accounts.AddMember(w.ctx, name, u.Email, act); err != nil {
			w.t.Fatalf("add member: %v", err)
		}
	}
	return tm.ID
}

func (w *world) scalar(dst any, sql string, args ...any) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.ctx, sql, args...).Scan(dst); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}
