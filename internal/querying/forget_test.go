package querying_test

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
)

// After a refusal nothing of the grant is shown, neither now nor when the peer is away: not for the question that was
// refused, and not for any other of the grant, whoever asked it.
func TestNothingIsShownAfterARefusal(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403} {
		m := remember(t)
		m.wantShown("remote-secret", querying.StatusOK)
		m.peer.set(func(p *tagging) {
			p.refuse = func(w http.ResponseWriter, _ *http.Request) { problem(w, status, "grant_revoked", "revoked") }
		})
		if _, _, err := m.ways()["list"](m.caller()); !errors.Is(err, querying.ErrDenied) {
			t.Errorf("%d: %v", status, err)
		}
		m.road.close(querying.ErrUnreachable)
		m.wantNothing(querying.ErrUnreachable)
		m.road.open()
		m.wantNothing(querying.ErrDenied)
		if m.count(querying.CachePurged) == 0 {
			t.Error("not counted")
		}
	}
	m := remember(t)
	m.wantShown("remote-secret", querying.StatusOK)
	m.road.close(querying.ErrDenied) // in the handshake
	m.wantNothing(querying.ErrDenied)
	m.road.close(querying.ErrUnreachable)
	m.wantNothing(querying.ErrUnreachable)
}

func TestARowThatIsGoneIsForgotten(t *testing.T) {
	t.Parallel()
	m := remember(t)
	m.wantShown("remote-secret", querying.StatusOK)
	m.peer.set(func(p *tagging) {
		p.refuse = func(w http.ResponseWriter, _ *http.Request) { problem(w, 404, "not_found", "no such thing") }
	})
	if _, _, err := m.ways()["get"](m.caller()); !errors.Is(err, querying.ErrNotFound) {
		t.Errorf("%v", err)
	}
	m.road.close(querying.ErrUnreachable)
	if _, row, err := m.ways()["get"](m.caller()); row != nil || !errors.Is(err, querying.ErrUnreachable) {
		t.Errorf("%s %v", row, err)
	}
	if _, row, err := m.ways()["list"](m.caller()); row == nil || err != nil {
		t.Errorf("the list was not asked for, and is gone too: %v", err)
	}
}

// What this gateway's admin does counts at once, and what was kept before it is not found again when it is taken back.
func TestWhatWasKeptBeforeAnActIsNotShownAfterIt(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		do, undo func(m *remembering) error
		refused  error
	}{
		"suspend": {
			func(m *remembering) error {
				_, err := m.peers.Change(t.Context(), "work", postgres.Transition{Verb: "peer.suspend", Rule: peer.State.Suspend}, "", act)
				return err
			},
			func(m *remembering) error {
				_, err := m.peers.Change(t.Context(), "work", postgres.Transition{Verb: "peer.resume", Rule: peer.State.Resume}, "", act)
				return err
			}, peer.ErrSuspended,
		},
		"unshare": {
			func(m *remembering) error {
				return m.credentials.Share(t.Context(), postgres.Share{Peer: "work", User: m.user.Email, Revoked: true}, act)
			},
			func(m *remembering) error {
				return m.credentials.Share(t.Context(), postgres.Share{Peer: "work", User: m.user.Email}, act)
			}, querying.ErrNotAvailable,
		},
		"disable the user": { // who is not let in then
			func(m *remembering) error {
				_, err := m.accounts.UpdateUser(t.Context(), m.user.ID.String(), postgres.UserChange{Disabled: new(true)}, act)
				return err
			},
			func(m *remembering) error {
				_, err := m.accounts.UpdateUser(t.Context(), m.user.ID.String(), postgres.UserChange{Disabled: new(false)}, act)
				return err
			}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := remember(t)
			m.wantShown("remote-secret", querying.StatusOK)
			m.road.close(querying.ErrUnreachable)
			noError(t, tt.do(m))
			if tt.refused != nil {
				m.wantNothing(tt.refused)
			}
			noError(t, tt.undo(m))
			m.wantNothing(querying.ErrUnreachable)
		})
	}
	t.Run("remove", func(t *testing.T) {
		t.Parallel()
		m := remember(t)
		m.wantShown("remote-secret", querying.StatusOK)
		m.road.close(querying.ErrUnreachable)
		noError(t, m.peers.Remove(t.Context(), "work", act))
		m.wantNothing(querying.ErrNotAvailable)
		m.mustAdd(m.other.url("again"))
		m.wantNothing(querying.ErrUnreachable)
	})
	t.Run("leave the team", func(t *testing.T) {
		t.Parallel()
		m := remember(t)
		noError(t, m.credentials.Share(t.Context(), postgres.Share{Peer: "work", User: m.user.Email, Revoked: true}, act))
		_, err := m.accounts.CreateTeam(t.Context(), "red", act)
		noError(t, err)
		noError(t, m.accounts.AddMember(t.Context(), "red", m.user.Email, act))
		noError(t, m.credentials.Share(t.Context(), postgres.Share{Peer: "work", Team: "red"}, act))
		m.wantShown("remote-secret", querying.StatusOK)
		m.road.close(querying.ErrUnreachable)
		m.wantShown("remote-secret", querying.StatusStale)
		noError(t, m.accounts.RemoveMember(t.Context(), "red", m.user.Email, act))
		m.wantNothing(querying.ErrNotAvailable)
		noError(t, m.accounts.AddMember(t.Context(), "red", m.user.Email, act))
		m.wantNothing(querying.ErrUnreachable)
	})
}

// A refusal counts whatever was asked: what the peer refuses of its capabilities, of its roots and of a renewal, it would
// refuse of its rows.
func TestARefusalOfAnythingForgetsTheRows(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(*remembering){
		"capabilities": func(m *remembering) {
			if _, err := m.service.Covers(t.Context(), m.caller(), "work"); !errors.Is(err, querying.ErrDenied) {
				t.Error(err)
			}
		},
		"hang-up": func(m *remembering) {
			c, err := m.credentials.Find(t.Context(), "work", m.user.ID)
			noError(t, err)
			m.service.HangUp(t.Context(), m.caller(), []querying.Credential{c})
		},
		"roots":   func(m *remembering) { m.upkeep(`roots_next_at = now() - interval '1 second'`) },
		"renewal": func(m *remembering) { m.upkeep(`renew_after = now() - interval '1 second'`) },
	} {
		m := remember(t)
		m.wantShown("remote-secret", querying.StatusOK)
		m.peer.set(func(p *tagging) {
			p.refuse = func(w http.ResponseWriter, _ *http.Request) { problem(w, 403, "grant_revoked", "revoked") }
		})
		ask(m)
		if asked, _ := m.peer.took(); len(asked) == 0 {
			t.Errorf("%s: the peer was not asked", name)
		}
		m.road.close(querying.ErrUnreachable)
		m.wantNothing(querying.ErrUnreachable)
	}
}

// upkeep renews and asks for roots what is due.
func (m *remembering) upkeep(due string) {
	m.t.Helper()
	_, err := m.pool.Exec(m.t.Context(), `UPDATE federation_credentials SET roots_next_at = now() + interval '1 hour'`)
	noError(m.t, err)
	_, err = m.pool.Exec(m.t.Context(), `UPDATE federation_credentials SET `+due)
	noError(m.t, err)
	r := querying.NewRenewer(querying.RenewerConfig{
		Store: m.credentials, Client: m.client, Keys: m.keys, Random: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Cache: m.service.Cache,
	})
	noError(m.t, r.Run(m.t.Context()))
}
