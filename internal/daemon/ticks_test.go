package daemon

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestTicksComeRoundUntilTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Second)
		defer cancel()
		rounds := 0
		for range ticks(ctx, 3*time.Second) {
			if rounds++; time.Since(begun) != time.Duration(rounds)*3*time.Second {
				t.Errorf("round %d after %s", rounds, time.Since(begun))
			}
		}
		if took := time.Since(begun); rounds != 20 || took != time.Minute+time.Second {
			t.Errorf("%d rounds in %s", rounds, took)
		}
		begun, rounds = time.Now(), 0
		for range ticks(t.Context(), time.Second) {
			time.Sleep(2500 * time.Millisecond) // two more are due, of which one is kept
			if rounds++; rounds == 2 {
				break
			}
		}
		if took := time.Since(begun); took != 6*time.Second {
			t.Errorf("after two long rounds: %s", took)
		}
	})
}
