package enroll_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/stepca/stepcatest"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// embeddedCA opens the world's CA until the test ends.
func (w *world) embeddedCA() ca.Authority {
	w.t.Helper()
	a := w.authority()
	w.t.Cleanup(func() {
		if err := a.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return a
}

func wantCode(t *testing.T, err error, want *fault.Fault) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %s", err, want.Code)
	}
}

func TestAHundredRedemptionsGiveOneCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := service(w.db, w.embeddedCA(), nil)
	g, token := w.granted()
	csrs := make([][]byte, 10)
	for i := range csrs {
		csrs[i] = newCSR(t)
	}
	var mu sync.Mutex
	var won []string
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			issued, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: csrs[i%len(csrs)]})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, issued.SerialNumber)
			case !errors.Is(err, enroll.ErrTokenUsed) && !errors.Is(err, enroll.ErrInProgress):
				t.Errorf("unexpected: %v", err)
			}
		})
	}
	wg.Wait()
	if live := w.live(g); len(won) != 1 || !slices.Equal(live, won) {
		t.Errorf("%v answered, %v in the registry; want one and the same", won, live)
	}
}

func TestAnAbsentCALeavesTheTokenUsable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := stepcatest.Start(t)
	_, token := w.granted()
	server.Stop()
	started := time.Now()
	_, err := service(w.db, server.Client(t), nil).Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t), IdempotencyKey: "first"})
	wantCode(t, err, ca.ErrUnavailable)
	if f := fault.From(err); f.RetryAfter <= 0 {
		t.Error("ca_unavailable without Retry-After")
	}
	if took := time.Since(started); took > 15*time.Second {
		t.Errorf("answered after %s, want within 15 s", took)
	}
	// The CA is back, and the next try may carry another key.
	back := server.Restart(t)
	if _, err := service(w.db, back.Client(t), nil).Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t), IdempotencyKey: "second"}); err != nil {
		t.Errorf("after the CA came back: %v", err)
	}
}

func TestALaterTokenReplacesAndRevokesTheCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := service(w.db, w.embeddedCA(), nil)
	g, token := w.granted()
	first, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)})
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Redeem(t.Context(), enroll.Request{Token: w.another(g), CSR: newCSR(t)})
	if err != nil {
		t.Fatal(err)
	}
	if live := w.live(g); !slices.Equal(live, []string{second.SerialNumber}) {
		t.Errorf("live: %v, want only %s", live, second.SerialNumber)
	}
	if queued := w.texts(`SELECT serial FROM federation_ca_revocations`); !slices.Equal(queued, []string{first.SerialNumber}) {
		t.Errorf("queued for the CA: %v, want %s", queued, first.SerialNumber)
	}
}

func TestClosedGrantsAreRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		close func(w *world, g uuid.UUID) error
		want  *fault.Fault
	}{
		"revoked": {func(w *world, g uuid.UUID) error {
			_, err := (&postgres.Grants{DB: w.db}).Revoke(w.t.Context(), g, "", act)
			return err
		}, enroll.ErrGrantRevoked},
		"expired": {func(w *world, g uuid.UUID) error {
			_, err := w.pool.Exec(w.t.Context(), `UPDATE federation_grants SET expires_at = now()`)
			return err
		}, enroll.ErrGrantExpired},
		"ends within a minute": {func(w *world, g uuid.UUID) error {
			_, err := w.pool.Exec(w.t.Context(), `UPDATE federation_grants SET expires_at = now() + interval '30 seconds'`)
			return err
		}, enroll.ErrGrantExpired},
		"peer suspended": {func(w *world, g uuid.UUID) error {
			_, err := w.pool.Exec(w.t.Context(), `UPDATE federation_peers SET state = 'active'`)
			if err != nil {
				return err
			}
			_, err = (&postgres.Peers{DB: w.db}).Change(w.t.Context(), "home", postgres.Transition{Verb: "peer.suspend", Rule: peer.State.Suspend}, "", act)
			return err
		}, enroll.ErrPeerSuspended},
		"user disabled": {func(w *world, g uuid.UUID) error {
			yes := true
			_, err := (&postgres.Accounts{DB: w.db}).UpdateUser(w.t.Context(), "ada@example.org", postgres.UserChange{Disabled: &yes}, act)
			return err
		}, enroll.ErrSubjectDisabled},
		"user deleted": {func(w *world, g uuid.UUID) error {
			return (&postgres.Accounts{DB: w.db}).DeleteUser(w.t.Context(), "ada@example.org", act)
		}, enroll.ErrTokenUnknown},
		"token expired": {func(w *world, g uuid.UUID) error {
			_, err := w.pool.Exec(w.t.Context(), `UPDATE federation_enrollment_tokens SET expires_at = now()`)
			return err
		}, enroll.ErrTokenExpired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := service(w.db, w.embeddedCA(), nil)
			g, token := w.granted()
			if err := tt.close(w, g.ID); err != nil {
				t.Fatal(err)
			}
			_, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)})
			wantCode(t, err, tt.want)
			if live := w.live(g); len(live) != 0 {
				t.Errorf("live: %v", live)
			}
		})
	}
}

func TestARevokeWhileTheCASignsWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, token := w.granted()
	grants := &postgres.Grants{DB: w.db}
	s := service(w.db, w.embeddedCA(), func(step string) {
		if step == "signed" {
			if _, err := grants.Revoke(t.Context(), g.ID, "", act); err != nil {
				t.Error(err)
			}
		}
	})
	_, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)})
	wantCode(t, err, enroll.ErrGrantClosed)
	if live, queued := w.live(g), w.texts(`SELECT serial FROM federation_ca_revocations`); len(live) != 0 || len(queued) != 1 {
		t.Errorf("live %v, queued for the CA %v; want none and one", live, queued)
	}
}

func TestAClaimMadeInTimeOutlivesItsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, token := w.granted()
	hash := sha256.Sum256([]byte(token))
	store := &postgres.Enrollment{DB: w.db}
	if _, err := store.Claim(t.Context(), enroll.ClaimRequest{TokenHash: hash, Serial: mustSerial(t), Lease: enroll.Lease}); err != nil {
		t.Fatal(err)
	}
	// The gateway was killed, and then the token's life ended.
	if _, err := w.pool.Exec(t.Context(), `UPDATE federation_enrollment_tokens SET expires_at = now(), claim_lease_until = now()`); err != nil {
		t.Fatal(err)
	}
	if _, err := service(w.db, w.embeddedCA(), nil).Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)}); err != nil {
		t.Errorf("within the grace: %v", err)
	}
}

// crooked is a CA that signs something else than it was asked for.
type crooked struct {
	ca.Authority
	twist func(*ca.LeafRequest)
	asked *big.Int
	gave  *big.Int
}

func (c *crooked) IssueLeaf(ctx context.Context, r ca.LeafRequest) (ca.Chain, error) {
	c.asked = r.Serial
	c.twist(&r)
	c.gave = r.Serial
	return c.Authority.IssueLeaf(ctx, r)
}

// queued lists the serials that the CA still has to be told of.
func (w *world) queued() []string {
	w.t.Helper()
	return w.texts(`SELECT serial FROM federation_ca_revocations ORDER BY created_at, serial`)
}

func TestACertificateThatIsNotAsAskedIsNeverRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	authority := w.embeddedCA()
	for name, twist := range map[string]func(*ca.LeafRequest){
		"another grant": func(r *ca.LeafRequest) { r.GrantID = uuid.New() },
		"another user":  func(r *ca.LeafRequest) { r.SubjectUserID = uuid.New() },
		"another host":  func(r *ca.LeafRequest) { r.Host = "evil.example" },
		"another key": func(r *ca.LeafRequest) {
			block, _ := pem.Decode(newCSR(t))
			r.CSR, _ = x509.ParseCertificateRequest(block.Bytes)
		},
		"another serial": func(r *ca.LeafRequest) { r.Serial = mustSerial(t) },
		"longer":         func(r *ca.LeafRequest) { r.NotAfter = r.NotAfter.Add(time.Hour) },
	} {
		g, token := w.granted()
		signer := &crooked{Authority: authority, twist: twist}
		_, err := service(w.db, signer, nil).Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)})
		if !errors.Is(err, enroll.ErrMisissued) {
			t.Errorf("%s: %v, want certificate_mismatch", name, err)
		}
		if live := w.live(g); len(live) != 0 {
			t.Errorf("%s: recorded %v", name, live)
		}
		queued := w.queued()
		for what, serial := range map[string]*big.Int{"asked for": signer.asked, "given": signer.gave} {
			if !slices.Contains(queued, serial.String()) {
				t.Errorf("%s: the serial that was %s will never be revoked", name, what)
			}
		}
		if _, err := service(w.db, authority, nil).Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)}); err != nil {
			t.Errorf("%s: the token was lost: %v", name, err)
		}
	}
}

// replaying is a CA, or a cache before it, that gives an old answer again.
type replaying struct {
	ca.Authority
	old *ca.Chain
}

func (c replaying) IssueLeaf(ctx context.Context, r ca.LeafRequest) (ca.Chain, error) {
	if c.old.Leaf != nil {
		return *c.old, nil
	}
	chain, err := c.Authority.IssueLeaf(ctx, r)
	*c.old = chain
	return chain, err
}

func TestAnOldAnswerOfTheCARevokesNobodysCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := service(w.db, replaying{w.embeddedCA(), &ca.Chain{}}, nil)
	g, token := w.granted()
	first, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)})
	if err != nil {
		t.Fatal(err)
	}
	_, other := w.granted()
	_, err = s.Redeem(t.Context(), enroll.Request{Token: other, CSR: newCSR(t)})
	wantCode(t, err, enroll.ErrMisissued)
	if live, queued := w.live(g), w.queued(); !slices.Equal(live, []string{first.SerialNumber}) || slices.Contains(queued, first.SerialNumber) {
		t.Errorf("live %v, queued %v; want the first one live and not queued", live, queued)
	}
}

// lossy is a CA whose answer to a signing request is lost, or was none.
type lossy struct {
	ca.Authority
	sign bool
	err  error
}

func (c lossy) IssueLeaf(ctx context.Context, r ca.LeafRequest) (ca.Chain, error) {
	if c.sign {
		if _, err := c.Authority.IssueLeaf(ctx, r); err != nil {
			return ca.Chain{}, err
		}
	}
	return ca.Chain{}, c.err
}

func TestASerialThatMayHaveBeenSignedIsRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	authority := w.embeddedCA()
	for name, tt := range map[string]struct {
		lossy
		want    *fault.Fault
		outcome string
	}{
		"an answer that was lost":         {lossy{authority, true, ca.ErrUnavailable}, ca.ErrUnavailable, "orphaned"},
		"an answer that cannot be read":   {lossy{authority, true, ca.Refuse(ca.ErrAnswer, errors.New("201 <html>"))}, ca.ErrRefused, "orphaned"},
		"a refusal of the second attempt": {lossy{authority, true, ca.Refuse(ca.ErrAudience, errors.New("401"))}, ca.ErrRefused, "orphaned"},
		"a lifetime refused the 2nd time": {lossy{authority, true, ca.ErrLifetime}, ca.ErrLifetime, "orphaned"},
		"a refusal":                       {lossy{authority, false, ca.Unsigned(ca.Refuse(ca.ErrPolicy, errors.New("403")))}, ca.ErrRefused, "refused"},
		"a CA that is away":               {lossy{authority, false, ca.Unsigned(ca.ErrUnavailable)}, ca.ErrUnavailable, "refused"},
	} {
		_, token := w.granted()
		before := w.queued()
		_, err := service(w.db, tt.lossy, nil).Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)})
		if f := fault.From(err); f.Code != tt.want.Code {
			t.Errorf("%s: %v, want %s", name, err, tt.want.Code)
		}
		attempt := w.texts(`SELECT serial || ' ' || outcome FROM federation_sign_attempts ORDER BY created_at DESC LIMIT 1`)
		serial, outcome, _ := strings.Cut(attempt[0], " ")
		queued := w.queued()
		if outcome != tt.outcome || slices.Contains(queued, serial) != (outcome == "orphaned") || outcome == "refused" && len(queued) != len(before) {
			t.Errorf("%s: %s, with %d more queued for the CA; want %s", name, outcome, len(queued)-len(before), tt.outcome)
		}
		if _, err := service(w.db, authority, nil).Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)}); err != nil {
			t.Errorf("%s: the token was lost: %v", name, err)
		}
	}
}

func TestLookingNeverSpends(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := service(w.db, w.embeddedCA(), nil)
	_, token := w.granted()
	for range 3 {
		if v, err := s.Look(t.Context(), token, "127.0.0.1"); err != nil || v.Err != nil {
			t.Fatalf("look: %v %v", err, v.Err)
		}
	}
	if _, err := s.Redeem(t.Context(), enroll.Request{Token: token, CSR: newCSR(t)}); err != nil {
		t.Fatalf("looking spent the token: %v", err)
	}
	if v, err := s.Look(t.Context(), token, "127.0.0.1"); err != nil || !errors.Is(v.Err, enroll.ErrTokenUsed) {
		t.Errorf("look at a used token: %v %v", err, v.Err)
	}
	_, err := s.Look(t.Context(), "nonsense", "127.0.0.1")
	wantCode(t, err, enroll.ErrTokenUnknown)
}

func mustSerial(t *testing.T) *big.Int {
	t.Helper()
	serial, err := ca.NewSerial(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return serial
}
