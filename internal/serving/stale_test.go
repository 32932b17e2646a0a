package serving

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// versioned is a store whose grant has changed, and may do so again with every plan that is read.
type versioned struct {
	*granting
	version int64
	restive bool
	planned int
}

func (s *versioned) Plan(ctx context.Context, fingerprint [32]byte) (Plan, error) {
	s.planned++
	p, err := s.granting.Plan(ctx, fingerprint)
	p.Version = s.version
	if s.restive {
		s.version++
	}
	return p, err
}

func (s *versioned) List(ctx context.Context, q ListQuery) (Rows, error) {
	if q.Version != s.version {
		return Rows{}, ErrStale()
	}
	return s.granting.List(ctx, q)
}

// TestAStalePlanIsReadAgainOnce: a change of the grant is in force with the next request, which is answered.
func TestAStalePlanIsReadAgainOnce(t *testing.T) {
	t.Parallel()
	s, store, _, c := granted(t, 1, func(*Plan) {})
	changing := &versioned{granting: store, version: 1}
	s.Store = changing
	ask := func() error {
		_, err := s.List(t.Context(), c, ListRequest{Resource: "tasks"})
		return err
	}
	if err := ask(); err != nil || changing.planned != 1 {
		t.Fatalf("%v, planned %d times", err, changing.planned)
	}
	changing.version = 2
	if err := ask(); err != nil || changing.planned != 2 {
		t.Errorf("the grant has changed: %v, planned %d times, want 2", err, changing.planned)
	}
	if err := ask(); err != nil || changing.planned != 2 {
		t.Errorf("the new plan is not kept: %v, planned %d times", err, changing.planned)
	}
	changing.version, changing.restive = 3, true
	if err := ask(); !errors.Is(err, ErrStale()) || changing.planned != 3 {
		t.Errorf("a grant that changes all the time: %v, planned %d times, want it given up after one", err, changing.planned)
	}
}

// TestASearchWhoseTimeIsOverIsNotDegraded: the embeddings are not to blame, and nobody waits for an answer by words.
func TestASearchWhoseTimeIsOverIsNotDegraded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	searcher := NewSearcher(&payPerUse{err: context.Canceled})
	if p, err := searcher.Prepare(ctx, scope.Tasks, resource.SearchRequest{Query: "x", Mode: resource.Hybrid}, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v %v", p, err)
	}
}

func TestASearchCutToItsBudgetSaysSo(t *testing.T) {
	t.Parallel()
	perDay := int64(3)
	s, store, _, c := granted(t, 10, func(p *Plan) { p.RowsPerDay, p.Limit = &perDay, grant.Limit{PerMinute: 100, Burst: 100} })
	s.Store, s.Searcher = &found{store}, NewSearcher(&payPerUse{})
	a, err := s.Search(t.Context(), c, search(`{"query":"x","limit":7}`))
	if err != nil || strings.Count(string(a.Body), "{}") != 3 || !strings.Contains(string(a.Body), `"page":{"limit":3,"capped":true,`) {
		t.Errorf("%s %v", a.Body, err)
	}
}

// found is a store that finds as many rows as are wanted.
type found struct{ *granting }

func (*found) Search(_ context.Context, q SearchQuery) (Found, error) {
	return Found{Docs: []byte(strings.TrimSuffix(strings.Repeat("{},", q.Rows), ",")), Count: q.Rows}, nil
}

// ofOnePeer is a store whose every certificate is of another grant, for another user, and all of one peer.
type ofOnePeer struct {
	*searched
	peer uuid.UUID
}

func (s ofOnePeer) Plan(ctx context.Context, fingerprint [32]byte) (Plan, error) {
	p, err := s.searched.Plan(ctx, fingerprint)
	p.PeerID, p.GrantID, p.UserID = s.peer, uuid.UUID(fingerprint[:16]), uuid.UUID(fingerprint[:16])
	return p, err
}

// TestGrantsOfOnePeerSearchOnOneAccount: more grants are not more places.
func TestGrantsOfOnePeerSearchOnOneAccount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &searched{wait: make(chan struct{})}
		s, c, _ := searching(store, &payPerUse{})
		s.Store, s.Audit = ofOnePeer{store, uuid.New()}, forgetful{}
		var done sync.WaitGroup
		for n := range byte(4) {
			who := c
			who.Identity.Fingerprint[0] = n + 1
			who.Identity.GrantID = uuid.UUID(who.Identity.Fingerprint[:16])
			who.Identity.UserID = who.Identity.GrantID
			done.Go(func() { _, _ = s.Search(context.Background(), who, search(`{"query":"x"}`)) })
		}
		synctest.Wait()
		if n := store.now.Load(); n != searchesOfCaller {
			t.Errorf("four grants of one peer have %d searches at once, want %d", n, searchesOfCaller)
		}
		close(store.wait)
		done.Wait()
	})
}
