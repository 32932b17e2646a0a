package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/cli"
	"github.com/mosaicstack/gateway/internal/daemon"
	"github.com/mosaicstack/gateway/internal/embed"
)

// gatewayRole is the product, as `mosaic gateway dev` runs it.
func gatewayRole(ctx context.Context, config []byte) error {
	var dir string
	if err := json.Unmarshal(config, &dir); err != nil {
		return err
	}
	return daemon.Dev(ctx, daemon.DevOptions{
		Program: "mosaic", Dir: dir, Listen: "127.0.0.1:0", FederationListen: "127.0.0.1:0", JSON: true, Version: "bench",
		Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now,
	})
}

// world is a gateway with a user, two teams and a table of tasks.
type world struct {
	b     *testing.B
	dir   string
	ready struct {
		URL           string `json:"url"`
		FederationURL string `json:"federation_url"`
		CARootFile    string `json:"ca_root_file"`
	}
	gateway *child
	pool    *pgxpool.Pool
	owner   uuid.UUID
	teams   []uuid.UUID
}

func newWorld(b *testing.B) *world {
	b.Helper()
	return newWorldOf(b, "gateway")
}

// newWorldOf starts the gateway in a role that has its name.
func newWorldOf(b *testing.B, role string) *world {
	b.Helper()
	w := &world{b: b, dir: filepath.Join(onDisk(b), "gateway")}
	w.gateway = start(b, role, w.dir)
	w.gateway.hear(b, &w.ready)
	var err error
	if w.pool, err = dataPool(b.Context(), w.dataDir(), 4); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.pool.Close)
	w.owner = w.make("user", "create", "ada@example.org")
	for _, name := range []string{"one", "two"} {
		w.teams = append(w.teams, w.make("team", "create", name))
		w.mosaic(nil, "team", "add", name, "ada@example.org")
	}
	return w
}

func (w *world) dataDir() string { return filepath.Join(w.dir, "postgres") }

// onDisk is a directory on a file system that keeps what it is given: in memory a commit would cost nothing.
func onDisk(b *testing.B) string {
	b.Helper()
	asked := os.Getenv(dirName)
	for _, parent := range []string{asked, os.TempDir(), "/var/tmp", "."} {
		var st unix.Statfs_t
		if parent == "" || unix.Statfs(parent, &st) != nil || st.Type == unix.TMPFS_MAGIC && parent != asked {
			continue
		}
		dir, err := os.MkdirTemp(parent, "mosaic-bench-")
		if err != nil {
			continue
		}
		if dir, err = filepath.Abs(dir); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = os.RemoveAll(dir) })
		return dir
	}
	b.Fatal("there is no directory on a disk")
	return ""
}

// mosaic runs a command against the gateway and reads its document.
func (w *world) mosaic(into any, args ...string) {
	w.b.Helper()
	var out, errs bytes.Buffer
	getenv := func(name string) string { return map[string]string{"MOSAIC_DIR": w.dir}[name] }
	code := cli.Main(w.b.Context(), cli.Env{
		Args: append(args, "--json"), Getenv: getenv, Environ: func() []string { return nil },
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Now: time.Now, Version: "bench",
	})
	if code != 0 {
		w.b.Fatalf("mosaic %v: %s", args, &errs)
	}
	if into != nil {
		if err := json.Unmarshal(out.Bytes(), into); err != nil {
			w.b.Fatalf("mosaic %v: %v in %s", args, err, &out)
		}
	}
}

func (w *world) make(args ...string) uuid.UUID {
	w.b.Helper()
	var made struct{ ID uuid.UUID }
	w.mosaic(&made, args...)
	return made.ID
}

type enrollment struct{ URL, Token string }

// grant makes a grant of a peer's own. The limits are as high as they can be set, and no answer may be kept.
func (w *world) grant(peer, scope string) enrollment {
	w.b.Helper()
	file := filepath.Join(w.b.TempDir(), peer+".json")
	if err := os.WriteFile(file, []byte(scope), 0o600); err != nil {
		w.b.Fatal(err)
	}
	var made struct{ Enrollment enrollment }
	w.mosaic(&made, "federation", "grant", "create", "--peer", peer, "--user", "ada@example.org", "--scope", file,
		"--rate", "1000000/min", "--burst", "1000000", "--cache-seconds", "0")
	return made.Enrollment
}

// enrol makes a grant and redeems it.
func (w *world) enrol(peer, scope string) (certPEM, keyPEM string) {
	w.b.Helper()
	made := w.grant(peer, scope)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.b.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		w.b.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{
		"token": made.Token, "csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
	})
	if err != nil {
		w.b.Fatal(err)
	}
	resp, err := http.Post(w.ready.URL+"/api/federation/enrollment", "application/json", bytes.NewReader(body))
	if err != nil {
		w.b.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Chain string `json:"certificate_chain"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusCreated {
		w.b.Fatalf("enrollment: %d %v", resp.StatusCode, err)
	}
	return answer.Chain, keyText(w.b, key)
}

func keyText(b *testing.B, key *ecdsa.PrivateKey) string {
	b.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		b.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// naive starts the handler that the gateway is compared with, on the same database.
func (w *world) naive() (c *child, address string) {
	w.b.Helper()
	root, err := os.ReadFile(w.ready.CARootFile)
	if err != nil {
		w.b.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // the gateway's own is one of these too
	if err != nil {
		w.b.Fatal(err)
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "naive"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		w.b.Fatal(err)
	}
	var ready struct{ Address string }
	c = start(w.b, "naive", naiveConfig{
		DataDir: w.dataDir(), RootPEM: string(root), Owner: w.owner, Teams: w.teams,
		CertPEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), KeyPEM: keyText(w.b, key),
	})
	c.hear(w.b, &ready)
	return c, ready.Address
}

// federation is the address of the mTLS listener.
func (w *world) federation() string {
	u, err := url.Parse(w.ready.FederationURL)
	if err != nil {
		w.b.Fatal(err)
	}
	return u.Host
}

// fill brings the table to so many rows, spread over people and teams; a fiftieth belongs to the user of the
// benchmark and a fiftieth to each of the two teams. The server makes them, and neither triggers nor foreign keys
// run for each: doc is what the trigger would write, and what search needs is as large as it would be, so that no
// job is left to do.
func (w *world) fill(rows int) {
	w.b.Helper()
	const people = 48
	ctx := w.b.Context()
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		for _, sql := range []string{
			`INSERT INTO users (email) SELECT 'user' || n || '@example.org' FROM generate_series(1, 48) n ON CONFLICT DO NOTHING`,
			`INSERT INTO teams (name) SELECT 'team' || n FROM generate_series(1, 48) n ON CONFLICT DO NOTHING`,
			`SET LOCAL session_replication_role = replica`,
		} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `
			WITH had AS MATERIALIZED (SELECT count(*) AS rows FROM tasks),
			people AS MATERIALIZED (SELECT array_agg(id ORDER BY id) AS ids FROM users WHERE id <> $2),
			groups AS MATERIALIZED (SELECT array_agg(id ORDER BY id) AS ids FROM teams WHERE id <> $3 AND id <> $4),
			words AS MATERIALIZED (SELECT search_vector('Task number 123456 of the benchmark',
				'What there is to be done, in a sentence or two of the usual length: ' || md5('') || ', and then some more.', '', '{}') AS search),
			made AS (
				SELECT gen_random_uuid() AS id,
					CASE WHEN n % 50 = 0 THEN $2::uuid ELSE people.ids[1 + n % $5::bigint] END AS owner_id,
					CASE WHEN n % 50 = 1 THEN $3::uuid WHEN n % 50 = 2 THEN $4::uuid WHEN n % 50 = 0 OR n % 2 = 0 THEN NULL ELSE groups.ids[1 + n / 2 % $5::bigint] END AS team_id,
					'Task number ' || n || ' of the benchmark' AS title,
					'What there is to be done, in a sentence or two of the usual length: ' || md5(n::text) || ', and then some more.' AS body,
					'open' AS status,
					timestamptz '2026-01-01' + n * interval '1.000137 seconds' AS at
				FROM had, people, groups, generate_series(had.rows + 1, $1::bigint) n)
			INSERT INTO tasks (id, owner_id, team_id, title, body, status, created_at, updated_at, embedding_model, search, doc)
			SELECT id, owner_id, team_id, title, body, status, at, at, $6, words.search, (SELECT row_to_json(d)::text FROM (SELECT m.id, m.owner_id, m.team_id, m.title, m.body, m.status,
				wire_time(m.at) AS created_at, wire_time(m.at) AS updated_at) d)
			FROM made m, words`, rows, w.owner, w.teams[0], w.teams[1], people, embed.HashModel)
		return err
	})
	if err != nil {
		w.b.Fatal(err)
	}
	// As autovacuum leaves it, and on disk: not in the middle of a measurement.
	for _, sql := range []string{`VACUUM (ANALYZE) tasks`, `CHECKPOINT`} {
		if _, err := w.pool.Exec(ctx, sql); err != nil {
			w.b.Fatal(err)
		}
	}
	w.settle()
}

// settle waits until neither the gateway nor its database has anything to do of its own.
func (w *world) settle() {
	w.b.Helper()
	server := postmaster(w.dataDir())
	for range 120 {
		before := spent(w.gateway.pid) + spent(server)
		time.Sleep(500 * time.Millisecond)
		if spent(w.gateway.pid)+spent(server)-before < 30*time.Millisecond {
			return
		}
	}
	w.b.Fatal("the gateway is busy with something else")
}
