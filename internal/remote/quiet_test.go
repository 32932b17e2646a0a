package remote_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/querying/peertest"
)

// TestWhatAPeerSaysIsInNoError: an error is logged, so nothing that the peer chose may be in it. What is behind it stays
// there for code.
func TestWhatAPeerSaysIsInNoError(t *testing.T) {
	t.Parallel()
	const row = "a-row-of-the-peer"
	ca, other := peertest.NewCA(t), peertest.NewCA(t)
	garbage := func(said string) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = conn.Write([]byte(said))
			_ = conn.Close()
		}))
		s.TLS = ca.TLS(t)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	named := ca.TLS(t)
	named.Certificates = []tls.Certificate{other.Server(t)}
	for name, s := range map[string]*httptest.Server{
		"no HTTP":            garbage(row + "\r\n\r\n"),
		"a status":           garbage("HTTP/1.1 " + row + "\r\n\r\n"),
		"a header":           garbage("HTTP/1.1 200 OK\r\n" + row + "\r\n\r\n"),
		"a length":           garbage("HTTP/1.1 200 OK\r\nContent-Length: " + row + "\r\n\r\n"),
		"another authority":  peertest.Serve(t, named, http.NotFoundHandler()),
		"a broken body":      garbage("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + row + "\r\n"),
		"an ended one":       garbage("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n" + row),
		"a media type":       garbage("HTTP/1.1 200 OK\r\nContent-Type: application/" + row + "\r\n\r\n"),
		"a redirect":         garbage("HTTP/1.1 302 Found\r\nLocation: /" + row + "\r\n\r\n"),
		"a content encoding": garbage("HTTP/1.1 200 OK\r\nContent-Encoding: " + row + "\r\n\r\n"),
	} {
		_, err := get(t, client(t), target(t, ca, s))
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if text := err.Error(); strings.Contains(text, row) || strings.Contains(text, "test root") || strings.Contains(text, "test intermediate") {
			t.Errorf("%s: %s", name, text)
		}
	}
}
