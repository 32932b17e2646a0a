package daemon

import (
	"context"
	"time"
)

// ticks comes round each time d has passed, until ctx ends. While the body takes longer than d, rounds are left out.
func ticks(ctx context.Context, d time.Duration) func(yield func() bool) {
	return func(yield func() bool) {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !yield() {
					return
				}
			}
		}
	}
}
