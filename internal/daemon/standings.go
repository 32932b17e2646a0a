package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
)

// The bounds of a look at the credentials for a scrape: it is one small statement, and no scrape waits for a database
// that is away.
const (
	standingsWithin = time.Second
	standingsEvery  = time.Second
)

// standings remembers how credentials stood when they were last looked at.
type standings struct {
	store querying.Standings
	now   func() time.Time

	mu   sync.Mutex
	at   time.Time
	last []querying.Standing
}

// read looks again, at most once a second. While the database is away it gives what it gave before.
func (s *standings) read() []querying.Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := s.now().Sub(s.at); since >= 0 && since < standingsEvery {
		return s.last
	}
	ctx, cancel := context.WithTimeout(context.Background(), standingsWithin)
	defer cancel()
	s.at = s.now()
	if list, err := s.store.Standings(ctx); err == nil {
		s.last = list
	}
	return s.last
}
