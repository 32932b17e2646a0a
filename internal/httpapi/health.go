package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/fault"
)

// The states of a gateway and of its parts.
const (
	HealthOK       = "ok"
	HealthDegraded = "degraded" // serving, with a part away: the CA or Valkey
	HealthDown     = "down"     // not serving: Postgres away, starting or draining
)

// Report is what a prober is told. It names parts, and no host, peer or version of a part.
type Report struct {
	Status  string            `json:"status"`
	Tier    string            `json:"tier"`
	Version string            `json:"version"`
	Checks  map[string]string `json:"checks"`
}

// Health knows how the gateway is.
type Health interface {
	Report(ctx context.Context) Report
}

// ErrStarting means that the gateway is alive and does not serve yet.
var ErrStarting = &fault.Fault{
	Kind: fault.Unavailable, Code: "starting", Detail: "the gateway waits for its parts", RetryAfter: 2 * time.Second,
	Hint: "try again shortly; /health says which part is away",
}

// Starting is the handler of a gateway that waits for its parts: it answers probes, and tells everybody else why it does
// nothing more. Of the configuration it needs Health, Log, Now and Trusted.
func Starting(c Config, why func() error) http.Handler {
	a := &api{Config: c}
	r := chi.NewRouter()
	a.health(r)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { edge.WriteProblem(w, r, why()) })
	return secretive(edge.Observe(c.Log, "api", c.Trusted, c.Now)(r))
}

func (a *api) health(r chi.Router) {
	// Probes ask with HEAD as well as with GET.
	probe := func(path string, h http.HandlerFunc) {
		r.Get(path, h)
		r.Head(path, h)
	}
	probe("/health", func(w http.ResponseWriter, r *http.Request) {
		report := a.Health.Report(r.Context())
		writeHealth(w, report.Status != HealthDown, report)
	})
	// Alive as long as it can answer: an outage of Postgres must not make an orchestrator restart the fleet.
	probe("/health/live", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, true, map[string]string{"status": HealthOK})
	})
	probe("/health/ready", func(w http.ResponseWriter, r *http.Request) {
		report := a.Health.Report(r.Context())
		writeHealth(w, report.Status != HealthDown, map[string]string{"status": report.Status})
	})
}

func writeHealth(w http.ResponseWriter, up bool, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if !up {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(v)
}
