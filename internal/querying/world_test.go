package querying_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
	"github.com/mosaicstack/gateway/internal/remote"
	"github.com/mosaicstack/gateway/internal/seal"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
})

func TestMain(m *testing.M) { os.Exit(pg.Main(m)) }

// act is the admin who adds peers in these tests.
var act = audit.Act{RequestID: "req-add", Actor: "admin@example.org"}

// world is gateway A: a database of the test's own and the real adapters.
type world struct {
	t           *testing.T
	pool        *pgxpool.Pool
	accounts    *postgres.Accounts
	peers       *postgres.Peers
	grants      *postgres.Grants
	credentials *postgres.Credentials
	log         *postgres.AuditLog
	client      *remote.Client
	keys        *seal.Keyring
	adder       *querying.Adder
	service     *querying.Service
	user        account.User
}

func newWorld(t *testing.T) *world {
	t.Helper()
	keys, err := seal.Derive([]byte("a secret of the tests, long enough to derive from"))
	if err != nil {
		t.Fatal(err)
	}
	pool := pg.Pool(t)
	db := postgres.New(pool)
	w := &world{
		t: t, pool: pool, keys: keys, client: remote.NewClient(),
		accounts: &postgres.Accounts{DB: db}, peers: &postgres.Peers{DB: db}, grants: &postgres.Grants{DB: db},
		credentials: &postgres.Credentials{DB: db}, log: &postgres.AuditLog{DB: db},
	}
	t.Cleanup(w.client.Close)
	w.adder = querying.NewAdder(querying.AdderConfig{
		Store: w.credentials, Enroller: &remote.Enroller{}, Client: w.client, Keys: keys, Random: rand.Reader, Now: time.Now,
	})
	w.service = querying.New(querying.Config{
		Finder: w.credentials, Client: w.client, Keys: keys, Audit: direct{w.log}, Now: time.Now,
		Hash: func(b []byte) []byte { return keys.MAC("query", b) },
	})
	w.user = w.person("ada@example.org")
	return w
}

// direct records without the group commit of audit.Writer.
type direct struct{ log *postgres.AuditLog }

func (d direct) Record(ctx context.Context, e audit.Event) error {
	return d.log.Append(ctx, audit.NewLog().Next([]audit.Event{e}))
}

func (w *world) person(email string) account.User {
	w.t.Helper()
	u, err := w.accounts.CreateUser(w.t.Context(), account.User{Email: email, Role: account.Member}, act)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func (w *world) add(url string, change ...func(*querying.AddRequest)) (querying.Added, error) {
	r := querying.AddRequest{EnrollmentURL: url, Name: "work", User: w.user.Email, Act: act}
	for _, c := range change {
		c(&r)
	}
	return w.adder.AddPeer(w.t.Context(), r)
}

func (w *world) mustAdd(url string, change ...func(*querying.AddRequest)) querying.Added {
	w.t.Helper()
	added, err := w.add(url, change...)
	if err != nil {
		w.t.Fatal(err)
	}
	return added
}

func (w *world) count(sql string, args ...any) int {
	w.t.Helper()
	var n int
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// events are the audit rows of one verb, newest first.
func (w *world) events(verb string) []audit.Entry {
	w.t.Helper()
	all, err := w.log.List(w.t.Context(), postgres.AuditFilter{Before: page.Key{}, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []audit.Entry
	for _, e := range all {
		if e.Verb == verb {
			out = append(out, e)
		}
	}
	return out
}

// other is gateway B: it redeems tokens as the specification says and answers whatever a test wants.
type other struct {
	t          *testing.T
	ca         *peertest.CA
	web, fed   *httptest.Server
	grant      uuid.UUID
	user       uuid.UUID
	mu         sync.Mutex
	spent      map[string]redemption
	asked      []redemption
	lose       bool                                           // drop the connection instead of answering
	refuse     http.HandlerFunc                               // instead of looking at the token
	leaf       peertest.Leaf                                  // of the next certificate
	falsify    func(answer map[string]any, csr redemption)    // the next answers
	answers    func(w http.ResponseWriter, req *http.Request) // of the federation listener
	identities []identity.Identity                            // who asked there
}

type redemption struct {
	Token string `json:"token"`
	CSR   string `json:"csr"`
	TTL   int    `json:"ttl_seconds"`
	key   string
	body  []byte
}

func newOther(t *testing.T) *other {
	t.Helper()
	b := &other{t: t, ca: peertest.NewCA(t), grant: uuid.New(), user: uuid.New(), spent: map[string]redemption{}}
	b.web = peertest.Serve(t, nil, http.HandlerFunc(b.enroll))
	b.fed = b.ca.Listen(t, http.HandlerFunc(b.federation))
	return b
}

func (b *other) url(token string) string {
	return b.web.URL + "/api/federation/enrollment/" + token + "?ca=" + b.ca.Fingerprint()
}

// set changes the gateway's behaviour.
func (b *other) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *other) requests() []redemption {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]redemption(nil), b.asked...)
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "code": code, "detail": detail})
}

func (b *other) enroll(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var in redemption
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.URL.Path != "/api/federation/enrollment" {
		b.t.Errorf("%s: %v", r.URL, err)
	}
	in.key = r.Header.Get("Idempotency-Key")
	b.asked = append(b.asked, in)
	if b.refuse != nil {
		b.refuse(w, r)
		return
	}
	before, spent := b.spent[in.Token]
	switch {
	case !spent:
		in.body = b.issue(in)
		b.spent[in.Token] = in
	case before.key == in.key && before.CSR == in.CSR && in.key != "":
		in = before
	default:
		problem(w, http.StatusGone, "enrollment_token_used", "this enrollment token has already been used")
		return
	}
	if b.lose {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(in.body)
}

// issue makes the answer of a redemption.
func (b *other) issue(in redemption) []byte {
	csr, err := identity.ParseCSRPEM([]byte(in.CSR))
	if err != nil {
		b.t.Error(err)
		return nil
	}
	if len(csr.Subject.Names) != 0 || len(csr.Extensions) != 0 {
		b.t.Errorf("the request names %v and wants %v", csr.Subject, csr.Extensions)
	}
	l := b.leaf
	if l.Grant == uuid.Nil {
		l.Grant = b.grant
	}
	if l.User == uuid.Nil {
		l.User = b.user
	}
	leaf := b.ca.Client(b.t, csr.PublicKey, l)
	answer := map[string]any{
		"grant_id": b.grant, "peer_id": uuid.New(), "subject_user_id": b.user,
		"certificate": peertest.PEM(leaf), "certificate_chain": b.ca.Chain(leaf), "ca_root": b.ca.RootPEM(),
		"serial_number": leaf.SerialNumber.String(), "not_before": leaf.NotBefore, "not_after": leaf.NotAfter,
		"federation_url": b.fed.URL, "scope": map[string]any{"resources": []string{"tasks"}, "max_rows_per_query": 100},
	}
	if b.falsify != nil {
		b.falsify(answer, in)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		b.t.Error(err)
	}
	return body
}

func (b *other) federation(w http.ResponseWriter, r *http.Request) {
	id, err := identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: peertest.Host}.Parse(r.TLS.PeerCertificates[0])
	if err != nil {
		b.t.Error(err)
	}
	b.mu.Lock()
	b.identities = append(b.identities, id)
	answers := b.answers
	b.mu.Unlock()
	answers(w, r)
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
}
