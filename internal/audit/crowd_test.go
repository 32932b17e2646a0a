package audit_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
)

// request is one on its way: work, a record, and its end. It gives how long the record took.
func request(t *testing.T, w *audit.Writer, work time.Duration) time.Duration {
	w.Coming(1)
	defer w.Coming(-1)
	time.Sleep(work)
	start := time.Now()
	if err := w.Record(t.Context(), audit.Event{Verb: "list"}); err != nil {
		t.Error(err)
	}
	return time.Since(start)
}

func TestACrowdSharesItsCommits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: 400 * time.Microsecond}
		w, stop := running(t, s)
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 16 {
			wg.Go(func() {
				for time.Since(start) < 200*time.Millisecond {
					request(t, w, time.Duration(500+37*i)*time.Microsecond)
					time.Sleep(time.Duration(600-23*i) * time.Microsecond) // the client, before it asks again
				}
			})
		}
		wg.Wait()
		stop()
		if rows, commits := s.stored(), len(s.batches); rows < 5*commits || rows < 1500 {
			t.Errorf("%d rows in %d commits; want 5 in each, and no less than 1500 in all", rows, commits)
		}
	})
}

func TestWhoIsAloneWaitsForTheCommitOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const commit = 400 * time.Microsecond
		s := &sink{took: commit}
		w, stop := running(t, s)
		for _, after := range []string{"at first", "after a crowd"} {
			for range 3 {
				if took := request(t, w, time.Millisecond); took != commit {
					t.Errorf("%s: %s for a commit of %s", after, took, commit)
				}
			}
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { request(t, w, time.Millisecond) })
			}
			wg.Wait()
			time.Sleep(50 * time.Millisecond)
		}
		stop()
	})
}

func TestNobodyWaitsLongForThoseWhoDoNotCome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sink{took: 400 * time.Microsecond}
		w, stop := running(t, s)
		w.Coming(1000) // under way, and slow
		if took := request(t, w, 0); took > 10*time.Millisecond {
			t.Errorf("a request waited %s for others", took)
		}
		w.Coming(-1000)
		stop()
	})
}

// TestACrowdIsWaitedForInPart: three eighths of those who are under way are a batch, and fewer wait for the others a while.
func TestACrowdIsWaitedForInPart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const commit = 400 * time.Microsecond
		s := &sink{took: commit}
		w, stop := running(t, s)
		w.Coming(16) // none of whom has come
		for _, round := range []struct {
			come int
			want time.Duration
		}{{6, commit}, {5, commit + 6*250*time.Microsecond}} {
			time.Sleep(time.Second)
			var wg sync.WaitGroup
			for range round.come {
				wg.Go(func() {
					start := time.Now()
					if err := w.Record(t.Context(), audit.Event{}); err != nil {
						t.Error(err)
					}
					if took := time.Since(start); took != round.want {
						t.Errorf("one of %d waited %s, want %s", round.come, took, round.want)
					}
				})
			}
			wg.Wait()
		}
		if len(s.batches) != 2 {
			t.Errorf("%d commits, want 2", len(s.batches))
		}
		w.Coming(-16)
		stop()
	})
}
