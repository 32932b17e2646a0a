package querying

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/resource"
)

// Observer is told how questions to peers went. It is on every question's way and must not wait.
type Observer interface {
	// Asked is told of every question to a peer that the caller may ask, by the peer's name on this gateway.
	Asked(peer, status string, took time.Duration)
	// Across is told of every answer that was put together from many sources.
	Across(verb string, took time.Duration)
}

// asked tells the observer how a question to a peer ended. Whoever names a peer that is not there or not for them is not
// counted: the name would be theirs to choose, and it says nothing of the peer.
func (r *run) asked(status string) {
	if r.s.Observe != nil && r.credential.ID != uuid.Nil {
		r.s.Observe.Asked(r.credential.Peer.Name, status, r.s.Now().Sub(r.started))
	}
}

// across tells the observer how long an answer from many sources took; call what it returns at the end.
func (s *Service) across(verb resource.Verb) func() {
	if s.Observe == nil {
		return func() {}
	}
	started := s.Now()
	return func() { s.Observe.Across(string(verb), s.Now().Sub(started)) }
}

// Standing is how the credentials stand that this gateway holds at a peer.
type Standing struct {
	Peer     string
	NotAfter time.Time // of the first to end of those that have not, or of the last that has
	Failures int       // tries to renew that failed since one worked, of the worst
}

// Standings tells how credentials stand.
type Standings interface {
	Standings(ctx context.Context) ([]Standing, error)
}
