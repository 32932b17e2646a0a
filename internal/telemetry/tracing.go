package telemetry

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/url"
	"sync/atomic"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelresource "go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/mosaicstack/gateway/internal/span"
)

// TracingConfig says where spans go, and how many.
type TracingConfig struct {
	ServiceName, Version string

	Endpoint string            // of an OTLP collector, http or https; empty: there are no spans
	GRPC     bool              // OTLP over gRPC, otherwise over HTTP with protobuf
	Headers  map[string]string // sent with every export
	Ratio    float64           // of the traces that begin here or come here, how many are recorded: 0 to 1
	Log      *slog.Logger
}

// Tracing makes spans and sends them to a collector, in the background. Nobody waits for it: what a full queue does not
// take is dropped, and counted. Nil does nothing.
type Tracing struct {
	provider *sdk.TracerProvider
	exported atomic.Uint64 // spans
	failed   atomic.Uint64
	ended    atomic.Uint64
}

// NewTracing returns nil without an endpoint. It does not connect: the collector may come later, or never.
//
// What the exporters read from the environment themselves, such as OTEL_EXPORTER_OTLP_TIMEOUT and _CERTIFICATE, and the
// queue's OTEL_BSP_ settings, is in force.
func NewTracing(ctx context.Context, c TracingConfig) (*Tracing, error) {
	if c.Endpoint == "" {
		return nil, nil
	}
	// What the library has to say beyond a failed export, such as a collector's word on a part that it did not take, would
	// go to stderr as it is.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { c.Log.Debug("tracing", "error", err) }))
	exporter, err := newExporter(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("make exporter of spans: %w", err)
	}
	t := &Tracing{}
	t.provider = sdk.NewTracerProvider(
		sdk.WithSampler(newSampler(c.Ratio)),
		// Of the machine and the process nothing is said: the collector knows who sends.
		sdk.WithResource(otelresource.NewSchemaless(
			attribute.String("service.name", c.ServiceName), attribute.String("service.version", c.Version),
		)),
		sdk.WithSpanProcessor(counting{t}),
		sdk.WithBatcher(&reporting{SpanExporter: exporter, tracing: t, log: c.Log}),
	)
	return t, nil
}

func newExporter(ctx context.Context, c TracingConfig) (sdk.SpanExporter, error) {
	if c.GRPC {
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(c.Endpoint), otlptracegrpc.WithHeaders(c.Headers))
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, errors.New("the endpoint is not a URL")
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.JoinPath("v1", "traces").String()), otlptracehttp.WithHeaders(c.Headers))
}

// Tracer is what listeners begin spans with; nil when there are none.
func (t *Tracing) Tracer() *span.Tracer {
	if t == nil {
		return nil
	}
	return span.NewTracer(t.provider)
}

// Close sends what is left, until ctx ends.
func (t *Tracing) Close(ctx context.Context) {
	if t != nil {
		_ = t.provider.Shutdown(ctx) // a collector that is away has been reported
	}
}

// SpanCounts says what became of the spans that have ended. Those that are neither exported nor failed are in the queue,
// or were dropped because it was full.
type SpanCounts struct{ Ended, Exported, Failed uint64 }

// Counts tells what became of the spans so far.
func (t *Tracing) Counts() SpanCounts {
	if t == nil {
		return SpanCounts{}
	}
	return SpanCounts{Ended: t.ended.Load(), Exported: t.exported.Load(), Failed: t.failed.Load()}
}

// reporting counts exports, and says in the log when they begin to fail and when they work again: once each, however
// long the collector is away.
type reporting struct {
	sdk.SpanExporter
	tracing *Tracing
	log     *slog.Logger
	away    atomic.Bool
}

// ExportSpans implements sdk.SpanExporter. It has no error: there is nobody else to tell.
func (r *reporting) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	if err := r.SpanExporter.ExportSpans(ctx, spans); err != nil {
		r.tracing.failed.Add(uint64(len(spans)))
		if r.away.CompareAndSwap(false, true) {
			r.log.WarnContext(ctx, "spans are not exported", "error", err)
		}
		return nil
	}
	r.tracing.exported.Add(uint64(len(spans)))
	if r.away.CompareAndSwap(true, false) {
		r.log.InfoContext(ctx, "spans are exported again")
	}
	return nil
}

// counting counts the spans that are to be exported.
type counting struct{ tracing *Tracing }

// OnStart implements sdk.SpanProcessor, and so do the next ones.
func (counting) OnStart(context.Context, sdk.ReadWriteSpan) {}

func (c counting) OnEnd(s sdk.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		c.tracing.ended.Add(1)
	}
}

func (counting) Shutdown(context.Context) error { return nil }

func (counting) ForceFlush(context.Context) error { return nil }

// sampler records a share of the traces. Under a span of this gateway it does as that one does. Whatever comes from
// outside, the flags as well as the trace id, is chosen by somebody else, who must not be able to switch recording on or
// off: so the share is taken by a hash of the id under a secret of this process. The price is that of a share below 1
// two gateways do not keep the same traces.
type sampler struct {
	seed  maphash.Seed
	bound uint64
	all   bool
	ratio float64
}

func newSampler(ratio float64) sampler {
	ratio = min(max(ratio, 0), 1)
	return sampler{seed: maphash.MakeSeed(), bound: uint64(ratio * (1 << 63)), all: ratio == 1, ratio: ratio}
}

// ShouldSample implements sdk.Sampler.
func (s sampler) ShouldSample(p sdk.SamplingParameters) sdk.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	record := s.all
	switch {
	case parent.IsValid() && !parent.IsRemote():
		record = parent.IsSampled()
	case !s.all:
		record = maphash.Bytes(s.seed, p.TraceID[:])>>1 < s.bound
	}
	if record {
		return sdk.SamplingResult{Decision: sdk.RecordAndSample}
	}
	return sdk.SamplingResult{Decision: sdk.Drop}
}

// Description implements sdk.Sampler.
func (s sampler) Description() string { return fmt.Sprintf("own share %v", s.ratio) }
