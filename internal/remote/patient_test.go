package remote_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/remote"
)

// moody is a peer that answers as the test says.
type moody struct {
	mu     sync.Mutex
	answer querying.Answer
	err    error
	asked  int
}

func (m *moody) Do(context.Context, querying.Target, querying.Call) (querying.Answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	return m.answer, m.err
}

func (m *moody) Forget(uuid.UUID) {}

func (m *moody) is(a querying.Answer, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer, m.err, m.asked = a, err, 0
}

var (
	once       = querying.Call{Method: http.MethodPost}
	again      = querying.Call{Method: http.MethodGet, Repeatable: true}
	atWork     = querying.Target{CredentialID: uuid.New(), URL: "https://work:3443"}
	atLab      = querying.Target{CredentialID: uuid.New(), URL: "https://lab:3443"}
	fine       = querying.Answer{Status: 200}
	overloaded = querying.Answer{Status: 500, Problem: true}
)

// leftAlone tells whether some peer is, or is being probed.
func leftAlone(p *remote.Patient) bool {
	for _, state := range p.Circuits() {
		if state != 0 {
			return true
		}
	}
	return false
}

func TestAPeerThatIsAwayIsLeftAloneAndProbed(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]struct {
		answer querying.Answer
		err    error
	}{
		"unreachable": {err: querying.ErrUnreachable}, "silent": {err: querying.ErrTimeout}, "failing": {answer: overloaded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				peer := &moody{}
				p := remote.NewPatient(peer, time.Now)
				peer.is(away.answer, away.err)
				for range 20 {
					_, _ = p.Do(t.Context(), atWork, once)
				}
				if peer.asked > 10 {
					t.Errorf("asked %d times, want it left alone within 10", peer.asked)
				}
				if _, err := p.Do(t.Context(), atWork, once); !errors.Is(err, querying.ErrUnreachable) {
					t.Errorf("left alone: %v", err)
				}
				if !leftAlone(p) {
					t.Errorf("circuits %v", p.Circuits())
				}
				time.Sleep(15 * time.Second)
				peer.is(away.answer, away.err)
				for range 5 {
					_, _ = p.Do(t.Context(), atWork, once)
				}
				if peer.asked != 1 {
					t.Errorf("probed %d times, want once", peer.asked)
				}
				time.Sleep(15 * time.Second)
				peer.is(fine, nil)
				for range 5 {
					if a, err := p.Do(t.Context(), atWork, once); err != nil || a.Status != 200 {
						t.Errorf("back again: %+v %v", a, err)
					}
				}
				peer.is(fine, nil)
				if _, err := p.Do(t.Context(), atLab, once); err != nil {
					t.Errorf("another peer: %v", err)
				}
			})
		})
	}
}

func TestAPeerThatRefusesOrLiesIsThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		peer := &moody{}
		p := remote.NewPatient(peer, time.Now)
		for _, err := range []error{querying.ErrDenied, querying.ErrAnswerInvalid, querying.ErrUntrusted, context.Canceled} {
			peer.is(querying.Answer{}, err)
			for range 30 {
				if _, got := p.Do(t.Context(), atWork, once); !errors.Is(got, err) {
					t.Fatalf("%v, want %v", got, err)
				}
			}
			if peer.asked != 30 {
				t.Errorf("after %v: asked %d times of 30", err, peer.asked)
			}
		}
	})
}

func TestOnlyWhatMayBeRepeatedIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, tt := range map[string]struct {
			call querying.Call
			err  error
			want int
		}{
			"a list":            {again, querying.ErrUnreachable, 3},
			"giving back":       {once, querying.ErrUnreachable, 1},
			"a slow answer":     {again, querying.ErrTimeout, 1},
			"a refusal":         {again, querying.ErrDenied, 1},
			"a hopeless answer": {again, querying.ErrAnswerInvalid, 1},
		} {
			peer := &moody{}
			peer.is(querying.Answer{}, tt.err)
			if _, err := remote.NewPatient(peer, time.Now).Do(t.Context(), atWork, tt.call); !errors.Is(err, tt.err) || peer.asked != tt.want {
				t.Errorf("%s: %v after %d tries, want %d", name, err, peer.asked, tt.want)
			}
		}
		peer := &moody{}
		peer.is(querying.Answer{}, querying.ErrUnreachable)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := remote.NewPatient(peer, time.Now).Do(ctx, atWork, again); !errors.Is(err, querying.ErrUnreachable) || peer.asked != 1 {
			t.Errorf("without time left: %v after %d tries", err, peer.asked)
		}
	})
}

func TestAPeerThatAsksToWaitIsNotAskedUntilThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		peer := &moody{}
		p := remote.NewPatient(peer, time.Now)
		peer.is(querying.Answer{Status: 429, Problem: true, RetryAfter: 10 * time.Second}, nil)
		for range 5 {
			if a, err := p.Do(t.Context(), atWork, again); err != nil || a.Status != 429 {
				t.Errorf("%+v %v", a, err)
			}
			time.Sleep(time.Second)
		}
		if a, _ := p.Do(t.Context(), atWork, again); peer.asked != 1 || a.RetryAfter != 5*time.Second {
			t.Errorf("asked %d times, and %s are left", peer.asked, a.RetryAfter)
		}
		other := atWork
		other.CredentialID = uuid.New()
		if _, _ = p.Do(t.Context(), other, again); peer.asked != 2 {
			t.Error("another grant at the same peer was held too")
		}
		time.Sleep(5 * time.Second)
		peer.is(fine, nil)
		if a, err := p.Do(t.Context(), atWork, again); err != nil || a.Status != 200 {
			t.Errorf("afterwards: %+v %v", a, err)
		}
		peer.is(querying.Answer{Status: 503, Problem: true, RetryAfter: time.Hour}, nil)
		_, _ = p.Do(t.Context(), atWork, again)
		time.Sleep(time.Minute)
		peer.is(fine, nil)
		if a, _ := p.Do(t.Context(), atWork, again); a.Status != 200 {
			t.Errorf("a minute after it asked for an hour: %d", a.Status)
		}
	})
}

// What a peer cannot answer of one question, or of one kind, holds nobody back who asks another.
func TestTroubleOfAQuestionIsNotThePeers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for code, whole := range map[string]bool{
			"embeddings_unavailable": false, "search_busy": false, "database_timeout": false,
			"database_unavailable": true, "audit_unavailable": true, "database_busy": true, "something_new": true,
		} {
			peer := &moody{}
			p := remote.NewPatient(peer, time.Now)
			busy := querying.Answer{Status: 503, Problem: true, RetryAfter: 5 * time.Second, Body: []byte(`{"code":"` + code + `"}`)}
			peer.is(busy, nil)
			if a, err := p.Do(t.Context(), atWork, again); err != nil || a.Status != 503 {
				t.Errorf("%s: %+v %v", code, a, err)
			}
			peer.is(fine, nil)
			if a, err := p.Do(t.Context(), atWork, again); err != nil || (a.Status == 503) != whole {
				t.Errorf("%s with Retry-After, then another question: %+v %v", code, a, err)
			}
			time.Sleep(6 * time.Second)
			busy.RetryAfter = 0
			peer.is(busy, nil)
			for range 10 {
				_, _ = p.Do(t.Context(), atWork, again)
			}
			if open := leftAlone(p); open != whole {
				t.Errorf("%s ten times: left alone %v", code, open)
			}
			if peer.asked > 10 {
				t.Errorf("%s: an answer was asked for again: %d times for 10 questions", code, peer.asked)
			}
		}
	})
}

// A peer that was silent and now says that this question is too much for it is back.
func TestAPeerThatCannotAnswerThisQuestionIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		peer := &moody{}
		p := remote.NewPatient(peer, time.Now)
		peer.is(querying.Answer{}, querying.ErrTimeout)
		for range 10 {
			_, _ = p.Do(t.Context(), atWork, once)
		}
		time.Sleep(15 * time.Second)
		peer.is(querying.Answer{Status: 503, Problem: true, Body: []byte(`{"code":"database_timeout"}`)}, nil)
		for range 3 {
			if a, err := p.Do(t.Context(), atWork, again); err != nil || a.Status != 503 {
				t.Errorf("%+v %v", a, err)
			}
		}
		if peer.asked != 3 || leftAlone(p) {
			t.Errorf("asked %d times of 3, circuits %v", peer.asked, p.Circuits())
		}
	})
}

// Whether a peer that is left alone was silent or answered is told apart by its last failure.
func TestAPeerThatIsLeftAloneMayHaveAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		peer := &moody{}
		p := remote.NewPatient(peer, time.Now)
		alone := func(when string, answered bool) {
			t.Helper()
			for range 10 {
				_, _ = p.Do(t.Context(), atWork, once)
			}
			if _, err := p.Do(t.Context(), atWork, once); !errors.Is(err, querying.ErrUnreachable) || errors.Is(err, querying.ErrAnswered) != answered {
				t.Errorf("%s: %v", when, err)
			}
			time.Sleep(15 * time.Second)
		}
		peer.is(overloaded, nil)
		alone("it answered", true)
		peer.is(querying.Answer{}, querying.ErrTimeout)
		alone("then it was silent", false)
		peer.is(overloaded, nil)
		alone("and answered again", true)
		peer.is(querying.Answer{}, querying.ErrQuestionTooLong)
		_, _ = p.Do(t.Context(), atWork, once)
		if !leftAlone(p) {
			t.Error("a question that was not sent found the peer back")
		}
	})
}
