package main

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newStandalone starts what a gateway of the standalone tier stands on: a PostgreSQL, and nothing else.
func newStandalone(t *testing.T) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "mosaic-standalone-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil { // the server's user walks through it
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, log: slog.New(slog.DiscardHandler)}
	c.startPostgres()
	t.Cleanup(c.stopPostgres)
	c.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "MOSAIC_TIER=standalone", "MOSAIC_AUTO_MIGRATE=true", "DATABASE_URL=" + c.pg.DSN(),
		"GATEWAY_PORT=0", "MOSAIC_PUBLIC_URL=http://127.0.0.1:3000", "BETTER_AUTH_SECRET=0123456789abcdef0123456789abcdef",
	}
	return c
}

// Without a CA and a Valkey the gateway serves its own people, on any number of replicas, and says of the rest that it
// does not federate.
func TestTheStandaloneTierServesItsOwnUsers(t *testing.T) {
	t.Parallel()
	c := newStandalone(t)
	dir := filepath.Join(c.dir, "r0") // one that a killed replica left, and that others may enter
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "ready.json"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := c.replicas(2)
	r[0].closed(dir)
	r[0].user("ada@example.org", "one", "two")
	var page struct {
		Data    []struct{ Title, Source string }
		Sources []struct{ Name, Status string }
	}
	r[1].decode(&page, "federation", "query", "local", "tasks", "--user", "ada@example.org")
	if len(page.Data) != 2 || page.Data[0].Title != "two" || page.Data[0].Source != "local" || len(page.Sources) != 1 {
		t.Errorf("the own rows: %+v", page)
	}
	scope := filepath.Join(t.TempDir(), "scope.json")
	if err := os.WriteFile(scope, []byte(tasksOnly), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, line := range [][]string{
		{"grant", "create", "--peer", "home", "--user", "ada@example.org", "--scope", scope},
		{"grant", "list"},
		{"peer", "list"},
		{"peer", "add", "http://127.0.0.1:1/api/federation/enrollment/x?ca=" + strings.Repeat("0", 64)},
	} {
		if _, err := r[0].try(append([]string{"federation"}, line...)...); err == nil || !strings.Contains(err.Error(), "not_federated") || !strings.Contains(err.Error(), "MOSAIC_TIER=federated") {
			t.Errorf("%v: %v", line, err)
		}
	}
	for path, want := range map[string]int{
		"/health": http.StatusOK, "/health/ready": http.StatusOK, "/openapi.json": http.StatusOK,
		"/api/federation/enrollment/x": http.StatusConflict, "/api/federation/crl": http.StatusConflict,
	} {
		resp, err := http.Get(r[0].URL + path) //nolint:noctx // on loopback
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
		switch doc := string(body); {
		case path == "/health" && (strings.Contains(doc, `"ca"`) || !strings.Contains(doc, `"tier":"standalone"`)):
			t.Errorf("health: %s", doc)
		case path == "/openapi.json" && (strings.Contains(doc, "/federation/enrollment") || strings.Contains(doc, "/federation/grants")):
			t.Error("the API's description has endpoints that are not there")
		}
	}
	if r[0].FederationURL != "" {
		t.Errorf("federation at %q", r[0].FederationURL)
	}
	if out := r[0].mosaic("federation", "audit", "list"); !strings.Contains(out, "resource.import") {
		t.Errorf("audit: %s", out)
	}
}

// closed wants the gateway's directory to be its alone, and the log to say that it was not.
func (g *gatewayProcess) closed(dir string) {
	g.t.Helper()
	fi, err := os.Stat(dir)
	if err != nil {
		g.t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o700 {
		g.t.Errorf("the directory's mode is %v, want 0700", fi.Mode())
	}
	g.logged(`"was":"0755"`)
}
