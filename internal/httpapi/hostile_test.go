package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/httpapi"
)

// described is what of the API's description this test reads.
type described struct {
	Paths map[string]map[string]struct {
		OperationID string
		RequestBody *struct {
			Content map[string]struct {
				Schema struct {
					Ref string `json:"$ref"`
				}
			}
		}
	}
	Components struct {
		Schemas map[string]struct {
			Properties map[string]struct {
				Type any
			}
		}
	}
}

// TestBytesThatAreNoTextAreRefusedByEveryOperation sends what PostgreSQL cannot store as text, as every path
// parameter, query and field of every operation: each is the caller's mistake, and none a failure of ours.
func TestBytesThatAreNoTextAreRefusedByEveryOperation(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *httpapi.Config) { c.CRL = func(context.Context) ([]byte, error) { return []byte{}, nil } })
	a.user("root@example.org", account.Admin)
	token, _ := a.token("root@example.org")
	var api described
	if err := json.Unmarshal(a.ask(http.MethodGet, a.url+"/openapi.json", "").body, &api); err != nil {
		t.Fatal(err)
	}
	if len(api.Paths) < 20 {
		t.Fatalf("only %d paths are described", len(api.Paths))
	}
	auth := []string{"Authorization", "Bearer " + token, "Content-Type", "application/json"}
	asked := 0
	ask := func(what, method, path, body string) {
		t.Helper()
		asked++
		if got := a.ask(method, a.url+path, body, auth...); got.status >= 500 {
			t.Errorf("%s: %s %s %q: %d %s", what, method, path, body, got.status, got.body)
		}
	}
	for _, odd := range []struct{ name, escaped, text string }{
		{"a zero byte", "a%00b", `a\u0000b`},
		{"bytes that are no UTF-8", "%ff%fe", "\xff\xfe"},
		{"half a surrogate", "%ed%a0%80", `\ud800`},
		{"a long one", strings.Repeat("%f0%9f%92%a5", 1000), strings.Repeat("\U0001F4A5", 1000)},
	} {
		for path, methods := range api.Paths {
			for method, op := range methods {
				method = strings.ToUpper(method)
				what := odd.name + " in " + op.OperationID
				fields := map[string]string{} // name to JSON value
				if op.RequestBody != nil {
					name := strings.TrimPrefix(op.RequestBody.Content["application/json"].Schema.Ref, "#/components/schemas/")
					for field := range api.Components.Schemas[name].Properties {
						fields[field] = `"` + odd.text + `"`
					}
				}
				var whole []string
				for field, value := range fields {
					ask(what+", field "+field, method, filled(path, "tasks"), fmt.Sprintf("{%q:%s}", field, value))
					whole = append(whole, fmt.Sprintf("%q:%s", field, value))
				}
				ask(what+", every field", method, filled(path, "tasks"), "{"+strings.Join(whole, ",")+"}")
				ask(what+", path", method, filled(path, odd.escaped), "{}")
				if method == http.MethodGet {
					for _, parameter := range []string{"limit", "cursor", "peers", "since", "updated_since", "user", odd.escaped} {
						ask(what+", query", method, filled(path, "tasks")+"?"+parameter+"="+odd.escaped, "")
					}
				}
			}
		}
	}
	if asked < 500 {
		t.Errorf("only %d requests were made", asked)
	}
}

// filled puts one value in the place of every parameter of a path.
func filled(path, value string) string {
	for {
		begin, rest, found := strings.Cut(path, "{")
		if !found {
			return path
		}
		_, end, _ := strings.Cut(rest, "}")
		path = begin + value + end
	}
}
