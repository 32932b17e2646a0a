package remote

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/mosaicstack/gateway/internal/querying"
)

func TestDialGuard(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		address        string
		peer, loopback bool // whether anyPeer and loopbackOnly let it through
	}{
		{"127.0.0.1", true, true},
		{"127.255.0.9", true, true},
		{"::1", true, true},
		{"::ffff:127.0.0.1", true, true},
		{"10.0.0.1", true, false},
		{"192.168.1.1", true, false},
		{"172.16.0.1", true, false},
		{"100.64.0.1", true, false},
		{"203.0.113.7", true, false},
		{"fd12:3456::1", true, false},
		{"2001:db8::1", true, false},
		{"fd00:ec2::253", true, false},

		{"169.254.169.254", false, false},
		{"169.254.0.1", false, false},
		{"::ffff:169.254.169.254", false, false},
		{"::169.254.169.254", false, false},
		{"64:ff9b::169.254.169.254", false, false},
		{"64:ff9b::a9fe:a9fe", false, false},
		{"2002:a9fe:a9fe::1", false, false},
		{"fe80::1", false, false},
		{"fe80::1%eth0", false, false},
		{"febf::1", false, false},
		{"fd00:ec2::254", false, false},
		{"fd20:ce::254", false, false},
		{"100.100.100.200", false, false},
		{"168.63.129.16", false, false},
		{"192.0.0.192", false, false},
		{"::ffff:100.100.100.200", false, false},
		{"224.0.0.1", false, false},
		{"239.255.255.255", false, false},
		{"ff02::1", false, false},
		{"0.0.0.0", false, false},
		{"0.1.2.3", false, false},
		{"::", false, false},
		{"::ffff:0.0.0.0", false, false},
		{"64:ff9b::", false, false},
		{"255.255.255.255", false, false},
		{"240.0.0.1", false, false},
	} {
		t.Run(test.address, func(t *testing.T) {
			t.Parallel()
			address := net.JoinHostPort(test.address, "443")
			for r, want := range map[reach]bool{anyPeer: test.peer, loopbackOnly: test.loopback} {
				err := r.check(address)
				if (err == nil) != want || err != nil && !errors.Is(err, querying.ErrAddressRefused) {
					t.Errorf("reach %d: %v, want through: %t", r, err, want)
				}
			}
		})
	}
}

func TestDialGuardRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "127.0.0.1", "host:443", "127.0.0.1:http", "[::1", "/run/docker.sock"} {
		if err := anyPeer.check(address); !errors.Is(err, querying.ErrAddressRefused) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// However an IPv4 address is written, the guard's answer is the same.
func TestDialGuardSeesThroughEveryForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v4 := [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address"))
		if rapid.Bool().Draw(t, "link-local") {
			v4[0], v4[1] = 169, 254
		}
		plain := netip.AddrFrom4(v4)
		refused := anyPeer.check(netip.AddrPortFrom(plain, 1).String()) != nil
		var nat64, compatible [16]byte
		copy(nat64[:], []byte{0, 0x64, 0xff, 0x9b})
		copy(nat64[12:], v4[:])
		copy(compatible[12:], v4[:])
		for _, form := range []netip.Addr{netip.AddrFrom16(plain.As16()), netip.AddrFrom16(nat64), netip.AddrFrom16(compatible)} {
			if form.IsLoopback() && !form.Is4In6() {
				continue // ::1 is itself, and not 0.0.0.1
			}
			if got := anyPeer.check(netip.AddrPortFrom(form, 1).String()) != nil; got != refused {
				t.Fatalf("%s refused: %t, %s refused: %t", plain, refused, form, got)
			}
		}
	})
}
