package querying

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

const maxModel = 200 // characters of a model's name

// SearchInfo says how a peer found its rows.
type SearchInfo struct {
	Mode     resource.Mode `json:"mode"`
	Model    *string       `json:"model"`              // whose embeddings were compared; null for none
	Pending  *int64        `json:"pending,omitempty"`  // rows that have no embedding yet
	Degraded string        `json:"degraded,omitempty"` // why it is another mode than was asked for
}

// Search asks one peer for the rows that fit a query best. Its one page is in the order of their scores.
//
// Errors: search_invalid, search_mode_unsupported, and those of List.
func (s *Service) Search(ctx context.Context, c Caller, peerRef, res string, body []byte) (Page, error) {
	kind, q, err := parseSearch(res, body)
	if err != nil {
		return Page{}, err
	}
	return s.searchPeer(ctx, c, peerRef, kind, q)
}

// parseSearch reads what is to be searched, and refuses a mode that the resource does not have.
func parseSearch(res string, body []byte) (kind scope.Resource, q resource.SearchRequest, err error) {
	if kind, err = resource.Parse(res); err != nil {
		return kind, q, err
	}
	if q, err = resource.ParseSearch(body); err == nil {
		_, err = q.ModeFor(kind)
	}
	return kind, q, err
}

func (s *Service) searchPeer(ctx context.Context, c Caller, peerRef string, kind scope.Resource, q resource.SearchRequest) (Page, error) {
	query := []byte(string(kind) + "\x00" + string(q.Mode) + "\x00" + q.Query)
	r := &run{s: s, caller: c, verb: resource.Search, resource: string(kind), query: query, started: s.Now()}
	var out Page
	err := r.do(ctx, peerRef, func() (Call, error) { return r.search(q) }, func(a Answer) (rows int, err error) {
		out, err = readFound(a.Body, r.credential.Peer.Name)
		return len(out.Data), err
	})
	if err != nil {
		return Page{}, err
	}
	r.shown(out.Sources)
	return out, nil
}

// search writes the question anew: the peer reads what was checked here.
func (r *run) search(q resource.SearchRequest) (Call, error) {
	body, err := json.Marshal(struct {
		Query string        `json:"query"`
		Mode  resource.Mode `json:"mode,omitempty"`
		Limit int           `json:"limit"`
	}{q.Query, q.Mode, q.Limit})
	return Call{Method: http.MethodPost, Path: apiPath + r.resource + "/search", Body: body, Repeatable: true}, err // it changes nothing
}

// readFound reads what readPage reads, and how the rows were found. Every row has a score and a snippet; what makes a
// snippet safe to show is seen to here, since a peer need not have.
func readFound(body []byte, source string) (Page, error) {
	out, err := readPage(body, source)
	if err != nil {
		return Page{}, err
	}
	top, err := document(body)
	if err != nil {
		return Page{}, invalid(source, err)
	}
	if out.Search, err = readSearchInfo(top["search"]); err != nil {
		return Page{}, invalid(source, err)
	}
	for i, row := range out.Data {
		if out.Data[i], err = readHit(row); err != nil {
			return Page{}, invalid(source, err)
		}
	}
	return out, nil
}

func readSearchInfo(raw json.RawMessage) (*SearchInfo, error) {
	if _, err := object(raw); err != nil {
		return nil, err
	}
	var info SearchInfo
	if err := json.Unmarshal(raw, &info); err != nil {
		return nil, errors.New("search has a field of another type")
	}
	switch {
	case !slices.Contains([]resource.Mode{resource.Lexical, resource.Semantic, resource.Hybrid}, info.Mode):
		return nil, errors.New("search has a mode that does not exist")
	case info.Pending != nil && *info.Pending < 0, info.Degraded != "" && !codeShaped(info.Degraded):
		return nil, errors.New("search has a value out of range")
	}
	if info.Model != nil {
		model := sanitize(*info.Model, maxModel)
		info.Model = &model
	}
	return &info, nil
}

// readHit checks the two fields that only a search's rows have.
func readHit(row json.RawMessage) (json.RawMessage, error) {
	members, err := object(row)
	if err != nil {
		return nil, err
	}
	var scored, shown, mended bool
	for i, m := range members {
		switch {
		case m.key == "score":
			var score *float64
			if err := json.Unmarshal(m.value, &score); err != nil || score == nil {
				return nil, errors.New("a row has a score that is no number")
			}
			scored = true
		case m.key == "snippet":
			var text *string
			if err := json.Unmarshal(m.value, &text); err != nil || text == nil {
				return nil, errors.New("a row has a snippet that is no text")
			}
			shown = true
			if safe := resource.SafeSnippet(*text); safe != *text {
				if members[i].value, err = json.Marshal(safe); err != nil {
					return nil, err
				}
				mended = true
			}
		case strings.EqualFold(m.key, "score"), strings.EqualFold(m.key, "snippet"):
			return nil, errors.New("a row has score or snippet in other letters")
		}
	}
	switch {
	case !scored || !shown:
		return nil, errors.New("a row has no score or no snippet")
	case !mended:
		return row, nil
	}
	return joined(members)
}
