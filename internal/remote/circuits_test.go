package remote_test

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/remote"
)

func TestCircuitsAndRetriesAreToldByThePeersName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		peer := &moody{}
		p := remote.NewPatient(peer, time.Now)
		retried := map[string]int{}
		p.Retried = func(name string) { retried[name]++ }
		work, lab := atWork, atLab
		work.Peer, lab.Peer = "work", "lab"
		is := func(when string, work, lab int) {
			t.Helper()
			if got := p.Circuits(); !maps.Equal(got, map[string]int{"work": work, "lab": lab}) {
				t.Errorf("%s: %v", when, got)
			}
		}
		peer.is(fine, nil)
		_, _ = p.Do(t.Context(), lab, again)
		_, _ = p.Do(t.Context(), work, again)
		is("both there", 0, 0)
		peer.is(querying.Answer{}, querying.ErrUnreachable)
		_, _ = p.Do(t.Context(), work, again) // two retries
		_, _ = p.Do(t.Context(), work, again) // one, then it is left alone
		is("work away", 2, 0)
		if retried["work"] != 3 || retried["lab"] != 0 {
			t.Errorf("retried %v", retried)
		}
		time.Sleep(time.Minute)
		is("after a while", 1, 0)
		peer.is(fine, nil)
		_, _ = p.Do(t.Context(), work, once)
		is("work back", 0, 0)
		p.Forget(work.CredentialID)
		if got := p.Circuits(); !maps.Equal(got, map[string]int{"lab": 0}) {
			t.Errorf("of a peer that was removed: %v", got)
		}
	})
}
