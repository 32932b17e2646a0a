package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/valkey"
)

// checkWithin is how long a start waits for Valkey before it goes on without.
const checkWithin = 2 * time.Second

// limits are the gateway's limiters: in memory, and over Valkey when there is one.
type limits struct {
	peers     limit.Taker
	strangers limit.Taker
	link      *limit.Link // nil without a Valkey
}

// newLimits makes the limiters; a nil client is none. Strangers fill a memory of their own with keys of their own
// making: they must not push out the buckets of peers.
func newLimits(ctx context.Context, client *valkey.Client, log *slog.Logger) (limits, error) {
	var memories [2]*limit.Memory
	for i := range memories {
		m, err := limit.NewMemory()
		if err != nil {
			return limits{}, err
		}
		memories[i] = m
	}
	if client == nil {
		return limits{peers: memories[0], strangers: memories[1]}, nil
	}
	link := limit.NewLink(client, log)
	link.Probe(ctx) // one that is away is known before the first request
	return limits{peers: link.Over(memories[0]), strangers: link.Over(memories[1]), link: link}, nil
}

// parts are those of the limits that health looks at.
func (l limits) parts() []part {
	if l.link == nil {
		return nil
	}
	return []part{{"valkey", false, func(context.Context) error { return l.link.Err() }}}
}

// run keeps the link, if there is one, until ctx ends.
func (l limits) run(ctx context.Context) error {
	if l.link == nil {
		return nil
	}
	return l.link.Run(ctx)
}

// openValkey reads the address and looks at the server. One that will not do is refused; one that is away is not:
// replicas limit on their own until it is there.
func openValkey(ctx context.Context, address seal.Secret, log *slog.Logger) (*valkey.Client, error) {
	client, err := valkey.Open(address.Reveal())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	warnings, err := client.Check(ctx)
	for _, w := range warnings {
		log.Warn("valkey", "code", w.Code, "detail", w.Detail, "hint", w.Hint)
	}
	if f := fault.From(err); err != nil && f.Kind == fault.Invalid {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}
