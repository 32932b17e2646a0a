// Package edge is what every HTTP listener of the gateway does the same way: request ids, the client's address,
// one log line per request, and errors as RFC 9457 problem+json. It is the only place where an error becomes a
// response.
package edge

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// HeaderRequestID carries the request id, in and out.
const HeaderRequestID = "X-Request-Id"

// meta is what one request gathers for its log line.
type meta struct {
	requestID string
	client    string
	actor     string
	err       error
	route     string

	traceparent string // of the client, when this gateway makes no spans
}

type metaKey struct{}

func metaOf(ctx context.Context) *meta {
	m, _ := ctx.Value(metaKey{}).(*meta)
	if m == nil {
		return &meta{}
	}
	return m
}

// Note keeps the error behind an answer for the log line.
func Note(ctx context.Context, err error) { metaOf(ctx).err = err }

// NoteActor keeps who asked for the log line.
func NoteActor(ctx context.Context, actor string) { metaOf(ctx).actor = actor }

// RequestID is the id of the request that ctx belongs to.
func RequestID(ctx context.Context) string { return metaOf(ctx).requestID }

// ClientAddress is the address of the client, proxies resolved.
func ClientAddress(ctx context.Context) string { return metaOf(ctx).client }

// requestIDFrom keeps a valid incoming id, and makes one otherwise: 1..128 of letters, digits and -_.:
func requestIDFrom(s string) string {
	if s == "" || len(s) > 128 {
		return uuid.NewString()
	}
	for _, c := range []byte(s) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':'
		if !ok {
			return uuid.NewString()
		}
	}
	return s
}

// Observe wraps a whole listener as Watch does, and refuses compressed bodies before anything looks at them.
func Observe(log *slog.Logger, listener string, trusted []netip.Prefix, now func() time.Time) func(http.Handler) http.Handler {
	watch := Watch(log, listener, trusted, now)
	return func(next http.Handler) http.Handler {
		return watch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if Encoded(r) {
				WriteProblem(w, r, ErrContentEncoding)
				return
			}
			next.ServeHTTP(w, r)
		}))
	}
}

// Encoded tells whether a request says that its body is compressed.
func Encoded(r *http.Request) bool { return r.Header.Get("Content-Encoding") != "" }

// Watch wraps a whole listener: request id, client address, panics, and one log line per request. The line
// carries the route's pattern, never the path: an enrollment path is a secret. It answers nothing itself: where every
// answer is on record, a compressed body has to be refused by whoever keeps that record.
func Watch(log *slog.Logger, listener string, trusted []netip.Prefix, now func() time.Time) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			started := now()
			m := &meta{requestID: requestIDFrom(r.Header.Get(HeaderRequestID)), client: clientAddress(r, trusted)}
			// chi fills in a route context that is there already, so that the pattern can be read afterwards.
			route := chi.NewRouteContext()
			r = r.WithContext(context.WithValue(context.WithValue(r.Context(), metaKey{}, m), chi.RouteCtxKey, route))
			h := w.Header()
			h.Set(HeaderRequestID, m.requestID)
			h.Set("X-Content-Type-Options", "nosniff")
			rec := &recorder{ResponseWriter: w}
			defer func() {
				if v := recover(); v != nil {
					if v == http.ErrAbortHandler { //nolint:errorlint // the sentinel itself is panicked with
						panic(v)
					}
					log.Error("panic", "request_id", m.requestID, "panic", panicked(v), "stack", string(debug.Stack()))
					if rec.status == 0 {
						WriteProblem(rec, r, fault.ErrInternal)
					}
				}
				m.route = route.RoutePattern()
				line(log, listener, r, rec, m, now().Sub(started))
			}()
			// A request with both lengths ends its connection (RFC 9112, section 6.1). Which ones had both is not known
			// any more here, so every chunked one does: whatever was smuggled behind it is not read as a request.
			if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
				h.Set("Connection", "close")
			}
			next.ServeHTTP(rec, r)
		})
	}
}

// panicked is what may be said of a panic: the runtime's own words, and of everything else, which may be made of a row,
// of which kind it is. The stack tells the rest.
func panicked(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", v)
}

func line(log *slog.Logger, listener string, r *http.Request, rec *recorder, m *meta, took time.Duration) {
	level := slog.LevelInfo
	attrs := []slog.Attr{
		slog.String("listener", listener), slog.String("request_id", m.requestID), slog.String("method", method(r.Method)),
		slog.String("route", m.route), slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes), slog.Duration("duration", took),
		slog.String("client", m.client),
	}
	if m.actor != "" {
		attrs = append(attrs, slog.String("actor", m.actor))
	}
	if m.err != nil {
		f := fault.From(m.err)
		attrs = append(attrs, slog.String("code", f.Code))
		if f.Kind == fault.Internal || f.Cause != nil {
			attrs = append(attrs, slog.String("error", m.err.Error()))
		}
		switch f.Kind {
		case fault.Internal:
			level = slog.LevelError
		case fault.Unavailable:
			level = slog.LevelWarn
		}
	}
	if strings.HasPrefix(m.route, "/health") && rec.status < 400 {
		level = slog.LevelDebug
	}
	log.LogAttrs(r.Context(), level, "request", attrs...)
}

// method keeps a stranger's text out of the log: only the methods of RFC 9110 are repeated.
func method(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return m
	}
	return "OTHER"
}

// clientAddress believes X-Forwarded-For only from a trusted proxy, and takes the last address in it that is
// not one itself: everything to the left of that was written by the client.
func clientAddress(r *http.Request, trusted []netip.Prefix) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "local" // a unix socket has no address
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || !within(addr, trusted) {
		return host
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		if !within(hop, trusted) {
			return hop.Unmap().String()
		}
	}
	return host
}

func within(a netip.Addr, prefixes []netip.Prefix) bool {
	for _, p := range prefixes {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
