package span_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/mosaicstack/gateway/internal/span"
)

func recorded(t *testing.T) (*span.Tracer, *tracetest.InMemoryExporter) {
	t.Helper()
	kept := tracetest.NewInMemoryExporter()
	p := sdk.NewTracerProvider(sdk.WithSyncer(kept), sdk.WithSampler(sdk.AlwaysSample()))
	t.Cleanup(func() { _ = p.Shutdown(context.WithoutCancel(t.Context())) })
	return span.NewTracer(p), kept
}

func TestWithoutATracerNothingIsMade(t *testing.T) { //nolint:paralleltest // counts allocations of the process
	type key struct{}
	ctx := context.WithValue(context.WithValue(t.Context(), key{}, 1), key{}, 2)
	id := uuid.New()
	if n := testing.AllocsPerRun(1000, func() {
		inner, s := span.Start(ctx, span.Limit)
		if inner != ctx || s != nil || span.Recorded(ctx) {
			t.Fatal("a span was made")
		}
		s.Asks("list", "tasks")
		s.Between(id, id)
		s.Answered(200)
		s.Failed("internal")
		s.Refused("not_found")
		s.Source("ok", 1)
		s.Sources(2)
		s.Routed("GET", "/x")
		s.End()
		span.Of(ctx).Asks("list", "tasks")
		if _, call := span.StartCall(ctx); call != nil || span.Traceparent(ctx) != "" {
			t.Fatal("a trace was begun")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A span says only what this program has words for, whoever chose the text.
func TestNoTextOfSomebodyElseIsInASpan(t *testing.T) {
	t.Parallel()
	tracer, kept := recorded(t)
	ctx, s := tracer.Serve(t.Context(), span.Served{Listener: "api", Method: "GET", RequestID: "r-1", Parent: "their text"})
	for _, text := range []string{"their text", "5f0c9d1e7b3a4682", "Their", strings.Repeat("x", 41), "", "mosaic-text", "x\n"} {
		_, inner := span.Start(ctx, span.Query)
		inner.Asks(text, text)
		inner.Failed(text)
		inner.Refused(text)
		inner.Source(text, 1)
		inner.FailedStatement(text)
		inner.Between(uuid.Nil, uuid.Nil)
		inner.End()
	}
	s.Routed("GET", "")
	s.End()
	spans := kept.GetSpans()
	if len(spans) != 8 {
		t.Fatalf("%d spans", len(spans))
	}
	for _, got := range spans {
		for _, a := range got.Attributes {
			if v := a.Value.String(); !slices.Contains([]string{"other", "database", "api", "GET", "r-1"}, v) {
				t.Errorf("%s has %s=%q", got.Name, a.Key, v)
			}
			if !slices.Contains(span.Keys(), string(a.Key)) {
				t.Errorf("%s is not listed", a.Key)
			}
		}
		if got.Status.Description != "" && got.Status.Description != "database" || len(got.Events) > 0 {
			t.Errorf("%s ends with %q and %d events", got.Name, got.Status.Description, len(got.Events))
		}
	}
}

func TestATraceGoesOnUnderTheClientsSpan(t *testing.T) {
	t.Parallel()
	const trace, above = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for header, joins := range map[string]bool{
		"00-" + trace + "-" + above + "-01":                   true,
		"00-" + trace + "-" + above + "-00":                   true,
		"cc-" + trace + "-" + above + "-01-more":              true,
		"00-" + trace + "-" + above + "-01-more":              false,
		"ff-" + trace + "-" + above + "-01":                   false,
		"00-" + trace + "-" + above + "-0x":                   false,
		"00-" + strings.ToUpper(trace) + "-" + above + "-01":  false,
		"00-" + strings.Repeat("0", 32) + "-" + above + "-01": false,
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01": false,
		"00-" + trace + "-" + above:                           false,
		"":                                                    false,
	} {
		tracer, kept := recorded(t)
		ctx, s := tracer.Serve(t.Context(), span.Served{Method: "GET", Parent: header})
		out := span.Traceparent(ctx)
		s.End()
		got := kept.GetSpans()[0]
		if joined := got.SpanContext.TraceID().String() == trace && got.Parent.SpanID().String() == above; joined != joins {
			t.Errorf("%q: joined %v", header, joined)
		}
		if out != "00-"+got.SpanContext.TraceID().String()+"-"+got.SpanContext.SpanID().String()+"-01" || span.PassOn(out) != out {
			t.Errorf("%q: goes on as %q", header, out)
		}
		if (span.PassOn(header) != "") != joins {
			t.Errorf("%q: valid %v", header, !joins)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x")
	f.Fuzz(func(t *testing.T, header string) {
		if span.PassOn(header) == "" {
			return
		}
		if len(header) < 55 || header[2] != '-' || header[35] != '-' || header[52] != '-' || strings.Trim(header[3:35], "0123456789abcdef") != "" ||
			strings.Trim(header[36:52], "0123456789abcdef") != "" || strings.Trim(header[3:35], "0") == "" {
			t.Errorf("%q is taken for a traceparent", header)
		}
	})
}
