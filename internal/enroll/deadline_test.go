package enroll_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"math/big"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/enroll"
)

// The clock of these tests is synctest's, which stands still while a server outside of the bubble works: store and
// CA are therefore no real ones.

// slowStore takes a second for each of its transactions, and notes whether it was given the time for the last one.
type slowStore struct {
	released []*big.Int
	inTime   bool
}

func (*slowStore) View(context.Context, [32]byte) (enroll.View, error) { return enroll.View{}, nil }

func (*slowStore) Claim(_ context.Context, r enroll.ClaimRequest) (enroll.Claim, error) {
	time.Sleep(time.Second)
	return enroll.Claim{Serial: r.Serial, Now: time.Now()}, nil
}

func (s *slowStore) Release(ctx context.Context, _ enroll.Claim, signed ...*big.Int) error {
	time.Sleep(time.Second)
	s.released, s.inTime = signed, ctx.Err() == nil
	return nil
}

func (*slowStore) Activate(context.Context, enroll.Activation) error { return nil }

// hanging is a CA that never answers.
type hanging struct{ at string }

func (h hanging) wait(ctx context.Context, at string) error {
	if h.at != at {
		return nil
	}
	<-ctx.Done()
	return ca.ErrUnavailable.Because(ctx.Err())
}

func (h hanging) IssueLeaf(ctx context.Context, _ ca.LeafRequest) (ca.Chain, error) {
	return ca.Chain{}, h.wait(ctx, "sign")
}

func (h hanging) Roots(ctx context.Context) ([]*x509.Certificate, error) {
	return nil, h.wait(ctx, "roots")
}

func (h hanging) LifetimeLimits(ctx context.Context) (shortest, longest time.Duration, err error) {
	return ca.MinLifetime, ca.MaxLifetime, h.wait(ctx, "limits")
}

func TestACAThatHangsIsAnsweredForWithin15Seconds(t *testing.T) {
	t.Parallel()
	csr := newCSR(t)
	for _, at := range []string{"roots", "limits", "sign"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				token, _, err := enroll.NewToken(rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				store := &slowStore{}
				s := enroll.New(enroll.Config{
					Store: store, CA: hanging{at}, Profile: profile, Guesses: unlimited{}, Tries: unlimited{},
					Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
				})
				began := time.Now()
				_, err = s.Redeem(t.Context(), enroll.Request{Token: token, CSR: csr})
				wantCode(t, err, ca.ErrUnavailable)
				if took := time.Since(began); took > 15*time.Second || took < 5*time.Second {
					t.Errorf("answered after %s, want within 15 s, and the CA given some of them", took)
				}
				if !store.inTime || len(store.released) != map[string]int{"sign": 1}[at] {
					t.Errorf("released in time: %t, with %v to revoke", store.inTime, store.released)
				}
			})
		})
	}
}
