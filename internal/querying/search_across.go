package querying

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/span"
)

// fusion is the constant of reciprocal rank fusion: how little the first ranks weigh more than those after them.
const fusion = 60

// hit is a row with its place in the fused order.
type hit struct {
	sortKey
	score float64
	row   json.RawMessage
}

// SearchAcross asks many sources at once for the rows that fit a query best, and fuses their rankings: what scores
// mean differs from source to source, so a row counts by its rank in its own. Each source has a deadline and a
// status. There is one page.
//
// Errors: resource_unknown, search_invalid, search_mode_unsupported, audit_unavailable.
func (s *Service) SearchAcross(ctx context.Context, c Caller, res string, from Sources, body []byte) (Page, error) {
	kind, q, err := parseSearch(res, body)
	if err != nil {
		return Page{}, err
	}
	at, held, err := s.start(ctx, c, from)
	if err != nil {
		return Page{}, err
	}
	ctx, across := span.Start(ctx, span.FanOut)
	defer across.End()
	defer s.across(resource.Search)()
	across.Sources(len(at))
	found, failed := make([]Page, len(at)), make([]error, len(at))
	var wg sync.WaitGroup
	for i, p := range at {
		wg.Go(func() {
			if p.Source == LocalSource {
				found[i], failed[i] = s.searchLocal(ctx, c, kind, q)
			} else {
				found[i], failed[i] = s.holding(held, p.Source).searchPeer(ctx, c, p.Source, kind, q)
			}
		})
	}
	wg.Wait()
	out := Page{Data: []json.RawMessage{}, Page: PageInfo{Limit: q.Limit}}
	var hits []hit
	for i, p := range at {
		if errors.Is(failed[i], audit.ErrUnavailable) {
			return Page{}, failed[i]
		}
		ranked, err := rank(found[i].Data)
		if failed[i] == nil && err != nil {
			failed[i] = invalid(p.Source, err)
		}
		status := sourceOf(p.Source, failed[i])
		if failed[i] == nil {
			hits = append(hits, ranked...)
			status = found[i].Sources[0]
			status.Search = found[i].Search
			out.Page.Capped = out.Page.Capped || found[i].Page.Capped
		}
		status.Rows = 0
		out.Sources = append(out.Sources, status)
	}
	return fuse(out, hits)
}

// rank gives every row of a source the score of its place.
func rank(rows []json.RawMessage) ([]hit, error) {
	hits := make([]hit, 0, len(rows))
	for i, row := range rows {
		key, err := keyOf(row)
		if err != nil {
			return nil, err
		}
		hits = append(hits, hit{key, 1 / float64(fusion+1+i), row})
	}
	return hits, nil
}

// fuse puts the best rows of all sources on the page, each with its fused score, and counts them for their sources.
func fuse(out Page, hits []hit) (Page, error) {
	slices.SortStableFunc(hits, func(a, b hit) int {
		switch {
		case a.score > b.score, a.score == b.score && a.before(b.sortKey):
			return -1
		case a.score == b.score && a.sortKey == b.sortKey:
			return 0
		}
		return 1
	})
	size := 0
	for _, h := range hits {
		if size += len(h.row); len(out.Data) == out.Page.Limit || size > maxFanoutBytes {
			out.Page.Capped = out.Page.Capped || size > maxFanoutBytes
			break
		}
		row, from, err := scored(h)
		if err != nil {
			return Page{}, err
		}
		out.Data = append(out.Data, row)
		for i := range out.Sources {
			if out.Sources[i].Name == from {
				out.Sources[i].Rows++
			}
		}
	}
	return out, nil
}

// scored puts the fused score in the place of the source's own, and tells where the row is from.
func scored(h hit) (row json.RawMessage, source string, err error) {
	members, err := object(h.row)
	if err != nil {
		return nil, "", err
	}
	for i, m := range members {
		switch m.key {
		case "score":
			if members[i].value, err = json.Marshal(h.score); err != nil {
				return nil, "", err
			}
		case sourceKey:
			if err := json.Unmarshal(m.value, &source); err != nil {
				return nil, "", err
			}
		}
	}
	row, err = joined(members)
	return row, source, err
}

// searchLocal searches the own rows, which are read like a peer's: there is one form of an answer.
func (s *Service) searchLocal(ctx context.Context, c Caller, kind scope.Resource, q resource.SearchRequest) (Page, error) {
	if c.operator() {
		return Page{}, errUserRequired
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	body, err := s.Local.Search(ctx, kind, c.UserID, q)
	if err != nil {
		return Page{}, err
	}
	return readFound(body, LocalSource)
}
