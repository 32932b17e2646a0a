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

// The bounds of the writer. A batch is what one COPY carries; the queue is how many requests may wait for it
// before the next one is turned away instead of queued.
const (
	maxBatch    = 512
	maxWaiting  = 4096
	appendLimit = 5 * time.Second
)

// Writer makes events durable in groups: while one batch is being committed, the events that arrive meanwhile
// gather for the next. One commit serves all requests that wait for it, and nobody waits for more than two.
type Writer struct {
	sink  Sink
	log   *slog.Logger
	now   func() time.Time
	queue chan waiting

	mu     sync.RWMutex // guards closed against a send on the closed queue
	closed bool
}

type waiting struct {
	event  Event
	result chan error
}

// NewWriter returns a Writer whose Run must be called for Record to return.
func NewWriter(sink Sink, log *slog.Logger, now func() time.Time) *Writer {
	return &Writer{
		sink: sink, log: log, now: now,
		queue: make(chan waiting, maxWaiting),
	}
}

// Record returns when e is committed. ErrUnavailable means it is not known to be, and the answer it describes
// must not leave.
func (w *Writer) Record(ctx context.Context, e Event) error {
	if e.CreatedAt.IsZero() {
		e.CreatedAt = w.now()
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

	batch := make([]waiting, 0, maxBatch)
	events := make([]Event, 0, maxBatch)
	for first := range w.queue {
		batch = append(batch[:0], first)
		batch = w.gather(batch)
		events = events[:0]
		for _, item := range batch {
			events = append(events, item.event)
		}
		w.commit(batch, events)
	}
	return nil
}

// gather takes what is queued already, without waiting for more.
func (w *Writer) gather(batch []waiting) []waiting {
	for len(batch) < maxBatch {
		select {
		case item, open := <-w.queue:
			if !open {
				return batch
			}
			batch = append(batch, item)
		default:
			return batch
		}
	}
	return batch
}

// commit stores a batch. If the whole batch is refused, each event is tried alone: one bad row must not deny
// the answers of its neighbours.
func (w *Writer) commit(batch []waiting, events []Event) {
	// Not the requests' contexts: a client that hangs up must not fail the batch of the others.
	ctx, cancel := context.WithTimeout(context.Background(), appendLimit)
	defer cancel()
	err := w.sink.Append(ctx, events)
	if err == nil {
		for _, item := range batch {
			item.result <- nil
		}
		return
	}
	if len(batch) > 1 && !errors.Is(err, ErrUnavailable) {
		for i, item := range batch {
			item.result <- w.alone(ctx, events[i:i+1])
		}
		return
	}
	w.log.Error("audit batch failed", "events", len(batch), "error", err)
	for _, item := range batch {
		item.result <- ErrUnavailable.Because(err)
	}
}

func (w *Writer) alone(ctx context.Context, event []Event) error {
	if err := w.sink.Append(ctx, event); err != nil {
		w.log.Error("audit event failed", "request_id", event[0].RequestID, "verb", event[0].Verb, "error", err)
		return ErrUnavailable.Because(err)
	}
	return nil
}
