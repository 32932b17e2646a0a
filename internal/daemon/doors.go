package daemon

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/fedapi"
)

// apiBounds are the limits of connections to the public listener. Behind a trusted proxy only the whole is
// limited: all its connections come from one address.
func apiBounds() door.Bounds {
	return door.Bounds{Held: 8192, HeldPerHolder: 1024, Lifetime: time.Hour}
}

// filesKept are the open files that connections leave to everything else: the database, the CA, logs.
const filesKept = 512

// files is how many connections each of the two listeners may have open, by the process's limit. Go has raised the
// soft limit to the hard one already.
func files() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil || r.Cur > 1<<30 {
		return 1 << 30
	}
	return max(int(r.Cur)-filesKept, filesKept) / 2 //nolint:gosec // bounded above
}

// doorOf puts a door in front of a listener and makes the server know it.
func doorOf(inner net.Listener, s *http.Server, c door.Config) *door.Listener {
	c.Bounds = c.Fit(files())
	l := door.Listen(inner, c)
	l.Guard(s)
	return l
}

// apiDoor is the door of the public listener.
func apiDoor(inner net.Listener, s *http.Server, trusted []netip.Prefix, refused func(netip.Addr, door.Reason), log *slog.Logger, now func() time.Time) *door.Listener {
	return doorOf(inner, s, door.Config{Bounds: apiBounds(), Proxies: trusted, Refused: refused, Log: log, Now: now})
}

// federationDoor is the door of the federation listener: the TLS handshake happens in it.
func (g *gateway) federationDoor(inner net.Listener) *door.Listener {
	trust := fedapi.Trust{Anchors: g.trust.anchors.Load, Profile: g.profile, Now: g.now}
	counted := g.metrics.Refused("federation")
	return doorOf(inner, g.federation, door.Config{
		Bounds: fedapi.Bounds(), TLS: fedapi.TLSConfig(g.certificate.get, trust),
		Proxies: g.settings.TrustedProxies, ProxyHeader: true, Log: g.log, Now: g.now,
		Refused: func(addr netip.Addr, reason door.Reason) {
			counted(addr, reason)
			if e, ok := fedapi.Refusal(addr, reason); ok {
				g.refusals.Note(e)
			}
		},
	})
}
