package edge_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/edge"
)

// TestAClientsTraceGoesOnWithoutATracer: whoever does not record passes on what is well-formed.
func TestAClientsTraceGoesOnWithoutATracer(t *testing.T) {
	t.Parallel()
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, test := range []struct {
		sent []string
		want string
	}{
		{[]string{good}, good},
		{[]string{"01" + good[2:53] + "ff-" + strings.Repeat("0", 15<<10)}, good},
		{[]string{good[:53] + "fe"}, good[:53] + "00"},
		{[]string{good, good}, ""},
		{[]string{good + "\r\nX-Forged: 1"}, ""},
		{[]string{"their text"}, ""},
		{nil, ""},
	} {
		got := "the handler was not called"
		h := edge.Observe(slog.New(slog.DiscardHandler), "test", nil, time.Now)(edge.Traced(nil, "test")(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got = edge.Traceparent(r.Context())
		})))
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header["Traceparent"] = test.sent
		h.ServeHTTP(httptest.NewRecorder(), req)
		if got != test.want {
			t.Errorf("%q goes on as %q", test.sent, got)
		}
	}
}
