package limit_test

import (
	"testing"

	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/limit"
)

func TestClientsAreCountedByTheNetworkTheyHave(t *testing.T) {
	t.Parallel()
	l := limit.PerAddress{Limiter: memory(t), Name: "guess", Limit: grant.Limit{PerMinute: 1, Burst: 1}}
	for _, tt := range []struct {
		address string
		allowed bool
	}{
		{"192.0.2.7", true},
		{"192.0.2.8", true},
		{"::ffff:192.0.2.7", false},
		{"2001:db8:1:2:3:4:5:6", true},
		{"2001:db8:1:2:ffff::1", false},
		{"2001:db8:1:3::1", true},
		{"fe80::1%eth0", true},
		{"fe80::2%eth1", false},
		{"local", true},
		{"local", false},
	} {
		wait, err := l.Allow(t.Context(), tt.address)
		if err != nil {
			t.Fatal(err)
		}
		if (wait == 0) != tt.allowed {
			t.Errorf("%s: wait %s, allowed should be %t", tt.address, wait, tt.allowed)
		}
	}
}
