package main

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// sensitiveGrant grants a scope that an admin has to approve, and gives the enrollment URL.
func (g *gatewayProcess) sensitiveGrant(peer, user, scope string) (grantDoc, string) {
	g.t.Helper()
	grant, _ := g.grantFor(peer, user, scope, "--rate", "10000/min", "--burst", "10000")
	g.mosaic("federation", "grant", "approve", grant.ID, "--reason", "the canaries are wanted")
	var e enrollmentDoc
	g.decode(&e, "federation", "grant", "token", grant.ID)
	if e.URL == "" {
		g.t.Fatal("no enrollment URL after the approval")
	}
	return grant, e.URL
}

// homeGateway is a replica on parts of its own, of which everything is kept that they write.
type homeGateway struct {
	*gatewayProcess

	parts    *cluster
	token    string
	database *logs // the server's log, every statement with its parameters
	valkey   *logs // every command
	tools    *logs // what the assistant's process wrote to stderr
	seen     bytes.Buffer
}

func newHome(t *testing.T, collector string) *homeGateway {
	t.Helper()
	h := &homeGateway{database: &logs{}, valkey: &logs{}, tools: &logs{}}
	c := newPartsLogging(t, slog.New(slog.NewTextHandler(h.database, &slog.HandlerOptions{Level: slog.LevelDebug})))
	c.migrate()
	h.parts = c
	// The log of slow statements, with nothing fast enough to stay out of it.
	db := c.database(t)
	for _, sql := range []string{"ALTER SYSTEM SET log_min_duration_statement = 0", "SELECT pg_reload_conf()"} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	h.monitor()
	h.gatewayProcess = c.launch("home", append(tracedTo(collector), "MOSAIC_LOG_LEVEL=debug", "MOSAIC_NAME=home", "MOSAIC_METRICS_LISTEN=127.0.0.1:0")...).serves()
	return h
}

// monitor keeps whatever Valkey is told from now on.
func (h *homeGateway) monitor() {
	t := h.parts.t
	t.Helper()
	conn, err := net.Dial("unix", h.parts.valkeySocket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "MONITOR\r\n"); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(h.valkey, conn) }()
}

func (h *homeGateway) bearer() string {
	if h.token == "" {
		var made struct{ Token string }
		h.decode(&made, "token", "create", "--user", "ada@home.example")
		h.token = made.Token
	}
	return h.token
}

// query asks and keeps the answer, whichever it is.
func (h *homeGateway) query(method, path, body string) answer {
	t := h.t
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, h.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.bearer())
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	a := do(t, http.DefaultClient, req)
	h.seen.Write(a.Body)
	return a
}

// dumpDatabase uses PostgreSQL's own program.
func (h *homeGateway) dumpDatabase() []byte {
	t := h.t
	t.Helper()
	cmd := exec.Command("/usr/lib/postgresql/15/bin/pg_dump", "--no-password", h.parts.pg.DSN())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, &stderr)
	}
	return out
}

// dumpValkey gives every key and value, uncompressed, the scripts' sources aside.
func (h *homeGateway) dumpValkey() []byte {
	t := h.t
	t.Helper()
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: h.parts.valkeySocket()})
	defer func() { _ = c.Close() }()
	if err := c.ConfigSet(t.Context(), "rdbcompression", "no").Err(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	keys := c.Scan(t.Context(), 0, "*", 1000).Iterator()
	for keys.Next(t.Context()) {
		out.WriteString(keys.Val() + "\n")
		if dump, err := c.Dump(t.Context(), keys.Val()).Result(); err == nil { // else it has just expired
			out.WriteString(dump + "\n")
		}
	}
	if err := keys.Err(); err != nil {
		t.Fatal(err)
	}
	return []byte(out.String())
}
