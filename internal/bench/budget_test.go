package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/serving"
)

// What a list of 50 rows may allocate from the handler inward: statement, limit, audit and log line, without TLS and
// net/http. The margin is for the race detector, which makes pools forget.
const (
	listAllocations = 190
	listBytes       = 25 << 10
)

// TestAListStaysWithinItsAllocations: what is allocated is collected, and that is paid by every request.
func TestAListStaysWithinItsAllocations(t *testing.T) {
	list := newListHandler(t)
	for range 50 {
		list()
	}
	const runs = 300
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	allocations := testing.AllocsPerRun(runs, list)
	runtime.ReadMemStats(&after)
	bytes := (after.TotalAlloc - before.TotalAlloc) / (runs + 1)
	t.Logf("%.0f allocations, %d bytes", allocations, bytes)
	if allocations > listAllocations || bytes > listBytes {
		t.Errorf("a list makes %.0f allocations and %d bytes; its budget is %d and %d", allocations, bytes, listAllocations, listBytes)
	}
}

// newListHandler gives a function that asks the federation listener's handler for 50 rows.
func newListHandler(t *testing.T) (list func()) {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(t.Context(), pg.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	db := postgres.New(pool)
	leaf := enrolledLeaf(t, db)
	if _, err := pool.Exec(t.Context(), `INSERT INTO tasks (owner_id, title, body) SELECT id, 'Task ' || n, repeat('x', 150) FROM users, generate_series(1, 80) n`); err != nil {
		t.Fatal(err)
	}

	keys, err := seal.Derive([]byte("a secret of the benchmarks, long enough to derive from"))
	if err != nil {
		t.Fatal(err)
	}
	limiter, err := limit.NewMemory()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(io.Discard, nil))
	writer := audit.NewWriter(&postgres.AuditLog{DB: db}, log, time.Now)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- writer.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	handler := fedapi.NewServer(fedapi.Config{
		Serving: serving.New(serving.Config{
			Store: &postgres.Serving{DB: db}, Audit: writer, Coming: writer.Coming, Limiter: limiter, Cursors: page.New(keys.AEAD("cursor")),
			Tag:  func(b []byte) []byte { return keys.MAC("answer tag", b) },
			Hash: func(b []byte) []byte { return keys.MAC("audit query", b) }, Now: time.Now, Log: log, Refused: serving.NewRefusedLately(time.Now),
		}),
		Profile: benchProfile, Log: log, Now: time.Now,
	}).Handler
	req := httptest.NewRequest(http.MethodGet, fedapi.Base+"/resources/tasks?limit=50", nil)
	req.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
	answer := &counted{header: http.Header{}}
	return func() {
		clear(answer.header)
		*answer = counted{header: answer.header}
		handler.ServeHTTP(answer, req)
		if answer.status != 0 || answer.bytes < 50*150 {
			t.Fatalf("%d with %d bytes", answer.status, answer.bytes)
		}
	}
}

var benchProfile = identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: "127.0.0.1"}

// enrolledLeaf is the certificate of a grant that may read as much as it likes.
func enrolledLeaf(t *testing.T, db *postgres.DB) *x509.Certificate {
	t.Helper()
	act := audit.Act{RequestID: "bench", Actor: "bench"}
	user, err := (&postgres.Accounts{DB: db}).CreateUser(t.Context(), account.User{Email: "ada@example.org", Role: account.Member}, act)
	if err != nil {
		t.Fatal(err)
	}
	s, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":100}`))
	if err != nil {
		t.Fatal(err)
	}
	token, hash, err := enroll.NewToken(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	most := grant.MaxRate
	if _, _, err = (&postgres.Grants{DB: db}).CreateGrant(t.Context(),
		postgres.NewGrant{PeerName: "home", SubjectUser: user.ID.String(), Scope: s, RatePerMinute: &most, Burst: &most}, postgres.NewToken{Hash: hash, TTL: time.Minute}, act); err != nil {
		t.Fatal(err)
	}
	authority, err := embedded.Open(t.Context(), embedded.Config{Dir: filepath.Join(t.TempDir(), "ca"), Name: "Bench", Arc: identity.DefaultArc})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = authority.Close() })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := enroll.New(enroll.Config{
		Store: &postgres.Enrollment{DB: db}, CA: authority, Profile: benchProfile, FederationURL: "https://127.0.0.1",
		Guesses: unlimited{}, Tries: unlimited{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	}).Redeem(t.Context(), enroll.Request{Token: token, CSR: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(issued.Chain))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// counted is an answer of which only the size is kept.
type counted struct {
	header http.Header
	status int
	bytes  int
}

func (c *counted) Header() http.Header              { return c.header }
func (c *counted) WriteHeader(status int)           { c.status = status }
func (c *counted) SetWriteDeadline(time.Time) error { return nil }

func (c *counted) Write(b []byte) (int, error) {
	c.bytes += len(b)
	return len(b), nil
}
