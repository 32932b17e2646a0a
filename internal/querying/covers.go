package querying

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/scope"
)

// The bounds of what is read of a peer's capabilities.
const (
	maxCovers      = 64 << 10 // bytes: a scope of all resources with many teams takes a tenth
	maxCoveredKind = 16       // resources, verbs of one, and modes of one
)

// Covers is what a peer says that its grant covers, as far as this gateway knows the words: no key and no text that the
// peer made up, since who reads it may be an assistant.
type Covers struct {
	GrantID       uuid.UUID     `json:"grant_id"`
	SubjectUserID uuid.UUID     `json:"subject_user_id"`
	Scope         *scope.Scope  `json:"scope,omitempty"` // nil: not one that this gateway reads
	Resources     []Covered     `json:"resources"`
	MaxRows       int64         `json:"max_rows_per_query"`
	RateLimit     coveredRate   `json:"rate_limit"`
	RowBudget     *coveredRows  `json:"row_budget"`
	CacheSeconds  int64         `json:"cache_seconds"`
	GrantExpires  *time.Time    `json:"grant_expires_at"`
	Certificate   coveredByCert `json:"certificate"`
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

// Covers asks what Capabilities asks, and reads it.
//
// Errors: those of Capabilities.
func (s *Service) Covers(ctx context.Context, c Caller, peerRef string) (Covers, error) {
	doc, err := s.Capabilities(ctx, c, peerRef)
	if err != nil {
		return Covers{}, err
	}
	out, err := readCovers(doc)
	if err != nil {
		return Covers{}, invalid(peerRef, err)
	}
	return out, nil
}

func readCovers(doc []byte) (Covers, error) {
	if len(doc) > maxCovers {
		return Covers{}, errors.New("the capabilities are too long")
	}
	var in struct {
		Covers
		Scope json.RawMessage `json:"scope"`
	}
	if json.Unmarshal(doc, &in) != nil { // whose error could repeat what is in it
		return Covers{}, errors.New("the capabilities have a field of another type")
	}
	out := in.Covers
	if parsed, err := scope.Parse(in.Scope); err == nil {
		out.Scope = &parsed
	}
	out.Certificate.SerialNumber = sanitize(out.Certificate.SerialNumber, 64)
	out.Resources = []Covered{}
	for _, r := range in.Resources[:min(len(in.Resources), maxCoveredKind)] {
		if scope.Known(r.Name) {
			out.Resources = append(out.Resources, Covered{r.Name, codes(r.Verbs), codes(r.Modes)})
		}
	}
	return out, nil
}

// codes are those of the words that are shaped like one.
func codes(words []string) []string {
	out := []string{}
	for _, w := range words[:min(len(words), maxCoveredKind)] {
		if codeShaped(w) {
			out = append(out, w)
		}
	}
	return out
}
