package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/serving"
	"github.com/mosaicstack/gateway/internal/telemetry"
)

func listed() *serving.Observation {
	return &serving.Observation{
		Verb: "list", Resource: "tasks", Status: 200, Took: 3 * time.Millisecond,
		Steps:   [serving.Steps]time.Duration{0, time.Microsecond, time.Millisecond, time.Microsecond, 2 * time.Millisecond},
		Reached: [serving.Steps]bool{true, true, true, true, true},
	}
}

func scrape(t *testing.T, m *telemetry.Metrics) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func TestObservingARequestAllocatesNothing(t *testing.T) { //nolint:paralleltest // counts allocations of the process
	m, o := telemetry.NewMetrics("test", "local"), listed()
	m.Request(o)
	m.Wrote("list", "tasks", time.Millisecond)
	if n := testing.AllocsPerRun(1000, func() {
		m.InFlight(1)
		m.Request(o)
		m.Wrote("list", "tasks", time.Millisecond)
		m.InFlight(-1)
	}); n != 0 {
		t.Errorf("%v allocations for each request", n)
	}
}

func BenchmarkObservingARequest(b *testing.B) {
	m, o := telemetry.NewMetrics("test", "local"), listed()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.InFlight(1)
			m.Request(o)
			m.Wrote("list", "tasks", time.Millisecond)
			m.InFlight(-1)
		}
	})
}

func TestARequestIsCountedWhereItBelongs(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics("test", "local")
	m.Request(listed())
	refused := listed()
	refused.Verb, refused.Status, refused.Code, refused.Reached[serving.StepLimit] = "get", 403, "grant_revoked", false
	m.Request(refused)
	limited := listed()
	limited.Status, limited.Code, limited.Reached[serving.StepAudit] = 429, "rate_limited", false
	m.Request(limited)
	m.Wrote("list", "tasks", time.Second)
	out := scrape(t, m)
	for _, want := range []string{
		`mosaic_federation_requests_total{class="2xx",code="",resource="tasks",verb="list"} 1`,
		`mosaic_federation_requests_total{class="4xx",code="grant_revoked",resource="tasks",verb="get"} 1`,
		`mosaic_federation_requests_total{class="4xx",code="rate_limited",resource="tasks",verb="list"} 1`,
		`mosaic_federation_request_duration_seconds_sum{resource="tasks",verb="list"} 0.006`,
		`mosaic_federation_step_duration_seconds_sum{resource="tasks",step="audit",verb="list"} 0.002`,
		`mosaic_federation_step_duration_seconds_count{resource="tasks",step="audit",verb="list"} 1`,
		`mosaic_federation_step_duration_seconds_count{resource="tasks",step="limit",verb="list"} 2`,
		`mosaic_federation_step_duration_seconds_count{resource="tasks",step="limit",verb="get"} 0`,
		`mosaic_federation_step_duration_seconds_sum{resource="tasks",step="write",verb="list"} 1`,
		`mosaic_limit_decisions_total{decision="allowed"} 1`,
		`mosaic_limit_decisions_total{decision="limited"} 1`,
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("there is no line %s", want)
		}
	}
}

func TestNoLabelIsAPeersToChoose(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics("test", "local")
	o := listed()
	o.Verb, o.Resource = "their verb", "their resource"
	m.Request(o)
	m.Wrote("their verb", "their resource", 0)
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/their/path", nil)
	req.Method = "THEIR"
	m.API(http.NotFoundHandler()).ServeHTTP(rec, req)
	for n := range 1000 {
		m.TurnedAway("their code " + strings.Repeat("x", n))
	}
	out := scrape(t, m)
	if strings.Contains(out, "their verb") || strings.Contains(out, "their resource") || strings.Contains(out, "THEIR") || strings.Contains(out, "/their") {
		t.Error("a label is what a request says")
	}
	if n := strings.Count(out, "mosaic_federation_turned_away_total{"); n > 120 {
		t.Errorf("%d codes are kept apart", n)
	}
}

func TestOnlyGETMetricsIsAnswered(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics("test", "local")
	for path, want := range map[string]int{"/": 404, "/metrics/": 404, "/debug/pprof/": 404, "/health": 404, "/metrics": 200} {
		rec := httptest.NewRecorder()
		m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		if rec.Code != want {
			t.Errorf("%s: %d, want %d", path, rec.Code, want)
		}
	}
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/metrics", nil))
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", rec.Code)
	}
}
