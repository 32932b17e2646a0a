package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// diagnosis is what `mosaic gateway doctor --json` says of a replica's environment: the checks that are not ok, those
// that were skipped left out, and the exit code.
func (c *cluster) diagnosis(env ...string) (notOK map[string]string, exit int) {
	c.t.Helper()
	cmd := c.command("gateway", "doctor", "--json")
	cmd.Env = append(append([]string{}, c.env...), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		exit = failed.ExitCode()
	} else if err != nil {
		c.t.Fatal(err)
	}
	var report struct {
		Checks []struct{ Name, Status, Detail, Remedy string }
	}
	if err := json.Unmarshal(out, &report); err != nil || len(report.Checks) < 50 {
		c.t.Fatalf("doctor said %q, %s: %v", out, &stderr, err)
	}
	notOK = map[string]string{}
	for _, f := range report.Checks {
		if f.Status != "ok" && !strings.HasPrefix(f.Detail, "skipped because ") {
			notOK[f.Name] = f.Status
		}
	}
	for _, secret := range []string{string(c.ca.Password), "0123456789abcdef"} {
		if bytes.Contains(out, []byte(secret)) || strings.Contains(stderr.String(), secret) {
			c.t.Errorf("doctor tells a secret: %s %s", out, &stderr)
		}
	}
	return notOK, exit
}

// A replica of a sound cluster has nothing that fails; what is taken away is named, by the command as it is typed.
func TestDoctorLooksAtARunningReplica(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nobody := "127.0.0.1:1"
	env := []string{"MOSAIC_DIR=" + filepath.Join(c.dir, "none"), "MOSAIC_PUBLIC_URL=http://" + nobody, "MOSAIC_FEDERATION_URL=https://" + nobody}
	wants := func(what string, exit int, want map[string]string) {
		t.Helper()
		got, code := c.diagnosis(env...)
		delete(got, "public.health") // the replica sees it too, sooner or later
		if code != exit || !maps.Equal(got, want) {
			t.Errorf("%s: %v, exit code %d; want %v, %d", what, got, code, want, exit)
		}
	}
	// The parts can be looked at before the first start.
	wants("a cluster without a replica", 0, map[string]string{"gateway.running": "warn", "public.https": "warn", "embeddings.endpoint": "warn"})
	r := c.replicas(1)[0]
	env = []string{"MOSAIC_DIR=" + r.dir, "MOSAIC_PUBLIC_URL=" + r.URL, "MOSAIC_FEDERATION_URL=" + r.FederationURL}
	// Plain HTTP on loopback and no embeddings endpoint are no failures.
	wants("a sound cluster", 0, map[string]string{"public.https": "warn", "embeddings.endpoint": "warn"})
	if err := c.valkey.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.valkey.Wait()
	c.ca.Stop()
	wants("without Valkey and the CA", 1, map[string]string{"public.https": "warn", "embeddings.endpoint": "warn", "valkey.reachable": "fail", "ca.reachable": "fail"})
}
