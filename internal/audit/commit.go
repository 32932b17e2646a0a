package audit

import (
	"context"
	"errors"
	"time"
)

// recordAlone commits an event where it is recorded, if nothing else is under way: there is nobody to share the commit
// with, and a queue would only pass it on. Done is false when it must be queued.
func (w *Writer) recordAlone(e Event) (done bool, err error) {
	if w.crowd.now.Load() > 1 || len(w.queue) > 0 {
		return false, nil
	}
	select {
	case w.turn <- struct{}{}:
	default:
		return false, nil
	}
	defer func() {
		if !done { // a panic ends a request and not the process, and it is not known whether the log grew
			w.to = NewLog()
		}
		<-w.turn
	}()
	ctx, cancel := context.WithTimeout(context.Background(), appendLimit)
	defer cancel()
	events := []Event{e}
	if err = w.store(ctx, events); err != nil {
		err = w.failed(events, err)
	}
	return true, err
}

// commitQueued commits batch after batch, until the queue is closed and empty.
func (w *Writer) commitQueued() {
	batch := make([]waiting, 0, maxBatch)
	for first := range w.queue {
		w.turn <- struct{}{}
		batch = w.gather(append(batch[:0], first))
		events := make([]Event, len(batch))
		for i, item := range batch {
			events[i] = item.event
		}
		// Not the requests' contexts: a client that hangs up must not fail the batch of the others.
		ctx, cancel := context.WithTimeout(context.Background(), appendLimit)
		w.commit(ctx, batch, events)
		cancel()
		<-w.turn
	}
}

// gather takes what is queued. In a crowd it waits for three eighths of it, because what a commit costs depends little on
// how many rows it has; while one part is being committed the next one gathers. It waits no longer than so many requests
// take anyway, and a request that is alone not at all.
func (w *Writer) gather(batch []waiting) []waiting {
	enough := min(w.crowd.size(w.now())*3/8, maxBatch)
	var limit <-chan time.Time
	for len(batch) < maxBatch {
		select {
		case item, open := <-w.queue:
			if !open {
				return batch
			}
			batch = append(batch, item)
			continue
		default:
		}
		if len(batch) >= enough {
			return batch
		}
		if limit == nil {
			limit = time.After(min(time.Duration(enough)*perRequest, gatherLimit))
		}
		select {
		case item, open := <-w.queue:
			if !open {
				return batch
			}
			batch = append(batch, item)
		case <-limit:
			return batch
		}
	}
	return batch
}

// commit stores events and tells those who wait. A refused batch is halved until the row that was refused is alone:
// one bad row must not deny the answers of its neighbours.
func (w *Writer) commit(ctx context.Context, batch []waiting, events []Event) {
	err := w.store(ctx, events)
	if errors.Is(err, ErrRefused) && len(batch) > 1 {
		half := len(batch) / 2
		w.commit(ctx, batch[:half], events[:half])
		w.commit(ctx, batch[half:], events[half:])
		return
	}
	if err != nil {
		err = w.failed(events, err)
	}
	for _, item := range batch {
		item.result <- err
	}
}

// failed is what those are told whose events are not durable for all that is known.
func (w *Writer) failed(events []Event, err error) error {
	w.log.Error("audit batch failed", "events", len(events), "request_id", events[0].RequestID, "verb", events[0].Verb, "error", err)
	return ErrUnavailable.Because(err)
}

func (w *Writer) store(ctx context.Context, events []Event) error {
	started := time.Now()
	err := w.append(ctx, events)
	if w.Observe != nil {
		w.Observe(len(events), time.Since(started), err)
	}
	return err
}

// append adds to the writer's log. When it is not known whether the log grew, the writer goes on with a fresh one, and
// sends the same rows once more: their ids make the store refuse them if they are there, so that they are there once.
func (w *Writer) append(ctx context.Context, events []Event) error {
	b := w.to.Next(events)
	err := w.sink.Append(ctx, b)
	if err == nil {
		w.to.Stored(b)
		return nil
	}
	if !errors.Is(err, ErrInDoubt) {
		return err
	}
	w.log.Warn("audit commit in doubt", "log_id", w.to.ID, "events", len(events), "error", err)
	w.to = NewLog()
	again := w.to.Next(events)
	switch err := w.sink.Append(ctx, again); {
	case err == nil:
		w.to.Stored(again)
		return nil
	case errors.Is(err, ErrRefused):
		stored, lookup := w.sink.Stored(ctx, events)
		if stored {
			return nil
		}
		if lookup != nil {
			return lookup
		}
		return err
	case errors.Is(err, ErrInDoubt):
		w.to = NewLog()
		return err
	default:
		return err
	}
}
