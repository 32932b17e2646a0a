package postgres_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
)

// importRows stores titles as tasks of owner.
func (w *world) importTasks(owner account.User, team string, titles ...string) {
	w.t.Helper()
	i := 0
	next := func() (resource.Row, error) {
		if i == len(titles) {
			return resource.Row{}, io.EOF
		}
		doc, _ := json.Marshal(map[string]any{"title": titles[i]})
		i++
		return resource.ParseRow(scope.Tasks, doc)
	}
	n, err := w.resources.Import(w.ctx, scope.Tasks, owner.Email, team, next, act)
	if err != nil || n != int64(len(titles)) {
		w.t.Fatalf("import: %d rows, %v", n, err)
	}
}

// held is a grant with the certificate that was enrolled for it.
type held struct {
	grant grant.Grant
	check serving.Check
}

func mustScope(t *testing.T, doc string) scope.Scope {
	t.Helper()
	s, err := scope.Parse([]byte(doc))
	if err != nil {
		t.Fatalf("scope: %v", err)
	}
	return s
}

func (w *world) token(name string) [32]byte { return sha256.Sum256([]byte(w.t.Name() + name)) }

// pending makes a grant with a token.
func (w *world) pending(user account.User, doc, token string) grant.Grant {
	w.t.Helper()
	g, _, err := w.grants.CreateGrant(w.ctx, postgres.NewGrant{PeerName: "home", SubjectUser: user.Email, Scope: mustScope(w.t, doc)},
		postgres.NewToken{Hash: w.token(token), TTL: time.Minute}, act)
	if err != nil {
		w.t.Fatalf("create grant: %v", err)
	}
	return g
}

func (w *world) claim(token string) (enroll.Claim, error) {
	id := uuid.New()
	return w.enroll.Claim(w.ctx, enroll.ClaimRequest{TokenHash: w.token(token), Serial: new(big.Int).SetBytes(id[:]), Lease: 30 * time.Second})
}

func activation(c enroll.Claim) enroll.Activation {
	return enroll.Activation{Claim: c, Answer: []byte(`{}`), Act: act, Identity: identity.Identity{
		GrantID: c.Grant.ID, UserID: c.Grant.SubjectUserID, Fingerprint: sha256.Sum256([]byte(c.Serial.String())),
		Serial: c.Serial.String(), NotBefore: c.Now, NotAfter: c.Now.Add(time.Hour),
	}}
}

// enrolled makes a grant and enrols a certificate for it.
func (w *world) enrolled(user account.User, doc string) held {
	w.t.Helper()
	w.pending(user, doc, "t")
	c, err := w.claim("t")
	if err != nil {
		w.t.Fatalf("claim: %v", err)
	}
	a := activation(c)
	if err := w.enroll.Activate(w.ctx, a); err != nil {
		w.t.Fatalf("activate: %v", err)
	}
	p, err := w.serving.Plan(w.ctx, a.Identity.Fingerprint)
	if err != nil {
		w.t.Fatalf("plan: %v", err)
	}
	return held{c.Grant, serving.Check{Fingerprint: a.Identity.Fingerprint, GrantID: c.Grant.ID, UserID: user.ID, Version: p.Version}}
}

func (w *world) list(h held, after page.Key, rows int) (serving.Rows, error) {
	return w.serving.List(w.ctx, serving.ListQuery{
		Check: h.check, Resource: scope.Tasks, Filter: h.grant.Scope.Filter(scope.Tasks), After: after, Rows: rows, MaxBytes: 8 << 20,
	})
}

func titles(t *testing.T, r serving.Rows) []string {
	t.Helper()
	var rows []struct{ Title string }
	if err := json.Unmarshal(fmt.Appendf(nil, "[%s]", r.Docs), &rows); err != nil {
		t.Fatalf("documents are no JSON: %v", err)
	}
	var out []string
	for _, r := range rows {
		out = append(out, r.Title)
	}
	return out
}

const tasksOnly = `{"resources":["tasks"],"max_rows_per_query":100}`

func TestListShowsPersonalRowsOfTheSubjectOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bo := w.user("ada@example.org", account.Member), w.user("bo@example.org", account.Member)
	w.team("both", ada, bo)
	w.importTasks(ada, "", "mine 1", "mine 2")
	w.importTasks(bo, "", "his")
	w.importTasks(ada, "both", "team row I own")
	got, err := w.list(w.enrolled(ada, tasksOnly), page.Key{}, 50)
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(titles(t, got), ","); s != "mine 2,mine 1" {
		t.Errorf("rows %q, want the two personal ones, newest first", s)
	}
}

func TestTeamRowsFollowMembership(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bo := w.user("ada@example.org", account.Member), w.user("bo@example.org", account.Member)
	team := w.team("both", ada, bo)
	other := w.team("other", bo)
	w.importTasks(bo, "both", "shared")
	w.importTasks(bo, "other", "not hers")
	w.importTasks(ada, "", "mine")
	h := w.enrolled(ada, fmt.Sprintf(`{"resources":["tasks"],"filters":{"tasks":{"include_teams":["%s","%s"]}},"max_rows_per_query":100}`, team, other))
	see := func(want string) {
		t.Helper()
		got, err := w.list(h, page.Key{}, 50)
		if err != nil {
			t.Fatal(err)
		}
		if s := strings.Join(titles(t, got), ","); s != want {
			t.Errorf("rows %q, want %q", s, want)
		}
	}
	see("mine,shared")
	if err := w.accounts.RemoveMember(w.ctx, "both", ada.Email, act); err != nil {
		t.Fatal(err)
	}
	see("mine")
}

func TestPagesShowEveryRowOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	var want []string
	for i := range 23 {
		want = append([]string{fmt.Sprint(i)}, want...)
		w.importTasks(ada, "", fmt.Sprint(i))
	}
	h := w.enrolled(ada, tasksOnly)
	var got []string
	for after := (page.Key{}); ; {
		r, err := w.list(h, after, 5)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, titles(t, r)...)
		if !r.More {
			break
		}
		after = r.Last
	}
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("pages gave %v, want %v", got, want)
	}
}

func TestAnswerIsCutAtItsByteLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.importTasks(ada, "", "a", "b", "c")
	h := w.enrolled(ada, tasksOnly)
	r, err := w.serving.List(w.ctx, serving.ListQuery{Check: h.check, Resource: scope.Tasks, Filter: scope.Filter{IncludePersonal: true}, Rows: 50, MaxBytes: 300})
	if err != nil {
		t.Fatal(err)
	}
	if r.Count != 1 || !r.More || !r.Cut {
		t.Errorf("count %d more %v cut %v, want one row and a cut", r.Count, r.More, r.Cut)
	}
}

func TestRefusalsAreInForceWhenTheChangeHasReturned(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(w *world, h held) error
		want   *fault.Fault
	}{
		{"grant revoked", func(w *world, h held) error {
			_, err := w.grants.Revoke(w.ctx, h.grant.ID, "because", act)
			return err
		}, serving.ErrGrantRevoked},
		{"peer suspended", func(w *world, h held) error {
			_, err := w.peers.Change(w.ctx, "home", postgres.Transition{Verb: "peer.suspend", Rule: peer.State.Suspend}, "", act)
			return err
		}, serving.ErrPeerSuspended},
		{"peer revoked", func(w *world, h held) error {
			_, err := w.peers.Change(w.ctx, "home", postgres.Transition{Verb: "peer.revoke", Rule: peer.State.Revoke}, "", act)
			return err
		}, serving.ErrPeerRevoked},
		{"peer removed", func(w *world, h held) error { return w.peers.Remove(w.ctx, "home", act) }, serving.ErrCertificateUnknown},
		{"user disabled", func(w *world, h held) error {
			yes := true
			_, err := w.accounts.UpdateUser(w.ctx, h.check.UserID.String(), postgres.UserChange{Disabled: &yes}, act)
			return err
		}, serving.ErrSubjectDisabled},
		{"user deleted", func(w *world, h held) error {
			return w.accounts.DeleteUser(w.ctx, h.check.UserID.String(), act)
		}, serving.ErrCertificateUnknown},
		{"grant expired", func(w *world, h held) error {
			_, err := w.pool.Exec(w.ctx, `UPDATE federation_grants SET expires_at = now()`)
			return err
		}, serving.ErrGrantExpired},
		{"grant and certificate end together", func(w *world, h held) error {
			if _, err := w.pool.Exec(w.ctx, `UPDATE federation_certificates SET not_after = date_trunc('second', now())`); err != nil {
				return err
			}
			_, err := w.pool.Exec(w.ctx, `UPDATE federation_grants SET expires_at = now()`)
			return err
		}, serving.ErrGrantExpired},
		{"certificate expired", func(w *world, h held) error {
			_, err := w.pool.Exec(w.ctx, `UPDATE federation_certificates SET not_after = now()`)
			return err
		}, serving.ErrCertificateExpired},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.user("admin@example.org", account.Admin)
			ada := w.user("ada@example.org", account.Member)
			w.importTasks(ada, "", "mine")
			h := w.enrolled(ada, tasksOnly)
			if _, err := w.list(h, page.Key{}, 50); err != nil {
				t.Fatalf("before: %v", err)
			}
			if err := tt.change(w, h); err != nil {
				t.Fatal(err)
			}
			if r, err := w.list(h, page.Key{}, 50); !errors.Is(err, tt.want) || r.Count != 0 {
				t.Errorf("list: %v with %d rows, want %s", err, r.Count, tt.want.Code)
			}
			if doc, err := w.serving.Get(w.ctx, serving.GetQuery{Check: h.check, Resource: scope.Tasks, Filter: scope.Filter{IncludePersonal: true}}); !errors.Is(err, tt.want) || doc != nil {
				t.Errorf("get: %v, want %s", err, tt.want.Code)
			}
			if err := w.serving.Authorize(w.ctx, h.check); !errors.Is(err, tt.want) {
				t.Errorf("authorize: %v, want %s", err, tt.want.Code)
			}
		})
	}
}

func TestGetHidesWhatListHides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada, bo := w.user("ada@example.org", account.Member), w.user("bo@example.org", account.Member)
	w.importTasks(ada, "", "mine")
	w.importTasks(bo, "", "his")
	h := w.enrolled(ada, tasksOnly)
	get := func(owner account.User) []byte {
		var id uuid.UUID
		w.scalar(&id, `SELECT id FROM tasks WHERE owner_id = $1`, owner.ID)
		doc, err := w.serving.Get(w.ctx, serving.GetQuery{Check: h.check, Resource: scope.Tasks, Filter: h.grant.Scope.Filter(scope.Tasks), ID: id})
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	if get(ada) == nil {
		t.Error("her own row is not found")
	}
	if doc := get(bo); doc != nil {
		t.Errorf("another user's row is shown: %s", doc)
	}
}

func TestAPlanOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	h := w.enrolled(ada, tasksOnly)
	h.check.Version--
	if _, err := w.list(h, page.Key{}, 1); !errors.Is(err, serving.ErrStale()) {
		t.Errorf("%v, want the stale plan refused", err)
	}
}

func TestOneTokenGivesOneCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pending(w.user("ada@example.org", account.Member), tasksOnly, "t")
	var won, lost int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			c, err := w.claim("t")
			if err == nil {
				err = w.enroll.Activate(w.ctx, activation(c))
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case errors.Is(err, enroll.ErrInProgress), errors.Is(err, enroll.ErrTokenUsed):
				lost++
			default:
				t.Errorf("unexpected: %v", err)
			}
		})
	}
	wg.Wait()
	var registered int
	w.scalar(&registered, `SELECT count(*) FROM federation_certificates`)
	if won != 1 || lost != 49 || registered != 1 {
		t.Errorf("%d won, %d lost, %d in the registry; want 1, 49, 1", won, lost, registered)
	}
}

func TestRevokeDuringSigningWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.pending(w.user("ada@example.org", account.Member), tasksOnly, "t")
	c, err := w.claim("t")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.grants.Revoke(w.ctx, g.ID, "", act); err != nil {
		t.Fatal(err)
	}
	if err := w.enroll.Activate(w.ctx, activation(c)); !errors.Is(err, enroll.ErrGrantClosed) {
		t.Fatalf("activate: %v, want grant_closed", err)
	}
	var registered, queued int
	w.scalar(&registered, `SELECT count(*) FROM federation_certificates`)
	w.scalar(&queued, `SELECT count(*) FROM federation_ca_revocations WHERE serial = $1`, c.Serial.String())
	if registered != 0 || queued != 1 {
		t.Errorf("%d certificates, %d queued for the CA; want 0 and 1", registered, queued)
	}
}

func TestAClaimWhoseLeaseEndedCannotActivateAfterAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pending(w.user("ada@example.org", account.Member), tasksOnly, "t")
	slow, err := w.claim("t")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.claim("t"); !errors.Is(err, enroll.ErrInProgress) {
		t.Fatalf("second claim: %v, want enrollment_in_progress", err)
	}
	if _, err := w.pool.Exec(w.ctx, `UPDATE federation_enrollment_tokens SET claim_lease_until = now()`); err != nil {
		t.Fatal(err)
	}
	fast, err := w.claim("t")
	if err != nil {
		t.Fatalf("claim after the lease: %v", err)
	}
	if err := w.enroll.Activate(w.ctx, activation(slow)); !errors.Is(err, enroll.ErrInProgress) {
		t.Errorf("slow activation: %v, want enrollment_in_progress", err)
	}
	if err := w.enroll.Activate(w.ctx, activation(fast)); err != nil {
		t.Errorf("fast activation: %v", err)
	}
}

func TestRevokesOfGrantsAndPeersDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	for round := range 10 {
		var ids []uuid.UUID
		for i := range 6 {
			ids = append(ids, w.pending(ada, tasksOnly, fmt.Sprint(round, i)).ID)
		}
		var wg sync.WaitGroup
		for _, id := range ids {
			wg.Go(func() {
				if _, err := w.grants.Revoke(w.ctx, id, "", act); err != nil && !errors.Is(err, postgres.ErrGrantNotFound) {
					t.Errorf("revoke: %v", err)
				}
			})
		}
		wg.Go(func() {
			if round%2 == 0 {
				if err := w.peers.Remove(w.ctx, "home", act); err != nil {
					t.Errorf("remove: %v", err)
				}
				return
			}
			if _, err := w.peers.Change(w.ctx, "home", postgres.Transition{Verb: "peer.revoke", Rule: peer.State.Revoke}, "", act); err != nil {
				t.Errorf("revoke peer: %v", err)
			}
			if err := w.peers.Remove(w.ctx, "home", act); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
		wg.Wait()
	}
}
