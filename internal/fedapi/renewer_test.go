package fedapi_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/remote"
	"github.com/mosaicstack/gateway/internal/seal"
)

// querier is a gateway that asks the one under test, with a database of its own.
type querier struct {
	t       *testing.T
	g       *gateway
	grant   uuid.UUID
	pool    *pgxpool.Pool
	store   *postgres.Credentials
	adder   *querying.Adder
	clock   *clock
	client  *remote.Client
	service *querying.Service
	renewer *querying.Renewer
	between func(a querying.Answer, err error) (querying.Answer, error) // what becomes of a renewal's answer; may be nil
}

// Enroll implements querying.Enroller: the public endpoint is not what is tested here.
func (g *gateway) Enroll(ctx context.Context, r querying.EnrollRequest) (querying.Answer, error) {
	issued, err := g.enroll.Redeem(ctx, enroll.Request{Token: r.Token.Reveal(), CSR: []byte(r.CSR), IdempotencyKey: r.IdempotencyKey})
	if err != nil {
		return querying.Answer{}, err
	}
	body, err := json.Marshal(issued)
	return querying.Answer{Status: http.StatusCreated, Body: body}, err
}

// outage is a CA that can be away.
type outage struct {
	enroll.Signer
	away atomic.Bool
}

func (o *outage) IssueLeaf(ctx context.Context, r ca.LeafRequest) (ca.Chain, error) {
	if o.away.Load() {
		return ca.Chain{}, ca.ErrUnavailable
	}
	return o.Signer.IssueLeaf(ctx, r)
}

func newQuerier(t *testing.T, g *gateway) *querier {
	t.Helper()
	g.enroll.FederationURL = "https://" + g.addr
	plenty := 1_000_000
	_, made := g.enrolAt("ada@example.org", &plenty)
	keys, err := seal.Derive([]byte("another secret of the tests, long enough too"))
	if err != nil {
		t.Fatal(err)
	}
	q := &querier{t: t, g: g, grant: made.ID, pool: pg.Pool(t), clock: &clock{}}
	db := postgres.New(q.pool)
	q.store = &postgres.Credentials{DB: db}
	client := remote.NewClient()
	t.Cleanup(client.Close)
	q.client = client
	q.adder = querying.NewAdder(querying.AdderConfig{
		Store: q.store, Enroller: g, Client: client, Keys: keys, Random: rand.Reader, Now: q.clock.now,
		Learn: func(ctx context.Context, peerID uuid.UUID) error {
			held, err := q.store.Active(ctx, peerID)
			if err != nil {
				return err
			}
			return q.renewer.LearnFrom(ctx, held)
		},
	})
	q.service = querying.New(querying.Config{
		Finder: q.store, Client: remote.NewPatient(client, time.Now), Keys: keys, Audit: silent{}, Now: q.clock.now, Hash: func([]byte) []byte { return nil },
	})
	q.renewer = querying.NewRenewer(querying.RenewerConfig{
		Store: q.store, Client: meddling{client, q}, Keys: keys, Random: rand.Reader, Now: q.clock.now, Log: slog.New(slog.DiscardHandler),
	})
	q.add()
	return q
}

// add redeems a token of the grant.
func (q *querier) add() {
	q.t.Helper()
	if err := q.redeem(q.g.ca.root); err != nil {
		q.t.Fatal(err)
	}
}

// redeem redeems a token of the grant, with a URL that names that root.
func (q *querier) redeem(root *x509.Certificate) error {
	q.t.Helper()
	token, hash, err := enroll.NewToken(rand.Reader)
	if err != nil {
		q.t.Fatal(err)
	}
	if _, _, err := (&postgres.Grants{DB: q.g.stores}).IssueToken(q.t.Context(), q.grant, postgres.NewToken{Hash: hash, TTL: time.Hour}, act); err != nil {
		q.t.Fatal(err)
	}
	url := "https://127.0.0.1/api/federation/enrollment/" + token + "?ca=" + identity.FingerprintHex(root.Raw)
	_, err = q.adder.AddPeer(q.t.Context(), querying.AddRequest{EnrollmentURL: url, Name: "work", Act: act})
	return err
}

type silent struct{}

func (silent) Record(context.Context, audit.Event) error { return nil }

// meddling stands between a renewal and its answer.
type meddling struct {
	*remote.Client
	q *querier
}

func (m meddling) Do(ctx context.Context, t querying.Target, c querying.Call) (querying.Answer, error) {
	a, err := m.Client.Do(ctx, t, c)
	if m.q.between != nil {
		return m.q.between(a, err)
	}
	return a, err
}

func (q *querier) ask() error {
	_, err := q.service.List(q.t.Context(), querying.Caller{Actor: "operator"}, "work", "tasks", querying.ListParams{})
	return err
}

// held is the credential's state.
type held struct {
	serial, csr, reason          string
	key                          []byte
	notAfter, renewAfter, nextAt time.Time
	attempts                     int
}

// String leaves the key out: a failed test prints it.
func (h held) String() string {
	return fmt.Sprintf("serial %s, %d tries, %q, request %q, renewed at %s", h.serial, h.attempts, h.reason, h.csr, h.renewAfter)
}

func (q *querier) held() (h held) {
	q.t.Helper()
	err := q.pool.QueryRow(q.t.Context(), `SELECT serial, coalesce(renewal_csr_pem, ''), coalesce(renewal_error, ''), client_key_pem, not_after, renew_after,
			coalesce(renewal_next_at, renew_after), renewal_attempts FROM federation_credentials WHERE state = 'active'`).
		Scan(&h.serial, &h.csr, &h.reason, &h.key, &h.notAfter, &h.renewAfter, &h.nextAt, &h.attempts)
	if err != nil {
		q.t.Fatal(err)
	}
	return h
}

func (q *querier) due() {
	q.t.Helper()
	if _, err := q.pool.Exec(q.t.Context(), `UPDATE federation_credentials SET renew_after = now() - interval '1 second', renewal_next_at = NULL`); err != nil {
		q.t.Fatal(err)
	}
}

func (q *querier) run() {
	q.t.Helper()
	if err := q.renewer.Run(q.t.Context()); err != nil {
		q.t.Fatal(err)
	}
}

// TestRenewalsUnderLoadFailNoRequest renews again and again while others ask all the time. Between two renewals
// everybody has asked with the new certificate, which in life is a matter of at least half a minute.
func TestRenewalsUnderLoadFailNoRequest(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	const askers, renewals = 4, 12
	var asked [askers]atomic.Int64
	var failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range askers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := q.ask(); err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
				asked[i].Add(1)
			}
		})
	}
	serials := map[string]bool{q.held().serial: true}
	for range renewals {
		q.due()
		q.run()
		serials[q.held().serial] = true
		for i := range asked {
			until := asked[i].Load() + 2
			eventually(t, "everybody has asked with the new certificate", func() bool { return asked[i].Load() >= until || failed.Load() > 0 })
		}
	}
	close(stop)
	wg.Wait()
	if len(serials) != renewals+1 || failed.Load() != 0 {
		t.Errorf("%d renewals, %d requests failed; want %d and none", len(serials)-1, failed.Load(), renewals)
	}
	if n := g.count(live); n > 2 {
		t.Errorf("%d certificates are live, want at most two", n)
	}
}

// TestACAOutageOfTwoFifthsOfALifeIsSurvived goes through a life in tries, as fast as they come.
func TestACAOutageOfTwoFifthsOfALifeIsSurvived(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	away := &outage{Signer: g.ca}
	g.enroll.CA = away
	q := newQuerier(t, g)
	first := q.held()
	begin := time.Now()
	life := first.notAfter.Sub(begin)
	if part := float64(first.renewAfter.Sub(begin)) / float64(life); part < 0.44 || part > 0.56 {
		t.Errorf("renewed at %.2f of its life, want half, give or take 5 %%", part)
	}
	at := func(when time.Time) { q.clock.ahead.Store(int64(time.Until(when) + time.Millisecond)) }
	q.run()
	if q.held().serial != first.serial {
		t.Fatal("renewed before it was due")
	}
	away.away.Store(true)
	away0 := first.renewAfter
	tries := 0
	var alarm time.Time
	for now := away0; now.Before(away0.Add(life * 2 / 5)); now = q.held().nextAt {
		at(now)
		q.run()
		if tries++; q.held().attempts != tries || !strings.Contains(q.held().reason, "ca_unavailable") {
			t.Fatalf("after %d tries: %d are noted, because of %q", tries, q.held().attempts, q.held().reason)
		}
		if err := q.renewer.Check(t.Context()); err != nil && alarm.IsZero() {
			if alarm = now; strings.Contains(err.Error(), "work") {
				t.Errorf("health names the peer: %v", err)
			}
		}
		if err := q.ask(); err != nil {
			t.Fatalf("asked while the CA is away: %v", err)
		}
	}
	if tries < 20 {
		t.Errorf("%d tries in 0.4 of a life, want many", tries)
	}
	if half := away0.Add(first.notAfter.Sub(away0) / 2); alarm.Before(half) || alarm.After(half.Add(life/20)) {
		t.Errorf("alarm at %s, want when half of what was left is gone: %s", alarm, half)
	}
	if n := g.count(`SELECT count(*) FROM federation_sign_attempts WHERE purpose = 'renew' AND outcome <> 'refused' AND outcome <> 'orphaned'`); n != 0 {
		t.Errorf("%d attempts are open", n)
	}
	away.away.Store(false)
	at(q.held().nextAt)
	q.run()
	if h := q.held(); h.serial == first.serial || h.attempts != 0 || h.reason != "" || h.csr != "" {
		t.Errorf("after the outage: %+v", h)
	}
	if err := q.renewer.Check(t.Context()); err != nil {
		t.Errorf("the alarm is still on: %v", err)
	}
	if err := q.ask(); err != nil {
		t.Error(err)
	}
}

// TestALostRenewalIsFetchedAgain loses the answer, as a crash does: the same request is sent again.
func TestALostRenewalIsFetchedAgain(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	first := q.held()
	q.between = func(querying.Answer, error) (querying.Answer, error) {
		return querying.Answer{}, querying.ErrUnreachable
	}
	q.due()
	q.run()
	lost := q.held()
	if lost.serial != first.serial || lost.csr == "" || lost.attempts != 1 {
		t.Fatalf("%+v", lost)
	}
	q.between = nil
	q.due()
	q.run()
	if h := q.held(); h.serial == first.serial || string(h.key) == string(first.key) || h.attempts != 0 {
		t.Errorf("%+v", h)
	}
	if n := g.count(`SELECT count(*) FROM federation_sign_attempts WHERE purpose = 'renew'`); n != 1 {
		t.Errorf("the CA was asked %d times, want once", n)
	}
	if err := q.ask(); err != nil {
		t.Error(err)
	}
	var n int
	if err := q.pool.QueryRow(t.Context(), `SELECT count(*) FROM federation_audit_log WHERE verb = 'certificate.renew' AND direction = 'outbound'`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d renewals on record: %v", n, err)
	}
}

// TestAFalseRenewalIsNotUsed meddles with answers: the credential stays as it was, and the next try has another key.
func TestAFalseRenewalIsNotUsed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	first := q.held()
	stranger := mustCA(t, theirs)
	var before querying.Answer
	for _, tt := range []struct {
		name   string
		change func(doc map[string]any)
	}{
		{"another grant", func(doc map[string]any) { doc["grant_id"] = uuid.New() }},
		{"another user", func(doc map[string]any) { doc["subject_user_id"] = uuid.New() }},
		{"another address", func(doc map[string]any) { doc["federation_url"] = "https://127.0.0.1:1" }},
		{"another CA", func(doc map[string]any) { doc["ca_root"] = ca.Chain{Leaf: stranger.root}.PEM() }},
		{"no certificate", func(doc map[string]any) { doc["certificate"] = "hello" }},
		{"no chain", func(doc map[string]any) { doc["certificate_chain"] = doc["certificate"] }},
		{"the answer of an earlier renewal", func(doc map[string]any) {
			clear(doc)
			_ = json.Unmarshal(before.Body, &doc)
		}},
	} {
		var csr string
		q.between = func(a querying.Answer, err error) (querying.Answer, error) {
			csr = q.held().csr
			doc := map[string]any{}
			if err != nil || json.Unmarshal(a.Body, &doc) != nil || a.Status != http.StatusOK {
				t.Errorf("%s: %d %s %v", tt.name, a.Status, a.Body, err)
				return a, err
			}
			whole := a
			tt.change(doc)
			a.Body, err = json.Marshal(doc)
			before = whole
			return a, err
		}
		q.due()
		q.run()
		if h := q.held(); h.serial != first.serial || string(h.key) != string(first.key) || h.reason == "" || h.csr != "" || csr == "" {
			t.Errorf("%s: %+v", tt.name, h)
		}
	}
	q.between = nil
	q.due()
	q.run()
	if h := q.held(); h.serial == first.serial || h.reason != "" {
		t.Errorf("afterwards: %+v", h)
	}
	if err := q.ask(); err != nil {
		t.Error(err)
	}
}

// TestAnEnrollmentEndsTheRenewalOfWhatItReplaces enrols again while the answer of a renewal is on its way.
func TestAnEnrollmentEndsTheRenewalOfWhatItReplaces(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	q := newQuerier(t, g)
	var serial string
	q.between = func(a querying.Answer, err error) (querying.Answer, error) {
		sealed, countErr := (&postgres.Sealed{DB: q.store.DB}).SealedRows(t.Context())
		var n int64
		for _, rows := range sealed {
			n += rows
		}
		if countErr != nil || n != 2 {
			t.Errorf("%d sealed values are known, want the key in use and the next one: %v", n, countErr)
		}
		q.add()
		serial = q.held().serial
		return a, err
	}
	q.due()
	q.run()
	if h := q.held(); h.serial != serial || h.attempts != 0 {
		t.Errorf("%+v, want the enrollment's credential", h)
	}
	var keys int
	if err := q.pool.QueryRow(t.Context(), `SELECT count(*) FROM federation_credentials WHERE renewal_key_pem IS NOT NULL OR state = 'retired' AND client_key_pem <> ''`).Scan(&keys); err != nil || keys != 0 {
		t.Errorf("%d keys are left of the replaced credential: %v", keys, err)
	}
	if err := q.ask(); err != nil {
		t.Error(err)
	}
}
