package daemon

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/authority/provisioner"
	"go.step.sm/crypto/pemutil"

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

// serverCert is signed by the root itself, so that it may be what no CA would sign today. It ends after left.
func (w *ward) serverCert(t *testing.T, host string, left time.Duration) tls.Certificate {
	t.Helper()
	return signed(t, host, left, w.root, w.rootKey)
}

// signed makes a certificate of two hours' life, by itself when there is no parent.
func signed(t *testing.T, host string, left time.Duration, parent *x509.Certificate, key crypto.Signer) tls.Certificate {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(left)
	template := &x509.Certificate{
		SerialNumber: serialOf(t), Subject: pkix.Name{CommonName: host}, NotBefore: end.Add(-2 * time.Hour), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	if parent == nil {
		parent, key = template, own
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own, Leaf: leaf}
}

// strangeRoot is the root of nobody's CA.
func strangeRoot(t *testing.T, left time.Duration) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serialOf(t), Subject: pkix.Name{CommonName: "stranger"}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(left),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return signPublic(t, template, template, key.Public(), key)
}

func signPublic(t *testing.T, template, parent *x509.Certificate, public any, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pemFile(t *testing.T, certs ...*x509.Certificate) string {
	t.Helper()
	var b bytes.Buffer
	for _, c := range certs {
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	return fileOf(t, b.String())
}

func keyFile(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return fileOf(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func fileOf(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// signerOf is the key of a CA's root.
func signerOf(t *testing.T, s *stepcatest.Server) crypto.Signer {
	t.Helper()
	key, err := pemutil.Read(filepath.Join(s.Dir, "secrets", "root_ca_key"), pemutil.WithPassword(s.Password))
	if err != nil {
		t.Fatal(err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		t.Fatalf("the root's key is a %T", key)
	}
	return signer
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
	p.exec(`UPDATE gateway_home SET database_oid = (SELECT oid FROM pg_database WHERE datname = current_database())`)
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

func serialOf(t *testing.T) *big.Int {
	t.Helper()
	serial, err := ca.NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return serial
}

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	cert, err := pemutil.ReadCertificate(path)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
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
