package limit

import (
	"context"
	"net/netip"
	"time"

	"github.com/mosaicstack/gateway/internal/grant"
)

// PerAddress is one limit for each client that is known by its address only.
type PerAddress struct {
	Limiter Taker
	Name    string // of what is limited
	Limit   grant.Limit
}

// Allow answers zero and counts the event, or answers how long to wait and counts nothing.
func (p PerAddress) Allow(ctx context.Context, address string) (time.Duration, error) {
	s, err := p.Limiter.Take(ctx, grant.Bucket{Name: p.Name, ID: network(address), Limit: p.Limit})
	return s.Wait, err
}

// network is what one client has: an IPv4 address, or the /64 that an IPv6 customer is given (RFC 6177). What is no
// address, such as that of a unix socket, stands for itself.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap(); a.Is4() {
		return a.String()
	}
	prefix, err := a.Prefix(64) // which leaves the zone out
	if err != nil {
		return address
	}
	return prefix.String()
}
