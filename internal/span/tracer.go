package span

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// scopeName is the instrumentation scope of every span.
const scopeName = "github.com/mosaicstack/gateway"

// Tracer begins traces, or takes up those that a request brings along. Nil makes no spans.
type Tracer struct{ otel trace.Tracer }

// NewTracer returns a Tracer whose spans go to p.
func NewTracer(p trace.TracerProvider) *Tracer { return &Tracer{p.Tracer(scopeName)} }

// Served is what a listener knows of a request before it is answered.
type Served struct {
	Listener  string
	Method    string // one of RFC 9110's, or OTHER
	RequestID string
	Parent    string // the request's traceparent, as it came
}

// Serve begins the span of a request that came in.
//
// Of what the client says of its trace only the two ids are taken: the span becomes a part of the client's trace. That
// the client records it says nothing, since everybody could have this gateway record, or not. Its tracestate and
// baggage are not read.
func (t *Tracer) Serve(ctx context.Context, r Served) (context.Context, *Span) {
	if parent, ok := parse(r.Parent); ok {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	ctx, s := t.otel.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
	if !s.IsRecording() {
		return ctx, nil
	}
	s.SetAttributes(keyListener.String(r.Listener), keyMethod.String(r.Method), keyRequest.String(r.RequestID))
	return ctx, &Span{s}
}

// Routed names the span of a request by the pattern of its route, which is never the path: some paths are secrets.
func (s *Span) Routed(method, pattern string) {
	if s == nil || pattern == "" {
		return
	}
	s.otel.SetName(method + " " + pattern)
	s.otel.SetAttributes(keyRoute.String(pattern))
}

// Traceparent is the header that lets somebody else's spans join the one in ctx (W3C Trace Context, section 3.2), and
// empty without one.
func Traceparent(ctx context.Context) string {
	c := trace.SpanContextFromContext(ctx)
	if !c.IsValid() {
		return ""
	}
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + (c.TraceFlags() & trace.FlagsSampled).String()
}

// PassOn is a traceparent as it may be sent to somebody else, and empty when the header is none. It is written anew: a
// later version may have a tail of any length, which is for nobody here to carry. Of its flags only sampled is known.
func PassOn(header string) string {
	c, ok := parse(header)
	if !ok {
		return ""
	}
	sampled := trace.TraceFlags(0)
	if strings.ContainsRune("13579bdf", rune(header[parentLen-1])) {
		sampled = trace.FlagsSampled
	}
	return Traceparent(trace.ContextWithSpanContext(context.Background(), c.WithTraceFlags(sampled)))
}

// The form of version 00: version, trace id, parent id, flags. A later version may go on after another dash.
const parentLen = 2 + 1 + 32 + 1 + 16 + 1 + 2

func parse(header string) (trace.SpanContext, bool) {
	var none trace.SpanContext
	if len(header) < parentLen || header[2] != '-' || header[35] != '-' || header[52] != '-' || !lowerHex(header[:2]) || !lowerHex(header[53:55]) {
		return none, false
	}
	switch version := header[:2]; {
	case version == "ff",
		version == "00" && len(header) != parentLen,
		len(header) > parentLen && header[parentLen] != '-':
		return none, false
	}
	id, err := trace.TraceIDFromHex(header[3:35])
	if err != nil {
		return none, false
	}
	above, err := trace.SpanIDFromHex(header[36:52])
	if err != nil {
		return none, false
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: above, Remote: true}), true
}

func lowerHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
