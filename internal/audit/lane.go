package audit

import (
	"context"
	"errors"
	"time"
)

// lane commits one batch at a time, to a log that nobody else writes.
type lane struct {
	*Writer
	to *Log
}

func (l *lane) run() {
	batch := make([]waiting, 0, maxBatch)
	for first := range l.queue {
		batch = l.gather(append(batch[:0], first))
		events := make([]Event, len(batch))
		for i, item := range batch {
			events[i] = item.event
		}
		// Not the requests' contexts: a client that hangs up must not fail the batch of the others.
		ctx, cancel := context.WithTimeout(context.Background(), appendLimit)
		l.busy.Add(1)
		l.commit(ctx, batch, events)
		l.busy.Add(-1)
		cancel()
	}
}

// gather takes what is queued. In a crowd it waits for half of it, because what a commit costs depends little on how
// many rows it has; while one half is being committed the other one gathers. It waits no longer than so many requests
// take anyway, and a request that is alone not at all.
func (l *lane) gather(batch []waiting) []waiting {
	half := min(l.crowd.size(l.now())/2, maxBatch)
	var limit <-chan time.Time
	for len(batch) < maxBatch {
		select {
		case item, open := <-l.queue:
			if !open {
				return batch
			}
			batch = append(batch, item)
			continue
		default:
		}
		if len(batch) >= half {
			return batch
		}
		if limit == nil {
			limit = time.After(min(time.Duration(half)*perRequest, gatherLimit))
		}
		select {
		case item, open := <-l.queue:
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
func (l *lane) commit(ctx context.Context, batch []waiting, events []Event) {
	started := time.Now()
	err := l.store(ctx, events)
	if l.Observe != nil {
		l.Observe(len(events), time.Since(started), err)
	}
	if errors.Is(err, ErrRefused) && len(batch) > 1 {
		half := len(batch) / 2
		l.commit(ctx, batch[:half], events[:half])
		l.commit(ctx, batch[half:], events[half:])
		return
	}
	if err != nil {
		l.log.Error("audit batch failed", "events", len(batch), "request_id", events[0].RequestID, "verb", events[0].Verb, "error", err)
		err = ErrUnavailable.Because(err)
	}
	for _, item := range batch {
		item.result <- err
	}
}

// store appends to the lane's log. When it is not known whether the log grew, the lane goes on with a fresh one, and
// sends the same rows once more: their ids make the store refuse them if they are there, so that they are there once.
func (l *lane) store(ctx context.Context, events []Event) error {
	b := l.to.Next(events)
	err := l.sink.Append(ctx, b)
	if err == nil {
		l.to.Stored(b)
		return nil
	}
	if !errors.Is(err, ErrInDoubt) {
		return err
	}
	l.log.Warn("audit commit in doubt", "log_id", l.to.ID, "events", len(events), "error", err)
	l.to = NewLog()
	again := l.to.Next(events)
	switch err := l.sink.Append(ctx, again); {
	case err == nil:
		l.to.Stored(again)
		return nil
	case errors.Is(err, ErrRefused):
		stored, lookup := l.sink.Stored(ctx, events)
		if stored {
			return nil
		}
		if lookup != nil {
			return lookup
		}
		return err
	case errors.Is(err, ErrInDoubt):
		l.to = NewLog()
		return err
	default:
		return err
	}
}
