package querying_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
)

// holding lets the peer's requests wait until the test lets them go. Entered is told of each, and left of each whose
// client has gone.
type holding struct {
	entered, left, release chan struct{}
}

func (m *remembering) hold() holding {
	h := holding{make(chan struct{}, 100), make(chan struct{}, 100), make(chan struct{})}
	m.peer.set(func(p *tagging) {
		p.refuse = func(w http.ResponseWriter, r *http.Request) {
			h.entered <- struct{}{}
			select {
			case <-h.release:
				answer(200, aPage)(w, r)
			case <-r.Context().Done():
				h.left <- struct{}{}
			}
		}
	})
	return h
}

// await waits until an event has been told so often.
func (m *remembering) await(e querying.CacheEvent, n int) {
	m.t.Helper()
	for m.count(e) < n {
		select {
		case <-m.told:
		case <-m.t.Context().Done():
			m.t.Fatalf("%s was told %d times, not %d", e, m.count(e), n)
		}
	}
}

func TestEqualQuestionsOfOneUserAreAskedOnce(t *testing.T) {
	t.Parallel()
	m := remember(t)
	bob := m.person("bob@example.org")
	noError(t, m.credentials.Share(t.Context(), postgres.Share{Peer: "work", User: bob.Email}, act))
	h := m.hold()
	const many = 25
	var wg sync.WaitGroup
	ask := func(c querying.Caller) {
		wg.Go(func() {
			if p, err := m.list(c); err != nil || len(p.Data) != 2 || p.Sources[0].Status != querying.StatusOK {
				t.Errorf("%v %+v", err, p)
			}
		})
	}
	ask(m.caller())
	<-h.entered
	for range many - 1 {
		ask(m.caller())
	}
	m.await(querying.CacheCoalesced, many-1)
	ask(querying.Caller{UserID: bob.ID, RequestID: "req-bob"}) // his question is another
	<-h.entered
	close(h.release)
	wg.Wait()
	if asked, _ := m.peer.took(); len(asked) != 2 {
		t.Errorf("the peer was asked %d times for two users", len(asked))
	}
	if n := len(m.world.events("list")); n != many+1 {
		t.Errorf("%d questions on record, want %d: each is one", n, many+1)
	}
	// What is over is not shared.
	m.peer.set(func(p *tagging) { p.refuse = nil })
	_, err := m.list(m.caller())
	noError(t, err)
	if asked, _ := m.peer.took(); len(asked) != 1 {
		t.Errorf("the next question was asked %d times", len(asked))
	}
}

func TestACallerWhoHangsUpFailsNobodyElse(t *testing.T) {
	t.Parallel()
	m := remember(t)
	h := m.hold()
	first, hangUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := m.service.List(first, m.caller(), "work", "tasks", querying.ListParams{})
		ended <- err
	}()
	<-h.entered
	second := make(chan error, 1)
	go func() {
		_, err := m.list(m.caller())
		second <- err
	}()
	m.await(querying.CacheCoalesced, 1)
	hangUp()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("who hung up was told %v", err)
	}
	close(h.release)
	noError(t, <-second)
	if asked, _ := m.peer.took(); len(asked) != 1 {
		t.Errorf("the peer was asked %d times", len(asked))
	}
}

func TestAQuestionNobodyWaitsForEnds(t *testing.T) {
	t.Parallel()
	m := remember(t, func(c *querying.Config) { c.Timeout = time.Hour }) // it does not end by itself
	h := m.hold()
	ctx, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := m.service.List(ctx, m.caller(), "work", "tasks", querying.ListParams{}); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
	<-h.entered
	m.await(querying.CacheCoalesced, 2)
	hangUp()
	wg.Wait()
	select {
	case <-h.left: // the peer sees it end
	case <-time.After(20 * time.Second):
		t.Fatal("the peer is still being asked")
	}
	m.peer.set(func(p *tagging) { p.refuse = nil })
	_, err := m.list(m.caller())
	noError(t, err)
}

// A panic on the way is one question's, not the gateway's.
func TestAPanicFailsThoseWhoWait(t *testing.T) {
	t.Parallel()
	m := remember(t, func(c *querying.Config) { c.Client = panicking{c.Client} })
	for range 2 {
		if _, err := m.list(m.caller()); err == nil || strings.Contains(err.Error(), "remote-secret") {
			t.Errorf("%v", err)
		}
	}
}

type panicking struct{ querying.Client }

func (panicking) Do(context.Context, querying.Target, querying.Call) (querying.Answer, error) {
	panic("remote-secret")
}
