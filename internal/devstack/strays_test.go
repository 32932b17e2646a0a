package devstack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

func TestTheServerEndsWithAKilledGateway(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(tempDir(t), ".mosaic")
	h := startHelper(t, "start", dir, nil)
	fd := pidfd(t, h.expect("serving"))
	h.kill()
	gone(t, fd)
}

func TestWhatAKilledGatewayCommittedIsThere(t *testing.T) {
	t.Parallel()
	cfg, _ := newConfig(t)
	dir := filepath.Join(filepath.Dir(cfg.DataDir), ".mosaic")
	cfg.DataDir = filepath.Join(dir, "postgres")
	for i := range 3 {
		h := startHelper(t, "start", dir, nil)
		h.expect("serving")
		p := &Postgres{cfg: cfg} // a client of the helper's server
		ask(t, p, fmt.Sprintf("CREATE TABLE IF NOT EXISTS kept (n int); INSERT INTO kept VALUES (%d)", i))
		h.kill() // and at once the next one
	}
	if got := ask(t, mustStart(t, cfg), "SELECT string_agg(n::text, ',' ORDER BY n) FROM kept"); got != "0,1,2" {
		t.Errorf("kept = %q, want 0,1,2", got)
	}
}

func TestAGatewayKilledDuringInitialisationStartsAgain(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"creating configuration files", "running bootstrap script", "postgres data directory initialised", "database system is ready"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			cfg, _ := newConfig(t)
			dir := filepath.Join(filepath.Dir(cfg.DataDir), ".mosaic")
			h := startHelper(t, "start", dir, nil)
			h.expect(at)
			h.kill()
			d := must(OpenDir(dir))(t)
			defer d.Close()
			cfg.DataDir = d.PostgresDir()
			p := mustStart(t, cfg)
			if got := ask(t, p, "SELECT current_database()"); got != "mosaic" {
				t.Errorf("current_database() = %q", got)
			}
			mustStop(t, p)
			mustStop(t, mustStart(t, cfg))
			if got := names(t, dir); got != "lock mosaic.json postgres" {
				t.Errorf("the directory holds %s", got)
			}
		})
	}
}

// orphan starts a server that nobody supervises and nobody ends.
func orphan(t *testing.T, cfg Config) *child {
	t.Helper()
	p := mustStart(t, cfg) // knows the arguments
	mustStop(t, p)
	dir := must(os.Open(p.cfg.DataDir))(t)
	defer dir.Close()
	started := make(chan *child, 1)
	tail := &logTail{log: cfg.Log}
	go func() {
		_ = onOneThread(func() error {
			c, err := spawn(program{path: p.server.command("postgres"), args: p.arguments(), dir: dir, runAs: p.runAs}, tail)
			started <- c
			if err != nil {
				return err
			}
			return c.wait()
		})
	}()
	c := <-started
	if c == nil {
		t.Fatal("the orphan did not start")
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.exited
	})
	if err := p.awaitReady(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnOrphanIsEndedFirst(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		prepare func(t *testing.T, c *child)
	}{
		{"that obeys", func(*testing.T, *child) {}},
		{"that is stopped", func(t *testing.T, c *child) {
			if err := unix.Kill(c.pid(), unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, seen := seededConfig(t)
			cfg.StopGrace = 500 * time.Millisecond
			c := orphan(t, cfg)
			ask(t, &Postgres{cfg: cfg}, "CREATE TABLE kept AS SELECT 42 AS n")
			tt.prepare(t, c)
			p := mustStart(t, cfg)
			<-c.exited
			waitFor(t, seen, "an earlier postgres still runs; ending it")
			if got := ask(t, p, "SELECT n FROM kept"); got != "42" {
				t.Errorf("n = %q, want 42", got)
			}
		})
	}
}

// In a container root may not look at the processes of other users (CAP_SYS_PTRACE).
func TestAnOrphanIsFoundWithoutPtrace(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // an ordinary user has nothing to drop, and TestAnOrphanIsEndedFirst ran as one
	}
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Fatal(err) // util-linux: on every Debian
	}
	top := tempDir(t)
	dir := filepath.Join(top, ".mosaic")
	d := must(OpenDir(dir))(t)
	cfg, _ := newConfig(t)
	cfg.DataDir = d.PostgresDir()
	c := orphan(t, cfg)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	h := startHelper(t, "start", dir, nil, setpriv, "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
	h.expect("an earlier postgres still runs; ending it")
	h.expect("serving")
	<-c.exited
	h.finish()
}

// PostgreSQL takes any living process of its user that has the number in its pid file for its predecessor.
func TestAReusedPidDoesNotBlockTheStart(t *testing.T) {
	t.Parallel()
	cfg, _ := seededConfig(t)
	p := mustStart(t, cfg)
	mustStop(t, p)

	other := exec.Command("sleep", "600")
	other.Dir = "/"
	other.SysProcAttr = &syscall.SysProcAttr{Credential: p.runAs, Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error, 1), make(chan error, 1)
	go func() {
		exited <- onOneThread(func() error {
			err := other.Start()
			started <- err
			if err != nil {
				return err
			}
			return other.Wait()
		})
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); <-exited })

	left := fmt.Sprintf("%d\n%s\n%d\n5432\n.\n\n  1234567        42\nready   \n", other.Process.Pid, dataPath, time.Now().Unix())
	for _, name := range []string{pidName, socketName + ".lock"} {
		path := filepath.Join(cfg.DataDir, name)
		if err := os.WriteFile(path, []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		giveTo(t, path, p.runAs)
	}
	p = mustStart(t, cfg)
	if got := ask(t, p, "SELECT 1"); got != "1" {
		t.Errorf("SELECT 1 = %q", got)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process that had the number is gone: %v", err)
	}
}

// leftOn are the processes that are left on a data directory.
func leftOn(t *testing.T, cfg Config) []int {
	t.Helper()
	dir := must(os.Open(cfg.DataDir))(t)
	defer dir.Close()
	return (&Postgres{cfg: cfg, dir: dir}).strays()
}

func runSQL(t *testing.T, conn *pgconn.PgConn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// awaitLockWaiter returns when a session waits for an advisory lock.
func awaitLockWaiter(t *testing.T, p *Postgres) {
	t.Helper()
	awaitRow(t, p, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
}

// awaitRow asks until there is a row.
func awaitRow(t *testing.T, p *Postgres, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn := connect(t, p)
	defer conn.Close(t.Context())
	for {
		results, err := conn.Exec(ctx, sql).ReadAll()
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if len(results[0].Rows) > 0 {
			return
		}
	}
}
