// Package jobs runs periodic work once in the whole cluster, on River: replicas elect a leader through PostgreSQL,
// the leader enqueues what is due, and any replica may do it.
package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/mosaicstack/gateway/internal/upkeep"
)

// The bounds of the work on one replica.
const (
	maxWorkers  = 3 // embeddings may take one for long
	taskTimeout = time.Minute
	keepDone    = time.Hour // finished jobs are history, not data
	stopWithin  = 3 * time.Second
	wakeAgain   = 500 * time.Millisecond // while the task that is asked for is running
)

// taskArgs names a task; River stores it as the job's arguments.
type taskArgs struct {
	Task string `json:"task"`
}

// Kind implements river.JobArgs.
func (taskArgs) Kind() string { return "upkeep" }

// InsertOpts implements river.JobArgsWithInsertOpts: a task that is still waiting or running is not enqueued
// again, and one that failed is not retried but due again with its next period.
func (taskArgs) InsertOpts() river.InsertOpts {
	return river.InsertOpts{MaxAttempts: 1, UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateRetryable, rivertype.JobStateScheduled,
	}}}
}

type worker struct {
	river.WorkerDefaults[taskArgs]
	tasks map[string]upkeep.Task
}

// Work implements river.Worker.
func (w *worker) Work(ctx context.Context, job *river.Job[taskArgs]) error {
	task, ok := w.tasks[job.Args.Task]
	if !ok {
		return nil // enqueued by a newer replica: it will do it
	}
	return task.Run(ctx)
}

// Timeout implements river.Worker.
func (w *worker) Timeout(*river.Job[taskArgs]) time.Duration { return taskTimeout }

// Runner runs tasks on one replica.
type Runner struct {
	client *river.Client[pgx.Tx]
	woken  map[string]chan struct{}
	log    *slog.Logger
}

// New returns a Runner of tasks on a pool.
func New(pool *pgxpool.Pool, tasks []upkeep.Task, log *slog.Logger) (*Runner, error) {
	w := &worker{tasks: make(map[string]upkeep.Task, len(tasks))}
	periodic := make([]*river.PeriodicJob, 0, len(tasks))
	for _, t := range tasks {
		w.tasks[t.Name] = t
		periodic = append(periodic, river.NewPeriodicJob(river.PeriodicInterval(t.Every),
			func() (river.JobArgs, *river.InsertOpts) { return taskArgs{t.Name}, nil },
			&river.PeriodicJobOpts{ID: t.Name, RunOnStart: true}))
	}
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, w); err != nil {
		return nil, fmt.Errorf("add worker: %w", err)
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: maxWorkers}}, Workers: workers, PeriodicJobs: periodic,
		CompletedJobRetentionPeriod: keepDone, DiscardedJobRetentionPeriod: keepDone, CancelledJobRetentionPeriod: keepDone,
		ErrorHandler: failures{log}, Logger: slog.New(warnings{log.Handler()}),
	})
	if err != nil {
		return nil, fmt.Errorf("make job client: %w", err)
	}
	r := &Runner{client: client, woken: make(map[string]chan struct{}, len(tasks)), log: log}
	for _, t := range tasks {
		r.woken[t.Name] = make(chan struct{}, 1)
	}
	return r, nil
}

// Wake asks for a task now rather than with its next period. It never waits, and may be called often: one run serves
// all who asked before it began.
func (r *Runner) Wake(task string) {
	select {
	case r.woken[task] <- struct{}{}:
	default: // asked for already, or not a task of this replica
	}
}

// enqueue puts a task that was asked for into the queue. One that is running may have passed what it is asked for,
// so it is enqueued as soon as it has ended.
func (r *Runner) enqueue(ctx context.Context, task string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.woken[task]:
		}
		for {
			done, err := r.client.Insert(ctx, taskArgs{task}, nil)
			if err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "task not enqueued: it runs with its next period", "task", task, "error", err)
			}
			if err != nil || !done.UniqueSkippedAsDuplicate {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(wakeAgain):
			}
		}
	}
}

// Run works until ctx ends. Work under way gets a moment to finish; what is cut off is due again.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start jobs: %w", err)
	}
	var asked sync.WaitGroup
	for task := range r.woken {
		asked.Go(func() { r.enqueue(ctx, task) })
	}
	<-ctx.Done()
	asked.Wait()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	if err := r.client.Stop(stop); err != nil {
		now, cancelNow := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancelNow()
		return r.client.StopAndCancel(now)
	}
	return nil
}

// failures logs what River would only store.
type failures struct{ log *slog.Logger }

// HandleError implements river.ErrorHandler.
func (f failures) HandleError(ctx context.Context, job *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	f.log.WarnContext(ctx, "upkeep failed", "args", string(job.EncodedArgs), "error", err)
	return nil
}

// HandlePanic implements river.ErrorHandler.
func (f failures) HandlePanic(ctx context.Context, job *rivertype.JobRow, panicVal any, trace string) *river.ErrorHandlerResult {
	f.log.ErrorContext(ctx, "upkeep panic", "args", string(job.EncodedArgs), "panic", panicVal, "stack", trace)
	return nil
}

// warnings keeps the library's own news out of the log.
type warnings struct{ slog.Handler }

// Enabled implements slog.Handler.
func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}
