package audit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// ErrUnavailable is the answer to every request whose event could not be made durable: what is not on record
// is not answered.
var ErrUnavailable = &fault.Fault{
	Kind:       fault.Unavailable,
	Code:       "audit_unavailable",
	Detail:     "the audit log cannot be written, so nothing is answered",
	Hint:       "try again; the gateway's /health says which part is away",
	RetryAfter: 2 * time.Second,
}

// What a Sink says of a batch that it did not store for certain.
var (
	ErrRefused = errors.New("audit batch refused") // the store read it and took nothing of it
	ErrInDoubt = errors.New("audit batch in doubt")
)

// Sink stores batches.
type Sink interface {
	// Append returns nil when the whole batch is durable. An error that is ErrInDoubt leaves open whether it is; after
	// every other error nothing of it is stored. ErrRefused is the store's word on what it was given.
	Append(ctx context.Context, b *Batch) error
	// Stored reports whether all of the events are durable.
	Stored(ctx context.Context, events []Event) (bool, error)
}

// The bounds of the writer. A batch is what one COPY carries; the queue is how many requests may wait for it
// before the next one is turned away instead of queued.
const (
	maxBatch    = 512
	maxWaiting  = 4096
	appendLimit = 5 * time.Second
)

// Writer makes events durable in groups, one after the other: while a batch is being committed, the events that arrive
// meanwhile gather for the next. One commit serves all requests that wait for it. It writes a log of its own.
type Writer struct {
	sink  Sink
	log   *slog.Logger
	now   func() time.Time
	queue chan waiting

	turn chan struct{} // whoever has put something in may commit; who ends the writer leaves it there
	to   *Log          // the log of whose turn it is

	// Observe is told of every commit: how many events it was to make durable, and why it did not. It is set before
	// Run; nil: nobody measures.
	Observe func(events int, took time.Duration, err error)

	crowd crowd

	mu     sync.RWMutex // guards closed against a send on the closed queue
	closed bool
}

type waiting struct {
	event  Event
	result chan error
}

// NewWriter returns a Writer whose Run must be called for Record to return to whoever is not alone.
func NewWriter(sink Sink, log *slog.Logger, now func() time.Time) *Writer {
	return &Writer{
		sink: sink, log: log, now: now,
		queue: make(chan waiting, maxWaiting),
		turn:  make(chan struct{}, 1), to: NewLog(),
	}
}

// Coming tells of n more requests under way, which are going to record something, or of n fewer.
func (w *Writer) Coming(n int) { w.crowd.come(n) }

// Record returns when e is committed. ErrUnavailable means it is not known to be, and the answer it describes
// must not leave.
func (w *Writer) Record(ctx context.Context, e Event) error {
	settle(&e, w.now)
	if done, err := w.recordAlone(e); done {
		return err
	}
	item := waiting{event: e, result: make(chan error, 1)}
	if err := w.enqueue(item); err != nil {
		return err
	}
	select {
	case err := <-item.result:
		return err
	case <-ctx.Done():
		return ErrUnavailable.Because(ctx.Err())
	}
}

// Waiting tells how many events wait for a place in a commit.
func (w *Writer) Waiting() int { return len(w.queue) }

func (w *Writer) enqueue(item waiting) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return ErrUnavailable.Because(errors.New("audit writer is closed"))
	}
	select {
	case w.queue <- item:
		return nil
	default:
		return ErrUnavailable.Because(errors.New("audit queue is full"))
	}
}

// Run commits batches until ctx ends, then refuses new events, commits what is queued and returns nil.
func (w *Writer) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.closed = true
		close(w.queue)
	})
	defer stop()

	w.commitQueued()
	w.turn <- struct{}{} // whoever records alone has ended then, and nobody begins
	return nil
}
