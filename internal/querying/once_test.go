package querying_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/seal"
)

// counted counts what is looked up.
type counted struct {
	querying.Finder
	n atomic.Int64
}

func (c *counted) Find(ctx context.Context, ref string, user uuid.UUID) (querying.Credential, error) {
	c.n.Add(1)
	return c.Finder.Find(ctx, ref, user)
}

// noted counts the calls that may be repeated.
type noted struct {
	querying.Client
	repeatable atomic.Int64
}

func (f *noted) Do(ctx context.Context, t querying.Target, c querying.Call) (querying.Answer, error) {
	if c.Repeatable {
		f.repeatable.Add(1)
	}
	return f.Client.Do(ctx, t, c)
}

// However many pages an answer takes of a source, the right to ask it is looked up once; the next answer looks anew.
func TestTheRightToAskIsLookedUpOnceForAnAnswer(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	w, _, added := connected(t, func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		next := `"more"`
		if r.URL.Query().Get("cursor") != "" && n%3 == 0 {
			next = "null"
		}
		answer(200, fmt.Sprintf(`{"data":[{"id":%q,"updated_at":"2026-01-01T00:00:%02dZ"}],"page":{"limit":1,"capped":true,"next_cursor":%s}}`, uuid.New(), 59-n, next))(w, r)
	})
	c := w.service.Config
	finder := &counted{Finder: c.Finder}
	c.Finder, c.Cursors = finder, page.AEAD(mustKeys(t).AEAD("cursors"))
	service := querying.New(c)
	from := func(peers string) []querying.Source {
		t.Helper()
		out, err := service.ListAcross(t.Context(), w.caller(), "tasks", querying.Sources{Peers: []string{peers}}, querying.ListParams{})
		noError(t, err)
		return out.Sources
	}
	ask := func() querying.Source { return from("work")[0] }
	if s := ask(); s.Rows != 3 || asked.Load() != 3 || finder.n.Load() != 1 {
		t.Errorf("%+v: %d pages and %d look-ups", s, asked.Load(), finder.n.Load())
	}
	if s := from(querying.AllPeers); len(s) != 1 || s[0].Rows != 3 || s[0].Name != "work" || asked.Load() != 6 || finder.n.Load() != 1 {
		t.Errorf("all: %+v: %d pages and %d look-ups of one peer", s, asked.Load(), finder.n.Load())
	}
	if _, err := w.pool.Exec(t.Context(), `DELETE FROM federation_credential_users`); err != nil {
		t.Fatal(err)
	}
	if s := from(querying.AllPeers); len(s) != 0 {
		t.Errorf("all, after it was taken away: %+v", s)
	}
	if s := ask(); s.Status != querying.StatusDenied || s.Name != "work" || asked.Load() != 6 || finder.n.Load() != 2 {
		t.Errorf("after %s was taken away: %+v, %d pages and %d look-ups", added.Peer.Name, s, asked.Load(), finder.n.Load())
	}
}

func mustKeys(t *testing.T) *seal.Keyring {
	t.Helper()
	keys, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	noError(t, err)
	return keys
}

func TestWhatChangesNothingMayBeRepeated(t *testing.T) {
	t.Parallel()
	w, _, _ := connected(t, answer(200, `{"data":[],"page":{"limit":50,"capped":false,"next_cursor":null},"search":{"mode":"lexical","model":null}}`))
	c := w.service.Config
	client := &noted{Client: c.Client}
	c.Client = client
	service := querying.New(c)
	_, err := service.Search(t.Context(), w.caller(), "work", "tasks", []byte(`{"query":"x"}`))
	noError(t, err)
	_, err = service.List(t.Context(), w.caller(), "work", "tasks", querying.ListParams{})
	noError(t, err)
	if client.repeatable.Load() != 2 {
		t.Errorf("%d of a search and a list may be repeated", client.repeatable.Load())
	}
	held, err := w.credentials.Active(t.Context(), w.only(t))
	noError(t, err)
	service.HangUp(t.Context(), w.caller(), held)
	if client.repeatable.Load() != 2 {
		t.Error("giving a grant back would be repeated")
	}
}

// only is the one peer there is.
func (w *world) only(t *testing.T) uuid.UUID {
	t.Helper()
	var id uuid.UUID
	noError(t, w.pool.QueryRow(t.Context(), `SELECT id FROM federation_peers`).Scan(&id))
	return id
}
