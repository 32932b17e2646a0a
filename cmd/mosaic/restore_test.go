package main

import (
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tool runs one of PostgreSQL's programs against the cluster's server.
func (c *cluster) tool(program string, args ...string) string {
	c.t.Helper()
	out, err := exec.Command(c.bin(program), args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return string(out)
}

func (c *cluster) bin(program string) string {
	c.t.Helper()
	version, err := os.ReadFile(filepath.Join(c.dir, "pg", "PG_VERSION"))
	if err != nil {
		c.t.Fatal(err)
	}
	return filepath.Join("/usr/lib/postgresql", strings.TrimSpace(string(version)), "bin", program)
}

// restored dumps the database while it serves, lets more happen, and restores the dump into a database of its own,
// which is the cluster's from then on.
func (c *cluster) restored(meanwhile func()) {
	c.t.Helper()
	dump := filepath.Join(c.dir, "dump")
	c.tool("pg_dump", "--format=custom", "--file="+dump, "--dbname="+c.pg.DSN())
	meanwhile()
	c.tool("psql", "--no-psqlrc", "--quiet", "--dbname="+c.pg.DSN(), "--command=CREATE DATABASE restored")
	dsn := strings.Replace(c.pg.DSN(), "dbname=mosaic", "dbname=restored", 1)
	c.tool("pg_restore", "--exit-on-error", "--dbname="+dsn, dump)
	c.env = append(c.env, "DATABASE_URL="+dsn)
}

// listsRevoked waits until the CA lists a peer's certificate.
func (c *cluster) listsRevoked(p *peerClient) {
	c.t.Helper()
	authority := c.ca.Client(c.t)
	for deadline := time.After(time.Minute); ; {
		der, err := authority.CRL(c.t.Context())
		if err != nil {
			c.t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.String() == p.issued.SerialNumber {
				return
			}
		}
		select {
		case <-deadline:
			c.t.Fatal("the CA does not list the certificate")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// refusesToStart waits until a replica has ended, and wants it to have said why.
func (g *gatewayProcess) refusesToStart(code string) {
	g.t.Helper()
	select {
	case <-g.exited:
		if g.err == nil || !strings.Contains(g.logs.String(), code) {
			g.t.Errorf("it ended with %v and said:\n%s", g.err, g.logs)
		}
	case <-time.After(time.Minute):
		g.t.Fatalf("it did not end:\n%s", g.logs)
	}
}

// says wants a command over the admin socket of a replica that waits to say at once what it waits for.
func (g *gatewayProcess) says(code, hint string) {
	g.t.Helper()
	began := time.Now()
	_, err := g.try("user", "list")
	if err == nil || !strings.Contains(err.Error(), "does not serve yet") || !strings.Contains(err.Error(), "("+code+")") || !strings.Contains(err.Error(), hint) {
		g.t.Errorf("a command while the replica waits: %v; want (%s) and the hint %s", err, code, hint)
	}
	if took := time.Since(began); took > 15*time.Second {
		g.t.Errorf("it took %s", took)
	}
}

// A dump of a gateway that serves is restored. What was revoked and used up since is alive in it: the gateway does not
// serve until the restore is accepted, and then nothing of that is.
func TestARestoredDumpServesWhenItIsAccepted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	before := c.launch("before").serves()
	before.user("ada@example.org", "one", "two")
	var token struct{ Token string }
	before.decode(&token, "token", "create", "--user", "ada@example.org")
	_, e := before.grantFor("home", "ada@example.org", tasksOnly)
	peer := before.enrolAt(e)
	gone, e := before.grantFor("home", "ada@example.org", tasksOnly)
	lost := before.enrolAt(e)
	_, unused := before.grantFor("other", "ada@example.org", tasksOnly)
	if got := peer.list("/resources/tasks").titles(); got != "two,one" {
		t.Fatal(got)
	}
	c.restored(func() {
		before.mosaic("federation", "grant", "revoke", gone.ID)
		before.grantFor("later", "ada@example.org", tasksOnly)
		c.listsRevoked(lost)
		if err := before.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})

	waits := c.launch("after")
	waits.logged("restore_unconfirmed")
	waits.says("restore_unconfirmed", "mosaic gateway accept-restore")
	var done struct {
		Tokens       int64    `json:"enrollment_tokens_voided"`
		APITokens    int64    `json:"api_tokens_revoked"`
		Certificates int64    `json:"certificates_revoked"`
		Peers        []string `json:"peers_suspended"`
	}
	accept := c.command("gateway", "accept-restore", "--json")
	accept.Stderr = t.Output()
	out, err := accept.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &done); err != nil {
		t.Fatal(err)
	}
	if done.Tokens != 1 || done.APITokens != 1 || done.Certificates != 1 || len(done.Peers) != 1 || done.Peers[0] != "home" {
		t.Errorf("%+v", done)
	}
	if out, err := c.command("gateway", "accept-restore").CombinedOutput(); err == nil || !strings.Contains(string(out), "not_restored") {
		t.Errorf("accepted twice: %v %s", err, out)
	}

	after := waits.serves() // by itself, where an operator ran the command beside it
	for name, p := range map[string]*peerClient{"the grant that stays": peer, "the one that was revoked": lost} {
		if a := p.at(after).get("/resources/tasks"); a.Status != http.StatusForbidden {
			t.Errorf("before the peer is resumed, %s: %d %s", name, a.Status, a.Body)
		}
	}
	after.mosaic("federation", "peer", "resume", "home")
	if got := peer.at(after).list("/resources/tasks").titles(); got != "two,one" {
		t.Errorf("after the peer was resumed: %s", got)
	}
	if a := lost.at(after).get("/resources/tasks"); a.Status == http.StatusOK {
		t.Errorf("a certificate that was revoked after the dump: %d %s", a.Status, a.Body)
	}
	_, csr := newCSR(t, &x509.CertificateRequest{})
	a := post(t, strings.Replace(unused.URL, "http://127.0.0.1:3000", after.URL, 1), "application/json", jsonBody(t, map[string]string{"csr": csr}))
	if a.Status != http.StatusGone || a.problem(t).Code != "enrollment_token_expired" {
		t.Errorf("an enrollment token of the dump: %d %s", a.Status, a.Body)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, after.URL+"/api/resources/tasks", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("an API token of the dump: %d", resp.StatusCode)
	}
	after.mosaic("federation", "audit", "verify")
	if log := after.mosaic("federation", "audit", "list", "--json"); !strings.Contains(log, "gateway.accept-restore") {
		t.Error("the restore is not in the audit log")
	}
}

// However a dump gets into a database, what it says is not taken for the present: into one that was migrated before, and
// underneath a gateway that serves.
func TestADumpIsACopyHoweverItIsLoaded(t *testing.T) {
	t.Parallel()
	c := newStandalone(t)
	g := c.launch("r0").serves()
	g.user("ada@example.org", "one")
	dump := filepath.Join(c.dir, "dump")
	c.tool("pg_dump", "--format=custom", "--file="+dump, "--dbname="+c.pg.DSN())
	// The whole of it over the database that serves.
	// It complains of constraints that partitions inherit, and goes on.
	_ = exec.Command(c.bin("pg_restore"), "--clean", "--if-exists", "--dbname="+c.pg.DSN(), dump).Run()
	g.refusesToStart("restore_unconfirmed") // it ends, and would wait when it starts again
	if out, err := c.command("gateway", "accept-restore").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	// The rows alone, into one that has its schema already.
	c.tool("psql", "--no-psqlrc", "--quiet", "--dbname="+c.pg.DSN(), "--command=CREATE DATABASE filled")
	dsn := strings.Replace(c.pg.DSN(), "dbname=mosaic", "dbname=filled", 1)
	c.env = append(c.env, "DATABASE_URL="+dsn)
	c.migrate()
	load := exec.Command("sh", "-c", `"$1" --data-only --disable-triggers --file=- "$2" | sed '/COPY public.goose_db_version/,/^\\\.$/d; /COPY public.river_/,/^\\\.$/d' | "$3" --no-psqlrc --quiet --dbname="$4"`,
		"sh", c.bin("pg_restore"), dump, c.bin("psql"), dsn)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.launch("r1").logged("restore_unconfirmed")
	// And again over itself, the row of its home with it.
	if out, err := c.command("gateway", "accept-restore").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.tool("psql", "--no-psqlrc", "--quiet", "--dbname="+dsn, "--command=CREATE TEMP TABLE t AS SELECT * FROM gateway_home; DELETE FROM gateway_home; INSERT INTO gateway_home SELECT * FROM t")
	c.launch("r2").logged("restore_unconfirmed")
}

// A database that was moved has lost nothing, and stays as it is.
func TestAMovedDatabaseServesAsItWas(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	before := c.launch("before").serves()
	before.user("ada@example.org", "one")
	_, e := before.grantFor("home", "ada@example.org", tasksOnly)
	peer := before.enrolAt(e)
	if err := before.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	c.restored(func() {})
	if out, err := c.command("gateway", "accept-restore", "--moved").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	after := c.launch("after").serves()
	if got := peer.at(after).list("/resources/tasks").titles(); got != "one" {
		t.Error(got)
	}
}
