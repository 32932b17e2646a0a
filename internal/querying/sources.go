package querying

import (
	"context"

	"github.com/mosaicstack/gateway/internal/resource"
)

// Sources lists whom the caller may ask: the own rows, and every peer of which they may use a credential.
func (s *Service) Sources(ctx context.Context, c Caller) ([]string, error) {
	names, err := s.Finder.Available(ctx, c.UserID)
	if err != nil || c.operator() {
		return names, err
	}
	return append([]string{LocalSource}, names...), nil
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
