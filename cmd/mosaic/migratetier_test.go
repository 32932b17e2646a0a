package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
)

// moved is what a run of migrate-tier says.
type moved struct {
	Tables           []movedTable
	Copied, Finished bool
	CA               string `json:"ca_directory"`
}

type movedTable struct {
	Table  string
	Rows   int64
	Copied bool
}

// migrateTier runs the command on a directory, with the target's settings in the environment.
func (c *cluster) migrateTier(dir string, flags ...string) (moved, error) {
	c.t.Helper()
	cmd := c.command(append([]string{"gateway", "migrate-tier", "--json", "--dir", dir, "--to", "-"}, flags...)...)
	var target string
	for _, setting := range c.env {
		if value, found := strings.CutPrefix(setting, "DATABASE_URL="); found {
			target = value // the last one counts
		}
	}
	cmd.Stdin = strings.NewReader(target + "\n")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return moved{}, &commandError{err, errs.String()}
	}
	var doc moved
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		c.t.Fatalf("%v in %s", err, &out)
	}
	return doc, nil
}

// runStepCA starts a stock step-ca on a directory, and returns when it serves.
func runStepCA(t *testing.T, dir string) (stop func()) {
	t.Helper()
	cmd := exec.Command(stepcatest.Binary(t), "--password-file", filepath.Join(dir, "password"), filepath.Join(dir, "config", "ca.json"))
	said := &logs{}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startTied(cmd); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	for deadline := time.After(30 * time.Second); !strings.Contains(said.String(), "Serving HTTPS on"); {
		select {
		case <-deadline:
			t.Fatal("step-ca does not serve")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return stop
}

// A gateway that has outgrown one machine moves to a PostgreSQL, a Valkey and a step-ca. Whoever it has let in stays
// in, whoever it has revoked stays out, and the old place does not serve again.
func TestALocalTierMovesToAFederatedOne(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	local := startGateway(t, dir)
	local.user("ada@example.org", "one", "two")
	_, e := local.grantFor("home", "ada@example.org", tasksOnly)
	peer := local.enrol(e)
	gone, e := local.grantFor("other", "ada@example.org", tasksOnly)
	lost := local.enrol(e)
	local.mosaic("federation", "grant", "revoke", gone.ID)
	if got := peer.list("/resources/tasks").titles(); got != "two,one" {
		t.Fatal(got)
	}
	c := newStandalone(t)
	c.startValkey()
	refused := func(why, code string) {
		t.Helper()
		if _, err := c.migrateTier(dir); err == nil || !strings.Contains(err.Error(), "("+code+")") {
			t.Errorf("%s: %v, want %s", why, err, code)
		}
	}
	refused("while it serves", "dir_in_use")
	if err := local.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	refused("a target without its schema", "migrations_pending")
	c.migrate()
	// What a commit on the target would not keep is not moved there.
	c.stopPostgres()
	c.startPostgresWith(map[string]string{"fsync": "off"})
	refused("a target that loses what it has committed", "database_unsafe")
	c.stopPostgres()
	c.startPostgres()
	away := filepath.Join(filepath.Dir(dir), "ca")
	if err := os.Rename(filepath.Join(dir, "ca"), away); err != nil {
		t.Fatal(err)
	}
	refused("a source that has lost its CA", "dir_incomplete")
	if err := os.Rename(away, filepath.Join(dir, "ca")); err != nil {
		t.Fatal(err)
	}

	plan, err := c.migrateTier(dir)
	if err != nil {
		t.Fatal(err)
	}
	if plan.Copied || !slices.Contains(plan.Tables, movedTable{Table: "tasks", Rows: 2}) {
		t.Errorf("a dry run: %+v", plan)
	}
	if first, err := c.migrateTier(dir, "--apply"); err != nil || !first.Copied || first.Finished {
		t.Fatalf("%+v, %v", first, err)
	}
	// Somebody serves from the old directory once more: what was copied is not what there is.
	again := startGateway(t, dir)
	again.user("bo@example.org")
	if err := again.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := c.migrateTier(dir, "--finish", "--keep-ca"); err == nil || !strings.Contains(err.Error(), "(target_differs)") {
		t.Errorf("a source that has served since: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "moved")); err == nil {
		t.Error("the directory is marked as moved all the same")
	}
	c.tool("psql", "--no-psqlrc", "--quiet", "--dbname="+c.pg.DSN(), "--command=DROP DATABASE IF EXISTS again", "--command=CREATE DATABASE again")
	for i, setting := range c.env {
		if strings.HasPrefix(setting, "DATABASE_URL=") {
			c.env[i] = strings.Replace(setting, "dbname=mosaic", "dbname=again", 1)
		}
	}
	c.migrate()
	if done, err := c.migrateTier(dir, "--apply"); err != nil || !done.Copied {
		t.Fatalf("%+v, %v", done, err)
	}
	early := c.launch("early")
	early.logged("tier_migration_unfinished")
	early.says("tier_migration_unfinished", "mosaic gateway migrate-tier --finish")
	if err := early.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}

	address := freeAddress(t)
	caDir := filepath.Join(t.TempDir(), "step-ca")
	done, err := c.migrateTier(dir, "--finish", "--ca-out", caDir, "--ca-address", address, "--ca-name", "127.0.0.1")
	if err != nil || !done.Finished || done.CA != caDir {
		t.Fatalf("%+v, %v", done, err)
	}
	elsewhere := newStandalone(t)
	elsewhere.migrate()
	if _, err := elsewhere.migrateTier(dir, "--apply"); err == nil || !strings.Contains(err.Error(), "dir_moved") {
		t.Errorf("moved once more: %v", err)
	}
	if _, err := launch(dir); err == nil || !strings.Contains(err.Error(), "dir_moved") {
		t.Errorf("the old gateway: %v", err)
	}

	runStepCA(t, caDir)
	password, err := os.ReadFile(filepath.Join(caDir, "password"))
	if err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "MOSAIC_TIER=federated", "VALKEY_URL=unix://"+c.valkeySocket(), "MOSAIC_FEDERATION_PORT=0", "MOSAIC_FEDERATION_URL=https://127.0.0.1:3443",
		"STEP_CA_URL=https://"+address, "STEP_CA_ROOT_CERT_PATH="+filepath.Join(caDir, "certs", "root_ca.crt"), "STEP_CA_PROVISIONER_PASSWORD="+strings.TrimSpace(string(password)))
	now := c.launch("r0").serves()
	if now.CAFingerprint != local.CAFingerprint {
		t.Errorf("the CA is another one: %s, was %s", now.CAFingerprint, local.CAFingerprint)
	}
	if got := peer.at(now).list("/resources/tasks").titles(); got != "two,one" {
		t.Errorf("the peer that was let in: %s", got)
	}
	if a := lost.at(now).get("/resources/tasks"); a.Status != http.StatusForbidden || a.problem(t).Code != "grant_revoked" {
		t.Errorf("the peer that was revoked: %d %s", a.Status, a.Body)
	}
	now.mosaic("federation", "audit", "verify")
	_, e = now.grantFor("third", "ada@example.org", tasksOnly)
	if got := now.enrolAt(e).at(now).list("/resources/tasks").titles(); got != "two,one" {
		t.Errorf("a new peer: %s", got)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
