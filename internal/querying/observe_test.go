package querying_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/querying"
)

// observed keeps what an observer is told.
type observed struct {
	mu   sync.Mutex
	told []string
}

func (n *observed) Asked(peer, status string, took time.Duration) { n.note(peer+" "+status, took) }

func (n *observed) Across(verb string, took time.Duration) { n.note("across "+verb, took) }

func (n *observed) note(what string, took time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if took < 0 {
		what += " took less than nothing"
	}
	n.told = append(n.told, what)
}

func TestEveryQuestionToAPeerIsObserved(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	w, _, _ := connected(t, func(w http.ResponseWriter, r *http.Request) {
		body := aPage
		if status != http.StatusOK {
			body = `{}`
		}
		answer(status, body)(w, r)
	})
	seen := &observed{}
	w.service.Observe = seen
	var want []string
	for _, s := range []struct {
		status int
		word   string
	}{{200, "ok"}, {403, "denied"}, {404, "denied"}, {429, "rate_limited"}, {500, "unreachable"}, {418, "unreachable"}} {
		status = s.status
		_, _ = w.list(w.caller())
		want = append(want, "work "+s.word)
	}
	// Nobody's business, and so on nobody's account: a peer that is not theirs, and one that is not there.
	_, _ = w.list(querying.Caller{UserID: uuid.New()})
	_, _ = w.service.List(t.Context(), w.caller(), "a-name-of-their-choice", "tasks", querying.ListParams{})
	_, err := w.service.ListAcross(t.Context(), w.caller(), "tasks", querying.Sources{Peers: []string{"all"}}, querying.ListParams{})
	noError(t, err)
	_, err = w.service.SearchAcross(t.Context(), w.caller(), "tasks", querying.Sources{Peers: []string{"work"}}, []byte(`{"query":"x"}`))
	noError(t, err)
	want = append(want, "work unreachable", "across list", "work unreachable", "across search")
	w.change("peer.suspend", peer.State.Suspend)
	_, _ = w.list(w.caller())
	want = append(want, "work denied")
	if !slices.Equal(seen.told, want) {
		t.Errorf("observed %q, want %q", seen.told, want)
	}
}
