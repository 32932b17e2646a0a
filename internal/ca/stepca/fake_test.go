package stepca_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/certificates/api"
	"github.com/smallstep/certificates/authority/provisioner"
	"go.step.sm/crypto/jose"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/catest"
	"github.com/mosaicstack/gateway/internal/ca/stepca"
	"github.com/mosaicstack/gateway/internal/fault"
)

// fakeCA answers /sign as a test likes: what no real CA can be brought to do.
type fakeCA struct {
	*httptest.Server
	jwk *jose.JSONWebKey

	mu     sync.Mutex
	tokens []string // in the order they came
}

// newFake makes a CA whose n-th signing request is answered by answers[n], the last one for all that follow.
func newFake(t *testing.T, answers ...http.HandlerFunc) *fakeCA {
	t.Helper()
	f := &fakeCA{jwk: newJWK(t)}
	mux := http.NewServeMux()
	// Where redirects point to: whoever follows one is seen here, with the token.
	mux.HandleFunc("POST /1.0/elsewhere", func(http.ResponseWriter, *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.tokens = append(f.tokens, "followed a redirect")
	})
	mux.HandleFunc("POST /1.0/sign", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var req api.SignRequest
		if err := json.Unmarshal(body, &req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.mu.Lock()
		n := len(f.tokens)
		f.tokens = append(f.tokens, req.OTT)
		f.mu.Unlock()
		answers[min(n, len(answers)-1)](w, r)
	})
	mux.HandleFunc("GET /1.0/provisioners", func(w http.ResponseWriter, r *http.Request) {
		// One to a page, ours last.
		page := api.ProvisionersResponse{Provisioners: provisioner.List{f.provisioner(t, "other")}, NextCursor: "2"}
		if r.URL.Query().Get("cursor") == "2" {
			page = api.ProvisionersResponse{Provisioners: provisioner.List{
				f.provisioner(t, ca.FederationProvisioner), f.provisioner(t, ca.ServerProvisioner),
			}}
		}
		_ = json.NewEncoder(w).Encode(page)
	})
	f.Server = httptest.NewUnstartedServer(mux)
	f.Config.ErrorLog = quiet()
	f.EnableHTTP2 = true // a request that is given up leaves the connection to the next
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

func (f *fakeCA) provisioner(t *testing.T, name string) *provisioner.JWK {
	t.Helper()
	public := f.jwk.Public()
	return &provisioner.JWK{Type: "JWK", Name: name, Key: &public}
}

func (f *fakeCA) config(t *testing.T) stepca.Config {
	t.Helper()
	key := marshal(t, f.jwk)
	return stepca.Config{
		URL: f.URL, Roots: []*x509.Certificate{f.Certificate()},
		Federation: stepca.Provisioner{Name: ca.FederationProvisioner, KeyJSON: key},
		Server:     stepca.Provisioner{Name: ca.ServerProvisioner, KeyJSON: key},
	}
}

func (f *fakeCA) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tokens)
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// stepError is an answer in Step-CA's own form.
func stepError(code int) http.HandlerFunc {
	return status(code, fmt.Sprintf(`{"status":%d,"message":"no\u001b[31m way"}`, code))
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestAnswers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answers []http.HandlerFunc
		want    *fault.Fault
		calls   int
		signed  bool // whether one of the calls may have been signed
	}{
		"an error of the CA":           {[]http.HandlerFunc{stepError(500)}, ca.ErrUnavailable, 3, true},
		"a gateway's error":            {[]http.HandlerFunc{status(502, "<html>Bad Gateway</html>")}, ca.ErrUnavailable, 3, true},
		"a hang-up":                    {[]http.HandlerFunc{hangUp}, ca.ErrUnavailable, 3, true},
		"half an answer":               {[]http.HandlerFunc{halfAnswer}, ca.ErrUnavailable, 3, true},
		"a request to wait":            {[]http.HandlerFunc{status(429, "slow down")}, ca.ErrUnavailable, 1, true},
		"a refused token":              {[]http.HandlerFunc{stepError(401)}, ca.ErrAudience, 1, false},
		"a proxy that wants a login":   {[]http.HandlerFunc{status(401, "<html>who are you?</html>")}, ca.ErrAnswer, 1, true},
		"a forbidden one":              {[]http.HandlerFunc{stepError(403)}, ca.ErrPolicy, 1, false},
		"a bad one":                    {[]http.HandlerFunc{stepError(400)}, ca.ErrPolicy, 1, false},
		"another refusal":              {[]http.HandlerFunc{stepError(413)}, ca.ErrRefused, 1, false},
		"not implemented":              {[]http.HandlerFunc{stepError(501)}, ca.ErrRefused, 1, false},
		"no such path":                 {[]http.HandlerFunc{status(404, "404 page not found")}, ca.ErrAnswer, 1, true},
		"a redirect":                   {[]http.HandlerFunc{redirect}, ca.ErrAnswer, 1, true},
		"HTML":                         {[]http.HandlerFunc{status(200, "<html>hello</html>")}, ca.ErrAnswer, 1, true},
		"nothing":                      {[]http.HandlerFunc{status(201, "")}, ca.ErrAnswer, 1, true},
		"JSON without a certificate":   {[]http.HandlerFunc{status(201, `{"tlsOptions":{}}`)}, ca.ErrAnswer, 1, true},
		"null for a certificate":       {[]http.HandlerFunc{status(201, `{"crt":null,"certChain":[null]}`)}, ca.ErrAnswer, 1, true},
		"a certificate that is none":   {[]http.HandlerFunc{status(201, `{"crt":"-----BEGIN"}`)}, ca.ErrAnswer, 1, true},
		"a list":                       {[]http.HandlerFunc{status(201, `[]`)}, ca.ErrAnswer, 1, true},
		"an error, then a refusal":     {[]http.HandlerFunc{stepError(500), stepError(403)}, ca.ErrPolicy, 2, true},
		"an error, then a wrong token": {[]http.HandlerFunc{hangUp, stepError(401)}, ca.ErrAudience, 2, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := newFake(t, test.answers...)
			_, err := newClient(t, fake.config(t)).IssueLeaf(catest.Context(t), catest.NewRequest(t))
			wantFault(t, err, test.want)
			if ca.MayHaveSigned(err) != test.signed {
				t.Errorf("may have signed: %t, want %t", !test.signed, test.signed)
			}
			tokens := fake.seen()
			if len(tokens) != test.calls {
				t.Errorf("asked %d times, want %d", len(tokens), test.calls)
			}
			slices.Sort(tokens)
			if len(slices.Compact(tokens)) != test.calls {
				t.Error("a token was sent twice: the CA burns it at the first")
			}
			if strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("%q carries control characters into the log", err)
			}
		})
	}
}

func halfAnswer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, `{"crt":"`)
	panic(http.ErrAbortHandler)
}

func redirect(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, "/1.0/elsewhere", http.StatusTemporaryRedirect)
}

// chainOf answers with certificates in the given fields.
func chainOf(fields map[string]any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(fields)
	}
}

func TestChainForms(t *testing.T) {
	t.Parallel()
	leaf, issuer, root := strangerRoot(t), otherRoot(t), otherRoot(t)
	text := func(c *x509.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	tests := map[string]struct {
		fields map[string]any
		want   []*x509.Certificate
	}{
		"certChain": {map[string]any{
			"crt": text(leaf), "ca": text(issuer), "certChain": []string{text(leaf), text(issuer)},
		}, []*x509.Certificate{issuer}},
		"crt and ca":         {map[string]any{"crt": text(leaf), "ca": text(issuer)}, []*x509.Certificate{issuer}},
		"crt alone":          {map[string]any{"crt": text(leaf)}, nil},
		"an empty certChain": {map[string]any{"crt": text(leaf), "certChain": []string{}}, nil},
		"with the root": {map[string]any{
			"certChain": []string{text(leaf), text(issuer), text(root)},
		}, []*x509.Certificate{issuer}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := newFake(t, chainOf(test.fields))
			cfg := fake.config(t)
			cfg.Roots = append(cfg.Roots, root)
			chain, err := newClient(t, cfg).IssueLeaf(catest.Context(t), catest.NewRequest(t))
			if err != nil {
				t.Fatal(err)
			}
			if !chain.Leaf.Equal(leaf) || !slices.EqualFunc(chain.Intermediates, test.want, (*x509.Certificate).Equal) {
				t.Errorf("got a leaf and %d intermediates, want %d", len(chain.Intermediates), len(test.want))
			}
			if n := strings.Count(chain.PEM(), "BEGIN CERTIFICATE"); n != 1+len(test.want) || !strings.HasPrefix(chain.PEM(), text(leaf)) {
				t.Errorf("the PEM has %d certificates, or not the leaf first", n)
			}
		})
	}
}

func TestErrorsThatPassAreForgotten(t *testing.T) {
	t.Parallel()
	good := chainOf(map[string]any{"crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strangerRoot(t).Raw}))})
	fake := newFake(t, stepError(503), hangUp, good)
	if _, err := newClient(t, fake.config(t)).IssueLeaf(catest.Context(t), catest.NewRequest(t)); err != nil {
		t.Error(err)
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	t.Run("of an attempt", func(t *testing.T) {
		t.Parallel()
		fake := newFake(t, hang)
		cfg := fake.config(t)
		cfg.Attempt = 500 * time.Millisecond
		client := newClient(t, cfg)
		if err := client.Ready(catest.Context(t)); err != nil { // so that the attempts find a connection
			t.Fatal(err)
		}
		_, err := client.IssueLeaf(catest.Context(t), catest.NewRequest(t))
		wantFault(t, err, ca.ErrUnavailable)
		if n := len(fake.seen()); n < 2 || n > 3 { // on a busy machine an attempt may end before it is seen
			t.Errorf("asked %d times, want 3", n)
		}
	})
	t.Run("of a call", func(t *testing.T) {
		t.Parallel()
		fake := newFake(t, hang)
		cfg := fake.config(t)
		cfg.Timeout = 50 * time.Millisecond
		_, err := newClient(t, cfg).IssueLeaf(catest.Context(t), catest.NewRequest(t))
		wantFault(t, err, ca.ErrUnavailable)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v does not say that time ran out", err)
		}
	})
	t.Run("of the caller", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		fake := newFake(t, func(w http.ResponseWriter, r *http.Request) { cancel(); hang(w, r) })
		_, err := newClient(t, fake.config(t)).IssueLeaf(ctx, catest.NewRequest(t))
		wantFault(t, err, ca.ErrUnavailable)
		if !errors.Is(err, context.Canceled) || len(fake.seen()) != 1 {
			t.Errorf("%v after %d attempts, want one that was cancelled", err, len(fake.seen()))
		}
	})
}

func TestWhoCannotBeReachedOrTrusted(t *testing.T) {
	t.Parallel()
	fake := newFake(t, stepError(500))
	plain := httptest.NewUnstartedServer(http.NotFoundHandler())
	plain.Config.ErrorLog = quiet()
	plain.Start()
	t.Cleanup(plain.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*stepca.Config)
		want   *fault.Fault
		says   string
	}{
		"an unknown host":        {func(c *stepca.Config) { c.URL = "https://step-ca.invalid" }, ca.ErrUnavailable, "not found"},
		"a closed port":          {func(c *stepca.Config) { c.URL = "https://" + closed.Addr().String() }, ca.ErrUnavailable, "cannot be reached"},
		"a server without TLS":   {func(c *stepca.Config) { c.URL = "https" + strings.TrimPrefix(plain.URL, "http") }, ca.ErrTrust, "TLS"},
		"a server of another CA": {func(c *stepca.Config) { c.Roots = []*x509.Certificate{otherRoot(t)} }, ca.ErrTrust, "pinned"},
		"a server of another name": {func(c *stepca.Config) {
			c.URL = strings.Replace(c.URL, "127.0.0.1", "localhost", 1)
		}, ca.ErrTrust, "pinned"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := fake.config(t)
			test.change(&cfg)
			_, err := newClient(t, cfg).CRL(catest.Context(t))
			wantFault(t, err, test.want)
			if detail := fault.From(err).Detail; !strings.Contains(detail, test.says) {
				t.Errorf("%q does not say %q", detail, test.says)
			}
			_, err = newClient(t, cfg).IssueLeaf(catest.Context(t), catest.NewRequest(t))
			wantFault(t, err, test.want)
			if ca.MayHaveSigned(err) {
				t.Error("who was never asked may have signed")
			}
		})
	}
}

func TestCRLMustBeOne(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]*fault.Fault{
		"<html>": ca.ErrAnswer, "": ca.ErrAnswer, "0123": ca.ErrAnswer,
	} {
		srv := httptest.NewTLSServer(status(200, body))
		t.Cleanup(srv.Close)
		cfg := newFake(t, stepError(500)).config(t)
		cfg.URL, cfg.Roots = srv.URL, []*x509.Certificate{srv.Certificate()}
		_, err := newClient(t, cfg).CRL(catest.Context(t))
		wantFault(t, err, want)
	}
}

func TestReadyReadsEveryPage(t *testing.T) {
	t.Parallel()
	fake := newFake(t, stepError(500))
	client := newClient(t, fake.config(t))
	if err := client.Ready(catest.Context(t)); err != nil {
		t.Error(err)
	}
}
