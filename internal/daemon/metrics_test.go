package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/mosaicstack/gateway/internal/telemetry"
)

// served is a gateway of the local tier in this process.
type served struct {
	t *testing.T
	readyDoc
	client *http.Client // over the admin socket
}

func newServed(t *testing.T, environ ...string) *served {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "gw") // removed after the gateway has stopped
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	out, in := io.Pipe()
	var log bytes.Buffer
	done := make(chan error, 1)
	go func() {
		err := Dev(ctx, DevOptions{
			Program: "mosaic", Dir: dir, Listen: "127.0.0.1:0", FederationListen: "127.0.0.1:0", JSON: true,
			Version: "test", Environ: environ, Stdout: in, Stderr: &log, Now: time.Now,
		})
		_ = in.CloseWithError(fmt.Errorf("ended: %w", err))
		done <- err
	}()
	s := &served{t: t}
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("%v\n%s", err, log.String())
		}
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(line, &s.readyDoc); err != nil {
		t.Fatal(err)
	}
	s.client = &http.Client{Timeout: doorPatience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.Socket)
	}}}
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// api asks over the admin socket, and wants a good answer.
func (s *served) api(method, path, body string, into any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://socket"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %d %s %v", method, path, resp.StatusCode, b, err)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *served) get(url string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// traffic lets the gateway enrol at itself and ask itself.
func (s *served) traffic() {
	s.t.Helper()
	s.api(http.MethodPost, "/api/users", `{"email":"ada@example.org","role":"member"}`, nil)
	var made struct {
		Grant      struct{ ID string }
		Enrollment struct{ URL string }
	}
	s.api(http.MethodPost, "/api/federation/grants", `{"peer":"mirror","user":"ada@example.org","scope":{"resources":["tasks"],"max_rows_per_query":10}}`, &made)
	s.api(http.MethodPost, "/api/federation/peers", fmt.Sprintf(`{"enrollment_url":%q,"name":"myself"}`, made.Enrollment.URL), nil)
	s.api(http.MethodGet, "/api/federation/peers/myself/resources/tasks", "", nil)
	s.api(http.MethodGet, "/api/federation/resources/tasks", "", nil)
}

// exported are the metrics of a scrape: by name, their type and the names of their labels.
type exported map[string]struct {
	kind   string
	labels map[string]bool
}

var sampleLine = regexp.MustCompile(`^([a-z_:0-9]+)(?:\{(.*)\})? \S+$`)

var labelPair = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)

func readExported(t *testing.T, text string) exported {
	t.Helper()
	e := exported{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" {
			m := e[f[2]]
			m.kind, m.labels = f[3], map[string]bool{}
			e[f[2]] = m
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %q", line)
		}
		of, ok := e[e.family(m[1])]
		if !ok {
			t.Fatalf("%s has no type", m[1])
		}
		for _, l := range labelPair.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "le" && l[1] != "quantile" {
				of.labels[l[1]] = true
			}
		}
	}
	return e
}

// family is the metric that a sample belongs to.
func (e exported) family(sample string) string {
	if _, ok := e[sample]; ok {
		return sample
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, found := strings.CutSuffix(sample, suffix); found && (e[base].kind == "histogram" || e[base].kind == "summary") {
			return base
		}
	}
	return sample
}

var (
	metricName = regexp.MustCompile(`\b(?:mosaic|go|process)_[a-z0-9_]+`)
	matchers   = regexp.MustCompile(`((?:mosaic|go|process)_[a-z0-9_]+)\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping   = regexp.MustCompile(`\b(?:by|on|without|ignoring) \(([^)]*)\)`)
	legend     = regexp.MustCompile(`\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}`)
)

// checkExpression wants every metric and label of an expression exported, and every label of its legend kept by it.
// The labels instance and job come from the scrape.
func (e exported) checkExpression(t *testing.T, where, expr string, legends ...string) {
	t.Helper()
	names := metricName.FindAllString(expr, -1)
	if len(names) == 0 {
		t.Errorf("%s: no metric in %q", where, expr)
	}
	labels := map[string]bool{"instance": true, "job": true, "le": true}
	for _, n := range names {
		m, ok := e[e.family(n)]
		if !ok {
			t.Errorf("%s: %s is not exported", where, n)
		}
		maps.Copy(labels, m.labels)
	}
	for _, m := range matchers.FindAllStringSubmatch(expr, -1) {
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "instance" && !e[e.family(m[1])].labels[l[1]] {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	grouped := grouping.FindAllStringSubmatch(expr, -1)
	kept := map[string]bool{}
	for _, g := range grouped {
		for l := range strings.SplitSeq(g[1], ",") {
			if l = strings.TrimSpace(l); l != "" {
				kept[l] = true
				if !labels[l] {
					t.Errorf("%s: no metric of %q has the label %s", where, expr, l)
				}
			}
		}
	}
	for _, text := range legends {
		for _, l := range legend.FindAllStringSubmatch(text, -1) {
			if !labels[l[1]] || len(grouped) > 0 && !kept[l[1]] {
				t.Errorf("%s: %q names the label %s, which %q does not give", where, text, l[1], expr)
			}
		}
	}
}

func TestPanelsAlertsAndDocsAreOfMetricsThatAGatewayOffers(t *testing.T) {
	t.Parallel()
	s := newServed(t, "MOSAIC_METRICS_LISTEN=127.0.0.1:0")
	s.traffic()
	var all exported
	var text string
	// What upkeep measures is there when its first tasks have run.
	soon(t, "a task has run", func() bool {
		_, text = s.get(s.MetricsURL)
		all = readExported(t, text)
		return len(all["mosaic_task_last_success_timestamp_seconds"].labels) > 0
	})

	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, all) })
	t.Run("alerts", func(t *testing.T) { checkAlerts(t, all) })
	t.Run("docs", func(t *testing.T) { checkDocs(t, all) })
	t.Run("values", func(t *testing.T) {
		for _, want := range []string{
			`mosaic_federation_requests_total{class="2xx",code="",resource="tasks",verb="list"} 2`,
			`mosaic_federation_step_duration_seconds_count{resource="tasks",step="write",verb="list"} 2`,
			`mosaic_peer_requests_total{peer="myself",status="ok"} 2`,
			`mosaic_peer_request_duration_seconds_count{peer="myself"} 2`,
			`mosaic_peer_circuit_state{peer="myself"} 0`,
			`mosaic_peer_renewal_failures{peer="myself"} 0`,
			`mosaic_peer_retries_total{peer="myself"} 0`,
			`mosaic_fanout_duration_seconds_count{verb="list"} 1`,
			`mosaic_spans_total{outcome="exported"} 0`,
			`mosaic_enrollments_total{code=""} 1`,
			`mosaic_ca_call_duration_seconds_count{call="issue_leaf",outcome="ok"} 1`,
			`mosaic_part_up{part="database"} 1`,
			`mosaic_build_info{tier="local",version="test"} 1`,
		} {
			if !strings.Contains(text, want+"\n") {
				t.Errorf("there is no line %s", want)
			}
		}
		for _, secret := range []string{"ada", "mirror", "myself", "127.0.0.1", "enrollment/"} {
			for line := range strings.Lines(text) {
				ours := secret == "myself" && strings.HasPrefix(line, "mosaic_peer_") // the name that the admin gave
				if strings.Contains(line, secret) && !strings.HasPrefix(line, "#") && !ours {
					t.Errorf("%s is in %s", secret, line)
				}
			}
		}
	})
	t.Run("no other listener has them", func(t *testing.T) {
		if code, body := s.get(s.URL + "/metrics"); code != http.StatusNotFound || strings.Contains(body, "mosaic_") {
			t.Errorf("the public listener: %d %.100s", code, body)
		}
		base := strings.TrimSuffix(s.MetricsURL, "/metrics")
		for _, path := range []string{"/", "/health", "/api/users", "/openapi.json", "/debug/pprof/"} {
			if code, _ := s.get(base + path); code != http.StatusNotFound {
				t.Errorf("the metrics listener at %s: %d", path, code)
			}
		}
	})
}

func checkDashboard(t *testing.T, all exported) {
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "mosaic.json"))
	if err != nil {
		t.Fatal(err)
	}
	type source struct{ Type, UID string }
	var d struct {
		Title, UID    string
		SchemaVersion int
		Templating    struct {
			List []struct {
				Name, Type string
				Query      any
				Definition string
			}
		}
		Panels []struct {
			ID          int
			Type, Title string
			Datasource  *source
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct {
				Expr, LegendFormat string
				Datasource         *source
			}
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 30 || len(d.Templating.List) != 2 || d.Templating.List[0].Type != "datasource" || d.Templating.List[0].Query != "prometheus" {
		t.Errorf("no dashboard that can be imported with a data source of one's choice: %+v", d.Templating)
	}
	for _, v := range d.Templating.List[1:] {
		all.checkExpression(t, "variable "+v.Name, v.Definition)
	}
	ids, rows, panels := map[int]bool{}, []string{}, 0
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.W == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q: id or place", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		panels++
		if p.Datasource == nil || *p.Datasource != (source{"prometheus", "${datasource}"}) || len(p.Targets) == 0 || p.Title == "" {
			t.Errorf("panel %d %q: data source %v, %d queries", p.ID, p.Title, p.Datasource, len(p.Targets))
		}
		for _, target := range p.Targets {
			if target.Datasource == nil || target.Datasource.UID != "${datasource}" {
				t.Errorf("panel %q: a query of another data source", p.Title)
			}
			if !strings.Contains(target.Expr, `instance=~"$instance"`) {
				t.Errorf("panel %q: %s does not follow the choice of replicas", p.Title, target.Expr)
			}
			all.checkExpression(t, "panel "+p.Title, target.Expr, target.LegendFormat)
		}
	}
	if want := []string{"Traffic and outcomes", "Latency by step", "Audit", "Limits", "Connections", "Peers", "CA and enrollment", "Database", "Runtime"}; !slices.Equal(rows, want) || panels < 25 {
		t.Errorf("rows %q with %d panels, want %q", rows, panels, want)
	}
}

func checkAlerts(t *testing.T, all exported) {
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	strict := yaml.NewDecoder(bytes.NewReader(b))
	strict.KnownFields(true)
	if err := strict.Decode(&f); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if names[r.Alert] || !strings.HasPrefix(r.Alert, "Mosaic") || r.Annotations["summary"] == "" || r.Annotations["description"] == "" ||
				!slices.Contains([]string{"warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%q: name, severity, summary or description", r.Alert)
			}
			names[r.Alert] = true
			if _, err := time.ParseDuration(r.For); r.For != "" && err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
			all.checkExpression(t, r.Alert, r.Expr, r.Annotations["summary"])
		}
	}
	if len(names) < 10 {
		t.Errorf("only %d rules", len(names))
	}
}

var docRow = regexp.MustCompile("(?m)^\\| `(mosaic_[a-z_]+)` \\| ([a-z]+) \\| ((?:`[a-z_]+` ?)*)\\|")

func checkDocs(t *testing.T, all exported) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range docRow.FindAllStringSubmatch(string(b), -1) {
		name, kind, labels := m[1], m[2], strings.Fields(strings.ReplaceAll(m[3], "`", ""))
		documented[name] = true
		slices.Sort(labels)
		if got := slices.Sorted(maps.Keys(all[name].labels)); all[name].kind != kind || !slices.Equal(got, labels) {
			t.Errorf("docs/metrics.md: %s is a %s with %q, the gateway offers a %s with %q", name, kind, labels, all[name].kind, got)
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "mosaic_") && !documented[name] {
			t.Errorf("docs/metrics.md says nothing of %s", name)
		}
	}
	if !strings.Contains(fmt.Sprint(slices.Sorted(maps.Keys(all))), "go_goroutines") || all["process_open_fds"].kind == "" {
		t.Error("the runtime's own metrics are not offered")
	}
}

func TestMetricsAreOfferedWhereTheyWereAskedForAndNowhereElse(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = busy.Close() }) // after the parallel parts
	taken := busy.Addr().String()
	log := slog.New(slog.DiscardHandler)
	tests := []struct {
		name, setting, otherwise string
		offered, refused         bool
	}{
		{"the local tier, told nothing", "", "", false, false},
		{"told off", "off", "127.0.0.1:0", false, false},
		{"told an address", "127.0.0.1:0", "", true, false},
		{"the default", "", "127.0.0.1:0", true, false},
		{"the default is taken by another replica", "", taken, false, false},
		{"what was asked for is taken", taken, "127.0.0.1:0", false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var stack closers
			defer func() {
				if err := stack.close(log); err != nil {
					t.Error(err)
				}
			}()
			url, err := serveMetrics(tt.setting, tt.otherwise, telemetry.NewMetrics("test", "local"), log, &stack)
			if (url != "") != tt.offered || (err != nil) != tt.refused {
				t.Errorf("%q, %v", url, err)
			}
			if tt.offered {
				if code, body := (&served{t: t}).get(url); code != http.StatusOK || !strings.Contains(body, "mosaic_build_info") {
					t.Errorf("%s: %d", url, code)
				}
			}
		})
	}
}
