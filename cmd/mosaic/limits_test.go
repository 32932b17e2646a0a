package main

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// healthIs waits until a replica's health says so. A loss has to be told within 10 s.
func (g *gatewayProcess) healthIs(part, state, status string) {
	g.t.Helper()
	var last string
	for deadline := time.After(10 * time.Second); ; {
		a := get(g.t, g.URL+"/health")
		var doc struct {
			Status string
			Checks map[string]string
		}
		if err := json.Unmarshal(a.Body, &doc); err == nil && a.Status == http.StatusOK && doc.Checks[part] == state && doc.Status == status {
			return
		}
		last = string(a.Body)
		select {
		case <-deadline:
			g.t.Fatalf("health is not %s with %s %s within 10 s: %s", status, part, state, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func get(t *testing.T, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, http.DefaultClient, req)
}

// The limit of a grant holds over all replicas, without Valkey over each of them, and again over all when it is back.
func TestReplicasShareLimitsAndOutliveValkey(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	r := c.replicas(2)
	r[0].user("ada@example.org", "one")
	_, e := r[0].grantFor("home", "ada@example.org", tasksOnly, "--rate", "1/min", "--burst", "6")
	peer := r[1].enrolAt(e)
	ask := func(g *gatewayProcess, want int, remaining string) {
		t.Helper()
		a := peer.at(g).get("/resources/tasks")
		h := a.Header
		if a.Status != want || h.Get("RateLimit-Remaining") != remaining || h.Get("RateLimit-Limit") != "6" || !strings.HasPrefix(h.Get("RateLimit-Policy"), `"grant";q=1;w=60`) {
			t.Errorf("%d %v, want %d with %s remaining", a.Status, h, want, remaining)
		}
		wait, _ := strconv.Atoi(h.Get("Retry-After"))
		if limited := want == http.StatusTooManyRequests; limited != (wait > 0 && wait <= 60) {
			t.Errorf("%d with Retry-After %q", a.Status, h.Get("Retry-After"))
		}
		if want == http.StatusTooManyRequests && a.problem(t).Code != "rate_limited" {
			t.Errorf("%s", a.Body)
		}
	}
	r[0].healthIs("valkey", "ok", "ok")
	for i, g := range []*gatewayProcess{r[0], r[1], r[0], r[1]} {
		ask(g, http.StatusOK, strconv.Itoa(5-i))
	}

	_ = c.valkey.Process.Kill()
	_ = c.valkey.Wait()
	// Each goes on from what it knows: replica 0 heard last of three remaining, replica 1 of two.
	ask(r[0], http.StatusOK, "2")
	ask(r[1], http.StatusOK, "1")
	ask(r[1], http.StatusOK, "0")
	ask(r[1], http.StatusTooManyRequests, "0")
	for _, g := range r {
		g.healthIs("valkey", "down", "degraded")
	}

	c.startValkey() // empty
	for _, g := range r {
		g.healthIs("valkey", "ok", "ok")
	}
	ask(r[1], http.StatusTooManyRequests, "0")
	ask(r[0], http.StatusTooManyRequests, "0") // it had two left of its own; now it is told
}

// A Valkey that is away does not keep a replica from serving; one that writes to disk does.
func TestAReplicaStartsWithoutValkeyAndNotWithOneThatPersists(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	away := c.launch("away", "VALKEY_URL=redis://:hunter2@127.0.0.1:1/0").serves()
	away.healthIs("valkey", "down", "degraded")
	away.user("ada@example.org", "one")
	_, e := away.grantFor("home", "ada@example.org", tasksOnly, "--rate", "1/min", "--burst", "1")
	peer := away.enrolAt(e)
	if a := peer.at(away).get("/resources/tasks"); a.Status != http.StatusOK {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := peer.at(away).get("/resources/tasks"); a.Status != http.StatusTooManyRequests {
		t.Errorf("a second one at 1/min: %d %s", a.Status, a.Body)
	}
	if strings.Contains(away.logs.String(), "hunter2") {
		t.Error("Valkey's password is in the log")
	}

	if out, err := c.valkeyCLI("CONFIG", "SET", "save", "900 1"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	refused := c.launch("refused")
	select {
	case <-refused.exited:
	case <-time.After(20 * time.Second):
		t.Fatal("a Valkey that persists is taken")
	}
	if log := refused.logs.String(); !strings.Contains(log, "(valkey_persists)") || !strings.Contains(log, "hint:") {
		t.Errorf("it said: %s", log)
	}
}

func (c *cluster) valkeyCLI(args ...string) ([]byte, error) {
	return exec.Command("valkey-cli", append([]string{"-s", c.valkeySocket()}, args...)...).CombinedOutput()
}
