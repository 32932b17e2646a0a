package serving

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// ListRequest is GET /resources/{resource}, its parameters as they came.
type ListRequest struct {
	Resource string
	Limit    string
	Cursor   string
	Since    string
	Mistake  error // what is wrong with the query as a whole; told only to those who may ask
}

// List answers with one page: {"data":[…],"page":{"limit","capped","next_cursor"}}.
//
// Errors: the refusals of this package, limit_invalid, cursor_invalid, updated_since_invalid. A resource outside
// the scope and one that does not exist are both ErrNotFound.
func (s *Service) List(ctx context.Context, c Caller, q ListRequest) (Answer, error) {
	r := s.begin(c, string(resource.List), known(q.Resource), []byte(q.Resource+"\x00"+q.Since+"\x00"+q.Cursor))
	return r.do(ctx, func(p Plan) (answer, error) {
		lq, capped, err := s.parseList(p, q)
		if err != nil {
			// Whoever may not ask at all is told that, and nothing of their parameters.
			return answer{}, s.authorizedError(ctx, r.check(), err)
		}
		lq.Check = r.check()
		if r.most > 0 && r.most < lq.Rows {
			lq.Rows, capped = r.most, true
		}
		body := s.bodies.lend()
		lq.Into = append(body.bytes, `{"data":[`...)
		rows, err := s.Store.List(ctx, lq)
		if err != nil {
			body.back()
			return answer{}, err
		}
		var stable int
		body.bytes, stable, err = s.page(rows, lq.Rows, capped || rows.Cut, binding(p, q))
		return answer{body: body.bytes, rows: rows.Count, lent: body, stable: stable}, err
	})
}

func (s *Service) parseList(p Plan, q ListRequest) (lq ListQuery, capped bool, err error) {
	res, err := inScope(p, q.Resource)
	if err == nil {
		err = q.Mistake
	}
	if err != nil {
		return lq, false, err
	}
	limit, err := page.ParseLimit(q.Limit, page.DefaultLimit, page.MaxLimit)
	if err != nil {
		return lq, false, err
	}
	since, err := page.ParseSince(q.Since)
	if err != nil {
		return lq, false, err
	}
	lq = ListQuery{Resource: res, Filter: p.Scope.Filter(res), Since: since, MaxBytes: maxAnswerBytes - maxEnvelopeBytes}
	if q.Cursor != "" {
		if lq.After, err = s.Cursors.Open(q.Cursor, binding(p, q)); err != nil {
			return lq, false, err
		}
	}
	lq.Rows, capped = page.Cap(limit, p.Scope.MaxRowsPerQuery)
	return lq, capped, nil
}

// binding ties a cursor to the grant and to the query whose position it is.
func binding(p Plan, q ListRequest) string {
	return "list\x00" + p.GrantID.String() + "\x00" + q.Resource + "\x00" + q.Since
}

// page ends the body that the rows are in. Stable is how much of it depends on the rows alone: no two sealings of one
// position are alike, and the position is that of the last row.
func (s *Service) page(rows Rows, limit int, capped bool, binding string) (body []byte, stable int, err error) {
	b := append(rows.Docs, `],"page":{"limit":`...)
	b = strconv.AppendInt(b, int64(limit), 10)
	b = append(b, `,"capped":`...)
	b = strconv.AppendBool(b, capped)
	b = append(b, `,"next_cursor":`...)
	if !rows.More {
		b = append(b, `null}}`...)
		return b, len(b), nil
	}
	cursor, err := s.Cursors.Seal(rows.Last, binding)
	if err != nil {
		return nil, 0, err
	}
	b = append(b, '"')
	stable = len(b)
	b = append(b, cursor...)
	return append(b, `"}}`...), stable, nil
}

// Get answers with one row: {"data":{…}}.
//
// Errors: the refusals of this package. A row outside the scope, one that does not exist and an id that is no
// UUID are all ErrNotFound.
func (s *Service) Get(ctx context.Context, c Caller, res, id string) (Answer, error) {
	r := s.begin(c, string(resource.Get), known(res), []byte(res+"\x00"+id))
	return r.do(ctx, func(p Plan) (answer, error) {
		kind, err := inScope(p, res)
		if err != nil {
			return answer{}, s.authorizedError(ctx, r.check(), err)
		}
		rowID, err := uuid.Parse(id)
		if err != nil || len(id) != 36 {
			return answer{}, s.authorizedError(ctx, r.check(), ErrNotFound)
		}
		doc, err := s.Store.Get(ctx, GetQuery{Check: r.check(), Resource: kind, Filter: p.Scope.Filter(kind), ID: rowID})
		if err != nil {
			return answer{}, err
		}
		if doc == nil {
			return answer{}, ErrNotFound
		}
		body := make([]byte, 0, len(doc)+16)
		body = append(append(append(body, `{"data":`...), doc...), '}')
		return answer{body: body, rows: 1}, nil
	})
}

// capabilities is what a peer is told of its own grant, so that it need not guess.
type capabilities struct {
	GrantID       uuid.UUID        `json:"grant_id"`
	SubjectUserID uuid.UUID        `json:"subject_user_id"`
	Scope         scope.Scope      `json:"scope"`
	Resources     []resourceVerbs  `json:"resources"`
	MaxRows       int              `json:"max_rows_per_query"`
	RateLimit     rateLimit        `json:"rate_limit"`
	RowBudget     *rowBudget       `json:"row_budget"`
	CacheSeconds  int              `json:"cache_seconds"`
	GrantExpires  *time.Time       `json:"grant_expires_at"`
	Certificate   certificateDates `json:"certificate"`
}

type resourceVerbs struct {
	Name  scope.Resource  `json:"name"`
	Verbs []resource.Verb `json:"verbs"`
	Modes []resource.Mode `json:"search_modes"`
}

type rateLimit struct {
	PerMinute int `json:"per_minute"`
	Burst     int `json:"burst"`
}

type certificateDates struct {
	SerialNumber string    `json:"serial_number"`
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
}

// Capabilities answers with what the grant covers: resources, verbs, limits, dates.
func (s *Service) Capabilities(ctx context.Context, c Caller) (Answer, error) {
	r := s.begin(c, string(resource.Capabilities), "", nil)
	return r.do(ctx, func(p Plan) (answer, error) {
		if err := s.Store.Authorize(ctx, r.check()); err != nil {
			return answer{}, err
		}
		budget, err := s.budget(ctx, p)
		if err != nil {
			return answer{}, err
		}
		out := capabilities{
			GrantID: p.GrantID, SubjectUserID: p.UserID, Scope: p.Scope, MaxRows: p.Scope.MaxRowsPerQuery,
			RateLimit: rateLimit{PerMinute: p.Limit.PerMinute, Burst: p.Limit.Burst}, RowBudget: budget,
			CacheSeconds: p.CacheSeconds, GrantExpires: p.ExpiresAt,
			Certificate: certificateDates{c.Identity.Serial, c.Identity.NotBefore, c.Identity.NotAfter},
		}
		for _, res := range p.Scope.Resources {
			out.Resources = append(out.Resources, resourceVerbs{
				Name: res, Verbs: []resource.Verb{resource.List, resource.Get, resource.Search}, Modes: resource.Modes(res),
			})
		}
		body, err := json.Marshal(out)
		return answer{body: body}, err
	})
}

// Unknown answers a path or a method that is none of ours, so that probing is on record like asking. Whoever may ask is
// told the mistake.
func (s *Service) Unknown(ctx context.Context, c Caller, mistake error) (Answer, error) {
	r := s.begin(c, "unknown", "", nil)
	return r.do(ctx, func(Plan) (answer, error) {
		return answer{}, s.authorizedError(ctx, r.check(), mistake)
	})
}

// authorizedError gives a caller's mistake only to callers who may ask at all.
func (s *Service) authorizedError(ctx context.Context, c Check, mistake error) error {
	if err := s.Store.Authorize(ctx, c); err != nil {
		return err
	}
	return mistake
}

func inScope(p Plan, name string) (scope.Resource, error) {
	res := scope.Resource(name)
	if !scope.Known(name) || !p.Scope.Allows(res) {
		return "", ErrNotFound
	}
	return res, nil
}

// known keeps a stranger's text out of the audit log's resource column.
func known(name string) string {
	if scope.Known(name) {
		return strings.Clone(name)
	}
	return ""
}
