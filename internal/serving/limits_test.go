package serving

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/scope"
)

// granting is a store with one grant and any number of rows.
type granting struct {
	ruling
	plan Plan
	rows int
	lose error         // what the second list of a request says
	cut  func(int) int // nil: as many rows as were asked for
}

func (s *granting) Plan(context.Context, [32]byte) (Plan, error) { return s.plan, nil }

func (s *granting) List(_ context.Context, q ListQuery) (Rows, error) {
	if err := s.ask(); err != nil {
		return Rows{}, err
	}
	if s.asked > 1 && s.lose != nil {
		return Rows{}, s.lose
	}
	n := min(q.Rows, s.rows)
	if s.cut != nil {
		n = s.cut(n)
	}
	return Rows{Docs: append(q.Into, strings.TrimSuffix(strings.Repeat("{},", n), ",")...), Count: n}, nil
}

// purse is a budget in memory.
type purse struct {
	spent  int64
	asked  int
	refuse error
}

func (p *purse) Reserve(_ context.Context, _ uuid.UUID, perDay int64, rows int) (Reservation, error) {
	p.asked++
	n := min(int64(rows), perDay-p.spent)
	p.spent += n
	return Reservation{Rows: int(n), Ends: time.Hour}, p.refuse
}

func (p *purse) Return(_ context.Context, _ uuid.UUID, _ Reservation, rows int) error {
	p.spent -= int64(rows)
	return nil
}

func (p *purse) Delivered(context.Context, uuid.UUID) (int64, time.Duration, error) {
	return p.spent, time.Hour, nil
}

type failingRecorder struct{}

func (failingRecorder) Record(context.Context, audit.Event) error { return audit.ErrUnavailable }

func granted(t *testing.T, rows int, change func(*Plan)) (*Service, *granting, *purse, Caller) {
	t.Helper()
	sc, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":100}`))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := limit.NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	store := &granting{rows: rows, plan: Plan{GrantID: uuid.New(), UserID: uuid.New(), PeerID: uuid.New(), Scope: sc, Limit: grant.Limit{PerMinute: 1, Burst: 5}}}
	change(&store.plan)
	s, caller := refusing(&store.ruling)
	budget := &purse{}
	s.Store, s.Limiter, s.Budgets = store, memory, budget
	caller.Identity.GrantID, caller.Identity.UserID = store.plan.GrantID, store.plan.UserID
	return s, store, budget, caller
}

func TestCertificatesOfOneGrantShareItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, _, _, old := granted(t, 1, func(*Plan) {})
		renewed := old
		renewed.Identity.Fingerprint = print32(8)
		for i := range 5 {
			a, err := s.List(t.Context(), []Caller{old, renewed}[i%2], ListRequest{Resource: "tasks"})
			if err != nil || a.Limit.Remaining != 4-i || a.Limit.Name != "grant" {
				t.Fatalf("request %d: %+v %v", i+1, a.Limit, err)
			}
		}
		for _, c := range []Caller{old, renewed} {
			a, err := s.List(t.Context(), c, ListRequest{Resource: "tasks"})
			if f := fault.From(err); !errors.Is(err, ErrRateLimited) || f.RetryAfter != time.Minute || a.Limit.Wait != time.Minute || a.Body != nil {
				t.Errorf("%+v %v after %s", a.Limit, err, f.RetryAfter)
			}
		}
	})
}

func TestEveryRequestOfThoseWhoMayAskIsLimited(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*Service, Caller) (Answer, error){
		"not there": func(s *Service, c Caller) (Answer, error) {
			return s.List(t.Context(), c, ListRequest{Resource: "nothing"})
		},
		"out of scope": func(s *Service, c Caller) (Answer, error) { return s.Get(t.Context(), c, "notes", uuid.NewString()) },
		"asked wrongly": func(s *Service, c Caller) (Answer, error) {
			return s.List(t.Context(), c, ListRequest{Resource: "tasks", Limit: "0"})
		},
		"no such path": func(s *Service, c Caller) (Answer, error) { return s.Unknown(t.Context(), c, ErrNotFound) },
		"capabilities": func(s *Service, c Caller) (Answer, error) { return s.Capabilities(t.Context(), c) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _, _, caller := granted(t, 1, func(*Plan) {})
			for i := range 5 {
				if a, err := ask(s, caller); errors.Is(err, ErrRateLimited) || a.Limit.Remaining != 4-i {
					t.Fatalf("request %d: %+v %v", i+1, a.Limit, err)
				}
			}
			if a, err := ask(s, caller); !errors.Is(err, ErrRateLimited) || !a.Limit.Refused() {
				t.Errorf("request 6: %+v %v, want rate_limited", a.Limit, err)
			}
		})
	}
}

func TestARequestThatTookTooLongIsCountedAndARefusedOneIsNot(t *testing.T) {
	t.Parallel()
	slow := &fault.Fault{Kind: fault.Unavailable, Code: "slow"}
	for err, counted := range map[error]bool{slow: true, ErrGrantRevoked: false, ErrPeerSuspended: false, errors.New("a bug"): false} {
		s, store, _, caller := granted(t, 1, func(*Plan) {})
		store.rule(err)
		for range 5 {
			if a, got := s.List(t.Context(), caller, ListRequest{Resource: "tasks"}); !errors.Is(got, err) || counted != (a.Limit.Name != "") {
				t.Errorf("%v: %v, limit %+v", err, got, a.Limit)
			}
		}
		store.rule(nil)
		if _, got := s.List(t.Context(), caller, ListRequest{Resource: "tasks"}); counted != errors.Is(got, ErrRateLimited) {
			t.Errorf("after five times %v: %v", err, got)
		}
	}
}

func TestAPeersLimitIsSharedByItsGrantsAndSpendsNothingOfThem(t *testing.T) {
	t.Parallel()
	s, first, _, a := granted(t, 1, func(p *Plan) { p.PeerLimit = &grant.Limit{PerMinute: 1, Burst: 7} })
	second := &granting{rows: 1, plan: first.plan}
	second.plan.GrantID = uuid.New()
	other := New(s.Config)
	other.Store = second
	b := a
	b.Identity.GrantID = second.plan.GrantID
	ask := func(s *Service, c Caller) (grant.Standing, bool) {
		out, err := s.List(t.Context(), c, ListRequest{Resource: "tasks"})
		return out.Limit, err == nil
	}
	for range 5 {
		ask(s, a)
	}
	ok := 0
	for range 4 {
		at, allowed := ask(other, b)
		if allowed {
			ok++
		} else if at.Name != "peer" {
			t.Errorf("refused by %+v, want the peer's limit", at)
		}
	}
	if ok != 2 {
		t.Errorf("a peer of 7 whose first grant spent 5 was allowed %d more, want 2", ok)
	}
	second.plan.PeerLimit = nil // what is left of the second grant alone
	other = New(other.Config)
	if at, allowed := ask(other, b); !allowed || at.Remaining != 2 {
		t.Errorf("%+v: refusals of the peer have spent the grant, want 2 remaining", at)
	}
}

func TestAnAnswerIsCutToWhatIsLeftOfTheBudget(t *testing.T) {
	t.Parallel()
	perDay := int64(25)
	s, store, budget, caller := granted(t, 100, func(p *Plan) { p.RowsPerDay, p.Limit = &perDay, grant.Limit{PerMinute: 100, Burst: 100} })
	list := func() (string, error) {
		store.rule(nil)
		a, err := s.List(t.Context(), caller, ListRequest{Resource: "tasks", Limit: "10"})
		return string(a.Body), err
	}
	for _, want := range []struct {
		rows, spent int
		page        string
	}{{10, 10, `{"limit":10,"capped":false`}, {10, 20, `{"limit":10,"capped":false`}, {5, 25, `{"limit":5,"capped":true`}} {
		body, err := list()
		if err != nil || strings.Count(body, "{}") != want.rows || !strings.Contains(body, want.page) || int(budget.spent) != want.spent {
			t.Fatalf("%s %v, %d counted; want %+v", body, err, budget.spent, want)
		}
	}
	if _, err := list(); !errors.Is(err, ErrRowBudgetSpent) || fault.From(err).RetryAfter != time.Hour {
		t.Errorf("%v, want row_budget_spent until the day ends", err)
	}
	a, err := s.Capabilities(t.Context(), caller)
	if err != nil || !strings.Contains(string(a.Body), `"row_budget":{"rows_per_day":25,"remaining":0,"resets_at":"`) {
		t.Errorf("%s %v", a.Body, err)
	}
	budget.spent, store.rows = 24, 0
	if body, err := list(); err != nil || !strings.Contains(body, `"data":[]`) || budget.spent != 24 {
		t.Errorf("an answer without rows costs nothing: %s %v", body, err)
	}
}

// TestASpentBudgetTellsNothingOfWhatThereIs: whether there is a row or none, and what else is wrong with the request.
func TestASpentBudgetTellsNothingOfWhatThereIs(t *testing.T) {
	t.Parallel()
	perDay := int64(25)
	s, store, budget, caller := granted(t, 0, func(p *Plan) { p.RowsPerDay, p.Limit = &perDay, grant.Limit{PerMinute: 1, Burst: 6} })
	s.Searcher = NewSearcher(&payPerUse{})
	budget.spent = perDay
	asks := []func() (Answer, error){
		func() (Answer, error) { return s.List(t.Context(), caller, ListRequest{Resource: "tasks"}) },
		func() (Answer, error) { return s.List(t.Context(), caller, ListRequest{Resource: "tasks", Limit: "0"}) },
		func() (Answer, error) { return s.Get(t.Context(), caller, "tasks", uuid.NewString()) },
		func() (Answer, error) { return s.Get(t.Context(), caller, "notes", "x") },
		func() (Answer, error) { return s.Search(t.Context(), caller, search(`{"query":"x"}`)) },
	}
	for i, ask := range asks {
		a, err := ask()
		if f := fault.From(err); !errors.Is(err, ErrRowBudgetSpent) || f.RetryAfter != time.Hour || a.Limit.Remaining != 5-i {
			t.Errorf("request %d: %v after %s, limit %+v; want row_budget_spent, and counted", i, err, f.RetryAfter, a.Limit)
		}
	}
	if _, err := s.Capabilities(t.Context(), caller); err != nil {
		t.Errorf("capabilities: %v", err)
	}
	if _, err := asks[0](); !errors.Is(err, ErrRateLimited) {
		t.Errorf("over the limit: %v", err)
	}
	store.rule(ErrPeerSuspended)
	for i, ask := range asks {
		if _, err := ask(); !errors.Is(err, ErrPeerSuspended) {
			t.Errorf("request %d, suspended: %v, want nothing but that", i, err)
		}
	}
}

func TestWhatDoesNotLeaveIsReturnedToTheBudget(t *testing.T) {
	t.Parallel()
	perDay := int64(15)
	limits := func(p *Plan) { p.RowsPerDay, p.Limit = &perDay, grant.Limit{PerMinute: 100, Burst: 100} }
	ten := ListRequest{Resource: "tasks", Limit: "10"}

	t.Run("the audit log cannot be written", func(t *testing.T) {
		t.Parallel()
		s, _, budget, caller := granted(t, 100, limits)
		s.Audit = failingRecorder{}
		if _, err := s.List(t.Context(), caller, ten); !errors.Is(err, audit.ErrUnavailable) || budget.spent != 0 {
			t.Errorf("%v, %d counted", err, budget.spent)
		}
	})
	t.Run("revoked while the answer was cut", func(t *testing.T) {
		t.Parallel()
		s, store, budget, caller := granted(t, 100, limits)
		budget.spent, store.lose = 10, ErrGrantRevoked
		if _, err := s.List(t.Context(), caller, ten); !errors.Is(err, ErrGrantRevoked) || budget.spent != 10 {
			t.Errorf("%v, %d counted", err, budget.spent)
		}
	})
	t.Run("rows went away while the answer was cut", func(t *testing.T) {
		t.Parallel()
		s, store, budget, caller := granted(t, 100, limits)
		budget.spent = 10
		store.cut = func(n int) int {
			if store.asked > 1 {
				return 2
			}
			return n
		}
		if _, err := s.List(t.Context(), caller, ten); err != nil || budget.spent != 12 {
			t.Errorf("%v, %d counted, want the 10 and the 2 that were there", err, budget.spent)
		}
	})
	t.Run("an answer that cannot be cut", func(t *testing.T) {
		t.Parallel()
		s, store, budget, caller := granted(t, 100, limits)
		budget.spent = 10
		store.cut = func(int) int { return 10 }
		if a, err := s.List(t.Context(), caller, ten); !errors.Is(err, ErrRowBudgetSpent) || a.Body != nil || budget.spent != 10 {
			t.Errorf("%q %v, %d counted", a.Body, err, budget.spent)
		}
	})
	t.Run("the budget cannot be read", func(t *testing.T) {
		t.Parallel()
		s, _, budget, caller := granted(t, 100, limits)
		budget.refuse = audit.ErrUnavailable
		if a, err := s.List(t.Context(), caller, ten); err == nil || a.Body != nil {
			t.Errorf("%q %v", a.Body, err)
		}
	})
	t.Run("a grant without a budget never asks", func(t *testing.T) {
		t.Parallel()
		s, _, budget, caller := granted(t, 100, func(*Plan) {})
		if _, err := s.List(t.Context(), caller, ten); err != nil || budget.asked != 0 {
			t.Errorf("%v, asked %d times", err, budget.asked)
		}
	})
}
