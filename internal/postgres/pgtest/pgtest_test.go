package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
)

// helperEnv makes this binary one that a test may kill.
const helperEnv = "MOSAIC_PGTEST_HELPER"

var pg = pgtest.New(migrate).With("work_mem", "5MB")

func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }

func migrate(ctx context.Context, c *pgxpool.Config) error {
	conn, err := pgx.ConnectConfig(ctx, c.ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "CREATE EXTENSION vector; CREATE TABLE written (by text); INSERT INTO written VALUES ('migration')")
	return err
}

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			pool := pg.Pool(t)
			if _, err := pool.Exec(t.Context(), "INSERT INTO written VALUES ('test')"); err != nil {
				t.Fatal(err)
			}
			if got := ask(t, pool, "SELECT string_agg(by, ' ' ORDER BY by) FROM written"); got != "migration test" {
				t.Errorf("written by %q, want the migration and this test", got)
			}
		})
	}
}

func TestADatabaseEndsWithItsTest(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("with a connection left open", func(t *testing.T) {
		conn, err := pgx.ConnectConfig(context.Background(), pg.Database(t).ConnConfig)
		if err != nil {
			t.Fatal(err)
		}
		name = conn.Config().Database
	})
	if got := ask(t, pg.Pool(t), "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'"); got != "0" {
		t.Errorf("%s databases called %s are left", got, name)
	}
}

func TestABlankDatabaseHasNoMigrations(t *testing.T) {
	t.Parallel()
	conn, err := pgx.ConnectConfig(t.Context(), pg.Blank(t).ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(t.Context(), "SELECT * FROM written")
	if pe := (*pgconn.PgError)(nil); !errors.As(err, &pe) || pe.Code != "42P01" {
		t.Errorf("reading a migrated table: %v, want undefined_table", err)
	}
}

func TestTheConnectionStringAndTheDialFuncAreEnough(t *testing.T) {
	t.Parallel()
	from := pg.Database(t)
	c, err := pgxpool.ParseConfig(from.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	c.ConnConfig.DialFunc = from.ConnConfig.DialFunc
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if got := ask(t, pool, "SELECT by FROM written"); got != "migration" {
		t.Errorf("written by %q", got)
	}
}

func TestSettingsAreOursAndTheCallers(t *testing.T) {
	t.Parallel()
	pool := pg.Pool(t)
	for name, want := range map[string]string{"fsync": "off", "work_mem": "5MB"} {
		if got := ask(t, pool, "SHOW "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

// Run by TestAKilledBinaryLeavesNothing, in a process of its own.
func TestHelper(t *testing.T) {
	if os.Getenv(helperEnv) == "" {
		return
	}
	pool := pg.Pool(t)
	dir, _, _ := strings.Cut(strings.TrimPrefix(pool.Config().ConnString(), "host='"), "/postgres'")
	fmt.Println("\nserving", dir, strings.TrimSpace(strings.SplitN(ask(t, pool, "SELECT pg_read_file('postmaster.pid')"), "\n", 2)[0]))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestAKilledBinaryLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := killedHelper(t)
	// The next one removes the files, when it is sure that they are not another's who has just begun.
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	other := killedHelper(t)
	t.Cleanup(func() { os.RemoveAll(other) })
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the directory of a binary that has just been killed: %v", err)
	}
}

// killedHelper starts a test binary, kills it, and returns the directory of its server when that has ended too.
func killedHelper(t *testing.T) string {
	t.Helper()
	dir, pid, kill := runHelper(t)
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	kill()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000)
		switch {
		case errors.Is(err, unix.EINTR):
		case n != 1:
			t.Fatalf("the server of the killed binary did not end: %v", err)
		default:
			return dir
		}
	}
}

// runHelper starts a test binary and returns the directory and process id of its server.
func runHelper(t *testing.T) (dir string, pid int, kill func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		stdin.Close()
	}
	t.Cleanup(kill)
	watchdog := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 3 && fields[0] == "serving" {
			pid, err := strconv.Atoi(fields[2])
			if err != nil || !filepath.IsAbs(fields[1]) {
				t.Fatalf("the helper said %q", lines.Text())
			}
			return fields[1], pid, kill
		}
	}
	t.Fatal("the helper did not serve")
	return "", 0, nil
}

func ask(t *testing.T, pool *pgxpool.Pool, sql string) string {
	t.Helper()
	var got string
	if err := pool.QueryRow(t.Context(), sql, pgx.QueryExecModeSimpleProtocol).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}
