package jobs_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/jobs"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
})

func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }

const patience = 60 * time.Second

// replica runs tasks on a pool of its own, as another gateway would.
type replica struct {
	t    *testing.T
	stop context.CancelFunc
	done chan error
}

func newReplica(t *testing.T, conf *pgxpool.Config, tasks ...upkeep.Task) *replica {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(t.Context(), conf.Copy())
	if err != nil {
		t.Fatal(err)
	}
	runner, err := jobs.New(pool, tasks, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &replica{t: t, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- runner.Run(ctx) }()
	t.Cleanup(func() {
		r.end()
		pool.Close()
	})
	return r
}

// end stops the replica and waits until it has stopped.
func (r *replica) end() {
	r.stop()
	if err := <-r.done; err != nil {
		r.t.Errorf("run: %v", err)
	}
	r.done <- nil
}

func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not happen within %s", what, patience)
		panic("unreachable")
	}
}

func TestOneReplicaDoesItAndAnotherTakesOver(t *testing.T) {
	t.Parallel()
	conf := pg.Database(t)
	ran := make(chan string, 16)
	task := func(who string) upkeep.Task {
		return upkeep.Task{Name: "count", Every: time.Hour, Run: func(context.Context) error {
			ran <- who
			return nil
		}}
	}
	a := newReplica(t, conf, task("a"))
	within(t, ran, "the first run")
	b := newReplica(t, conf, task("b"))
	// The leader goes, and the other one finds the task due at its own start as leader.
	a.end()
	if who := within(t, ran, "the run of the next leader"); who != "b" {
		t.Errorf("%s ran it", who)
	}
	b.end()
	if n := len(ran); n != 0 {
		t.Errorf("%d runs too many", n)
	}
}

func TestATaskThatIsRunningIsNotStartedAgain(t *testing.T) {
	t.Parallel()
	conf := pg.Database(t)
	var at, most atomic.Int32
	started, release := make(chan struct{}, 16), make(chan struct{})
	slow := upkeep.Task{Name: "slow", Every: time.Second, Run: func(ctx context.Context) error {
		n := at.Add(1)
		defer at.Add(-1)
		if n > most.Load() {
			most.Store(n)
		}
		started <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	}}
	beats := make(chan struct{}, 16)
	beat := upkeep.Task{Name: "beat", Every: time.Second, Run: func(context.Context) error {
		beats <- struct{}{}
		return nil
	}}
	newReplica(t, conf, slow, beat)
	newReplica(t, conf, slow, beat)
	within(t, started, "the slow task")
	for range 4 { // seconds pass, in which it is due again and again
		within(t, beats, "the next beat")
	}
	close(release)
	if most.Load() != 1 {
		t.Errorf("%d at once", most.Load())
	}
}

func TestATaskThatFailsIsDueAgain(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	done := make(chan struct{})
	newReplica(t, pg.Database(t), upkeep.Task{Name: "flaky", Every: time.Second, Run: func(context.Context) error {
		switch n.Add(1) {
		case 1:
			return errors.New("not now")
		case 2:
			panic("not now either")
		case 3:
			close(done)
		}
		return nil
	}})
	within(t, done, "the third try")
}

// TestATaskThatIsAskedForRunsNow: and once more when it was asked for while it ran, since it may have passed what it
// is asked for.
func TestATaskThatIsAskedForRunsNow(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.NewWithConfig(t.Context(), pg.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	ran, release := make(chan struct{}, 16), make(chan struct{})
	task := upkeep.Task{Name: "asked", Every: time.Hour, Run: func(ctx context.Context) error {
		ran <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil
	}}
	runner, err := jobs.New(pool, []upkeep.Task{task}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	within(t, ran, "the run at the start")
	for range 10 {
		runner.Wake("asked")
		runner.Wake("unknown") // a task of another release
	}
	release <- struct{}{}
	within(t, ran, "the run that was asked for")
	release <- struct{}{}
	runner.Wake("asked")
	within(t, ran, "the run that was asked for when nothing ran")
	close(release)
	cancel()
	if err := within(t, done, "the end"); err != nil {
		t.Error(err)
	}
}
