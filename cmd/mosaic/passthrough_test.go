package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// proxy is an HAProxy in front of a gateway, as Traefik stands there in a swarm: plain HTTP to the API, with
// X-Forwarded-For, and TLS passed through to the federation listener by the name that is asked for, with PROXY protocol 2.
// Its own connections come from an address that no client has.
type proxy struct {
	t               *testing.T
	dir             string
	federation, api *net.TCPListener // taken over by the process, so that no port can be lost in between
}

const (
	proxyAddress  = "127.0.0.99"
	clientAddress = "127.0.0.77"
)

func newProxy(t *testing.T) *proxy {
	t.Helper()
	listen := func() *net.TCPListener {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	return &proxy{t: t, dir: t.TempDir(), federation: listen(), api: listen()}
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func (p *proxy) publicURL() string { return fmt.Sprintf("http://127.0.0.1:%d", port(p.api)) }
func (p *proxy) federationURL() string {
	return fmt.Sprintf("https://localhost:%d", port(p.federation))
}

// before starts HAProxy in front of a gateway.
func (p *proxy) before(g *gatewayProcess) {
	p.t.Helper()
	host := func(text string) string {
		u, err := url.Parse(text)
		if err != nil {
			p.t.Fatal(err)
		}
		return u.Host
	}
	file := filepath.Join(p.dir, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
global
	maxconn 200
defaults
	timeout connect 5s
	timeout client 30s
	timeout server 30s
frontend federation
	mode tcp
	bind fd@3
	tcp-request inspect-delay 5s
	tcp-request content accept if { req.ssl_hello_type 1 }
	use_backend federation if { req.ssl_sni -i localhost }
backend federation
	mode tcp
	source %[1]s
	server gateway %[2]s send-proxy-v2
frontend api
	mode http
	bind fd@4
	option forwardfor
	default_backend api
backend api
	mode http
	source %[1]s
	server gateway %[3]s
`, proxyAddress, host(g.FederationURL), host(g.URL)), 0o600); err != nil {
		p.t.Fatal(err)
	}
	said := &logs{}
	cmd := exec.Command("/usr/sbin/haproxy", "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for _, l := range []*net.TCPListener{p.federation, p.api} {
		f, err := l.File()
		if err != nil {
			p.t.Fatal(err)
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if err := startTied(cmd); err != nil {
		p.t.Fatalf("%v; run deploy/dev/setup.sh test", err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if p.t.Failed() {
			p.t.Logf("haproxy said:\n%s", said)
		}
	})
}

// from makes a peer's connections come from an address, and go through the proxy.
func (p *peerClient) from(address, base string) *peerClient {
	through := *p
	transport := p.http.Transport.(*http.Transport).Clone()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp4", addr)
	}
	p.t.Cleanup(transport.CloseIdleConnections)
	through.http = &http.Client{Transport: transport, Timeout: 15 * time.Second}
	through.base = base + "/federation/v1"
	return &through
}

// auditedRow is what the tests here read of a row.
type auditedRow struct {
	RequestID     string `json:"request_id"`
	Verb          string
	GrantID       string `json:"grant_id"`
	RemoteAddress string `json:"remote_address"`
}

// auditedOf gives the rows of a peer.
func (g *gatewayProcess) auditedOf(peer string) (rows []auditedRow) {
	g.t.Helper()
	g.decode(&rows, "federation", "audit", "list", "--peer", peer)
	return rows
}

func TestTwoGatewaysThroughAPassthroughProxy(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	p := newProxy(t)
	c.env = append(c.env, "MOSAIC_TRUSTED_PROXIES="+proxyAddress, "MOSAIC_PUBLIC_URL="+p.publicURL(), "MOSAIC_FEDERATION_URL="+p.federationURL())
	work := c.launch("work").serves()
	p.before(work)
	work.user("ada@example.org", "ada's")
	work.user("bo@example.org", "bo's")

	t.Run("a gateway asks another one", func(t *testing.T) {
		home := startGateway(t, filepath.Join(c.dir, "home"))
		home.user("ada@home.example")
		_, e := work.grantFor("home", "ada@example.org", tasksOnly)
		if !strings.HasPrefix(e.URL, p.publicURL()) {
			t.Fatalf("the enrollment URL %s is not the proxy's", e.URL)
		}
		home.mosaic("federation", "peer", "add", e.URL, "--name", "work", "--user", "ada@home.example")
		for range 3 {
			var l listDoc
			home.decode(&l, "federation", "query", "work", "tasks", "--user", "ada@home.example")
			if l.titles() != "ada's" {
				t.Errorf("read %q", l.titles())
			}
		}
		asked := 0
		for _, r := range work.auditedOf("home") {
			if r.Verb == "list" {
				asked++
			}
			if r.RemoteAddress == proxyAddress {
				t.Errorf("on record as the proxy's: %+v", r)
			}
			if r.Verb == "list" && r.RemoteAddress != "127.0.0.1" {
				t.Errorf("on record as %s: %+v", r.RemoteAddress, r)
			}
		}
		if asked == 0 {
			t.Error("nothing is on record")
		}
	})

	grantAda, e := work.grantFor("eve", "ada@example.org", tasksOnly)
	ada := work.enrol(e).from(clientAddress, p.federationURL())
	grantBo, e := work.grantFor("bo-peer", "bo@example.org", tasksOnly)
	bo := work.enrol(e)
	forged := forgedHeaders(bo.issued)

	t.Run("the address is the one behind the proxy", func(t *testing.T) {
		a := ada.get("/resources/tasks")
		ada.wants(a, "ada's")
		work.wantRow("eve", a.Header.Get("X-Request-Id"), auditedRow{Verb: "list", GrantID: grantAda.ID, RemoteAddress: clientAddress})
	})
	t.Run("a forged header is no certificate on the federation listener", func(t *testing.T) {
		a := ada.with(forged, "/resources/tasks")
		ada.wants(a, "ada's")
		work.wantRow("eve", a.Header.Get("X-Request-Id"), auditedRow{Verb: "list", GrantID: grantAda.ID, RemoteAddress: clientAddress})
		for _, r := range work.auditedOf("bo-peer") {
			if r.Verb == "list" || r.RemoteAddress == clientAddress {
				t.Errorf("on record as Bo's, whose grant is %s: %+v", grantBo.ID, r)
			}
		}
		nobody := *ada
		config := ada.http.Transport.(*http.Transport).TLSClientConfig.Clone()
		config.Certificates, config.ClientSessionCache = nil, nil // a resumed session is still Ada's
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: config}
		defer transport.CloseIdleConnections()
		nobody.http = &http.Client{Transport: transport, Timeout: 15 * time.Second}
		if a, err := nobody.try(forged, "/resources/tasks"); err == nil {
			t.Errorf("headers instead of a certificate were answered %d", a)
		}
	})
	t.Run("a forged header is no identity on the API", func(t *testing.T) {
		api := *ada
		api.http, api.base = http.DefaultClient, p.publicURL()
		for path, want := range map[string]int{
			"/api/federation/grants": http.StatusUnauthorized, "/api/users": http.StatusUnauthorized, "/federation/v1/resources/tasks": http.StatusNotFound,
		} {
			if a := api.with(forged, path); a.Status != want || strings.Contains(string(a.Body), "bo's") {
				t.Errorf("%s: %d %s, want %d", path, a.Status, a.Body, want)
			}
		}
	})
	t.Run("another name is not passed on", func(t *testing.T) {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port(p.federation)), &tls.Config{ServerName: "other.example", InsecureSkipVerify: true}) //nolint:gosec // nobody is to answer
		if err == nil {
			conn.Close()
			t.Error("the proxy passes on whatever comes: the test shows nothing about its routing")
		}
	})
}

// forgedHeaders are what proxies that end TLS say of a client's certificate, saying that it is somebody else's.
func forgedHeaders(of issuedDoc) http.Header {
	h := http.Header{"X-Forwarded-For": {"192.0.2.1"}, "X-Real-Ip": {"192.0.2.1"}, "Forwarded": {"for=192.0.2.1"}, "Ssl-Client-Verify": {"SUCCESS"}}
	for _, name := range []string{
		"X-Forwarded-Client-Cert", "X-Forwarded-Tls-Client-Cert", "X-Ssl-Client-Cert", "Ssl-Client-Cert", "X-Client-Cert", "X-Client-Certificate",
		"Client-Cert", "X-Arr-Clientcert", "X-Amzn-Mtls-Clientcert",
	} {
		h.Set(name, url.QueryEscape(of.Certificate))
	}
	h.Set("X-Mosaic-Grant-Id", of.GrantID)
	h.Set("X-Mosaic-Subject-User-Id", of.SubjectUserID)
	return h
}

// with asks with more headers.
func (p *peerClient) with(h http.Header, path string) answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.base+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header = h.Clone()
	return do(p.t, p.http, req)
}

// try is with for a request that may fail as a whole.
func (p *peerClient) try(h http.Header, path string) (status int, err error) {
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.base+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header = h.Clone()
	resp, err := p.http.Do(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}

// wants checks that an answer is a list with one title.
func (p *peerClient) wants(a answer, title string) {
	p.t.Helper()
	if a.Status != http.StatusOK || !strings.Contains(string(a.Body), title) || strings.Count(string(a.Body), `"title"`) != 1 {
		p.t.Errorf("%d %s, want the row %q alone", a.Status, a.Body, title)
	}
}

// wantRow checks what is on record of a request.
func (g *gatewayProcess) wantRow(peer, request string, want auditedRow) {
	g.t.Helper()
	want.RequestID = request
	for _, r := range g.auditedOf(peer) {
		if r.RequestID == request {
			if r != want {
				g.t.Errorf("on record as %+v, want %+v", r, want)
			}
			return
		}
	}
	g.t.Errorf("request %s is not on record", request)
}
