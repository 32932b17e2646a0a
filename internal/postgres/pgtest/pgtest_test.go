package pgtest_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	conn, err := pgx.ConnectConfig(ctx, c.ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "CREATE EXTENSION vector; CREATE TABLE applied (at timestamptz DEFAULT clock_timestamp()); INSERT INTO applied DEFAULT VALUES")
	return err
})

func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			b := time.Now()
			pool := pg.Pool(t)
			t.Log(time.Since(b))
			var n int
			if err := pool.QueryRow(t.Context(), "INSERT INTO applied DEFAULT VALUES RETURNING (SELECT count(*) FROM applied)").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != 1 {
				t.Errorf("the table held %d rows before the test wrote, want the 1 of the migration", n)
			}
		})
	}
}
