package devstack

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endStrays ends servers, and children of servers, that an earlier process left on our data directory. Nobody else
// can own one: we hold the directory's lock. Then it removes the pid files that PostgreSQL would otherwise believe:
// it takes any process of the same user that has the old number for its predecessor.
func (p *Postgres) endStrays(ctx context.Context) error {
	pidFile := filepath.Join(p.cfg.DataDir, pidName)
	if !exists(pidFile) {
		return nil // the last server ended in order
	}
	strays := p.strays()
	if len(strays) > 0 {
		p.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "an earlier postgres still runs; ending it", slog.Any("pids", strays))
	}
	for _, step := range []struct {
		signal syscall.Signal
		to     []int
		grace  time.Duration
	}{
		{syscall.SIGINT, postmasterOf(pidFile, strays), 2 * p.cfg.StopGrace},
		{syscall.SIGQUIT, strays, quitGrace},
		{syscall.SIGKILL, strays, killGrace},
	} {
		if len(strays) == 0 {
			break
		}
		if len(step.to) == 0 {
			continue
		}
		for _, pid := range step.to {
			p.signalStray(pid, step.signal)
		}
		var err error
		if strays, err = p.straysAfter(ctx, step.grace); err != nil {
			return err
		}
	}
	if len(strays) > 0 {
		return ErrPostgresInUse.With("an earlier PostgreSQL server on %s does not end: processes %v", p.cfg.DataDir, strays)
	}
	for _, name := range []string{pidName, socketName + ".lock"} {
		if err := os.Remove(filepath.Join(p.cfg.DataDir, name)); err != nil && !os.IsNotExist(err) {
			return dirFault(p.cfg.DataDir, err)
		}
	}
	return nil
}

// postmasterOf is the one stray that ends the others in order, if it is still there. Without it the others can
// only quit.
func postmasterOf(pidFile string, strays []int) []int {
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		return nil
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || !slices.Contains(strays, pid) {
		return nil
	}
	return []int{pid}
}

// straysAfter waits until there are none, or grace is over, and returns the rest.
func (p *Postgres) straysAfter(ctx context.Context, grace time.Duration) ([]int, error) {
	timeout := time.NewTimer(grace)
	defer timeout.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		strays := p.strays()
		if len(strays) == 0 {
			return nil, nil
		}
		select {
		case <-timeout.C:
			return strays, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("devstack: waiting for an earlier postgres: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// signalStray looks again after it has a handle on the process, because a number may be reused in between.
func (p *Postgres) signalStray(pid int, s syscall.Signal) {
	proc, err := os.FindProcess(pid) // a pidfd
	if err != nil {
		return
	}
	defer func() { _ = proc.Release() }()
	if slices.Contains(p.strays(), pid) {
		_ = proc.Signal(s)
	}
}

// strays are the processes called postgres whose working directory is our data directory. A server never leaves it.
func (p *Postgres) strays() []int {
	var found []int
	p.asServer(func() {
		var ours unix.Stat_t
		if err := unix.Fstat(int(p.dir.Fd()), &ours); err != nil {
			return
		}
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || !strings.Contains(processName(pid), "postgres") {
				continue
			}
			var cwd unix.Stat_t
			if unix.Stat(fmt.Sprintf("/proc/%d/cwd", pid), &cwd) == nil && cwd.Dev == ours.Dev && cwd.Ino == ours.Ino {
				found = append(found, pid)
			}
		}
	})
	return found
}

// asServer runs f with the server's user as file system identity. Root without CAP_SYS_PTRACE, which is root in a
// container, may not look at the working directory of another user's process, but that user may.
func (p *Postgres) asServer(f func()) {
	if p.runAs == nil {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and the identity with the thread
		_ = unix.Setfsgid(int(p.runAs.Gid))
		_ = unix.Setfsuid(int(p.runAs.Uid))
		f()
	}()
	<-done
}

func processName(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
