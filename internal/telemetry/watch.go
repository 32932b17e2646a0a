package telemetry

import (
	"errors"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/querying"
)

// Refused counts connections that a listener turned away, for door.Config.
func (m *Metrics) Refused(listener string) func(netip.Addr, door.Reason) {
	counters := make(map[door.Reason]prometheus.Counter)
	for _, r := range door.Reasons() {
		if r.Handshake() {
			counters[r] = m.handshakeFailures.WithLabelValues(string(r))
		} else {
			counters[r] = m.refused.WithLabelValues(listener, string(r))
		}
	}
	return func(_ netip.Addr, r door.Reason) {
		if c := counters[r]; c != nil {
			c.Inc()
		}
	}
}

// WatchDoors shows the connections of listeners, by name.
func (m *Metrics) WatchDoors(doors map[string]*door.Listener) {
	for name, d := range doors {
		labels := prometheus.Labels{"listener": name}
		m.watch("connections", "Connections: pending while their handshake is not done, held afterwards.", with(labels, "state", "pending"), func() float64 { pending, _ := d.Count(); return float64(pending) })
		m.watch("connections", "Connections: pending while their handshake is not done, held afterwards.", with(labels, "state", "held"), func() float64 { _, held := d.Count(); return float64(held) })
		m.total("connections_opened_total", "Connections that were let in.", labels, func() float64 { return float64(d.Opened()) })
	}
}

func with(labels prometheus.Labels, name, value string) prometheus.Labels {
	out := prometheus.Labels{name: value}
	for k, v := range labels {
		out[k] = v
	}
	return out
}

// auditOutcomes are how a commit to the audit log ends.
func auditOutcomes() []string { return []string{"stored", "refused", "in_doubt", "failed"} }

// Batch notes a commit to the audit log, for audit.Writer.
func (m *Metrics) Batch(events int, took time.Duration, err error) {
	outcome := "failed"
	switch {
	case err == nil:
		outcome = "stored"
		m.auditBatch.Observe(float64(events))
	case errors.Is(err, audit.ErrRefused):
		outcome = "refused"
	case errors.Is(err, audit.ErrInDoubt):
		outcome = "in_doubt"
	}
	m.auditTook.WithLabelValues(outcome).Observe(took.Seconds())
}

// WatchAudit shows the queue of the audit log's writer.
func (m *Metrics) WatchAudit(w *audit.Writer) {
	m.watch("audit_waiting", "Requests that wait for a place in a commit to the audit log.", nil, func() float64 { return float64(w.Waiting()) })
}

// Link is how limits are shared, as limit.Stats tells it.
type Link struct {
	Shared, Local, Failed uint64
	Down                  bool
}

// WatchLimits shows whether limits are shared by all replicas.
func (m *Metrics) WatchLimits(stats func() Link) {
	m.total("limit_requests_total", "Limits that were asked, by where they were kept.", prometheus.Labels{"where": "shared"}, func() float64 { return float64(stats().Shared) })
	m.total("limit_requests_total", "Limits that were asked, by where they were kept.", prometheus.Labels{"where": "local"}, func() float64 { return float64(stats().Local) })
	m.total("limit_store_failures_total", "Limits that were asked of Valkey in vain; they were kept here.", nil, func() float64 { return float64(stats().Failed) })
	m.watch("limit_store_down", "1 while limits are this replica's own because Valkey is away.", nil, func() float64 {
		if stats().Down {
			return 1
		}
		return 0
	})
}

// Cache notes what the cache of peers' answers did, for querying.Config.
func (m *Metrics) Cache(e querying.CacheEvent) {
	if c := m.cache[e]; c != nil {
		c.Inc()
	}
}

// WatchCache shows how often the cache's store was asked in vain.
func (m *Metrics) WatchCache(failures func() uint64) {
	m.total("cache_store_failures_total", "Times that the cache asked its store in vain; the peer was asked all the same.", nil, func() float64 { return float64(failures()) })
}

// Pool is the state of the pool of database connections.
type Pool struct {
	Acquired, Idle, Constructing, Max int32
	Acquires, Waited, Canceled, Dials int64
	Wait                              time.Duration
}

// WatchPool shows the pool of database connections.
func (m *Metrics) WatchPool(stat func() Pool) {
	const connections, help = "database_connections", "Connections to PostgreSQL by what they do."
	m.watch(connections, help, prometheus.Labels{"state": "acquired"}, func() float64 { return float64(stat().Acquired) })
	m.watch(connections, help, prometheus.Labels{"state": "idle"}, func() float64 { return float64(stat().Idle) })
	m.watch(connections, help, prometheus.Labels{"state": "constructing"}, func() float64 { return float64(stat().Constructing) })
	m.watch("database_connections_max", "Connections to PostgreSQL that there may be.", nil, func() float64 { return float64(stat().Max) })
	m.total("database_acquires_total", "Times that a connection was taken from the pool.", nil, func() float64 { return float64(stat().Acquires) })
	m.total("database_acquires_waited_total", "Times that all connections were in use.", nil, func() float64 { return float64(stat().Waited) })
	m.total("database_acquires_canceled_total", "Times that the wait for a connection was given up.", nil, func() float64 { return float64(stat().Canceled) })
	m.total("database_acquire_wait_seconds_total", "Time spent waiting for a connection of the pool.", nil, func() float64 { return stat().Wait.Seconds() })
	m.total("database_dials_total", "Connections to PostgreSQL that were opened.", nil, func() float64 { return float64(stat().Dials) })
}

// Enrolled notes a redemption of an enrollment token, for enroll.Config.
func (m *Metrics) Enrolled(took time.Duration, err error) {
	if err != nil {
		m.enrollments.WithLabelValues(m.code(fault.From(err).Code)).Inc()
		return
	}
	m.enrollments.WithLabelValues("").Inc()
	m.enrollTook.Observe(took.Seconds())
}

// The outcomes of what is asked of another part, or done in the background.
const (
	succeeded = "ok"
	failed    = "error"
)

func outcomeOf(err error) string {
	if err != nil {
		return failed
	}
	return succeeded
}

// CACall notes a call to the certificate authority; call is the name of the method.
func (m *Metrics) CACall(call string, took time.Duration, err error) {
	m.caTook.WithLabelValues(call, outcomeOf(err)).Observe(took.Seconds())
}

// TaskRan notes a run of an upkeep task.
func (m *Metrics) TaskRan(task string, at time.Time, took time.Duration, err error) {
	m.taskTook.WithLabelValues(task, outcomeOf(err)).Observe(took.Seconds())
	if err == nil {
		m.taskSuccess.WithLabelValues(task).Set(float64(at.Unix()))
	}
}

// WatchCertificate shows when the federation listener's own certificate ends.
func (m *Metrics) WatchCertificate(notAfter func() time.Time) {
	m.watch("listener_certificate_expiry_timestamp_seconds", "When the federation listener's own certificate ends.", nil, func() float64 { return float64(notAfter().Unix()) })
}

// WatchPart shows whether a part that the gateway stands on is there.
func (m *Metrics) WatchPart(part string, up func() bool) {
	m.watch("part_up", "1 while a part is there.", prometheus.Labels{"part": part}, func() float64 {
		if up() {
			return 1
		}
		return 0
	})
}

func (m *Metrics) watch(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: namespace + name, Help: help, ConstLabels: labels}, value))
}

func (m *Metrics) total(name, help string, labels prometheus.Labels, value func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: namespace + name, Help: help, ConstLabels: labels}, value))
}
