package querying_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
)

// What is shared with a team is for those who are in it, and nobody else learns that it is there.
func TestAShareWithATeamIsForItsMembers(t *testing.T) {
	t.Parallel()
	m := remember(t)
	noError(t, m.credentials.Share(t.Context(), postgres.Share{Peer: "work", User: m.user.Email, Revoked: true}, act))
	bob := m.person("bob@example.org")
	_, err := m.accounts.CreateTeam(t.Context(), "red", act)
	noError(t, err)
	noError(t, m.accounts.AddMember(t.Context(), "red", bob.Email, act))
	noError(t, m.credentials.Share(t.Context(), postgres.Share{Peer: "work", Team: "red"}, act))
	m.wantNothing(querying.ErrNotAvailable)
	for user, want := range map[string][]string{m.user.ID.String(): {}, bob.ID.String(): {"work"}} {
		id := m.user.ID
		if user == bob.ID.String() {
			id = bob.ID
		}
		names, err := m.credentials.Available(t.Context(), id)
		noError(t, err)
		usable, err := m.credentials.Usable(t.Context(), id)
		noError(t, err)
		if !slices.Equal(names, want) && len(names)+len(want) > 0 || len(usable) != len(want) {
			t.Errorf("%s may ask %v, with %d credentials, want %v", user, names, len(usable), want)
		}
	}
	if _, row, err := m.ways()["list"](querying.Caller{UserID: bob.ID}); row == nil || err != nil {
		t.Errorf("a member: %v", err)
	}
}

// Two searches are two questions: they differ in nothing but the body.
func TestTwoSearchesShareNothing(t *testing.T) {
	t.Parallel()
	m := remember(t)
	search := func(words string) (querying.Page, error) {
		return m.service.Search(t.Context(), m.caller(), "work", "tasks", []byte(`{"query":"`+words+`"}`))
	}
	_, err := search("milk")
	noError(t, err)
	m.road.close(querying.ErrUnreachable)
	if p, err := search("milk"); err != nil || len(p.Data) != 1 {
		t.Errorf("the same search: %v", err)
	}
	if p, err := search("bread"); !errors.Is(err, querying.ErrUnreachable) {
		t.Errorf("another search: %s %v", p.Data, err)
	}
	m.road.open()
	h := m.hold()
	var wg sync.WaitGroup
	for _, words := range []string{"milk", "bread"} {
		wg.Go(func() { _, _ = search(words) })
	}
	for entered := 0; entered < 2; {
		select {
		case <-h.entered:
			entered++
		case e := <-m.told:
			if e == querying.CacheCoalesced {
				t.Error("another search was joined")
				entered = 2
			}
		}
	}
	close(h.release)
	wg.Wait()
}

// wavering is an audit log that a test can take away.
type wavering struct {
	querying.Recorder
	away atomic.Bool
}

func (w *wavering) Record(ctx context.Context, e audit.Event) error {
	if w.away.Load() {
		return audit.ErrUnavailable
	}
	return w.Recorder.Record(ctx, e)
}

// What is not on record was shown to nobody, and is not kept to be shown later.
func TestWhatIsNotOnRecordIsNotKept(t *testing.T) {
	t.Parallel()
	var log *wavering
	m := remember(t, func(c *querying.Config) {
		log = &wavering{Recorder: c.Audit}
		c.Audit = log
	})
	log.away.Store(true)
	m.wantNothingAtAll(audit.ErrUnavailable)
	log.away.Store(false)
	m.road.close(querying.ErrUnreachable)
	m.wantNothing(querying.ErrUnreachable)
}

// wantNothingAtAll wants this error in every way.
func (m *remembering) wantNothingAtAll(want error) {
	m.t.Helper()
	for name, ask := range m.ways() {
		if _, row, err := ask(m.caller()); row != nil || !errors.Is(err, want) {
			m.t.Errorf("%s: %s %v", name, row, err)
		}
	}
}

// fading is a cache whose answer is refused between the first look and the second.
type fading struct {
	hoarding
	looks *atomic.Int64
}

func (f fading) Look(ctx context.Context, q querying.Question) (*querying.Kept, querying.Mark) {
	if f.looks.Add(1) > 1 {
		return nil, querying.Mark{}
	}
	return f.hoarding.Look(ctx, q)
}

// The peer may have refused another question of the grant while this one waited for it.
func TestWhatWasForgottenMeanwhileIsNotShown(t *testing.T) {
	t.Parallel()
	f := fading{hoarding{querying.Kept{Body: json.RawMessage(aPage), ETag: `"t"`, At: time.Now(), Life: time.Minute}}, new(atomic.Int64)}
	m := remember(t, func(c *querying.Config) { c.Cache = f })
	m.road.close(querying.ErrUnreachable)
	if p, err := m.list(m.caller()); !errors.Is(err, querying.ErrUnreachable) || p.Data != nil || f.looks.Load() != 2 {
		t.Errorf("after %d looks: %s %v", f.looks.Load(), p.Data, err)
	}
}
