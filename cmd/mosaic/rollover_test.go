package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/unixsock"
)

// TestRenewalsAndRootRolloversFailNoRequest has two gateways, and clients that are none, ask the one all the time while
// every certificate is renewed again and again and the CA's root is rolled over. With MOSAIC_TORTURE it is 500 renewals
// and 3 rollovers.
func TestRenewalsAndRootRolloversFailNoRequest(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	work := startGateway(t, filepath.Join(root, "work"))
	w := newWheel(t, work, startGateway(t, filepath.Join(root, "home")), work.FederationURL, torture(8, 25))
	w.sql = func(text string) string {
		return string(work.postgres("psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-Atc", text))
	}
	w.rotate = func() { work.mosaic("gateway", "ca", "rotate") }
	w.finish = func() { work.mosaic("gateway", "ca", "finish") }

	rollovers, waves := torture(1, 3), torture(0, 6)
	for range rollovers {
		for range waves {
			w.renewAll()
		}
		w.roll(func() {
			if _, err := work.try("gateway", "ca", "finish"); err == nil || !strings.Contains(err.Error(), "ca_root_in_use") {
				t.Errorf("finished while certificates of the old root are in use: %v", err)
			}
		})
	}
	w.renewStrangers() // under the new root alone
	w.turn()
	requests := w.end()
	t.Logf("%d renewals, %d rollovers, %d requests, %d failed", w.renewals, rollovers, requests, w.failed.Load())
	if want := torture(10, 500); w.renewals < want {
		t.Errorf("%d renewals, want %d", w.renewals, want)
	}
	var roots []struct {
		Fingerprint  string
		Current      bool
		Certificates int
	}
	work.decode(&roots, "gateway", "ca", "show")
	if len(roots) != 1 || !roots[0].Current || roots[0].Certificates == 0 {
		t.Fatalf("after the last rollover: %+v", roots)
	}
	_, e := work.grantFor("last", "ada@example.org", tasksOnly)
	var ready struct {
		CAFingerprint string `json:"ca_fingerprint"`
	}
	if err := json.Unmarshal(work.file("ready.json"), &ready); err != nil || ready.CAFingerprint != roots[0].Fingerprint || e.CAFingerprint != roots[0].Fingerprint {
		t.Errorf("ready.json names %s, an enrollment %s, and the root is %s: %v", ready.CAFingerprint, e.CAFingerprint, roots[0].Fingerprint, err)
	}
	if _, err := work.try("gateway", "ca", "finish"); err == nil || !strings.Contains(err.Error(), "ca_rollover_none") {
		t.Errorf("finished once more: %v", err)
	}
}

// TestARootOfAStockStepCAIsRolledOver does at a step-ca what docs/root-rollover.md says, behind two replicas.
func TestARootOfAStockStepCAIsRolledOver(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := newBalancer(t)
	c.env = append(c.env, "MOSAIC_FEDERATION_URL="+b.url)
	replicas := c.replicas(2)
	b.pass(replicas)
	w := newWheel(t, replicas[0], startGateway(t, filepath.Join(t.TempDir(), "home")), b.url, 3)
	db := c.database(t)
	w.sql = func(text string) string {
		if _, err := db.Exec(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	at := func(change func(context.Context, *embedded.Authority) error, roots int) {
		t.Helper()
		c.ca.RestartInPlace(t, func() {
			a := c.ca.Authority(t)
			if err := errors.Join(change(t.Context(), a), a.Close()); err != nil {
				t.Fatal(err)
			}
		})
		for _, r := range replicas {
			w.until("a replica knows the roots of the CA", func() bool {
				var shown []struct{ Current bool }
				r.decode(&shown, "gateway", "ca", "show")
				return len(shown) == roots && shown[0].Current
			})
		}
	}
	w.rotate = func() { at(func(ctx context.Context, a *embedded.Authority) error { return a.Rotate(ctx) }, 2) }
	w.finish = func() { at(func(ctx context.Context, a *embedded.Authority) error { return a.Finish(ctx) }, 1) }
	w.roll(func() {
		if _, err := replicas[0].try("gateway", "ca", "rotate"); err == nil || !strings.Contains(err.Error(), "ca_external") {
			t.Errorf("a CA of somebody else was rolled over: %v", err)
		}
	})
	requests := w.end()
	t.Logf("%d renewals, %d requests, %d failed", w.renewals, requests, w.failed.Load())
}

// balancer passes connections on to one replica after the other, as the proxy in front of them does.
type balancer struct {
	url string
	l   net.Listener
}

func newBalancer(t *testing.T) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &balancer{url: "https://" + l.Addr().String(), l: l}
}

// pass begins to let connections through; those that came before have waited.
func (b *balancer) pass(replicas []*gatewayProcess) {
	var to []string
	for _, r := range replicas {
		to = append(to, strings.TrimPrefix(r.FederationURL, "https://"))
	}
	go func() {
		for n := 0; ; n++ {
			in, err := b.l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to[n%len(to)])
			if err != nil {
				_ = in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() {
					_, _ = io.Copy(way[0], way[1])
					_ = way[0].Close()
					_ = way[1].Close()
				}()
			}
		}
	}()
}

// wheel is a serving gateway with those who ask it all the time: users of another gateway, each with a credential of
// their own, and two clients that only speak the protocol.
type wheel struct {
	t              *testing.T
	work, home     *gatewayProcess
	rotate, finish func()
	sql            func(text string) string // at work
	strangers      []*stranger
	credentials    int
	renewals       int

	stop   context.CancelFunc
	asking *errgroup.Group
	asked  []*atomic.Int64
	failed atomic.Int64
}

func newWheel(t *testing.T, work, home *gatewayProcess, federation string, credentials int) *wheel {
	t.Helper()
	w := &wheel{t: t, work: work, home: home, credentials: credentials}
	var asks []func() error
	work.user("ada@example.org", "one", "two")
	grant := func(peer string) (url string) {
		var made struct{ Enrollment enrollmentDoc }
		work.call("/api/federation/grants", map[string]any{
			"peer": peer, "user": "ada@example.org", "scope": json.RawMessage(tasksOnly), "rate": "1000000/min", "burst": 100_000,
		}, &made)
		return strings.Replace(made.Enrollment.URL, "http://127.0.0.1:3000", work.URL, 1)
	}
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	w.asking, ctx = errgroup.WithContext(ctx)
	for i := range credentials {
		user := fmt.Sprintf("u%d@example.org", i)
		home.call("/api/users", map[string]any{"email": user, "role": "member"}, nil)
		var token struct{ Token string }
		home.call("/api/tokens", map[string]any{"user": user}, &token)
		home.call("/api/federation/peers", map[string]any{"enrollment_url": grant("home"), "name": "work", "user": user}, nil)
		asks = append(asks, func() error { return askHome(ctx, home, token.Token) })
	}
	for _, fresh := range []bool{false, true} {
		key, csr := newCSR(t, &x509.CertificateRequest{})
		a := post(t, grant("stranger-"+strconv.FormatBool(fresh)), "application/json", jsonBody(t, map[string]string{"csr": csr}))
		s := &stranger{base: federation + "/federation/v1", fresh: fresh}
		if err := s.take(a.Body, key); err != nil || a.Status != http.StatusCreated {
			t.Fatalf("enrollment: %d %s %v", a.Status, a.Body, err)
		}
		w.strangers = append(w.strangers, s)
		asks = append(asks, func() error { _, err := s.do(ctx, http.MethodGet, "/resources/tasks", ""); return err })
	}
	for _, once := range asks { // when all is set up: it takes the machine
		w.ask(ctx, once)
	}
	return w
}

// call asks the HTTP API over the admin socket: a command for each of many calls would take the machine.
func (g *gatewayProcess) call(path string, body, into any) {
	g.t.Helper()
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, g.Socket)
	}}}
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, "http://socket"+path, strings.NewReader(jsonBody(g.t, body)))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	a := do(g.t, c, req)
	if a.Status >= 300 {
		g.t.Fatalf("%s: %d %s", path, a.Status, a.Body)
	}
	if into != nil {
		if err := json.Unmarshal(a.Body, into); err != nil {
			g.t.Fatal(err)
		}
	}
}

// ask asks again and again until the wheel stops, at a pace that leaves the machine to others.
func (w *wheel) ask(ctx context.Context, once func() error) {
	n := new(atomic.Int64)
	w.asked = append(w.asked, n)
	w.asking.Go(func() error {
		for ctx.Err() == nil {
			if err := once(); err != nil && ctx.Err() == nil {
				if w.failed.Add(1) < 10 {
					w.t.Errorf("request failed: %v", err)
				}
			}
			n.Add(1)
			select {
			case <-ctx.Done():
			case <-time.After(15 * time.Millisecond):
			}
		}
		return nil
	})
}

// turn waits until everybody has asked with what there is now.
func (w *wheel) turn() {
	w.t.Helper()
	for _, n := range w.asked {
		until := n.Load() + 2
		w.until("everybody has asked again", func() bool { return n.Load() >= until })
	}
}

func (w *wheel) end() (requests int64) {
	w.stop()
	_ = w.asking.Wait()
	for _, n := range w.asked {
		requests += n.Load()
	}
	return requests
}

// renewAll has every certificate renewed, and used.
func (w *wheel) renewAll() {
	w.t.Helper()
	before := w.serials()
	w.atHome(`UPDATE federation_credentials SET renew_after = now()`)
	w.until("every credential is renewed", func() bool {
		for serial := range w.serials() {
			if before[serial] {
				return false
			}
		}
		return true
	})
	w.renewals += len(before)
	w.renewStrangers()
	w.turn()
}

func (w *wheel) renewStrangers() {
	w.t.Helper()
	for _, s := range w.strangers {
		if err := s.renew(w.t); err != nil {
			w.t.Fatal(err)
		}
	}
	w.renewals += len(w.strangers)
}

// roll is a rollover as an operator does it. Five minutes pass at once for certificates that were replaced.
func (w *wheel) roll(between func()) {
	w.t.Helper()
	old := w.roots()
	_, before := w.work.grantFor("late", "ada@example.org", tasksOnly)
	w.rotate()
	between()
	// A URL from before names the old root only, and is good until the end.
	w.home.mosaic("federation", "peer", "add", strings.Replace(before.URL, "http://127.0.0.1:3000", w.work.URL, 1), "--name", "late")
	w.home.mosaic("federation", "query", "late", "tasks")
	w.home.mosaic("federation", "peer", "remove", "late")
	w.atHome(`UPDATE federation_credentials SET roots_next_at = now()`)
	w.renewAll()
	if both := w.roots(); len(both) != len(old)+1 {
		w.t.Errorf("in the overlap the querying side trusts %d roots, before it were %d", len(both), len(old))
	}
	w.sql(`UPDATE federation_certificates SET retire_at = now() WHERE retire_at IS NOT NULL AND revoked_at IS NULL`)
	w.turn()
	w.finish()
	w.turn()
	w.atHome(`UPDATE federation_credentials SET roots_next_at = now()`)
	w.until("the old root is out of trust at the querying side", func() bool {
		now := w.roots()
		for root := range old {
			if now[root] {
				return false
			}
		}
		return len(now) == 1
	})
	w.turn()
}

func (w *wheel) atHome(sql string) string {
	w.t.Helper()
	return string(w.home.postgres("psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-Atc", sql))
}

// serials are those of the certificates that the querying side uses.
func (w *wheel) serials() map[string]bool {
	w.t.Helper()
	out := map[string]bool{}
	for _, serial := range strings.Fields(w.atHome(`SELECT serial FROM federation_credentials WHERE state = 'active'`)) {
		out[serial] = true
	}
	if len(out) != w.credentials {
		w.t.Fatalf("%d credentials, want %d", len(out), w.credentials)
	}
	return out
}

// roots are all that any credential trusts, and what the peer is known with.
func (w *wheel) roots() map[string]bool {
	w.t.Helper()
	out := map[string]bool{}
	rest := []byte(w.atHome(`SELECT ca_root_pem FROM federation_credentials WHERE state = 'active' UNION ALL SELECT ca_root_pem FROM federation_peers`))
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		out[string(block.Bytes)] = true
	}
}

func (w *wheel) until(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.After(time.Minute); !holds(); {
		select {
		case <-deadline:
			w.t.Fatalf("not within a minute: %s\n%s\n%s", what, w.home.logs, w.work.logs)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// askHome has the gateway ask its peer for a user.
func askHome(ctx context.Context, home *gatewayProcess, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, home.URL+"/api/federation/peers/work/resources/tasks", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return wantRows(http.DefaultClient.Do(req))
}

func wantRows(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte(`"title":"two"`))) {
		err = fmt.Errorf("%d %.300s", resp.StatusCode, body)
	}
	return err
}

// stranger is a client of the federation API that is no gateway. It trusts what answers of the gateway tell it to.
type stranger struct {
	base  string
	fresh bool // a connection for each request

	mu   sync.Mutex
	http *http.Client
}

// take reads the answer of an enrollment or a renewal, and asks with that from now on.
func (s *stranger) take(body []byte, key *ecdsa.PrivateKey) error {
	var issued struct {
		issuedDoc
		CARoots string `json:"ca_roots"`
	}
	if err := json.Unmarshal(body, &issued); err != nil {
		return err
	}
	cert, roots, err := keyPair(issued.issuedDoc, key)
	if err != nil {
		return err
	}
	if !roots.AppendCertsFromPEM([]byte(issued.CARoots)) {
		return errors.New("no ca_roots in the answer")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		ForceAttemptHTTP2: true, DisableKeepAlives: s.fresh,
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
	}}
	return nil
}

func (s *stranger) do(ctx context.Context, method, path, body string) ([]byte, error) {
	s.mu.Lock()
	c := s.http
	s.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %.300s", path, resp.StatusCode, answer)
	}
	return answer, err
}

func (s *stranger) renew(t *testing.T) error {
	t.Helper()
	key, csr := newCSR(t, &x509.CertificateRequest{})
	body, err := s.do(t.Context(), http.MethodPost, "/certificate/renew", jsonBody(t, map[string]string{"csr": csr}))
	if err != nil {
		return err
	}
	return s.take(body, key)
}
