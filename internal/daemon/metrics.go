package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/telemetry"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

// defaultMetrics is where a replica that was told nothing offers its metrics. Should the address be taken, by another
// replica of the machine, it goes on without: nobody asked for it.
const defaultMetrics = "127.0.0.1:9464"

// metricsOff is the setting that asks for no listener.
const metricsOff = "off"

// serveMetrics starts the listener for Prometheus, and returns its URL: empty when there is none. It is a server of its
// own, for the inside: no other listener knows the path.
func serveMetrics(setting, otherwise string, m *telemetry.Metrics, log *slog.Logger, stack *closers) (string, error) {
	address := setting
	if address == "" {
		address = otherwise
	}
	if address == "" || address == metricsOff {
		return "", nil
	}
	l, err := listen(address)
	if err != nil && setting == "" {
		log.Warn("metrics are not offered", "address", address, "error", err)
		return "", nil
	}
	if err != nil {
		return "", errListen.With("MOSAIC_METRICS_LISTEN cannot be listened on: %s", reason(err)).Because(err)
	}
	s := &http.Server{
		Handler: m.Handler(), ReadHeaderTimeout: apiReadHeader, ReadTimeout: apiRead, WriteTimeout: apiWrite, IdleTimeout: apiIdle,
		MaxHeaderBytes: apiHeader, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stack.add("metrics", func() error {
		err := s.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
	return "http://" + reachable(l.Addr()) + "/metrics", nil
}

// watch shows what the gateway's parts know of themselves.
func (g *gateway) watch(doors map[string]*door.Listener) {
	m := g.metrics
	m.WatchDoors(doors)
	m.WatchAudit(g.writer)
	if g.federates() {
		m.WatchCertificate(g.certificateEnd)
	}
	m.WatchLimits(func() telemetry.Link {
		if g.limits.link == nil {
			return telemetry.Link{} // limits in memory are as they should be
		}
		s := g.limits.link.Stats()
		return telemetry.Link{Shared: s.Shared, Local: s.Local, Failed: s.Failed, Down: s.Down}
	})
	m.WatchCircuits(g.patient.Circuits)
	m.WatchCredentials((&standings{store: g.credentials, now: g.now}).read)
	m.WatchTracing(g.tracing.Counts)
	pool := g.db.Pool()
	m.WatchPool(func() telemetry.Pool {
		s := pool.Stat()
		return telemetry.Pool{
			Acquired: s.AcquiredConns(), Idle: s.IdleConns(), Constructing: s.ConstructingConns(), Max: s.MaxConns(),
			Acquires: s.AcquireCount(), Waited: s.EmptyAcquireCount(), Canceled: s.CanceledAcquireCount(), Dials: s.NewConnsCount(),
			Wait: s.EmptyAcquireWaitTime(),
		}
	})
	for _, p := range g.health.parts {
		m.WatchPart(p.name, func() bool { return g.health.up(p.name) })
	}
}

// certificateEnd is when the federation listener's own certificate ends; zero when it cannot be read.
func (g *gateway) certificateEnd() time.Time {
	c, err := g.certificate.get()
	if err != nil || c.Leaf == nil {
		return time.Time{}
	}
	return c.Leaf.NotAfter
}

// observedTasks are tasks whose runs are measured.
func observedTasks(tasks []upkeep.Task, m *telemetry.Metrics, now func() time.Time) []upkeep.Task {
	for i := range tasks {
		name, run := tasks[i].Name, tasks[i].Run
		tasks[i].Run = func(ctx context.Context) error {
			started := now()
			err := run(ctx)
			ended := now()
			m.TaskRan(name, ended, ended.Sub(started), err)
			return err
		}
	}
	return tasks
}

// observedCA measures the calls to an authority that go to the CA.
type observedCA struct {
	ca.Authority
	metrics *telemetry.Metrics
}

func (o observedCA) note(call string, started time.Time, err error) {
	o.metrics.CACall(call, time.Since(started), err)
}

// IssueLeaf implements ca.Authority, and so do the next ones.
func (o observedCA) IssueLeaf(ctx context.Context, req ca.LeafRequest) (chain ca.Chain, err error) {
	defer func(started time.Time) { o.note("issue_leaf", started, err) }(time.Now())
	return o.Authority.IssueLeaf(ctx, req)
}

func (o observedCA) IssueServer(ctx context.Context, req ca.ServerRequest) (chain ca.Chain, err error) {
	defer func(started time.Time) { o.note("issue_server", started, err) }(time.Now())
	return o.Authority.IssueServer(ctx, req)
}

func (o observedCA) Revoke(ctx context.Context, serial *big.Int, why string) (err error) {
	defer func(started time.Time) { o.note("revoke", started, err) }(time.Now())
	return o.Authority.Revoke(ctx, serial, why)
}

func (o observedCA) Roots(ctx context.Context) (roots []*x509.Certificate, err error) {
	defer func(started time.Time) { o.note("roots", started, err) }(time.Now())
	return o.Authority.Roots(ctx)
}

func (o observedCA) CRL(ctx context.Context) (list []byte, err error) {
	defer func(started time.Time) { o.note("crl", started, err) }(time.Now())
	return o.Authority.CRL(ctx)
}

func (o observedCA) Ready(ctx context.Context) (err error) {
	defer func(started time.Time) { o.note("ready", started, err) }(time.Now())
	return o.Authority.Ready(ctx)
}
