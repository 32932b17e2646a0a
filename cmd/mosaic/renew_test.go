package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestACredentialRenewsItselfBetweenTwoGateways makes a renewal due and asks all the while. Then the serving gateway is
// stopped until half of what was left is gone: health tells it, and so does the peer list.
func TestACredentialRenewsItselfBetweenTwoGateways(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	work := startGateway(t, filepath.Join(root, "work"))
	home := startGatewayWith(t, []string{"MOSAIC_METRICS_LISTEN=127.0.0.1:0"}, filepath.Join(root, "home"))
	measured := func(lines ...string) {
		t.Helper()
		offered := string(get(t, home.MetricsURL).Body)
		for _, line := range lines {
			if !strings.Contains(offered, "\n"+line) {
				t.Errorf("the metrics do not have %s", line)
			}
		}
	}
	work.user("ada@example.org", "one")
	_, e := work.grantFor("home", "ada@example.org", tasksOnly)
	home.mosaic("federation", "peer", "add", e.URL, "--name", "work")
	home.healthIs("credentials", "ok", "ok")
	serial := func() string {
		t.Helper()
		var shown struct {
			Credentials []struct {
				Serial string `json:"serial_number"`
			}
		}
		home.decode(&shown, "federation", "peer", "show", "work")
		return shown.Credentials[0].Serial
	}
	first := serial()
	sql := func(text string) {
		t.Helper()
		home.postgres("psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-c", text)
	}
	sql(`UPDATE federation_credentials SET renew_after = now()`)
	for deadline := time.Now().Add(30 * time.Second); serial() == first; <-time.After(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not renewed")
		}
		home.mosaic("federation", "query", "work", "tasks")
	}
	home.mosaic("federation", "query", "work", "tasks")
	measured(`mosaic_part_up{part="credentials"} 1`, `mosaic_credential_renewals_total{outcome="renewed"} 1`, `mosaic_credential_renewals_total{outcome="failed"} 0`)

	if err := work.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	sql(`UPDATE federation_credentials SET renew_after = now(), renewal_started_at = now() - interval '40 days'`)
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(home.mosaic("federation", "peer", "list"), "renewal fails"); <-time.After(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the peer list does not tell that the renewal fails")
		}
	}
	home.healthIs("credentials", "down", "degraded")
	measured(`mosaic_part_up{part="credentials"} 0`)
	if none := `mosaic_credential_renewals_total{outcome="failed"} 0`; strings.Contains(string(get(t, home.MetricsURL).Body), none) {
		t.Errorf("the metrics still have %s", none)
	}
}
