package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// link is the way from home to one peer, which a test can make as bad as it likes. It is a peer of its own at home, with
// a breaker and a pool of its own, whoever answers at its other end.
type link struct {
	t     *testing.T
	name  string
	proxy *toxiproxy.Proxy
	grant grantDoc
}

// newLink makes a proxy in front of a gateway's federation listener, on the same address and another port: the
// gateway's certificate is for the address, and home is told the proxy's port at enrollment.
func newLink(t *testing.T, name string, home, to *gatewayProcess, scope string) *link {
	t.Helper()
	fed, err := url.Parse(to.FederationURL)
	if err != nil {
		t.Fatal(err)
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	l := &link{t: t, name: name, proxy: toxiproxy.NewProxy(server, name, net.JoinHostPort(fed.Hostname(), "0"), fed.Host)}
	if err := l.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.proxy.Stop)
	var e enrollmentDoc
	l.grant, e = to.grantFor("home-"+name, "ada@example.org", scope, asOftenAsAsked...)
	web := relay(t, to, "https://"+l.proxy.Listen)
	home.mosaic("federation", "peer", "add", strings.Replace(e.URL, to.URL, web, 1), "--name", name, "--user", "ada@home.example")
	return l
}

// relay stands in front of a gateway's enrollment, and tells whoever redeems a token that the federation listener is
// elsewhere: that is what a forwarded port does.
func relay(t *testing.T, to *gatewayProcess, federationURL string) string {
	t.Helper()
	target, err := url.Parse(to.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(r *http.Response) error {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			body = bytes.ReplaceAll(body, []byte(to.FederationURL), []byte(federationURL))
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			r.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
	})
	t.Cleanup(s.Close)
	return s.URL
}

// toxic makes the link bad in one way, for connections that are open and for new ones. Attributes are toxiproxy's, in
// milliseconds, bytes and KB/s.
func (l *link) toxic(kind, stream string, toxicity float64, attributes map[string]any) toxics.Toxic {
	l.t.Helper()
	doc, err := json.Marshal(map[string]any{"type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes})
	if err != nil {
		l.t.Fatal(err)
	}
	added, err := l.proxy.Toxics.AddToxicJson(bytes.NewReader(doc))
	if err != nil {
		l.t.Fatal(err)
	}
	return added.Toxic
}

// answers makes what the peer says bad.
func (l *link) answers(kind string, attributes map[string]any) {
	l.t.Helper()
	l.toxic(kind, "downstream", 1, attributes)
}

// heal makes the link good.
func (l *link) heal() {
	l.t.Helper()
	l.proxy.Toxics.ResetToxics(context.WithoutCancel(l.t.Context()))
	if err := l.proxy.Start(); err != nil && err != toxiproxy.ErrProxyAlreadyStarted {
		l.t.Fatal(err)
	}
}

// half makes half-open connections of those that are there and of those to come: what home sends is accepted and
// never arrives. After the returned function was called, new connections are whole again, and the others stay as they
// are: nobody at their other end knows them any more, and nobody says so.
func (l *link) half() (whole func()) {
	l.t.Helper()
	s := l.toxic("swallow", "upstream", 1, nil).(*swallow)
	return func() { s.over.Store(true) }
}

// swallow is a toxic that takes everything and gives nothing, for the life of a connection that it once had. Each
// connection's state is whether it is lost.
type swallow struct{ over atomic.Bool }

func (s *swallow) NewState() any { return !s.over.Load() }

func (s *swallow) Pipe(stub *toxics.ToxicStub) {
	if lost, _ := stub.State.(bool); !lost {
		new(toxics.NoopToxic).Pipe(stub)
		return
	}
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil {
				stub.Close()
				return
			}
		}
	}
}

// lose is a toxic that ends a connection instead of passing a piece of data on: so many times, and after that with a
// chance.
type lose struct {
	Times  int64   `json:"times"`
	Chance float64 `json:"chance"`

	lost atomic.Int64
}

func (l *lose) Pipe(stub *toxics.ToxicStub) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			if chunk == nil || l.lost.Add(1) <= l.Times || rand.Float64() < l.Chance {
				stub.Close()
				return
			}
			stub.Output <- chunk
		}
	}
}

// to leads the link to another port of the gateway.
func (l *link) to(upstream string) {
	l.t.Helper()
	l.proxy.Stop()
	if err := l.proxy.Update(&toxiproxy.Proxy{Listen: l.proxy.Listen, Upstream: upstream, Enabled: true}); err != nil {
		l.t.Fatal(err)
	}
}
