// Package pgtest gives every test a PostgreSQL database of its own, on a private server that lives as long as the
// test binary.
//
//	var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error { return postgres.Migrate(ctx, c, log) })
//
//	func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }
//
//	func TestGrantIsRead(t *testing.T) {
//		pool := pg.Pool(t)
//
// The server starts with the first test that asks for a database. Migrations run once, into a template of which
// each database is a copy. Durability is off: what a test writes need not survive the machine. A package whose
// tests look at these settings turns them on again with New(...).With("fsync", "on").
//
// Tests fail, and are not skipped, on a machine without PostgreSQL or pgvector. When the test binary is killed the
// kernel ends the server, and the next binary removes its files.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/devstack"
)

const (
	dirPrefix = "mosaic-pgtest-"
	template  = "mosaic_template"
	// abandonedAfter keeps the sweep away from a directory that another binary has made and not yet locked.
	abandonedAfter = 5 * time.Minute
	startTimeout   = time.Minute
	connsPerPool   = 4
)

// Migrate brings the schema of one database up to date. It must not leave a connection open.
type Migrate func(ctx context.Context, c *pgxpool.Config) error

// Server is the private server of one test binary.
type Server struct {
	migrate  Migrate
	settings map[string]string

	start sync.Once
	err   error // of start
	dir   *devstack.Dir
	pg    *devstack.Postgres
	admin *pgxpool.Pool
	names atomic.Int64
}

// New describes a server; nothing runs yet. A nil migrate leaves databases empty.
func New(migrate Migrate) *Server {
	return &Server{migrate: migrate, settings: map[string]string{
		"fsync":              "off",
		"full_page_writes":   "off",
		"synchronous_commit": "off",
		"max_connections":    "300",
		"autovacuum":         "off", // a plan must not depend on when it came by
	}}
}

// With sets a server setting. Call it before the first database is asked for.
func (s *Server) With(name, value string) *Server {
	settings := maps.Clone(s.settings)
	settings[name] = value
	return &Server{migrate: s.migrate, settings: settings}
}

// Main runs the tests and then ends the server and removes its files. It returns the exit code for TestMain.
func (s *Server) Main(m *testing.M) int {
	code := m.Run()
	if err := s.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// Database makes a migrated database for t and removes it when t ends. ConnString and ConnConfig.DialFunc of the
// result are what a caller needs who makes a configuration of its own.
func (s *Server) Database(t testing.TB) *pgxpool.Config {
	t.Helper()
	return s.database(t, template)
}

// Blank makes a database without migrations for t and removes it when t ends.
func (s *Server) Blank(t testing.TB) *pgxpool.Config {
	t.Helper()
	return s.database(t, "template0")
}

// Pool is a pool on a migrated database, closed when t ends.
func (s *Server) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(t.Context(), s.Database(t))
	if err != nil {
		t.Fatalf("pgtest: open pool: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func (s *Server) database(t testing.TB, from string) *pgxpool.Config {
	t.Helper()
	s.start.Do(func() { s.err = s.launch() })
	if s.err != nil {
		t.Fatalf("pgtest: %v", s.err)
	}
	name := fmt.Sprintf("test_%d", s.names.Add(1))
	if err := s.create(t.Context(), name, from); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		// FORCE: a test that forgot to close a connection has its own check for that, and must not fail here.
		if _, err := s.admin.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("pgtest: drop database: %v", err)
		}
	})
	c, err := s.config(name)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return c
}

func (s *Server) create(ctx context.Context, name, from string) error {
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+from); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}

// config is for one database of the server.
func (s *Server) config(name string) (*pgxpool.Config, error) {
	// The last of two equal keywords counts.
	c, err := pgxpool.ParseConfig(s.pg.DSN() + " dbname=" + name)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", err)
	}
	c.ConnConfig.DialFunc = s.pg.DialFunc
	c.MaxConns = connsPerPool
	return c, nil
}

// launch starts the server and makes the template.
func (s *Server) launch() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	parent := tempParent()
	sweep(parent)
	path, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return err
	}
	if s.dir, err = devstack.OpenDir(path); err != nil {
		return err
	}
	s.pg, err = devstack.StartPostgres(ctx, devstack.Config{
		DataDir: s.dir.PostgresDir(), Log: slog.New(slog.DiscardHandler), Settings: s.settings,
	})
	if err != nil {
		return err
	}
	adminConfig, err := s.config("mosaic")
	if err != nil {
		return err
	}
	// DROP and CREATE DATABASE are sent as they are: preparing them first would take a round trip each.
	adminConfig.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	if s.admin, err = pgxpool.NewWithConfig(ctx, adminConfig); err != nil {
		return err
	}
	return s.makeTemplate(ctx)
}

func (s *Server) makeTemplate(ctx context.Context) error {
	if err := s.create(ctx, template, "template0"); err != nil {
		return err
	}
	if s.migrate != nil {
		c, err := s.config(template)
		if err != nil {
			return err
		}
		if err := s.migrate(ctx, c); err != nil {
			return fmt.Errorf("migrate the template: %w", err)
		}
	}
	// A connection to the template would make every copy fail, so nobody gets one.
	_, err := s.admin.Exec(ctx, "ALTER DATABASE "+template+" ALLOW_CONNECTIONS false")
	return err
}

// stop ends what launch started, however far it came.
func (s *Server) stop() error {
	var errs []error
	if s.admin != nil {
		s.admin.Close()
	}
	if s.pg != nil {
		// Nothing is kept, so nothing has to be written: no patience for a checkpoint.
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		errs = append(errs, s.pg.Stop(ctx))
	}
	if s.dir != nil {
		errs = append(errs, os.RemoveAll(s.dir.Path()), s.dir.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pgtest: stop: %w", err)
	}
	return nil
}

// tempParent is memory where there is room: a database is 300 files, which take 15 ms there and 250 ms on a disk.
func tempParent() string {
	const shm, room = "/dev/shm", 1 << 30
	var st unix.Statfs_t
	if unix.Statfs(shm, &st) == nil && st.Bavail*uint64(st.Bsize) > room && unix.Access(shm, unix.W_OK) == nil {
		return shm
	}
	return os.TempDir()
}

// sweep removes the directories of test binaries that were killed. The lock tells whether one is still used.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !fi.IsDir() || !strings.HasPrefix(e.Name(), dirPrefix) || time.Since(fi.ModTime()) < abandonedAfter {
			continue
		}
		d, err := devstack.OpenDir(filepath.Join(parent, e.Name()))
		if err != nil {
			continue
		}
		_ = os.RemoveAll(d.Path())
		_ = d.Close()
	}
}
