package bench

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// event is what a federated list leaves behind.
func event(peer uuid.UUID) audit.Event {
	return audit.Event{
		RequestID: uuid.NewString(), Direction: audit.Inbound, Actor: "grant:" + peer.String(), PeerID: peer, PeerName: "home",
		GrantID: uuid.New(), SubjectUserID: uuid.New(), Fingerprint: bytes.Repeat([]byte{7}, 32), RemoteAddress: "192.0.2.7",
		Verb: "list", Resource: "tasks", StatusCode: 200, Outcome: audit.OK, QueryHash: bytes.Repeat([]byte{9}, 32),
		RowsOut: 50, BytesOut: 20_000, Duration: 700 * time.Microsecond,
	}
}

// BenchmarkAudit compares the group commit of audit.Writer with one transaction for each row, at rising numbers of
// requests that wait for their row.
func BenchmarkAudit(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	c := pg.Database(b)
	c.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	var peer uuid.UUID
	if err := pool.QueryRow(ctx, `INSERT INTO federation_peers (name) VALUES ('home') RETURNING id`).Scan(&peer); err != nil {
		b.Fatal(err)
	}
	log := &postgres.AuditLog{DB: postgres.New(pool)}
	w := audit.NewWriter(log, slog.New(slog.DiscardHandler), time.Now)
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	sides := []struct {
		name   string
		record func() error
	}{
		{"groups", func() error { return w.Record(ctx, event(peer)) }},
		{"single", func() error { return log.Append(ctx, audit.NewLog().Next([]audit.Event{event(peer)})) }},
	}
	b.ReportMetric(0, "ns/op")
	for _, writers := range []int{1, 16, 64} {
		rates := make([][]float64, len(sides))
		var tails [2][]time.Duration
		for range 5 {
			for i, side := range sides {
				rate, p99, err := pace(writers, 700*time.Millisecond, side.record)
				if err != nil {
					b.Fatal(err)
				}
				rates[i], tails[i] = append(rates[i], rate), append(tails[i], p99)
			}
		}
		for i, side := range sides {
			slices.Sort(rates[i])
			slices.Sort(tails[i])
			name := fmt.Sprintf("%s-%d", side.name, writers)
			b.ReportMetric(rates[i][2], name+"-rows/s")
			b.ReportMetric(tails[i][2].Seconds()*1000, name+"-p99-ms")
		}
	}
}

// pace runs f on so many goroutines for a while.
func pace(goroutines int, d time.Duration, f func() error) (perSecond float64, p99 time.Duration, err error) {
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for range goroutines {
		wg.Go(func() {
			var mine []time.Duration
			var failed error
			for time.Since(start) < d && failed == nil {
				s := time.Now()
				failed = f()
				mine = append(mine, time.Since(s))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			if failed != nil {
				err = failed
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return float64(len(took)) / time.Since(start).Seconds(), took[len(took)*99/100], err
}

// BenchmarkVerify verifies an export of a million rows, as audit verify does with a file.
func BenchmarkVerify(b *testing.B) {
	const rows, logs = 1_000_000, 4
	path := filepath.Join(b.TempDir(), "export")
	key := writeExport(b, path, rows, logs)
	st, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		start, before := time.Now(), processorTime(b)
		r, err := audit.Verify(f, audit.VerifyOptions{Key: key})
		took, worked := time.Since(start), processorTime(b)-before
		if f.Close(); err != nil || !r.OK || r.Rows != rows {
			b.Fatalf("%+v, %v", r, err)
		}
		b.ReportMetric(took.Seconds(), "s/1M-rows")
		b.ReportMetric(worked.Seconds(), "cpu-s/1M-rows") // what it takes of a machine that does other things as well
		b.ReportMetric(float64(st.Size())/1e6, "MB")
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
