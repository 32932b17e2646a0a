package querying_test

import (
	"testing"

	"github.com/mosaicstack/gateway/internal/querying"
)

// A peer that is named twice, by its name and by its id, is one source.
func TestAPeerIsOneSourceHoweverItIsNamed(t *testing.T) {
	t.Parallel()
	m := remember(t)
	c, err := m.credentials.Find(t.Context(), "work", m.user.ID)
	noError(t, err)
	id := c.Peer.ID.String()
	for _, peers := range []string{"work," + id, id + ",work", id + ",local,work"} {
		from, err := querying.ParseSources(peers, "")
		noError(t, err)
		from.Local = false
		p, err := m.service.ListAcross(t.Context(), m.caller(), "tasks", from, querying.ListParams{})
		noError(t, err)
		if asked, _ := m.peer.took(); len(p.Data) != 1 || len(p.Sources) != 1 || p.Sources[0].Name != "work" || len(asked) != 1 {
			t.Errorf("%s: %d rows of %+v, asked %d times", peers, len(p.Data), p.Sources, len(asked))
		}
		p, err = m.service.SearchAcross(t.Context(), m.caller(), "tasks", from, []byte(`{"query":"milk"}`))
		noError(t, err)
		if asked, _ := m.peer.took(); len(p.Data) != 1 || len(p.Sources) != 1 || len(asked) != 1 {
			t.Errorf("%s: found %d rows of %+v, asked %d times", peers, len(p.Data), p.Sources, len(asked))
		}
	}
	from, err := querying.ParseSources("work,00000000-0000-0000-0000-000000000009", "")
	noError(t, err)
	p, err := m.service.ListAcross(t.Context(), m.caller(), "tasks", from, querying.ListParams{})
	noError(t, err)
	if len(p.Sources) != 2 || p.Sources[1].Code != "peer_not_available" {
		t.Errorf("an id of nobody: %+v", p.Sources)
	}
}
