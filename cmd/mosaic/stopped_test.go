package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// TestStoppingAReplicaFailsNoRequest: every request on a connection that was let in is answered, and the last answer on
// an HTTP/1.1 connection says so. Requests that wait for the database when the signal comes are among them.
func TestStoppingAReplicaFailsNoRequest(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1)
	const clients = 12
	l := a.newLoad(t, clients)
	for i, c := range l.clients {
		c.http2 = i%3 == 0
	}
	l.start(t.Context())
	to, g := l.targets[0], a.replicas[0]
	l.until(t, time.Minute, "a load", func() bool { return to.answered.Load() > 20*clients })

	lock, err := a.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it is over by then
	if _, err := lock.Exec(t.Context(), `LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	l.until(t, 10*time.Second, "requests that wait", func() bool {
		var waiting int
		if err := a.db.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE relation = 'tasks'::regclass AND NOT granted`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		return waiting >= clients/2
	})
	stopped := time.Now()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.until(t, 5*time.Second, "a probe that is told not ready", func() bool {
		resp, err := http.Get(g.URL + "/health/ready") //nolint:noctx // on loopback
		if err != nil {
			t.Fatalf("a probe is not answered while requests are: %v", err)
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	before := to.answered.Load()
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-g.exited
	took := time.Since(stopped)
	l.end()
	if g.err != nil {
		t.Errorf("exit: %v\n%s", g.err, g.logs)
	}
	if took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, complaint := range l.wrong {
		t.Error(complaint)
	}
	kept := int64(0)
	for _, c := range l.clients {
		if !c.http2 {
			kept++
		}
	}
	if cut, closing := to.cut.Load(), to.closing.Load(); cut > 0 || closing != kept {
		t.Errorf("%d requests were cut off, want 0; %d connections were told that they end, want %d", cut, closing, kept)
	}
	if after := to.answered.Load() - before; after < clients/2 {
		t.Errorf("%d answers after the signal: the replica was not busy", after)
	}
	if to.refused.Load() == 0 {
		t.Error("no connection was refused after the signal")
	}
	t.Logf("%d answers, %d of them after the signal; gone %s after it", a.onRecord(t, l.delivered), to.answered.Load()-before, took)
}

// TestAReplicaWithoutItsDatabaseLetsNobodyIn: its federation listener refuses connections, so that whoever asks goes to
// another replica, and takes them again at the same address when the database is back. Who is connected is told.
func TestAReplicaWithoutItsDatabaseLetsNobodyIn(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1)
	l := a.newLoad(t, 4)
	l.start(t.Context())
	to, g := l.targets[0], a.replicas[0]
	l.until(t, time.Minute, "answers", func() bool { return to.answered.Load() > 20 })
	a.stopPostgres()
	const noticedWithin = 10 * time.Second // spec 11
	l.until(t, noticedWithin, "a refused connection", func() bool {
		conn, err := net.Dial("tcp", *to.addr.Load()) //nolint:noctx // on loopback
		if err == nil {
			_ = conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	for path, want := range map[string]int{"/health/ready": http.StatusServiceUnavailable, "/health": http.StatusServiceUnavailable, "/health/live": http.StatusOK} {
		resp, err := http.Get(g.URL + path) //nolint:noctx // on loopback
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	if to.unavailable.Load() == 0 {
		t.Error("those who are connected are not told that the gateway cannot answer")
	}
	a.startPostgres()
	before := to.answered.Load()
	l.until(t, recoveredWithin, "answers after the database is back", func() bool { return to.answered.Load() > before })
	l.until(t, recoveredWithin, "a new connection", func() bool {
		c := &loadClient{load: l, target: to, caller: l.clients[0].caller}
		conn, err := c.dial(t.Context())
		if err == nil {
			conn.close()
		}
		return err == nil
	})
	l.end()
	for _, complaint := range l.wrong {
		t.Error(complaint)
	}
	a.onRecord(t, l.delivered)
}
