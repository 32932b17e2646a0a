package querying

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/span"
)

// The names of a request's sources that are no peer's: no peer may be called so.
const (
	LocalSource = "local" // this gateway's own rows
	AllPeers    = "all"   // every peer the user may ask
)

// The bounds of a question to many.
const (
	maxSources     = 64
	maxFanoutBytes = 8 << 20
	fetchRows      = 500 // of one source at once, at most
)

// ErrSources is a list of sources that cannot be asked.
var ErrSources = &fault.Fault{
	Kind: fault.Invalid, Code: "sources_invalid", Detail: "the list of sources cannot be used",
	Hint: "peers takes all, or names or ids separated by commas, each once; include_local takes true or false",
}

// errUserRequired is the local source of a caller who is nobody's account.
var errUserRequired = &fault.Fault{
	Kind: fault.Invalid, Code: "user_required", Detail: "own rows belong to a user, and the admin socket is none",
	Hint: "ask as a user: --user USER",
}

// Local reads this gateway's own rows: those the user may see now, newest first, as a JSON array, after a position
// and not older than since. more tells whether there are rows after it.
type Local interface {
	Rows(ctx context.Context, res scope.Resource, user uuid.UUID, since time.Time, after page.Key, limit, maxBytes int) (array []byte, more bool, err error)
	// Search answers as a peer does: {"data":[…],"page":{…},"search":{…}}.
	Search(ctx context.Context, res scope.Resource, user uuid.UUID, q resource.SearchRequest) ([]byte, error)
	// Row gives one row the user may see now. What is not there or not theirs is a fault of kind NotFound.
	Row(ctx context.Context, res scope.Resource, user, id uuid.UUID) ([]byte, error)
}

// Sources names whom a question goes to.
type Sources struct {
	Peers []string // names or ids; AllPeers alone stands for every one, LocalSource for the own rows
	Local bool
}

// ParseSources reads the parameters peers and include_local. With neither, every peer is asked.
func ParseSources(peers, includeLocal string) (Sources, error) {
	var s Sources
	switch includeLocal {
	case "", "false":
	case "true":
		s.Local = true
	default:
		return s, ErrSources.With("include_local is true or false")
	}
	if peers == "" {
		peers = AllPeers
	}
	for name := range strings.SplitSeq(peers, ",") {
		switch {
		case name == "" || slices.Contains(s.Peers, name):
			return s, ErrSources.With("peers has an empty name, or one twice")
		case name == LocalSource:
			s.Local = true
		default:
			s.Peers = append(s.Peers, name)
		}
	}
	if slices.Contains(s.Peers, AllPeers) && len(s.Peers) > 1 {
		return s, ErrSources.With("peers is all, or a list of names")
	}
	if len(s.Peers) >= maxSources {
		return s, ErrSources.With("peers has more than %d names", maxSources-1)
	}
	return s, nil
}

// ListAcross asks many sources at once for a page of a resource and merges what they give: newest updated_at first,
// then by id. Each source has its own deadline, and one that fails takes nothing from the others: its status says
// so. Over all pages every row comes exactly once, also from a source that was away in between.
//
// Errors: resource_unknown, ErrSources, limit_invalid, cursor_invalid, updated_since_invalid, audit_unavailable.
func (s *Service) ListAcross(ctx context.Context, c Caller, res string, from Sources, p ListParams) (Page, error) {
	kind, err := resource.Parse(res)
	if err != nil {
		return Page{}, err
	}
	limit, err := page.ParseLimit(p.Limit, page.DefaultLimit, page.MaxLimit)
	if err != nil {
		return Page{}, err
	}
	since, err := page.ParseSince(p.UpdatedSince)
	if err != nil {
		return Page{}, err
	}
	binding := fanoutBinding(c, kind, p.UpdatedSince)
	var at positions
	var held map[string]Credential
	if p.Cursor != "" {
		if at, err = s.openPositions(p.Cursor, binding); err != nil {
			return Page{}, err
		}
	} else if at, held, err = s.start(ctx, c, from); err != nil {
		return Page{}, err
	}
	feeds := make([]*feed, 0, len(at))
	for _, pos := range at {
		fetch := s.holding(held, pos.Source).peerFetch(c, kind, p.UpdatedSince, pos.Source)
		if pos.Source == LocalSource {
			fetch = s.localFetch(c, kind, since)
		}
		feeds = append(feeds, &feed{position: pos, fetch: fetch, rows: min(limit, fetchRows), timeout: s.Timeout, now: s.Now})
	}
	return s.gather(ctx, feeds, limit, binding)
}

// gather asks all sources for their first page at once, merges, and says how each did and where to go on.
func (s *Service) gather(ctx context.Context, feeds []*feed, limit int, binding string) (Page, error) {
	ctx, across := span.Start(ctx, span.FanOut)
	defer across.End()
	defer s.across(resource.List)()
	across.Sources(len(feeds))
	var wg sync.WaitGroup
	for _, f := range feeds {
		wg.Go(func() { f.fill(ctx) })
	}
	wg.Wait()
	out := merge(ctx, feeds, limit)
	for _, f := range feeds {
		if errors.Is(f.err, audit.ErrUnavailable) {
			return Page{}, f.err // what was asked could not be recorded, so nothing of it is told
		}
	}
	var err error
	if out.Page.NextCursor, err = s.next(feeds, binding); err != nil {
		return Page{}, err
	}
	for _, f := range feeds {
		out.Sources = append(out.Sources, f.source())
	}
	return out, nil
}

// next is the cursor of the next page, nil when there is none. It is never one that is too long to be read again: the
// sources with the longest cursors fail until the rest fits.
func (s *Service) next(feeds []*feed, binding string) (*string, error) {
	for more(feeds) {
		at := make(positions, 0, len(feeds))
		longest := 0
		for i, f := range feeds {
			at = append(at, f.resume())
			if len(at[i].Cursor) > len(at[longest].Cursor) {
				longest = i
			}
		}
		cursor, err := s.sealPositions(at, binding)
		if err != nil || len(cursor) <= maxFanoutCursor {
			return &cursor, err
		}
		if at[longest].Cursor == "" { // not with maxSources and the names that peers have
			return nil, errors.New("a cursor is too long without any of the sources'")
		}
		feeds[longest].restart(errLongCursor)
	}
	return nil, nil
}

var errLongCursor = errors.New("the source's cursor is too long to be kept beside the others")

// start is the position of a first page: every source at its beginning. Who asks all peers asks those they hold a
// credential of, and one statement gives both.
func (s *Service) start(ctx context.Context, c Caller, from Sources) (at positions, held map[string]Credential, err error) {
	if from.Local {
		at = append(at, position{Source: LocalSource})
	}
	names := from.Peers
	if len(names) == 1 && names[0] == AllPeers {
		found, err := s.Finder.Usable(ctx, c.UserID)
		if err != nil {
			return nil, nil, err
		}
		names, held = nil, make(map[string]Credential, len(found))
		for _, credential := range found {
			names = append(names, credential.Peer.Name)
			held[credential.Peer.Name] = credential
		}
	}
	at, held = s.once(ctx, c, at, held, names)
	return at, held, nil
}

// once adds a source for each name. A peer that is named by its id too is one source: the first name stands. An id that
// finds nothing is left to the query, which says so and puts it on record.
func (s *Service) once(ctx context.Context, c Caller, at positions, held map[string]Credential, names []string) (positions, map[string]Credential) {
	if held == nil {
		held = map[string]Credential{}
	}
	taken := make(map[string]bool, len(names))
	for _, name := range names {
		peer := name
		if _, err := uuid.Parse(name); err == nil && len(names) > 1 {
			if credential, err := s.Finder.Find(ctx, name, c.UserID); err == nil {
				peer, held[name] = credential.Peer.Name, credential
			}
		}
		if !taken[peer] {
			taken[peer] = true
			at = append(at, position{Source: name})
		}
	}
	return at, held
}

// more tells whether a next page could hold rows. A source that failed alone does not make one: who follows cursors
// to their end would ask it for ever.
func more(feeds []*feed) bool {
	return slices.ContainsFunc(feeds, func(f *feed) bool { return f.err == nil && !f.exhausted() })
}

// merge takes the newest row of all feeds again and again, until the page is full or the time is up.
func merge(ctx context.Context, feeds []*feed, limit int) Page {
	out := Page{Data: []json.RawMessage{}, Page: PageInfo{Limit: limit}}
	size := 0
	for len(out.Data) < limit {
		var newest *feed
		for _, f := range feeds {
			if head, ok := f.head(ctx); ok && (newest == nil || head.before(newest.buffer[0].sortKey)) {
				newest = f
			}
			if f.late { // whose next row may be the newest
				out.Page.Capped = true
				return out
			}
		}
		if newest == nil {
			break
		}
		if size += len(newest.buffer[0].row); size > maxFanoutBytes && len(out.Data) > 0 {
			out.Page.Capped = true
			break
		}
		out.Data = append(out.Data, newest.take())
	}
	return out
}

// localFetch reads this gateway's own rows. Their position needs no cursor.
func (s *Service) localFetch(c Caller, kind scope.Resource, since time.Time) fetchFunc {
	return func(ctx context.Context, at position, rows int) (fetched, error) {
		if c.operator() {
			return fetched{}, errUserRequired
		}
		array, more, err := s.Local.Rows(ctx, kind, c.UserID, since, page.Key{UpdatedAt: at.After.at, ID: at.After.id}, rows, maxFanoutBytes)
		if err != nil {
			return fetched{}, err
		}
		var list []json.RawMessage
		if err := json.Unmarshal(array, &list); err != nil {
			return fetched{}, err
		}
		for i, row := range list {
			if list[i], err = mark(row, LocalSource); err != nil {
				return fetched{}, err
			}
		}
		got := fetched{rows: list}
		if more {
			next := "" // the position alone says where
			got.next = &next
		}
		return got, nil
	}
}

// holding is the service for one answer of one peer: whether the user may ask it is looked up once, however many pages
// that takes, or not at all when it has just been.
func (s *Service) holding(held map[string]Credential, name string) *Service {
	one := *s
	credential, found := held[name]
	one.Finder = &foundOnce{Finder: s.Finder, credential: credential, found: found}
	return &one
}

// peerFetch asks a peer for a page, as a query of its own with its own audit row.
func (s *Service) peerFetch(c Caller, kind scope.Resource, since, name string) fetchFunc {
	return func(ctx context.Context, at position, rows int) (fetched, error) {
		p, err := s.List(ctx, c, name, string(kind), ListParams{Limit: strconv.Itoa(rows), Cursor: at.Cursor, UpdatedSince: since})
		if err != nil {
			return fetched{}, err
		}
		got := fetched{name: p.Sources[0].Name, rows: p.Data, next: p.Page.NextCursor}
		if p.Sources[0].Status == StatusStale {
			got.old = &p.Sources[0]
		}
		return got, nil
	}
}

// foundOnce is a Finder for one peer, one user and one request.
type foundOnce struct {
	Finder
	credential Credential
	found      bool
}

func (f *foundOnce) Find(ctx context.Context, peerRef string, userID uuid.UUID) (Credential, error) {
	if f.found {
		return f.credential, nil
	}
	c, err := f.Finder.Find(ctx, peerRef, userID)
	f.credential, f.found = c, err == nil
	return c, err
}
