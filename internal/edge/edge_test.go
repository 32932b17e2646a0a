package edge_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/fault"
)

// serve runs one request through Observe and gives the answer and the log line.
func serve(t *testing.T, trusted []netip.Prefix, h http.HandlerFunc, req *http.Request) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	var log strings.Builder
	r := chi.NewRouter()
	r.HandleFunc("/secret/{token}", h)
	rec := httptest.NewRecorder()
	edge.Observe(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), "test", trusted, time.Now)(r).ServeHTTP(rec, req)
	var line map[string]any
	for _, l := range strings.Split(strings.TrimSpace(log.String()), "\n") {
		if err := json.Unmarshal([]byte(l), &line); err != nil {
			t.Fatalf("log line %q: %v", l, err)
		}
	}
	return rec, line
}

// serveLogging runs one request through Observe and gives the answer and all that was logged.
func serveLogging(t *testing.T, h http.HandlerFunc) (*httptest.ResponseRecorder, string) {
	t.Helper()
	var log strings.Builder
	rec := httptest.NewRecorder()
	edge.Observe(slog.New(slog.NewJSONHandler(&log, nil)), "test", nil, time.Now)(h).ServeHTTP(rec, request())
	return rec, log.String()
}

func request(header ...string) *http.Request {
	req := httptest.NewRequest(http.MethodGet, "/secret/hunter2?also=secret", nil)
	req.RemoteAddr = "10.0.0.7:1234"
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

func ok(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, edge.ClientAddress(r.Context()))
}

func TestTheLogHasTheRouteAndNeverThePath(t *testing.T) {
	t.Parallel()
	_, line := serve(t, nil, ok, request())
	if line["route"] != "/secret/{token}" || line["status"] != float64(200) {
		t.Errorf("line %v", line)
	}
	for k, v := range line {
		if s, isText := v.(string); isText && (strings.Contains(s, "hunter2") || strings.Contains(s, "also")) {
			t.Errorf("%s shows the path: %s", k, s)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	for id, kept := range map[string]bool{
		"abc-123_4.5:6": true, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, "a b": false, "a\x00": false, "ä": false, "<x>": false,
	} {
		rec, line := serve(t, nil, ok, request("X-Request-Id", id))
		got := rec.Header().Get("X-Request-Id")
		if (got == id) != kept || got == "" || line["request_id"] != got {
			t.Errorf("%.20q: answered %q, logged %v", id, got, line["request_id"])
		}
	}
}

func TestForwardedAddressesCountOnlyFromTrustedProxies(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
	tests := []struct {
		name    string
		trusted []netip.Prefix
		header  []string
		want    string
	}{
		{"nobody is trusted", nil, []string{"X-Forwarded-For", "1.2.3.4"}, "10.0.0.7"},
		{"a trusted proxy", proxies, []string{"X-Forwarded-For", "1.2.3.4"}, "1.2.3.4"},
		{"what the client wrote is passed over", proxies, []string{"X-Forwarded-For", "9.9.9.9, 1.2.3.4, 10.0.0.8"}, "1.2.3.4"},
		{"two headers", proxies, []string{"X-Forwarded-For", "9.9.9.9", "X-Forwarded-For", "1.2.3.4"}, "1.2.3.4"},
		{"garbage", proxies, []string{"X-Forwarded-For", "1.2.3.4, x"}, "10.0.0.7"},
		{"no header", proxies, nil, "10.0.0.7"},
	}
	for _, tt := range tests {
		rec, _ := serve(t, tt.trusted, ok, request(tt.header...))
		if rec.Body.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, rec.Body, tt.want)
		}
	}
}

func TestInternalErrorsAreLoggedAndNotShown(t *testing.T) {
	t.Parallel()
	rec, line := serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		edge.WriteProblem(w, r, errors.New("password=x at 10.1.1.1"))
	}, request())
	if rec.Code != 500 || strings.Contains(rec.Body.String(), "password") || !strings.Contains(rec.Body.String(), `"code":"internal"`) {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	if line["level"] != "ERROR" || !strings.Contains(line["error"].(string), "password=x") {
		t.Errorf("line %v", line)
	}
}

func TestAPanicIsAnAnswer(t *testing.T) {
	t.Parallel()
	for text, handler := range map[string]http.HandlerFunc{
		"boom, and a row":    func(http.ResponseWriter, *http.Request) { panic("boom, and a row") },
		"an error and a row": func(http.ResponseWriter, *http.Request) { panic(errors.New("an error and a row")) },
		"in a slice":         func(_ http.ResponseWriter, r *http.Request) { _ = []string{"in a slice"}[len(r.Method)] },
	} {
		rec, log := serveLogging(t, handler)
		if rec.Code != 500 || strings.Contains(rec.Body.String(), text) {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		if strings.Contains(log, text) || !strings.Contains(log, `"msg":"panic"`) || !strings.Contains(log, "edge_test.go") {
			t.Errorf("%s is told as %s", text, log)
		}
	}
}

func TestProblemsCarryEverythingACallerNeeds(t *testing.T) {
	t.Parallel()
	f := &fault.Fault{Kind: fault.Conflict, Code: "busy", Detail: "it is busy", Hint: "wait", RetryAfter: 1500 * time.Millisecond}
	rec, line := serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		edge.WriteProblem(w, r, f.Listing([]fault.Problem{{Path: "a[0]", Detail: "is odd"}}))
	}, request())
	var p edge.Problem
	if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != 409 || p.Code != "busy" || p.Detail != "it is busy" || p.Hint != "wait" || p.RequestID != rec.Header().Get("X-Request-Id") ||
		len(p.Errors) != 1 || rec.Header().Get("Retry-After") != "2" || rec.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%+v %v", p, rec.Header())
	}
	if line["code"] != "busy" {
		t.Errorf("line %v", line)
	}
}

func TestCompressedBodiesAreRefused(t *testing.T) {
	t.Parallel()
	if rec, _ := serve(t, nil, ok, request("Content-Encoding", "gzip")); rec.Code != http.StatusUnsupportedMediaType {
		t.Errorf("%d", rec.Code)
	}
}
