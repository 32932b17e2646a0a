package fedapi_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/embed"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/serving"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
})

func TestMain(m *testing.M) {
	code := pg.Main(m)
	for _, dir := range caDirs {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// fedHost is what the gateway of these tests calls itself.
const fedHost = "127.0.0.1"

func profile() identity.Profile {
	return identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: fedHost}
}

// clock is the machine's, moved ahead by a test.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// lines hands every line of a log to whoever waits for it.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	select {
	case l <- string(b):
	default: // nobody reads any more
	}
	return len(b), nil
}

// gateway is the federation listener on a database of its own.
type gateway struct {
	t       *testing.T
	ca      *authority
	clock   *clock
	pool    *pgxpool.Pool
	stores  *postgres.DB
	enroll  *enroll.Service
	serving *serving.Service
	log     lines
	noted   chan audit.Event // refusals that are counted for the audit log
	tickets [32]byte         // the key of session tickets, which replicas share
	own     *tls.Certificate
	shown   atomic.Pointer[tls.Certificate] // in place of own
	anchors atomic.Pointer[fedapi.Anchors]
	bounds  door.Bounds
	proxies []netip.Prefix
	refused *reasons
	door    *door.Listener
	addr    string
}

// reasons counts what connections were turned away for.
type reasons struct {
	mu sync.Mutex
	n  map[door.Reason]int
}

func (r *reasons) add(why door.Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n[why]++
}

func (r *reasons) of(why door.Reason) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n[why]
}

// direct records without the group commit of audit.Writer.
type direct struct{ *postgres.AuditLog }

func (d direct) Record(ctx context.Context, e audit.Event) error {
	return d.Append(ctx, audit.NewLog().Next([]audit.Event{e}))
}

func newGateway(t *testing.T, change ...func(*gateway)) *gateway {
	t.Helper()
	keys, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	if err != nil {
		t.Fatal(err)
	}
	limiter, err := limit.NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, ca: mustCA(t, ours), clock: &clock{}, pool: pg.Pool(t), log: make(lines, 1000), noted: make(chan audit.Event, 10_000), bounds: fedapi.Bounds(), refused: &reasons{n: map[door.Reason]int{}}}
	g.stores = postgres.New(g.pool)
	_, _ = rand.Read(g.tickets[:])
	g.own = g.ca.server(t)
	g.anchors.Store(fedapi.NewAnchors([]*x509.Certificate{g.ca.root}, []*x509.Certificate{g.ca.issuer}))
	many := limit.Fixed{Limiter: limiter, Limit: grant.Limit{PerMinute: 1000, Burst: 1000}}
	g.enroll = enroll.New(enroll.Config{
		Store: &postgres.Enrollment{DB: g.stores}, Renewals: &postgres.Enrollment{DB: g.stores}, CA: g.ca, Profile: profile(), Guesses: many, Tries: many,
		Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	})
	g.serving = serving.New(serving.Config{
		Store: &postgres.Serving{DB: g.stores}, Budgets: &postgres.Serving{DB: g.stores}, Audit: direct{&postgres.AuditLog{DB: g.stores}}, Limiter: limiter,
		Cursors: page.New(keys.AEAD("cursor")), Hash: func(b []byte) []byte { return keys.MAC("query", b) }, Tag: func(b []byte) []byte { return keys.MAC("tag", b) },
		Now: g.clock.now, Log: slog.New(slog.DiscardHandler), Refused: serving.NewRefusedLately(g.clock.now),
		Searcher: serving.NewSearcher(embed.Hash{}), Note: g.note, Renew: g.enroll.Renew, Roots: g.ca.Roots,
	})
	for _, c := range change {
		c(g)
	}
	g.addr = g.listen(g.trust())
	return g
}

// note keeps a refusal, if there is room.
func (g *gateway) note(e audit.Event) {
	select {
	case g.noted <- e:
	default:
	}
}

func (g *gateway) trust() fedapi.Trust {
	return fedapi.Trust{Anchors: g.anchors.Load, Profile: profile(), Now: g.clock.now}
}

func (g *gateway) server(p identity.Profile, anchors func() *fedapi.Anchors) *http.Server {
	return fedapi.NewServer(fedapi.Config{
		Serving: g.serving, Profile: p, Anchors: anchors, Now: g.clock.now,
		Log: g.logger(),
	})
}

func (g *gateway) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// listen starts a replica that trusts as t says, and returns its address.
func (g *gateway) listen(t fedapi.Trust) string {
	g.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	conf := fedapi.TLSConfig(func() (*tls.Certificate, error) {
		if other := g.shown.Load(); other != nil {
			return other, nil
		}
		return g.own, nil
	}, t)
	conf.SetSessionTicketKeys([][32]byte{g.tickets})
	s := g.server(t.Profile, t.Anchors)
	g.door = door.Listen(l, door.Config{
		Bounds: g.bounds, TLS: conf, Proxies: g.proxies, ProxyHeader: true, Now: g.clock.now, Log: g.logger(),
		Refused: func(addr netip.Addr, r door.Reason) {
			g.refused.add(r)
			if e, ok := fedapi.Refusal(addr, r); ok {
				g.note(e)
			}
		},
	})
	g.door.Guard(s)
	secure := g.door
	done := make(chan error, 1)
	go func() { done <- s.Serve(secure) }()
	g.t.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			g.t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

var act = audit.Act{RequestID: "test", Actor: "test"}

// enrol makes a user with a grant over tasks, and redeems its token for a certificate.
func (g *gateway) enrol(email string) (*tls.Certificate, grant.Grant) {
	g.t.Helper()
	return g.enrolAt(email, nil)
}

// enrolAt is enrol with a limit for the grant, requests a minute and at once.
func (g *gateway) enrolAt(email string, rate *int) (*tls.Certificate, grant.Grant) {
	g.t.Helper()
	ctx := g.t.Context()
	if _, err := (&postgres.Accounts{DB: g.stores}).CreateUser(ctx, account.User{Email: email, Role: account.Member}, act); err != nil {
		g.t.Fatal(err)
	}
	s, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":10}`))
	if err != nil {
		g.t.Fatal(err)
	}
	token, hash, err := enroll.NewToken(rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	made, _, err := (&postgres.Grants{DB: g.stores}).CreateGrant(ctx, postgres.NewGrant{PeerName: "home", SubjectUser: email, Scope: s, RatePerMinute: rate, Burst: rate}, postgres.NewToken{Hash: hash, TTL: time.Minute}, act)
	if err != nil {
		g.t.Fatal(err)
	}
	key := newKey(g.t)
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: newCSR(g.t, key).Raw})
	issued, err := g.enroll.Redeem(ctx, enroll.Request{Token: token, CSR: csr})
	if err != nil {
		g.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair([]byte(issued.Chain), keyPEM(g.t, key))
	if err != nil {
		g.t.Fatal(err)
	}
	return &cert, made
}

func keyPEM(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// presenting is a client's TLS configuration that shows a certificate whatever CAs the server names; nil shows none.
func (g *gateway) presenting(cert *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(g.ca.root)
	if cert == nil {
		cert = &tls.Certificate{}
	}
	return &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS12, ServerName: fedHost,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	}
}

// The versions of HTTP that the listener speaks.
const (
	http1 = "HTTP/1.1"
	http2 = "HTTP/2.0"
)

// client asks over one version of HTTP and keeps its connection.
func (g *gateway) client(conf *tls.Config, version string) *http.Client {
	tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: version == http2}
	if version == http1 {
		tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// answer is an HTTP answer, read whole.
type answer struct {
	*http.Response
	body   []byte
	reused bool // the connection was there before
}

func (g *gateway) ask(c *http.Client, method, path string, header http.Header) (answer, error) {
	var a answer
	ctx := httptrace.WithClientTrace(g.t.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { a.reused = i.Reused }})
	req, err := http.NewRequestWithContext(ctx, method, "https://"+g.addr+path, nil)
	if err != nil {
		return a, err
	}
	if header != nil {
		req.Header = header
	}
	if a.Response, err = c.Do(req); err != nil {
		return a, err
	}
	defer a.Body.Close()
	a.body, err = io.ReadAll(a.Body)
	return a, err
}

const capabilities = fedapi.Base + "/capabilities"

// get asks and wants an answer of any kind.
func (g *gateway) get(c *http.Client, path string, header ...http.Header) answer {
	g.t.Helper()
	a, err := g.ask(c, http.MethodGet, path, append(header, nil)[0])
	if err != nil {
		g.t.Fatalf("GET %s: %v", path, err)
	}
	return a
}

// grantID is whom the gateway took the caller for.
func (a answer) grantID(t *testing.T) string {
	t.Helper()
	var doc struct {
		GrantID string `json:"grant_id"`
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s, want capabilities", a.StatusCode, a.body)
	}
	return doc.GrantID
}

func (a answer) wantProblem(t *testing.T, status int, code string) {
	t.Helper()
	var p struct {
		Status             int
		Code, Detail, Hint string
		Title, Type        string
		RequestID          string `json:"request_id"`
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("%d %q, want problem+json %s", a.StatusCode, a.body, code)
	}
	if a.StatusCode != status || p.Status != status || p.Code != code || p.Detail == "" || p.Hint == "" || p.Title == "" || p.Type == "" {
		t.Errorf("%d %s, want %d %s with detail and hint", a.StatusCode, a.body, status, code)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	if a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("cache control %q", a.Header.Get("Cache-Control"))
	}
	if id := a.Header.Get("X-Request-Id"); id == "" || id != p.RequestID {
		t.Errorf("request id %q in the header, %q in the problem", id, p.RequestID)
	}
}

// handshakeError waits for the reason the listener gave its log for closing a connection.
func (g *gateway) handshakeError() string {
	g.t.Helper()
	patience := time.After(20 * time.Second)
	for {
		select {
		case line := <-g.log:
			if strings.Contains(line, "TLS handshake error") {
				return line
			}
		case <-patience:
			g.t.Fatal("the listener logged no failed handshake")
		}
	}
}

// wantRefused wants a connection closed during its handshake, for the reason that is in the log.
func (g *gateway) wantRefused(conf *tls.Config, reason string) {
	g.t.Helper()
	if a, err := g.ask(g.client(conf, http1), http.MethodGet, capabilities, nil); err == nil {
		g.t.Fatalf("answered %d %s, want the handshake refused", a.StatusCode, a.body)
	}
	if line := g.handshakeError(); !strings.Contains(line, reason) {
		g.t.Errorf("refused because of %s, want %s", line, reason)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE direction = 'inbound' AND verb <> 'enrollment.redeem'`); n != 0 {
		g.t.Errorf("%d requests of a refused connection reached the database", n)
	}
}

func (g *gateway) count(sql string, args ...any) int {
	g.t.Helper()
	var n int
	if err := g.pool.QueryRow(g.t.Context(), sql, args...).Scan(&n); err != nil {
		g.t.Fatal(err)
	}
	return n
}
