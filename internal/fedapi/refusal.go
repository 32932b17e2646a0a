package fedapi

import (
	"net/netip"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/door"
)

// Refusal is what the audit log counts of a connection that the door turned away. Nobody made a request, so nobody is
// named. A connection that sent nothing is a probe of the port, and one that had to make room did nothing wrong.
func Refusal(addr netip.Addr, reason door.Reason) (audit.Event, bool) {
	switch reason {
	case door.Silent, door.CrowdedOut, door.ListenerFull:
		return audit.Event{}, false
	}
	address := "local"
	if addr.IsValid() {
		address = addr.String()
	}
	return audit.Event{RequestID: "connection", Direction: audit.Inbound, RemoteAddress: address, Verb: "connect", DeniedReason: string(reason)}, true
}
