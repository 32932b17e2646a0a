package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/migrations"
)

// ErrMigrationsPending is returned by CheckMigrated: serving on an older schema would fail one request at a time.
var ErrMigrationsPending = &fault.Fault{
	Kind:   fault.Unavailable,
	Code:   "migrations_pending",
	Detail: "the database schema is older than this gateway",
	Hint:   "run: mosaic gateway migrate up",
}

// MigrationStatus is one migration and whether it has been applied.
type MigrationStatus struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
	Applied bool   `json:"applied"`
}

// Migrate applies every pending migration, ours and those of the job queue. An advisory lock lets one process of
// all replicas do it; the others wait and find nothing left to do.
func Migrate(ctx context.Context, pc *pgxpool.Config, log *slog.Logger) error {
	if err := migrateOurs(ctx, pc, log); err != nil {
		return err
	}
	return migrateJobs(ctx, pc)
}

// jobsLock is the advisory lock of the job queue's migrations: "mosaic" in ASCII.
const jobsLock = 0x6d6f73616963

// migrateJobs brings River's own tables up to date. Its migrations bring their own transactions, so the lock is the
// session's, on a connection beside theirs.
func migrateJobs(ctx context.Context, pc *pgxpool.Config) error {
	two := pc.Copy()
	two.ConnConfig = migrationConfig(pc)
	two.MinConns, two.MaxConns = 0, 2
	pool, err := pgxpool.NewWithConfig(ctx, two)
	if err != nil {
		return fmt.Errorf("open migration pool: %w", err)
	}
	defer pool.Close()
	lock, err := pool.Acquire(ctx)
	if err != nil {
		return fail(err, "migrate job queue")
	}
	defer lock.Release()
	if _, err := lock.Exec(ctx, `SELECT pg_advisory_lock($1)`, jobsLock); err != nil {
		return fail(err, "lock job queue")
	}
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("load job queue migrations: %w", err)
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return fail(err, "migrate job queue")
}

// A migration that waits for a table holds up everybody who comes after it, and so every answer. It gives up soon, before
// the server looks for a deadlock, and tries again when they have gone ahead.
const (
	lockWithin = 500 * time.Millisecond
	lockAgain  = time.Second
)

// migrateOurs applies our migrations. Whoever holds a table for long, as a backup does, is waited for until ctx ends.
func migrateOurs(ctx context.Context, pc *pgxpool.Config, log *slog.Logger) error {
	for {
		err := migrateOnce(ctx, pc, log)
		if sqlState(err) != lockNotAvailable && !sacrificed(err) {
			return err
		}
		log.Warn("migration waits for somebody who uses a table that it changes", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lockAgain):
		}
	}
}

func migrateOnce(ctx context.Context, pc *pgxpool.Config, log *slog.Logger) error {
	return withGoose(pc, func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		if partial := (*goose.PartialError)(nil); errors.As(err, &partial) {
			results = partial.Applied
		}
		for _, r := range results {
			log.Info("migration applied", "version", r.Source.Version, "duration", r.Duration)
		}
		if err != nil {
			return fmt.Errorf("apply migrations: %w", err)
		}
		return nil
	})
}

// MigrationList tells for every migration of this binary whether the database has it.
func MigrationList(ctx context.Context, pc *pgxpool.Config) ([]MigrationStatus, error) {
	var list []MigrationStatus
	err := withGoose(pc, func(p *goose.Provider) error {
		statuses, err := p.Status(ctx)
		if err != nil {
			return fmt.Errorf("read migration status: %w", err)
		}
		for _, s := range statuses {
			list = append(list, MigrationStatus{Version: s.Source.Version, Name: s.Source.Path, Applied: s.State == goose.StateApplied})
		}
		return nil
	})
	return list, err
}

// CheckMigrated fails with ErrMigrationsPending unless every migration of this binary has been applied. A
// database that is ahead is fine: migrations of a release are additive.
func CheckMigrated(ctx context.Context, pc *pgxpool.Config) error {
	return withGoose(pc, func(p *goose.Provider) error {
		pending, err := p.HasPending(ctx)
		if err != nil {
			return fmt.Errorf("read migration status: %w", err)
		}
		if pending {
			return ErrMigrationsPending
		}
		return nil
	})
}

// migrationConfig is the connection of a migration: an index on a large table takes as long as it takes.
func migrationConfig(pc *pgxpool.Config) *pgx.ConnConfig {
	cc := pc.ConnConfig.Copy()
	cc.RuntimeParams["statement_timeout"] = "0"
	cc.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	return cc
}

func withGoose(pc *pgxpool.Config, f func(*goose.Provider) error) error {
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return fmt.Errorf("make migration lock: %w", err)
	}
	cc := migrationConfig(pc)
	cc.RuntimeParams["lock_timeout"] = strconv.FormatInt(lockWithin.Milliseconds(), 10)
	db := stdlib.OpenDB(*cc)
	defer db.Close() //nolint:errcheck // read-only by now, nothing to lose
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithSessionLocker(locker))
	if err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	return fail(f(p), "migrate")
}
