package querying_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/querying/peertest"
	"github.com/mosaicstack/gateway/internal/scope"
)

func TestAddPeerStoresAWorkingCredential(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.leaf = peertest.Leaf{NotBefore: time.Now().Add(-10 * time.Minute).Truncate(time.Second), NotAfter: time.Now().Add(50 * time.Minute).Truncate(time.Second)}
	added := w.mustAdd(b.url("token-1"))

	p, c := added.Peer, added.Credential
	if p.Name != "work" || p.State != peer.Active || p.EndpointURL != b.fed.URL || p.CAFingerprint != b.ca.Fingerprint() {
		t.Errorf("peer %+v", p)
	}
	if c.State != "active" || c.RemoteGrantID != b.grant || c.RemoteSubjectUserID != b.user || c.FederationURL != b.fed.URL ||
		!c.NotBefore.Equal(b.leaf.NotBefore) || !c.NotAfter.Equal(b.leaf.NotAfter) || c.RenewAfter.Before(b.leaf.NotBefore.Add(27*time.Minute)) || c.RenewAfter.After(b.leaf.NotBefore.Add(34*time.Minute)) ||
		len(c.Users) != 1 || c.Users[0].ID != w.user.ID || c.Users[0].Email != w.user.Email {
		t.Errorf("credential %+v", c)
	}
	asked := b.requests()
	if len(asked) != 1 || asked[0].Token != "token-1" || asked[0].TTL != 2592000 || len(asked[0].key) < 16 {
		t.Errorf("asked %+v", asked)
	}

	var sealed, hash []byte
	var root string
	noError(t, w.pool.QueryRow(t.Context(), `SELECT client_key_pem, enrollment_hash, ca_root_pem FROM federation_credentials WHERE id = $1`, c.ID).
		Scan(&sealed, &hash, &root))
	if bytes.Contains(sealed, []byte("PRIVATE KEY")) || len(hash) != 32 || root != b.ca.RootPEM() {
		t.Errorf("stored key %q", sealed)
	}
	key, err := w.keys.Open(sealed, "federation_credentials", "client_key_pem", c.ID.String())
	noError(t, err)
	if block, _ := pem.Decode(key); block == nil || block.Type != "PRIVATE KEY" {
		t.Error("the sealed key is no PKCS #8 PEM")
	}
	events := w.events("peer.add")
	if len(events) != 1 || events[0].Direction != audit.Admin || events[0].PeerRef != p.ID || events[0].PeerName != "work" ||
		events[0].GrantID != b.grant || events[0].SubjectUserID != w.user.ID || events[0].RequestID != act.RequestID || events[0].Actor != act.Actor ||
		events[0].Outcome != audit.OK || events[0].StatusCode != 201 {
		t.Errorf("audit %+v", events)
	}
	// The token is nowhere.
	if n := w.count(`SELECT count(*) FROM federation_credentials c WHERE c::text LIKE '%token-1%'`); n != 0 {
		t.Error("the token is stored")
	}
}

func TestTheNameIsMadeOfTheHost(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	added := w.mustAdd(b.url("t"), func(r *querying.AddRequest) { r.Name, r.User = "", "" })
	port := b.web.URL[strings.LastIndex(b.web.URL, ":")+1:]
	if added.Peer.Name != "127-0-0-1-"+port || len(added.Credential.Users) != 0 {
		t.Errorf("%+v", added)
	}
}

// A lost answer loses nothing: the second try sends the same request and gets the same certificate.
func TestALostAnswerIsFetchedAgain(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.lose = true
	_, err := w.add(b.url("t"))
	wantError(t, err, querying.ErrUnreachable)
	if n := w.count(`SELECT count(*) FROM federation_credentials WHERE state = 'pending'`); n != 1 {
		t.Fatalf("%d pending credentials", n)
	}
	b.set(func() { b.lose = false })
	added := w.mustAdd(b.url("t"))
	asked := b.requests()
	if len(asked) != 2 || asked[0].CSR != asked[1].CSR || asked[0].key != asked[1].key {
		t.Errorf("asked %+v", asked)
	}
	if n := w.count(`SELECT count(*) FROM federation_credentials`); n != 1 || added.Credential.State != "active" {
		t.Errorf("%d credentials, this one %s", n, added.Credential.State)
	}
}

// The second try may give another name; nothing is left of the first.
func TestALostAnswerIsFetchedUnderAnotherName(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.lose = true
	_, err := w.add(b.url("t"))
	wantError(t, err, querying.ErrUnreachable)
	b.set(func() { b.lose = false })
	added := w.mustAdd(b.url("t"), func(r *querying.AddRequest) { r.Name = "office" })
	if added.Peer.Name != "office" || w.count(`SELECT count(*) FROM federation_peers`) != 1 {
		t.Errorf("%+v", added.Peer)
	}
}

func TestAPeerThatIsAwayCostsNothing(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.web.Close()
	_, err := w.add(b.url("t"))
	wantError(t, err, querying.ErrUnreachable)
	if n := w.count(`SELECT count(*) FROM federation_credentials WHERE state = 'pending'`); n != 1 {
		t.Errorf("%d pending credentials", n)
	}
}

func TestAURLIsRedeemedOnce(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	w.mustAdd(b.url("t"))
	_, err := w.add(b.url("t"))
	wantError(t, err, querying.ErrTokenUsed)
	if !strings.Contains(fault.From(err).Detail, "work") || len(b.requests()) != 1 {
		t.Errorf("%v, asked %d times", err, len(b.requests()))
	}
}

func TestManyAtOnceMakeOneCredential(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	const tries = 6
	errs := make([]error, tries)
	var all sync.WaitGroup
	for i := range tries {
		all.Go(func() { _, errs[i] = w.add(b.url("t")) })
	}
	all.Wait()
	good := 0
	for _, err := range errs {
		if err == nil {
			good++
		} else if !errors.Is(err, querying.ErrTokenUsed) {
			t.Errorf("%v", err)
		}
	}
	if good == 0 || w.count(`SELECT count(*) FROM federation_credentials`) != 1 || len(w.events("peer.add")) != 1 {
		t.Errorf("%d good, %d credentials, %d events", good, w.count(`SELECT count(*) FROM federation_credentials`), len(w.events("peer.add")))
	}
}

func TestALaterTokenOfTheGrantReplacesTheCredential(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	first := w.mustAdd(b.url("t1"))
	bob := w.person("bob@example.org")
	second := w.mustAdd(b.url("t2"), func(r *querying.AddRequest) { r.User = bob.ID.String() })
	if !slices.Equal(second.Retired, []uuid.UUID{first.Credential.ID}) || second.Peer.ID != first.Peer.ID {
		t.Errorf("%+v", second)
	}
	list, err := w.credentials.Listing(t.Context(), second.Peer.ID)
	noError(t, err)
	if len(list) != 2 || list[0].ID != second.Credential.ID || list[1].State != "retired" {
		t.Fatalf("%+v", list)
	}
	if users := list[0].Users; len(users) != 2 || users[0].ID != w.user.ID || users[1].ID != bob.ID {
		t.Errorf("users %+v", users)
	}
	if n := w.count(`SELECT length(client_key_pem) FROM federation_credentials WHERE state = 'retired'`); n != 0 {
		t.Error("the replaced key is still there")
	}
	// Another grant of the same peer is another credential.
	b.set(func() { b.grant = uuid.New() })
	if third := w.mustAdd(b.url("t3")); len(third.Retired) != 0 {
		t.Errorf("%+v", third)
	}
}

func TestTheArcIsThePeersOwn(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.leaf.Arc = "1.3.6.1.4.1.12345.7"
	w.mustAdd(b.url("t"))
}

// A peer that was away during a rollover comes back when its admin says so, and only then.
func TestAnAdminReplacesTheCAOfAPeer(t *testing.T) {
	t.Parallel()
	w, old, b := newWorld(t), newOther(t), newOther(t)
	first := w.mustAdd(old.url("t"))
	trusting := func(root string) int {
		return w.count(`SELECT count(*) FROM federation_credentials c JOIN federation_peers p ON p.id = c.peer_id
			WHERE c.state = 'active' AND c.ca_root_pem = $1 AND p.ca_root_pem = $1`, root)
	}
	_, err := w.add(b.url("u"))
	wantError(t, err, querying.ErrCAMismatch)
	if trusting(old.ca.RootPEM()) != 1 || len(b.requests()) != 0 {
		t.Error("a refusal has changed something, or the URL was sent")
	}
	replace := func(r *querying.AddRequest) { r.ReplaceCA = true }
	added := w.mustAdd(b.url("u"), replace)
	if added.Peer.ID != first.Peer.ID || added.Peer.CAFingerprint != b.ca.Fingerprint() || trusting(b.ca.RootPEM()) != 2 {
		t.Errorf("%+v, %d credentials trust the new root", added.Peer, trusting(b.ca.RootPEM()))
	}
	if e := w.events("peer.roots"); len(e) != 1 || e[0].Detail != b.ca.Fingerprint()+" in place of "+old.ca.Fingerprint() || e[0].PeerID != first.Peer.ID {
		t.Errorf("on record: %+v", e)
	}
	w.mustAdd(b.url("v"), replace)
	if n := len(w.events("peer.roots")); n != 1 {
		t.Errorf("%d changes on record, want one", n)
	}
	_, err = w.add(old.url("w"))
	wantError(t, err, querying.ErrCAMismatch)
}

// Everything that can be found out before is found out before anything is sent.
func TestNothingIsSentInVain(t *testing.T) {
	t.Parallel()
	b := newOther(t)
	for name, test := range map[string]struct {
		before func(*world)
		change func(*querying.AddRequest)
		want   error
	}{
		"no URL":           {nil, func(r *querying.AddRequest) { r.EnrollmentURL = "work" }, querying.ErrURLInvalid},
		"no CA":            {nil, func(r *querying.AddRequest) { r.EnrollmentURL, _, _ = strings.Cut(r.EnrollmentURL, "?") }, querying.ErrCAMissing},
		"a reserved name":  {nil, func(r *querying.AddRequest) { r.Name = "local" }, peer.ErrNameReserved},
		"a name that none": {nil, func(r *querying.AddRequest) { r.Name = "a b" }, peer.ErrNameInvalid},
		"an unknown user":  {nil, func(r *querying.AddRequest) { r.User = "nobody@example.org" }, postgres.ErrUserNotFound},
		"another CA":       {func(w *world) { w.mustAdd(newOther(t).url("t")) }, func(*querying.AddRequest) {}, querying.ErrCAMismatch},
		"a revoked peer": {func(w *world) {
			w.mustAdd(b.url(uuid.NewString()))
			w.change("peer.revoke", peer.State.Revoke)
		}, func(*querying.AddRequest) {}, peer.ErrRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if test.before != nil {
				test.before(w)
			}
			token := uuid.NewString()
			_, err := w.add(b.url(token), test.change)
			wantError(t, err, test.want)
			if fault.From(err).Hint == "" {
				t.Errorf("%v has no hint", err)
			}
			for _, r := range b.requests() {
				if r.Token == token {
					t.Error("the token was sent")
				}
			}
			if n := w.count(`SELECT count(*) FROM federation_credentials WHERE state = 'pending'`); n != 0 {
				t.Errorf("%d pending credentials", n)
			}
		})
	}
}

func (w *world) change(verb string, rule func(peer.State) (peer.State, error)) {
	w.t.Helper()
	if _, err := w.peers.Change(w.t.Context(), "work", postgres.Transition{Verb: verb, Rule: rule}, "", act); err != nil {
		w.t.Fatal(err)
	}
}

func TestASuspendedPeerStaysSuspended(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	w.mustAdd(b.url("t1"))
	w.change("peer.suspend", peer.State.Suspend)
	if added := w.mustAdd(b.url("t2")); added.Peer.State != peer.Suspended {
		t.Errorf("%+v", added.Peer)
	}
}

// A peer that holds a pending grant of ours is the same peer.
func TestAPeerWithGrantsOfOursIsAdopted(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	s, err := scope.Parse([]byte(`{"resources":["tasks"],"max_rows_per_query":1}`))
	noError(t, err)
	g, _, err := w.grants.CreateGrant(t.Context(), postgres.NewGrant{PeerName: "work", SubjectUser: w.user.Email, Scope: s},
		postgres.NewToken{Hash: [32]byte{1}, TTL: time.Hour}, act)
	noError(t, err)
	b.refuse = func(w http.ResponseWriter, _ *http.Request) { problem(w, 410, "grant_revoked", "no") }
	_, err = w.add(b.url("t1"))
	if fault.From(err).Code != "grant_revoked" {
		t.Fatalf("%v", err)
	}
	if p, err := w.peers.Peer(t.Context(), "work"); err != nil || p.ID != g.PeerID || p.State != peer.Pending {
		t.Errorf("after a refusal: %+v, %v", p, err)
	}
	b.set(func() { b.refuse = nil })
	if added := w.mustAdd(b.url("t2")); added.Peer.ID != g.PeerID || added.Peer.State != peer.Active {
		t.Errorf("%+v", added.Peer)
	}
}

// A refusal that is not final is followed by a try with the same key.
func TestATryAfterAWaitContinues(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.refuse = func(w http.ResponseWriter, _ *http.Request) { problem(w, 503, "ca_unavailable", "later") }
	_, err := w.add(b.url("t"))
	if fault.From(err).Code != "ca_unavailable" {
		t.Fatalf("%v", err)
	}
	b.set(func() { b.refuse = nil })
	w.mustAdd(b.url("t"))
	if asked := b.requests(); len(asked) != 2 || asked[0].CSR != asked[1].CSR || asked[0].key != asked[1].key {
		t.Errorf("asked %+v", asked)
	}
}

// A peer that is removed while its answer is on the way stays removed.
func TestARemovalDuringTheEnrollmentWins(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.falsify = func(map[string]any, redemption) { noError(t, w.peers.Remove(t.Context(), "work", act)) }
	_, err := w.add(b.url("t"))
	wantError(t, err, querying.ErrInterrupted)
	if n := w.count(`SELECT (SELECT count(*) FROM federation_credentials) + (SELECT count(*) FROM federation_peers)`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// So does a user.
func TestAUserWhoIsDeletedDuringTheEnrollmentIsNotLinked(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	b.falsify = func(map[string]any, redemption) { noError(t, w.accounts.DeleteUser(t.Context(), w.user.Email, act)) }
	_, err := w.add(b.url("t"))
	wantError(t, err, postgres.ErrUserNotFound)
	w.user = account.User{Email: ""}
	added := w.mustAdd(b.url("t"))
	if len(added.Credential.Users) != 0 {
		t.Errorf("%+v", added.Credential)
	}
}

// hangUp is a caller who goes away the moment the peer has answered.
type hangUp struct {
	querying.Enroller
	cancel context.CancelFunc
}

func (h hangUp) Enroll(ctx context.Context, r querying.EnrollRequest) (querying.Answer, error) {
	defer h.cancel()
	return h.Enroller.Enroll(ctx, r)
}

func TestWhatThePeerGaveIsStoredThoughTheCallerHasGone(t *testing.T) {
	t.Parallel()
	w, b := newWorld(t), newOther(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.adder.Enroller = hangUp{w.adder.Enroller, cancel}
	_, err := w.adder.AddPeer(ctx, querying.AddRequest{EnrollmentURL: b.url("t"), Name: "work", Act: act})
	noError(t, err)
	if n := w.count(`SELECT count(*) FROM federation_credentials WHERE state = 'active'`); n != 1 {
		t.Errorf("%d active credentials", n)
	}
}
