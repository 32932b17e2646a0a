package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/account"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// serials reads the first column of a query as text, in order.
func (w *world) serials(sql string) []string {
	w.t.Helper()
	var list []string
	w.scalar(&list, `SELECT coalesce(array_agg(serial ORDER BY serial), '{}') FROM (`+sql+`) s`)
	return list
}

func (w *world) queued() []string { return w.serials(`SELECT serial FROM federation_ca_revocations`) }

func (w *world) live() []string {
	return w.serials(`SELECT serial FROM federation_certificates WHERE revoked_at IS NULL`)
}

// claimed makes a grant with a token and claims it.
func (w *world) claimed() enroll.Claim {
	w.t.Helper()
	w.pending(w.user("ada@example.org", account.Member), tasksOnly, "t")
	return w.mustClaim("t")
}

func (w *world) mustClaim(token string) enroll.Claim {
	w.t.Helper()
	c, err := w.claim(token)
	if err != nil {
		w.t.Fatalf("claim: %v", err)
	}
	return c
}

func (w *world) wantClaim(what string, want *fault.Fault) {
	w.t.Helper()
	if _, err := w.claim("t"); !errors.Is(err, want) {
		w.t.Errorf("%s: %v, want %s", what, err, want.Code)
	}
}

// The statements and their explanations are two writings of one rule: whatever a grant stands on, either a token of it
// is claimed and activated, or there is a reason that is none of the two races.
func TestOpenIsNotClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	g := w.pending(ada, `{"resources":["tasks","api_keys"],"max_rows_per_query":1}`, "none")
	hash := w.token("t")
	opened := 0
	for _, status := range []string{"pending", "active", "revoked", "expired"} {
		for _, state := range []string{"pending", "active", "suspended", "revoked"} {
			for flags := range 16 {
				over, disabled, plain, approved := flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0
				stand := func() {
					w.exec(`UPDATE federation_grants SET status = $1::grant_status, revoked_at = CASE WHEN $1 = 'revoked' THEN now() END,
						expires_at = now() + CASE WHEN $2 THEN interval '0' ELSE interval '1 hour' END, approved_at = CASE WHEN $3 THEN now() END,
						scope = jsonb_set(scope, '{resources}', CASE WHEN $4 THEN '["tasks"]' ELSE '["tasks", "api_keys"]' END::jsonb)`, status, over, approved, plain)
					w.exec(`UPDATE federation_peers SET state = $1::peer_state, revoked_at = CASE WHEN $1 = 'revoked' THEN now() END`, state)
					w.exec(`UPDATE users SET disabled_at = CASE WHEN $1 THEN now() END`, disabled)
				}
				again := func() {
					w.exec(`DELETE FROM federation_enrollment_tokens`)
					w.exec(`INSERT INTO federation_enrollment_tokens (grant_id, token_hash, expires_at) VALUES ($1, $2, now() + interval '1 minute')`, g.ID, hash[:])
				}
				open := (status == "pending" || status == "active") && (state == "pending" || state == "active") && !over && !disabled && (plain || approved)
				check := func(what string, err error) {
					t.Helper()
					if (err == nil) != open || errors.Is(err, enroll.ErrInProgress) || errors.Is(err, enroll.ErrTokenUnknown) {
						t.Errorf("%s of a grant that is %s, its peer %s, over %t, user disabled %t, not sensitive %t, approved %t: %v", what, status, state, over, disabled, plain, approved, err)
					}
				}
				again()
				stand()
				_, err := w.claim("t")
				check("a claim", err)
				again()
				w.exec(`UPDATE federation_grants SET status = 'active', revoked_at = NULL, expires_at = NULL, approved_at = now()`)
				w.exec(`UPDATE federation_peers SET state = 'active', revoked_at = NULL`)
				w.exec(`UPDATE users SET disabled_at = NULL`)
				c := w.mustClaim("t")
				c.FirstOfPeer = state == "pending"
				stand()
				check("an activation", w.enroll.Activate(w.ctx, activation(c)))
				if open {
					opened++
				}
			}
		}
	}
	if live := w.live(); opened != 12 || len(live) != 1 {
		t.Errorf("%d were open, live certificates: %v", opened, live)
	}
}

func TestAClaimInTimeIsRetryableUntilTwoMinutesAfterItsLease(t *testing.T) {
	t.Parallel()
	grace := enroll.Lease + 2*time.Minute
	for name, tt := range map[string]struct {
		ago  time.Duration // since the claim in time
		want error
	}{
		"just within": {grace - 20*time.Second, nil},
		"just beyond": {grace + time.Second, enroll.ErrTokenExpired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.claimed()
			if err := w.enroll.Release(w.ctx, c); err != nil {
				t.Fatal(err)
			}
			w.exec(`UPDATE federation_enrollment_tokens SET claimed_at = now() - $1::interval, expires_at = now() - $1::interval + interval '1 second'`, tt.ago)
			if _, err := w.claim("t"); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestRetriesAfterATokensLifeDoNotKeepItAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.claimed()
	// Every half minute somebody tries again; the token ended a second after the claim in time.
	for since := 30 * time.Second; since < time.Hour; since += 30 * time.Second {
		if err := w.enroll.Release(w.ctx, c); err != nil {
			t.Fatal(err)
		}
		w.exec(`UPDATE federation_enrollment_tokens SET claimed_at = claimed_at - interval '30 seconds', expires_at = claimed_at - interval '29 seconds'`)
		again, err := w.claim("t")
		switch {
		case errors.Is(err, enroll.ErrTokenExpired):
			if since < 2*time.Minute {
				t.Errorf("refused %s after the claim in time", since)
			}
			return
		case err != nil:
			t.Fatal(err)
		case since > enroll.Lease+2*time.Minute:
			t.Fatalf("claimed again %s after the claim in time", since)
		}
		c = again
	}
}

func TestAClaimThatWasNeverInTimeHasNoGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pending(w.user("ada@example.org", account.Member), tasksOnly, "t")
	w.exec(`UPDATE federation_enrollment_tokens SET expires_at = now() - interval '1 second'`)
	w.wantClaim("never claimed", enroll.ErrTokenExpired)
	w.exec(`UPDATE federation_enrollment_tokens SET claimed_at = now(), claim_lease_until = now()`)
	w.wantClaim("claimed after its life", enroll.ErrTokenExpired)
}

func TestOnlyTheHolderOfAClaimReleasesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	slow := w.claimed()
	w.exec(`UPDATE federation_enrollment_tokens SET claim_lease_until = now()`)
	w.mustClaim("t")
	if err := w.enroll.Release(w.ctx, slow, slow.Serial); err != nil {
		t.Fatal(err)
	}
	w.wantClaim("after another released", enroll.ErrInProgress)
}

func TestASerialThatWasGivenUpIsNeverRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.claimed()
	w.exec(`UPDATE federation_sign_attempts SET lease_until = now() - interval '1 second'`)
	if n, err := (&postgres.Upkeep{DB: w.db}).SweepAttempts(w.ctx); n != 1 || err != nil {
		t.Fatalf("swept %d, %v", n, err)
	}
	if err := w.enroll.Activate(w.ctx, activation(c)); !errors.Is(err, enroll.ErrInProgress) {
		t.Errorf("%v, want enrollment_in_progress", err)
	}
	if live := w.live(); len(live) != 0 {
		t.Errorf("live: %v, and it will be revoked at the CA", live)
	}
}

func TestAnActivationWaitsForWhoeverIsClosingItsGrant(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		close string
		want  *fault.Fault
	}{
		"grant revoked":  {`UPDATE federation_grants SET status = 'revoked', revoked_at = now()`, enroll.ErrGrantClosed},
		"peer revoked":   {`UPDATE federation_peers SET state = 'revoked', revoked_at = now()`, enroll.ErrGrantClosed},
		"peer suspended": {`UPDATE federation_peers SET state = 'suspended'`, enroll.ErrPeerSuspended},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.pending(w.user("ada@example.org", account.Member), tasksOnly, "t")
			w.exec(`UPDATE federation_peers SET state = 'active'`) // an enrollment of an active peer only shares its row
			c := w.mustClaim("t")
			err := w.behind(func() error { return w.enroll.Activate(w.ctx, activation(c)) }, tt.close)
			if fault.From(err).Code != tt.want.Code {
				t.Errorf("%v, want %s", err, tt.want.Code)
			}
			if live, queued := w.live(), w.queued(); len(live) != 0 || !slices.Equal(queued, []string{c.Serial.String()}) {
				t.Errorf("live %v, queued %v; want none, and the serial", live, queued)
			}
		})
	}
}

// Whoever takes over a token, or gives its attempt up, does not lock the grant: the rows themselves are waited for.
func TestAnActivationWaitsForWhoeverTakesItOver(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"the token is claimed anew": `UPDATE federation_enrollment_tokens SET claim_generation = claim_generation + 1`,
		"the attempt is given up":   `UPDATE federation_sign_attempts SET outcome = 'orphaned'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.claimed()
			if err := w.behind(func() error { return w.enroll.Activate(w.ctx, activation(c)) }, change); !errors.Is(err, enroll.ErrInProgress) {
				t.Errorf("%v, want enrollment_in_progress", err)
			}
			if live := w.live(); len(live) != 0 {
				t.Errorf("live: %v", live)
			}
		})
	}
}

func TestATokenOutlivesWhatPasses(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	change := func(rule func(peer.State) (peer.State, error)) func(w *world) error {
		return func(w *world) error {
			_, err := w.peers.Change(w.ctx, "home", postgres.Transition{Verb: "peer.change", Rule: rule}, "", act)
			return err
		}
	}
	disable := func(d *bool) func(w *world) error {
		return func(w *world) error {
			_, err := w.accounts.UpdateUser(w.ctx, "ada@example.org", postgres.UserChange{Disabled: d}, act)
			return err
		}
	}
	for name, tt := range map[string]struct {
		begin, end func(w *world) error
		want       *fault.Fault
	}{
		"peer suspended": {change(peer.State.Suspend), change(peer.State.Resume), enroll.ErrPeerSuspended},
		"user disabled":  {disable(&yes), disable(&no), enroll.ErrSubjectDisabled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			must := func(do func(w *world) error) {
				t.Helper()
				if err := do(w); err != nil {
					t.Fatal(err)
				}
			}
			g := w.pending(w.user("ada@example.org", account.Member), tasksOnly, "t")
			w.exec(`UPDATE federation_peers SET state = 'active'`)
			must(tt.begin)
			w.wantClaim("before it ended", tt.want)
			// No further token is handed out meanwhile, with or without a new grant.
			_, _, err := w.grants.IssueToken(w.ctx, g.ID, postgres.NewToken{Hash: w.token("u"), TTL: time.Minute}, act)
			if f := fault.From(err); f.Code != tt.want.Code {
				t.Errorf("a further token: %v, want %s", err, tt.want.Code)
			}
			n := postgres.NewGrant{PeerName: "home", SubjectUser: "ada@example.org", Scope: mustScope(t, tasksOnly)}
			if _, _, err = w.grants.CreateGrant(w.ctx, n, postgres.NewToken{Hash: w.token("u"), TTL: time.Minute}, act); fault.From(err).Code != tt.want.Code {
				t.Errorf("a new grant: %v, want %s", err, tt.want.Code)
			}
			must(tt.end)
			// It may also begin while the CA signs.
			c := w.mustClaim("t")
			must(tt.begin)
			if err := w.enroll.Activate(w.ctx, activation(c)); fault.From(err).Code != tt.want.Code {
				t.Errorf("activate: %v, want %s", err, tt.want.Code)
			}
			must(tt.end)
			if err := w.enroll.Activate(w.ctx, activation(w.mustClaim("t"))); err != nil {
				t.Errorf("after it ended: %v", err)
			}
		})
	}
}

func TestASensitiveGrantIsNotRedeemedWithoutItsApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.pending(w.user("ada@example.org", account.Member), `{"resources":["api_keys"],"max_rows_per_query":1}`, "none")
	hash := w.token("t")
	w.exec(`INSERT INTO federation_enrollment_tokens (grant_id, token_hash, expires_at) VALUES ($1, $2, now() + interval '1 minute')`, g.ID, hash[:])
	w.wantClaim("not approved", enroll.ErrApprovalMissing)
	if _, err := w.grants.Approve(w.ctx, g.ID, "audit", act); err != nil {
		t.Fatal(err)
	}
	c := w.mustClaim("t")
	w.exec(`UPDATE federation_grants SET approved_at = NULL`) // a restored dump, for one
	if err := w.enroll.Activate(w.ctx, activation(c)); !errors.Is(err, enroll.ErrGrantClosed) {
		t.Errorf("activate: %v, want grant_closed", err)
	}
}

// keyed is a claim and an activation that carry an idempotency key.
func (w *world) keyed() (enroll.ClaimRequest, enroll.Activation) {
	w.t.Helper()
	c := w.claimed()
	key := w.token("key")
	r := enroll.ClaimRequest{TokenHash: w.token("t"), RequestHash: w.token("request"), IdempotencyHash: key[:], Serial: c.Serial, Lease: enroll.Lease}
	a := activation(c)
	a.RequestHash, a.IdempotencyHash, a.Answer = r.RequestHash, r.IdempotencyHash, []byte(`{"the":"answer"}`)
	return r, a
}

func TestTheSameAnswerIsGivenAgainOnlyWhileItOpensSomething(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change string
		want   error
	}{
		"at once":              {``, nil},
		"after the token":      {`UPDATE federation_enrollment_tokens SET expires_at = now()`, enroll.ErrTokenUsed},
		"of a revoked grant":   {`UPDATE federation_grants SET status = 'revoked', revoked_at = now()`, enroll.ErrGrantRevoked},
		"of an expired grant":  {`UPDATE federation_grants SET expires_at = now()`, enroll.ErrGrantExpired},
		"of a suspended peer":  {`UPDATE federation_peers SET state = 'suspended'`, enroll.ErrPeerSuspended},
		"of a revoked peer":    {`UPDATE federation_peers SET state = 'revoked'`, enroll.ErrGrantClosed},
		"of a disabled user":   {`UPDATE users SET disabled_at = now()`, enroll.ErrSubjectDisabled},
		"of another request":   {`UPDATE federation_enrollment_tokens SET request_hash = sha256('another')`, enroll.ErrKeyReused},
		"to a key it had not":  {`UPDATE federation_enrollment_tokens SET idempotency_hash = sha256('another')`, enroll.ErrTokenUsed},
		"when there was a key": {`UPDATE federation_enrollment_tokens SET idempotency_hash = NULL`, enroll.ErrTokenUsed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			request, a := w.keyed()
			if err := w.enroll.Activate(w.ctx, a); err != nil {
				t.Fatal(err)
			}
			if tt.change != "" {
				w.exec(tt.change)
			}
			again, err := w.enroll.Claim(w.ctx, request)
			if !errors.Is(err, tt.want) || (err == nil) != bytes.Equal(again.Again, a.Answer) {
				t.Errorf("%v with %q, want %v", err, again.Again, tt.want)
			}
		})
	}
}

// A serial that the CA gave unasked is queued, unless it is somebody else's.
func TestSerialsOfOthersAreNotQueued(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pending(w.user("ada@example.org", account.Member), tasksOnly, "recorded")
	recorded := w.mustClaim("recorded")
	if err := w.enroll.Activate(w.ctx, activation(recorded)); err != nil {
		t.Fatal(err)
	}
	w.pending(w.user("bo@example.org", account.Member), tasksOnly, "pending")
	pending := w.mustClaim("pending")
	w.pending(w.user("cy@example.org", account.Member), tasksOnly, "t")
	c := w.mustClaim("t")
	strange := mustSerial(t, "987654321")
	if err := w.enroll.Release(w.ctx, c, c.Serial, recorded.Serial, pending.Serial, strange, mustSerial(t, "0"), mustSerial(t, "-7")); err != nil {
		t.Fatal(err)
	}
	want := []string{c.Serial.String(), strange.String()}
	slices.Sort(want)
	if queued := w.queued(); !slices.Equal(queued, want) {
		t.Errorf("queued %v, want %v", queued, want)
	}
	if err := w.enroll.Activate(w.ctx, activation(pending)); err != nil {
		t.Errorf("the other's enrollment: %v", err)
	}
	if live := w.live(); !slices.Contains(live, recorded.Serial.String()) || !slices.Contains(live, pending.Serial.String()) {
		t.Errorf("live %v", live)
	}
}

// deaf loses the server's answer to an activation: the server has committed it, and the connection is gone.
type deaf struct {
	net.Conn
	armed, committing *atomic.Bool
	closed            atomic.Bool
}

func (d *deaf) Write(p []byte) (int, error) {
	if d.armed.Load() && bytes.Contains(p, []byte(`{"the":"answer"}`)) {
		d.armed.Store(false)
		d.committing.Store(true)
		d.closed.Store(true)
	}
	return d.Conn.Write(p)
}

func (d *deaf) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p) // what comes back says that the server is done
	if d.closed.Load() && err == nil {
		return 0, io.EOF
	}
	return n, err
}

func TestALostCommitOfAnActivationIsNoLostCertificate(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]bool{"the connection is lost": false, "the database is away after it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			request, a := w.keyed()
			conf := w.pool.Config().Copy()
			var armed, committing atomic.Bool
			dial := conf.ConnConfig.DialFunc
			conf.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
				if gone && committing.Load() {
					return nil, errors.New("away")
				}
				c, err := dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &deaf{Conn: c, armed: &armed, committing: &committing}, nil
			}
			conf.MaxConns = 1
			pool, err := pgxpool.NewWithConfig(w.ctx, conf)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			armed.Store(true)
			err = (&postgres.Enrollment{DB: postgres.New(pool)}).Activate(w.ctx, a)
			if !committing.Load() {
				t.Fatal("nothing was committed")
			}
			if gone != (err != nil) {
				t.Errorf("activate: %v", err)
			}
			// Whatever the caller was told, the certificate is good, and nobody revokes it.
			w.exec(`UPDATE federation_sign_attempts SET lease_until = now() - interval '1 second'`)
			if n, err := (&postgres.Upkeep{DB: w.db}).SweepAttempts(w.ctx); n != 0 || err != nil {
				t.Errorf("swept %d, %v", n, err)
			}
			if live, queued := w.live(), w.queued(); !slices.Equal(live, []string{a.Identity.Serial}) || len(queued) != 0 {
				t.Errorf("live %v, queued %v; want the serial, and none", live, queued)
			}
			if again, err := w.enroll.Claim(w.ctx, request); err != nil || !bytes.Equal(again.Again, a.Answer) {
				t.Errorf("the retry: %v with %q, want the recorded answer", err, again.Again)
			}
		})
	}
}

func TestOfAGrantThatEndsTheCAIsTold(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world, c enroll.Claim) error{
		"grant revoked": func(w *world, c enroll.Claim) error {
			_, err := w.grants.Revoke(w.ctx, c.Grant.ID, "", act)
			return err
		},
		"peer revoked": func(w *world, c enroll.Claim) error {
			_, err := w.peers.Change(w.ctx, "home", postgres.Transition{Verb: "peer.revoke", Rule: peer.State.Revoke}, "", act)
			return err
		},
		"peer removed": func(w *world, c enroll.Claim) error { return w.peers.Remove(w.ctx, "home", act) },
		"user deleted": func(w *world, c enroll.Claim) error { return w.accounts.DeleteUser(w.ctx, "ada@example.org", act) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			c := w.claimed()
			if err := w.enroll.Activate(w.ctx, activation(c)); err != nil {
				t.Fatal(err)
			}
			if err := end(w, c); err != nil {
				t.Fatal(err)
			}
			if live, queued := w.live(), w.queued(); len(live) != 0 || !slices.Equal(queued, []string{c.Serial.String()}) {
				t.Errorf("live %v, queued for the CA %v; want none, and the serial", live, queued)
			}
		})
	}
}

func TestARevokedPeerIsGrantedNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ada := w.user("ada@example.org", account.Member)
	w.pending(ada, tasksOnly, "t")
	if _, err := w.peers.Change(w.ctx, "home", postgres.Transition{Verb: "peer.revoke", Rule: peer.State.Revoke}, "", act); err != nil {
		t.Fatal(err)
	}
	n := postgres.NewGrant{PeerName: "home", SubjectUser: ada.Email, Scope: mustScope(t, tasksOnly)}
	if _, _, err := w.grants.CreateGrant(w.ctx, n, postgres.NewToken{Hash: w.token("u"), TTL: time.Minute}, act); !errors.Is(err, peer.ErrRevoked) {
		t.Errorf("%v, want peer_revoked", err)
	}
	var grants int
	if w.scalar(&grants, `SELECT count(*)::int FROM federation_grants WHERE status <> 'revoked'`); grants != 0 {
		t.Errorf("%d grants", grants)
	}
}
