package telemetry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/telemetry"
)

func TestPeersAreToldApartUpToABound(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics("test", "local")
	circuits, held := map[string]int{}, []querying.Standing{}
	m.WatchCircuits(func() map[string]int { return circuits })
	m.WatchCredentials(func() []querying.Standing { return held })
	for n := range 300 {
		name := fmt.Sprint("peer-", n)
		m.Asked(name, querying.StatusOK, time.Second)
		m.Asked(name, "their text", time.Second)
		m.Retried(name)
		circuits[name] = 2
		held = append(held, querying.Standing{Peer: name, NotAfter: time.Unix(1000, 0), Failures: 3})
	}
	m.Across("list", time.Second)
	m.Across("their text", time.Second)
	out := scrape(t, m)
	for _, want := range []string{
		`mosaic_peer_requests_total{peer="peer-0",status="ok"} 1`, `mosaic_peer_requests_total{peer="peer-99",status="other"} 1`,
		`mosaic_peer_requests_total{peer="other",status="ok"} 200`, `mosaic_peer_retries_total{peer="other"} 200`,
		`mosaic_peer_request_duration_seconds_sum{peer="peer-7"} 2`, `mosaic_peer_circuit_state{peer="peer-7"} 2`,
		`mosaic_peer_credential_expiry_timestamp_seconds{peer="peer-7"} 1000`, `mosaic_peer_renewal_failures{peer="peer-7"} 3`,
		`mosaic_fanout_duration_seconds_count{verb="list"} 1`, `mosaic_fanout_duration_seconds_count{verb="other"} 1`,
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("there is no line %s", want)
		}
	}
	for name, most := range map[string]int{"mosaic_peer_requests_total{": 202, "mosaic_peer_circuit_state{": 100, "mosaic_peer_renewal_failures{": 100} {
		if n := strings.Count(out, "\n"+name); n > most {
			t.Errorf("%s has %d series", name, n)
		}
	}
	if strings.Contains(out, "their text") {
		t.Error("a label is a text of somebody else")
	}
	// A peer that was removed is not shown any more.
	clear(circuits)
	held = nil
	if out = scrape(t, m); strings.Contains(out, "\nmosaic_peer_circuit_state{") || strings.Contains(out, "\nmosaic_peer_renewal_failures{") {
		t.Error("peers that are not there have gauges")
	}
}
