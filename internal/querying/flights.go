package querying

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// flights are the questions under way. Equal ones of one user share an answer: whoever asks while the peer is being
// asked the same waits for that, so that a page which asks ten times at once costs the peer, and the limit of the grant,
// one request. The question ends when the last who waits has gone, and not before.
type flights struct {
	mu sync.Mutex
	of map[[32]byte]*flight
}

type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiting int // guarded by flights.mu
	got     got
	err     error
}

// join takes the answer of the question under key that is under way, or asks it. Shared is told that it was under way.
// The error is the question's, or that of ctx.
func (f *flights) join(ctx context.Context, key [32]byte, within time.Duration, ask func(context.Context) (got, error), shared func()) (got, error) {
	f.mu.Lock()
	fl, joined := f.of[key]
	if !joined {
		fl = f.begin(ctx, key, within, ask)
	}
	fl.waiting++
	f.mu.Unlock()
	defer f.leave(key, fl)
	if joined {
		shared()
	}
	select {
	case <-fl.done:
		return fl.got, fl.err
	case <-ctx.Done():
		return got{}, fmt.Errorf("wait for a peer: %w", ctx.Err())
	}
}

// begin is called with mu held.
func (f *flights) begin(ctx context.Context, key [32]byte, within time.Duration, ask func(context.Context) (got, error)) *flight {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	fl := &flight{done: make(chan struct{}), cancel: cancel}
	if f.of == nil {
		f.of = map[[32]byte]*flight{}
	}
	f.of[key] = fl
	go func() {
		defer close(fl.done)
		defer f.land(key, fl)
		defer func() {
			if p := recover(); p != nil { // what it says may hold a row
				fl.err = fmt.Errorf("asking a peer panicked with a %T\n%s", p, debug.Stack())
			}
		}()
		fl.got, fl.err = ask(ctx)
	}()
	return fl
}

// land makes the next who asks ask anew: an answer is for those who waited for it.
func (f *flights) land(key [32]byte, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of[key] == fl {
		delete(f.of, key)
	}
}

// leave ends a question that nobody waits for.
func (f *flights) leave(key [32]byte, fl *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiting--; fl.waiting > 0 {
		return
	}
	if f.of[key] == fl {
		delete(f.of, key)
	}
	fl.cancel()
}
