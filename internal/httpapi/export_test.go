package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/edge"
)

// Guard serves one operation of a test's own behind what every operation of New is behind.
func Guard(c Config, op huma.Operation, called func()) http.Handler {
	humaErrors()
	a := &api{Config: c}
	r := chi.NewRouter()
	r.Use(a.authenticate)
	hc := huma.DefaultConfig("test", "test")
	hc.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	a.huma = humachi.New(r, hc)
	a.huma.UseMiddleware(a.authorize)
	register(a, op, func(context.Context, *struct{}) (*body[string], error) {
		called()
		return answer("done", nil)
	})
	return edge.Observe(c.Log, "test", c.Trusted, c.Now)(r)
}

// PermissionKey is where an operation names its permission.
const PermissionKey = permissionKey
