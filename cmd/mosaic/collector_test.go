package main

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector takes spans over OTLP/HTTP and keeps all of them, as they came and decoded.
type collector struct {
	URL string

	mu    sync.Mutex
	raw   []byte
	spans []collected
}

// collected is a span, and who sent it.
type collected struct {
	*tracepb.Span
	service string
}

func (s collected) trace() string  { return hex.EncodeToString(s.TraceId) }
func (s collected) id() string     { return hex.EncodeToString(s.SpanId) }
func (s collected) parent() string { return hex.EncodeToString(s.ParentSpanId) }

func (s collected) attribute(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var got collectorpb.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &got) != nil {
			t.Errorf("%s %s cannot be read: %v", r.Method, r.URL.Path, err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.take(body, &got)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(s.Close)
	c.URL = s.URL
	return c
}

func (c *collector) take(body []byte, got *collectorpb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, body...)
	for _, of := range got.ResourceSpans {
		service := ""
		for _, a := range of.Resource.Attributes {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, in := range of.ScopeSpans {
			for _, s := range in.Spans {
				c.spans = append(c.spans, collected{s, service})
			}
		}
	}
}

// of gives the spans of one trace.
func (c *collector) of(trace string) (out []collected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.trace() == trace {
			out = append(out, s)
		}
	}
	return out
}

// all gives everything that came, as it came.
func (c *collector) all() (raw []byte, spans []collected) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw, c.spans
}

// tracedTo is the environment of a gateway that sends its spans to a collector, and not before it stops: what is there
// afterwards was flushed.
func tracedTo(url string, more ...string) []string {
	return append([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + url, "OTEL_BSP_SCHEDULE_DELAY=600000", "OTEL_BSP_MAX_QUEUE_SIZE=65536", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=65536"}, more...)
}
