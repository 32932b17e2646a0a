package postgres

import "github.com/mosaicstack/gateway/internal/serving"

// ServingSearchSQL is the statement of a peer's search, for tests that look at it.
func ServingSearchSQL(q serving.SearchQuery) (string, []any) { return peerSearch(q) }

// SearchSQL is the statement of a peer's search without teams.
func SearchSQL(l serving.Lookup) string {
	q := serving.SearchQuery{Lookup: l}
	q.Filter.IncludePersonal = true
	sql, _ := peerSearch(q)
	return sql
}

// AppendError sorts what can become of a batch.
func AppendError(err error) error { return appendError(err) }

// Transferred are the tables that a gateway takes along when it moves.
var Transferred = transferred

// The statements by which audit rows forget a peer that is gone.
const (
	RemovedPeers  = removedPeers
	UnlinkPortion = unlinkPortion
)
