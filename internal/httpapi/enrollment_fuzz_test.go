package httpapi

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/mosaicstack/gateway/internal/edge"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
)

// FuzzARedemptionIsReadOrRefused sends whatever it likes to the decoder of enrollment requests, as a stranger can.
func FuzzARedemptionIsReadOrRefused(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `null`, `[]`, `{"csr":"x"}`, `{"csr":"x","ttl_seconds":60}`, `{"csr":"x","ttl_seconds":1e3}`, `{"csr":null}`, `{"token":"t","csr":"x"}`,
		`{"token":null,"csr":"x"}`, `{"csr":"x"}{"csr":"y"}`, `{"csr":"x"} `, `{"csr":7}`, `{"csr":"x","other":1}`, `{"CSR":"x"}`, `{"csr":"\ud800"}`,
		`{"csr":"x","ttl_seconds":99999999999999999999}`, "{\"csr\":\"\xff\"}", `{"csr":` + strings.Repeat("[", 20_000), `{"` + strings.Repeat("k", 20_000) + `":1}`, `{"ttl_seconds":` + strings.Repeat("9", 20_000) + `}`, strings.Repeat(" ", maxBody+1),
		"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
	} {
		for _, media := range []string{"application/json", "application/pkcs10", "application/x-pem-file", "text/plain", ""} {
			f.Add([]byte(body), media, "token-in-the-path", "")
			f.Add([]byte(body), media, "", "key")
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, media, token, key string) {
		var got enroll.Request
		var err error
		req := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		req.Header["Content-Type"] = []string{media}
		if key != "" {
			req.Header["Idempotency-Key"] = []string{key}
		}
		route := chi.NewRouteContext()
		route.URLParams.Add("token", token)
		h := func(w http.ResponseWriter, r *http.Request) {
			chi.RouteContext(r.Context()).URLParams = route.URLParams
			if got, err = decodeRedemption(w, r); err != nil {
				edge.WriteProblem(w, r, err)
			}
		}
		var log bytes.Buffer
		rec := httptest.NewRecorder()
		edge.Observe(slog.New(slog.NewJSONHandler(&log, nil)), "test", nil, time.Now)(http.HandlerFunc(h)).ServeHTTP(rec, req)

		if err != nil {
			refused(t, err, rec, &log)
			return
		}
		if len(body) > maxBody {
			t.Errorf("a body of %d bytes was read", len(body))
		}
		if token != "" && got.Token != token {
			t.Errorf("the token of the address is %q, and %q was read", token, got.Token)
		}
		if got.IdempotencyKey != key {
			t.Errorf("idempotency key %q, sent %q", got.IdempotencyKey, key)
		}
		if strings.Contains(strings.ToLower(media), "json") {
			if !json.Valid(body) {
				t.Errorf("read from what is no JSON document: %q", body)
			}
		} else if !bytes.Equal(got.CSR, body) {
			t.Error("the PEM is not the body")
		}
	})
}

// refused wants a refusal that is the caller's to mend, and a log that does not swell with what they sent.
func refused(t *testing.T, err error, rec *httptest.ResponseRecorder, log *bytes.Buffer) {
	t.Helper()
	switch fl := fault.From(err); fl.Kind {
	case fault.Malformed, fault.TooLarge, fault.Unsupported, fault.Invalid:
		if fl.Detail == "" || fl.Hint == "" || rec.Code != fl.Kind.Status() {
			t.Errorf("%d without detail or hint: %v", rec.Code, err)
		}
	default:
		t.Errorf("kind %v: %v", fl.Kind, err)
	}
	if log.Len() > 1000 {
		t.Errorf("%d bytes of log for one refusal: %.300s", log.Len(), log)
	}
	if !json.Valid(rec.Body.Bytes()) {
		t.Errorf("the problem is no JSON: %q", rec.Body)
	}
}
