package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
)

// What docs/root-rollover.md tells the operator of a stock step-ca to type, typed: the peer that trusts the old root is
// answered while both are in trust, and a replica starts with what the page says it is to be given.
func TestThePageRollsTheRootOfAStockStepCA(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "root-rollover.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## A Step-CA of its own\n")
	blocks := regexp.MustCompile("(?s)\n   ```\n(.*?)   ```\n").FindAllStringSubmatch(section, -1)
	if !found || len(blocks) != 4 {
		t.Fatalf("%d blocks of commands on the page, want 4: make, let both be known, switch, finish", len(blocks))
	}
	c, caDir := newOwnCluster(t)
	bin := t.TempDir()
	if err := os.Symlink(stepcatest.Command(t), filepath.Join(bin, "step")); err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(c.dir, "known.crt") // what STEP_CA_ROOT_CERT_PATH names
	copied := func(name string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(caDir, name))
		if err == nil {
			err = os.WriteFile(known, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	typed := func(i int) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", blocks[i][1])
		cmd.Dir, cmd.Env = caDir, []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + caDir, "STEPPATH=" + caDir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal, where step would ask for a password
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", blocks[i][1], err, out)
		}
	}
	copied("certs/root_ca.crt")
	c.env = append(c.env, "STEP_CA_ROOT_CERT_PATH="+known)
	stopCA := runStepCA(t, caDir)
	restart := func() {
		t.Helper()
		stopCA()
		stopCA = runStepCA(t, caDir)
	}
	g := c.launch("r0").serves()
	trusts := func(roots int) {
		t.Helper()
		var shown []struct{ Current bool }
		for deadline := time.After(time.Minute); len(shown) != roots || !shown[0].Current; {
			select {
			case <-deadline:
				t.Fatalf("the gateway trusts %v, want %d roots", shown, roots)
			case <-time.After(50 * time.Millisecond):
			}
			g.decode(&shown, "gateway", "ca", "show")
		}
	}
	g.user("ada@example.org", "one")
	_, e := g.grantFor("home", "ada@example.org", tasksOnly)
	before := g.enrolAt(e)
	answered := func(p *peerClient, when string) {
		t.Helper()
		if got := p.at(g).list("/resources/tasks").titles(); got != "one" {
			t.Errorf("%s: %s", when, got)
		}
	}

	typed(0)
	typed(1)
	copied("both-roots.crt")
	typed(2)
	restart()
	trusts(2)
	answered(before, "the peer of the old root, after the switch")
	_, e = g.grantFor("late", "ada@example.org", tasksOnly)
	after := g.enrolAt(e)
	if after.issued.CARoot == before.issued.CARoot {
		t.Error("the new peer's certificate leads to the old root")
	}
	answered(after, "the peer of the new root")
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	g = c.launch("r1").serves()
	answered(before, "the peer of the old root, at a replica that has started since")

	typed(3)
	restart()
	trusts(1)
	copied("certs/root_ca.crt")
	answered(after, "the peer of the new root, after the end")
	if err := g.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	g = c.launch("r2").serves()
	answered(after, "the peer of the new root, at a replica that has started since")
	if resp, err := before.at(g).http.Get(before.at(g).base + "/resources/tasks"); err == nil { //nolint:noctx // the client has a timeout
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("the old root still opens the door")
		}
	}
}
