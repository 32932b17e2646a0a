package querying

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/mosaicstack/gateway/internal/resource"
)

// Sources lists whom the caller may ask: the own rows, and every peer they hold a credential of.
func (s *Service) Sources(ctx context.Context, c Caller) ([]string, error) {
	names, err := s.Finder.Available(ctx, c.UserID)
	if err != nil || c.operator() {
		return names, err
	}
	return append([]string{LocalSource}, names...), nil
}

// Capabilities asks one peer what its grant covers: the peer's own document, of which nothing is added or left out.
//
// Errors: those of List.
func (s *Service) Capabilities(ctx context.Context, c Caller, peerRef string) (json.RawMessage, error) {
	r := &run{s: s, caller: c, verb: resource.Capabilities, query: []byte(resource.Capabilities), started: s.Now()}
	var out json.RawMessage
	err := r.do(ctx, peerRef, func() (Call, error) {
		return Call{Method: http.MethodGet, Path: apiBase + "capabilities", Repeatable: true}, nil
	}, func(a Answer) (rows int, err error) {
		top, err := document(a.Body)
		if err != nil {
			return 0, invalid(r.credential.Peer.Name, err)
		}
		if _, ok := top["resources"]; !ok {
			return 0, invalid(r.credential.Peer.Name, errors.New("there are no resources in it"))
		}
		out = a.Body
		return 0, nil
	})
	return out, err
}

// GetFrom reads one row of one source: a peer's, or with LocalSource the caller's own.
//
// Errors: those of Get.
func (s *Service) GetFrom(ctx context.Context, c Caller, source, res, id string) (Row, error) {
	if source != LocalSource {
		return s.Get(ctx, c, source, res, id)
	}
	kind, err := resource.Parse(res)
	if err != nil {
		return Row{}, err
	}
	if c.operator() {
		return Row{}, errUserRequired
	}
	at, err := rowID(id)
	if err != nil {
		return Row{}, err
	}
	doc, err := s.Local.Row(ctx, kind, c.UserID, at)
	if err != nil {
		return Row{}, err
	}
	row, err := mark(doc, LocalSource)
	return Row{Data: row, Sources: []Source{{Name: LocalSource, Status: StatusOK, Rows: 1}}}, err
}
