// Package serving answers one federated request: what a peer may read of this gateway, now.
//
// The order is fixed, and every step is there before a byte leaves:
//
//	identity from the certificate -> limit on certificates refused lately -> one statement that checks
//	certificate, grant, peer, user and scope version and reads the rows -> limit per grant and peer ->
//	budget of rows, if the grant has one -> audit record durable -> answer
//
// There is no cache between a revoke and a request: a parsed scope is kept, but the statement refuses to answer
// for another version of the grant than the one it was parsed from.
package serving

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/span"
)

// The bounds of an answer.
const (
	maxAnswerBytes   = 8 << 20
	maxEnvelopeBytes = page.MaxCursorLen + 128 // of a list, what is around its rows
	maxPlans         = 10_000                  // grants whose parsed scope is kept
	recordWithin     = 10 * time.Second        // two commits of the audit log, each as slow as they may be
)

// errStale says that the grant has changed since its plan was made: the plan is read again, once.
var errStale = errors.New("grant has another version than the plan")

// Plan is what is known of a grant before a statement runs: the parsed scope and the limits. It is bound to a
// version of the grant, and the statement answers for no other.
type Plan struct {
	GrantID      uuid.UUID
	UserID       uuid.UUID
	PeerID       uuid.UUID
	PeerName     string
	Version      int64
	Scope        scope.Scope
	Limit        grant.Limit
	PeerLimit    *grant.Limit // nil: none
	RowsPerDay   *int64       // nil: as many as the limits allow
	ExpiresAt    *time.Time
	CacheSeconds int
	Unused       bool // the certificate has not been used before
}

// Check names what the statement checks beside reading.
type Check struct {
	Fingerprint [32]byte
	GrantID     uuid.UUID
	UserID      uuid.UUID
	Version     int64
}

// ListQuery is one page of one resource, newest first.
type ListQuery struct {
	Check
	Resource scope.Resource
	Filter   scope.Filter
	Since    time.Time // zero: no bound
	After    page.Key  // zero: the first page
	Rows     int       // as many rows are wanted; one more is read to know whether there is a next page
	MaxBytes int
	Into     []byte // the documents are appended to it
}

// Rows is a page of documents, joined as they stand in an answer.
type Rows struct {
	Docs  []byte   // ListQuery.Into, and then JSON objects separated by commas
	Count int      // how many
	Last  page.Key // of the last one
	More  bool     // whether there are rows after it
	Cut   bool     // whether MaxBytes ended the page
}

// GetQuery is one row of one resource.
type GetQuery struct {
	Check
	Resource scope.Resource
	Filter   scope.Filter
	ID       uuid.UUID
}

// Store reads for a peer. Each method but Plan is one statement, whose one snapshot decides both whether the
// certificate, grant, peer and user are good and which rows there are. Refusals are this package's faults;
// ErrStale asks for a new plan.
type Store interface {
	Plan(ctx context.Context, fingerprint [32]byte) (Plan, error)
	Authorize(ctx context.Context, c Check) error
	List(ctx context.Context, q ListQuery) (Rows, error)
	Get(ctx context.Context, q GetQuery) (doc []byte, err error) // nil: not there, or not visible
	Search(ctx context.Context, q SearchQuery) (Found, error)
	// HangUp revokes the grant in one transaction with two audit rows: of the act, and of the request.
	HangUp(ctx context.Context, c Check, act audit.Act, request audit.Event) error
	// Used notes the first use of a certificate; an older one of the grant retires RetireAfter from now.
	Used(ctx context.Context, c Check) error
}

// ErrStale is what a Store returns when Check.Version is not the grant's.
func ErrStale() error { return errStale }

// Recorder makes an event durable before it returns.
type Recorder interface {
	Record(ctx context.Context, e audit.Event) error
}

// Limiter spends one from every bucket, or nothing when one of them is empty, and tells where the tightest stands.
type Limiter interface {
	Take(ctx context.Context, buckets ...grant.Bucket) (grant.Standing, error)
}

// Answer is what a request is answered with. Its Limit is set as soon as a limit has looked at the request, so it
// comes with a refusal too.
type Answer struct {
	Body      []byte
	Limit     grant.Standing
	Validator Validator // of an answer with rows, for a caller that keeps answers

	lent *lent
}

// Done gives the body's memory back for the next answer. Nobody may look at the body after it; leaving it out costs
// that memory and nothing else.
func (a *Answer) Done() {
	a.lent.back()
	a.Body, a.lent = nil, nil
}

// Hasher makes the keyed hash of a query that its audit row carries.
type Hasher func(data []byte) []byte

// Config is what a Service needs.
type Config struct {
	Store    Store
	Audit    Recorder
	Limiter  Limiter
	Budgets  Budgets
	Cursors  *page.Sealer
	Hash     Hasher
	Tag      Hasher // keyed, and separate from Hash: makes the tags of answers
	Now      func() time.Time
	Log      *slog.Logger
	Refused  *RefusedLately
	CRL      func(ctx context.Context) ([]byte, error) // the CA's revocation list, in DER
	Roots    func(ctx context.Context) ([]*x509.Certificate, error)
	Coming   func(n int)            // told when a request begins (1) and ends (-1): most will have a record
	Touch    func(peerID uuid.UUID) // told of every peer that was answered
	Observe  Observe                // nil: nobody measures
	Searcher *Searcher
	Renew    Renew
	Note     func(refusal audit.Event) // counts what a limit turned away, for the audit log; nil counts nothing
}

// Service answers federated requests.
type Service struct {
	Config
	plans  plans
	bodies bodies
}

// New returns a Service.
func New(c Config) *Service { return &Service{Config: c} }

// Caller is whom a connection's certificate speaks for, and the request it makes.
type Caller struct {
	Identity      identity.Identity
	RequestID     string
	RemoteAddress string
	Mistake       error  // what is wrong with the request, whatever it asks for; told only to those who may ask
	IfNoneMatch   string // tags of the answers that the caller holds (RFC 9110, section 13.1.2); empty: it keeps none
}

// run is one request on its way: what is known of it so far, for the audit row.
type run struct {
	s        *Service
	caller   Caller
	plan     Plan
	planned  bool // plan has been read
	verb     string
	res      string
	query    []byte
	started  time.Time
	lapped   time.Time
	spent    bool           // counted against its limits
	standing grant.Standing // after that
	seen     Observation

	most     int         // rows the answer may hold, when that is fewer than were asked for; 0: as many as were asked for
	reserved Reservation // of the grant's budget of rows
}

func (s *Service) begin(c Caller, verb, res string, query []byte) *run {
	now := s.Now()
	return &run{s: s, caller: c, verb: verb, res: res, query: query, started: now, lapped: now}
}

// answer is the body of a good answer and what its audit row says of it.
type answer struct {
	body []byte
	rows int
	lent *lent // what body is written into, if it goes back

	stable    int // bytes of the body that are the same for the same rows; 0: all of them
	validator Validator
	recorded  bool // the work is done for good, and its audit row was written with it
}

// status is what the answer has on record.
func (a answer) status() int {
	if a.validator.Unchanged {
		return unchanged
	}
	return 200
}

// do carries a request through: work is the one statement, run again once when the plan turns out stale.
//
// Whoever may ask at all is limited, also when what they ask for is not there, is asked for wrongly or took too
// long: that costs as much as an answer, and is a row of the audit log.
func (r *run) do(ctx context.Context, work func(p Plan) (answer, error)) (Answer, error) {
	err := error(fault.ErrInternal)
	ended := false
	defer func() {
		if !ended { // a panic, on its way to where it becomes a 500
			_ = r.record(ctx, r.event(fault.Internal.Status(), audit.Failed, fault.ErrInternal.Code, answer{}))
		}
		r.observed(ctx, err)
	}()
	var out Answer
	out, err = r.carry(ctx, work)
	ended = true
	return out, err
}

func (r *run) carry(ctx context.Context, work func(p Plan) (answer, error)) (out Answer, err error) {
	s := r.s
	if mistake := r.caller.Mistake; mistake != nil {
		work = func(Plan) (answer, error) { return answer{}, s.authorizedError(ctx, r.check(), mistake) }
	}
	if resource.Verb(r.verb).ReadsRows() {
		work = r.budgeted(ctx, work)
	}
	if s.Coming != nil {
		s.Coming(1)
		defer s.Coming(-1)
	}
	wait := s.Refused.Wait(r.caller.Identity.Fingerprint)
	r.lap(StepRefusedLately)
	if wait > 0 {
		out.Limit = grant.Standing{Name: "certificate", Limit: grant.Limit{PerMinute: refusalsInMinute, Burst: refusalsInMinute}, Reset: wait, Wait: wait}
		return out, r.refuse(ctx, ErrRateLimited.After(wait))
	}
	a, failed := r.attempt(ctx, work)
	if !r.pays(failed) {
		out.Limit = r.standing
		return out, r.refuse(ctx, failed)
	}
	if err = r.spend(ctx); err == nil {
		err = failed
	}
	out.Limit = r.standing
	if r.plan.Unused {
		r.used(ctx)
	}
	if err == nil {
		a, err = r.withinBudget(ctx, a, work)
	}
	if err != nil {
		return out, r.refuse(ctx, err)
	}
	if !a.recorded {
		err = r.record(ctx, r.event(a.status(), audit.OK, "", a))
	}
	if err != nil {
		r.giveBack(ctx, r.reserved.Rows)
		return out, err
	}
	if s.Touch != nil {
		s.Touch(r.plan.PeerID)
	}
	r.seen.Status = a.status()
	out.Body, out.lent, out.Validator = a.body, a.lent, a.validator
	return out, nil
}

func (r *run) attempt(ctx context.Context, work func(p Plan) (answer, error)) (answer, error) {
	for fresh := false; ; fresh = true {
		p, err := r.s.plan(ctx, r.caller.Identity, fresh)
		r.lap(StepPlan)
		if err != nil {
			return answer{}, err
		}
		r.plan, r.planned = p, true
		a, err := work(p)
		r.lap(StepStatement)
		// The statement names a better reason when there is one: a certificate ends with its grant at the latest.
		if !r.s.Now().Before(r.caller.Identity.NotAfter) && !refused(err) && !a.recorded {
			err = ErrCertificateExpired
		}
		if errors.Is(err, errStale) && !fresh {
			continue
		}
		if err == nil {
			r.validate(&a)
		}
		return a, err
	}
}

func (r *run) check() Check {
	id := r.caller.Identity
	return Check{Fingerprint: id.Fingerprint, GrantID: id.GrantID, UserID: id.UserID, Version: r.plan.Version}
}

// buckets are what a request spends from: all of them or none, so that a peer that is over its limit does not spend
// its grants as well.
func (r *run) buckets() []grant.Bucket {
	b := make([]grant.Bucket, 1, 2)
	b[0] = grant.Bucket{Name: "grant", ID: r.plan.GrantID.String(), Limit: r.plan.Limit}
	if r.plan.PeerLimit != nil {
		b = append(b, grant.Bucket{Name: "peer", ID: r.plan.PeerID.String(), Limit: *r.plan.PeerLimit})
	}
	return b
}

// spend counts the request against its limits, once: a request that costs more than a statement is counted before it
// does.
func (r *run) spend(ctx context.Context) (err error) {
	if r.spent {
		return nil
	}
	r.spent = true
	ctx, limit := span.Start(ctx, span.Limit)
	r.standing, err = r.s.Limiter.Take(ctx, r.buckets()...)
	limit.End()
	r.lap(StepLimit)
	if err == nil && r.standing.Refused() {
		err = ErrRateLimited.After(r.standing.Wait)
	}
	return err
}

// pays reports whether a request that ended like this spends from its limits. A caller that may not ask is told why
// and spends nothing, and nor does one whose request failed by a mistake of ours.
func (r *run) pays(err error) bool {
	if err == nil || errors.Is(err, ErrRowBudgetSpent) {
		return true
	}
	switch fault.From(err).Kind {
	case fault.Unauthenticated, fault.Forbidden, fault.RateLimited, fault.Internal:
		return false
	}
	return r.planned
}
