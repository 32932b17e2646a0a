package devstack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDataSurvivesARestart(t *testing.T) {
	t.Parallel()
	cfg, _ := newConfig(t)
	delete(cfg.Settings, "fsync")
	p := mustStart(t, cfg)
	ask(t, p, "CREATE TABLE kept AS SELECT 42 AS n")
	mustStop(t, p)
	if exists(filepath.Join(cfg.DataDir, pidName)) {
		t.Error("the server did not end in order: its pid file is still there")
	}
	p = mustStart(t, cfg)
	if got := ask(t, p, "SELECT n FROM kept"); got != "42" {
		t.Errorf("n = %q, want 42", got)
	}
	for setting, want := range map[string]string{
		"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "data_checksums": "on",
		"listen_addresses": "", "server_encoding": "UTF8", "jit": "off", "timezone": "UTC",
		"default_text_search_config": "pg_catalog.english", "max_connections": "50", "shared_buffers": "128MB",
	} {
		if got := ask(t, p, "SHOW "+setting); got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	if got := ask(t, p, "SELECT datcollate || ' ' || datctype FROM pg_database WHERE datname = current_database()"); got != "C C.UTF-8" {
		t.Errorf("collation and character types = %q, want C C.UTF-8", got)
	}
	if got := ask(t, p, "SELECT current_user || ' ' || current_database() || ' ' || lower('ÄÖ')"); got != "mosaic mosaic äö" {
		t.Errorf("user, database, lower('ÄÖ') = %q", got)
	}
}

func TestOnlyTheServersUserReachesTheSocket(t *testing.T) {
	t.Parallel()
	cfg, _ := seededConfig(t)
	mustStart(t, cfg)
	for _, path := range []string{cfg.DataDir, filepath.Join(cfg.DataDir, socketName)} {
		fi := must(os.Stat(path))(t)
		if fi.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, want 0700", path, fi.Mode())
		}
		owner := int(fi.Sys().(*syscall.Stat_t).Uid)
		if os.Geteuid() == 0 && owner == 0 || os.Geteuid() != 0 && owner != os.Geteuid() {
			t.Errorf("%s belongs to %d", path, owner)
		}
	}
}

// Every test here has its directory below one that only we may enter; this one says so, and goes deep.
func TestAnyPathWillDo(t *testing.T) {
	t.Parallel()
	top := tempDir(t)
	if fi := must(os.Stat(top))(t); fi.Mode().Perm() != 0o700 || int(fi.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
		t.Fatalf("%s is not ours alone: %v", top, fi.Mode())
	}
	dir := filepath.Join(top, strings.Repeat("long", 30), `it's, a "\ path`, strings.Repeat("deep", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg, _ := newConfig(t)
	cfg.DataDir = filepath.Join(dir, "postgres")
	p := mustStart(t, cfg)
	if len(cfg.DataDir) < 200 {
		t.Fatalf("%d bytes are no long path", len(cfg.DataDir))
	}
	if got := ask(t, p, "SELECT 1"); got != "1" {
		t.Errorf("SELECT 1 = %q", got)
	}
}

func TestAQueryCanBeCancelled(t *testing.T) {
	t.Parallel()
	cfg, seen := seededConfig(t)
	cfg.Settings["log_min_duration_statement"] = "-1"
	p := mustStart(t, cfg)
	waitFor(t, seen, "postgres started")
	conn := connect(t, p)
	// The lock tells when the query runs: cancelling before would cancel nothing.
	holder := connect(t, p)
	runSQL(t, holder, "SELECT pg_advisory_lock(1)")
	result := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT pg_advisory_lock(1)").ReadAll()
		result <- err
	}()
	awaitLockWaiter(t, p)
	if err := conn.CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil || !strings.Contains(err.Error(), "57014") {
		t.Errorf("the query ended with %v, want SQLSTATE 57014", err)
	}
}

func TestAnOrdinaryUserRunsIt(t *testing.T) {
	t.Parallel()
	cred := nobody()
	dir := tempDir(t)
	giveTo(t, dir, cred)
	for i := range 2 {
		h := startHelper(t, "start", filepath.Join(dir, ".mosaic"), cred)
		if got := h.expect("opened"); cred != nil && got != "65534" {
			t.Errorf("start %d ran as %s", i, got)
		}
		h.expect("serving")
		h.finish()
	}
}

func TestRootRunsTheServerOfAnotherUsersData(t *testing.T) {
	t.Parallel()
	cred := nobody()
	dir := tempDir(t)
	giveTo(t, dir, cred)
	h := startHelper(t, "start", filepath.Join(dir, ".mosaic"), cred)
	h.expect("serving")
	h.finish()
	cfg, _ := newConfig(t)
	cfg.DataDir = filepath.Join(dir, ".mosaic", "postgres")
	p := mustStart(t, cfg)
	if got := ask(t, p, "SELECT 1"); got != "1" {
		t.Errorf("SELECT 1 = %q", got)
	}
}

func TestTheEnvironmentDoesNotDecide(t *testing.T) {
	t.Parallel()
	env := []string{
		"/usr/bin/env", "PGHOST=nowhere.invalid", "PGPORT=1", "PGUSER=x", "PGDATABASE=x", "PGOPTIONS=-c bad=1", "PGDATA=/x",
		"PGSSLMODE=verify-full", "PGTARGETSESSIONATTRS=standby", "PGCLIENTENCODING=LATIN1", "LC_ALL=xx_XX", "PATH=/x",
	}
	h := startHelper(t, "start", filepath.Join(tempDir(t), ".mosaic"), nil, env...)
	h.expect("serving")
	h.finish()

	h = startHelper(t, "start", filepath.Join(tempDir(t), ".mosaic"), nil, "/usr/bin/env", "PGSERVICE=x")
	h.expect("fault postgres_start_failed the PG* variables")
}

func TestTheServerSeesNothingOfOurEnvironment(t *testing.T) {
	t.Parallel()
	cfg, _ := seededConfig(t)
	p := mustStart(t, cfg)
	var raw []byte
	var err error
	p.asServer(func() { raw, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID())) })
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(raw), strings.Join(cleanEnv(), "\x00")+"\x00"; got != want {
		t.Errorf("environment = %q, want %q", got, want)
	}
}

func TestCtrlCIsNotForTheServer(t *testing.T) {
	t.Parallel()
	cfg, _ := seededConfig(t)
	p := mustStart(t, cfg)
	if sid := must(unix.Getsid(p.PID()))(t); sid != p.PID() {
		t.Errorf("the server is in session %d, want its own, %d", sid, p.PID())
	}
}

func TestASecondSupervisorIsRefused(t *testing.T) {
	t.Parallel()
	cfg, _ := seededConfig(t)
	p := mustStart(t, cfg)
	_, err := StartPostgres(t.Context(), cfg)
	wantFault(t, err, ErrPostgresInUse)
	if got := ask(t, p, "SELECT 1"); got != "1" {
		t.Errorf("the first server answers %q", got)
	}
}

func TestStopIsQuickAndCompleteWhileQueriesRun(t *testing.T) {
	t.Parallel()
	cfg, _ := seededConfig(t)
	cfg.StopGrace = time.Minute // only the orderly way ends in time
	p := mustStart(t, cfg)
	runSQL(t, connect(t, p), "CREATE TABLE t (n int); BEGIN; INSERT INTO t VALUES (1)")
	busy := connect(t, p)
	holder := connect(t, p)
	runSQL(t, holder, "SELECT pg_advisory_lock(1)")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = busy.Exec(context.Background(), "SELECT pg_advisory_lock(1)").ReadAll()
	}()
	awaitLockWaiter(t, p)

	begun := time.Now()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := p.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-ended
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("Stop took %v", took)
	}
	if left := leftOn(t, cfg); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if exists(filepath.Join(cfg.DataDir, pidName)) {
		t.Error("the server did not end in order: its pid file is still there")
	}
	if p.PID() != 0 {
		t.Errorf("PID() = %d after Stop", p.PID())
	}
	mustStop(t, p)
}

func TestStopWithoutPatienceKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	cfg, _ := seededConfig(t)
	p := mustStart(t, cfg)
	ask(t, p, "CREATE TABLE kept AS SELECT 42 AS n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if left := leftOn(t, cfg); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if got := ask(t, mustStart(t, cfg), "SELECT n FROM kept"); got != "42" {
		t.Errorf("n = %q, want 42", got)
	}
}

func TestAServerThatExitsIsStartedAgain(t *testing.T) {
	t.Parallel()
	cfg, seen := seededConfig(t)
	p := mustStart(t, cfg)
	ask(t, p, "CREATE TABLE kept AS SELECT 42 AS n")

	// A session that never looks up outlives the server that is killed, and holds its shared memory.
	busy := connect(t, p)
	result := make(chan error, 1)
	go func() {
		_, err := busy.Exec(context.Background(), "SELECT pg_advisory_lock(7); DO $$ BEGIN LOOP NULL; END LOOP; END $$").ReadAll()
		result <- err
	}()
	awaitRow(t, p, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND granted")

	old := p.PID()
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, seen, "postgres exited; restarting it")
	waitFor(t, seen, "postgres restarted")
	if err := <-result; err == nil {
		t.Error("the busy session of the killed server ended in order")
	}
	if pid := p.PID(); pid == old || pid == 0 {
		t.Errorf("PID() = %d after the restart, %d before", pid, old)
	}
	p.mu.Lock()
	c := p.running
	p.mu.Unlock()
	if err := p.awaitReady(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, p, "SELECT n FROM kept"); got != "42" {
		t.Errorf("n = %q, want 42", got)
	}
}

func TestStopDuringBackoffReturns(t *testing.T) {
	t.Parallel()
	cfg, seen := seededConfig(t)
	p := mustStart(t, cfg)
	// Without its version the server exits at once, each time.
	if err := os.Rename(filepath.Join(cfg.DataDir, "PG_VERSION"), filepath.Join(cfg.DataDir, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(p.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		waitFor(t, seen, "postgres exited; restarting it")
	}
	begun := time.Now()
	mustStop(t, p)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("Stop took %v", took)
	}
	if err := os.Rename(filepath.Join(cfg.DataDir, "gone"), filepath.Join(cfg.DataDir, "PG_VERSION")); err != nil {
		t.Fatal(err)
	}
	mustStart(t, cfg) // and removes the shared memory of the one that was killed
}
