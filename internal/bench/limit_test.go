package bench

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/goredisstore.v9"

	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/valkey"
	"github.com/mosaicstack/gateway/internal/valkey/valkeytest"
)

// plenty is a limit that is never met, so that every request spends.
var plenty = grant.Limit{PerMinute: grant.MaxRate, Burst: grant.MaxBurst}

// hammer lets workers take perTurn times in all, and gives the rate, the median and the 99th percentile of a call.
func hammer(b *testing.B, workers, n int, take func(ctx context.Context) error) (rate float64, median, p99 time.Duration) {
	b.Helper()
	took := make([][]time.Duration, workers)
	started := time.Now()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range n / workers {
				at := time.Now()
				if err := take(b.Context()); err != nil {
					b.Error(err)
					return
				}
				took[w] = append(took[w], time.Since(at))
			}
		})
	}
	wg.Wait()
	rate = float64(n/workers*workers) / time.Since(started).Seconds()
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		b.FailNow()
	}
	return rate, all[len(all)/2], all[len(all)*99/100]
}

// BenchmarkLimit is what one look at a limit costs, all on one key, as the requests of one busy grant are: in memory,
// over Valkey by the gateway's script, and over Valkey by the library's own store, which compares and swaps.
func BenchmarkLimit(b *testing.B) {
	memory, err := limit.NewMemory()
	if err != nil {
		b.Fatal(err)
	}
	server := valkeytest.Start(b)
	client, err := valkey.Open(server.URL())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	bucket := grant.Bucket{Name: "grant", ID: "one", Limit: plenty}
	peer := grant.Bucket{Name: "peer", ID: "one", Limit: plenty}
	local := func(buckets ...grant.Bucket) func(context.Context) error {
		return func(ctx context.Context) error { return allowed(memory.Take(ctx, buckets...)) }
	}
	// Not through limit.Link: it gives up after 50 ms, and then it is not Valkey that is measured.
	script := func(buckets ...grant.Bucket) func(context.Context) error {
		owed := make([]time.Duration, len(buckets))
		return func(ctx context.Context) error {
			s, err := client.Take(ctx, buckets, owed)
			if err != nil {
				return err
			}
			return allowed(s[0], nil)
		}
	}
	for _, workers := range []int{1, 16, 64} {
		for _, way := range []struct {
			name string
			n    int
			take func(context.Context) error
		}{
			{"memory", 100_000, local(bucket)},
			{"memory,peer", 100_000, local(bucket, peer)},
			{"valkey", 20_000, script(bucket)},
			{"valkey,peer", 20_000, script(bucket, peer)},
			{"valkey,compare-and-swap", 20_000, library(b, server)},
		} {
			b.Run(fmt.Sprintf("%s/%d", way.name, workers), func(b *testing.B) {
				hammer(b, workers, way.n/10, way.take)
				rate, median, p99 := hammer(b, workers, way.n, way.take)
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(rate, "takes/s")
				b.ReportMetric(float64(median.Nanoseconds())/1000, "p50-µs")
				b.ReportMetric(float64(p99.Nanoseconds())/1000, "p99-µs")
			})
		}
	}
}

func allowed(s grant.Standing, err error) error {
	if err == nil && s.Refused() {
		err = fmt.Errorf("refused: %+v", s)
	}
	return err
}

// library is the algorithm as the library brings it, over the same server.
func library(b *testing.B, server *valkeytest.Server) func(context.Context) error {
	b.Helper()
	u, err := url.Parse(server.URL())
	if err != nil {
		b.Fatal(err)
	}
	rdb := redis.NewClient(&redis.Options{Network: "unix", Addr: u.Path, Password: valkeytest.Password})
	b.Cleanup(func() { _ = rdb.Close() })
	store, err := goredisstore.NewCtx(rdb, "library:")
	if err != nil {
		b.Fatal(err)
	}
	l, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: throttled.PerDuration(1, plenty.Interval()), MaxBurst: plenty.Burst - 1})
	if err != nil {
		b.Fatal(err)
	}
	l.SetMaxCASAttemptsLimit(10_000)
	return func(ctx context.Context) error {
		_, _, err := l.RateLimitCtx(ctx, "one", 1)
		return err
	}
}

// BenchmarkLimitAllocations is what a look in memory allocates.
func BenchmarkLimitAllocations(b *testing.B) {
	memory, err := limit.NewMemory()
	if err != nil {
		b.Fatal(err)
	}
	bucket := grant.Bucket{Name: "grant", ID: "one", Limit: plenty}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := memory.Take(b.Context(), bucket); err != nil {
			b.Fatal(err)
		}
	}
}
