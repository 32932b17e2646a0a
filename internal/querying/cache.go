package querying

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
)

// MaxStale is how long an answer may be shown after the peer was asked for it, or to confirm it, whatever anybody has set.
const MaxStale = 5 * time.Minute

// Question is what an answer is kept under: who asked whom, with what, and for what.
type Question struct {
	UserID       uuid.UUID // zero for the operator
	PeerID       uuid.UUID
	CredentialID uuid.UUID
	GrantID      uuid.UUID // the peer's
	Generation   string    // of Credential
	Query        []byte    // method, path, parameters and body
}

// Kept is a peer's answer as it came.
type Kept struct {
	Body []byte
	ETag string
	At   time.Time     // when the peer was asked for it, or to confirm it
	Life time.Duration // how long after At it may be shown while the peer is away
}

// Mark is what Look saw of a grant. What is kept under one is gone when the grant has another.
type Mark []byte

// Cache keeps answers for a moment: to ask the peer whether they still hold, and to show them while it is away. None
// of its methods fails or waits for long: without a cache there are answers all the same.
type Cache interface {
	// Look finds an answer; nil when there is none. A nil Mark says that the cache is away.
	Look(ctx context.Context, q Question) (*Kept, Mark)
	// Keep stores an answer, for its Life and the cache's own bound at most.
	Keep(ctx context.Context, q Question, m Mark, k Kept)
	// Drop forgets one answer.
	Drop(ctx context.Context, q Question)
	// DropGrant forgets every answer of a question's grant, whoever asked, also those that are being kept now.
	DropGrant(ctx context.Context, q Question)
}

// CacheEvent is what the cache did for one question.
type CacheEvent string

// The events. Each question that is asked is a hit or a miss.
const (
	CacheHit         CacheEvent = "hit"         // an answer was held, and the peer was asked whether it still holds
	CacheMiss        CacheEvent = "miss"        // none was
	CacheRevalidated CacheEvent = "revalidated" // the peer said that it holds
	CacheStale       CacheEvent = "stale"       // it was shown without the peer
	CacheCoalesced   CacheEvent = "coalesced"   // an equal question was under way, and its answer was taken
	CachePurged      CacheEvent = "purged"      // the peer refused, and what was held is forgotten
)

// CacheEvents lists them.
func CacheEvents() []CacheEvent {
	return []CacheEvent{CacheHit, CacheMiss, CacheRevalidated, CacheStale, CacheCoalesced, CachePurged}
}

func (s *Service) seen(e CacheEvent) {
	if s.Seen != nil {
		s.Seen(e)
	}
}

// got is an answer with what is known of its age.
type got struct {
	Answer
	stale bool
	age   time.Duration
	why   error // that it is stale
	store *store
}

// store keeps an answer once, for all who share it: the first who could read it does so.
type store struct {
	once sync.Once
	keep func(context.Context)
}

func (g got) keep(ctx context.Context) {
	if g.store != nil {
		g.store.once.Do(func() { g.store.keep(context.WithoutCancel(ctx)) })
	}
}

// answer asks the peer, together with whoever asks the same at this time. A peer that is there decides each time,
// whatever is held; one that is away is stood in for by what it said a moment ago.
func (r *run) answer(ctx context.Context, call func() (Call, error)) (got, error) {
	s := r.s
	if s.Cache == nil || !r.verb.ReadsRows() {
		a, err := r.ask(ctx, call)
		return got{Answer: a}, err
	}
	what, err := call()
	if err != nil {
		return got{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	q := r.question(what)
	g, err := s.flights.join(ctx, q.sum(), s.Timeout, func(ctx context.Context) (got, error) { return r.revalidate(ctx, q, what) }, func() { s.seen(CacheCoalesced) })
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = ErrTimeout.With("%s did not answer in time", r.credential.Peer.Name)
	case err == nil && g.stale:
		s.seen(CacheStale)
	}
	return g, err
}

// revalidate asks the peer for an answer, or whether the one that is held still holds.
func (r *run) revalidate(ctx context.Context, q Question, what Call) (got, error) {
	s := r.s
	// Who waits for this has no longer than the timeout: of it, enough stays to fall back on what is held.
	asking, cancel := context.WithTimeout(ctx, s.Timeout-s.Timeout/20)
	defer cancel()
	held, mark := s.Cache.Look(asking, q)
	what.IfNoneMatch = `""` // nothing is held, and the peer is to say the tag
	if held != nil {
		what.IfNoneMatch = held.ETag
		s.seen(CacheHit)
	} else {
		s.seen(CacheMiss)
	}
	asked := s.Now()
	answer, answered, err := r.send(asking, what)
	// Its own time: what a refusal purges is purged also when the time to ask is over.
	after := context.WithoutCancel(ctx)
	switch {
	case err == nil && answer.Status == http.StatusNotModified:
		if held == nil {
			return got{}, invalid(r.credential.Peer.Name, errors.New("304 to a question that named no answer"))
		}
		s.seen(CacheRevalidated)
		answer = Answer{Status: http.StatusOK, Body: held.Body, ETag: held.ETag, Life: answer.Life}
		return r.keeping(after, q, mark, answer, asked), nil
	case err == nil:
		return r.keeping(after, q, mark, answer, asked), nil
	case held != nil && !answered && away(err):
		// Looked up again: the peer may have refused another question of the grant while this one waited.
		if held, _ = s.Cache.Look(after, q); held == nil {
			break
		}
		if age := max(s.Now().Sub(held.At), 0); age < min(held.Life, MaxStale) {
			return got{Answer: Answer{Status: http.StatusOK, Body: held.Body}, stale: true, age: age, why: err}, nil
		}
	case forget(after, s.Cache, r.credential, err):
		s.seen(CachePurged)
	case errors.Is(err, ErrNotFound):
		s.Cache.Drop(after, q)
		if held != nil {
			s.seen(CachePurged)
		}
	}
	return got{}, err
}

// keeping is an answer that is kept when somebody could read it. One that may not be kept leaves nothing of an earlier
// one behind.
func (r *run) keeping(ctx context.Context, q Question, m Mark, a Answer, asked time.Time) got {
	life := min(a.Life, MaxStale)
	if a.ETag == "" || life <= 0 {
		r.s.Cache.Drop(ctx, q)
		return got{Answer: a}
	}
	return got{Answer: a, store: &store{keep: func(ctx context.Context) {
		r.s.Cache.Keep(ctx, q, m, Kept{Body: a.Body, ETag: a.ETag, At: asked, Life: life})
	}}}
}

// away tells whether a peer that said nothing could not be asked: the network, its silence, or a breaker that is open
// since one of them. One that answers is there, whatever it says: a 5xx may be a moment's trouble after the grant was
// revoked. A stranger in its place is not its absence, nor is a question that this side did not send.
func away(err error) bool {
	return (errors.Is(err, ErrUnreachable) || errors.Is(err, ErrTimeout)) && !errors.Is(err, ErrAnswered)
}

// shown marks the source of an answer that is stale.
func (r *run) shown(sources []Source) {
	if !r.got.stale {
		return
	}
	age := int(r.got.age / time.Second)
	rows := sources[0].Rows
	sources[0] = sourceOf(sources[0].Name, r.got.why)
	sources[0].Status, sources[0].Age, sources[0].Rows = StatusStale, &age, rows
	sources[0].Detail = fmt.Sprintf("%s: these rows are of %d s ago", sources[0].Detail, age)
}

// forget drops what is kept of a grant when its peer has refused, whatever it was asked: it would refuse its rows as well.
func forget(ctx context.Context, kept Cache, c Credential, err error) bool {
	if kept == nil || !errors.Is(err, ErrDenied) {
		return false
	}
	kept.DropGrant(ctx, Question{PeerID: c.Peer.ID, CredentialID: c.ID, GrantID: c.RemoteGrantID})
	return true
}

func (r *run) question(what Call) Question {
	c := r.credential
	return Question{
		UserID: r.caller.UserID, PeerID: c.Peer.ID, CredentialID: c.ID, GrantID: c.RemoteGrantID, Generation: c.Generation,
		Query: joinParts([]byte(what.Method), []byte(what.Path), []byte(what.Query.Encode()), what.Body),
	}
}

// Bytes is the question in one piece. No two questions have the same.
func (q Question) Bytes() []byte {
	return joinParts(q.UserID[:], q.Grant(), []byte(q.Generation), q.Query)
}

// Grant is whose answers DropGrant forgets.
func (q Question) Grant() []byte { return joinParts(q.PeerID[:], q.CredentialID[:], q.GrantID[:]) }

func (q Question) sum() [32]byte { return sha256.Sum256(q.Bytes()) }

// joinParts joins parts so that no two lists of them give the same bytes.
func joinParts(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(binary.BigEndian.AppendUint64(out, uint64(len(p))), p...)
	}
	return out
}
