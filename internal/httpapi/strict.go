package httpapi

import (
	"encoding/json"
	"mime"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/scope/strictjson"
)

// bodyLimits bound the tree that a request body may become. A scope document is left to scope.Parse, which tells its
// author of everything that is wrong with it, at paths of that document.
func bodyLimits(bytes int) strictjson.Limits {
	return strictjson.Limits{Bytes: bytes, Depth: 32, Nodes: 20_000, Opaque: "scope"}
}

// strictly refuses what encoding/json forgives and two readers may understand differently: a key that is there
// twice, broken UTF-8, something after the document.
func strictly(data []byte) error {
	var report strictjson.Report
	if _, ok := strictjson.Parse(data, bodyLimits(len(data)), &report); !ok {
		if problems := report.Problems(); len(problems) > 0 {
			return errBadRequest.With("%s: %s", problems[0].Path, problems[0].Detail)
		}
		return errBadRequest
	}
	if problems := report.Problems(); len(problems) > 0 {
		return errInvalid.Listing(problems)
	}
	return nil
}

// jsonFormat is how huma reads and writes JSON here: strictly.
func jsonFormat() huma.Format {
	f := huma.DefaultJSONFormat
	f.Unmarshal = func(data []byte, v any) error {
		if err := strictly(data); err != nil {
			return err
		}
		return json.Unmarshal(data, v)
	}
	return f
}

// typed refuses a body that does not say what it is.
func typed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 && r.Method != http.MethodGet && r.Method != http.MethodHead {
			media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
			if err != nil || media != typeJSON && media != typeLines {
				edge.WriteProblem(w, r, errContentType)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// notAllowed answers a method that an address does not take, and names those it does (RFC 9110, section 15.5.6).
func notAllowed(routes chi.Routes) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
				w.Header().Add("Allow", method)
			}
		}
		edge.WriteProblem(w, r, errMethod)
	}
}
