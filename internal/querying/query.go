package querying

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/span"
)

// DefaultTimeout is what one peer gets to answer one query.
const DefaultTimeout = 5 * time.Second

const (
	apiBase     = "/federation/v1/"
	apiPath     = apiBase + "resources/"
	recordLimit = 5 * time.Second // for the audit record of a query whose caller has gone
	maxCursor   = 2048            // characters of a peer's cursor
)

// Caller is on whose behalf a peer is asked.
type Caller struct {
	UserID      uuid.UUID // zero for the operator at the admin socket, who may use any credential
	RequestID   string
	Actor       string // for the audit log, as account.Principal.Name gives it
	Traceparent string // of the request, for peers when this gateway makes no spans; empty for none
}

func (c Caller) operator() bool { return c.UserID == uuid.Nil }

// Credential is what a query needs of the credential it uses.
type Credential struct {
	ID            uuid.UUID
	Peer          peer.Peer
	RemoteGrantID uuid.UUID
	FederationURL string
	ChainPEM      string
	CARootPEM     string
	SealedKey     []byte
	Serial        string
	NotAfter      time.Time
	// Generation is another one after everything that changes who may ask with it: a change of the peer's state, of
	// the user, and of the share by which the user may. What was kept under an earlier one is not found again.
	Generation string
}

// fingerprint is the SHA-256 of the client certificate, by which the peer's audit log knows it too.
func (c Credential) fingerprint() []byte {
	block, _ := pem.Decode([]byte(c.ChainPEM))
	if block == nil {
		return nil
	}
	sum := sha256.Sum256(block.Bytes)
	return sum[:]
}

// Finder finds credentials.
type Finder interface {
	// Find gives the newest active credential of a peer (by id or name) that the user may use: one that is linked
	// to them or to a team they are in now, or any when userID is zero. Errors: ErrPeerNotFound, and ErrNoCredential
	// with Credential.Peer set.
	Find(ctx context.Context, peerRef string, userID uuid.UUID) (Credential, error)
	// Available names the peers that Find would give the user a credential of, in alphabetical order.
	Available(ctx context.Context, userID uuid.UUID) ([]string, error)
	// Usable gives what Find gives for each peer that Available names, in the same order.
	Usable(ctx context.Context, userID uuid.UUID) ([]Credential, error)
}

// Recorder makes an event durable before it returns.
type Recorder interface {
	Record(ctx context.Context, e audit.Event) error
}

// Hasher makes the keyed hash of a query that its audit row carries.
type Hasher func(data []byte) []byte

// Config is what a Service needs.
type Config struct {
	Finder  Finder
	Client  Client
	Keys    Keys
	Audit   Recorder
	Hash    Hasher
	Now     func() time.Time
	Timeout time.Duration          // per peer; zero: DefaultTimeout
	Touch   func(peerID uuid.UUID) // told of every peer that answered; may be nil
	Local   Local                  // this gateway's own rows
	Cache   Cache                  // nil: nothing is kept, and every question goes to the peer
	Seen    func(CacheEvent)       // told what the cache did; may be nil
	Cursors page.AEAD              // seals the cursors of answers from many sources
	Observe Observer               // nil: nobody measures
}

// Service asks peers for rows.
type Service struct {
	Config
	flights *flights // one for all copies
}

// New returns a Service.
func New(c Config) *Service {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	return &Service{Config: c, flights: &flights{}}
}

// ListParams are the parameters of a list as they came; the peer reads what they say.
type ListParams struct {
	Limit        string
	Cursor       string
	UpdatedSince string
}

// List asks one peer for a page of a resource.
//
// Errors: resource_unknown, ErrNotAvailable (for the operator ErrPeerNotFound and ErrNoCredential), peer.ErrSuspended,
// peer.ErrRevoked, ErrCredentialExpired, limit_invalid, cursor_invalid, updated_since_invalid, the errors of Client,
// what the peer refuses with, and audit_unavailable.
func (s *Service) List(ctx context.Context, c Caller, peerRef, res string, p ListParams) (Page, error) {
	kind, err := resource.Parse(res)
	if err != nil {
		return Page{}, err
	}
	query := []byte(string(kind) + "\x00" + p.UpdatedSince + "\x00" + p.Cursor)
	r := &run{s: s, caller: c, verb: resource.List, resource: string(kind), query: query, started: s.Now()}
	var out Page
	err = r.do(ctx, peerRef, func() (Call, error) { return r.list(p) }, func(a Answer) (rows int, err error) {
		out, err = readPage(a.Body, r.credential.Peer.Name)
		return len(out.Data), err
	})
	if err != nil {
		return Page{}, err
	}
	r.shown(out.Sources)
	return out, nil
}

// Get asks one peer for one row. A row outside the scope, one that is not there and an id that is no UUID are all
// ErrNotFound; the other errors are those of List.
func (s *Service) Get(ctx context.Context, c Caller, peerRef, res, id string) (Row, error) {
	kind, err := resource.Parse(res)
	if err != nil {
		return Row{}, err
	}
	r := &run{s: s, caller: c, verb: resource.Get, resource: string(kind), query: []byte(string(kind) + "\x00" + id), started: s.Now()}
	var out Row
	err = r.do(ctx, peerRef, func() (Call, error) { return r.get(id) }, func(a Answer) (rows int, err error) {
		out, err = readRow(a.Body, r.credential.Peer.Name)
		return 1, err
	})
	if err != nil {
		return Row{}, err
	}
	r.shown(out.Sources)
	return out, nil
}

// run is one query on its way: what is known of it so far, for the audit row.
type run struct {
	s          *Service
	caller     Caller
	verb       resource.Verb
	resource   string
	query      []byte
	started    time.Time
	credential Credential
	got        got
}

// do carries a query through. Whatever the peer was asked is on record before anything is said about it.
func (r *run) do(ctx context.Context, peerRef string, call func() (Call, error), read func(Answer) (int, error)) (err error) {
	ctx, asked := span.Start(ctx, span.Query)
	rows := 0
	defer func() {
		asked.Asks(string(r.verb), r.resource)
		asked.Between(r.credential.Peer.ID, r.credential.RemoteGrantID)
		status := StatusOf(err)
		if err == nil && r.got.stale {
			status = StatusStale
		}
		asked.Source(status, rows)
		r.asked(status)
		if err != nil {
			asked.Failed(fault.From(err).Code)
		}
		asked.End()
	}()
	if err := r.find(ctx, peerRef); err != nil {
		if k := fault.From(err).Kind; k == fault.Internal || k == fault.Unavailable {
			return err // nobody was denied anything, and nothing was asked
		}
		return r.record(ctx, err, 0, 0)
	}
	if r.got, err = r.answer(ctx, call); err != nil {
		return r.record(ctx, err, 0, 0)
	}
	if rows, err = read(r.got.Answer); err != nil {
		rows = 0
		return r.record(ctx, err, 0, 0)
	}
	if r.s.Touch != nil && !r.got.stale {
		r.s.Touch(r.credential.Peer.ID)
	}
	if err = r.record(ctx, nil, rows, len(r.got.Body)); err == nil {
		r.got.keep(ctx)
	}
	return err
}

// find picks the credential. Users learn of a peer only through a credential that they may use.
func (r *run) find(ctx context.Context, peerRef string) error {
	c, err := r.s.Finder.Find(ctx, peerRef, r.caller.UserID)
	r.credential = c
	switch {
	case errors.Is(err, ErrPeerNotFound), errors.Is(err, ErrNoCredential):
		if !r.caller.operator() {
			return ErrNotAvailable.Because(err)
		}
		return err
	case err != nil:
		return err
	case c.Peer.State == peer.Revoked:
		return peer.ErrRevoked.With("this gateway has revoked the peer %s", c.Peer.Name).
			Advise("revoking is final: remove the peer and add it anew: mosaic federation peer remove %s", c.Peer.Name)
	case c.Peer.State == peer.Suspended:
		return peer.ErrSuspended.With("this gateway has suspended the peer %s", c.Peer.Name).
			Advise("an admin of this gateway can lift it: mosaic federation peer resume %s", c.Peer.Name)
	case !r.started.Before(c.NotAfter):
		return ErrCredentialExpired.With("the credential for %s expired at %s", c.Peer.Name, c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func (r *run) ask(ctx context.Context, call func() (Call, error)) (Answer, error) {
	what, err := call()
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.s.Timeout)
	defer cancel()
	a, _, err := r.send(ctx, what)
	if forget(context.WithoutCancel(ctx), r.s.Cache, r.credential, err) {
		r.s.seen(CachePurged)
	}
	return a, err
}

// send asks the peer. Its answer is 200, or 304 to a call that names what is held; everything else is an error.
// Answered tells whether the peer said anything.
func (r *run) send(ctx context.Context, what Call) (a Answer, answered bool, err error) {
	what.RequestID, what.Traceparent = r.caller.RequestID, r.caller.Traceparent
	answer, err := r.s.Client.Do(ctx, r.credential.target(r.s.Keys), what)
	if err != nil {
		return Answer{}, false, err
	}
	if answer.Status == http.StatusNotModified && what.IfNoneMatch != "" {
		return answer, true, nil
	}
	if answer.Status != http.StatusOK || answer.Problem {
		return Answer{}, true, queryRefusal(answer, r.credential.Peer.Name)
	}
	return answer, true, nil
}

// target is whom the credential asks, and with what.
func (c Credential) target(keys Keys) Target {
	return Target{
		Peer: c.Peer.Name, CredentialID: c.ID, Serial: c.Serial, URL: c.FederationURL, ChainPEM: c.ChainPEM, CARootPEM: c.CARootPEM,
		Key: func() ([]byte, error) { return keys.Open(c.SealedKey, keyTable, keyColumn, c.ID.String()) },
	}
}

func (r *run) list(p ListParams) (Call, error) {
	limit, err := page.ParseLimit(p.Limit, page.DefaultLimit, page.MaxLimit)
	if err != nil {
		return Call{}, err
	}
	since, err := page.ParseSince(p.UpdatedSince)
	if err != nil {
		return Call{}, err
	}
	if p.Cursor != "" && !cursorShaped(p.Cursor) {
		return Call{}, page.ErrCursorInvalid
	}
	// Both are written anew: what the user wrote may be longer than what it says.
	query := url.Values{}
	if p.Limit != "" {
		query.Set("limit", strconv.Itoa(limit))
	}
	if p.Cursor != "" {
		query.Set("cursor", p.Cursor)
	}
	if p.UpdatedSince != "" {
		query.Set("updated_since", since.Format(time.RFC3339Nano))
	}
	return Call{Method: http.MethodGet, Path: apiPath + r.resource, Query: query, Repeatable: true}, nil
}

func (r *run) get(id string) (Call, error) {
	row, err := rowID(id)
	if err != nil {
		return Call{}, err
	}
	return Call{Method: http.MethodGet, Path: apiPath + r.resource + "/" + row.String(), Repeatable: true}, nil
}

// rowID reads the id of a row in its canonical form. What cannot be one names no row.
func rowID(id string) (uuid.UUID, error) {
	row, err := uuid.Parse(id)
	if err != nil || len(id) != len(row.String()) {
		return uuid.Nil, ErrNotFound
	}
	return row, nil
}

// record makes the query durable in the audit log and returns err; if it cannot be recorded, nothing but that is
// said. The question has crossed the boundary, so it is on record also when the caller has gone.
func (r *run) record(ctx context.Context, err error, rows, size int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLimit)
	defer cancel()
	p := r.credential.Peer
	e := audit.Event{
		RequestID: r.caller.RequestID, Direction: audit.Outbound, Actor: r.caller.Actor,
		PeerID: p.ID, PeerName: p.Name, GrantID: r.credential.RemoteGrantID, SubjectUserID: r.caller.UserID,
		Fingerprint: r.credential.fingerprint(), Verb: string(r.verb), Resource: r.resource,
		StatusCode: http.StatusOK, Outcome: audit.OK, QueryHash: r.s.Hash(r.query),
		RowsOut: rows, BytesOut: int64(size), Duration: r.s.Now().Sub(r.started),
	}
	if err == nil && r.got.stale {
		e.Detail = "stale: the peer is away"
	}
	if err != nil {
		f := fault.From(err)
		e.StatusCode, e.DeniedReason, e.Outcome = f.Kind.Status(), f.Code, audit.Denied
		switch f.Kind {
		case fault.Internal, fault.Unavailable, fault.BadGateway, fault.GatewayTimeout:
			e.Outcome = audit.Failed
		}
	}
	ctx, commit := span.Start(ctx, span.Audit)
	defer commit.End()
	if recorded := r.s.Audit.Record(ctx, e); recorded != nil {
		return errors.Join(recorded, err)
	}
	return err
}
