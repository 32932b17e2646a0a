// Package fedapi is the federation listener: mTLS, TLS 1.3, base /federation/v1. It turns a connection's
// certificate into an identity and hands every request to the serving use case.
package fedapi

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/serving"
	"github.com/mosaicstack/gateway/internal/span"
)

// Base is the path every endpoint is under.
const Base = "/federation/v1"

// The bounds of a connection.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeDeadline     = 10 * time.Second // a request that began before a revoke may finish, within this
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	maxIdentities     = 10_000
	// What one certificate may have under way. More waits; who waits for longer than this is told to slow down.
	maxUnderWay  = 128
	waitForPlace = 3 * time.Second // less than a statement may take, so that who waits is told before those in front end
	// What one certificate may leave unread: its next requests are refused until it has read on.
	maxUnread = 32 << 20
	// A request goes on without its client for at most this long. What it sends has to be here before, within its own
	// time: a client that is slow must not use up what the gateway has for the answer.
	maxDuration  = 15 * time.Second
	bodyDeadline = 5 * time.Second
)

// Bounds are the limits of the listener's connections, for the door in front of it. Generous: a peer may have
// many replicas behind one address, and pools of connections in each.
func Bounds() door.Bounds {
	return door.Bounds{
		Pending: 2048, PendingPerAddress: 512, Held: 8192, HeldPerHolder: 512, Failures: 30,
		Handshake: 5 * time.Second, Lifetime: time.Hour, Abandoned: 100, BytesPerRequest: 128 << 10,
	}
}

// streams are the bounds of an HTTP/2 connection. A request has a header and little else, so windows are small;
// a client that reads nothing is noticed by its bytes, one that says nothing by pings.
func streams() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: 100, MaxReadFrameSize: 16 << 10, MaxDecoderHeaderTableSize: 4 << 10,
		MaxReceiveBufferPerConnection: 256 << 10, MaxReceiveBufferPerStream: 64 << 10,
		SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: writeDeadline,
	}
}

var errQuery = &fault.Fault{
	Kind: fault.Invalid, Code: "query_invalid", Detail: "the query has a parameter that is not read here",
	Hint: "a list takes limit, cursor and updated_since, each at most once",
}

var errMethod = &fault.Fault{
	Kind: fault.NotAllowed, Code: "method_not_allowed", Detail: "this address does not take this method",
	Hint: "the federation API is read with GET; search, renew and hangup are POST",
}

// Config is what the listener needs.
type Config struct {
	Serving *serving.Service
	Profile identity.Profile
	// Anchors are those of the listener's Trust. A connection can outlive a root: when they have changed, a certificate
	// is verified again before its next answer. Nil: they do not change.
	Anchors func() *Anchors
	Log     *slog.Logger
	Now     func() time.Time
	Observe Observer     // nil: nobody measures
	Trace   *span.Tracer // nil makes no spans
}

// Observer is told what the use case does not see. It is on every request's way and must not wait.
type Observer interface {
	InFlight(change int)                             // 1 when a request begins, -1 when its answer is written
	Wrote(verb, resource string, took time.Duration) // how long an answer took to be written
	TurnedAway(code string)                          // a request that the use case never saw
}

// unobserved is the Observer of a listener that nobody measures.
type unobserved struct{}

func (unobserved) InFlight(int)                        {}
func (unobserved) Wrote(string, string, time.Duration) {}
func (unobserved) TurnedAway(string)                   {}

type handler struct {
	Config

	mu    sync.RWMutex
	known map[[32]byte]*holder
}

// NewServer returns the server of the federation listener; serve it on a TLS listener with TLSConfig.
func NewServer(c Config) *http.Server {
	if c.Observe == nil {
		c.Observe = unobserved{}
	}
	h := &handler{Config: c, known: map[[32]byte]*holder{}}
	r := chi.NewRouter()
	r.NotFound(h.serve(func(r *http.Request, c serving.Caller) (serving.Answer, error) {
		return h.Serving.Unknown(r.Context(), c, serving.ErrNotFound)
	}))
	unknownMethod := h.serve(func(r *http.Request, c serving.Caller) (serving.Answer, error) {
		return h.Serving.Unknown(r.Context(), c, errMethod)
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allowed(r.URL.Path))
		unknownMethod(w, r)
	})
	r.Route(Base, func(r chi.Router) {
		r.Get("/capabilities", h.serve(func(r *http.Request, c serving.Caller) (serving.Answer, error) {
			return h.Serving.Capabilities(r.Context(), c)
		}))
		r.Get("/crl", h.serveAs(typeCRL, func(r *http.Request, c serving.Caller) (serving.Answer, error) {
			return h.Serving.CRL(r.Context(), c)
		}))
		r.Get("/roots", h.serve(func(r *http.Request, c serving.Caller) (serving.Answer, error) {
			return h.Serving.Roots(r.Context(), c)
		}))
		r.Post("/hangup", h.serve(func(r *http.Request, c serving.Caller) (serving.Answer, error) {
			return h.Serving.HangUp(r.Context(), c)
		}))
		r.Post("/certificate/renew", h.serveBody(func(r *http.Request, c serving.Caller, b body) (serving.Answer, error) {
			return h.Serving.Renew(r.Context(), c, renewRequest(r, b))
		}, enroll.MaxRenewalBytes))
		r.Get("/resources/{resource}", h.serve(func(r *http.Request, c serving.Caller) (serving.Answer, error) {
			return h.Serving.List(r.Context(), c, listRequest(chi.URLParam(r, "resource"), r.URL.RawQuery))
		}))
		r.Get("/resources/{resource}/{id}", h.serve(func(r *http.Request, c serving.Caller) (serving.Answer, error) {
			return h.Serving.Get(r.Context(), c, chi.URLParam(r, "resource"), chi.URLParam(r, "id"))
		}))
		r.Post("/resources/{resource}/search", h.serveBody(func(r *http.Request, c serving.Caller, b body) (serving.Answer, error) {
			return h.Serving.Search(r.Context(), c, searchRequest(r, b))
		}, resource.MaxSearchBytes))
	})
	var answers http.Handler = r
	if c.Trace != nil {
		answers = edge.Traced(c.Trace, "federation")(r)
	}
	return &http.Server{
		Handler:           edge.Watch(c.Log, "federation", nil, c.Now)(answers),
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ConnContext: withConn, HTTP2: streams(), DisableGeneralOptionsHandler: true,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug), // failed handshakes: strangers write these
	}
}

// listRequest reads the query of a list strictly: a parameter that is misspelt, empty or there twice would otherwise
// ask for something else than its author meant.
func listRequest(name, query string) serving.ListRequest {
	q := serving.ListRequest{Resource: name}
	values, err := url.ParseQuery(query)
	if err != nil {
		q.Mistake = errQuery
		return q
	}
	// In one order, so that of two mistakes the same one is told each time.
	for _, p := range []struct {
		name  string
		to    *string
		empty error
	}{
		{"limit", &q.Limit, page.ErrLimitInvalid},
		{"cursor", &q.Cursor, page.ErrCursorInvalid},
		{"updated_since", &q.Since, page.ErrUpdatedSinceInvalid},
	} {
		given, ok := values[p.name]
		delete(values, p.name)
		switch {
		case !ok || q.Mistake != nil:
		case len(given) != 1:
			q.Mistake = errQuery.With("%s is there more than once", p.name)
		case given[0] == "":
			q.Mistake = p.empty
		default:
			*p.to = given[0]
		}
	}
	if len(values) > 0 && q.Mistake == nil {
		q.Mistake = errQuery
	}
	return q
}

// The media types of answers.
const (
	typeJSON = "application/json"
	typeCRL  = "application/pkix-crl" // RFC 5280, section 4.2.1.13
)

// allowed is the method that an address takes when it is not the one that was tried.
func allowed(path string) string {
	if path == Base+"/hangup" || path == Base+"/certificate/renew" || strings.HasPrefix(path, Base+"/resources/") && strings.HasSuffix(path, "/search") {
		return http.MethodPost
	}
	return http.MethodGet
}

// serve answers with what a use case gives for the connection's identity, which is JSON.
func (h *handler) serve(answer func(*http.Request, serving.Caller) (serving.Answer, error)) http.HandlerFunc {
	return h.serveAs(typeJSON, answer)
}

// serveBody is serve for what has a body, of at most so many bytes.
func (h *handler) serveBody(answer func(*http.Request, serving.Caller, body) (serving.Answer, error), most int) http.HandlerFunc {
	return h.carry(typeJSON, answer, most)
}

// serveAs is serve in another media type.
func (h *handler) serveAs(media string, answer func(*http.Request, serving.Caller) (serving.Answer, error)) http.HandlerFunc {
	return h.carry(media, func(r *http.Request, c serving.Caller, _ body) (serving.Answer, error) { return answer(r, c) }, 0)
}

// carry reads the body, if there is to be one, and answers. The use case does not see its client go: a statement that
// is cut off in the middle costs its database connection (pgx closes it), so a peer that resets its requests as fast as
// it makes them would have the pool dial all the time, at everybody's expense. Worked to its end, a request spends the
// grant's limit.
func (h *handler) carry(media string, answer func(*http.Request, serving.Caller, body) (serving.Answer, error), most int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h.Observe.InFlight(1)
		defer h.Observe.InFlight(-1)
		caller, who, err := h.caller(r)
		if err != nil {
			h.turnAway(w, r, caller, err)
			return
		}
		edge.NoteActor(r.Context(), "grant:"+caller.Identity.GrantID.String())
		if err := who.enter(r.Context()); err != nil {
			h.turnAway(w, r, caller, err)
			return
		}
		defer who.leave()
		if edge.Encoded(r) {
			caller.Mistake = edge.ErrContentEncoding
		}
		if held := r.Header["If-None-Match"]; held != nil {
			caller.IfNoneMatch = strings.Join(held, ",")
		}
		var b body
		if most > 0 && caller.Mistake == nil && r.URL.RawQuery == "" { // else there is a mistake already
			b = h.readBody(w, r, most)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), maxDuration)
		defer cancel()
		a, err := answer(r.WithContext(ctx), caller, b)
		writeLimit(w.Header(), a.Limit)
		if err != nil {
			h.refuse(w, r, err)
			return
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeDeadline))
		head := w.Header()
		writeValidator(head, a.Validator)
		if a.Validator.Unchanged {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		head.Set("Content-Type", media)
		head.Set("Content-Length", strconv.Itoa(len(a.Body)))
		who.unread.Add(int64(len(a.Body)))
		defer who.unread.Add(-int64(len(a.Body)))
		started := h.Now()
		write(w, r, a.Body)
		h.Observe.Wrote(verbOf(r), chi.URLParam(r, "resource"), h.Now().Sub(started))
		a.Done()
	}
}

// write sends a body. A client that is gone has its audit row all the same.
//
// Over HTTP/1.1 the connection is this request's alone, and the answer leaves in one piece if the connection can do
// that.
func write(w http.ResponseWriter, r *http.Request, body []byte) {
	conn, ok := r.Context().Value(connKey{}).(interface{ Together(f func()) })
	if !ok || r.ProtoMajor != 1 {
		_, _ = w.Write(body)
		return
	}
	conn.Together(func() {
		_, _ = w.Write(body)
		_ = http.NewResponseController(w).Flush()
	})
}

// connKey is where a request's context has its connection, below TLS.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		return context.WithValue(ctx, connKey{}, t.NetConn())
	}
	return ctx
}

// verbOf is what a request that was answered asked for.
func verbOf(r *http.Request) string {
	switch {
	case chi.URLParam(r, "id") != "":
		return "get"
	case chi.URLParam(r, "resource") != "" && r.Method == http.MethodPost:
		return "search"
	case chi.URLParam(r, "resource") != "":
		return "list"
	}
	switch verb := path.Base(r.URL.Path); verb {
	case "capabilities", "crl", "hangup", "renew", "roots":
		return verb
	}
	return "unknown"
}

// turnAway refuses what the use case does not see.
func (h *handler) turnAway(w http.ResponseWriter, r *http.Request, c serving.Caller, err error) {
	h.Serving.TurnedAway(c, verbOf(r), chi.URLParam(r, "resource"), err)
	h.Observe.TurnedAway(fault.From(err).Code)
	h.refuse(w, r, err)
}

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeDeadline))
	edge.WriteProblem(w, r, err)
}

// caller reads the identity out of the connection's certificate. The handshake has checked chain and profile;
// the profile is checked here again, because this is where it is relied on.
func (h *handler) caller(r *http.Request) (serving.Caller, *holder, error) {
	c := serving.Caller{RequestID: edge.RequestID(r.Context()), RemoteAddress: edge.ClientAddress(r.Context())}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return c, nil, identity.ErrProfile.Because(errors.New("no client certificate"))
	}
	leaf := r.TLS.PeerCertificates[0]
	fingerprint := identity.Fingerprint(leaf.Raw)
	h.mu.RLock()
	who, ok := h.known[fingerprint]
	h.mu.RUnlock()
	if !ok {
		id, err := h.Profile.Parse(leaf)
		if err != nil {
			return c, nil, err
		}
		who = h.keep(fingerprint, id)
	}
	if h.Anchors != nil {
		if a := h.Anchors(); who.anchors.Load() != a {
			if err := a.verify(leaf, r.TLS.PeerCertificates[1:], h.Now()); err != nil {
				return c, nil, serving.ErrCertificateUnknown.With("the root that this certificate comes from is not in trust any more").Because(err)
			}
			who.anchors.Store(a)
		}
	}
	c.Identity = who.identity
	return c, who, nil
}
