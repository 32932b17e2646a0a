package telemetry

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// Metrics is everything the gateway counts, in a registry of its own. Labels come from small closed sets: none holds
// an id, an address or anything else that a peer chooses, and no name but those that this gateway's admins gave to peers. Every metric is described in docs/metrics.md.
type Metrics struct {
	registry *prometheus.Registry

	requests    *prometheus.CounterVec
	took, steps *prometheus.HistogramVec
	inFlight    prometheus.Gauge
	turnedAway  *prometheus.CounterVec
	decisions   *prometheus.CounterVec

	apiRequests *prometheus.CounterVec
	apiTook     *prometheus.HistogramVec

	refused           *prometheus.CounterVec
	handshakeFailures *prometheus.CounterVec

	auditBatch prometheus.Histogram
	auditTook  *prometheus.HistogramVec

	cache       map[querying.CacheEvent]prometheus.Counter
	enrollments *prometheus.CounterVec
	enrollTook  prometheus.Histogram
	renewals    *prometheus.CounterVec
	caTook      *prometheus.HistogramVec

	peers peers

	taskTook    *prometheus.HistogramVec
	taskSuccess *prometheus.GaugeVec

	kinds    cells[requestKind, kind]
	outcomes cells[outcome, prometheus.Counter]
	codes    cells[string, struct{}]
}

// The buckets of times in seconds: a request takes milliseconds, and at 10 s everything has been given up.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// NewMetrics returns a registry with everything that the gateway measures itself. What others know is added by the
// Watch methods.
func NewMetrics(version, tier string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.requests = m.counters("federation_requests_total", "Federated requests by their outcome; code is empty for an answer.", "verb", "resource", "class", "code")
	m.took = m.histograms("federation_request_duration_seconds", "Time until the answer to a federated request was decided and on record.", seconds, "verb", "resource")
	m.steps = m.histograms("federation_step_duration_seconds", "Time of each step of a federated request that the request reached.", seconds, "step", "verb", "resource")
	m.inFlight = m.gauge("federation_requests_in_flight", "Federated requests under way, answers that are being written included.")
	m.turnedAway = m.counters("federation_turned_away_total", "Federated requests that were refused before the use case saw them.", "code")
	m.decisions = m.counters("limit_decisions_total", "Federated requests that a limit was asked about.", "decision")
	m.apiRequests = m.counters("api_requests_total", "Requests to the HTTP API and the admin socket by method and status.", "method", "code")
	m.apiTook = m.histograms("api_request_duration_seconds", "Time of requests to the HTTP API and the admin socket.", seconds, "method")
	m.refused = m.counters("connections_refused_total", "Connections that were turned away or had to make room.", "listener", "reason")
	m.handshakeFailures = m.counters("handshake_failures_total", "TLS handshakes of the federation listener that failed.", "reason")
	m.auditBatch = m.histograms("audit_batch_events", "Events that one commit made durable.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512}).WithLabelValues().(prometheus.Histogram)
	m.auditTook = m.histograms("audit_commit_duration_seconds", "Time of a commit to the audit log.", seconds, "outcome")
	events := m.counters("cache_events_total", "What the cache of peers' answers did for questions to peers.", "event")
	m.cache = make(map[querying.CacheEvent]prometheus.Counter)
	for _, e := range querying.CacheEvents() {
		m.cache[e] = events.WithLabelValues(string(e))
	}
	m.enrollments = m.counters("enrollments_total", "Redemptions of enrollment tokens; code is empty for a certificate.", "code")
	m.enrollTook = m.histograms("enrollment_duration_seconds", "Time of redemptions that gave a certificate.", seconds).WithLabelValues().(prometheus.Histogram)
	m.renewals = m.counters("credential_renewals_total", "Tries to renew what this gateway holds at its peers.", "outcome")
	m.caTook = m.histograms("ca_call_duration_seconds", "Time of calls to the certificate authority.", seconds, "call", "outcome")
	m.newPeers()
	m.taskTook = m.histograms("task_duration_seconds", "Time of upkeep tasks that this replica ran.", seconds, "task", "outcome")
	m.taskSuccess = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: namespace + "task_last_success_timestamp_seconds", Help: "When this replica last ran an upkeep task with success."}, []string{"task"})
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: namespace + "build_info", Help: "1, with what runs."}, []string{"version", "tier"})
	info.WithLabelValues(version, tier).Set(1)
	m.registry.MustRegister(m.taskSuccess, info)
	for _, d := range []string{allowed, limited} {
		m.decisions.WithLabelValues(d)
	}
	for _, o := range auditOutcomes() {
		m.auditTook.WithLabelValues(o)
	}
	m.enrollments.WithLabelValues("")
	m.renewals.WithLabelValues(renewed)
	m.renewals.WithLabelValues(notRenewed)
	m.turnedAway.WithLabelValues("too_many_in_flight")
	return m
}

// namespace begins every name of ours.
const namespace = "mosaic_"

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: namespace + name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: namespace + name, Help: help})
	m.registry.MustRegister(g)
	return g
}

// Handler answers GET /metrics, and nothing else.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}

// API counts the requests that a handler answers.
func (m *Metrics) API(h http.Handler) http.Handler {
	return promhttp.InstrumentHandlerCounter(m.apiRequests, promhttp.InstrumentHandlerDuration(m.apiTook, h))
}

// requestKind is what is asked for.
type requestKind struct{ verb, resource string }

// kind is what is measured of it.
type kind struct {
	took  prometheus.Observer
	steps [serving.Steps + 1]prometheus.Observer
}

// stepWrite is after the steps of the use case.
const stepWrite = serving.Steps

// outcome is how a request ended.
type outcome struct {
	requestKind
	status int
	code   string
}

// The decisions of a limit.
const (
	allowed = "allowed"
	limited = "limited"
)

// Request notes one federated request. It allocates nothing once the request's kind and outcome have been seen.
func (m *Metrics) Request(o *serving.Observation) {
	of := requestKind{verb(o.Verb), resource(o.Resource)}
	k := m.kind(of)
	k.took.Observe(o.Took.Seconds())
	for step, reached := range o.Reached {
		if reached {
			k.steps[step].Observe(o.Steps[step].Seconds())
		}
	}
	m.outcome(outcome{of, o.Status, m.code(o.Code)}).Inc()
	if o.Reached[serving.StepLimit] {
		if o.Status == http.StatusTooManyRequests {
			m.decisions.WithLabelValues(limited).Inc()
		} else {
			m.decisions.WithLabelValues(allowed).Inc()
		}
	}
}

// The outcomes of a try to renew a credential.
const (
	renewed    = "renewed"
	notRenewed = "failed"
)

// Renewed notes a try to renew a credential.
func (m *Metrics) Renewed(err error) {
	if err != nil {
		m.renewals.WithLabelValues(notRenewed).Inc()
		return
	}
	m.renewals.WithLabelValues(renewed).Inc()
}

// InFlight notes that a federated request began, with 1, or ended, with -1.
func (m *Metrics) InFlight(change int) { m.inFlight.Add(float64(change)) }

// Wrote notes how long an answer took to be written.
func (m *Metrics) Wrote(v, r string, took time.Duration) {
	m.kind(requestKind{verb(v), resource(r)}).steps[stepWrite].Observe(took.Seconds())
}

// TurnedAway notes a federated request that was refused before the use case saw it.
func (m *Metrics) TurnedAway(code string) { m.turnedAway.WithLabelValues(m.code(code)).Inc() }

func (m *Metrics) kind(of requestKind) kind {
	if k, ok := m.kinds.get(of); ok {
		return k
	}
	k := kind{took: m.took.WithLabelValues(of.verb, of.resource)}
	for step := range serving.Steps {
		k.steps[step] = m.steps.WithLabelValues(step.String(), of.verb, of.resource)
	}
	k.steps[stepWrite] = m.steps.WithLabelValues("write", of.verb, of.resource)
	m.kinds.put(of, k)
	return k
}

func (m *Metrics) outcome(o outcome) prometheus.Counter {
	if c, ok := m.outcomes.get(o); ok {
		return c
	}
	c := m.requests.WithLabelValues(o.verb, o.resource, strconv.Itoa(o.status/100)+"xx", o.code)
	m.outcomes.put(o, c)
	return c
}

// maxCodes is more than there are: codes are words of this program. Should one ever come from outside, it is "other".
const maxCodes = 100

func (m *Metrics) code(c string) string {
	if _, ok := m.codes.get(c); ok {
		return c
	}
	if m.codes.size() >= maxCodes {
		return "other"
	}
	m.codes.put(c, struct{}{})
	return c
}

// verb keeps the label's set closed.
func verb(v string) string {
	switch v {
	case "list", "get", "search", "capabilities", "crl", "hangup", "renew", "roots":
		return v
	}
	return "other"
}

func resource(r string) string {
	if scope.Known(r) {
		return r
	}
	return ""
}

// cells keeps what was made for a key, for readers that must not allocate.
type cells[K comparable, V any] struct {
	mu sync.RWMutex
	of map[K]V
}

func (c *cells[K, V]) get(k K) (V, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.of[k]
	return v, ok
}

func (c *cells[K, V]) put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[K]V{}
	}
	c.of[k] = v
}

func (c *cells[K, V]) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.of)
}
