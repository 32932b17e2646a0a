package querying_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/resource"
)

const foundOne = `{"data":[{"id":"1","title":"remote-secret","score":0.5,"snippet":"remote-«secret»"}],"page":{"limit":7,"capped":false,"next_cursor":null},"search":{"mode":"hybrid","model":"m","pending":2}}`

func TestASearchAsksThePeerAndIsOnRecord(t *testing.T) {
	t.Parallel()
	var asked, media string
	w, _, _ := connected(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		asked, media = r.Method+" "+r.URL.RequestURI()+" "+string(b), r.Header.Get("Content-Type")
		answer(200, foundOne)(w, r)
	})
	out, err := w.service.Search(t.Context(), w.caller(), "work", "tasks", []byte(` {"limit":7,"query":"a <secret> plan"}`))
	noError(t, err)
	body, err := json.Marshal(out)
	noError(t, err)
	const want = `{"data":[{"id":"1","title":"remote-secret","score":0.5,"snippet":"remote-«secret»","source":"work"}],` +
		`"sources":[{"name":"work","status":"ok","rows":1}],"page":{"limit":7,"capped":false,"next_cursor":null},"search":{"mode":"hybrid","model":"m","pending":2}}`
	if string(body) != want {
		t.Errorf("%s, want\n%s", body, want)
	}
	if asked != `POST /federation/v1/resources/tasks/search {"query":"a \u003csecret\u003e plan","limit":7}` || media != "application/json" {
		t.Errorf("asked %s as %s", asked, media)
	}
	events := w.events("search")
	if len(events) != 1 || events[0].RowsOut != 1 || events[0].StatusCode != 200 || !bytes.Equal(events[0].QueryHash, w.keys.MAC("query", []byte("tasks\x00\x00a <secret> plan"))) {
		t.Errorf("on record as %+v", events)
	}
	if n := w.count(`SELECT count(*) FROM federation_audit_log x WHERE x::text LIKE '%secret%'`); n != 0 {
		t.Error("the query is in the audit log")
	}
}

func TestASearchThatCannotBeAskedIsNotSent(t *testing.T) {
	t.Parallel()
	w, b, _ := connected(t, answer(200, foundOne))
	for body, want := range map[string]error{
		`{}`: resource.ErrSearchInvalid, `{"query":"x","mode":"best"}`: resource.ErrSearchInvalid, `{"query":"x","cursor":"y"}`: resource.ErrSearchInvalid,
	} {
		_, err := w.service.Search(t.Context(), w.caller(), "work", "tasks", []byte(body))
		wantError(t, err, want)
	}
	_, err := w.service.Search(t.Context(), w.caller(), "work", "api_keys", []byte(`{"query":"x","mode":"semantic"}`))
	wantError(t, err, resource.ErrModeUnsupported)
	_, err = w.service.Search(t.Context(), w.caller(), "work", "users", []byte(`{"query":"x"}`))
	wantError(t, err, resource.ErrUnknown)
	if len(b.identities) != 0 {
		t.Errorf("the peer was asked %d times", len(b.identities))
	}
}

func TestAPeersAnswerToASearchIsNotBelieved(t *testing.T) {
	t.Parallel()
	const page = `,"page":{"limit":7,"capped":false,"next_cursor":null}`
	const info = `,"search":{"mode":"lexical","model":null}}`
	row := func(s string) string { return `{"data":[` + s + `]` + page + info }
	for name, body := range map[string]string{
		"no search":                `{"data":[]` + page + `}`,
		"search is null":           `{"data":[]` + page + `,"search":null}`,
		"search is a list":         `{"data":[]` + page + `,"search":[]}`,
		"a mode that is none":      `{"data":[]` + page + `,"search":{"mode":"best","model":null}}`,
		"a model that is a number": `{"data":[]` + page + `,"search":{"mode":"lexical","model":1}}`,
		"pending below nothing":    `{"data":[]` + page + `,"search":{"mode":"hybrid","model":"m","pending":-1}}`,
		"degraded by a sentence":   `{"data":[]` + page + `,"search":{"mode":"lexical","model":null,"degraded":"see http://x"}}`,
		"no score":                 row(`{"snippet":"x"}`),
		"no snippet":               row(`{"score":1}`),
		"a score that is a text":   row(`{"score":"1","snippet":"x"}`),
		"a score that is null":     row(`{"score":null,"snippet":"x"}`),
		"a score without end":      row(`{"score":1e999,"snippet":"x"}`),
		"a snippet that is null":   row(`{"score":1,"snippet":null}`),
		"a snippet that is a list": row(`{"score":1,"snippet":["x"]}`),
		"two snippets":             row(`{"score":1,"snippet":"x","snippet":"y"}`),
		"two in different letters": row(`{"score":1,"snippet":"x","Snippet":"<b>"}`),
		"scores in other letters":  row(`{"Score":1,"snippet":"x"}`),
		"what a list answers":      aPage,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, _ := connected(t, answer(200, body))
			_, err := w.service.Search(t.Context(), w.caller(), "work", "tasks", []byte(`{"query":"x"}`))
			wantError(t, err, querying.ErrAnswerInvalid)
		})
	}
	w, _, _ := connected(t, answer(200, `{"data":[{"id":"1","score":1e-3,"snippet":"\u001b[2J<b>«x»\u202e</b>","n":1.0}]`+page+`,"search":{"mode":"semantic","model":"a\u001b[31mb","extra":1}}`))
	out, err := w.service.Search(t.Context(), w.caller(), "work", "tasks", []byte(`{"query":"x"}`))
	noError(t, err)
	if got := string(out.Data[0]); got != `{"id":"1","score":1e-3,"snippet":"[2J‹b›«x»‹/b›","n":1.0,"source":"work"}` || *out.Search.Model != "a[31mb" {
		t.Errorf("%s by %q", got, *out.Search.Model)
	}
}

func TestAPeersRefusalOfASearchIsPassedOn(t *testing.T) {
	t.Parallel()
	for code, tt := range map[string]struct {
		status int
		want   error
	}{
		"search_invalid":          {422, resource.ErrSearchInvalid},
		"search_mode_unsupported": {422, resource.ErrModeUnsupported},
		"embeddings_unavailable":  {503, querying.ErrUnreachable},
		"search_busy":             {503, querying.ErrUnreachable},
		"not_found":               {404, querying.ErrNotFound},
	} {
		w, _, _ := connected(t, func(w http.ResponseWriter, _ *http.Request) { problem(w, tt.status, code, "a secret of the peer") })
		_, err := w.service.Search(t.Context(), w.caller(), "work", "tasks", []byte(`{"query":"x"}`))
		wantError(t, err, tt.want)
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%v repeats the peer", err)
		}
	}
}
