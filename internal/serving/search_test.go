package serving

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

var errAway = &fault.Fault{Kind: fault.Unavailable, Code: "embeddings_unavailable", Detail: "away", RetryAfter: 7 * time.Second}

// payPerUse is an embedder whose calls cost something.
type payPerUse struct {
	remote bool
	err    error
	calls  atomic.Int64
}

func (p *payPerUse) Model() string  { return "m" }
func (p *payPerUse) Remote() bool   { return p.remote }
func (p *payPerUse) Floor() float64 { return 0.5 }
func (p *payPerUse) Query(context.Context, string) ([]float32, error) {
	p.calls.Add(1)
	return []float32{1}, p.err
}

// searched is a store that answers a search, and keeps what it was asked.
type searched struct {
	ruling
	found Found
	last  SearchQuery
	wait  chan struct{} // nil: nobody waits
	now   atomic.Int64
	most  atomic.Int64
}

func (s *searched) Plan(context.Context, [32]byte) (Plan, error) {
	return Plan{Scope: scope.Scope{Resources: []scope.Resource{scope.Tasks, scope.Credentials}, MaxRowsPerQuery: 20}}, nil
}

func (s *searched) Search(_ context.Context, q SearchQuery) (Found, error) {
	if s.wait == nil {
		s.last = q
	}
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
	}
	if s.wait != nil {
		<-s.wait
	}
	return s.found, s.ask()
}

type refusingLimiter struct{ takes atomic.Int64 }

func (l *refusingLimiter) Take(context.Context, ...grant.Bucket) (grant.Standing, error) {
	l.takes.Add(1)
	return grant.Standing{Name: "grant", Wait: time.Second}, nil
}

type lastEvent struct{ e audit.Event }

func (l *lastEvent) Record(_ context.Context, e audit.Event) error {
	l.e = e
	return nil
}

func searching(store *searched, e *payPerUse) (*Service, Caller, *lastEvent) {
	s, c := refusing(&store.ruling)
	log := &lastEvent{}
	s.Store, s.Audit, s.Searcher = store, log, NewSearcher(e)
	s.Hash = func(b []byte) []byte { return []byte(strings.ReplaceAll(string(b), "\x00", "|")) }
	return s, c, log
}

func search(body string) SearchRequest { return SearchRequest{Resource: "tasks", Body: []byte(body)} }

func TestASearchSaysHowItWasFound(t *testing.T) {
	t.Parallel()
	found := Found{Docs: []byte(`{"a":1}`), Count: 1, Pending: 4}
	for name, tt := range map[string]struct {
		body, want string
		away       error
		mode       resource.Mode
		rows       int
	}{
		"by default": {`{"query":"x"}`, `{"data":[{"a":1}],"page":{"limit":20,"capped":true,"next_cursor":null},"search":{"mode":"hybrid","model":"m","pending":4}}`, nil, resource.Hybrid, 20},
		"lexical":    {`{"query":"x","mode":"lexical","limit":7}`, `{"data":[{"a":1}],"page":{"limit":7,"capped":false,"next_cursor":null},"search":{"mode":"lexical","model":null}}`, nil, resource.Lexical, 7},
		"degraded":   {`{"query":"x","limit":7}`, `{"data":[{"a":1}],"page":{"limit":7,"capped":false,"next_cursor":null},"search":{"mode":"lexical","model":null,"degraded":"embeddings_unavailable"}}`, errAway, resource.Lexical, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := &searched{found: found}
			s, c, log := searching(store, &payPerUse{remote: true, err: tt.away})
			a, err := s.Search(t.Context(), c, search(tt.body))
			if err != nil || string(a.Body) != tt.want || !json.Valid(a.Body) {
				t.Errorf("%s, %v, want\n%s", a.Body, err, tt.want)
			}
			if store.last.Mode != tt.mode || store.last.Rows != tt.rows || store.last.Text != "x" {
				t.Errorf("asked for %+v", store.last.Lookup)
			}
			if e := log.e; e.Verb != "search" || e.Resource != "tasks" || e.RowsOut != 1 || e.StatusCode != 200 || !strings.HasPrefix(string(e.QueryHash), "tasks|") {
				t.Errorf("on record as %+v", e)
			}
		})
	}
}

func TestWhoeverIsRefusedCostsNoEmbedding(t *testing.T) {
	t.Parallel()
	e := &payPerUse{remote: true}
	store := &searched{ruling: ruling{err: ErrGrantRevoked}}
	s, c, _ := searching(store, e)
	if _, err := s.Search(t.Context(), c, search(`{"query":"x"}`)); !errors.Is(err, ErrGrantRevoked) || e.calls.Load() != 0 {
		t.Errorf("revoked: %v, %d embeddings", err, e.calls.Load())
	}
	store.rule(nil)
	limiter := &refusingLimiter{}
	s.Limiter = limiter
	a, err := s.Search(t.Context(), c, search(`{"query":"x"}`))
	if !errors.Is(err, ErrRateLimited) || e.calls.Load() != 0 || a.Limit.Name != "grant" || limiter.takes.Load() != 1 {
		t.Errorf("over the limit: %v, %d embeddings, standing %+v, counted %d times", err, e.calls.Load(), a.Limit, limiter.takes.Load())
	}
}

// TestARequestIsCountedOnce: also when it is counted before its query is embedded.
func TestARequestIsCountedOnce(t *testing.T) {
	t.Parallel()
	for _, remote := range []bool{true, false} {
		counted := &countingLimiter{}
		s, c, _ := searching(&searched{}, &payPerUse{remote: remote})
		s.Limiter = counted
		if _, err := s.Search(t.Context(), c, search(`{"query":"x"}`)); err != nil || counted.takes.Load() != 1 {
			t.Errorf("remote %v: %v, counted %d times", remote, err, counted.takes.Load())
		}
	}
}

type countingLimiter struct{ refusingLimiter }

func (l *countingLimiter) Take(context.Context, ...grant.Bucket) (grant.Standing, error) {
	l.takes.Add(1)
	return grant.Standing{}, nil
}

func TestMistakesOfASearchAreToldToThoseWhoMayAsk(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		q    SearchRequest
		want *fault.Fault
	}{
		"no JSON":       {search(`x`), resource.ErrSearchInvalid},
		"mistake":       {SearchRequest{Resource: "tasks", Mistake: resource.ErrRowInvalid}, resource.ErrRowInvalid},
		"mode":          {SearchRequest{Resource: "credentials", Body: []byte(`{"query":"x","mode":"semantic"}`)}, resource.ErrModeUnsupported},
		"out of scope":  {SearchRequest{Resource: "notes", Body: []byte(`{"query":"x"}`)}, ErrNotFound},
		"no resource":   {SearchRequest{Resource: "users", Body: []byte(`x`)}, ErrNotFound},
		"endpoint away": {search(`{"query":"x","mode":"semantic"}`), errAway},
	}
	for name, tt := range cases {
		store := &searched{}
		s, c, _ := searching(store, &payPerUse{err: errAway})
		_, err := s.Search(t.Context(), c, tt.q)
		if !errors.Is(err, tt.want) || fault.From(err).RetryAfter != tt.want.RetryAfter {
			t.Errorf("%s: %v, want %s", name, err, tt.want.Code)
		}
		store.rule(ErrPeerSuspended)
		if _, err := s.Search(t.Context(), c, tt.q); !errors.Is(err, ErrPeerSuspended) {
			t.Errorf("%s, suspended: %v, want nothing but that", name, err)
		}
	}
}

func TestFewSearchesRunAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &searched{wait: make(chan struct{})}
		searcher := NewSearcher(&payPerUse{})
		errs := make(chan error, 100)
		run := func(caller Asker, n int) {
			for range n {
				go func() {
					_, err := searcher.Run(context.Background(), caller, func() (Found, error) { return store.Search(context.Background(), SearchQuery{}) })
					errs <- err
				}()
			}
		}
		a, b, c := Asker{User: uuid.New()}, Asker{User: uuid.New()}, Asker{User: uuid.New()}
		run(a, 5)
		synctest.Wait()
		if n := store.now.Load(); n != searchesOfCaller {
			t.Errorf("%d searches of one caller at once, want %d", n, searchesOfCaller)
		}
		run(b, 2)
		run(c, 2)
		synctest.Wait()
		if n := store.now.Load(); n != searchesAtOnce {
			t.Errorf("%d searches at once, want %d", n, searchesAtOnce)
		}
		time.Sleep(searchPatience)
		synctest.Wait()
		for range 5 { // three of a, and two of c
			if err := <-errs; !errors.Is(err, ErrSearchBusy) || fault.From(err).RetryAfter == 0 {
				t.Errorf("whoever had no turn gets %v", err)
			}
		}
		close(store.wait)
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if len(searcher.callers) != 0 {
			t.Errorf("%d callers are kept", len(searcher.callers))
		}
		run(a, 1)
		if err := <-errs; err != nil {
			t.Errorf("when nobody searches: %v", err)
		}
	})
}

// TestPeersLeaveAPlaceToTheGatewaysOwnUsers: however many grants they have, and for however many users.
func TestPeersLeaveAPlaceToTheGatewaysOwnUsers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &searched{wait: make(chan struct{})}
		searcher := NewSearcher(&payPerUse{})
		var done sync.WaitGroup
		run := func(a Asker) {
			done.Go(func() {
				_, _ = searcher.Run(context.Background(), a, func() (Found, error) { return store.Search(context.Background(), SearchQuery{}) })
			})
		}
		expect := func(n int64, who string) {
			t.Helper()
			synctest.Wait()
			if got := store.now.Load(); got != n {
				t.Errorf("%s: %d searches at once, want %d", who, got, n)
			}
		}
		peer, other, third, ada := uuid.New(), uuid.New(), uuid.New(), uuid.New()
		for range 3 { // three grants of one peer
			run(Asker{Peer: peer, User: uuid.New()})
		}
		expect(2, "one peer")
		run(Asker{Peer: other, User: ada})
		run(Asker{Peer: other, User: ada})
		expect(3, "two peers")
		run(Asker{User: ada})
		expect(4, "a user of this gateway")
		close(store.wait)
		done.Wait()

		store.wait = make(chan struct{})
		for _, p := range []uuid.UUID{peer, other, third} { // three peers that speak for one user
			run(Asker{Peer: p, User: ada})
		}
		expect(2, "for one user")
		close(store.wait)
		done.Wait()
		if len(searcher.callers) != 0 {
			t.Errorf("%d callers are kept", len(searcher.callers))
		}
	})
}

func TestCapabilitiesTellHowToSearch(t *testing.T) {
	t.Parallel()
	s, c, _ := searching(&searched{}, &payPerUse{})
	a, err := s.Capabilities(t.Context(), c)
	if err != nil || !strings.Contains(string(a.Body), `{"name":"tasks","verbs":["list","get","search"],"search_modes":["lexical","semantic","hybrid"]},{"name":"credentials","verbs":["list","get","search"],"search_modes":["lexical"]}`) {
		t.Errorf("%s, %v", a.Body, err)
	}
}
