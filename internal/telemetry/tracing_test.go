package telemetry_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/mosaicstack/gateway/internal/span"
	"github.com/mosaicstack/gateway/internal/telemetry"
)

// collector counts the spans it is sent, over HTTP or gRPC.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer

	mu     sync.Mutex
	spans  int
	tenant string
}

func (c *collector) Export(ctx context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	c.take(r, strings.Join(md.Get("x-tenant"), ","))
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var got collectorpb.ExportTraceServiceRequest
	if err != nil || proto.Unmarshal(body, &got) != nil || r.URL.Path != "/base/v1/traces" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.take(&got, r.Header.Get("X-Tenant"))
}

func (c *collector) take(r *collectorpb.ExportTraceServiceRequest, tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tenant = tenant
	for _, of := range r.ResourceSpans {
		for _, in := range of.ScopeSpans {
			c.spans += len(in.Spans)
		}
	}
}

func tracing(t *testing.T, c telemetry.TracingConfig) *telemetry.Tracing {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	tr, err := telemetry.NewTracing(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close(context.WithoutCancel(t.Context())) })
	return tr
}

func TestSpansAreFlushedOverHTTPAndGRPC(t *testing.T) {
	t.Parallel()
	overHTTP, overGRPC := &collector{}, &collector{}
	web := httptest.NewServer(overHTTP)
	t.Cleanup(web.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(s, overGRPC)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	for name, test := range map[string]struct {
		config telemetry.TracingConfig
		to     *collector
	}{
		"HTTP": {telemetry.TracingConfig{Endpoint: web.URL + "/base"}, overHTTP},
		"gRPC": {telemetry.TracingConfig{Endpoint: "http://" + l.Addr().String(), GRPC: true}, overGRPC},
	} {
		test.config.Ratio, test.config.Headers = 1, map[string]string{"x-tenant": "ours"}
		tr := tracing(t, test.config)
		for range 10 {
			ctx, outer := tr.Tracer().Serve(t.Context(), span.Served{Method: "GET"})
			_, inner := span.Start(ctx, span.Limit)
			inner.End()
			outer.End()
		}
		tr.Close(t.Context())
		if n := tr.Counts(); n != (telemetry.SpanCounts{Ended: 20, Exported: 20}) || test.to.spans != 20 || test.to.tenant != "ours" {
			t.Errorf("%s: %+v, %d spans came for %q", name, n, test.to.spans, test.to.tenant)
		}
	}
}

func TestAnExportThatFailsIsCountedAndLoggedOnce(t *testing.T) {
	t.Parallel()
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(refuses.Close)
	var log bytes.Buffer
	tr := tracing(t, telemetry.TracingConfig{Endpoint: refuses.URL, Ratio: 1, Log: slog.New(slog.NewJSONHandler(&log, nil))})
	for range 2000 { // some batches
		_, s := tr.Tracer().Serve(t.Context(), span.Served{Method: "GET"})
		s.End()
	}
	tr.Close(t.Context())
	if n := tr.Counts(); n.Ended != 2000 || n.Exported != 0 || n.Failed == 0 {
		t.Errorf("%+v", n)
	}
	if n := strings.Count(log.String(), "spans are not exported"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
}

func TestWithoutAnEndpointThereIsNoTracing(t *testing.T) {
	t.Parallel()
	tr, err := telemetry.NewTracing(t.Context(), telemetry.TracingConfig{Ratio: 1})
	if err != nil || tr != nil || tr.Tracer() != nil || tr.Counts() != (telemetry.SpanCounts{}) {
		t.Errorf("%v %v", tr, err)
	}
	tr.Close(t.Context())
}

// TestNobodyElseDecidesWhatIsRecorded: neither the flag nor the id that a client brings switches recording on or off, and
// what is inside a request does as the request does.
func TestNobodyElseDecidesWhatIsRecorded(t *testing.T) {
	t.Parallel()
	// Ids that a sampler by the id's own value takes always, and never.
	ids := []string{strings.Repeat("0", 31) + "1", strings.Repeat("f", 32)}
	for _, ratio := range []float64{0, 1} {
		tr := tracing(t, telemetry.TracingConfig{Endpoint: "http://127.0.0.1:1", Ratio: ratio})
		for _, id := range append(ids, "") {
			for _, flags := range []string{"00", "01"} {
				ctx, s := tr.Tracer().Serve(t.Context(), span.Served{Method: "GET", Parent: "00-" + id + "-00f067aa0ba902b7-" + flags})
				if got := s != nil; got != (ratio == 1) || span.Recorded(ctx) != got {
					t.Errorf("ratio %v, id %q, flags %s: recorded %v", ratio, id, flags, got)
				}
				want := "00"
				if ratio == 1 {
					want = "01"
				}
				if out := span.Traceparent(ctx); !strings.HasSuffix(out, "-"+want) || id != "" && !strings.Contains(out, id) {
					t.Errorf("ratio %v: goes on as %s", ratio, out)
				}
				if _, inner := span.Start(ctx, span.Limit); (inner != nil) != (ratio == 1) {
					t.Errorf("ratio %v: a span inside is %v", ratio, inner)
				}
			}
		}
	}
	// Of many processes about a half records an id, whichever it is and whatever its flag.
	for _, id := range ids {
		for _, flags := range []string{"00", "01"} {
			kept := 0
			for range 200 {
				tr := tracing(t, telemetry.TracingConfig{Endpoint: "http://127.0.0.1:1", Ratio: 0.5})
				if _, s := tr.Tracer().Serve(t.Context(), span.Served{Method: "GET", Parent: "00-" + id + "-00f067aa0ba902b7-" + flags}); s != nil {
					kept++
				}
				tr.Close(t.Context())
			}
			if kept < 50 || kept > 150 {
				t.Errorf("%s with %s is recorded by %d of 200", id, flags, kept)
			}
		}
	}
}
