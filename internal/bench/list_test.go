package bench

import (
	"encoding/json"
	"fmt"
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

// side is one of those that are compared.
type side struct {
	name string
	turn
	pid int
}

// BenchmarkList compares a federated list of 50 rows, with everything on, with a bare handler that shows the same
// rows. Targets (spec 14): at 16 and 64 connections at least its throughput and at most 1.2 of its p99; at one
// connection the latency of the same handler when it also commits a row of one number before it answers.
func BenchmarkList(b *testing.B) {
	w := newWorld(b)
	w.fill(listRows)
	if _, err := w.pool.Exec(b.Context(), `CREATE TABLE bench_commits (n bigint)`); err != nil {
		b.Fatal(err)
	}
	naive, address := w.naive()
	scopes := []struct{ name, scope string }{
		{"personal", `{"resources":["tasks"],"max_rows_per_query":100}`},
		{"teams", fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":[%q,%q]}},"max_rows_per_query":100}`, w.teams[0], w.teams[1])},
	}
	for _, s := range scopes {
		cert, key := w.enrol(s.name, s.scope)
		load := start(b, "load", loadConfig{CertPEM: cert, KeyPEM: key})
		sides := []side{
			{"gateway", turn{Address: w.federation(), Path: "/federation/v1/resources/tasks?limit=50"}, w.gateway.pid},
			{"naive", turn{Address: address, Path: "/" + s.name}, naive.pid},
			{"naive-and-commit", turn{Address: address, Path: "/" + s.name + committed}, naive.pid},
		}
		w.sameRows(load, sides)
		b.Run(s.name+"-1", func(b *testing.B) { w.compare(b, load, sides, 1) })
		for _, conns := range []int{16, 64} {
			b.Run(fmt.Sprintf("%s-%d", s.name, conns), func(b *testing.B) { w.compare(b, load, sides[:2], conns) })
		}
	}
}

// sameRows holds the comparison to be one: all sides show the same 50 rows, in the same order.
func (w *world) sameRows(load *child, sides []side) {
	w.b.Helper()
	pages := make([]struct{ Data []task }, len(sides))
	for i, s := range sides {
		s.Conns, s.Once = 1, true
		var r result
		load.ask(w.b, s.turn, &r)
		if r.Error != "" {
			w.b.Fatal(r.Error)
		}
		if err := json.Unmarshal(r.Body, &pages[i]); err != nil {
			w.b.Fatal(err)
		}
		w.b.Logf("%s: %d bytes", s.Path, r.Bytes)
		if len(pages[i].Data) != 50 || pages[i].Data[0].ID == uuid.Nil {
			w.b.Fatalf("%s: %d rows", s.Path, len(pages[i].Data))
		}
		if diff := cmp.Diff(pages[0], pages[i]); diff != "" {
			w.b.Fatalf("%s and %s show other rows:\n%s", sides[0].Path, s.Path, diff)
		}
	}
}

// compare lets the sides take turns, the first of which is not counted, and tells medians. The first side is measured
// against each of the others.
func (w *world) compare(b *testing.B, load *child, sides []side, conns int) {
	server := postmaster(w.dataDir())
	got := map[string][]float64{}
	for n := range listTurns {
		r := make([]result, len(sides))
		for k := range sides {
			i := (k + n) % len(sides) // who goes first changes
			s := sides[i]
			s.Conns, s.For = conns, listTurn
			own, database := spent(s.pid), spent(server)
			load.ask(b, s.turn, &r[i])
			if r[i].Error != "" {
				b.Fatal(r[i].Error)
			}
			own, database = spent(s.pid)-own, spent(server)-database
			if n == 0 {
				continue
			}
			for unit, value := range map[string]float64{
				"lists/s": r[i].perSecond(), "p50-ms": ms(r[i].P50), "p99-ms": ms(r[i].P99),
				"cpu-us": 1000 * ms(own) / float64(r[i].Count), "database-cpu-us": 1000 * ms(database) / float64(r[i].Count),
			} {
				got[s.name+"-"+unit] = append(got[s.name+"-"+unit], value)
			}
		}
		if n == 0 {
			continue
		}
		for i, s := range sides[1:] {
			to := "to-" + s.name + "-"
			got[to+"throughput"] = append(got[to+"throughput"], r[0].perSecond()/r[i+1].perSecond())
			got[to+"p99"] = append(got[to+"p99"], float64(r[0].P99)/float64(r[i+1].P99))
			got[to+"p50-more-ms"] = append(got[to+"p50-more-ms"], ms(r[0].P50-r[i+1].P50))
		}
	}
	b.ReportMetric(0, "ns/op")
	for unit, values := range got {
		b.ReportMetric(median(values), unit)
	}
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }
