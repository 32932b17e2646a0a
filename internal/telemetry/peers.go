package telemetry

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mosaicstack/gateway/internal/querying"
)

// maxPeers are the peers that are told apart. A peer's name is given by this gateway's admins, so there are few; should
// there be more, the rest are one.
const (
	maxPeers   = 100
	otherPeers = "other"
)

// peers is what is measured of the peers that this gateway asks.
type peers struct {
	requests *prometheus.CounterVec
	took     *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	across   *prometheus.HistogramVec

	names names
}

// names keeps the set of peers' names closed, for all metrics alike.
type names struct {
	mu    sync.Mutex
	known map[string]bool
}

func (n *names) label(peer string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.known[peer]:
		return peer
	case len(n.known) >= maxPeers:
		return otherPeers
	case n.known == nil:
		n.known = map[string]bool{}
	}
	n.known[peer] = true
	return peer
}

func (m *Metrics) newPeers() {
	m.peers.requests = m.counters("peer_requests_total", "Questions to peers by how the peer did.", "peer", "status")
	m.peers.took = m.histograms("peer_request_duration_seconds", "Time of questions to peers, retries and the audit record included.", seconds, "peer")
	m.peers.retries = m.counters("peer_retries_total", "Requests to peers that were sent again because the connection failed.", "peer")
	m.peers.across = m.histograms("fanout_duration_seconds", "Time of answers from many sources.", seconds, "verb")
	for _, verb := range []string{"list", "search"} {
		m.peers.across.WithLabelValues(verb)
	}
}

// Asked implements querying.Observer.
func (m *Metrics) Asked(peer, status string, took time.Duration) {
	label := m.peers.names.label(peer)
	m.peers.requests.WithLabelValues(label, sourceStatus(status)).Inc()
	m.peers.took.WithLabelValues(label).Observe(took.Seconds())
	m.peers.retries.WithLabelValues(label) // so that there is a zero
}

// Across implements querying.Observer.
func (m *Metrics) Across(v string, took time.Duration) {
	m.peers.across.WithLabelValues(verb(v)).Observe(took.Seconds())
}

// Retried notes that a request to a peer is sent again.
func (m *Metrics) Retried(peer string) {
	m.peers.retries.WithLabelValues(m.peers.names.label(peer)).Inc()
}

// sourceStatus keeps the label's set closed.
func sourceStatus(s string) string {
	switch s {
	case querying.StatusOK, querying.StatusStale, querying.StatusUnreachable, querying.StatusDenied, querying.StatusRateLimited:
		return s
	}
	return "other"
}

// WatchCircuits shows which peers are left alone: 0 asked as usual, 1 one request is let through to find out, 2 left alone.
func (m *Metrics) WatchCircuits(states func() map[string]int) {
	m.registry.MustRegister(&perPeer{
		names: &m.peers.names,
		descs: []*prometheus.Desc{perPeerDesc("peer_circuit_state", "0 while a peer is asked, 1 while one request finds out whether it is back, 2 while it is left alone.")},
		read: func() map[string][]float64 {
			out := map[string][]float64{}
			for peer, state := range states() {
				out[peer] = []float64{float64(state)}
			}
			return out
		},
	})
}

// WatchCredentials shows how long the credentials are good, and whether they are renewed. standings gives what is known
// now, and does not wait.
func (m *Metrics) WatchCredentials(standings func() []querying.Standing) {
	m.registry.MustRegister(&perPeer{
		names: &m.peers.names,
		descs: []*prometheus.Desc{
			perPeerDesc("peer_credential_expiry_timestamp_seconds", "When the credential for a peer ends."),
			perPeerDesc("peer_renewal_failures", "Tries to renew the credential for a peer that failed since one worked."),
		},
		read: func() map[string][]float64 {
			out := map[string][]float64{}
			for _, s := range standings() {
				out[s.Peer] = []float64{float64(s.NotAfter.Unix()), float64(s.Failures)}
			}
			return out
		},
	})
}

// WatchTracing shows what becomes of spans.
func (m *Metrics) WatchTracing(counts func() SpanCounts) {
	const name, help = "spans_total", "Spans by what became of them; those that ended and are neither exported nor failed wait, or were dropped."
	m.total(name, help, prometheus.Labels{"outcome": "ended"}, func() float64 { return float64(counts().Ended) })
	m.total(name, help, prometheus.Labels{"outcome": "exported"}, func() float64 { return float64(counts().Exported) })
	m.total(name, help, prometheus.Labels{"outcome": "failed"}, func() float64 { return float64(counts().Failed) })
}

func perPeerDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+name, help, []string{"peer"}, nil)
}

// perPeer is gauges of peers that come and go: a peer that was removed is shown no more.
type perPeer struct {
	names *names
	descs []*prometheus.Desc
	read  func() map[string][]float64 // by the peer's name, a value for each of descs
}

// Describe implements prometheus.Collector.
func (p *perPeer) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range p.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p *perPeer) Collect(ch chan<- prometheus.Metric) {
	for peer, values := range p.read() {
		label := p.names.label(peer)
		if label == otherPeers && peer != otherPeers {
			continue // many in one gauge say nothing
		}
		for i, d := range p.descs {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, values[i], label)
		}
	}
}
