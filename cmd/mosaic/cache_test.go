package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/redis/go-redis/v9"
)

// both runs a command and gives what it printed on each stream.
func (g *gatewayProcess) both(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command("mosaic", args...)
	cmd.Env = append(os.Environ(), "MOSAIC_DIR="+g.dir)
	var out, prose bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &prose
	err = cmd.Run()
	return out.String(), prose.String(), err
}

// A peer that is killed is stood in for by what it said a moment ago, which says so and how old it is. What it refused
// before is not shown, though it was held as well.
func TestWhatAPeerSaidIsShownWhileItIsAwayAndNotAfterARefusal(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	work, home := startGateway(t, filepath.Join(root, "work")), startGateway(t, filepath.Join(root, "home"))
	const canary = "canary4c1fd21d"
	work.user("ada@example.org", canary)
	home.user("ada@home.example")
	var revoked grantDoc
	for _, name := range []string{"work", "job"} {
		grant, e := work.grantFor("home", "ada@example.org", tasksOnly)
		home.mosaic("federation", "peer", "add", e.URL, "--name", name, "--user", "ada@home.example")
		revoked = grant
	}
	query := func(args ...string) []string { return append([]string{"federation", "query"}, args...) }
	var l listDoc
	for _, name := range []string{"work", "job"} {
		home.decode(&l, query(name, "tasks", "--user", "ada@home.example")...)
		home.mosaic(query(name, "tasks", l.Data[0].ID, "--user", "ada@home.example")...)
		home.mosaic(query(name, "tasks", "--search", canary, "--user", "ada@home.example")...)
	}
	home.mosaic(query("all", "tasks", "--user", "ada@home.example")...)

	work.mosaic("federation", "grant", "revoke", revoked.ID)
	for _, args := range [][]string{query("job", "tasks"), query("job", "tasks", l.Data[0].ID), query("job", "tasks", "--search", canary)} {
		out, prose, err := home.both(append(args, "--user", "ada@home.example")...)
		if err == nil || strings.Contains(out, canary) || !strings.Contains(prose, "(peer_denied)") {
			t.Errorf("%v after the revoke: %v %s%s", args, err, out, prose)
		}
	}
	_ = work.stop(syscall.SIGKILL)
	for _, args := range [][]string{query("work", "tasks"), query("work", "tasks", l.Data[0].ID), query("work", "tasks", "--search", canary)} {
		out, prose, err := home.both(append(args, "--user", "ada@home.example")...)
		if err != nil || !strings.Contains(out, canary) || !strings.Contains(prose, "work: stale: ") || !strings.Contains(prose, " s ago") {
			t.Errorf("%v while the peer is away: %v\n%s%s", args, err, out, prose)
		}
	}
	for _, args := range [][]string{query("job", "tasks"), query("job", "tasks", l.Data[0].ID), query("job", "tasks", "--search", canary)} {
		if out, prose, err := home.both(append(args, "--user", "ada@home.example")...); err == nil || strings.Contains(out, canary) {
			t.Errorf("%v of a revoked grant: %v\n%s%s", args, err, out, prose)
		}
	}
	var across struct {
		Data    []struct{ Title, Source string }
		Sources []struct {
			Name, Status string
			Rows         int
			Age          *int `json:"age_seconds"`
		}
	}
	home.decode(&across, query("all", "tasks", "--user", "ada@home.example")...)
	if len(across.Data) != 1 || across.Data[0].Source != "work" || len(across.Sources) != 2 {
		t.Fatalf("%+v", across)
	}
	if job, work := across.Sources[0], across.Sources[1]; job.Status != "unreachable" || job.Age != nil || work.Status != "stale" || work.Age == nil || work.Rows != 1 {
		t.Errorf("%+v", across.Sources)
	}
	cmd := exec.Command("mosaic", "mcp", "--user", "ada@home.example")
	cmd.Env = append(os.Environ(), "MOSAIC_DIR="+home.dir)
	s := connectMCP(t, &mcp.CommandTransport{Command: cmd})
	call(t, s, "list_rows", map[string]any{"resource": "tasks", "sources": []string{"job", "work"}}, &struct{}{})
	var one struct {
		Row    struct{ Title string }
		Source struct {
			Status string
			Age    *int `json:"age_seconds"`
		}
	}
	call(t, s, "get_row", map[string]any{"source": "work", "resource": "tasks", "id": l.Data[0].ID}, &one)
	if one.Row.Title != canary || one.Source.Status != "stale" || one.Source.Age == nil {
		t.Errorf("an assistant sees %+v", one)
	}
	if home.logs.String() == "" || strings.Contains(home.logs.String(), canary) {
		t.Error("the log is empty, or holds a row")
	}
}

// Replicas find each other's answers in Valkey, which holds nothing that says anything; without Valkey, and with the
// setting that wants no cache, nothing is shown of a peer that is away.
func TestReplicasShareWhatPeersSaid(t *testing.T) {
	t.Parallel()
	work := startGateway(t, filepath.Join(t.TempDir(), "work"))
	const canary = "canary9b7ae0c3"
	work.user("ada@example.org", canary)
	grant, e := work.grantFor("home", "ada@example.org", tasksOnly)
	c := newCluster(t)
	off := c.launch("off", "MOSAIC_CACHE_TTL=0")
	r := c.replicas(2)
	off.serves()
	ada := r[0].user("ada@home.example")
	r[0].mosaic("federation", "peer", "add", e.URL, "--name", "work", "--user", "ada@home.example")
	query := []string{"federation", "query", "work", "tasks", "--user", "ada@home.example"}
	for _, g := range []*gatewayProcess{off, r[0], r[0]} {
		if out := g.mosaic(query...); !strings.Contains(out, canary) {
			t.Fatal(out)
		}
	}
	held := c.valkeyHolds()
	if !strings.Contains(held, "mosaic:cache:salt ") || strings.Count(held, "mosaic:cache:") != 3 {
		t.Errorf("Valkey holds %q, want a salt, the mark of a grant and one answer", held)
	}
	for _, secret := range []string{canary, "title", "tasks", "ada", ada, strings.ReplaceAll(ada, "-", ""), grant.ID, grant.SubjectUserID, "work"} {
		if strings.Contains(held, secret) {
			t.Errorf("Valkey holds %q", secret)
		}
	}
	_ = work.stop(syscall.SIGKILL)
	for _, g := range r {
		if out, prose, err := g.both(query...); err != nil || !strings.Contains(out, canary) || !strings.Contains(prose, "work: stale: ") {
			t.Errorf("%v %s%s", err, out, prose)
		}
	}
	_ = c.valkey.Process.Kill()
	_ = c.valkey.Wait()
	for _, g := range append(r, off) {
		if out, prose, err := g.both(query...); err == nil || strings.Contains(out, canary) || !strings.Contains(prose, "(peer_unreachable)") {
			t.Errorf("without a cache: %v %s%s", err, out, prose)
		}
	}
}

// valkeyHolds is every key of the cache with its value.
func (c *cluster) valkeyHolds() string {
	c.t.Helper()
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: c.valkeySocket()})
	defer rdb.Close()
	keys, err := rdb.Keys(c.t.Context(), "*").Result()
	if err != nil {
		c.t.Fatal(err)
	}
	var b strings.Builder
	for _, key := range keys {
		value, err := rdb.Get(c.t.Context(), key).Result()
		if err != nil && strings.Contains(key, "cache") {
			c.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", key, value)
	}
	return b.String()
}
