package devstack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"syscall"
	"time"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// steadyAfter is how long a server must have lived for its end to count as the first again.
	steadyAfter = 10 * time.Second

	quitGrace = 2 * time.Second // for SIGQUIT: the server makes its children exit and leaves at once
	killGrace = 5 * time.Second // for SIGKILL: the kernel's own time
)

// attempt is how a start went.
type attempt struct {
	child *child
	err   error
}

var errStopped = errors.New("devstack: stopped")

// supervise keeps a server running until Stop. It stays on one OS thread for as long as there may be a child,
// because the child's death signal hangs on that thread. It reports the first attempt to start on first.
func (p *Postgres) supervise(first chan<- attempt) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	defer p.release()

	c, err := p.launch()
	first <- attempt{c, err}
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		if err == nil {
			err = c.wait()
			if time.Since(c.started) > steadyAfter {
				backoff = firstBackoff
			}
		}
		if !p.mayRestart() {
			return
		}
		p.cfg.Log.LogAttrs(p.ctx, slog.LevelError, "postgres exited; restarting it",
			slog.Any("error", err), slog.Duration("after", backoff), slog.Any("last_lines", p.tail.last(5)))
		if !p.pause(backoff) {
			return
		}
		if err = p.endStrays(p.ctx); err == nil {
			if c, err = p.launch(); err == nil {
				p.cfg.Log.LogAttrs(p.ctx, slog.LevelInfo, "postgres restarted", slog.Int("pid", c.pid()))
			}
		}
	}
}

// launch starts the server, unless Stop came first.
func (p *Postgres) launch() (*child, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, errStopped
	}
	p.tail.reset()
	c, err := spawn(program{
		path: p.server.command("postgres"), args: p.arguments(), dir: p.dir, runAs: p.runAs,
		onOrphan: syscall.SIGINT,
	}, p.tail)
	if err != nil {
		return nil, err
	}
	p.running = c
	return c, nil
}

// mayRestart notes that nothing runs, and tells whether that should change.
func (p *Postgres) mayRestart() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = nil
	p.over = !p.serving || p.ctx.Err() != nil
	return !p.over
}

// pause returns false when Stop came.
func (p *Postgres) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// Stop shuts the server down and returns when it has ended: open transactions are rolled back, sessions closed, and
// a checkpoint written. A server that takes longer than StopGrace, or than ctx allows, is made to quit and recovers
// on its next start. Stop may be called again, and at any time.
func (p *Postgres) Stop(ctx context.Context) error {
	p.cancel()
	steps := []struct {
		signal syscall.Signal
		grace  time.Duration
	}{{syscall.SIGINT, p.cfg.StopGrace}, {syscall.SIGQUIT, quitGrace}, {syscall.SIGKILL, killGrace}}
	for _, s := range steps {
		p.signal(s.signal)
		if p.ended(ctx, s.grace) {
			return nil
		}
		// The caller's patience is for the orderly end only: whatever happens, no server stays behind.
		ctx = context.WithoutCancel(ctx)
		p.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "postgres did not stop in time", slog.String("signal", s.signal.String()))
	}
	return fmt.Errorf("devstack: postgres (pid %d) does not end", p.PID())
}

func (p *Postgres) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		_ = p.running.cmd.Process.Signal(s) // it may have ended already
	}
}

func (p *Postgres) ended(ctx context.Context, grace time.Duration) bool {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}
