package fedapi

import (
	"net/url"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/serving"
)

// FuzzListRequest reads queries that a peer may write as it likes. Whatever is read as meant must be all there was:
// written again it is the same request.
func FuzzListRequest(f *testing.F) {
	for _, query := range []string{
		"", "limit=5", "limit=5&cursor=AA-_&updated_since=2026-01-31T08:00:00%2B02:00", "limit=5&limit=5", "limit=", "cursor", "offset=5",
		"Limit=5", "limit=%zz", "limit=5;cursor=x", "&&limit=5&", "limit=%00", "updated_since=2026-01-31T08:00:00+02:00", "%6cimit=5", "limit[]=5", "=x", "cursor=\xff",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q := listRequest("tasks", query)
		if q.Resource != "tasks" {
			t.Fatalf("%q asks for %q", query, q.Resource)
		}
		if q.Mistake != nil {
			said := fault.From(q.Mistake)
			if said.Kind != fault.Invalid || said.Code == "internal" {
				t.Fatalf("%q is refused with %v", query, q.Mistake)
			}
			// The answer names the parameters there are, and repeats nothing of the peer's.
			if len(query) > 40 && strings.Contains(said.Detail+said.Hint, query) {
				t.Fatalf("%q is in the refusal %q", query, said.Detail)
			}
			return
		}
		values := url.Values{}
		for name, text := range map[string]string{"limit": q.Limit, "cursor": q.Cursor, "updated_since": q.Since} {
			if text != "" {
				values.Set(name, text)
			}
		}
		given, err := url.ParseQuery(query)
		if err != nil || given.Encode() != values.Encode() {
			t.Fatalf("%q was read as %q", query, values.Encode())
		}
		if again := listRequest("tasks", values.Encode()); again != (serving.ListRequest{Resource: "tasks", Limit: q.Limit, Cursor: q.Cursor, Since: q.Since}) {
			t.Fatalf("%q is %+v, written again %+v", query, q, again)
		}
	})
}
