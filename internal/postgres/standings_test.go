package postgres_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
)

var _ querying.Standings = (*postgres.Credentials)(nil)

func TestStandingsAreOfTheCredentialsInUse(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	h.user("ada@example.org", account.Member)
	now := time.Now().Truncate(time.Second)
	h.hold("work", "ada@example.org", certified(uuid.New(), now.Add(-2*time.Hour))) // has ended
	first := h.hold("work", "ada@example.org", certified(uuid.New(), now.Add(-30*time.Minute)))
	h.hold("work", "", certified(uuid.New(), now))
	h.begin(draft("work", ""))
	h.hold("lab", "ada@example.org", certified(uuid.New(), now.Add(-3*time.Hour))) // all there is
	err := h.store.FailRenewal(h.ctx, querying.Failure{ID: first.Credential.ID, Serial: first.Credential.Serial, Reason: "away", Next: now})
	if err != nil {
		t.Fatal(err)
	}
	got, err := h.store.Standings(h.ctx)
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v %v", got, err)
	}
	for i, want := range []querying.Standing{{Peer: "lab", NotAfter: now.Add(-2 * time.Hour)}, {Peer: "work", NotAfter: now.Add(30 * time.Minute), Failures: 1}} {
		if got[i].Peer != want.Peer || !got[i].NotAfter.Equal(want.NotAfter) || got[i].Failures != want.Failures {
			t.Errorf("%+v, want %+v", got[i], want)
		}
	}
}
