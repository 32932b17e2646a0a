package httpapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/cors"
)

// crossOrigin lets the pages of one origin call the API from a browser (Fetch standard, CORS protocol). They send their
// token themselves: no cookie of this gateway exists that a browser could add. Enrollment is not for pages.
func crossOrigin(origin string) func(http.Handler) http.Handler {
	if origin == "" {
		return func(next http.Handler) http.Handler { return next }
	}
	allow := cors.Handler(cors.Options{
		AllowedOrigins: []string{origin},
		AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"Authorization", "Content-Type", "Accept", "X-Request-Id", HeaderActFor, "Mcp-Session-Id", "Mcp-Protocol-Version", "Last-Event-ID"},
		ExposedHeaders: []string{"X-Request-Id", "Retry-After", "Mcp-Session-Id"},
		MaxAge:         int((10 * time.Minute).Seconds()),
	})
	return func(next http.Handler) http.Handler {
		open := allow(next)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/api/federation/enrollment") {
				next.ServeHTTP(w, r)
				return
			}
			open.ServeHTTP(w, r)
		})
	}
}
