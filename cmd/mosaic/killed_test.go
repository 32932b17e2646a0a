package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killedAmid is how many answers the one that is killed has given since it came up, at least: the kill hits a server
// that is busy with every client.
const killedAmid = 60

// recoveredWithin is how long clients may be without answers after a kill.
const recoveredWithin = 20 * time.Second

// TestNoAnswerIsWithoutItsRecordWhenAReplicaIsKilled: a client that has an answer has it because it is on record.
func TestNoAnswerIsWithoutItsRecordWhenAReplicaIsKilled(t *testing.T) {
	t.Parallel()
	a := newArena(t, 2)
	l := a.newLoad(t, 16)
	l.start(t.Context())
	kept := a.replicas[0].keepEvidence()
	kills := torture(3, 50)
	var slowest time.Duration
	for n := range kills {
		victim := n % len(a.replicas)
		to := l.targets[victim]
		before := to.answered.Load()
		l.until(t, time.Minute, "answers of the replica that is going to be killed", func() bool { return to.answered.Load() >= before+killedAmid })
		cut := to.cut.Load()
		g := a.replicas[victim]
		if err := g.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-g.exited
		l.until(t, recoveredWithin, "requests that the kill cut off", func() bool { return to.cut.Load() > cut })
		a.replicas[victim] = a.launch(fmt.Sprintf("r%d", victim)).serves()
		to.at(a.replicas[victim])
		before = to.answered.Load()
		slowest = max(slowest, l.until(t, recoveredWithin, "answers after a kill", func() bool { return to.answered.Load() > before }))
	}
	l.end()
	l.report(t, a, kills, slowest)
	a.replicas[0].verifies(kept, int64(len(l.delivered)))
}

// TestNoAnswerIsWithoutItsRecordWhenPostgresIsKilled: the server is killed with everything it has not flushed. What the
// clients are told meanwhile is that the gateway cannot answer.
func TestNoAnswerIsWithoutItsRecordWhenPostgresIsKilled(t *testing.T) {
	t.Parallel()
	a := newArena(t, 2)
	l := a.newLoad(t, 16)
	l.start(t.Context())
	kept := a.replicas[0].keepEvidence()
	kills := torture(3, 50)
	var slowest time.Duration
	for range kills {
		before := l.answers()
		l.until(t, time.Minute, "answers of every replica", func() bool { return l.more(before, killedAmid) })
		pid := a.pg.PID()
		noticed := l.unanswered()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		l.until(t, recoveredWithin, "requests that the kill left unanswered", func() bool { return l.unanswered() > noticed })
		l.until(t, recoveredWithin, "another server", func() bool { p := a.pg.PID(); return p != 0 && p != pid })
		before = l.answers()
		slowest = max(slowest, l.until(t, recoveredWithin, "answers of every replica after a kill", func() bool { return l.more(before, 0) }))
	}
	l.end()
	l.report(t, a, kills, slowest)
	a.replicas[0].verifies(kept, int64(len(l.delivered)))
}

// answers is how many answers each replica has given.
func (l *load) answers() []int64 {
	var list []int64
	for _, to := range l.targets {
		list = append(list, to.answered.Load())
	}
	return list
}

// more reports whether every replica has given more answers than so many since then.
func (l *load) more(since []int64, n int64) bool {
	for i, now := range l.answers() {
		if now <= since[i]+n {
			return false
		}
	}
	return true
}

// unanswered counts the requests that were told that nothing can be answered, or were told nothing.
func (l *load) unanswered() (n int64) {
	for _, to := range l.targets {
		n += to.unavailable.Load() + to.cut.Load()
	}
	return n
}

func (l *load) report(t *testing.T, a *arena, kills int, slowest time.Duration) {
	t.Helper()
	for _, complaint := range l.wrong[:min(10, len(l.wrong))] {
		t.Error(complaint)
	}
	compared := a.onRecord(t, l.delivered)
	byStatus := map[int]int{}
	for _, status := range l.delivered {
		byStatus[status]++
	}
	var unavailable, refused, cut int64
	for _, to := range l.targets {
		unavailable, refused, cut = unavailable+to.unavailable.Load(), refused+to.refused.Load(), cut+to.cut.Load()
	}
	t.Logf("%d kills, %d answers compared with the audit log: %v; %d requests told unavailable, %d cut off, %d connections refused; answered again within %s",
		kills, compared, byStatus, unavailable, cut, refused, slowest)
	if compared < kills*killedAmid || byStatus[200] == 0 || byStatus[403] == 0 || byStatus[404] == 0 {
		t.Error("too few answers to show anything")
	}
}

// evidence is what somebody keeps elsewhere, to find later whether the audit log is still the one they knew.
type evidence struct{ key, checkpoint string }

func (g *gatewayProcess) keepEvidence() evidence {
	g.t.Helper()
	note := filepath.Join(g.t.TempDir(), "checkpoint")
	if err := os.WriteFile(note, []byte(g.mosaic("federation", "audit", "checkpoint")), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return evidence{strings.TrimSpace(g.mosaic("federation", "audit", "key")), note}
}

// verifies recomputes the whole log: the logs of those who were killed end where they were, and nothing is missing.
func (g *gatewayProcess) verifies(e evidence, rows int64) {
	g.t.Helper()
	var report struct {
		OK                 bool
		Rows, Leaves, Logs int64
		Problems           []any
	}
	g.decode(&report, "federation", "audit", "verify", "--key", e.key, "--checkpoint", e.checkpoint)
	if !report.OK || report.Rows < rows || len(report.Problems) > 0 {
		g.t.Errorf("%+v, want at least %d rows and no problem", report, rows)
	}
	g.t.Logf("verified: %d rows in %d logs", report.Rows, report.Logs)
}
