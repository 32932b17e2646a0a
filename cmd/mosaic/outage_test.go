package main

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
)

// newOwnCluster starts what a federated gateway stands on as an operator does: a PostgreSQL, a Valkey, and a stock
// step-ca on what deploy/step-ca/init.sh makes.
func newOwnCluster(t *testing.T) (c *cluster, caDir string) {
	t.Helper()
	c = newStandalone(t)
	c.startValkey()
	caDir = filepath.Join(t.TempDir(), "step-ca")
	bin := t.TempDir()
	if err := os.Symlink(stepcatest.Command(t), filepath.Join(bin, "step")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(caDir, 0o700); err != nil {
		t.Fatal(err)
	}
	const password = "correct horse battery staple"
	if err := os.WriteFile(filepath.Join(caDir, "password"), []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	init := exec.Command("sh", filepath.Join("..", "..", "deploy", "step-ca", "init.sh"))
	init.Env = []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + caDir, "STEPPATH=" + caDir, "STEP_CA_PASSWORD_FILE=" + filepath.Join(caDir, "password"),
		"STEP_CA_DNS_NAMES=localhost,127.0.0.1", "STEP_CA_LISTEN=" + address,
	}
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("init.sh: %v\n%s", err, out)
	}
	c.env = append(c.env, "MOSAIC_TIER=federated", "VALKEY_URL=unix://"+c.valkeySocket(), "MOSAIC_FEDERATION_PORT=0", "MOSAIC_FEDERATION_URL=https://127.0.0.1:3443",
		"STEP_CA_URL=https://"+address, "STEP_CA_ROOT_CERT_PATH="+filepath.Join(caDir, "certs", "root_ca.crt"), "STEP_CA_PROVISIONER_PASSWORD="+password)
	return c, caDir
}

// unhealthy waits until health says down, which has to be within 10 s of the loss.
func (g *gatewayProcess) unhealthy() {
	g.t.Helper()
	for deadline := time.After(10 * time.Second); ; {
		if a := get(g.t, g.URL+"/health"); a.Status == http.StatusServiceUnavailable && strings.Contains(string(a.Body), `"status":"down"`) {
			return
		}
		select {
		case <-deadline:
			g.t.Fatal("health is not down within 10 s")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Two replicas on parts that an operator started: enrolled on one, asked on the other, revoked on one and refused by
// the other at once. Then every part is taken away in turn.
func TestACallerSeesWhatIsPromisedWhileAPartIsAway(t *testing.T) {
	t.Parallel()
	c, caDir := newOwnCluster(t)
	stopCA := runStepCA(t, caDir)
	r := c.replicas(2)
	r[0].user("ada@example.org", "one", "two")
	_, e := r[0].grantFor("home", "ada@example.org", tasksOnly)
	peer := r[0].enrolAt(e)
	lists := func(what string) {
		t.Helper()
		for i, g := range r {
			if a := peer.at(g).get("/resources/tasks"); a.Status != http.StatusOK {
				t.Errorf("%s, replica %d: %d %s", what, i, a.Status, a.Body)
			}
		}
	}
	lists("all is there")
	gone, e := r[1].grantFor("other", "ada@example.org", tasksOnly)
	lost := r[1].enrolAt(e)
	if a := lost.at(r[0]).get("/resources/tasks"); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	r[1].mosaic("federation", "grant", "revoke", gone.ID)
	if a := lost.at(r[0]).get("/resources/tasks"); a.Status != http.StatusForbidden || a.problem(t).Code != "grant_revoked" {
		t.Errorf("revoked on one replica, asked on the other: %d %s", a.Status, a.Body)
	}

	// Without the CA everything goes on but enrollment, whose token is kept.
	stopCA()
	for _, g := range r {
		g.healthIs("ca", "down", "degraded")
	}
	lists("without the CA")
	_, e = r[0].grantFor("late", "ada@example.org", tasksOnly)
	_, csr := newCSR(t, &x509.CertificateRequest{})
	redeem := func() answer {
		return post(t, strings.Replace(e.URL, "http://127.0.0.1:3000", r[1].URL, 1), "application/json", jsonBody(t, map[string]string{"csr": csr}))
	}
	if a := redeem(); a.Status != http.StatusServiceUnavailable || a.problem(t).Code != "ca_unavailable" || a.Header.Get("Retry-After") == "" {
		t.Errorf("enrollment without the CA: %d %s", a.Status, a.Body)
	}
	runStepCA(t, caDir)
	for _, g := range r {
		g.healthIs("ca", "ok", "ok")
	}
	if a := redeem(); a.Status != http.StatusCreated {
		t.Errorf("the same token when the CA is back: %d %s", a.Status, a.Body)
	}

	// Without Valkey each replica limits on its own.
	_ = c.valkey.Process.Kill()
	_ = c.valkey.Wait()
	for _, g := range r {
		g.healthIs("valkey", "down", "degraded")
	}
	lists("without Valkey")
	c.startValkey()
	for _, g := range r {
		g.healthIs("valkey", "ok", "ok")
	}

	// Without the database nothing is answered, and nobody has to do anything when it is back.
	c.stopPostgres()
	if a := peer.at(r[0]).get("/resources/tasks"); a.Status != http.StatusServiceUnavailable {
		t.Errorf("without the database, on a connection that is there: %d %s", a.Status, a.Body)
	}
	for _, g := range r {
		g.unhealthy()
		if a := get(t, g.URL+"/health/live"); a.Status != http.StatusOK {
			t.Errorf("alive without the database: %d", a.Status)
		}
	}
	c.startPostgres()
	back := time.Now()
	for _, g := range r {
		g.readyWithin(20*time.Second - time.Since(back))
	}
	lists("the database is back")
}

// readyWithin waits until a replica is ready again, and lets peers in.
func (g *gatewayProcess) readyWithin(limit time.Duration) {
	g.t.Helper()
	for deadline := time.After(limit); ; {
		if a := get(g.t, g.URL+"/health/ready"); a.Status == http.StatusOK {
			return
		}
		select {
		case <-deadline:
			g.t.Fatalf("not ready again within %s:\n%s", limit, g.logs)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// In a rollout the schema is ahead of the replicas that still run: newer ones have added to it. Old and new serve side
// by side, and an old one that starts again is not turned away.
func TestReplicasServeOnASchemaThatIsAheadOfThem(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	old := c.launch("r0").serves()
	old.user("ada@example.org", "one")
	_, e := old.grantFor("home", "ada@example.org", tasksOnly)
	peer := old.enrolAt(e)
	// What a minor version may do: a new table, new columns, a new job.
	c.tool("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname="+c.pg.DSN(), "--command="+`DO $$
		DECLARE t text;
		BEGIN
			CREATE TABLE of_the_next_version (id uuid PRIMARY KEY);
			FOR t IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition LOOP
				EXECUTE format('ALTER TABLE %I ADD COLUMN of_the_next_version text NOT NULL DEFAULT %L', t, 'x');
			END LOOP;
			INSERT INTO goose_db_version (version_id, is_applied) SELECT max(version_id) + 1, true FROM goose_db_version;
			INSERT INTO river_job (kind, args, max_attempts, queue, state) VALUES ('of-the-next-version', '{}', 3, 'default', 'available');
		END $$`)
	again := c.launch("r1").serves()
	for name, g := range map[string]*gatewayProcess{"the one that ran": old, "one that started": again} {
		if got := peer.at(g).list("/resources/tasks").titles(); got != "one" {
			t.Errorf("%s: %q", name, got)
		}
	}
	again.importTasks("ada@example.org", "", "two")
	grant, e := again.grantFor("other", "ada@example.org", tasksOnly)
	other := old.enrolAt(e)
	again.mosaic("federation", "grant", "revoke", grant.ID)
	if a := other.at(old).get("/resources/tasks"); a.Status != http.StatusForbidden {
		t.Errorf("revoked on the other: %d %s", a.Status, a.Body)
	}
	old.mosaic("federation", "audit", "verify")
	var list []struct{ Name string }
	if err := json.Unmarshal([]byte(again.mosaic("federation", "peer", "list", "--json")), &list); err != nil || len(list) != 2 {
		t.Errorf("peers: %v, %v", list, err)
	}
	if a := get(t, old.URL+"/health"); a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"status":"ok"`) {
		t.Errorf("health: %d %s", a.Status, a.Body)
	}
}
