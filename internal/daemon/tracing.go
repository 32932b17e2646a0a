package daemon

import (
	"context"
	"log/slog"
	"time"

	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/telemetry"
)

// flushWithin is what a collector gets to take the last spans. A gateway that stops waits for nothing longer than it
// must, least of all for what watches it.
const flushWithin = time.Second

// newTracing makes what exports spans; nil without a collector.
func newTracing(ctx context.Context, c config.Config, version string, log *slog.Logger, stack *closers) (*telemetry.Tracing, error) {
	t := c.Telemetry
	tracing, err := telemetry.NewTracing(ctx, telemetry.TracingConfig{
		ServiceName: t.ServiceName, Version: version, Endpoint: t.Endpoint, GRPC: t.Protocol == config.OTLPOverGRPC,
		Headers: t.HeaderPairs(), Ratio: t.SampledShare(), Log: log,
	})
	if err == nil {
		stack.add("tracing", func() error { flush(tracing); return nil })
	}
	return tracing, err
}

// flush sends the spans that are left, and ends the export; the second time it does nothing.
func flush(t *telemetry.Tracing) {
	ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
	defer cancel()
	t.Close(ctx)
}
