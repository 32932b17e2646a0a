// Package httpapi is the public HTTP API: accounts, resources, grants, peers and audit for this gateway's own
// people, enrollment for strangers with a token, and health for whoever probes.
//
// A handler decodes, calls one use case or store, and encodes; no rule lives here. Every operation names the
// permission it needs, and one that names none answers nobody.
package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/serving"
	"github.com/mosaicstack/gateway/internal/span"
)

// maxBody bounds every request body but an import's.
const maxBody = 64 << 10

// Config is what the API needs.
type Config struct {
	Accounts    *postgres.Accounts
	Resources   *postgres.Resources
	Grants      *postgres.Grants
	Peers       *postgres.Peers
	Credentials *postgres.Credentials
	Audit       *postgres.AuditLog
	Notary      Notary
	Record      Recorder
	Note        func(refusal audit.Event) // counts refusals for the audit log; nil counts none
	Enroll      *enroll.Service           // nil where there is no federation: no grants, no peers, no enrollment
	Adder       *querying.Adder
	Querying    *querying.Service
	Searcher    *serving.Searcher
	Cursors     *page.Sealer
	Keyring     Keyring
	CA          CA
	MCP         http.Handler // the tools for assistants' sessions; nil has none
	Health      Health
	Trace       *span.Tracer // nil makes no spans
	Guesses     Limiter      // per client address: tokens that open nothing

	CRL           func(ctx context.Context) ([]byte, error) // the CA's revocation list, in DER
	PublicURL     string                                    // where people reach this API; enrollment URLs begin with it
	CAFingerprint func(ctx context.Context) (string, error)
	Origin        string // of the one web page that may call this API; empty for none
	Version       string
	Trusted       []netip.Prefix // proxies whose X-Forwarded-For counts
	Now           func() time.Time
	Log           *slog.Logger
}

type api struct {
	Config
	huma huma.API
}

// New returns the handler of the public listener and of the admin socket.
func New(c Config) http.Handler {
	humaErrors()
	a := &api{Config: c}
	r := chi.NewRouter()
	r.Use(crossOrigin(c.Origin))
	r.NotFound(func(w http.ResponseWriter, r *http.Request) { edge.WriteProblem(w, r, errNoRoute) })
	r.MethodNotAllowed(notAllowed(r))
	a.health(r)
	if a.Enroll != nil {
		a.enrollment(r)
		r.Get("/api/federation/crl", a.crl)
	} else {
		unfederated(r, "enrollment", "crl")
	}

	hc := huma.DefaultConfig("Mosaic federation gateway", c.Version)
	hc.DocsPath, hc.SchemasPath, hc.CreateHooks = "", "", nil
	hc.RejectUnknownQueryParameters = true
	hc.Formats = map[string]huma.Format{typeJSON: jsonFormat(), "json": jsonFormat()}
	hc.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer"}}
	hc.Security = []map[string][]string{{"token": {}}}
	// The description of the API is public; everything it describes asks who is calling.
	a.huma = humachi.New(r, hc)
	a.huma.UseMiddleware(a.authorize)
	r.Group(func(r chi.Router) {
		r.Use(a.authenticate)
		a.mcp(r)
	})
	r.Group(func(r chi.Router) {
		r.Use(a.authenticate, typed)
		guarded := humachi.New(r, hiddenDocs(hc))
		guarded.UseMiddleware(a.authorize)
		a.huma = guarded
		a.users()
		a.teams()
		a.tokens()
		a.resources()
		if a.Enroll != nil {
			a.grants()
			a.peers()
			a.roots()
		} else {
			unfederated(r, "grants", "peers", "ca")
		}
		a.across()
		a.audit()
		a.keyring()
		a.describe(guarded.OpenAPI())
	})
	return secretive(edge.Observe(c.Log, "api", c.Trusted, c.Now)(edge.Traced(c.Trace, "api")(r)))
}

var errNotFederated = &fault.Fault{
	Kind: fault.Conflict, Code: "not_federated", Detail: "this gateway does not federate: it has no grants and no peers",
	Hint: "it runs the standalone tier; with MOSAIC_TIER=federated, a Valkey and a Step-CA it does",
}

// unfederated answers what only a gateway that federates can do.
func unfederated(r chi.Router, paths ...string) {
	refuse := func(w http.ResponseWriter, r *http.Request) { edge.WriteProblem(w, r, errNotFederated) }
	for _, path := range paths {
		r.HandleFunc("/api/federation/"+path, refuse)
		r.HandleFunc("/api/federation/"+path+"/*", refuse)
	}
}

// hiddenDocs is the same API description without a second set of description endpoints.
func hiddenDocs(c huma.Config) huma.Config {
	c.OpenAPIPath = ""
	return c
}

// schemaName names a type in the API's description. Two types of ours are called Problem.
func schemaName(t reflect.Type, hint string) string {
	switch t {
	case reflect.TypeFor[fault.Problem]():
		return "FieldProblem"
	case reflect.TypeFor[audit.Row]():
		return "AuditRow"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// operation describes one endpoint: its id is the verb it is known by.
func operation(method, path, id, summary, tag string, needs account.Permission) huma.Operation {
	status := http.StatusOK
	switch {
	case method == http.MethodDelete || method == http.MethodPut:
		status = http.StatusNoContent
	}
	return huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary, Tags: []string{tag}, DefaultStatus: status,
		MaxBodyBytes: maxBody, BodyReadTimeout: 15 * time.Second, Metadata: map[string]any{permissionKey: needs},
	}
}

func created(op huma.Operation) huma.Operation {
	op.DefaultStatus = http.StatusCreated
	return op
}

// register adds an endpoint, and turns the errors of its handler into problems.
func register[I, O any](a *api, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			edge.Note(ctx, err)
			return nil, edge.NewProblem(err, edge.RequestID(ctx))
		}
		return out, nil
	})
}

// body wraps what an endpoint answers with.
type body[T any] struct{ Body T }

func answer[T any](v T, err error) (*body[T], error) {
	if err != nil {
		return nil, err
	}
	return &body[T]{Body: v}, nil
}

// list is the shape of every listing.
type list[T any] struct {
	Data []T `json:"data"`
}

func listing[F, T any](from []F, err error, to func(F) T) (*body[list[T]], error) {
	if err != nil {
		return nil, err
	}
	out := list[T]{Data: make([]T, 0, len(from))}
	for _, f := range from {
		out.Data = append(out.Data, to(f))
	}
	return &body[list[T]]{Body: out}, nil
}

// empty is the answer of an endpoint that has nothing to say.
type empty struct{}
