package edge

import (
	"context"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/span"
)

// headerTraceparent is how a trace goes on from one process to the next (W3C Trace Context).
const headerTraceparent = "Traceparent"

// Traced makes a span of every request that a listener answers, probes aside; it stands inside Watch, whose notes the
// span is made of. Without a tracer it only keeps the request's traceparent, so that the client's trace can go on at a
// peer that does record.
func Traced(t *span.Tracer, listener string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		if t == nil {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				metaOf(r.Context()).traceparent = span.PassOn(oneOf(r.Header.Values(headerTraceparent)))
				next.ServeHTTP(w, r)
			})
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/health") {
				next.ServeHTTP(w, r)
				return
			}
			m := metaOf(r.Context())
			ctx, s := t.Serve(r.Context(), span.Served{
				Listener: listener, Method: method(r.Method), RequestID: m.requestID, Parent: oneOf(r.Header.Values(headerTraceparent)),
			})
			ended := false
			defer func() {
				if !ended { // a panic, on its way to where it becomes a 500
					s.Answered(http.StatusInternalServerError)
					s.Failed(fault.ErrInternal.Code)
				}
				s.End()
			}()
			next.ServeHTTP(w, r.WithContext(ctx))
			ended = true
			if s == nil {
				return
			}
			if route, ok := r.Context().Value(chi.RouteCtxKey).(*chi.Context); ok {
				s.Routed(method(r.Method), route.RoutePattern())
			}
			if rec, ok := w.(*recorder); ok {
				s.Answered(rec.status)
			}
			if m.err == nil {
				return
			}
			if f := fault.From(m.err); f.Kind.Status() < http.StatusInternalServerError {
				s.Refused(f.Code)
			} else {
				s.Failed(f.Code)
			}
		})
	}
}

// oneOf is a header that is there once.
func oneOf(values []string) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}

// Traceparent is the header with which the trace of ctx's request goes on elsewhere: the client's own when nobody records
// here, and empty when there is none.
func Traceparent(ctx context.Context) string {
	if p := span.Traceparent(ctx); p != "" {
		return p
	}
	return metaOf(ctx).traceparent
}
