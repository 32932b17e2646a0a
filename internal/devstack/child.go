package devstack

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// dataFD is the descriptor under which the server's programs find their data directory, and dataPath its name.
const (
	dataFD   = 3
	dataPath = "/proc/self/fd/3"
)

// child is one running program of the server.
type child struct {
	cmd     *exec.Cmd
	started time.Time
	out     *os.File // read side of its stdout and stderr
	drained chan struct{}
	exited  chan struct{} // closed when it has ended and all it said is in the tail
	err     error         // how it ended; read after exited
}

// program is what to start, and on which data.
type program struct {
	path     string
	args     []string
	dir      *os.File            // the data directory, handed over as dataFD
	runAs    *syscall.Credential // nil for ourselves
	onOrphan syscall.Signal      // what the kernel sends it when we die
}

// spawn starts p. The caller must keep its goroutine on one OS thread (onOneThread) until wait has returned: the
// kernel takes the end of the thread for the death of the parent.
func spawn(p program, tail *logTail) (*child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("devstack: pipe: %w", err)
	}
	defer w.Close()
	cmd := exec.Command(p.path, p.args...)
	cmd.Dir = "/" // its own directory may be out of its user's reach
	cmd.Env = cleanEnv()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = []*os.File{p.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// A session of its own: Ctrl-C is for the gateway, which stops the server after it has drained.
		Setsid:     true,
		Pdeathsig:  p.onOrphan,
		Credential: p.runAs,
	}
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, fmt.Errorf("devstack: %w", err)
	}
	c := &child{
		cmd: cmd, started: time.Now(), out: r,
		drained: make(chan struct{}), exited: make(chan struct{}),
	}
	go func() {
		defer close(c.drained)
		tail.read(r)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// wait returns when the program has ended, with its exit status as an error.
func (c *child) wait() error {
	c.err = c.cmd.Wait()
	// Its children hold the pipe too. They end soon after it; those that do not are found by endStrays.
	_ = c.out.SetReadDeadline(time.Now().Add(time.Second))
	<-c.drained
	_ = c.out.Close()
	close(c.exited)
	return c.err
}

// onOneThread runs f on a goroutine that stays on one OS thread.
func onOneThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		result <- f()
	}()
	return <-result
}

// cleanEnv is all that the server's programs see of our environment: a PGOPTIONS or LC_ALL of the person at the
// terminal must not decide how the data is written. With TZ set, initdb does not search all time zones for ours.
func cleanEnv() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
}
