package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// What docs/OPERATIONS.md tells to type for a dump and a restore, typed: the gateway's role owns its database and is no
// superuser, on both sides, as docs/SETUP.md makes it.
func TestThePageRestoresADumpAsAPlainRole(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "OPERATIONS.md"))
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^    (\(umask 077; pg_dump |createdb |psql |pg_restore ).*$`).FindAllString(string(page), -1)
	if len(lines) != 4 {
		t.Fatalf("on the page are %q, want a dump, createdb, psql and pg_restore", lines)
	}
	c := newStandalone(t)
	// The server of the tests has a superuser of the name that the page has for the role.
	c.tool("psql", "--no-psqlrc", "--quiet", "--dbname="+c.pg.DSN(), "--command=CREATE ROLE plain LOGIN", "--command=CREATE DATABASE own OWNER plain")
	c.tool("psql", "--no-psqlrc", "--quiet", "--dbname="+strings.Replace(c.pg.DSN(), "dbname=mosaic", "dbname=own", 1), "--command=CREATE EXTENSION vector")
	use := func(database string) (service string) {
		c.env = append(c.env, "DATABASE_URL="+strings.NewReplacer("user=mosaic", "user=plain", "dbname=mosaic", "dbname="+database).Replace(c.pg.DSN()))
		return "host=" + filepath.Join(c.dir, "pg") + "\nuser=plain\ndbname=" + database + "\n"
	}
	services := filepath.Join(c.dir, "pg_service.conf")
	restored := use("mosaic_restored")
	if err := os.WriteFile(services, []byte("[mosaic]\n"+use("own")+"[restored]\n"+restored), 0o600); err != nil {
		t.Fatal(err)
	}
	typed := func(line string) {
		t.Helper()
		cmd := exec.Command("sh", "-ec", strings.Replace(line, "--owner=mosaic", "--owner=plain", 1))
		cmd.Dir = c.dir
		cmd.Env = []string{
			"PATH=" + filepath.Dir(c.bin("psql")) + ":" + os.Getenv("PATH"), "HOME=" + c.dir, "PGSERVICEFILE=" + services,
			"PGHOST=" + filepath.Join(c.dir, "pg"), "PGUSER=mosaic", // the superuser, where no service is named
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}

	before := c.launch("before").serves()
	before.user("ada@example.org", "one", "two")
	typed(lines[0])
	if fi, err := os.Stat(filepath.Join(c.dir, "mosaic.dump")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the dump: %v %v, want one that nobody else reads", fi, err)
	}
	if err := before.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	for _, line := range lines[1:] {
		typed(line)
	}
	use("mosaic_restored")
	waits := c.launch("after")
	waits.logged("restore_unconfirmed")
	if out, err := c.command("gateway", "accept-restore").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	after := waits.serves()
	if out := after.mosaic("federation", "query", "local", "tasks", "--user", "ada@example.org"); !strings.Contains(out, "one") || !strings.Contains(out, "two") {
		t.Errorf("the rows: %s", out)
	}
	after.user("bo@example.org", "three") // and it is written to
	after.mosaic("federation", "audit", "verify")
}
