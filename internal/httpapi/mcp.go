package httpapi

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/fault"
)

var errOrigin = &fault.Fault{
	Kind: fault.Forbidden, Code: "origin_not_allowed", Detail: "a page of this origin may not talk to the gateway",
	Hint: "an admin lets one origin in with GATEWAY_CORS_ORIGIN; programs send no Origin",
}

// mcp mounts the tools for assistants' sessions. Who asks is found out as for every other operation.
func (a *api) mcp(r chi.Router) {
	if a.MCP == nil {
		return
	}
	r.Handle("/mcp", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !principalOf(r.Context()).May(account.PeersQuery):
			edge.WriteProblem(w, r, errForbidden.With("your role does not have the permission %s", account.PeersQuery))
		case !a.fromHere(r.Header.Values("Origin")):
			// The protocol asks for this: a web site must not talk to a gateway on its visitor's own machine.
			edge.WriteProblem(w, r, errOrigin)
		default:
			a.MCP.ServeHTTP(w, r)
		}
	}))
}

// fromHere tells whether a request comes from a program, which sends no Origin, or from a page that may ask.
func (a *api) fromHere(origins []string) bool {
	switch len(origins) {
	case 0:
		return true
	case 1:
		return origins[0] == a.PublicURL || a.Origin != "" && origins[0] == a.Origin
	}
	return false
}
