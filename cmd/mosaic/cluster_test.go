package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/devstack"
)

// cluster is what a federated gateway stands on, each part a process of its own: PostgreSQL, Valkey and a stock
// step-ca. Its replicas are processes too.
type cluster struct {
	t      *testing.T
	dir    string // short: unix sockets are below it
	pg     *devstack.Postgres
	ca     *stepcatest.Server
	valkey *exec.Cmd
	env    []string
	log    *slog.Logger // what PostgreSQL says
}

// newCluster starts the parts and brings the schema up to date.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := newParts(t)
	c.migrate()
	return c
}

// migrate uses the product's own command.
func (c *cluster) migrate() {
	c.t.Helper()
	if out, err := c.command("gateway", "migrate").CombinedOutput(); err != nil {
		c.t.Fatalf("migrate: %v\n%s", err, out)
	}
}

// newParts starts the parts of a cluster whose database is empty.
func newParts(t *testing.T) *cluster {
	t.Helper()
	return newPartsLogging(t, slog.New(slog.DiscardHandler))
}

func newPartsLogging(t *testing.T, log *slog.Logger) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "mosaic-cluster-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{t: t, dir: dir, log: log}
	if err := os.Chmod(dir, 0o711); err != nil { // the server's user walks through it
		t.Fatal(err)
	}
	c.startPostgres()
	t.Cleanup(c.stopPostgres)
	c.ca = stepcatest.Start(t)
	c.startValkey()
	root := filepath.Join(c.ca.Dir, "certs", "root_ca.crt")
	c.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"MOSAIC_TIER=federated", "DATABASE_URL=" + c.pg.DSN(), "VALKEY_URL=unix://" + c.valkeySocket(),
		"GATEWAY_PORT=0", "MOSAIC_PUBLIC_URL=http://127.0.0.1:3000", "MOSAIC_FEDERATION_PORT=0", "MOSAIC_FEDERATION_URL=https://127.0.0.1:3443",
		"BETTER_AUTH_SECRET=0123456789abcdef0123456789abcdef", "STEP_CA_URL=" + c.ca.URL, "STEP_CA_ROOT_CERT_PATH=" + root,
		"STEP_CA_PROVISIONER_PASSWORD=" + string(c.ca.Password),
	}
	return c
}

// startPostgres runs the cluster's server, again on its data if it was stopped.
func (c *cluster) startPostgres() { c.startPostgresWith(map[string]string{}) }

func (c *cluster) startPostgresWith(settings map[string]string) {
	c.t.Helper()
	settings["max_connections"] = "120"
	var err error
	c.pg, err = devstack.StartPostgres(c.t.Context(), devstack.Config{DataDir: filepath.Join(c.dir, "pg"), Log: c.log, Settings: settings})
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) stopPostgres() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.pg.Stop(ctx); err != nil {
		c.t.Error(err)
	}
}

func (c *cluster) valkeySocket() string { return filepath.Join(c.dir, "valkey.sock") }

// startValkey runs a Valkey that keeps nothing, as production does, and waits until it answers.
func (c *cluster) startValkey() {
	c.t.Helper()
	cmd := exec.Command("valkey-server", "--port", "0", "--unixsocket", c.valkeySocket(), "--unixsocketperm", "700",
		"--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", c.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := startTied(cmd); err != nil {
		c.t.Fatal(err)
	}
	c.valkey = cmd
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "eady to accept connections") {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			c.t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
			return
		}
	}
	c.t.Fatalf("valkey-server ended: %v", cmd.Wait())
}

// command is a run of the program with the cluster's environment.
func (c *cluster) command(args ...string) *exec.Cmd {
	cmd := exec.Command("mosaic", args...)
	cmd.Env = c.env
	return cmd
}

// launch starts a replica without waiting for it. Its directory is short and its own. More of the environment goes
// in front of the cluster's.
func (c *cluster) launch(name string, env ...string) *gatewayProcess {
	c.t.Helper()
	g := &gatewayProcess{t: c.t, dir: filepath.Join(c.dir, name), logs: &logs{}, exited: make(chan struct{})}
	g.cmd = c.command("gateway", "serve", "--json")
	g.cmd.Env = append(append([]string{}, c.env...), append(env, "MOSAIC_DIR="+g.dir)...)
	g.cmd.Stderr = g.logs
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := startTied(g.cmd); err != nil {
		c.t.Fatal(err)
	}
	ready := make(chan []byte, 1)
	g.ready = ready
	go func() {
		line, _ := bufio.NewReader(stdout).ReadBytes('\n')
		ready <- line
		_, _ = io.Copy(io.Discard, stdout)
		g.err = g.cmd.Wait()
		close(g.exited)
	}()
	c.t.Cleanup(func() { _ = g.stop(syscall.SIGTERM) })
	return g
}

// serves waits until a replica that was launched is ready.
func (g *gatewayProcess) serves() *gatewayProcess {
	g.t.Helper()
	select {
	case line := <-g.ready:
		if err := json.Unmarshal(line, g); err != nil {
			g.t.Fatalf("replica did not start: %v in %q\n%s", err, line, g.logs)
		}
	case <-time.After(time.Minute):
		g.t.Fatalf("replica is not ready after a minute\n%s", g.logs)
	}
	return g
}

// replicas starts n of them and waits for all.
func (c *cluster) replicas(n int) []*gatewayProcess {
	c.t.Helper()
	var list []*gatewayProcess
	for i := range n {
		list = append(list, c.launch("r"+strconv.Itoa(i)))
	}
	c.t.Cleanup(func() { // all at once: each takes its leave for a while
		for _, g := range list {
			_ = g.cmd.Process.Signal(syscall.SIGTERM)
		}
	})
	for _, g := range list {
		g.serves()
	}
	return list
}

// at is the same peer asking another replica.
func (p *peerClient) at(g *gatewayProcess) *peerClient {
	other := *p
	other.base = g.FederationURL + "/federation/v1"
	return &other
}

// enrolAt redeems a token at a replica, whose port is not the one in the URL.
func (g *gatewayProcess) enrolAt(e enrollmentDoc) *peerClient {
	g.t.Helper()
	e.URL = strings.Replace(e.URL, "http://127.0.0.1:3000", g.URL, 1)
	return g.enrol(e)
}

func TestReplicasAreOneGateway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	r := c.replicas(2)
	r[0].user("ada@example.org", "one", "two")
	grant, e := r[0].grantFor("home", "ada@example.org", tasksOnly)
	peer := r[1].enrolAt(e)
	for i, g := range r {
		if got := peer.at(g).list("/resources/tasks").titles(); got != "two,one" {
			t.Errorf("replica %d: %s", i, got)
		}
	}
	r[0].mosaic("federation", "grant", "revoke", grant.ID)
	for i, g := range r {
		if a := peer.at(g).get("/resources/tasks"); a.Status != http.StatusForbidden || a.problem(t).Code != "grant_revoked" {
			t.Errorf("replica %d after the revoke: %d %s", i, a.Status, a.Body)
		}
	}
}

// A replica starts before its schema is there, as in a swarm, and is ready when it comes.
func TestAReplicaWaitsForItsPartsAndSaysWhich(t *testing.T) {
	t.Parallel()
	c := newParts(t)
	g := c.launch("r0")
	g.logged(`"code":"migrations_pending"`)
	g.says("migrations_pending", "mosaic gateway migrate")
	c.migrate()
	g.serves()
	g.user("ada@example.org")
}

// logged waits until the log has a text.
func (g *gatewayProcess) logged(text string) {
	g.t.Helper()
	for deadline := time.After(30 * time.Second); !strings.Contains(g.logs.String(), text); {
		select {
		case <-deadline:
			g.t.Fatalf("no %s in the log:\n%s", text, g.logs)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
