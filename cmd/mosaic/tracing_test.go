package main

import (
	"bytes"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/mosaicstack/gateway/internal/span"
)

// traced sends requests as a part of somebody's trace.
type traced struct {
	base        http.RoundTripper
	traceparent string
}

func (c traced) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Traceparent", c.traceparent)
	r.Header.Set("Tracestate", "vendor=tracestate-of-the-client")
	r.Header.Set("Baggage", "secret=baggage-of-the-client")
	return c.base.RoundTrip(r)
}

// TestOneTraceLeadsFromTheUserToTheOtherGatewaysDatabase asks work through home in every way there is, each as a trace of
// its own that the client says it does not record. Both gateways record them, by their own rule, and tell nothing but
// what is listed.
func TestOneTraceLeadsFromTheUserToTheOtherGatewaysDatabase(t *testing.T) {
	t.Parallel()
	const title = "a title that no span may hold"
	root, c := t.TempDir(), newCollector(t)
	home := startGatewayWith(t, tracedTo(c.URL, "OTEL_SERVICE_NAME=home"), filepath.Join(root, "home"), "--name", "home")
	work := startGatewayWith(t, tracedTo(c.URL, "OTEL_TRACES_SAMPLER=parentbased_always_on"), filepath.Join(root, "work"))
	home.user("ada@home.example", title+" at home")
	work.user("ada@example.org", title)
	g, e := work.grantFor("home", "ada@example.org", tasksOnly)
	home.mosaic("federation", "peer", "add", e.URL, "--name", "work", "--user", "ada@home.example")
	_, byCurl := work.grantFor("laptop", "ada@example.org", tasksOnly)
	laptop := work.enrol(byCurl)
	var token struct{ Token string }
	home.decode(&token, "token", "create", "--user", "ada@home.example")

	const parent = "00f067aa0ba902b7"
	traceOf := func(n string) string { return strings.Repeat("0", 31) + n }
	client := func(n string) *http.Client {
		return &http.Client{Transport: traced{bearer{token.Token}, "00-" + traceOf(n) + "-" + parent + "-00"}}
	}
	ask := func(n, method, path, body string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, home.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		a := do(t, client(n), req)
		if a.Status != http.StatusOK || !strings.Contains(string(a.Body), title) {
			t.Errorf("%s %s: %d %s", method, path, a.Status, a.Body)
		}
		return a
	}
	ask("1", http.MethodGet, "/api/federation/peers/work/resources/tasks", "")
	ask("2", http.MethodGet, "/api/federation/resources/tasks?include_local=true", "")
	ask("3", http.MethodPost, "/api/federation/resources/tasks/search?include_local=true", `{"query":"title that no span may hold"}`)
	s := connectMCP(t, &mcp.StreamableClientTransport{Endpoint: home.URL + "/mcp", HTTPClient: client("4")})
	var rows struct{ Rows []struct{ ID, Title string } }
	call(t, s, "list_rows", map[string]any{"resource": "tasks"}, &rows)
	if len(rows.Rows) != 2 {
		t.Errorf("rows %+v", rows)
	}
	_ = s.Close()
	// A peer that claims to record, and one that brings an id nobody else has.
	laptop.http.Transport = traced{laptop.http.Transport, "00-" + traceOf("5") + "-" + parent + "-01"}
	if a := laptop.get("/resources/credentials?limit=1"); a.Status != http.StatusNotFound {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	for _, p := range []*gatewayProcess{home, work} {
		if err := p.stop(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}

	for n, way := range map[string]struct {
		route  string
		fanOut bool
	}{
		"1": {"GET /api/federation/peers/{peer}/resources/{resource}", false},
		"2": {"GET /api/federation/resources/{resource}", true},
		"3": {"POST /api/federation/resources/{resource}/search", true},
		"4": {"POST /mcp", true},
	} {
		in := trace{t, way.route, c.of(traceOf(n))}
		request := in.find(in.byName("home", way.route), func(s collected) bool {
			return s.parent() == parent && len(in.under(s, "query peer")) > 0
		})
		asked := in.one("home", "query peer", request)
		sent := in.one("home", "call peer", asked)
		if asked.attribute("mosaic.grant_id") != g.ID || asked.attribute("mosaic.source_status") != "ok" {
			t.Errorf("%s: the question to the peer has %v", way.route, asked.Attributes)
		}
		in.one("home", "audit commit", asked)
		if way.fanOut {
			in.one("home", "query across", request)
		}
		if sent.Kind != tracepb.Span_SPAN_KIND_CLIENT {
			t.Errorf("%s: the call is a %s", way.route, sent.Kind)
		}
		answers := in.find(in.spans, func(s collected) bool { return s.service == "mosaic-gateway" && s.parent() == sent.id() })
		if answers.Kind != tracepb.Span_SPAN_KIND_SERVER || !strings.Contains(answers.Name, "/federation/v1/resources/{resource}") ||
			answers.attribute("mosaic.grant_id") != g.ID || answers.attribute("mosaic.peer_id") != g.PeerID || answers.attribute("mosaic.resource") != "tasks" ||
			answers.attribute("mosaic.request_id") != request.attribute("mosaic.request_id") {
			t.Errorf("%s: work's span is %s with %v", way.route, answers.Name, answers.Attributes)
		}
		statement := "Serving.List"
		if n == "3" {
			statement = "Serving.Search"
		}
		in.one("mosaic-gateway", statement, answers)
		in.one("mosaic-gateway", "limit", answers)
		in.one("mosaic-gateway", "audit commit", answers)
	}
	if refused := c.of(traceOf("5")); len(refused) == 0 || !slices.ContainsFunc(refused, func(s collected) bool {
		return s.attribute("error.type") == "not_found" && s.parent() == parent && s.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR
	}) {
		t.Errorf("a refusal has the spans %v", refused)
	}

	raw, spans := c.all()
	allowed := span.Keys()
	routes := 0
	for _, s := range spans {
		for _, a := range s.Attributes {
			if !slices.Contains(allowed, a.Key) {
				t.Errorf("%s has the attribute %s", s.Name, a.Key)
			}
		}
		if len(s.Events)+len(s.Links) > 0 || s.TraceState != "" {
			t.Errorf("%s has events, links or a tracestate", s.Name)
		}
		if strings.HasPrefix(s.Name, "/health") {
			t.Error("a probe has a span")
		}
		if s.Name == "POST /api/federation/enrollment" || strings.HasSuffix(s.Name, "/enrollment/{token}") {
			routes++
		}
		if s.Name == "statement" || strings.ContainsAny(s.Name, "$()") {
			t.Errorf("a span is called %q", s.Name)
		}
	}
	if routes == 0 {
		t.Error("no enrollment has a span")
	}
	for _, text := range []string{"no span may hold", "of-the-client", token.Token, e.Token, byCurl.Token, "ada@", "SELECT", "127.0.0.1"} {
		if bytes.Contains(raw, []byte(text)) {
			t.Errorf("%q is in the spans", text)
		}
	}
}

// trace is the spans of one trace.
type trace struct {
	t     *testing.T
	about string
	spans []collected
}

func (tr trace) byName(service, name string) (out []collected) {
	for _, s := range tr.spans {
		if s.service == service && s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

func (tr trace) find(among []collected, is func(collected) bool) collected {
	tr.t.Helper()
	i := slices.IndexFunc(among, is)
	if i < 0 {
		var names []string
		for _, s := range tr.spans {
			names = append(names, s.service+": "+s.Name+" "+s.id()+" under "+s.parent())
		}
		tr.t.Fatalf("%s: a span is missing among\n%s", tr.about, strings.Join(names, "\n"))
	}
	return among[i]
}

// under gives the spans of a name below another one, however deep.
func (tr trace) under(top collected, name string) (out []collected) {
	for _, s := range tr.spans {
		if s.parent() != top.id() {
			continue
		}
		if s.Name == name {
			out = append(out, s)
		}
		out = append(out, tr.under(s, name)...)
	}
	return out
}

// one wants a span of a service's below another one.
func (tr trace) one(service, name string, top collected) collected {
	tr.t.Helper()
	return tr.find(tr.under(top, name), func(s collected) bool { return s.service == service })
}

// TestACollectorThatIsAwayHarmsNobody: one collector refuses connections, one takes them and says nothing. Every request
// is answered, and the gateway stops as it should.
func TestACollectorThatIsAwayHarmsNobody(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	for name, env := range map[string][]string{
		"over HTTP, away":   {"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + gone.Addr().String()},
		"over gRPC, silent": {"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + silent.Addr().String(), "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The queue is full at once, and every batch is on its way.
			env = append(env, "OTEL_BSP_MAX_QUEUE_SIZE=2", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=1", "OTEL_BSP_SCHEDULE_DELAY=1")
			g := startGatewayWith(t, env, filepath.Join(t.TempDir(), "work"))
			g.user("ada@example.org", "a", "b")
			_, e := g.grantFor("home", "ada@example.org", tasksOnly)
			p := g.enrol(e)
			for range 30 {
				if l := p.list("/resources/tasks"); len(l.Data) != 2 {
					t.Fatalf("%+v", l)
				}
			}
			if err := g.stop(syscall.SIGTERM); err != nil {
				t.Errorf("%v\n%s", err, g.logs)
			}
			if n := strings.Count(g.logs.String(), "spans are not exported"); n > 1 {
				t.Errorf("the log says %d times that spans are not exported", n)
			}
		})
	}
}
