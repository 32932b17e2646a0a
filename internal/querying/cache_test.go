package querying_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
)

func TestAnAnswerThatIsHeldIsAskedForAgain(t *testing.T) {
	t.Parallel()
	m := remember(t)
	const ways = 5
	m.wantShown("remote-secret", querying.StatusOK)
	if asked, codes := m.peer.took(); len(asked) != ways || slices.Contains(codes, 304) {
		t.Errorf("asked %d times: %v", len(asked), codes)
	}
	for range 3 {
		m.pass(time.Second)
		m.wantShown("remote-secret", querying.StatusOK)
		asked, codes := m.peer.took()
		if len(codes) != ways || slices.ContainsFunc(codes, func(c int) bool { return c != 304 }) {
			t.Errorf("the peer was asked %d times, and answered %v", len(asked), codes)
		}
	}
	m.peer.set(func(p *tagging) { p.title = "changed" })
	m.wantShown("changed", querying.StatusOK)
	if n := m.count(querying.CacheMiss); n != ways {
		t.Errorf("%d misses, want %d", n, ways)
	}
	if hit, again := m.count(querying.CacheHit), m.count(querying.CacheRevalidated); hit != 4*ways || again != 3*ways {
		t.Errorf("%d hits and %d confirmed, want %d and %d", hit, again, 4*ways, 3*ways)
	}
	for _, e := range m.world.events("get") {
		if e.StatusCode != 200 || e.RowsOut != 1 || e.BytesOut == 0 || e.Detail != "" {
			t.Errorf("on record: %+v", e.Event)
		}
	}
	if n := len(m.world.events("list")); n != 10 {
		t.Errorf("%d lists on record, want 10", n)
	}
}

func TestRowsAreShownAloneOnlyWhileThePeerIsAway(t *testing.T) {
	t.Parallel()
	m := remember(t)
	m.wantShown("remote-secret", querying.StatusOK)
	m.pass(12 * time.Second)
	for _, away := range []error{querying.ErrUnreachable, querying.ErrTimeout} {
		m.road.close(away)
		m.wantShown("remote-secret", querying.StatusStale)
		s, _, _ := m.ways()["list across"](m.caller())
		if s.Age == nil || *s.Age != 12 || s.Code == "" || !strings.Contains(s.Detail, "12 s ago") {
			t.Errorf("%+v", s)
		}
	}
	doc, err := json.Marshal(func() querying.Page { p, _ := m.list(m.caller()); return p }())
	noError(t, err)
	if !strings.Contains(string(doc), `"status":"stale"`) || !strings.Contains(string(doc), `"age_seconds":12`) {
		t.Errorf("%s", doc)
	}
	if e := m.world.events("get")[0]; e.StatusCode != 200 || e.RowsOut != 1 || !strings.HasPrefix(e.Detail, "stale") {
		t.Errorf("on record: %+v", e.Event)
	}
	for name, there := range map[string]error{"a stranger": querying.ErrUntrusted, "nonsense": querying.ErrAnswerInvalid} {
		m.road.close(there)
		if _, row, err := m.ways()["list"](m.caller()); row != nil || !errors.Is(err, there) {
			t.Errorf("%s: %s %v", name, row, err)
		}
	}
	m.road.open()
	for status, code := range map[int]string{500: "internal", 503: "search_busy", 429: "rate_limited"} {
		m.peer.set(func(p *tagging) {
			p.refuse = func(w http.ResponseWriter, _ *http.Request) { problem(w, status, code, "no") }
		})
		if _, row, err := m.ways()["list"](m.caller()); row != nil || err == nil {
			t.Errorf("a peer that answers %d: %s", status, row)
		}
	}
	m.peer.set(func(p *tagging) { p.refuse = nil })
	m.wantShown("remote-secret", querying.StatusOK) // confirmed: the age begins anew
	m.road.close(querying.ErrUnreachable)
	m.pass(querying.MaxStale - time.Second)
	m.wantShown("remote-secret", querying.StatusStale)
	m.pass(time.Second)
	m.wantNothing(querying.ErrUnreachable)
}

// The age counts from when the peer was asked, for the rows or to confirm them: it looked at them at some time after that,
// so they are never told to be younger than they may be. Nor are they shown longer.
func TestAnAnswerIsAsOldAsItsQuestion(t *testing.T) {
	t.Parallel()
	m := remember(t)
	const took, life = 40 * time.Second, 100 * time.Second
	answers := answer(200, aPage)
	m.peer.set(func(p *tagging) {
		p.refuse = func(w http.ResponseWriter, r *http.Request) {
			m.pass(took) // since it was asked
			w.Header().Set("ETag", `"t"`)
			w.Header().Set("Cache-Control", fmt.Sprintf("private, max-age=%d", life/time.Second))
			if r.Header.Get("If-None-Match") == `"t"` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			answers(w, r)
		}
	})
	for _, what := range []string{"an answer", "a confirmation"} {
		m.road.open()
		p, err := m.list(m.caller())
		noError(t, err)
		if p.Sources[0].Status != querying.StatusOK {
			t.Errorf("%s: %+v", what, p.Sources[0])
		}
		m.road.close(querying.ErrUnreachable)
		p, err = m.list(m.caller())
		noError(t, err)
		if age := time.Duration(*p.Sources[0].Age) * time.Second; age < took || age >= 2*took {
			t.Errorf("%s that took %s is told to be %s old", what, took, age)
		}
		m.pass(life - took - 10*time.Second)
		if p, err = m.list(m.caller()); err != nil || p.Sources[0].Status != querying.StatusStale {
			t.Errorf("%s, shortly before its end: %v %+v", what, err, p.Sources)
		}
		if what == "a confirmation" {
			m.pass(10 * time.Second)
			if p, err = m.list(m.caller()); !errors.Is(err, querying.ErrUnreachable) {
				t.Errorf("%s, %s after its question: %v %+v", what, life, err, p.Sources)
			}
		}
	}
	if hits, again := m.count(querying.CacheHit), m.count(querying.CacheRevalidated); hits < 2 || again != 1 {
		t.Errorf("%d hits, %d confirmed", hits, again)
	}
}

func TestRowsAreShownNoLongerThanTheGrantAllows(t *testing.T) {
	t.Parallel()
	m := remember(t)
	m.peer.set(func(p *tagging) { p.seconds = 10 })
	m.wantShown("remote-secret", querying.StatusOK)
	m.road.close(querying.ErrUnreachable)
	m.pass(9 * time.Second)
	m.wantShown("remote-secret", querying.StatusStale)
	m.pass(time.Second)
	m.wantNothing(querying.ErrUnreachable)
	for _, seconds := range []int{0, -1} { // forbidden, after it was allowed
		m.road.open()
		m.peer.set(func(p *tagging) { p.seconds = 10 })
		m.wantShown("remote-secret", querying.StatusOK)
		m.peer.set(func(p *tagging) { p.seconds = seconds })
		m.wantShown("remote-secret", querying.StatusOK)
		m.road.close(querying.ErrUnreachable)
		m.wantNothing(querying.ErrUnreachable)
	}
}

func TestOneUserSeesNothingOfWhatAnotherWasGiven(t *testing.T) {
	t.Parallel()
	m := remember(t)
	bob := m.person("bob@example.org")
	noError(t, m.credentials.Share(t.Context(), postgres.Share{Peer: "work", User: bob.Email}, act))
	m.wantShown("remote-secret", querying.StatusOK)
	m.road.close(querying.ErrUnreachable)
	for name, ask := range m.ways() {
		for _, c := range []querying.Caller{{UserID: bob.ID}, {}} { // and the operator
			if _, row, _ := ask(c); row != nil {
				t.Errorf("%s: %s", name, row)
			}
		}
	}
}

// A peer that keeps silent is away when its time is up, and there is time left to say so.
func TestAPeerThatIsSilentIsAway(t *testing.T) {
	t.Parallel()
	m := remember(t, func(c *querying.Config) { c.Timeout = 5 * time.Second })
	m.wantShown("remote-secret", querying.StatusOK)
	m.peer.set(func(p *tagging) { p.refuse = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } })
	var wg sync.WaitGroup
	for name, ask := range m.ways() {
		wg.Go(func() {
			if s, row, err := ask(m.caller()); err != nil || s.Status != querying.StatusStale || row == nil {
				t.Errorf("%s: %v %+v", name, err, s)
			}
		})
	}
	wg.Wait()
}

func TestWithoutACacheEveryQuestionIsAskedWhole(t *testing.T) {
	t.Parallel()
	m := remember(t, func(c *querying.Config) { c.Cache = nil })
	for range 2 {
		m.wantShown("remote-secret", querying.StatusOK)
	}
	asked, codes := m.peer.took()
	for i, r := range asked {
		if r.Header.Get("If-None-Match") != "" || codes[i] != 200 {
			t.Errorf("%s: %v, %d", r.URL, r.Header, codes[i])
		}
	}
	m.road.close(querying.ErrUnreachable)
	m.wantNothing(querying.ErrUnreachable)
	if len(asked) != 10 || len(m.events) != 0 {
		t.Errorf("asked %d times, events %v", len(asked), m.events)
	}
}

// A peer that confirms what nobody holds harms only itself.
func TestAConfirmationOfNothingIsNoAnswer(t *testing.T) {
	t.Parallel()
	m := remember(t)
	m.peer.set(func(p *tagging) { p.refuse = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) } })
	m.wantNothing(querying.ErrAnswerInvalid)
	m = remember(t, func(c *querying.Config) { c.Cache = nil })
	m.peer.set(func(p *tagging) { p.refuse = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) } })
	m.wantNothing(querying.ErrAnswerInvalid)
}

// What cannot be used is not kept.
func TestAnAnswerThatCannotBeUsedIsNotKept(t *testing.T) {
	t.Parallel()
	m := remember(t)
	m.peer.set(func(p *tagging) {
		p.refuse = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"t"`)
			w.Header().Set("Cache-Control", "private, max-age=300")
			answer(200, `{"data":[7]}`)(w, r)
		}
	})
	m.wantNothing(querying.ErrAnswerInvalid)
	m.road.close(querying.ErrUnreachable)
	m.wantNothing(querying.ErrUnreachable)
}

// hoarding is a cache that forgets nothing.
type hoarding struct{ kept querying.Kept }

func (h hoarding) Look(context.Context, querying.Question) (*querying.Kept, querying.Mark) {
	return &h.kept, querying.Mark{}
}
func (hoarding) Keep(context.Context, querying.Question, querying.Mark, querying.Kept) {}
func (hoarding) Drop(context.Context, querying.Question)                               {}
func (hoarding) DropGrant(context.Context, querying.Question)                          {}

// The bound of age does not hang on what keeps the answers, nor on how long the peer was waited for.
func TestWhatIsTooOldIsNotShownThoughItIsThere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		age, life time.Duration
		shown     bool
	}{{9 * time.Second, 10 * time.Second, true}, {10 * time.Second, 10 * time.Second, false}, {querying.MaxStale, time.Hour, false}, {-time.Hour, time.Minute, true}} {
		h := hoarding{querying.Kept{Body: []byte(aPage), ETag: `"t"`, At: time.Now().Add(-tt.age), Life: tt.life}}
		m := remember(t, func(c *querying.Config) { c.Cache = h })
		m.road.close(querying.ErrUnreachable)
		p, err := m.list(m.caller())
		if shown := err == nil; shown != tt.shown || shown && *p.Sources[0].Age < 0 {
			t.Errorf("rows of %s ago that live for %s: %+v %v", tt.age, tt.life, p.Sources, err)
		}
	}
}

func TestAPeerThatIsLeftAloneForItsAnswersIsNotAway(t *testing.T) {
	t.Parallel()
	m := remember(t)
	m.wantShown("remote-secret", querying.StatusOK)
	m.road.close(querying.ErrUnreachable.Because(querying.ErrAnswered))
	m.wantNothing(querying.ErrUnreachable)
	m.road.close(querying.ErrQuestionTooLong)
	m.wantNothing(querying.ErrQuestionTooLong)
	m.road.close(querying.ErrUnreachable)
	m.wantShown("remote-secret", querying.StatusStale)
}
