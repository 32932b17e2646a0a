package daemon

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/mod/sumdb/note"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/doctor"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/valkey/valkeytest"
)

// found is what a report must name.
type found map[string]doctor.Status

const (
	warn = doctor.Warn
	fail = doctor.Fail
)

// doctorCase is one fault: how it is made, and what of the report must not be ok because of it. because are the checks
// whose failure others were skipped for.
type doctorCase struct {
	name    string
	make    func(p *patient)
	want    found
	because []string
}

// set is a fault of one setting.
func set(name, value string) func(*patient) { return func(p *patient) { p.env[name] = value } }

// run is a fault of the database's contents.
func run(sql string) func(*patient) { return func(p *patient) { p.exec(sql) } }

// TestDoctorNamesEveryFault breaks one thing after the other, and holds doctor to naming it, and nothing else.
func TestDoctorNamesEveryFault(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	var all []doctorCase
	for _, some := range [][]doctorCase{settingsCases(), databaseCases(), storedCases(), valkeyCases(), caCases(), addressCases(), machineCases()} {
		all = append(all, some...)
	}
	faults := 0
	for _, tt := range all {
		if len(tt.want) > 0 {
			faults++
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := w.patient(t)
			tt.make(p)
			report := p.examine()
			p.wants(report, tt.want, tt.because)
			p.says(report, said[tt.name])
		})
	}
	if faults < 30 {
		t.Errorf("only %d faults are tried", faults)
	}
}

// said is what the report must tell of some faults, so that the right one of several causes is named.
var said = map[string]string{
	"a proxy that ends TLS":                            "a proxy ends TLS in front of the gateway: the certificate that answers (subject CN=127.0.0.1, issuer CN=127.0.0.1) is not from the federation CA",
	"a proxy that ends TLS with a certificate of ours": "asks for no client certificate",
	"a proxy that asks for other certificates":         "takes client certificates of other CAs",
	"another certificate than the files'":              "is not the one in MOSAIC_FEDERATION_TLS_CERT_FILE",
	"an ordinary template":                             "although the token has no mosaic_grant_id",
	"a template of another arc":                        "names neither a grant nor a subject user",
	"a sealed value of another row":                    "federation_credentials.client_key_pem of row ",
	"a wrong password of the provisioner":              "(ca_password_wrong)",
	"no such database":                                 "the database that DATABASE_URL names is not on the server",
	"no such role":                                     "refuses the user or the password",
	"another root than the CA's":                       "does not prove to be the pinned certificate authority",
	"a login in front":                                 "a redirect to https://login.example",
	"a gateway with a part away":                       "ca down",
	"a renewal that fails":                             "3 tries, last: the peer",
}

func settingsCases() []doctorCase {
	return []doctorCase{
		{"nothing is wrong", func(*patient) {}, found{}, nil},
		{"the standalone tier, which needs less", func(p *patient) {
			for name := range p.env {
				if strings.HasPrefix(name, "STEP_CA_") || strings.HasPrefix(name, "VALKEY_") || strings.HasPrefix(name, "MOSAIC_FEDERATION_") {
					delete(p.env, name)
				}
			}
			p.env["MOSAIC_TIER"] = "standalone"
		}, found{}, nil},
		{"a name that is no setting", set("MOSAIC_FEDRATION_URL", "x"), found{"config.MOSAIC_FEDRATION_URL": fail}, nil},
		{"two mistakes at once", func(p *patient) { p.env["MOSAIC_LOG_LEVEL"], p.env["MOSAIC_WHATEVER"] = "loud", "1" }, found{"config.MOSAIC_LOG_LEVEL": fail, "config.MOSAIC_WHATEVER": fail}, nil},
		{"a setting that is missing", set("VALKEY_URL", ""), found{"config.VALKEY_URL": fail}, []string{"config.VALKEY_URL"}},
		{"an address that cannot be read", set("DATABASE_URL", "postgres://m:hunter2@[/x"), found{"config.DATABASE_URL": fail}, []string{"config.DATABASE_URL"}},
		{"a Valkey address that cannot be read", set("VALKEY_URL", "http://:hunter2@x"), found{"config.VALKEY_URL": fail}, []string{"config.VALKEY_URL"}},
		{"a provisioner key that is none", set("STEP_CA_PROVISIONER_KEY_JSON", `{"kty":"oct","k":"hunter2"}`), found{"config.STEP_CA_PROVISIONER_KEY_JSON": fail}, []string{"config.STEP_CA_PROVISIONER_KEY_JSON"}},
		{"a keyset that is none", set("MOSAIC_SEAL_KEYSET", `{"hunter2"`), found{doctor.KeysetUsable: fail}, []string{doctor.KeysetUsable}},
		{"a secret that is too short", set("BETTER_AUTH_SECRET", "hunter2"), found{"config.BETTER_AUTH_SECRET": fail}, []string{"config.BETTER_AUTH_SECRET"}},
	}
}

// otherServer is a patient's view of the database with something else in it than there is.
type otherServer struct {
	doctor.Schema
	change func(*doctor.Server)
}

func (o otherServer) Server(ctx context.Context) (doctor.Server, error) {
	s, err := o.Schema.Server(ctx)
	o.change(&s)
	return s, err
}

func server(change func(*doctor.Server)) func(*patient) {
	return func(p *patient) { p.change = func(c *doctor.Config) { c.Schema = otherServer{c.Schema, change} } }
}

func databaseCases() []doctorCase {
	away := []string{doctor.DatabaseReachable}
	return []doctorCase{
		{"no server", set("DATABASE_URL", "postgres://m:hunter2@"+nobodyThere+"/m"), found{doctor.DatabaseReachable: fail}, away},
		{"a server that answers nothing", func(p *patient) { p.env["DATABASE_URL"] = "postgres://m:hunter2@" + silent(p.t) + "/m?sslmode=disable" }, found{doctor.DatabaseReachable: fail}, away},
		{"no such database", func(p *patient) { p.env["DATABASE_URL"] += " dbname=elsewhere" }, found{doctor.DatabaseReachable: fail}, away},
		{"no such role", func(p *patient) { p.env["DATABASE_URL"] += " user=nobody" }, found{doctor.DatabaseReachable: fail}, away},
		{"an old server", server(func(s *doctor.Server) { s.Version, s.VersionNumber = "14.9", 140009 }), found{doctor.DatabaseVersion: fail}, []string{doctor.DatabaseVersion}},
		{"a clock that is behind", server(func(s *doctor.Server) { s.Clock = s.Clock.Add(-10 * time.Second) }), found{doctor.DatabaseClock: warn}, nil},
		{"a clock that is far ahead", server(func(s *doctor.Server) { s.Clock = s.Clock.Add(5 * time.Minute) }), found{doctor.DatabaseClock: fail}, nil},
		{
			"our own clock is wrong", func(p *patient) { p.now = func() time.Time { return time.Now().Add(5 * time.Minute) } },
			found{doctor.DatabaseClock: fail, doctor.CAClock: fail},
			[]string{doctor.CAClock},
		},
		{"few connections left", server(func(s *doctor.Server) { s.Used, s.Most = 90, 100 }), found{doctor.DatabaseConnections: warn}, nil},
		{"no migrations", func(p *patient) { p.env["DATABASE_URL"] = pg.Blank(p.t).ConnString() }, found{doctor.DatabaseMigrations: fail, doctor.DatabaseVector: fail}, []string{doctor.DatabaseMigrations}},
		{"a migration behind", run(`DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`), found{doctor.DatabaseMigrations: fail}, []string{doctor.DatabaseMigrations}},
		{"the job queue behind", run(`DELETE FROM river_migration WHERE version = (SELECT max(version) FROM river_migration)`), found{doctor.DatabaseMigrations: fail}, []string{doctor.DatabaseMigrations}},
		{"a migration ahead", run(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, true)`), found{doctor.DatabaseMigrations: warn}, nil},
		{"a copy that was restored", run(`UPDATE gateway_home SET database_oid = 1`), found{doctor.DatabaseRestored: fail}, nil},
		{"a copy of another tier that is not finished", run(`INSERT INTO tier_migration (source) VALUES ('elsewhere')`), found{doctor.DatabaseTransfer: fail}, nil},
		{"pgvector out of reach", run(`CREATE SCHEMA hidden; ALTER EXTENSION vector SET SCHEMA hidden`), found{doctor.DatabaseVector: fail}, nil},
		{"no pgvector on the server", server(func(s *doctor.Server) { s.Extension, s.Available = "", "" }), found{doctor.DatabaseVector: fail}, nil},
	}
}

// silent takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	return l.Addr().String()
}

// ring is the keyring of a patient.
func (p *patient) ring() *seal.Keyring {
	p.t.Helper()
	ring, err := seal.Derive([]byte(doctorSecret))
	if err != nil {
		p.t.Fatal(err)
	}
	return ring
}

// logged gives the patient an audit log of a few rows, with a checkpoint.
func logged(p *patient) {
	p.t.Helper()
	pool, err := pgxpool.NewWithConfig(p.t.Context(), p.db)
	if err != nil {
		p.t.Fatal(err)
	}
	defer pool.Close()
	p.exec(`INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome) SELECT 'r' || i, 'admin', 'test', 200, 'ok' FROM generate_series(1, 5) i`)
	n := audit.NewNotary(audit.NotaryConfig{Ledger: &postgres.AuditLog{DB: postgres.New(pool)}, Ring: p.ring(), Random: rand.Reader, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err := n.Keep(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
}

// credential gives the patient one at a peer, which ends after left of the hour that it lives.
func credential(p *patient, left time.Duration, attempts int, why string) {
	p.t.Helper()
	id, end := uuid.New(), time.Now().Add(left)
	sealed, err := p.ring().Seal([]byte("a key"), "federation_credentials", "client_key_pem", id.String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.exec(`INSERT INTO federation_peers (name, state) VALUES ('work', 'active') ON CONFLICT DO NOTHING`)
	p.exec(`INSERT INTO federation_credentials (id, peer_id, state, client_key_pem, remote_grant_id, not_before, not_after, renewal_attempts, renewal_error)
		SELECT $1, id, 'active', $2, gen_random_uuid(), $3, $4, $5, nullif($6, '') FROM federation_peers`, id, sealed, end.Add(-time.Hour), end, attempts, why)
}

func then(steps ...func(*patient)) func(*patient) {
	return func(p *patient) {
		for _, step := range steps {
			step(p)
		}
	}
}

func storedCases() []doctorCase {
	held := func(left time.Duration, attempts int, why string) func(*patient) {
		return func(p *patient) { credential(p, left, attempts, why) }
	}
	return []doctorCase{
		{"rows, and nothing wrong", then(logged, held(50*time.Minute, 0, "")), found{}, nil},
		{
			"another keyset than the rows'", then(logged, held(50*time.Minute, 0, ""), set("BETTER_AUTH_SECRET", "another secret of more than 32 bytes")),
			found{doctor.KeysetOpens: fail},
			[]string{doctor.KeysetOpens},
		},
		{"a sealed value of another row", then(held(50*time.Minute, 0, ""), run(`UPDATE federation_credentials SET id = gen_random_uuid()`)), found{doctor.KeysetOpens: fail}, []string{doctor.KeysetOpens}},
		{
			"a sealed value that was edited", then(held(50*time.Minute, 0, ""), run(`UPDATE federation_credentials SET client_key_pem = set_byte(client_key_pem, 20, (get_byte(client_key_pem, 20) + 1) % 256)`)),
			found{doctor.KeysetOpens: fail},
			[]string{doctor.KeysetOpens},
		},
		{"a credential that has ended", held(-time.Minute, 0, ""), found{doctor.CredentialsExpiry: fail}, nil},
		{"one that has ended and was replaced", then(held(-time.Minute, 0, ""), held(50*time.Minute, 0, "")), found{}, nil},
		{"a credential near its end", held(5*time.Minute, 0, ""), found{doctor.CredentialsExpiry: warn}, nil},
		{"a renewal that fails", held(25*time.Minute, 3, "the peer\x1b[31m cannot be reached"), found{doctor.CredentialsRenewal: warn}, nil},
		{"a key for checkpoints with a wrong half", then(logged, otherVerifier), found{doctor.AuditKey: fail}, []string{doctor.AuditKey}},
		{"a log that was cut", then(logged, run(`DELETE FROM federation_audit_batches`)), found{doctor.AuditCheckpoint: fail}, nil},
		{
			"rows that nobody sequences", run(`INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome, created_at) VALUES ('r', 'admin', 'test', 200, 'ok', now() - interval '5 minutes')`),
			found{doctor.AuditBacklog: warn},
			nil,
		},
		{
			"many rows that nobody sequences", run(`INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome) SELECT 'r', 'admin', 'test', 200, 'ok' FROM generate_series(1, 10001)`),
			found{doctor.AuditBacklog: fail},
			nil,
		},
		{
			"no partition for a month", run(`DO $$ BEGIN EXECUTE 'DROP TABLE federation_audit_log_' || to_char((now() AT TIME ZONE 'UTC') + interval '1 month', 'YYYYMM'); END $$`),
			found{doctor.AuditPartitions: warn},
			nil,
		},
		{
			"rows outside of every month", run(`INSERT INTO federation_audit_log (request_id, direction, verb, status_code, outcome, created_at, leaf_index) VALUES ('r', 'admin', 'test', 200, 'ok', '2001-01-01', 0)`),
			found{doctor.AuditPartitions: warn},
			nil,
		},
	}
}

func otherVerifier(p *patient) {
	_, public, err := note.GenerateKey(rand.Reader, "other")
	if err != nil {
		p.t.Fatal(err)
	}
	p.exec(`UPDATE federation_audit_keys SET verifier = $1`, public)
}

// valkey makes the patient's own server with other arguments.
func valkeyWith(args ...string) func(*patient) {
	return func(p *patient) { p.env["VALKEY_URL"] = valkeytest.Start(p.t, args...).URL() }
}

// valkeyUser lets the patient in as a user of few rights.
func valkeyUser(rights ...any) func(*patient) {
	return func(p *patient) {
		s := valkeytest.Start(p.t)
		s.Do(append([]any{"ACL", "SETUSER", "m", "on", ">hunter2"}, rights...)...)
		p.env["VALKEY_URL"] = s.URLWith("m", "hunter2")
	}
}

type otherValkey struct {
	doctor.Cache
	change func(*doctor.Valkey)
}

func (o otherValkey) Examine(ctx context.Context) (doctor.Valkey, error) {
	v, err := o.Cache.Examine(ctx)
	o.change(&v)
	return v, err
}

func valkeySays(change func(*doctor.Valkey)) func(*patient) {
	return func(p *patient) { p.change = func(c *doctor.Config) { c.Valkey = otherValkey{c.Valkey, change} } }
}

func valkeyCases() []doctorCase {
	return []doctorCase{
		{"no Valkey", set("VALKEY_URL", "redis://:hunter2@"+nobodyThere+"/0"), found{doctor.ValkeyReachable: fail}, []string{doctor.ValkeyReachable}},
		{"a Valkey that answers nothing", func(p *patient) { p.env["VALKEY_URL"] = "redis://:hunter2@" + silent(p.t) + "/0" }, found{doctor.ValkeyReachable: fail}, []string{doctor.ValkeyReachable}},
		{"a wrong password", func(p *patient) { p.env["VALKEY_URL"] = p.valkey.URLWith("", "hunter2") }, found{doctor.ValkeyAuth: fail}, []string{doctor.ValkeyAuth}},
		{"a user who may not ask for settings", valkeyUser("~mosaic:*", "+@all", "-config"), found{doctor.ValkeyRDB: warn}, nil},
		{"a user who may not run scripts", valkeyUser("~mosaic:*", "+@all", "-@scripting"), found{doctor.ValkeyLimits: fail}, nil},
		{"snapshots", valkeyWith("--save", "900 1"), found{doctor.ValkeyRDB: fail}, nil},
		{"a log on disk", valkeyWith("--appendonly", "yes"), found{doctor.ValkeyAOF: fail}, nil},
		{"eviction", valkeyWith("--maxmemory-policy", "allkeys-lru"), found{doctor.ValkeyEviction: warn}, nil},
		{"a replica", valkeyWith("--replicaof", "127.0.0.1 1"), found{doctor.ValkeyPrimary: fail}, []string{doctor.ValkeyPrimary}},
		{"an old Valkey", valkeySays(func(v *doctor.Valkey) { v.Version = "6.2.14" }), found{doctor.ValkeyVersion: fail}, []string{doctor.ValkeyVersion}},
		{"no password over the network", valkeySays(func(v *doctor.Valkey) { v.Guarded, v.Loopback = false, false }), found{doctor.ValkeyPassword: warn}, nil},
	}
}

// TestDoctorNamesAServerThatKeepsNoPromise starts one real server again and again, each time with something else wrong.
func TestDoctorNamesAServerThatKeepsNoPromise(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // the server's user walks through it
		t.Fatal(err)
	}
	data := filepath.Join(dir, "pg")
	for i, tt := range []struct {
		settings map[string]string
		standby  bool
		want     found
	}{
		{map[string]string{"fsync": "off"}, false, found{doctor.DatabaseFsync: fail, doctor.DatabaseMigrations: fail, doctor.DatabaseVector: fail}},
		{map[string]string{"full_page_writes": "off"}, false, found{doctor.DatabasePageWrites: fail, doctor.DatabaseMigrations: fail, doctor.DatabaseVector: fail}},
		{nil, true, found{doctor.DatabasePrimary: fail, doctor.DatabaseMigrations: fail, doctor.DatabaseVector: fail}},
	} {
		if tt.standby {
			if err := os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		server, err := devstack.StartPostgres(t.Context(), devstack.Config{DataDir: data, Log: slog.New(slog.DiscardHandler), Settings: tt.settings})
		if err != nil {
			t.Fatal(i, err)
		}
		p := &patient{ward: &ward{ca: &stepcatest.Server{Password: []byte("unused")}, public: httptest.NewTLSServer(http.NotFoundHandler())}, t: t, now: time.Now, change: func(c *doctor.Config) {
			*c = doctor.Config{Now: time.Now, Schema: c.Schema, Embedder: quietEmbedder{}} // the rest is looked at elsewhere
		}, env: map[string]string{"MOSAIC_TIER": "federated", "DATABASE_URL": server.DSN()}}
		p.wants(p.examine(), tt.want, nil)
		p.public.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		err = server.Stop(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
}

type quietEmbedder struct{}

func (quietEmbedder) Model() string                                    { return "none" }
func (quietEmbedder) Query(context.Context, string) ([]float32, error) { return nil, nil }
