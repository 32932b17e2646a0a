package devstack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/fault"
)

// helperEnv makes the test binary act as a gateway process that a test can kill, or run as another user.
const helperEnv = "MOSAIC_DEVSTACK_HELPER"

func TestMain(m *testing.M) {
	if command := os.Getenv(helperEnv); command != "" {
		os.Exit(helper(command, os.Args[1]))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(seed.dir)
		os.Exit(code)
	}))
}

// seed is a directory with the data of a server that ran once. Most tests begin with a copy: initdb costs most of
// a second of processor time.
var seed struct {
	sync.Once
	dir string
	err error
}

func makeSeed() {
	if seed.dir, seed.err = os.MkdirTemp(tempParent(), "mosaic-devstack-seed-"); seed.err != nil {
		return
	}
	var p *Postgres
	p, seed.err = StartPostgres(context.Background(), Config{
		DataDir: filepath.Join(seed.dir, "postgres"), Log: slog.New(slog.DiscardHandler), Settings: map[string]string{"fsync": "off"},
	})
	if seed.err == nil {
		seed.err = p.Stop(context.Background())
	}
}

// helper prints one line per thing that happened and stays until stdin ends: "open" takes the directory, "start"
// also starts its server.
func helper(command, dir string) int {
	d, err := OpenDir(dir)
	if err != nil {
		fmt.Println("fault", fault.From(err).Code)
		return 1
	}
	fmt.Println("opened", os.Getuid())
	if command == "start" {
		p, err := StartPostgres(context.Background(), Config{DataDir: d.PostgresDir(), Log: slog.New(&printer{w: os.Stdout})})
		if err != nil {
			fmt.Println("fault", fault.From(err).Code, strings.ReplaceAll(err.Error(), "\n", " | "))
			return 1
		}
		fmt.Println("serving", p.PID())
		_, _ = io.Copy(io.Discard, os.Stdin)
		if err := p.Stop(context.Background()); err != nil {
			fmt.Println("fault stop", err)
			return 1
		}
		fmt.Println("stopped")
		return 0
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// process is a running helper.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Scanner
}

// startHelper runs the helper, as another user when runAs is not nil, and below the programs of wrap.
func startHelper(t *testing.T, command, dir string, runAs *syscall.Credential, wrap ...string) *process {
	t.Helper()
	// The test binary's directory is closed to other users; the link to it is not.
	argv := append(slices.Clone(wrap), "/proc/self/exe", dir)
	if len(wrap) > 0 {
		argv[len(wrap)] = must(os.Executable())(t)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), helperEnv+"="+command)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: runAs}
	stdin := must(cmd.StdinPipe())(t)
	stdout := must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, stdin: stdin, out: bufio.NewScanner(stdout)}
	t.Cleanup(func() { p.kill() })
	return p
}

// expect reads up to a line that contains text and returns what follows the text. A helper that does not get there
// is killed, which ends the reading.
func (p *process) expect(text string) string {
	p.t.Helper()
	watchdog := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer watchdog.Stop()
	var seen []string
	for p.out.Scan() {
		if _, rest, ok := strings.Cut(p.out.Text(), text); ok {
			return strings.TrimSpace(rest)
		}
		seen = append(seen, p.out.Text())
	}
	p.t.Fatalf("the helper ended without %q; it said:\n%s", text, strings.Join(seen, "\n"))
	return ""
}

// kill ends the helper as kill -9 does, and returns when it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// finish lets the helper end in order.
func (p *process) finish() {
	p.t.Helper()
	p.stdin.Close()
	p.expect("stopped")
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatal(err)
	}
}

// printer is a slog handler that writes bare lines, and tells a channel about the messages a test waits for.
type printer struct {
	mu   sync.Mutex
	w    io.Writer
	seen chan string
}

func (*printer) Enabled(context.Context, slog.Level) bool { return true }
func (h *printer) WithAttrs([]slog.Attr) slog.Handler     { return h }
func (h *printer) WithGroup(string) slog.Handler          { return h }

func (h *printer) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen != nil && r.Level > slog.LevelDebug {
		h.seen <- r.Message
	}
	_, err := fmt.Fprintln(h.w, line)
	return err
}

// newLog logs to the test and tells about messages above debug.
func newLog(t *testing.T) (*slog.Logger, <-chan string) {
	seen := make(chan string, 100)
	return slog.New(&printer{w: t.Output(), seen: seen}), seen
}

func waitFor(t *testing.T, seen <-chan string, message string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case got := <-seen:
			if got == message {
				return
			}
		case <-deadline:
			t.Fatalf("%q was not logged", message)
		}
	}
}

// tempDir is a directory that only we can enter. It is in memory where there is room: what is tested here is who
// may do what when, and initdb on a disk takes most of the time.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := must(os.MkdirTemp(tempParent(), "mosaic-devstack-"))(t)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func tempParent() string {
	if free, ok := freeMiB("/dev/shm"); ok && free > 1024 && unix.Access("/dev/shm", unix.W_OK) == nil {
		return "/dev/shm"
	}
	return ""
}

// newConfig is for a server whose data does not exist yet, free of the durability that most tests do not need.
func newConfig(t *testing.T) (Config, <-chan string) {
	t.Helper()
	log, seen := newLog(t)
	return Config{
		DataDir: filepath.Join(tempDir(t), "postgres"), Log: log,
		Settings: map[string]string{"fsync": "off"},
	}, seen
}

// seededConfig is for a server that has run before.
func seededConfig(t *testing.T) (Config, <-chan string) {
	t.Helper()
	cfg, seen := newConfig(t)
	if seed.Do(makeSeed); seed.err != nil {
		t.Fatal(seed.err)
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(seed.dir, "postgres"), cfg.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return cfg, seen
}

func mustStart(t *testing.T, cfg Config) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func mustStop(t *testing.T, p *Postgres) {
	t.Helper()
	if err := p.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func connect(t *testing.T, p *Postgres) *pgconn.PgConn {
	t.Helper()
	cfg := must(pgconn.ParseConfig(p.DSN()))(t)
	cfg.DialFunc = p.DialFunc
	conn := must(pgconn.ConnectConfig(t.Context(), cfg))(t)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// ask runs sql on a connection of its own and returns the first column of the last row.
func ask(t *testing.T, p *Postgres, sql string) string {
	t.Helper()
	conn := connect(t, p)
	defer conn.Close(t.Context())
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	rows := results[len(results)-1].Rows
	if len(rows) == 0 {
		return ""
	}
	return string(rows[len(rows)-1][0])
}

// gone returns when a process that is not our child has ended.
func gone(t *testing.T, pidfd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 30_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			t.Fatalf("the process did not end: poll = %d, %v", n, err)
		}
		return
	}
}

func pidfd(t *testing.T, pid string) int {
	t.Helper()
	fd := must(unix.PidfdOpen(must(strconv.Atoi(pid))(t), 0))(t)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func wantFault(t *testing.T, err error, want *fault.Fault) *fault.Fault {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error = %v, want %s", err, want.Code)
	}
	f := fault.From(err)
	if f.Detail == "" || f.Hint == "" {
		t.Errorf("%s without a detail or a hint: %+v", f.Code, f)
	}
	return f
}

// must unwraps a result inside a test: must(f())(t).
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// nobody is an ordinary user, or nil when we are one already.
func nobody() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return credential(65534, 65534)
}

// giveTo makes dir the property of cred.
func giveTo(t *testing.T, dir string, cred *syscall.Credential) {
	t.Helper()
	if cred == nil {
		return
	}
	if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
		t.Fatal(err)
	}
}
