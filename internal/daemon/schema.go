package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/telemetry"
)

// Migrate brings the schema of DATABASE_URL up to date.
func Migrate(ctx context.Context, o ServeOptions) error {
	pool, err := migrationPool(o)
	if err != nil {
		return err
	}
	return postgres.Migrate(ctx, pool, telemetry.NewLogger(o.Stderr, slog.LevelInfo))
}

// migrationPool needs one setting only, so that a migration can run before anything else is there.
func migrationPool(o ServeOptions) (*pgxpool.Config, error) {
	dsn, err := config.DatabaseURL(o.Environ)
	if err != nil {
		return nil, err
	}
	return postgres.PoolConfig(postgres.Config{DSN: dsn.Reveal()})
}

// MigrationStatus writes one line for each migration, or with JSON an array.
func MigrationStatus(ctx context.Context, o ServeOptions) error {
	pool, err := migrationPool(o)
	if err != nil {
		return err
	}
	list, err := postgres.MigrationList(ctx, pool)
	if err != nil {
		return err
	}
	if o.JSON {
		return json.NewEncoder(o.Stdout).Encode(list)
	}
	for _, m := range list {
		state := "pending"
		if m.Applied {
			state = "applied"
		}
		if _, err := fmt.Fprintf(o.Stdout, "%-8s %s\n", state, m.Name); err != nil {
			return err
		}
	}
	return nil
}
