package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/httpapi"
)

// The pages of one origin may call the API, with a token of their own; those of another one, and enrollment, may not.
func TestOneOriginMayCallTheAPI(t *testing.T) {
	t.Parallel()
	const ours, others = "https://app.example", "https://evil.example"
	a := newAPI(t, func(c *httpapi.Config) { c.Origin = ours })
	a.user("ada@example.org", account.Admin)
	token, _ := a.token("ada@example.org")
	const enrollment = "/api/federation/enrollment/x"
	for _, tt := range []struct {
		method, path, origin string
		allowed              bool
	}{
		{http.MethodGet, "/api/users", ours, true},
		{http.MethodGet, "/api/users", others, false},
		{http.MethodGet, "/health", ours, true},
		{http.MethodOptions, "/api/users", ours, true},
		{http.MethodOptions, "/api/users", others, false},
		{http.MethodGet, enrollment, ours, false},
		{http.MethodOptions, enrollment, ours, false},
		{http.MethodPost, "/api/federation/enrollment", ours, false},
	} {
		header := []string{"Origin", tt.origin}
		if tt.method == http.MethodOptions {
			header = append(header, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
		} else {
			header = append(header, "Authorization", "Bearer "+token)
		}
		got := a.ask(tt.method, a.url+tt.path, "", header...)
		want := map[bool]string{true: ours}[tt.allowed]
		if allow := got.header.Get("Access-Control-Allow-Origin"); allow != want {
			t.Errorf("%s %s from %s: Access-Control-Allow-Origin %q, want %q", tt.method, tt.path, tt.origin, allow, want)
		}
		if got.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s %s lets credentials through", tt.method, tt.path)
		}
		if tt.allowed && tt.method == http.MethodOptions && (got.status >= 300 || !strings.EqualFold(got.header.Get("Access-Control-Allow-Headers"), "authorization, content-type")) {
			t.Errorf("a preflight: %d %v", got.status, got.header)
		}
	}
	closed := newAPI(t)
	if got := closed.ask(http.MethodGet, closed.url+"/health", "", "Origin", ours); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("without a setting a page is let in")
	}
}
