package postgres_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/serving"
)

// budgeted is a grant without a certificate: a budget is counted by grant.
func (w *world) budgeted(email string) grant.Grant {
	w.t.Helper()
	perDay := int64(100)
	u := w.user(email, account.Member)
	g, _, err := w.grants.CreateGrant(w.ctx, postgres.NewGrant{
		PeerName: "home", SubjectUser: u.Email, Scope: mustScope(w.t, `{"resources":["tasks"],"max_rows_per_query":10}`), RowsPerDay: &perDay,
	}, postgres.NewToken{Hash: w.token(email), TTL: time.Minute}, act)
	if err != nil {
		w.t.Fatal(err)
	}
	if g.RowsPerDay == nil || *g.RowsPerDay != perDay {
		w.t.Fatalf("the grant's budget reads as %v", g.RowsPerDay)
	}
	return g
}

func (w *world) reserve(g grant.Grant, rows int) serving.Reservation {
	w.t.Helper()
	r, err := w.serving.Reserve(w.ctx, g.ID, 100, rows)
	if err != nil {
		w.t.Fatal(err)
	}
	if r.Ends <= 0 || r.Ends > 24*time.Hour {
		w.t.Fatalf("the day ends in %s", r.Ends)
	}
	return r
}

func TestABudgetIsGivenOutOnceHoweverManyAskAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, other := w.budgeted("ada@example.org"), w.budgeted("bob@example.org")
	var granted atomic.Int64
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			r, err := w.serving.Reserve(w.ctx, g.ID, 100, 1+i%7)
			if err != nil {
				t.Error(err)
			}
			granted.Add(int64(r.Rows))
		})
	}
	wg.Wait()
	spent, _, err := w.serving.Delivered(w.ctx, g.ID)
	if err != nil || granted.Load() != 100 || spent != 100 {
		t.Errorf("%d granted and %d counted of 100, %v", granted.Load(), spent, err)
	}
	if r := w.reserve(g, 1); r.Rows != 0 {
		t.Errorf("%d more of a spent budget", r.Rows)
	}
	if r := w.reserve(other, 3); r.Rows != 3 {
		t.Errorf("another grant: %d", r.Rows)
	}
}

func TestTheLastRowsAreGrantedAndReturnedOnesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.budgeted("ada@example.org")
	if r := w.reserve(g, 250); r.Rows != 100 {
		t.Errorf("first: %d of 250, want the 100 there are", r.Rows)
	}
	w.clearBudget(g)
	w.reserve(g, 95)
	r := w.reserve(g, 10)
	if r.Rows != 5 {
		t.Fatalf("%d of 10, want the 5 that are left", r.Rows)
	}
	if err := w.serving.Return(w.ctx, g.ID, r, 3); err != nil {
		t.Fatal(err)
	}
	if r := w.reserve(g, 10); r.Rows != 3 {
		t.Errorf("%d of 10, want the 3 that were returned", r.Rows)
	}
}

func (w *world) clearBudget(g grant.Grant) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, `DELETE FROM federation_row_budgets WHERE grant_id = $1`, g.ID); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) shiftBudget(g grant.Grant, days int) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.ctx, `UPDATE federation_row_budgets SET day = day + $2::int WHERE grant_id = $1`, g.ID, days); err != nil {
		w.t.Fatal(err)
	}
}

func TestABudgetBeginsAnewWithTheDayAndNotWhenTheClockGoesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.budgeted("ada@example.org")
	yesterdays := w.reserve(g, 100)
	w.shiftBudget(g, -1)
	if spent, _, err := w.serving.Delivered(w.ctx, g.ID); err != nil || spent != 0 {
		t.Errorf("a new day begins with %d, %v", spent, err)
	}
	if r := w.reserve(g, 30); r.Rows != 30 {
		t.Errorf("a new day: %d of 30", r.Rows)
	}
	yesterdays.Day = yesterdays.Day.AddDate(0, 0, -1)
	if err := w.serving.Return(w.ctx, g.ID, yesterdays, 100); err != nil {
		t.Fatal(err)
	}
	if spent, _, _ := w.serving.Delivered(w.ctx, g.ID); spent != 30 {
		t.Errorf("what yesterday returned counts for today: %d counted, want 30", spent)
	}
	w.shiftBudget(g, 1) // as if the clock had been a day ahead
	if r, err := w.serving.Reserve(w.ctx, g.ID, 100, 100); err != nil || r.Rows != 70 || r.Ends <= 24*time.Hour {
		t.Errorf("the clock went back: %d granted, ends in %s, %v; want the 70 that are left of the later day", r.Rows, r.Ends, err)
	}
}
