package bench

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

const (
	listRows  = 100_000
	listTurns = 7 // the first one warms up and is not counted
	listTurn  = time.Second
)

// BenchmarkList compares a federated list of 50 rows, with everything on, with a bare handler that shows the same
// rows. Targets (spec 14): at 16 and 64 connections at least its throughput and at most 1.2 of its p99; at one
// connection its latency plus one commit.
func BenchmarkList(b *testing.B) {
	w := newWorld(b)
	w.fill(listRows)
	naive, address := w.naive()
	scopes := []struct{ name, scope string }{
		{"personal", `{"resources":["tasks"],"max_rows_per_query":100}`},
		{"teams", fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":[%q,%q]}},"max_rows_per_query":100}`, w.teams[0], w.teams[1])},
	}
	for _, s := range scopes {
		cert, key := w.enrol(s.name, s.scope)
		load := start(b, "load", loadConfig{CertPEM: cert, KeyPEM: key})
		sides := []turn{
			{Address: w.federation(), Path: "/federation/v1/resources/tasks?limit=50"},
			{Address: address, Path: "/" + s.name},
		}
		w.sameRows(load, sides)
		for _, conns := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s-%d", s.name, conns), func(b *testing.B) { w.compare(b, load, sides, [2]int{w.gateway.pid, naive.pid}, conns) })
		}
	}
}

// sameRows holds the comparison to be one: both sides show the same 50 rows, in the same order.
func (w *world) sameRows(load *child, sides []turn) {
	w.b.Helper()
	var pages [2]struct{ Data []task }
	for i, t := range sides {
		t.Conns, t.Once = 1, true
		var r result
		load.ask(w.b, t, &r)
		if r.Error != "" {
			w.b.Fatal(r.Error)
		}
		if err := json.Unmarshal(r.Body, &pages[i]); err != nil {
			w.b.Fatal(err)
		}
		w.b.Logf("%s: %d bytes", t.Path, r.Bytes)
	}
	if len(pages[0].Data) != 50 || pages[0].Data[0].ID == uuid.Nil {
		w.b.Fatalf("%d rows", len(pages[0].Data))
	}
	if diff := cmp.Diff(pages[1], pages[0]); diff != "" {
		w.b.Fatalf("the two sides show other rows (-naive +gateway):\n%s", diff)
	}
}

func (w *world) compare(b *testing.B, load *child, sides []turn, pids [2]int, conns int) {
	var rates, p50s, p99s, own, database [2][]float64
	server := postmaster(w.dataDir())
	var throughput, tails, commits, beyond []float64
	for n := range listTurns {
		var r [2]result
		var cpu [2][2]time.Duration
		for k := range sides {
			i := (k + n) % 2 // who goes first changes
			t := sides[i]
			t.Conns, t.For = conns, listTurn
			before := [2]time.Duration{spent(pids[i]), spent(server)}
			load.ask(b, t, &r[i])
			cpu[i] = [2]time.Duration{spent(pids[i]) - before[0], spent(server) - before[1]}
			if r[i].Error != "" {
				b.Fatal(r[i].Error)
			}
		}
		commit := w.commit(b)
		if n == 0 {
			continue
		}
		for i := range r {
			rates[i] = append(rates[i], r[i].perSecond())
			p50s[i], p99s[i] = append(p50s[i], ms(r[i].P50)), append(p99s[i], ms(r[i].P99))
			own[i], database[i] = append(own[i], 1000*ms(cpu[i][0])/float64(r[i].Count)), append(database[i], 1000*ms(cpu[i][1])/float64(r[i].Count))
		}
		throughput = append(throughput, r[0].perSecond()/r[1].perSecond())
		tails = append(tails, float64(r[0].P99)/float64(r[1].P99))
		commits = append(commits, ms(commit))
		beyond = append(beyond, ms(r[0].P50-r[1].P50-commit))
	}
	b.ReportMetric(0, "ns/op")
	for i, side := range []string{"gateway", "naive"} {
		b.ReportMetric(median(rates[i]), side+"-lists/s")
		b.ReportMetric(median(p50s[i]), side+"-p50-ms")
		b.ReportMetric(median(p99s[i]), side+"-p99-ms")
		b.ReportMetric(median(own[i]), side+"-cpu-us")
		b.ReportMetric(median(database[i]), side+"-database-cpu-us")
	}
	b.ReportMetric(median(throughput), "throughput-ratio")
	b.ReportMetric(median(tails), "p99-ratio")
	b.ReportMetric(median(commits), "commit-p50-ms")
	if conns == 1 {
		b.ReportMetric(median(beyond), "p50-beyond-naive-and-commit-ms")
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// commit is the median time of a commit alone: one small row, on the server's disk, with nothing else to do.
func (w *world) commit(b *testing.B) time.Duration {
	b.Helper()
	if _, err := w.pool.Exec(b.Context(), `CREATE TABLE IF NOT EXISTS bench_commits (n bigint)`); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for began := time.Now(); time.Since(began) < 200*time.Millisecond; {
		s := time.Now()
		if _, err := w.pool.Exec(b.Context(), `INSERT INTO bench_commits VALUES (1)`); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(s))
	}
	slices.Sort(took)
	return took[len(took)/2]
}
