package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"testing"
	"time"
)

// The gateway, the handler it is compared with and the load each have a process of their own, so that each has its
// own collector, its own scheduler and its own name in top. All of them are this test binary, called with a role.
const (
	roleName    = "BENCH_ROLE"
	configName  = "BENCH_CONFIG"
	profileName = "BENCH_PROFILE" // a directory: each process leaves its CPU profile there
	dirName     = "BENCH_DIR"     // where the databases are; by default on the first disk that can be written to
)

var roles = map[string]func(ctx context.Context, config []byte) error{
	"gateway": gatewayRole,
	"naive":   naiveRole,
	"load":    loadRole,
	"asked":   gatewayRole, // the gateway that another one asks
	"asker":   askerRole,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleName); role != "" {
		os.Exit(play(role))
	}
	os.Exit(pg.Main(m))
}

// play is a child process: it ends with SIGTERM or with its parent.
func play(role string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if dir := os.Getenv(profileName); dir != "" {
		f, err := os.Create(filepath.Join(dir, role+".cpu"))
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer pprof.StopCPUProfile()
	}
	if err := roles[role](ctx, []byte(os.Getenv(configName))); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		return 1
	}
	return 0
}

// child is a process that has said that it is ready.
type child struct {
	pid int
	in  io.WriteCloser
	out *bufio.Reader
}

// start runs a role until the benchmark ends. What it writes to stderr goes to a file, as a service's log does.
func start(b *testing.B, role string, config any) *child {
	b.Helper()
	doc, err := json.Marshal(config)
	if err != nil {
		b.Fatal(err)
	}
	logs, err := os.Create(filepath.Join(b.TempDir(), role+".log"))
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleName+"="+role, configName+"="+string(doc))
	cmd.Stderr = logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		stuck := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		err := cmd.Wait()
		if text, _ := os.ReadFile(logs.Name()); err != nil || b.Failed() {
			b.Logf("%s: %v\n%s", role, err, tail(text))
		}
		_ = logs.Close()
	})
	return &child{pid: cmd.Process.Pid, in: in, out: bufio.NewReaderSize(out, 1<<20)}
}

// tail is the last of a log.
func tail(text []byte) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], nil)
}

// hear reads the child's next line.
func (c *child) hear(b *testing.B, into any) {
	b.Helper()
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		b.Fatalf("a process of the benchmark has ended: %v", err)
	}
	if err := json.Unmarshal(line, into); err != nil {
		b.Fatalf("%v in %q", err, line)
	}
}

// ask sends a line and reads the answer.
func (c *child) ask(b *testing.B, question, answer any) {
	b.Helper()
	if err := json.NewEncoder(c.in).Encode(question); err != nil {
		b.Fatal(err)
	}
	c.hear(b, answer)
}

// say is the child's side of hear.
func say(doc any) error { return json.NewEncoder(os.Stdout).Encode(doc) }

var errBench = errors.New("benchmark")
