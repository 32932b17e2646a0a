package daemon

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/smallstep/certificates/authority/config"
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
			p.wants(p.examine(), tt.want, tt.because)
		})
	}
	if faults < 30 {
		t.Errorf("only %d faults are tried", faults)
	}
}

func settingsCases() []doctorCase {
	return []doctorCase{
		{"nothing is wrong", func(*patient) {}, found{}, nil},
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

// notStepCA is a server that the CA vouches for, and that is no CA.
func notStepCA(p *patient) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{p.serverCert(p.t, "127.0.0.1", time.Hour)}}
	s.StartTLS()
	p.t.Cleanup(s.Close)
	p.env["STEP_CA_URL"] = s.URL
}

// ownCA makes the patient's own step-ca, changed before it starts; the listener is signed by its root.
func ownCA(edit func(p *patient, s *stepcatest.Server, conf *config.Config)) func(*patient) {
	return func(p *patient) {
		own := *p.ward
		first := stepcatest.Start(p.t)
		own.ca = first.Restart(p.t, func(conf *config.Config) { edit(p, first, conf) })
		own.root, own.rootKey = own.ca.Roots[0], signerOf(p.t, own.ca)
		p.ward = &own
		p.env["STEP_CA_URL"], p.env["STEP_CA_PROVISIONER_PASSWORD"] = own.ca.URL, string(own.ca.Password)
		p.env["STEP_CA_ROOT_CERT_PATH"] = pemFile(p.t, own.root)
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + own.serveFederation(p.t, own.serverCert(p.t, "127.0.0.1", time.Hour))
	}
}

func caCases() []doctorCase {
	roots := func(left time.Duration, also bool) func(*patient) {
		return func(p *patient) {
			pinned := []*x509.Certificate{strangeRoot(p.t, left)}
			if also {
				pinned = append(pinned, p.root)
			}
			p.env["STEP_CA_ROOT_CERT_PATH"] = pemFile(p.t, pinned...)
		}
	}
	fed := func(name string) func(*patient) { return set("STEP_CA_PROVISIONER", name) }
	srv := func(name string) func(*patient) { return set("STEP_CA_SERVER_PROVISIONER", name) }
	emits := []string{doctor.TemplateEmits}
	return []doctorCase{
		{"no CA", set("STEP_CA_URL", "https://"+nobodyThere), found{doctor.CAReachable: fail}, []string{doctor.CAReachable}},
		{"something that is no CA", notStepCA, found{doctor.CAReachable: fail}, []string{doctor.CAReachable}},
		{"a root file that is none", func(p *patient) { p.env["STEP_CA_ROOT_CERT_PATH"] = fileOf(p.t, "hello") }, found{doctor.RootFile: fail}, []string{doctor.RootFile}},
		{"another root than the CA's", roots(240*24*time.Hour, false), found{doctor.CARoot: fail}, []string{doctor.CARoot}},
		{"a root that has ended", roots(-time.Hour, false), found{doctor.RootExpiry: fail}, []string{doctor.RootExpiry}},
		{"a root that ends soon", roots(10*24*time.Hour, true), found{doctor.RootExpiry: warn}, nil},
		{"an intermediate that ends soon", ownCA(briefIntermediate), found{doctor.IssuerExpiry: warn}, nil},
		{"no list of revoked certificates", ownCA(func(_ *patient, _ *stepcatest.Server, conf *config.Config) { conf.CRL = nil }), found{doctor.CACRL: warn}, nil},
		{"no database at the CA", ownCA(func(_ *patient, _ *stepcatest.Server, conf *config.Config) { conf.DB, conf.CRL = nil, nil }), found{doctor.CARevokes: fail, doctor.CACRL: warn}, nil},
		{"no such provisioner", fed("nowhere"), found{doctor.CAProvisioner: fail}, []string{doctor.CAProvisioner}},
		{"a wrong password of the provisioner", func(p *patient) {
			p.env["STEP_CA_PROVISIONER_PASSWORD"], p.env["STEP_CA_SERVER_PROVISIONER_PASSWORD"] = "hunter2", string(p.ca.Password)
		}, found{doctor.CAKey: fail}, []string{doctor.CAKey}},
		{"a provisioner whose key the CA does not keep", fed("keyless"), found{doctor.CAKey: fail}, []string{doctor.CAKey}},
		{"an ordinary template", fed("ordinary"), found{doctor.TemplateEmits: fail, doctor.TemplateRefuses: fail}, emits},
		{"a template without guards", fed("unguarded"), found{doctor.TemplateRefuses: fail}, nil},
		{"a template that refuses all", fed("refuses-all"), found{doctor.TemplateEmits: fail}, emits},
		{"a template of another arc", fed("other-arc"), found{doctor.TemplateEmits: fail}, emits},
		{"a template with one usage too many", fed("also-server"), found{doctor.TemplateEmits: fail}, emits},
		{"lifetimes that are cut", fed("brief"), found{doctor.CALifetime: warn}, nil},
		{"lifetimes that are too long", fed("long"), found{doctor.CALifetime: fail}, nil},
		{"a CA that renews by itself", fed("renews"), found{doctor.CARenewal: warn}, nil},
		{"no such provisioner for the listener", srv("nowhere"), found{doctor.ServerProvisioner: fail}, []string{doctor.ServerProvisioner}},
		{"a wrong password of the listener's provisioner", set("STEP_CA_SERVER_PROVISIONER_PASSWORD", "hunter2"), found{doctor.ServerKey: fail}, []string{doctor.ServerKey}},
		{"a listener's provisioner that signs too briefly", srv("brief-server"), found{doctor.ServerCertificate: fail}, nil},
		{"a listener's provisioner that identifies", srv("identified-server"), found{doctor.ServerCertificate: fail}, nil},
	}
}

// briefIntermediate replaces the CA's intermediate by one that ends in ten days.
func briefIntermediate(p *patient, s *stepcatest.Server, conf *config.Config) {
	was := readCertificate(p.t, conf.IntermediateCert)
	brief := *was
	brief.SerialNumber, brief.NotAfter = serialOf(p.t), time.Now().Add(10*24*time.Hour)
	brief.PublicKey = nil
	cert := signPublic(p.t, &brief, s.Roots[0], was.PublicKey, signerOf(p.t, s))
	pem, err := os.ReadFile(pemFile(p.t, cert))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(conf.IntermediateCert, pem, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// listens puts a certificate at the federation URL that ends after left.
func listens(host string, left time.Duration) func(*patient) {
	return func(p *patient) {
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + p.serveFederation(p.t, p.serverCert(p.t, host, left))
	}
}

// proxied puts a proxy in front that ends TLS with a certificate of its own.
func proxied(cert func(p *patient) tls.Certificate) func(*patient) {
	return func(p *patient) {
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + serveTLS(p.t, &tls.Config{Certificates: []tls.Certificate{cert(p)}})
	}
}

// passed puts a proxy in front that passes TCP on.
func passed(p *patient) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.listener)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	p.env["MOSAIC_FEDERATION_URL"] = "https://" + l.Addr().String()
}

// inFiles makes the listener's certificate one from files, and has it answer.
func inFiles(cert func(p *patient) (inFile, answering tls.Certificate)) func(*patient) {
	return func(p *patient) {
		inFile, answering := cert(p)
		p.env["MOSAIC_FEDERATION_TLS_CERT_FILE"], p.env["MOSAIC_FEDERATION_TLS_KEY_FILE"] = pemFile(p.t, inFile.Leaf), keyFile(p.t, inFile)
		p.env["MOSAIC_FEDERATION_URL"] = "https://" + p.serveFederation(p.t, answering)
	}
}

func (p *patient) answersPublicly(h http.HandlerFunc) {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS() // with the certificate of every httptest server
	p.t.Cleanup(s.Close)
	p.env["MOSAIC_PUBLIC_URL"] = s.URL
}

func publicly(h http.HandlerFunc) func(*patient) { return func(p *patient) { p.answersPublicly(h) } }

func addressCases() []doctorCase {
	through := found{doctor.FederationPassthrough: fail}
	not := []string{doctor.FederationPassthrough}
	return []doctorCase{
		{"a proxy that passes TLS on", passed, found{}, nil},
		{"a proxy that ends TLS", proxied(func(p *patient) tls.Certificate { return signed(p.t, "127.0.0.1", time.Hour, nil, nil) }), through, not},
		{"a proxy that ends TLS with a certificate of ours", proxied(func(p *patient) tls.Certificate { return p.serverCert(p.t, "127.0.0.1", time.Hour) }), through, not},
		{"a proxy that asks for other certificates", func(p *patient) {
			conf := &tls.Config{Certificates: []tls.Certificate{p.serverCert(p.t, "127.0.0.1", time.Hour)}, ClientAuth: tls.RequireAnyClientCert, ClientCAs: poolOf(strangeRoot(p.t, time.Hour))}
			p.env["MOSAIC_FEDERATION_URL"] = "https://" + serveTLS(p.t, conf)
		}, through, not},
		{"no listener", set("MOSAIC_FEDERATION_URL", "https://"+nobodyThere), found{doctor.FederationReachable: fail}, []string{doctor.FederationReachable}},
		{"no TLS at the listener's address", func(p *patient) {
			s := httptest.NewServer(http.NotFoundHandler())
			p.t.Cleanup(s.Close)
			p.env["MOSAIC_FEDERATION_URL"] = "https" + s.URL[len("http"):]
		}, found{doctor.FederationReachable: fail}, []string{doctor.FederationReachable}},
		{"a listener's certificate that has ended", listens("127.0.0.1", -time.Minute), found{doctor.FederationCertificate: fail}, nil},
		{"a listener's certificate near its end", listens("127.0.0.1", 10*time.Minute), found{doctor.FederationCertificate: warn}, nil},
		{"a listener's certificate for another host", listens("other.example", time.Hour), found{doctor.FederationCertificate: fail}, nil},
		{"a certificate from files", inFiles(func(p *patient) (tls.Certificate, tls.Certificate) {
			c := p.serverCert(p.t, "127.0.0.1", time.Hour)
			return c, c
		}), found{}, nil},
		{"a key of another certificate", func(p *patient) {
			c := p.serverCert(p.t, "127.0.0.1", time.Hour)
			p.env["MOSAIC_FEDERATION_TLS_CERT_FILE"], p.env["MOSAIC_FEDERATION_TLS_KEY_FILE"] = pemFile(p.t, c.Leaf), keyFile(p.t, p.serverCert(p.t, "x", time.Hour))
		}, found{doctor.ListenerFiles: fail}, []string{doctor.ListenerFiles}},
		{"a certificate from files that peers do not trust", inFiles(func(p *patient) (tls.Certificate, tls.Certificate) {
			c := signed(p.t, "127.0.0.1", time.Hour, nil, nil)
			return c, c
		}), found{doctor.ListenerFiles: fail}, []string{doctor.ListenerFiles}},
		{"another certificate than the files'", inFiles(func(p *patient) (tls.Certificate, tls.Certificate) {
			return p.serverCert(p.t, "127.0.0.1", time.Hour), p.serverCert(p.t, "127.0.0.1", time.Hour)
		}), through, not},
		{"plain HTTP on this machine", func(p *patient) {
			s := httptest.NewServer(p.public.Config.Handler)
			p.t.Cleanup(s.Close)
			p.env["MOSAIC_PUBLIC_URL"] = s.URL
		}, found{doctor.PublicHTTPS: warn}, nil},
		{"plain HTTP over the network", func(p *patient) {
			s := httptest.NewServer(p.public.Config.Handler)
			p.t.Cleanup(s.Close)
			_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
			p.env["MOSAIC_PUBLIC_URL"] = "http://0.0.0.0:" + port
		}, found{doctor.PublicHTTPS: fail}, nil},
		{"nobody at the public address", set("MOSAIC_PUBLIC_URL", "https://"+nobodyThere), found{doctor.PublicReachable: fail}, []string{doctor.PublicReachable}},
		{"a public certificate that is not trusted", func(p *patient) {
			s := httptest.NewUnstartedServer(p.public.Config.Handler)
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			s.TLS = &tls.Config{Certificates: []tls.Certificate{signed(p.t, "127.0.0.1", time.Hour, nil, nil)}}
			s.StartTLS()
			p.t.Cleanup(s.Close)
			p.env["MOSAIC_PUBLIC_URL"] = s.URL
		}, found{doctor.PublicReachable: fail}, []string{doctor.PublicReachable}},
		{"somebody else at the public address", publicly(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>Welcome</html>") }), found{doctor.PublicGateway: fail}, []string{doctor.PublicGateway}},
		{"a login in front", publicly(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://login.example", http.StatusFound)
		}), found{doctor.PublicGateway: fail}, []string{doctor.PublicGateway}},
		{"a prefix that is lost", func(p *patient) { p.env["MOSAIC_PUBLIC_URL"] = p.public.URL + "/mosaic" }, found{doctor.PublicGateway: fail}, []string{doctor.PublicGateway}},
		{"a gateway with a part away", publicly(says(http.StatusOK, `{"status":"degraded","tier":"federated","version":"v","checks":{"ca":"down"}}`)), found{doctor.PublicHealth: warn}, nil},
		{"a gateway that is down", publicly(says(http.StatusServiceUnavailable, `{"status":"down","tier":"federated","version":"v","checks":{"database":"down"}}`)), found{doctor.PublicHealth: fail}, nil},
	}
}

func machineCases() []doctorCase {
	free := func(n uint64) func(*patient) {
		return func(p *patient) {
			p.change = func(c *doctor.Config) { c.Machine.Free = func(string) (uint64, error) { return n, nil } }
		}
	}
	limit := func(n uint64) func(*patient) {
		return func(p *patient) {
			p.change = func(c *doctor.Config) { c.Machine.OpenFiles = func() (uint64, error) { return n, nil } }
		}
	}
	return []doctorCase{
		{"a directory that is a file", func(p *patient) { p.env["MOSAIC_DIR"] = fileOf(p.t, "") }, found{doctor.DirUsable: fail, doctor.GatewayRunning: warn}, []string{doctor.DirUsable}},
		{"a full disk", free(1000), found{doctor.DiskSpace: fail}, nil},
		{"a disk that is nearly full", free(100 << 10), found{doctor.DiskSpace: warn}, nil},
		{"few open files", limit(2048), found{doctor.FileLimit: warn}, nil},
		{"too few open files", limit(256), found{doctor.FileLimit: fail}, nil},
		{"no gateway yet", func(p *patient) {
			p.env["MOSAIC_DIR"] = filepath.Join(shortDir(p.t), "not-there")
			p.env["MOSAIC_PUBLIC_URL"], p.env["MOSAIC_FEDERATION_URL"] = "https://"+nobodyThere, "https://"+nobodyThere
		}, found{doctor.GatewayRunning: warn}, []string{doctor.GatewayRunning}},
		{"no embeddings endpoint", func(p *patient) {
			for _, name := range []string{"EMBEDDINGS_URL", "EMBEDDINGS_MODEL", "EMBEDDINGS_API_KEY"} {
				p.env[name] = ""
			}
		}, found{doctor.EmbeddingsEndpoint: warn}, nil},
		{"an embeddings endpoint that is away", set("EMBEDDINGS_URL", "http://"+nobodyThere), found{doctor.EmbeddingsEndpoint: fail}, nil},
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
