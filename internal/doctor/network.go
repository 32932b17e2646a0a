package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"
)

// dialWithin bounds one connection: whoever takes longer is as good as away, for a peer as well.
const dialWithin = 5 * time.Second

// listenerFacts are what a handshake at the federation URL showed.
type listenerFacts struct {
	handshake
	files []*x509.Certificate
	own   *x509.Certificate // what the listener of this machine shows; nil when there is none to ask
}

// handshake is what one handshake showed.
type handshake struct {
	shown []*x509.Certificate
	asked bool     // for a client certificate
	names [][]byte // the subjects of the CAs it takes
}

// ownTries is how often the federation URL is asked until this gateway itself answers: behind a balancer another replica
// may.
const ownTries = 8

func (e *examination) federationChecks() []check {
	if _, wrong := e.setting([]string{"MOSAIC_FEDERATION_URL"}); e.FederationURL == "" && !wrong {
		return nil
	}
	var list []check
	if e.ListenerFiles != nil {
		list = append(list, check{name: ListenerFiles, after: []string{RootExpiry}, settings: []string{"MOSAIC_FEDERATION_"}, run: e.listenerFiles})
	}
	return append(list,
		check{name: FederationReachable, after: []string{GatewayRunning}, settings: []string{"MOSAIC_FEDERATION_URL"}, run: e.federationReachable},
		check{name: FederationPassthrough, after: []string{FederationReachable, RootExpiry, ListenerFiles}, unless: []string{CARoot}, run: e.federationPassthrough},
		check{name: FederationCertificate, after: []string{FederationPassthrough}, run: e.federationCertificate},
	)
}

func (e *examination) listenerFiles(context.Context) Finding {
	chain, err := e.ListenerFiles()
	if err != nil {
		return blamed(err)
	}
	e.listener.files = chain
	return e.serves(chain, "the certificate in MOSAIC_FEDERATION_TLS_CERT_FILE").or("replace the file and its key; the gateway reads them again within a minute")
}

// serves judges a listener's chain as a peer does. A fifth of its life before its end it should have been replaced.
func (e *examination) serves(chain []*x509.Certificate, what string) Finding {
	leaf := chain[0]
	if f := e.ends(leaf, what, leaf.NotAfter.Sub(leaf.NotBefore)/5); f.Status == Fail {
		return f
	} else if err := verifyServer(leaf, chain[1:], e.authority.roots, e.Profile.Host, e.Now()); err != nil {
		return failed("%s is not good for peers: %s", what, line(err.Error()))
	} else { //nolint:revive // f belongs to both
		return f
	}
}

func (e *examination) federationReachable(ctx context.Context) Finding {
	u, err := url.Parse(e.FederationURL)
	if err != nil {
		return failed("MOSAIC_FEDERATION_URL is not a URL")
	}
	address := net.JoinHostPort(u.Hostname(), portOf(u))
	var dial *dialError
	switch e.listener.handshake, err = shake(ctx, address, u.Hostname()); {
	case errors.As(err, &dial):
		return e.nobody(FederationReachable, address, dial.error).
			remedy("start the gateway, and let DNS, the firewall and the proxy lead MOSAIC_FEDERATION_URL to its federation port")
	case err != nil:
		return failed("%s takes connections, and the TLS handshake ends: %s", address, line(err.Error())).
			remedy("lead MOSAIC_FEDERATION_URL to the federation port, through a TCP router with TLS passthrough for this host; see the log of the proxy")
	}
	e.findOwn(ctx, address, u.Hostname())
	return fine("%s answers", address)
}

// findOwn asks the listener of this machine directly, and then the federation URL until the same certificate answers.
func (e *examination) findOwn(ctx context.Context, address, host string) {
	if e.OwnListener == "" {
		return
	}
	direct, err := shake(ctx, e.OwnListener, host)
	if err != nil {
		return // shut, or behind a door of its own: then the CA's word has to do
	}
	e.listener.own = direct.shown[0]
	for try := 1; try < ownTries && !e.listener.own.Equal(e.listener.shown[0]); try++ {
		again, err := shake(ctx, address, host)
		if err != nil {
			return
		}
		if e.listener.own.Equal(again.shown[0]) {
			e.listener.handshake = again
		}
	}
}

// errSeen ends a handshake when all has been seen: there is no certificate to show.
var errSeen = errors.New("seen enough")

// dialError is one of the connection, before TLS.
type dialError struct{ error }

// shake begins a handshake as a peer does, notes what it is shown, and leaves before it would have to prove itself.
func shake(ctx context.Context, address, host string) (h handshake, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return h, &dialError{err}
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{
		ServerName: host, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // who answers is what is to be found out; nothing is sent to them
		VerifyConnection: func(s tls.ConnectionState) error {
			h.shown = s.PeerCertificates
			return nil
		},
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			h.asked, h.names = true, r.AcceptableCAs
			return nil, errSeen
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil && !errors.Is(err, errSeen) {
		return h, err
	}
	if len(h.shown) == 0 {
		return h, errors.New("no certificate was shown")
	}
	return h, nil
}

// federationPassthrough tells whether the gateway itself answered. A proxy that ends TLS has another certificate, or
// does not ask for one: the listener always does, by the name of the federation CA.
func (e *examination) federationPassthrough(context.Context) Finding {
	leaf := e.listener.shown[0]
	who := "subject " + line(leaf.Subject.String()) + ", issuer " + line(leaf.Issuer.String())
	remedy := "let TCP through: in Traefik a TCP router with tls.passthrough=true for this host, in others a stream or TCP mode; HTTP routers end TLS"
	if e.listener.files != nil {
		if !leaf.Equal(e.listener.files[0]) {
			return failed("a proxy ends TLS in front of the gateway: the certificate that answers (%s) is not the one in MOSAIC_FEDERATION_TLS_CERT_FILE", who).
				remedy("%s; after a change of the file, give the gateway a minute", remedy)
		}
	} else if !leads(leaf, e.listener.shown[1:], e.authority.roots) {
		return failed("a proxy ends TLS in front of the gateway: the certificate that answers (%s) is not from the federation CA", who).remedy("%s", remedy)
	}
	if !e.listener.asked {
		return failed("a proxy ends TLS in front of the gateway: who answers (%s) asks for no client certificate, which the gateway always does", who).remedy("%s", remedy)
	}
	ours := slices.ContainsFunc(e.authority.roots, func(root *x509.Certificate) bool {
		return slices.ContainsFunc(e.listener.names, func(name []byte) bool { return bytes.Equal(name, root.RawSubject) })
	})
	if !ours {
		return failed("a proxy ends TLS in front of the gateway: who answers (%s) takes client certificates of other CAs than the federation's", who).remedy("%s", remedy)
	}
	switch own := e.listener.own; {
	case own == nil:
		return fine("a certificate of the federation CA answers, and asks for a peer's")
	case own.Equal(leaf):
		return fine("this gateway's own certificate answers, and asks for a peer's")
	}
	return warned("%d handshakes reached another replica, or a proxy that ends TLS with a certificate of the federation CA (%s): none reached this gateway", ownTries, who).
		remedy("with one replica, %s; with several, let the balancer reach this one, or run doctor on the one it reaches", remedy)
}

// leads tells whether signatures lead from a certificate to one of the roots, whatever the time: one that has ended is
// still ours.
func leads(leaf *x509.Certificate, between, roots []*x509.Certificate) bool {
	const deepest = 4
	for range deepest {
		if slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return leaf.CheckSignatureFrom(root) == nil }) {
			return true
		}
		i := slices.IndexFunc(between, func(c *x509.Certificate) bool { return leaf.CheckSignatureFrom(c) == nil })
		if i < 0 {
			return false
		}
		leaf = between[i]
	}
	return false
}

func (e *examination) federationCertificate(context.Context) Finding {
	return e.serves(e.listener.shown, "the listener's certificate").
		or("the gateway renews it at half of its life: see its log for \"listener certificate not renewed\", and ca.server_certificate here; its name is the host of MOSAIC_FEDERATION_URL")
}

// nobody is the finding of an address where nobody answers. Before the gateway is started that is no failure.
func (e *examination) nobody(name, address string, err error) Finding {
	if e.Machine.Running != nil && !e.running.Up {
		f := skipped(name, Finding{Name: GatewayRunning})
		f.Detail = "skipped because " + GatewayRunning + " is not ok: nobody answers at " + address + " (" + reason(err) + ")"
		return f
	}
	return failed("nobody answers at %s: %s", address, reason(err))
}

// reason is the shortest part of a network error that tells something.
func reason(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return "the host is not found (" + line(dns.Err) + ")"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	case errors.As(err, &op):
		return line(op.Err.Error())
	}
	return line(err.Error())
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// publicFacts are what the public URL answered.
type publicFacts struct {
	status int
	health struct {
		Status  string            `json:"status"`
		Tier    string            `json:"tier"`
		Version string            `json:"version"`
		Checks  map[string]string `json:"checks"`
	}
	wrong string // why it is no gateway's answer
}

func (e *examination) publicChecks() []check {
	settings := []string{"MOSAIC_PUBLIC_URL"}
	if _, wrong := e.setting(settings); e.PublicURL == "" && !wrong {
		return nil
	}
	var list []check
	if !e.Local { // where it is loopback, always
		list = append(list, check{name: PublicHTTPS, settings: settings, run: e.publicHTTPS})
	}
	return append(list,
		check{name: PublicReachable, after: []string{GatewayRunning}, settings: settings, run: e.publicReachable},
		check{name: PublicGateway, after: []string{PublicReachable}, run: e.publicGateway},
		check{name: PublicHealth, after: []string{PublicGateway}, run: e.publicHealth},
	)
}

func (e *examination) publicHTTPS(context.Context) Finding {
	u, err := url.Parse(e.PublicURL)
	ip := net.ParseIP(u.Hostname())
	switch {
	case err != nil:
		return failed("MOSAIC_PUBLIC_URL is not a URL")
	case u.Scheme == "https":
		return fine("enrollment URLs begin with https")
	case u.Hostname() == "localhost" || ip != nil && ip.IsLoopback():
		return warned("MOSAIC_PUBLIC_URL is plain HTTP on this machine: nobody elsewhere can redeem an enrollment URL").
			remedy("for peers elsewhere, put a proxy with TLS in front and its https URL into MOSAIC_PUBLIC_URL")
	}
	return failed("MOSAIC_PUBLIC_URL is plain HTTP: enrollment tokens would cross the network in the clear, and no peer redeems them so").
		remedy("put a proxy with TLS in front of the API, and its https URL into MOSAIC_PUBLIC_URL")
}

func (e *examination) publicReachable(ctx context.Context) Finding {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a peer follows none
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: e.PublicRoots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(e.PublicURL, "/")+"/health", nil)
	if err != nil {
		return failed("MOSAIC_PUBLIC_URL is not a URL")
	}
	resp, err := client.Do(req)
	var untrusted *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &untrusted):
		return failed("the certificate at MOSAIC_PUBLIC_URL is not trusted: %s", line(untrusted.Err.Error())).
			remedy("give the proxy a certificate for this host from a CA that peers trust, and renew it in time")
	case errors.As(err, &plain):
		return failed("what answers at MOSAIC_PUBLIC_URL does not speak TLS").remedy("lead the URL to the proxy's https port, or begin it with http on this machine")
	case err != nil:
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return e.nobody(PublicReachable, req.URL.Host, err).
			remedy("start the gateway, and let DNS, the firewall and the proxy lead MOSAIC_PUBLIC_URL to GATEWAY_PORT")
	}
	defer resp.Body.Close()
	const most = 64 << 10
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	p := &e.public
	p.status = resp.StatusCode
	if location := resp.Header.Get("Location"); location != "" && resp.StatusCode/100 == 3 {
		p.wrong = "a redirect to " + line(location)
	} else if err != nil || json.Unmarshal(body, &p.health) != nil || p.health.Status == "" || p.health.Tier == "" {
		p.wrong = "something that is no health report of a gateway"
	}
	return fine("%s answers with status %d", req.URL.Host, resp.StatusCode)
}

func (e *examination) publicGateway(context.Context) Finding {
	if e.public.wrong != "" {
		return failed("MOSAIC_PUBLIC_URL/health answers with status %d and %s", e.public.status, e.public.wrong).
			remedy("lead the URL, path and all, to GATEWAY_PORT without a change: no login, no redirect, no prefix that is cut off; a proxy answers for itself while the gateway behind it is away")
	}
	return fine("a gateway answers: version %s, tier %s", line(e.public.health.Version), line(e.public.health.Tier))
}

func (e *examination) publicHealth(context.Context) Finding {
	var down []string
	for part, state := range e.public.health.Checks {
		if state != "ok" {
			down = append(down, line(part)+" "+line(state))
		}
	}
	sort.Strings(down)
	parts := strings.Join(down, ", ")
	switch e.public.health.Status {
	case "ok":
		return fine("the gateway says that all its parts are there")
	case "degraded":
		return warned("the gateway serves with something missing: %s", parts).remedy("see the findings about that part here, and the gateway's log")
	}
	return failed("the gateway is %s: %s", line(e.public.health.Status), parts).remedy("see the findings about that part here, and the gateway's log; one that has just started is ready shortly")
}
