package audit

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"
)

// The bounds of an Aggregator. What is over its rows is counted all the same, under one address for all.
const (
	maxAggregates = 2048
	aggregateAt   = 32 // rows that are written at once: requests wait in the same queue
	flushEvery    = 5 * time.Second
	flushWithin   = 3 * time.Second
	// manyAddresses stands in place of an address prefix when there were too many of them.
	manyAddresses = "many"
)

// Recorder makes an event durable before it returns.
type Recorder interface {
	Record(ctx context.Context, e Event) error
}

// Aggregator counts what strangers, and peers over their limit, can do as often as they like: it becomes one row for
// each address prefix, reason and minute, so that guessing cannot flood the log. A row is written when its minute has
// ended.
type Aggregator struct {
	to  Recorder
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	rows map[aggregate]*Event
}

// aggregate is what one row is about. Grant and actor are part of it where they are known, of which there are few.
type aggregate struct {
	minute    int64
	prefix    string
	reason    string
	verb      string
	direction Direction
	actor     string
	grant     uuid.UUID
}

// NewAggregator returns an Aggregator that writes to a Recorder.
func NewAggregator(to Recorder, log *slog.Logger, now func() time.Time) *Aggregator {
	return &Aggregator{to: to, log: log, now: now, rows: map[aggregate]*Event{}}
}

// Note counts a refusal, and waits for nothing. The row has the first one's request id, and of its address the prefix.
func (a *Aggregator) Note(e Event) {
	now := a.now()
	e.Occurrences, e.Outcome = 1, Denied
	e.RemoteAddress = Prefix(e.RemoteAddress)
	e.CreatedAt = now
	key := aggregate{now.Unix() / 60, e.RemoteAddress, e.DeniedReason, e.Verb, e.Direction, e.Actor, e.GrantID}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rows[key] == nil && len(a.rows) >= maxAggregates {
		key.prefix, key.actor, key.grant = manyAddresses, "", uuid.Nil
		e = Event{
			RequestID: e.RequestID, Direction: e.Direction, RemoteAddress: manyAddresses, Verb: e.Verb, StatusCode: e.StatusCode,
			Outcome: e.Outcome, DeniedReason: e.DeniedReason, Occurrences: 1, CreatedAt: now,
		}
	}
	if row := a.rows[key]; row != nil {
		row.Occurrences++
		return
	}
	a.rows[key] = &e
}

// Run writes the rows of minutes that have ended, until ctx ends. What is left then is for Flush.
func (a *Aggregator) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.write(ctx, a.now().Unix()/60)
		}
	}
}

// Flush writes everything, also of the minute that has not ended. Call it when nobody notes any more.
func (a *Aggregator) Flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushWithin)
	defer cancel()
	a.write(ctx, a.now().Unix()/60+1)
}

// write writes the rows from before a minute. A row that cannot be written waits for the next time.
func (a *Aggregator) write(ctx context.Context, before int64) {
	a.mu.Lock()
	due := map[aggregate]*Event{}
	for key, row := range a.rows {
		if key.minute < before {
			due[key] = row
			delete(a.rows, key)
		}
	}
	a.mu.Unlock()
	var writers sync.WaitGroup
	turns := make(chan struct{}, aggregateAt)
	var mu sync.Mutex
	var failed error
	for key, row := range due {
		turns <- struct{}{}
		writers.Go(func() {
			defer func() { <-turns }()
			if err := a.to.Record(ctx, *row); err != nil {
				a.keep(key, row)
				mu.Lock()
				defer mu.Unlock()
				failed = err
			}
		})
	}
	writers.Wait()
	if failed != nil {
		a.log.Warn("refusals not on record yet", "error", failed)
	}
}

// keep puts a row back. While the database is away there may be no room for it: then it is counted with the others
// of its reason.
func (a *Aggregator) keep(key aggregate, row *Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.rows) >= maxAggregates {
		key.prefix, key.actor, key.grant = manyAddresses, "", uuid.Nil
	}
	if same := a.rows[key]; same != nil {
		same.Occurrences += row.Occurrences
		return
	}
	row.RemoteAddress = key.prefix
	a.rows[key] = row
}

// Prefix is the network that one client is taken to have: /24 of IPv4, /64 of IPv6. What is no address stays as it is.
func Prefix(address string) string {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	bits := 64
	if addr = addr.Unmap().WithZone(""); addr.Is4() {
		bits = 24
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return address
	}
	return prefix.String()
}
