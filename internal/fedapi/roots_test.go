package fedapi_test

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
)

func pemOf(list ...*x509.Certificate) string { return ca.RootsPEM(list) }

// TestARootThatLeavesTrustTakesItsCertificatesAlong has a connection open when the root goes, and comes back.
func TestARootThatLeavesTrustTakesItsCertificatesAlong(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	stranger := mustCA(t, theirs)
	for _, version := range []string{http1, http2} {
		both := fedapi.NewAnchors([]*x509.Certificate{stranger.root, g.ca.root}, []*x509.Certificate{g.ca.issuer})
		g.anchors.Store(both)
		c := g.client(g.presenting(cert), version)
		if got := g.get(c, capabilities).grantID(t); got != made.ID.String() {
			t.Errorf("two roots in trust: %s", got)
		}
		g.anchors.Store(fedapi.NewAnchors([]*x509.Certificate{stranger.root}, []*x509.Certificate{g.ca.issuer}))
		g.get(c, capabilities).wantProblem(t, http.StatusUnauthorized, "certificate_unknown")
		if a, err := g.ask(g.client(g.presenting(cert), version), http.MethodGet, capabilities, nil); err == nil {
			t.Errorf("a new connection under the root that is gone: %d %s", a.StatusCode, a.body)
		}
		g.anchors.Store(both)
		if got := g.get(g.client(g.presenting(cert), version), capabilities).grantID(t); got != made.ID.String() {
			t.Errorf("in trust again: %s", got)
		}
	}
}

// TestTheHandshakeNamesTheRootsOfTheMoment is for clients that choose their certificate by what the server names.
func TestTheHandshakeNamesTheRootsOfTheMoment(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, _ := g.enrol("ada@example.org")
	conf := g.presenting(cert)
	conf.GetClientCertificate = nil
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another name"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	other, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	conf.Certificates = []tls.Certificate{*cert} // crypto/tls sends it only when an issuer of it is named
	g.anchors.Store(fedapi.NewAnchors([]*x509.Certificate{other}, nil))
	if a, err := g.ask(g.client(conf, http2), http.MethodGet, capabilities, nil); err == nil {
		t.Errorf("a certificate was sent to who does not name its root: %d", a.StatusCode)
	}
	g.anchors.Store(fedapi.NewAnchors([]*x509.Certificate{other, g.ca.root}, nil))
	if a := g.get(g.client(conf, http2), capabilities); a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestAPeerIsToldTheRootsInTrust(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	cert, made := g.enrol("ada@example.org")
	c := g.client(g.presenting(cert), http2)
	a := g.get(c, fedapi.Base+"/roots")
	var doc map[string]string
	if err := json.Unmarshal(a.body, &doc); err != nil || len(doc) != 1 || doc["ca_roots"] != pemOf(g.ca.root) {
		t.Errorf("%d %s %v", a.StatusCode, a.body, err)
	}
	if n := g.count(`SELECT count(*) FROM federation_audit_log WHERE verb = 'roots' AND grant_id = $1 AND status_code = 200`, made.ID); n != 1 {
		t.Errorf("%d rows on record", n)
	}
	if n := g.count(`WITH s AS (UPDATE federation_peers SET state = 'suspended' RETURNING 1) SELECT count(*) FROM s`); n != 1 {
		t.Fatalf("%d peers suspended", n)
	}
	g.get(c, fedapi.Base+"/roots").wantProblem(t, http.StatusForbidden, "peer_suspended")
}

// trusted is what the querying side believes: the credential's roots and the peer's.
func (q *querier) trusted() (credential, peer string, next, renew time.Time) {
	q.t.Helper()
	if err := q.pool.QueryRow(q.t.Context(), `SELECT c.ca_root_pem, p.ca_root_pem, c.roots_next_at, c.renew_after FROM federation_credentials c
		JOIN federation_peers p ON p.id = c.peer_id WHERE c.state = 'active'`).Scan(&credential, &peer, &next, &renew); err != nil {
		q.t.Fatal(err)
	}
	return credential, peer, next, renew
}

func (q *querier) learn() {
	q.t.Helper()
	if _, err := q.pool.Exec(q.t.Context(), `UPDATE federation_credentials SET roots_next_at = now() - interval '1 second'`); err != nil {
		q.t.Fatal(err)
	}
	q.run()
}

// saying makes the peer name other roots.
func (q *querier) saying(text string) {
	q.between = func(a querying.Answer, err error) (querying.Answer, error) {
		if err == nil && strings.HasPrefix(string(a.Body), `{"ca_roots"`) {
			a.Body, err = json.Marshal(map[string]string{"ca_roots": text})
		}
		return a, err
	}
}

func TestThePeersRootsAreFollowed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	old, coming := g.ca.root, mustCA(t, theirs).root
	step := func(name, want string, soon bool) {
		t.Helper()
		_, _, _, renewal := q.trusted()
		q.learn()
		credential, peer, next, renew := q.trusted()
		if credential != want || peer != want {
			t.Errorf("%s: the credential trusts %d bytes, the peer is known with %d, want %d", name, len(credential), len(peer), len(want))
		}
		if wait := time.Until(next); soon != (wait < 10*time.Minute) || wait < time.Minute || wait > 61*time.Minute {
			t.Errorf("%s: asked again in %s", name, wait)
		}
		if renew.After(renewal) {
			t.Errorf("%s: the renewal was put off", name)
		}
		if err := q.ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	events := func() (n int) {
		if err := q.pool.QueryRow(t.Context(), `SELECT count(*) FROM federation_audit_log WHERE verb = 'peer.roots'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	step("nothing new", pemOf(old), false)
	if n := events(); n != 0 {
		t.Errorf("%d changes on record where there was none", n)
	}
	q.saying(pemOf(coming, old))
	step("a second one", pemOf(coming, old), false)
	if _, _, _, renew := q.trusted(); time.Until(renew) > time.Hour {
		t.Errorf("with a new root at the peer the credential is renewed in %s", time.Until(renew))
	}
	// The listener's certificate still comes from the old one, so giving that up would lock this side out.
	q.saying(pemOf(coming))
	step("the old one is named no more, and still in use", pemOf(coming, old), true)
	for _, bad := range []string{"", "hello", pemOf(g.own.Leaf), strings.Repeat(pemOf(coming), 9)} {
		q.saying(bad)
		step("nothing that could be roots", pemOf(coming, old), true)
	}
	q.between = nil
	step("the new one is taken back", pemOf(old), false)
	if n := events(); n != 2 {
		t.Errorf("%d changes on record, want two", n)
	}
}

// TestWhoOwnsNoRootTeachesNone has the peer's address answered by somebody else, who names their own root.
func TestWhoOwnsNoRootTeachesNone(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	if err := q.ask(); err != nil {
		t.Fatal(err)
	}
	stranger := mustCA(t, theirs)
	g.shown.Store(stranger.server(t))
	q.client.Close()
	q.saying(pemOf(stranger.root, g.ca.root))
	before := q.held()
	q.due()
	q.learn()
	if credential, peer, _, _ := q.trusted(); credential != pemOf(g.ca.root) || peer != pemOf(g.ca.root) {
		t.Error("a root was learned from whoever does not have the old one")
	}
	if h := q.held(); h.serial != before.serial || h.attempts != 1 {
		t.Errorf("renewed with a stranger: %v", h)
	}
	g.shown.Store(nil)
	q.between = nil
	q.due()
	q.learn()
	if h := q.held(); h.serial == before.serial {
		t.Errorf("not renewed when the peer is back: %v", h)
	}
	if err := q.ask(); err != nil {
		t.Error(err)
	}
}

// TestARenewalTellsOfANewRoot takes a root over that a renewal's answer names, and gives none up for it.
func TestARenewalTellsOfANewRoot(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	coming := mustCA(t, theirs).root
	q.between = func(a querying.Answer, err error) (querying.Answer, error) {
		var doc map[string]any
		if err == nil && json.Unmarshal(a.Body, &doc) == nil && doc["certificate"] != nil {
			doc["ca_roots"] = pemOf(coming)
			a.Body, err = json.Marshal(doc)
		}
		return a, err
	}
	first := q.held()
	q.due()
	q.run()
	credential, peer, _, _ := q.trusted()
	if want := pemOf(coming, g.ca.root); credential != want || peer != want || q.held().serial == first.serial {
		t.Errorf("trusted: %v and %v, renewed: %v", strings.Count(credential, "BEGIN"), strings.Count(peer, "BEGIN"), q.held().serial != first.serial)
	}
	if err := q.ask(); err != nil {
		t.Error(err)
	}
}

// TestAURLOfANewRootIsRedeemedAtOnce makes a second enrollment right after a rotation, before this side has asked for the
// roots. The peer is asked; when it does not name the URL's root, the URL is another gateway's.
func TestAURLOfANewRootIsRedeemedAtOnce(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	coming := mustCA(t, theirs)
	g.enroll.CA = coming
	first := q.held()
	if err := q.redeem(coming.root); !errors.Is(err, querying.ErrCAMismatch) {
		t.Errorf("a root that the peer does not name: %v", err)
	}
	if _, peer, _, _ := q.trusted(); peer != pemOf(g.ca.root) || q.held().serial != first.serial {
		t.Error("a refusal has changed something")
	}
	q.saying(pemOf(coming.root, g.ca.root))
	if err := q.redeem(coming.root); err != nil {
		t.Fatal(err)
	}
	if _, peer, _, _ := q.trusted(); peer != pemOf(coming.root, g.ca.root) || q.held().serial == first.serial {
		t.Errorf("the peer is known with %d roots", strings.Count(peer, "BEGIN"))
	}
}

// TestManyWrongRootsPushNoneOut names as many roots as can be kept, none of which the listener leads to: whoever took
// them in place of the true one could never ask for the roots again.
func TestManyWrongRootsPushNoneOut(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	var wrong []*x509.Certificate
	for range 8 {
		wrong = append(wrong, peertest.NewCA(t).Root)
	}
	unharmed := func(when string) {
		t.Helper()
		credential, peer, _, _ := q.trusted()
		if credential != pemOf(g.ca.root) || peer != pemOf(g.ca.root) {
			t.Errorf("%s: the credential trusts %d roots, the peer is known with %d", when, strings.Count(credential, "BEGIN"), strings.Count(peer, "BEGIN"))
		}
		if err := q.ask(); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	q.saying(pemOf(wrong...))
	q.learn()
	unharmed("asked for the roots")
	first := q.held()
	q.between = renewed(func(doc map[string]any) { doc["ca_roots"] = pemOf(wrong...) })
	q.due()
	q.run()
	unharmed("renewed")
	if h := q.held(); h.serial != first.serial || h.attempts != 1 {
		t.Errorf("renewed with roots that cannot be kept: %v", h)
	}
	// One fewer fits beside the true one, which stays until a connection has worked without it.
	q.saying(pemOf(wrong[:7]...))
	q.learn()
	if credential, _, _, _ := q.trusted(); credential != pemOf(append([]*x509.Certificate{g.ca.root}, wrong[:7]...)...) {
		t.Errorf("%d roots are trusted, want the true one and seven", strings.Count(credential, "BEGIN"))
	}
	q.between = nil
	q.learn()
	unharmed("the peer is sane again")
}

// renewed changes the answers of renewals.
func renewed(change func(doc map[string]any)) func(querying.Answer, error) (querying.Answer, error) {
	return func(a querying.Answer, err error) (querying.Answer, error) {
		var doc map[string]any
		if err == nil && json.Unmarshal(a.Body, &doc) == nil && doc["certificate"] != nil {
			change(doc)
			a.Body, err = json.Marshal(doc)
		}
		return a, err
	}
}

// TestARenewalUnderAThirdRootIsNotUsed has a certificate that is good in everything, under a root that is neither
// pinned nor named.
func TestARenewalUnderAThirdRootIsNotUsed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	third := mustCA(t, theirs)
	q := newQuerier(t, g)
	g.enroll.CA = third
	first := q.held()
	named := pemOf(g.ca.root)
	q.between = renewed(func(doc map[string]any) { doc["ca_root"], doc["ca_roots"] = pemOf(third.root), named })
	q.due()
	q.run()
	if h := q.held(); h.serial != first.serial || !strings.Contains(h.reason, "another CA than the one that is pinned") {
		t.Errorf("%v", h)
	}
	if credential, _, _, _ := q.trusted(); credential != named {
		t.Error("another root is trusted")
	}
	named = pemOf(third.root, g.ca.root) // what makes the difference
	q.due()
	q.run()
	if h := q.held(); h.serial == first.serial {
		t.Errorf("not renewed under a root that is named: %v", h)
	}
}
