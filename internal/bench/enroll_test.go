// Package bench measures what the gateway promises of its pace. Both sides of a comparison run in turn in one
// process tree, so that a machine that drifts drifts under both; what counts is the ratio. Run it with make bench.
package bench

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
	"runtime"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/postgres/pgtest"
	"github.com/mosaicstack/gateway/internal/scope"
)

// A server that keeps its promises: what is measured is what an operator gets.
var pg = pgtest.New(func(ctx context.Context, c *pgxpool.Config) error {
	return postgres.Migrate(ctx, c, slog.New(slog.DiscardHandler))
}).With("fsync", "on").With("full_page_writes", "on").With("synchronous_commit", "on")

type unlimited struct{}

func (unlimited) Allow(context.Context, string) (time.Duration, error) { return 0, nil }

const (
	workers = 8
	perTurn = 250
	turns   = 9 // the first one warms up and is not counted
)

// together runs f perTurn times on all workers and gives how many a second were done.
func together(b *testing.B, f func(i int) error) float64 {
	b.Helper()
	var next sync.Mutex
	i := 0
	started := time.Now()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				next.Lock()
				mine := i
				i++
				next.Unlock()
				if mine >= perTurn {
					return
				}
				if err := f(mine); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return perTurn / time.Since(started).Seconds()
}

func median(v []float64) float64 {
	sort.Float64s(v)
	return v[len(v)/2]
}

// BenchmarkEnrollmentAgainstSigning compares a whole enrollment over HTTP (claim, sign, verify, activate, audit)
// with calling the same step-ca's sign and nothing else. Target: at least 0.7 of its throughput.
func BenchmarkEnrollmentAgainstSigning(b *testing.B) {
	pool, err := pgxpool.NewWithConfig(b.Context(), pg.Database(b))
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	db := postgres.New(pool)
	server := stepcatest.Start(b)
	authority := server.Client(b)
	profile := identity.Profile{Arcs: []identity.Arc{identity.DefaultArc}, Host: "work.example.org"}
	act := audit.Act{RequestID: "bench", Actor: "bench"}
	user, err := (&postgres.Accounts{DB: db}).CreateUser(b.Context(), account.User{Email: "ada@example.org", Role: account.Member}, act)
	if err != nil {
		b.Fatal(err)
	}
	api := httptest.NewServer(httpapi.New(httpapi.Config{
		Enroll: enroll.New(enroll.Config{
			Store: &postgres.Enrollment{DB: db}, CA: authority, Profile: profile, FederationURL: "https://work.example.org:3443",
			Guesses: unlimited{}, Tries: unlimited{}, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
		}),
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}))
	defer api.Close()
	client := api.Client()
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = workers

	csrs, pems := requests(b)
	var whole, alone []float64
	for n := range turns {
		grants, tokens := granted(b, db, user, act)
		enrol := func() {
			whole = append(whole, together(b, func(i int) error {
				return redeem(b.Context(), client, api.URL, tokens[i], pems[i])
			}))
		}
		sign := func() {
			alone = append(alone, together(b, func(i int) error {
				serial, err := ca.NewSerial(rand.Reader)
				if err != nil {
					return err
				}
				now := time.Now()
				_, err = authority.IssueLeaf(b.Context(), ca.LeafRequest{
					CSR: csrs[i], GrantID: grants[i].ID, SubjectUserID: user.ID, Host: profile.Host, Serial: serial, NotBefore: now, NotAfter: now.Add(24 * time.Hour),
				})
				return err
			}))
		}
		sides := []func(){enrol, sign}
		for k := range sides {
			runtime.GC()     // each pays for its own
			sides[(k+n)%2]() // who goes first changes
		}
	}
	whole, alone = whole[1:], alone[1:]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(whole), "enrollments/s")
	b.ReportMetric(median(alone), "signatures/s")
	ratios := make([]float64, len(whole))
	for i := range whole {
		ratios[i] = whole[i] / alone[i]
	}
	b.ReportMetric(median(ratios), "of-signing")
}

func requests(b *testing.B) (csrs []*x509.CertificateRequest, pems []string) {
	b.Helper()
	for range perTurn {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			b.Fatal(err)
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			b.Fatal(err)
		}
		csrs, pems = append(csrs, csr), append(pems, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
	}
	return csrs, pems
}

// granted makes a grant with a token for every redemption of a turn.
func granted(b *testing.B, db *postgres.DB, user account.User, act audit.Act) (grants []grant.Grant, tokens []string) {
	b.Helper()
	s, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":10}`))
	if err != nil {
		b.Fatal(err)
	}
	for range perTurn {
		token, hash, err := enroll.NewToken(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		g, _, err := (&postgres.Grants{DB: db}).CreateGrant(b.Context(),
			postgres.NewGrant{PeerName: "home", SubjectUser: user.ID.String(), Scope: s}, postgres.NewToken{Hash: hash, TTL: time.Hour}, act)
		if err != nil {
			b.Fatal(err)
		}
		grants, tokens = append(grants, g), append(tokens, token)
	}
	return grants, tokens
}

func redeem(ctx context.Context, c *http.Client, url, token, csr string) error {
	body, err := json.Marshal(map[string]string{"token": token, "csr": csr})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/federation/enrollment", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = &refused{resp.StatusCode, string(answer)}
	}
	return err
}

type refused struct {
	status int
	body   string
}

func (r *refused) Error() string { return http.StatusText(r.status) + ": " + r.body }
