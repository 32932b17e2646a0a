package daemon

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"

	stepcafiles "github.com/mosaicstack/gateway/deploy/step-ca"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/doctor"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/unixsock"
	"github.com/mosaicstack/gateway/internal/valkey/valkeytest"
)

const (
	doctorSecret = "0123456789abcdef0123456789abcdef"
	doctorAPIKey = "sk-of-the-embeddings"
	nobodyThere  = "127.0.0.1:1"
)

// ward is what the patients share: real servers with nothing wrong, and the two addresses of a gateway.
type ward struct {
	ca         *stepcatest.Server
	root       *x509.Certificate
	rootKey    crypto.Signer
	valkey     *valkeytest.Server
	dir        string // whose admin socket answers
	listener   string // host:port of the federation listener
	public     *httptest.Server
	embeddings *httptest.Server
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{ca: stepcatest.Start(t, strangeProvisioners), valkey: valkeytest.Start(t), dir: shortDir(t)}
	w.root = w.ca.Roots[0]
	w.rootKey = signerOf(t, w.ca)
	socket, err := unixsock.Listen(w.dir, "admin.sock", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	go accept(socket)
	w.listener = w.serveFederation(t, w.serverCert(t, "127.0.0.1", time.Hour))
	w.public = httptest.NewUnstartedServer(says(http.StatusOK, `{"status":"ok","tier":"federated","version":"v1","checks":{"database":"ok"}}`))
	w.public.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.public.StartTLS()
	w.embeddings = httptest.NewServer(says(http.StatusOK, `{"object":"list","model":"m","data":[{"object":"embedding","index":0,"embedding":[1,0,0]}]}`))
	t.Cleanup(func() { w.public.Close(); w.embeddings.Close() })
	return w
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mosaic-doctor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" || r.URL.Path == "/embeddings" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return
		}
		http.NotFound(w, r)
	}
}

// accept takes connections until the listener is closed, and lets each come to the end of its handshake.
func accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if c, ok := conn.(*tls.Conn); ok {
				_ = c.Handshake()
			}
		}()
	}
}

func serveTLS(t *testing.T, conf *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go accept(l)
	return l.Addr().String()
}

// serveFederation answers as the gateway's own listener does.
func (w *ward) serveFederation(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	anchors := fedapi.NewAnchors(w.ca.Roots, nil)
	trust := fedapi.Trust{Anchors: func() *fedapi.Anchors { return anchors }, Profile: identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: "127.0.0.1"}, Now: time.Now}
	return serveTLS(t, fedapi.TLSConfig(func() (*tls.Certificate, error) { return &cert, nil }, trust))
}

// strangeProvisioners adds one provisioner for each thing that can be wrong with one, all with the same key.
func strangeProvisioners(conf *config.Config) {
	good := stepcafiles.FederationTemplate(identity.DefaultArc)
	claims := func(shortest, usual, longest time.Duration, noRenewal bool) *provisioner.Claims {
		of := func(d time.Duration) *provisioner.Duration { return &provisioner.Duration{Duration: d} }
		return &provisioner.Claims{MinTLSDur: of(shortest), DefaultTLSDur: of(usual), MaxTLSDur: of(longest), DisableRenewal: &noRenewal}
	}
	usual := claims(ca.MinLifetime, ca.DefaultLifetime, ca.MaxLifetime, true)
	add := func(like, name, template string, c *provisioner.Claims) *provisioner.JWK {
		p := stepcatest.Find(conf, like)
		other := &provisioner.JWK{Type: p.Type, Name: name, Key: p.Key, EncryptedKey: p.EncryptedKey, Claims: c}
		if template != "" {
			other.Options = &provisioner.Options{X509: &provisioner.X509Options{Template: template}}
		}
		conf.AuthorityConfig.Provisioners = append(conf.AuthorityConfig.Provisioners, other)
		return other
	}
	fed, server := ca.FederationProvisioner, ca.ServerProvisioner
	add(fed, "ordinary", "", usual)
	add(fed, "unguarded", regexp.MustCompile(`\{\{- fail "[^"]*" -\}\}`).ReplaceAllString(good, ""), usual)
	add(fed, "refuses-all", `{{ fail "no" }}`, usual)
	add(fed, "other-arc", stepcafiles.FederationTemplate("1.3.6.1.4.1.55555"), usual)
	add(fed, "also-server", strings.Replace(good, `["clientAuth"]`, `["clientAuth", "serverAuth"]`, 1), usual)
	add(fed, "brief", good, claims(ca.MinLifetime, time.Hour, time.Hour, true))
	add(fed, "long", good, claims(48*time.Hour, 72*time.Hour, ca.MaxLifetime, true))
	add(fed, "renews", good, claims(ca.MinLifetime, ca.DefaultLifetime, ca.MaxLifetime, false))
	add(fed, "keyless", good, usual).EncryptedKey = ""
	add(server, "brief-server", "", claims(ca.MinLifetime, time.Hour, time.Hour, true))
	add(server, "identified-server", `{"subject": {{ toJson .Subject }}, "sans": {{ toJson .SANs }}, "keyUsage": ["digitalSignature"], "extKeyUsage": ["serverAuth"],
		"extensions": [{"id": "1.3.6.1.4.1.99999.1", "critical": false, "value": {{ toJson (asn1Marshal "x" "utf8") }}}]}`, usual)
}

// patient is one gateway with something wrong.
type patient struct {
	*ward
	t      *testing.T
	env    map[string]string
	db     *pgxpool.Config
	now    func() time.Time
	change func(*doctor.Config) // between wiring and looking
}

func (w *ward) patient(t *testing.T) *patient {
	t.Helper()
	p := &patient{ward: w, t: t, db: pg.Database(t), now: time.Now, change: func(*doctor.Config) {}}
	p.env = map[string]string{
		"MOSAIC_TIER": "federated", "DATABASE_URL": p.db.ConnString(), "VALKEY_URL": w.valkey.URL(), "MOSAIC_DIR": w.dir,
		"MOSAIC_PUBLIC_URL": w.public.URL, "MOSAIC_FEDERATION_URL": "https://" + w.listener, "BETTER_AUTH_SECRET": doctorSecret,
		"STEP_CA_URL": w.ca.URL, "STEP_CA_ROOT_CERT_PATH": pemFile(t, w.root), "STEP_CA_PROVISIONER_PASSWORD": string(w.ca.Password),
		"EMBEDDINGS_URL": w.embeddings.URL, "EMBEDDINGS_MODEL": "m", "EMBEDDINGS_API_KEY": doctorAPIKey,
	}
	// It is a copy of a template, and says so.
	p.exec(`UPDATE gateway_home SET database_oid = (SELECT oid FROM pg_database WHERE datname = current_database()), written_by = pg_current_xact_id()`)
	return p
}

func (p *patient) exec(sql string, args ...any) {
	p.t.Helper()
	pool, err := pgxpool.NewWithConfig(p.t.Context(), p.db)
	if err != nil {
		p.t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(p.t.Context(), sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

// examine is what `gateway doctor` does with the patient's environment.
func (p *patient) examine() doctor.Report {
	p.t.Helper()
	var environ []string
	for name, value := range p.env {
		environ = append(environ, name+"="+value)
	}
	var stack closers
	defer func() {
		if err := stack.close(slog.New(slog.DiscardHandler)); err != nil {
			p.t.Error(err)
		}
	}()
	c, err := DoctorOptions{Environ: environ, Now: p.now}.config(p.t.Context(), &stack)
	if err != nil {
		p.t.Fatal(err)
	}
	c.PublicRoots = x509.NewCertPool()
	c.PublicRoots.AddCert(p.public.Certificate())
	c.Machine.OpenFiles = func() (uint64, error) { return 1 << 20, nil } // whatever this machine has
	p.change(&c)
	return doctor.Run(p.t.Context(), c)
}

// wants holds a report to what it must name: every finding that is not ok and was looked at, and the causes of those
// that were not.
func (p *patient) wants(report doctor.Report, want map[string]doctor.Status, because []string) {
	p.t.Helper()
	got, causes := map[string]doctor.Status{}, map[string]bool{}
	for _, f := range report.Checks {
		if f.Detail == "" || f.Status != doctor.OK && f.Remedy == "" || !slices.Contains([]doctor.Status{doctor.OK, doctor.Warn, doctor.Fail}, f.Status) {
			p.t.Errorf("a finding without a word: %+v", f)
		}
		if strings.ContainsAny(f.Detail+f.Remedy, "\x1b\n\r") {
			p.t.Errorf("somebody else's text as it came: %+v", f)
		}
		switch {
		case f.Because != "":
			causes[f.Because] = true
			if f.Status != doctor.Warn || !strings.HasPrefix(f.Detail, "skipped because "+f.Because) {
				p.t.Errorf("skipped, and told so: %+v", f)
			}
		case f.Status != doctor.OK:
			got[f.Name] = f.Status
		}
	}
	doc, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		p.t.Fatal(err)
	}
	if !maps.Equal(got, want) || !slices.Equal(slices.Sorted(maps.Keys(causes)), slices.Sorted(slices.Values(because))) {
		p.t.Errorf("named %v, skipped for %v; want %v, skipped for %v\n%s", got, slices.Sorted(maps.Keys(causes)), want, because, doc)
	}
	for _, secret := range []string{doctorSecret, doctorAPIKey, string(p.ca.Password), valkeytest.Password, "hunter2", "PRIVATE KEY"} {
		if bytes.Contains(doc, []byte(secret)) {
			p.t.Errorf("the report tells a secret: %q\n%s", secret, doc)
		}
	}
}

// says holds the report to a text in the detail of what is not ok.
func (p *patient) says(report doctor.Report, text string) {
	p.t.Helper()
	for _, f := range report.Checks {
		if f.Status != doctor.OK && strings.Contains(f.Detail, text) {
			return
		}
	}
	if text != "" {
		p.t.Errorf("nothing says %q: %+v", text, report)
	}
}
