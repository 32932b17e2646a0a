package remote

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/mosaicstack/gateway/internal/querying"
)

const keepAlive = 15 * time.Second

// reach says which addresses a connection may go to.
type reach int

const (
	anyPeer      reach = iota // every address that can be a peer's: loopback and private ones too
	loopbackOnly              // this machine alone
)

// guardedDial is a dialer that judges each address after its name was resolved and before a packet is sent. A
// check of the name, or of an earlier resolution, could be passed by a name that answers differently each time.
func guardedDial(r reach) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAlive: keepAlive,
		Control: func(_, address string, _ syscall.RawConn) error {
			return r.check(address)
		},
	}
	return d.DialContext
}

// check judges a resolved address and port.
func (r reach) check(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return querying.ErrAddressRefused.With("the peer's address cannot be read").Because(err)
	}
	addr := ap.Addr().WithZone("").Unmap()
	if why := forbidden(addr); why != "" {
		return querying.ErrAddressRefused.With("the peer's host resolves to %s, %s, where this gateway does not connect to", addr, why)
	}
	if r == loopbackOnly && !addr.IsLoopback() {
		return querying.ErrAddressRefused.With("the peer's host resolves to %s: plain http is for this machine itself only", addr)
	}
	return nil
}

// forbidden says why an address is never a peer's, or nothing. Link-local addresses are where cloud machines keep
// their credentials; the single addresses are the metadata services that are not link-local.
func forbidden(a netip.Addr) string {
	switch {
	case !a.IsValid() || a.IsUnspecified():
		return "an unspecified address"
	case a.IsMulticast():
		return "a multicast address"
	case a.IsLinkLocalUnicast():
		return "a link-local address"
	}
	switch a.String() {
	case "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192":
		return "a cloud metadata address"
	}
	if a.Is4() {
		if b := a.As4(); b[0] == 0 || b[0] >= 240 {
			return "a reserved address" // 0.0.0.0/8 reaches this machine on Linux; 240.0.0.0/4 holds broadcast
		}
		return ""
	}
	if inner, ok := embedded(a); ok {
		return forbidden(inner)
	}
	return ""
}

// embedded is the IPv4 address that a translator or tunnel would make of an IPv6 one: NAT64 (RFC 6052,
// 64:ff9b::/96), 6to4 (RFC 3056, 2002::/16) and the IPv4-compatible form (RFC 4291, section 2.5.5.1).
func embedded(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	var zero [12]byte
	switch {
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case b[0] == 0 && b[1] == 0x64 && b[2] == 0xff && b[3] == 0x9b && [8]byte(b[4:12]) == [8]byte(zero[:8]):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case [12]byte(b[:12]) == zero && !a.IsLoopback():
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return netip.Addr{}, false
}
