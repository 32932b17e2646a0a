package serving

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// ErrSearchBusy says that too many searches are under way. A search looks at every row its caller may see: so many
// at once that nothing else gets its turn would let one peer stop the others.
var ErrSearchBusy = &fault.Fault{
	Kind: fault.Unavailable, Code: "search_busy", Detail: "too many searches are under way",
	Hint: "wait as long as Retry-After says; and search once at a time", RetryAfter: 2 * time.Second,
}

// The searches that are under way at once on one replica, and how long one waits for its turn. All grants of a peer
// count as the peer, and all that speak for one user as that user; one place of all is never a peer's, so that
// the gateway's own users have it whatever peers do.
const (
	searchesAtOnce   = 4
	searchesOfPeers  = 3
	searchesOfCaller = 2
	searchPatience   = 2 * time.Second
)

// Asker is on whose account a search runs.
type Asker struct {
	Peer uuid.UUID // zero: one of this gateway's own users asks
	User uuid.UUID // the one who asks, or whom the peer's grant speaks for
}

// accounts are what the search counts against. A user's own searches are counted apart from those that peers make on
// their behalf: the user does not pay for them.
func (a Asker) accounts() []string {
	if a.Peer == uuid.Nil {
		return []string{"user:" + a.User.String()}
	}
	return []string{"subject:" + a.User.String(), "peer:" + a.Peer.String()}
}

// Embedder turns a query into a vector.
type Embedder interface {
	Model() string  // vectors of two models are never compared
	Remote() bool   // whether a call costs something and tells somebody else
	Floor() float64 // the similarity below which two texts have nothing to do with each other
	// Query gives nil when there is nothing to compare. Its error is a fault.
	Query(ctx context.Context, text string) ([]float32, error)
}

// Lookup is what is searched for among the rows of one resource, whoever asks.
type Lookup struct {
	Resource scope.Resource
	Mode     resource.Mode
	Text     string
	Model    string    // of Vector and of the rows it is compared with; empty for a lexical search
	Vector   []float32 // nil: no row is near
	Floor    float64
	Rows     int
	MaxBytes int
}

// SearchQuery is a peer's search.
type SearchQuery struct {
	Check
	Filter scope.Filter
	Lookup
}

// Found is the best rows, joined as they stand in an answer: with score and snippet.
type Found struct {
	Docs    []byte // JSON objects, separated by commas, best first
	Count   int
	Cut     bool  // whether MaxBytes ended them
	Pending int64 // visible rows that have no embedding of the model yet
}

// Searcher prepares searches and lets few run at once. The federation listener and the API share one.
type Searcher struct {
	embedder Embedder

	slots   chan struct{}
	peers   chan struct{} // those of slots that peers may have
	mu      sync.Mutex
	callers map[string]*callerSlots
}

// NewSearcher returns a Searcher.
func NewSearcher(e Embedder) *Searcher {
	return &Searcher{embedder: e, slots: make(chan struct{}, searchesAtOnce), peers: make(chan struct{}, searchesOfPeers), callers: map[string]*callerSlots{}}
}

// Prepared is a search that can run.
type Prepared struct {
	Lookup
	Limit    int
	Capped   bool
	Degraded string // code of what made it another mode than was asked for; empty when nothing did
}

// costly tells whether to prepare a search takes something that a refused caller must not have.
func (s *Searcher) costly(m resource.Mode) bool { return m != resource.Lexical && s.embedder.Remote() }

// Prepare embeds the query where its mode needs that. A hybrid search whose query cannot be embedded becomes a
// lexical one and says so; for a semantic one that is an error.
func (s *Searcher) Prepare(ctx context.Context, r scope.Resource, q resource.SearchRequest, ceiling int) (Prepared, error) {
	mode, err := q.ModeFor(r)
	if err != nil {
		return Prepared{}, err
	}
	p := Prepared{Lookup: Lookup{Resource: r, Mode: mode, Text: q.Query, MaxBytes: maxAnswerBytes}}
	p.Limit, p.Capped = page.Cap(q.Limit, ceiling)
	p.Rows = p.Limit
	if mode == resource.Lexical {
		return p, nil
	}
	vector, err := s.embedder.Query(ctx, q.Query)
	switch {
	case err == nil:
		p.Model, p.Vector, p.Floor = s.embedder.Model(), vector, s.embedder.Floor()
	case ctx.Err() != nil || mode == resource.Semantic:
		return Prepared{}, err
	default:
		p.Mode, p.Degraded = resource.Lexical, fault.From(err).Code
	}
	return p, nil
}

// Run finds, when it is this search's turn. Whoever waits does so behind their own searches first, and holds a place
// that others want only when they have all before it.
func (s *Searcher) Run(ctx context.Context, a Asker, find func() (Found, error)) (Found, error) {
	turns := make([]chan struct{}, 0, 4)
	for _, account := range a.accounts() {
		own, leave := s.enter(account)
		defer leave()
		turns = append(turns, own)
	}
	if a.Peer != uuid.Nil {
		turns = append(turns, s.peers)
	}
	turns = append(turns, s.slots)
	patience, cancel := context.WithTimeout(ctx, searchPatience)
	defer cancel()
	for _, turn := range turns {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-patience.Done():
			if ctx.Err() != nil {
				return Found{}, ctx.Err()
			}
			return Found{}, ErrSearchBusy
		}
	}
	return find()
}

// callerSlots are the turns of one caller, kept while somebody waits or searches.
type callerSlots struct {
	turns chan struct{}
	users int
}

// Own answers a search of this gateway's own user among the rows they may see. find is the one statement that reads
// them.
func (s *Searcher) Own(ctx context.Context, user uuid.UUID, r scope.Resource, q resource.SearchRequest,
	find func(ctx context.Context, user uuid.UUID, l Lookup) (Found, error),
) ([]byte, error) {
	p, err := s.Prepare(ctx, r, q, page.MaxLimit)
	if err != nil {
		return nil, err
	}
	found, err := s.Run(ctx, Asker{User: user}, func() (Found, error) { return find(ctx, user, p.Lookup) })
	if err != nil {
		return nil, err
	}
	return p.Body(found)
}

func (s *Searcher) enter(caller string) (turns chan struct{}, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callers[caller]
	if c == nil {
		c = &callerSlots{turns: make(chan struct{}, searchesOfCaller)}
		s.callers[caller] = c
	}
	c.users++
	return c.turns, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.users--; c.users == 0 {
			delete(s.callers, caller)
		}
	}
}

// searchInfo says how an answer was found.
type searchInfo struct {
	Mode     resource.Mode `json:"mode"`
	Model    *string       `json:"model"` // null when no embeddings were compared
	Pending  *int64        `json:"pending,omitempty"`
	Degraded string        `json:"degraded,omitempty"`
}

// Body is {"data":[…],"page":{"limit","capped","next_cursor":null},"search":{"mode","model",…}}.
func (p Prepared) Body(f Found) ([]byte, error) {
	info := searchInfo{Mode: p.Mode, Degraded: p.Degraded}
	if p.Model != "" {
		info.Model, info.Pending = &p.Model, &f.Pending
	}
	tail, err := json.Marshal(info)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(f.Docs)+len(tail)+128)
	b = append(append(b, `{"data":[`...), f.Docs...)
	b = strconv.AppendInt(append(b, `],"page":{"limit":`...), int64(p.Limit), 10)
	b = strconv.AppendBool(append(b, `,"capped":`...), p.Capped || f.Cut)
	return append(append(append(b, `,"next_cursor":null},"search":`...), tail...), '}'), nil
}

// SearchRequest is POST /resources/{resource}/search as it came.
type SearchRequest struct {
	Resource string
	Body     []byte
	Mistake  error // what is wrong with the request before its body is read; told only to those who may ask
}

// Search answers with the best rows for a query.
//
// Errors: the refusals of this package, search_invalid, search_mode_unsupported, search_busy and those of the
// Embedder. A resource outside the scope and one that does not exist are both ErrNotFound.
func (s *Service) Search(ctx context.Context, c Caller, q SearchRequest) (Answer, error) {
	req, mistake := resource.SearchRequest{}, q.Mistake
	if mistake == nil {
		req, mistake = resource.ParseSearch(q.Body)
	}
	asked := q.Body
	if mistake == nil {
		asked = []byte(q.Resource + "\x00" + string(req.Mode) + "\x00" + req.Query)
	}
	r := s.begin(c, string(resource.Search), known(q.Resource), asked)
	var p Prepared
	prepared := false
	return r.do(ctx, func(plan Plan) (answer, error) {
		kind, err := inScope(plan, q.Resource)
		if err == nil {
			err = mistake
		}
		var mode resource.Mode
		if err == nil {
			mode, err = req.ModeFor(kind)
		}
		if err != nil {
			return answer{}, s.authorizedError(ctx, r.check(), err)
		}
		if !prepared {
			if s.Searcher.costly(mode) {
				// Whoever is refused in any case shall not make us pay for it. The statement decides all the same.
				if err := s.Store.Authorize(ctx, r.check()); err != nil {
					return answer{}, err
				}
				if err := r.spend(ctx); err != nil {
					return answer{}, err
				}
			}
			if p, err = s.Searcher.Prepare(ctx, kind, req, plan.Scope.MaxRowsPerQuery); err != nil {
				return answer{}, s.authorizedError(ctx, r.check(), err)
			}
			prepared = true
		}
		if r.most > 0 && r.most < p.Rows {
			p.Limit, p.Rows, p.Capped = r.most, r.most, true
		}
		found, err := s.Searcher.Run(ctx, Asker{Peer: plan.PeerID, User: plan.UserID}, func() (Found, error) {
			return s.Store.Search(ctx, SearchQuery{Check: r.check(), Filter: plan.Scope.Filter(kind), Lookup: p.Lookup})
		})
		if err != nil {
			return answer{}, err
		}
		body, err := p.Body(found)
		return answer{body: body, rows: found.Count}, err
	})
}
