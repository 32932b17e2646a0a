package serving

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// ErrRowBudgetSpent refuses a grant whose rows for the day are delivered.
var ErrRowBudgetSpent = &fault.Fault{
	Kind: fault.RateLimited, Code: "row_budget_spent",
	Detail: "the rows that this grant gives a day are delivered",
	Hint:   "the next day of UTC begins after Retry-After; GET /federation/v1/capabilities shows the budget",
}

// returnWithin is how long a request that is over takes at most to give back what it reserved.
const returnWithin = 2 * time.Second

// Budgets counts the rows that grants with a budget were given, for all replicas and durably. Only requests of such
// grants come here.
type Budgets interface {
	// Reserve counts up to rows of the day's budget, and tells how many there were.
	Reserve(ctx context.Context, grantID uuid.UUID, perDay int64, rows int) (Reservation, error)
	// Return gives back rows that were reserved and did not leave.
	Return(ctx context.Context, grantID uuid.UUID, r Reservation, rows int) error
	// Delivered tells how many rows of the day are counted, and when the day ends.
	Delivered(ctx context.Context, grantID uuid.UUID) (rows int64, ends time.Duration, err error)
}

// Reservation is what a request may deliver of a day's budget.
type Reservation struct {
	Rows int
	Day  time.Time
	Ends time.Duration // how long the day lasts still
}

// budgeted is work that is not done when nothing is left of the budget: done, it would tell by its refusal whether
// there is something to deliver. Whoever may not ask is told that.
func (r *run) budgeted(ctx context.Context, work func(Plan) (answer, error)) func(Plan) (answer, error) {
	return func(p Plan) (answer, error) {
		if p.RowsPerDay == nil || r.reserved.Rows > 0 {
			return work(p)
		}
		spent, ends, err := r.s.Budgets.Delivered(ctx, p.GrantID)
		if err == nil && spent >= *p.RowsPerDay {
			err = ErrRowBudgetSpent.After(ends)
		}
		if err != nil {
			return answer{}, r.s.authorizedError(ctx, r.check(), err)
		}
		return work(p)
	}
}

// withinBudget reserves the rows of an answer before it leaves. When fewer are left than there are in the answer,
// the work is done again for that many: it is shorter then, and says so.
func (r *run) withinBudget(ctx context.Context, a answer, work func(Plan) (answer, error)) (answer, error) {
	if r.plan.RowsPerDay == nil || a.rows == 0 {
		return a, nil
	}
	got, err := r.s.Budgets.Reserve(ctx, r.plan.GrantID, *r.plan.RowsPerDay, a.rows)
	r.lap(StepLimit)
	switch {
	case err != nil:
		return answer{}, err
	case got.Rows == 0:
		return answer{}, ErrRowBudgetSpent.After(got.Ends)
	}
	r.reserved = got
	if got.Rows >= a.rows {
		return a, nil
	}
	r.most = got.Rows
	a, err = r.attempt(ctx, work)
	if err == nil && a.rows > got.Rows { // a verb whose answers cannot be shortened
		err = ErrRowBudgetSpent.After(got.Ends)
	}
	if err != nil {
		a = answer{}
	}
	r.giveBack(ctx, got.Rows-a.rows)
	return a, err
}

// giveBack returns reserved rows that do not leave. If that fails they count as delivered: the budget is what is
// held, and the peer has less of it for a day.
func (r *run) giveBack(ctx context.Context, rows int) {
	if rows == 0 || r.reserved.Rows == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), returnWithin)
	defer cancel()
	r.reserved.Rows -= rows
	if err := r.s.Budgets.Return(ctx, r.plan.GrantID, r.reserved, rows); err != nil && !errors.Is(err, context.Canceled) {
		r.s.Log.WarnContext(ctx, "rows not returned to the budget", "grant_id", r.plan.GrantID, "rows", rows, "error", err)
	}
	r.lap(StepLimit)
}

// rowBudget is what a peer is told of its budget.
type rowBudget struct {
	PerDay    int64     `json:"rows_per_day"`
	Remaining int64     `json:"remaining"`
	ResetsAt  time.Time `json:"resets_at"`
}

// budget is where the grant's budget stands; nil without one.
func (s *Service) budget(ctx context.Context, p Plan) (*rowBudget, error) {
	if p.RowsPerDay == nil {
		return nil, nil
	}
	spent, ends, err := s.Budgets.Delivered(ctx, p.GrantID)
	if err != nil {
		return nil, err
	}
	return &rowBudget{PerDay: *p.RowsPerDay, Remaining: max(*p.RowsPerDay-spent, 0), ResetsAt: s.Now().Add(ends).UTC().Round(time.Second)}, nil
}
