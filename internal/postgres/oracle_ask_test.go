package postgres_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"

	"github.com/google/go-cmp/cmp"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/serving"
)

// asking is a list request.
type asking struct {
	grant    twinGrant
	resource string
	limit    string // as in the URL; empty: none
	since    string
	cursor   string
}

// ask sends a list request and reads the answer.
func (tw *twin) ask(a asking) (got reply, cursor string) {
	tw.Helper()
	answer, err := tw.service.List(tw.ctx(), a.grant.caller, serving.ListRequest{Resource: a.resource, Limit: a.limit, Cursor: a.cursor, Since: a.since})
	return tw.read("list", a.resource, answer, err)
}

// fetch sends a get request and reads the answer.
func (tw *twin) fetch(g twinGrant, resource, id string) reply {
	tw.Helper()
	answer, err := tw.service.Get(tw.ctx(), g.caller, resource, id)
	got, _ := tw.read("get", resource, answer, err)
	return got
}

// allPages bounds how many pages anybody follows: a cursor that does not move would have no last page.
const allPages = 200

// read turns an answer into what the oracle says, and wants its audit event to say the same.
func (tw *twin) read(verb, resource string, a serving.Answer, err error) (got reply, cursor string) {
	tw.Helper()
	if err != nil {
		f := fault.From(err)
		got = refusedWith(f.Kind.Status(), f.Code)
		if f.Kind == fault.Internal {
			tw.Errorf("%s %s: %v", verb, resource, err)
		}
		if a.Body != nil {
			tw.Errorf("a refusal with a body: %s", a.Body)
		}
	} else {
		got, cursor = tw.decode(verb, a.Body)
	}
	tw.recordedAs(verb, got, len(a.Body))
	return got, cursor
}

// recordedAs wants the audit event of the last request to say what its answer was.
func (tw *twin) recordedAs(verb string, got reply, bytes int) {
	tw.Helper()
	e := tw.recorded.last()
	if e.StatusCode != got.Status || e.DeniedReason != got.Code || e.RowsOut != len(got.Data) || e.BytesOut != int64(bytes) || e.Verb != verb {
		tw.Errorf("recorded as %s %d %q with %d rows and %d bytes, want %s %d %q with %d and %d", e.Verb, e.StatusCode, e.DeniedReason, e.RowsOut, e.BytesOut,
			verb, got.Status, got.Code, len(got.Data), bytes)
	}
}

// strict reads JSON that has nothing else in it.
func (tw *twin) strict(doc []byte, to any) {
	tw.Helper()
	d := json.NewDecoder(bytes.NewReader(doc))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil || d.More() {
		tw.Fatalf("%v in the answer %s", err, doc)
	}
}

func (tw *twin) decode(verb string, body []byte) (got reply, cursor string) {
	tw.Helper()
	got.Status = http.StatusOK
	if verb == "get" {
		var doc struct{ Data map[string]any }
		tw.strict(body, &doc)
		got.Data = []map[string]any{doc.Data}
		return got, ""
	}
	var doc struct {
		Data []map[string]any
		Page *struct {
			Limit, Capped, Next_cursor json.RawMessage //nolint:revive,staticcheck // the wire's name
		}
	}
	tw.strict(body, &doc)
	if doc.Data == nil || doc.Page == nil || doc.Page.Limit == nil || doc.Page.Capped == nil || doc.Page.Next_cursor == nil {
		tw.Fatalf("something is missing in %s", body)
	}
	got.Page = &pageReply{}
	tw.strict(doc.Page.Limit, &got.Page.Limit)
	tw.strict(doc.Page.Capped, &got.Page.Capped)
	var next *string
	tw.strict(doc.Page.Next_cursor, &next)
	if len(doc.Data) > 0 {
		got.Data = doc.Data
	}
	if next != nil {
		got.Page.More, cursor = true, *next
	}
	return got, cursor
}

// want compares an answer with the oracle's.
func (tw *twin) want(what string, want, got reply) {
	tw.Helper()
	if !reflect.DeepEqual(want, got) {
		tw.Fatalf("%s (-oracle +gateway):\n%s", what, diff(want, got))
	}
}

func diff(want, got any) string {
	return cmp.Diff(want, got, cmp.AllowUnexported(found{}))
}
