package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/scope"
)

var (
	_ querying.Store  = (*postgres.Credentials)(nil)
	_ querying.Finder = (*postgres.Credentials)(nil)
)

// holder is a world and the credentials it holds.
type holder struct {
	*world
	store *postgres.Credentials
}

func newHolder(t *testing.T) holder {
	t.Helper()
	w := newWorld(t)
	return holder{w, &postgres.Credentials{DB: w.db}}
}

func draft(peerName, user string) querying.Draft {
	id := uuid.New()
	return querying.Draft{
		ID: id, PeerName: peerName, CAFingerprint: [32]byte{1}, User: user, EnrollmentHash: [32]byte(append(id[:], id[:]...)),
		SealedKey: []byte("sealed " + id.String()), CSR: "csr " + id.String(), IdempotencyKey: "key " + id.String(), Act: act,
	}
}

// certified lives from begin for an hour.
func certified(grant uuid.UUID, begin time.Time) querying.Certified {
	return querying.Certified{
		GrantID: grant, SubjectUserID: uuid.New(), ChainPEM: "chain", CARootPEM: "root", CAFingerprint: [32]byte{1},
		Scope:         scope.Scope{Resources: []scope.Resource{scope.Tasks}, MaxRowsPerQuery: 1},
		FederationURL: "https://work.example.org:3443", Serial: uuid.NewString(),
		NotBefore: begin, NotAfter: begin.Add(time.Hour), RenewAfter: begin.Add(30 * time.Minute),
	}
}

func (h holder) begin(d querying.Draft) querying.Pending {
	h.t.Helper()
	p, err := h.store.Begin(h.ctx, d)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h holder) hold(peerName, user string, c querying.Certified) querying.Added {
	h.t.Helper()
	added, err := h.store.Activate(h.ctx, querying.Activation{Pending: h.begin(draft(peerName, user)), Certified: c, Act: act})
	if err != nil {
		h.t.Fatal(err)
	}
	return added
}

func (h holder) rows(table string) int {
	h.t.Helper()
	var n int
	h.scalar(&n, `SELECT count(*) FROM `+table)
	return n
}

func TestBeginGivesAnEarlierDraftBack(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	first := draft("work", "")
	again := draft("work", "")
	again.EnrollmentHash = first.EnrollmentHash
	a, b := h.begin(first), h.begin(again)
	if a.ID != first.ID || b.ID != a.ID || string(b.SealedKey) != string(first.SealedKey) || b.CSR != first.CSR || b.IdempotencyKey != first.IdempotencyKey {
		t.Errorf("%+v, then %+v", a, b)
	}
}

func TestBeginClearsDraftsThatCannotBeCompleted(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	old := h.begin(draft("away", ""))
	if _, err := h.pool.Exec(h.ctx, `UPDATE federation_credentials SET created_at = now() - interval '3 days' WHERE id = $1`, old.ID); err != nil {
		t.Fatal(err)
	}
	fresh := h.begin(draft("work", ""))
	var left uuid.UUID
	h.scalar(&left, `SELECT id FROM federation_credentials`)
	if left != fresh.ID {
		t.Error("the old key is still there")
	}
}

func TestActivateTwiceIsOnce(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	a := querying.Activation{Pending: h.begin(draft("work", "")), Certified: certified(uuid.New(), time.Now()), Act: act}
	first, err := h.store.Activate(h.ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.store.Activate(h.ctx, a)
	if err != nil || second.Credential.ID != first.Credential.ID || len(second.Retired) != 0 {
		t.Errorf("%+v, %v", second, err)
	}
	a.Certified.Serial = "another"
	if _, err := h.store.Activate(h.ctx, a); !errors.Is(err, querying.ErrTokenUsed) {
		t.Errorf("%v", err)
	}
	var events int
	h.scalar(&events, `SELECT count(*) FROM federation_audit_log WHERE verb = 'peer.add'`)
	if events != 1 {
		t.Errorf("%d events", events)
	}
}

func TestActivateLooksAtThePeerAgain(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	pending := h.begin(draft("work", ""))
	h.hold("work", "", certified(uuid.New(), time.Now()))
	other := certified(uuid.New(), time.Now())
	other.CAFingerprint = [32]byte{2}
	if _, err := h.store.Activate(h.ctx, querying.Activation{Pending: pending, Certified: other, Act: act}); !errors.Is(err, querying.ErrCAMismatch) {
		t.Errorf("another CA: %v", err)
	}
	if _, err := h.peers.Change(h.ctx, "work", postgres.Transition{Verb: "peer.revoke", Rule: peer.State.Revoke}, "", act); err != nil {
		t.Fatal(err)
	}
	_, err := h.store.Activate(h.ctx, querying.Activation{Pending: pending, Certified: certified(uuid.New(), time.Now()), Act: act})
	if !errors.Is(err, peer.ErrRevoked) {
		t.Errorf("a revoked peer: %v", err)
	}
}

func TestDiscardTakesOnlyWhatIsPending(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	active := h.hold("work", "", certified(uuid.New(), time.Now()))
	if err := h.store.Discard(h.ctx, active.Credential.ID, "enrollment_token_used", 410, act); err != nil {
		t.Fatal(err)
	}
	second := h.begin(draft("work", ""))
	if err := h.store.Discard(h.ctx, second.ID, "enrollment_token_used", 410, act); err != nil {
		t.Fatal(err)
	}
	if h.rows("federation_credentials") != 1 || h.rows("federation_peers") != 1 {
		t.Errorf("%d credentials, %d peers", h.rows("federation_credentials"), h.rows("federation_peers"))
	}
	if err := h.store.Discard(h.ctx, second.ID, "enrollment_token_used", 410, act); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestFindTakesTheNewestThatLives(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	h.user("ada@example.org", account.Member)
	bob := h.user("bob@example.org", account.Member)
	now := time.Now()
	old := h.hold("work", "bob@example.org", certified(uuid.New(), now.Add(-30*time.Minute)))
	newest := h.hold("work", "ada@example.org", certified(uuid.New(), now.Add(-time.Minute)))
	h.hold("work", "", certified(uuid.New(), now.Add(-2*time.Hour))) // expired
	h.begin(draft("work", ""))                                       // pending
	for user, want := range map[uuid.UUID]uuid.UUID{uuid.Nil: newest.Credential.ID, bob.ID: old.Credential.ID} {
		c, err := h.store.Find(h.ctx, "work", user)
		if err != nil || c.ID != want || c.Peer.Name != "work" || c.FederationURL == "" || len(c.SealedKey) == 0 {
			t.Errorf("%s: %+v, %v", user, c, err)
		}
	}
	c, err := h.store.Find(h.ctx, newest.Peer.ID.String(), uuid.New())
	if !errors.Is(err, querying.ErrNoCredential) || c.Peer.ID != newest.Peer.ID {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := h.store.Find(h.ctx, "nowhere", uuid.Nil); !errors.Is(err, querying.ErrPeerNotFound) {
		t.Errorf("%v", err)
	}
	list, err := h.store.Listing(h.ctx, newest.Peer.ID)
	if err != nil || len(list) != 4 || list[0].State != "active" || list[3].State != "pending" || list[3].NotAfter != nil {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestRemovingAPeerDestroysItsCredentials(t *testing.T) {
	t.Parallel()
	h := newHolder(t)
	ada := h.user("ada@example.org", account.Member)
	h.hold("work", ada.Email, certified(uuid.New(), time.Now()))
	if err := h.peers.Remove(h.ctx, "work", act); err != nil {
		t.Fatal(err)
	}
	if h.rows("federation_credentials") != 0 || h.rows("federation_credential_users") != 0 {
		t.Error("something is left")
	}
	var events int
	h.scalar(&events, `SELECT count(*) FROM federation_audit_log WHERE verb = 'peer.add'`)
	if events != 1 {
		t.Error("the audit rows went with the peer")
	}
}
