package querying

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
)

// The bounds of what is read of a peer's capabilities.
const (
	maxCovers      = 64 << 10 // bytes: a scope of all resources with many teams takes a tenth
	maxCoveredKind = 16       // resources, verbs of one, and modes of one
)

// Covers is what a peer says that its grant covers, as far as this gateway knows the words: no key and no text that the
// peer made up, since who reads it may be an assistant or a terminal.
type Covers struct {
	GrantID       uuid.UUID       `json:"grant_id"`
	SubjectUserID uuid.UUID       `json:"subject_user_id"`
	Scope         json.RawMessage `json:"scope,omitempty" doc:"the grant's scope document, written anew; missing when it is not one that this gateway reads"`
	Resources     []Covered       `json:"resources"`
	MaxRows       int64           `json:"max_rows_per_query"`
	RateLimit     coveredRate     `json:"rate_limit"`
	RowBudget     *coveredRows    `json:"row_budget" doc:"null without one"`
	CacheSeconds  int64           `json:"cache_seconds" doc:"how long an answer may be shown while the peer is away"`
	GrantExpires  *time.Time      `json:"grant_expires_at"`
	Certificate   coveredByCert   `json:"certificate" doc:"the one that was asked with"`
}

// Covered is a resource, and what can be done with it.
type Covered struct {
	Name  string   `json:"name"`
	Verbs []string `json:"verbs"`
	Modes []string `json:"search_modes"`
}

type coveredRate struct {
	PerMinute int64 `json:"per_minute"`
	Burst     int64 `json:"burst"`
}

type coveredRows struct {
	PerDay    int64     `json:"rows_per_day"`
	Remaining int64     `json:"remaining"`
	ResetsAt  time.Time `json:"resets_at"`
}

type coveredByCert struct {
	SerialNumber string    `json:"serial_number"`
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
}

// Covers asks one peer what its grant covers, and gives what of the answer is known here.
//
// Errors: those of List.
func (s *Service) Covers(ctx context.Context, c Caller, peerRef string) (Covers, error) {
	r := &run{s: s, caller: c, verb: resource.Capabilities, query: []byte(resource.Capabilities), started: s.Now()}
	var out Covers
	err := r.do(ctx, peerRef, func() (Call, error) {
		return Call{Method: http.MethodGet, Path: apiBase + "capabilities", Repeatable: true}, nil
	}, func(a Answer) (rows int, err error) {
		if out, err = readCovers(a.Body); err != nil {
			return 0, invalid(r.credential.Peer.Name, err)
		}
		return 0, nil
	})
	if err != nil {
		return Covers{}, err
	}
	return out, nil
}

func readCovers(doc []byte) (Covers, error) {
	if len(doc) > maxCovers {
		return Covers{}, errors.New("the capabilities are too long")
	}
	top, err := document(doc)
	if err != nil {
		return Covers{}, err
	}
	if _, ok := top["resources"]; !ok {
		return Covers{}, errors.New("there are no resources in it")
	}
	var in Covers
	if json.Unmarshal(doc, &in) != nil { // whose error could repeat what is in it
		return Covers{}, errors.New("the capabilities have a field of another type")
	}
	out := in
	out.Scope = nil
	if parsed, err := scope.Parse(in.Scope); err == nil {
		if out.Scope, err = json.Marshal(parsed); err != nil {
			return Covers{}, err
		}
	}
	out.Certificate.SerialNumber = sanitize(out.Certificate.SerialNumber, 64)
	out.Resources = []Covered{}
	for _, r := range in.Resources[:min(len(in.Resources), maxCoveredKind)] {
		if scope.Known(r.Name) {
			out.Resources = append(out.Resources, Covered{
				r.Name, known(r.Verbs, resource.Verbs()...), known(r.Modes, resource.Lexical, resource.Semantic, resource.Hybrid),
			})
		}
	}
	return out, nil
}

// known are those of the words that this gateway has as well.
func known[T ~string](words []string, ours ...T) []string {
	out := []string{}
	for _, w := range words[:min(len(words), maxCoveredKind)] {
		if slices.Contains(ours, T(w)) {
			out = append(out, w)
		}
	}
	return out
}
