package httpapi_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/embed"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/remote"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/serving"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
})

func TestMain(m *testing.M) {
	code := pg.Main(m)
	if dir := caDir; dir != "" {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// The CA of the test binary, made once.
var (
	caDir     string
	authority = sync.OnceValues(func() (*embedded.Authority, error) {
		dir, err := os.MkdirTemp("", "mosaic-httpapi-ca-")
		if err != nil {
			return nil, err
		}
		caDir = dir
		return embedded.Open(context.Background(), embedded.Config{Dir: filepath.Join(dir, "ca"), Name: "Test", Arc: identity.DefaultArc})
	})
)

// logs gathers what the API and its server log.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// api is the public API on a loopback port and a database of its own.
type api struct {
	t         *testing.T
	pool      *pgxpool.Pool
	accounts  *postgres.Accounts
	resources *postgres.Resources
	grants    *postgres.Grants
	keyring   *keyring
	ca        *roots
	logs      *logs
	config    httpapi.Config
	url       string
}

// keyring counts what is done to it. What the real one does has tests of its own.
type keyring struct{ changes atomic.Int32 }

func (*keyring) Show(context.Context) ([]httpapi.KeyStatus, error) { return nil, nil }
func (k *keyring) Rotate(context.Context, audit.Act) error         { k.changes.Add(1); return nil }
func (k *keyring) Retire(context.Context, uint32, audit.Act) error { k.changes.Add(1); return nil }

// roots is the same for the CA's.
type roots struct{ changes atomic.Int32 }

func (*roots) Show(context.Context) ([]httpapi.RootStatus, error) { return nil, nil }
func (r *roots) Rotate(context.Context, audit.Act) error          { r.changes.Add(1); return nil }
func (r *roots) Finish(context.Context, bool, audit.Act) error    { r.changes.Add(1); return nil }

type healthy struct{}

func (healthy) Report(context.Context) httpapi.Report {
	return httpapi.Report{Status: httpapi.HealthOK, Tier: "local", Version: "test", Checks: map[string]string{}}
}

// direct records without the group commit of audit.Writer.
type direct struct{ *postgres.AuditLog }

func (d direct) Record(ctx context.Context, e audit.Event) error {
	return d.Append(ctx, audit.NewLog().Next([]audit.Event{e}))
}

// The limits that the specification gives enrollment (section 7).
var (
	guesses = grant.Limit{PerMinute: 30, Burst: 30}
	tries   = grant.Limit{PerMinute: 300, Burst: 300}
)

func newAPI(t *testing.T, change ...func(*httpapi.Config)) *api {
	t.Helper()
	keys, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	limiter, err := limit.NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	pool := pg.Pool(t)
	db := postgres.New(pool)
	client := remote.NewClient()
	t.Cleanup(client.Close)
	credentials, auditLog := &postgres.Credentials{DB: db}, &postgres.AuditLog{DB: db}
	a := &api{
		t: t, pool: pool, logs: &logs{}, keyring: &keyring{}, ca: &roots{}, accounts: &postgres.Accounts{DB: db},
		resources: &postgres.Resources{DB: db, Seal: keys}, grants: &postgres.Grants{DB: db},
	}
	log := slog.New(slog.NewJSONHandler(a.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	hash := func(b []byte) []byte { return keys.MAC("query", b) }
	a.config = httpapi.Config{
		Accounts: a.accounts, Resources: a.resources, Grants: a.grants, Peers: &postgres.Peers{DB: db}, Credentials: credentials, Audit: auditLog,
		Record: direct{auditLog}, Notary: audit.NewNotary(audit.NotaryConfig{Ledger: auditLog, Ring: keys, Random: rand.Reader, Now: time.Now, Log: log}),
		Enroll: enroll.New(enroll.Config{
			Store: &postgres.Enrollment{DB: db}, CA: ca, Profile: identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: "fed.example"},
			FederationURL: "https://fed.example", Random: rand.Reader, Log: log,
			Guesses: limit.PerAddress{Limiter: limiter, Name: "enrollment", Limit: guesses}, Tries: limit.Fixed{Limiter: limiter, Limit: tries},
		}),
		Adder: querying.NewAdder(querying.AdderConfig{
			Store: credentials, Enroller: &remote.Enroller{}, Client: client, Keys: keys, Random: rand.Reader, Now: time.Now,
		}),
		Searcher: serving.NewSearcher(embed.Hash{}),
		Querying: querying.New(querying.Config{Finder: credentials, Client: client, Keys: keys, Audit: direct{auditLog}, Hash: hash, Now: time.Now}),
		Guesses:  limit.PerAddress{Limiter: limiter, Name: "token", Limit: guesses},
		Cursors:  page.New(keys.AEAD("cursor")), Keyring: a.keyring, CA: a.ca, Health: healthy{}, PublicURL: "https://gw.example",
		CAFingerprint: func(context.Context) (string, error) { return "00", nil },
		Version:       "test", Now: time.Now, Log: log,
	}
	for _, c := range change {
		c(&a.config)
	}
	a.url = a.serve(httpapi.New(a.config))
	return a
}

// serve answers with h on a free port until the test ends.
func (a *api) serve(h http.Handler) string {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(a.config.Log.Handler(), slog.LevelDebug)
	s.Start()
	a.t.Cleanup(s.Close)
	return s.URL
}

var act = audit.Act{RequestID: "test", Actor: "test"}

func (a *api) user(email string, role account.Role) account.User {
	a.t.Helper()
	u, err := a.accounts.CreateUser(a.t.Context(), account.User{Email: email, Role: role}, act)
	if err != nil {
		a.t.Fatal(err)
	}
	return u
}

// token makes an API token of a user.
func (a *api) token(email string) (secret string, id uuid.UUID) {
	a.t.Helper()
	secret, hash, err := account.NewToken(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := a.accounts.CreateToken(a.t.Context(), email, "", hash, time.Hour, act)
	if err != nil {
		a.t.Fatal(err)
	}
	return secret, made.ID
}

// grantFor grants a peer a scope on behalf of a user, with an enrollment token.
func (a *api) grantFor(peer, email, doc string) (grant.Grant, string) {
	a.t.Helper()
	s, err := scope.Parse([]byte(doc))
	if err != nil {
		a.t.Fatal(err)
	}
	token, hash, err := enroll.NewToken(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	g, _, err := a.grants.CreateGrant(a.t.Context(), postgres.NewGrant{PeerName: peer, SubjectUser: email, Scope: s}, postgres.NewToken{Hash: hash, TTL: 15 * time.Minute}, act)
	if err != nil {
		a.t.Fatal(err)
	}
	return g, token
}

// task stores a task of a user and returns its id.
func (a *api) task(owner account.User, team string) uuid.UUID {
	a.t.Helper()
	row, err := resource.ParseRow(scope.Tasks, []byte(`{"title":"t"}`))
	if err != nil {
		a.t.Fatal(err)
	}
	doc, err := a.resources.Create(a.t.Context(), row, owner.ID, team)
	if err != nil {
		a.t.Fatal(err)
	}
	var made struct{ ID uuid.UUID }
	if err := json.Unmarshal(doc, &made); err != nil {
		a.t.Fatal(err)
	}
	return made.ID
}

func (a *api) exec(sql string, args ...any) {
	a.t.Helper()
	if _, err := a.pool.Exec(a.t.Context(), sql, args...); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
}

func (a *api) text(sql string, args ...any) string {
	a.t.Helper()
	var s string
	if err := a.pool.QueryRow(a.t.Context(), sql, args...).Scan(&s); err != nil {
		a.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// newCSR makes a certificate request of a new key, in PEM.
func newCSR(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// answer is an HTTP answer, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask sends one request; header is name, value, name, value.
func (a *api) ask(method, url, body string, header ...string) answer {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return a.send(req)
}

func (a *api) send(req *http.Request) answer {
	a.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatalf("%s: %v", req.Method, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

// code is the code of a problem, and fails the test when the answer is none.
func (a answer) code(t *testing.T) string {
	t.Helper()
	var p struct {
		Status    int
		Code      string
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(a.body, &p); err != nil || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %s %.200q is no problem+json", a.status, a.header.Get("Content-Type"), a.body)
		return ""
	}
	if p.Status != a.status || p.RequestID == "" || p.RequestID != a.header.Get("X-Request-Id") {
		t.Errorf("problem of status %d and request %q in an answer of status %d and request %q", p.Status, p.RequestID, a.status, a.header.Get("X-Request-Id"))
	}
	return p.Code
}
