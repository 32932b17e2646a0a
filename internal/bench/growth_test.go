package bench

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// growthName is how many rows the largest table has. 10000000 takes 6 GB and some minutes.
const growthName = "BENCH_ROWS"

// BenchmarkGrowth tells what a list of 50 rows and a get cost as the table grows: the time of the statement alone,
// the server's processor time for it, and a list over mTLS with all that belongs to it. The user's and their teams'
// rows grow with the table. Target (spec 14): flat.
func BenchmarkGrowth(b *testing.B) {
	most := 1_000_000
	if s := os.Getenv(growthName); s != "" {
		var err error
		if most, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	w := newWorld(b)
	cert, key := w.enrol("home", fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":[%q,%q]}},"max_rows_per_query":100}`, w.teams[0], w.teams[1]))
	load := start(b, "load", loadConfig{CertPEM: cert, KeyPEM: key})
	// A pool of one, so that the server's own count of plans is about these statements.
	pool, err := dataPool(b.Context(), w.dataDir(), 1)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	store := &postgres.Serving{DB: postgres.New(pool)}
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		b.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		b.Fatal(err)
	}
	plan, err := store.Plan(b.Context(), identity.Fingerprint(leaf.Raw))
	if err != nil {
		b.Fatal(err)
	}
	check := serving.Check{Fingerprint: identity.Fingerprint(leaf.Raw), GrantID: plan.GrantID, UserID: plan.UserID, Version: plan.Version}
	filter := plan.Scope.Filter(scope.Tasks)
	into := make([]byte, 0, 64<<10)
	list := func(after page.Key) func() error {
		return func() error {
			rows, err := store.List(b.Context(), serving.ListQuery{Check: check, Resource: scope.Tasks, Filter: filter, Rows: 50, MaxBytes: 8 << 20, Into: into, After: after})
			if err == nil && rows.Count != 50 {
				err = fmt.Errorf("%w: %d rows", errBench, rows.Count)
			}
			return err
		}
	}
	for rows := 10_000; rows <= most; rows *= 10 {
		w.fill(rows)
		b.Run(strconv.Itoa(rows), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			var middle page.Key
			if err := w.pool.QueryRow(b.Context(), `SELECT updated_at, id FROM tasks WHERE owner_id = $1 AND team_id IS NULL ORDER BY updated_at DESC, id DESC OFFSET $2 LIMIT 1`,
				w.owner, rows/100).Scan(&middle.UpdatedAt, &middle.ID); err != nil {
				b.Fatal(err)
			}
			var ids []uuid.UUID
			found, err := w.pool.Query(b.Context(), `SELECT id FROM tasks WHERE owner_id = $1 AND team_id IS NULL ORDER BY md5(id::text) LIMIT 200`, w.owner)
			if err != nil {
				b.Fatal(err)
			}
			for found.Next() {
				var id uuid.UUID
				if err := found.Scan(&id); err != nil {
					b.Fatal(err)
				}
				ids = append(ids, id)
			}
			n := 0
			w.cost(b, "list", list(page.Key{}))
			w.cost(b, "page-in-the-middle", list(middle))
			w.cost(b, "get", func() error {
				n++
				doc, err := store.Get(b.Context(), serving.GetQuery{Check: check, Resource: scope.Tasks, Filter: filter, ID: ids[n%len(ids)]})
				if err == nil && doc == nil {
					err = fmt.Errorf("%w: no row", errBench)
				}
				return err
			})
			var custom int
			if err := pool.QueryRow(b.Context(), `SELECT coalesce(sum(custom_plans), 0) FROM pg_prepared_statements WHERE statement LIKE '%LATERAL%'`).Scan(&custom); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(custom), "lists-planned-anew")
			var r result
			load.ask(b, turn{Address: w.federation(), Path: "/federation/v1/resources/tasks?limit=50", Conns: 16, For: 2 * time.Second}, &r)
			if r.Error != "" {
				b.Fatal(r.Error)
			}
			b.ReportMetric(r.perSecond(), "lists/s-over-mTLS")
		})
	}
}

// cost reports the median time of f, and what it costs the server's processors.
func (w *world) cost(b *testing.B, name string, f func() error) {
	b.Helper()
	const warm, calls = 50, 2000
	var took []time.Duration
	var before time.Duration
	server := postmaster(w.dataDir())
	for n := range warm + calls {
		if n == warm {
			before = spent(server)
		}
		began := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		if n >= warm {
			took = append(took, time.Since(began))
		}
	}
	b.ReportMetric(float64((spent(server)-before).Microseconds())/calls, name+"-database-cpu-us")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), name+"-p50-us")
}
