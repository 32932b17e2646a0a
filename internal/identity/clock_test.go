package identity_test

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/mosaicstack/gateway/internal/identity"
)

func TestABeginningThatIsSomeMinutesAheadIsTheFaultOfClocks(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(time.Hour)}
	for ago, want := range map[time.Duration]time.Duration{
		0:                                0,
		time.Second:                      0,
		identity.MaxBehind:               0,
		identity.MaxBehind + time.Second: -identity.MaxBehind - time.Second,
		-time.Minute:                     time.Minute,
		-2 * time.Hour:                   2 * time.Hour,
		24 * time.Hour:                   -24 * time.Hour,
	} {
		if got := identity.JudgedAt(leaf, begin.Add(-ago)); !got.Equal(begin.Add(want)) {
			t.Errorf("%s before its beginning it is judged at %s after it, want %s", ago, got.Sub(begin), want)
		}
	}
}
