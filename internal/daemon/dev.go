// Package daemon wires the gateway together: which part stands on which, what is started first, and what ends
// last.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/ca/embedded"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/telemetry"
	"github.com/mosaicstack/gateway/internal/unixsock"
	"github.com/mosaicstack/gateway/internal/valkey"
)

// DevOptions is what `gateway dev` was asked for.
type DevOptions struct {
	Program          string // how the person started it, for the banner
	Dir              string
	Listen           string // host:port of the HTTP API; port 0 picks a free one
	FederationListen string
	Name             string
	DemoData         bool
	JSON             bool // print ready.json's document instead of a banner
	Version          string
	Environ          []string  // as os.Environ gives it
	Stdout           io.Writer // the banner
	Stderr           io.Writer // logs
	Now              func() time.Time
}

// defaultName is what a gateway without a --name calls itself, and its CA.
const defaultName = "mosaic"

// The time a stop may take: requests under way, then the database.
const (
	drainWithin    = 5 * time.Second
	databaseWithin = 4 * time.Second
)

var errListen = &fault.Fault{
	Kind: fault.Unavailable, Code: "listen_failed", Detail: "the address cannot be listened on",
	Hint: "stop what uses the port, or choose another one with --listen and --federation-listen (port 0 picks a free one)",
}

// Dev runs the local tier until ctx ends: a private PostgreSQL and a Step-CA authority of its own, both under
// o.Dir, and the gateway on top of them.
func Dev(ctx context.Context, o DevOptions) (err error) {
	settings, err := config.Load(o.Environ, config.Local)
	if err != nil {
		return err
	}
	log := telemetry.NewLogger(o.Stderr, settings.LogLevel)
	telemetry.QuietLibraries()
	if o.Name == "" {
		o.Name = defaultName
	}
	if o.Name, err = peer.ParseName(o.Name); err != nil {
		return err
	}
	var stack closers
	defer func() {
		closed := stack.close(log)
		if ctx.Err() != nil && !errors.Is(err, errRunning) {
			err = nil // stopped before it served: what the interrupted start says is no fault
		}
		err = errors.Join(err, closed)
	}()

	dir, err := devstack.OpenDir(o.Dir)
	if err != nil {
		return err
	}
	stack.add("directory", dir.Close)
	tellFoundOpen(dir, log)
	// One that a killed gateway left behind would send people to an address where nobody is.
	if err := os.Remove(dir.Join(readyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale %s: %w", readyFile, err)
	}
	// Addresses come before the database: a busy port is known at once, and nothing was started in vain.
	var l listeners
	if l.api, err = listen(o.Listen); err != nil {
		return err
	}
	stack.add("api listener", ignoreClosed(l.api.Close))
	if l.federation, err = listen(o.FederationListen); err != nil {
		return err
	}
	stack.add("federation listener", ignoreClosed(l.federation.Close))

	metrics := telemetry.NewMetrics(o.Version, "local")
	metricsURL, err := serveMetrics(settings.MetricsListen, "", metrics, log, &stack)
	if err != nil {
		return err
	}
	tracing, err := newTracing(ctx, settings, o.Version, log, &stack)
	if err != nil {
		return err
	}
	if err := errors.Join(checkMoved(dir), checkComplete(dir)); err != nil {
		return err
	}
	p, err := startParts(ctx, o, dir, settings, log, &stack)
	if err != nil {
		return err
	}
	if l.socket, err = unixsock.Listen(dir.Path(), "admin.sock", 0o600); err != nil {
		return err
	}
	stack.add("admin socket", ignoreClosed(l.socket.Close))
	g, err := newGateway(ctx, gatewayConfig{
		parts: p, tier: "local", name: o.Name, version: o.Version, now: o.Now, log: log,
		publicURL: "http://" + reachable(l.api.Addr()), federationURL: "https://" + reachable(l.federation.Addr()), settings: settings, metrics: metrics, tracing: tracing,
	})
	if err != nil {
		return err
	}
	if o.DemoData {
		if err := loadDemo(ctx, g); err != nil {
			return err
		}
	}
	ready := readyDoc{
		URL: g.publicURL, FederationURL: g.federationURL, Socket: dir.Join("admin.sock"),
		CARootFile: dir.Join("ca", "certs", "root_ca.crt"), CAFingerprint: g.trust.fingerprint(), PID: os.Getpid(), MetricsURL: metricsURL,
	}
	changed := ready
	served := g.serve(ctx, l, func() error {
		if err := noteComplete(dir, p.keyring); err != nil {
			return err
		}
		if err := ready.write(dir); err != nil {
			return err
		}
		g.trust.tell(func(fingerprint string) error {
			changed.CAFingerprint = fingerprint
			return changed.write(dir)
		})
		stack.add("ready.json", func() error { return os.Remove(dir.Join(readyFile)) })
		return ready.announce(o)
	})
	if served != nil {
		return errors.Join(errRunning, served)
	}
	return nil
}

// errRunning marks what went wrong while or after the gateway served.
var errRunning = errors.New("gateway stopped with an error")

// parts is what the gateway stands on.
type parts struct {
	pool    *pgxpool.Config
	db      *postgres.DB
	ca      ca.Authority
	valkey  *valkey.Client // nil: limits are kept in this process
	keyring *keyring
	profile identity.Profile

	refreshRoots func(context.Context) error // asks the CA for its roots; nil for one in this process
	roller       roller                      // nil: somebody else's CA
}

// startParts starts the database and the CA and brings the schema up to date.
func startParts(ctx context.Context, o DevOptions, dir *devstack.Dir, settings config.Config, log *slog.Logger, stack *closers) (parts, error) {
	var p parts
	var err error
	if p.keyring, err = openKeyring(dir, settings, o.Now); err != nil {
		return p, err
	}
	pg, err := devstack.StartPostgres(ctx, devstack.Config{DataDir: dir.PostgresDir(), Log: log.With("part", "postgres")})
	if err != nil {
		return p, err
	}
	stack.add("postgres", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), databaseWithin)
		defer cancel()
		return pg.Stop(ctx)
	})
	if p.pool, err = postgres.PoolConfig(postgres.Config{DSN: pg.DSN(), Dial: pg.DialFunc}); err != nil {
		return p, err
	}
	if err := postgres.Migrate(ctx, p.pool, log); err != nil {
		return p, err
	}
	if p.db, err = postgres.Open(ctx, postgres.Config{DSN: pg.DSN(), Dial: pg.DialFunc, Trace: settings.Telemetry.Endpoint != ""}); err != nil {
		return p, err
	}
	stack.add("pool", func() error { p.db.Close(); return nil })
	if err := p.db.CheckSafe(ctx); err != nil {
		return p, err
	}
	// Without o.Now: Step-CA reads the machine's clock, and refuses tokens of any other.
	authority, err := embedded.Open(ctx, embedded.Config{Dir: dir.Join("ca"), Name: o.Name, Arc: settings.OIDArc[0]})
	if err != nil {
		return p, err
	}
	p.ca, p.roller = authority, authority
	stack.add("ca", authority.Close)
	p.profile = identity.Profile{Arcs: settings.OIDArc}
	return p, nil
}

func listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, errListen.With("cannot listen on %s: %s", address, reason(err)).Because(err)
	}
	return l, nil
}

// reason is the last and shortest part of a network error: "address already in use".
func reason(err error) string {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err.Error()
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

// reachable is the host and port under which a local person or process reaches a listener.
func reachable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return a.String()
	}
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(tcp.Port))
}

func hostOf(rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", fmt.Errorf("parse %q: %w", rawURL, err)
	}
	return u.Hostname(), nil
}

// closers is what has to be closed, last opened first.
type closers struct{ list []closer }

type closer struct {
	name  string
	close func() error
}

func (c *closers) add(name string, f func() error) { c.list = append(c.list, closer{name, f}) }

func (c *closers) close(log *slog.Logger) error {
	var all error
	for i := len(c.list) - 1; i >= 0; i-- {
		if err := c.list[i].close(); err != nil {
			log.Error("close", "part", c.list[i].name, "error", err)
			all = errors.Join(all, err)
		}
	}
	return all
}

// ignoreClosed lets a server close its listener before the stack does.
func ignoreClosed(f func() error) func() error {
	return func() error {
		if err := f(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}
