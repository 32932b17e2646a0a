package enroll_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/seal"
)

var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
})

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(child())
	}
	os.Exit(pg.Main(m))
}

var (
	act     = audit.Act{RequestID: "test", Actor: "test"}
	profile = identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: "work.example.org"}
)

// unlimited lets everything happen: limits have tests of their own.
type unlimited struct{}

func (unlimited) Allow(context.Context, string) (time.Duration, error) { return 0, nil }

// world is a database with a user, and a CA's directory.
type world struct {
	t     *testing.T
	conf  *pgxpool.Config
	pool  *pgxpool.Pool
	db    *postgres.DB
	caDir string
	ring  *seal.Keyring
}

func newWorld(t *testing.T) *world {
	t.Helper()
	conf := pg.Database(t)
	pool, err := pgxpool.NewWithConfig(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	ring, _, err := seal.Generate()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ring: ring, conf: conf, pool: pool, db: postgres.New(pool), caDir: filepath.Join(t.TempDir(), "ca")}
	if _, err := (&postgres.Accounts{DB: w.db}).CreateUser(t.Context(), account.User{Email: "ada@example.org", Role: account.Member}, act); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) authority() *embedded.Authority {
	w.t.Helper()
	a, err := embedded.Open(w.t.Context(), embedded.Config{Dir: w.caDir, Name: "test", Arc: identity.DefaultArc, Now: time.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func service(db *postgres.DB, signer enroll.Signer, step func(string)) *enroll.Service {
	return enroll.New(enroll.Config{
		Store: &postgres.Enrollment{DB: db}, Renewals: &postgres.Enrollment{DB: db}, CA: signer, Profile: profile, FederationURL: "https://work.example.org:3443",
		Guesses: unlimited{}, Tries: unlimited{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Step: step,
	})
}

// granted makes a grant with a token.
func (w *world) granted() (grant.Grant, string) {
	w.t.Helper()
	s, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":10}`))
	if err != nil {
		w.t.Fatal(err)
	}
	token, hash, err := enroll.NewToken(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	g, _, err := (&postgres.Grants{DB: w.db}).CreateGrant(w.t.Context(),
		postgres.NewGrant{PeerName: "home", SubjectUser: "ada@example.org", Scope: s}, postgres.NewToken{Hash: hash, TTL: time.Hour}, act)
	if err != nil {
		w.t.Fatal(err)
	}
	return g, token
}

// another makes a further token of a grant.
func (w *world) another(g grant.Grant) string {
	w.t.Helper()
	token, hash, err := enroll.NewToken(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, _, err := (&postgres.Grants{DB: w.db}).IssueToken(w.t.Context(), g.ID, postgres.NewToken{Hash: hash, TTL: time.Hour}, act); err != nil {
		w.t.Fatal(err)
	}
	return token
}

func newCSR(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// live lists the serials in the registry that a grant can be used with.
func (w *world) live(g grant.Grant) []string {
	w.t.Helper()
	return w.texts(`SELECT serial FROM federation_certificates WHERE grant_id = $1 AND revoked_at IS NULL`, g.ID)
}

func (w *world) texts(sql string, args ...any) []string {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), sql, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, s)
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return out
}
