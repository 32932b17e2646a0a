package daemon

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mosaicstack/gateway/internal/ca/stepca"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/identity"
	"github.com/mosaicstack/gateway/internal/peer"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
	"github.com/mosaicstack/gateway/internal/telemetry"
	"github.com/mosaicstack/gateway/internal/unixsock"
)

// ServeOptions is what `gateway serve` was asked for.
type ServeOptions struct {
	Environ        []string // as os.Environ gives it
	JSON           bool     // print the ready document once it serves
	Version        string
	Stdout, Stderr io.Writer
	Now            func() time.Time
}

// defaultServeDir is where a container keeps its admin socket.
const defaultServeDir = "/run/mosaic"

// How long to wait before a part that is away is asked again; the wait doubles up to the longest.
const (
	shortestWait = 250 * time.Millisecond
	longestWait  = 5 * time.Second
)

// Serve runs one replica of the federated tier, or of the standalone one, until ctx ends. Its parts are started by others and in any order:
// until they are there it is alive and not ready, and says which one it waits for.
func Serve(ctx context.Context, o ServeOptions) (err error) {
	c, err := config.Load(o.Environ, "")
	if err != nil {
		return err
	}
	if c.Name, err = peer.ParseName(c.Name); err != nil {
		return err
	}
	if c.Dir == "" {
		c.Dir = defaultServeDir
	}
	log := telemetry.NewLogger(o.Stderr, c.LogLevel)
	telemetry.QuietLibraries()
	var stack closers
	defer func() { err = errors.Join(err, stack.close(log)) }()

	r := &replica{ServeOptions: o, settings: c, log: log, stack: &stack, waiting: &waiting{tier: string(c.Tier), version: o.Version}}
	r.metrics = telemetry.NewMetrics(o.Version, string(c.Tier))
	if r.tracing, err = newTracing(ctx, c, o.Version, log, &stack); err != nil {
		return err
	}
	if err := r.open(); err != nil {
		return err
	}
	// The gateway's own API takes over from these: a probe is answered from the first moment, and an admin is told why
	// nothing else is.
	starting := httpapi.Config{Health: r.waiting, Log: log, Now: o.Now}
	front, admin := newFront(httpapi.Starting(starting, r.waiting.anybody), log), newFront(httpapi.Starting(starting, r.waiting.admin), log)
	leave := newFarewell()
	leave.of(front.server)
	admin.server.ConnContext = httpapi.SocketContext
	api := apiDoor(r.api, front.server, c.TrustedProxies, r.metrics.Refused("api"), log, o.Now)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	for s, l := range map[*http.Server]net.Listener{front.server: api, admin.server: r.socket} {
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				fail(err)
			}
		}()
		stack.add("front", func() error { return drain(s) })
	}

	g, err := r.assemble(ctx)
	if err != nil {
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return nil // stopped while it waited
		}
		return err
	}
	front.serve(g.api)
	admin.serve(g.api)
	on := listeners{front: front, admin: admin, door: api, farewell: leave}
	if r.federation != nil {
		on.federation = r.federation
	}
	served := g.serve(ctx, on, func() error { return r.announce(g) })
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		served = errors.Join(served, cause)
	}
	return served
}

// replica is what one process holds while it starts.
type replica struct {
	ServeOptions
	settings config.Config
	log      *slog.Logger
	stack    *closers
	waiting  *waiting
	metrics  *telemetry.Metrics
	tracing  *telemetry.Tracing

	metricsURL string
	api        net.Listener
	federation *gate // nil in the standalone tier, as everything of a CA is
	socket     net.Listener
}

// open takes the addresses, so that one in use is known at once and not when the parts are there.
func (r *replica) open() error {
	var err error
	if r.api, err = listen(":" + strconv.Itoa(int(r.settings.Port))); err != nil {
		return err
	}
	r.stack.add("api listener", ignoreClosed(r.api.Close))
	if r.settings.Tier == config.Federated {
		if r.federation, err = newGate(":" + strconv.Itoa(int(r.settings.FederationPort))); err != nil {
			return err
		}
		r.stack.add("federation listener", ignoreClosed(r.federation.Close))
	}
	if err := openSocketDir(r.settings.Dir, r.log); err != nil {
		return err
	}
	if r.socket, err = unixsock.Listen(r.settings.Dir, "admin.sock", 0o600); err != nil {
		return err
	}
	r.stack.add("admin socket", ignoreClosed(r.socket.Close))
	r.metricsURL, err = serveMetrics(r.settings.MetricsListen, defaultMetrics, r.metrics, r.log, r.stack)
	return err
}

// assemble waits for the parts, one after the other, and makes the gateway on top of them.
func (r *replica) assemble(ctx context.Context) (*gateway, error) {
	c := r.settings
	p := parts{profile: identity.Profile{Arcs: c.OIDArc}}
	_, ring, err := givenKeys(c)
	if err != nil {
		return nil, err
	}
	p.keyring = &keyring{ring: seal.NewRing(ring), now: r.Now}
	authority, err := r.openCA(&p)
	if err != nil {
		return nil, err
	}
	if !c.ValkeyURL.IsZero() {
		if p.valkey, err = openValkey(ctx, c.ValkeyURL, r.log); err != nil {
			return nil, err
		}
		r.stack.add("valkey", p.valkey.Close)
	}
	if err := r.openDatabase(ctx, &p); err != nil {
		return nil, err
	}
	var g *gateway
	err = r.wait(ctx, "ca", func(ctx context.Context) error {
		if authority != nil && c.FederationCert == "" {
			if err := authority.Ready(ctx); err != nil {
				return err
			}
		}
		g, err = newGateway(ctx, gatewayConfig{
			parts: p, tier: string(c.Tier), name: c.Name, version: r.Version, now: r.Now, log: r.log,
			publicURL: c.PublicURL, federationURL: c.FederationURL, settings: c, metrics: r.metrics, tracing: r.tracing,
		})
		return err
	})
	return g, err
}

// openCA makes the client of the CA, and asks nothing of it yet. The standalone tier has none: nil.
func (r *replica) openCA(p *parts) (*stepca.Client, error) {
	if r.settings.Tier != config.Federated {
		return nil, nil //nolint:nilnil // no CA is no error there
	}
	authority, _, err := caClient(r.settings.StepCA, r.Now)
	if err != nil {
		return nil, err
	}
	p.ca, p.refreshRoots = authority, authority.RefreshRoots
	r.stack.add("ca", func() error { authority.Close(); return nil })
	return authority, nil
}

func caClient(c config.StepCA, now func() time.Time) (*stepca.Client, []*x509.Certificate, error) {
	roots, err := readRoots(c.RootCert)
	if err != nil {
		return nil, nil, err
	}
	client, err := stepca.New(stepca.Config{
		URL: c.URL, Roots: roots, Now: now,
		Federation: stepca.Provisioner{Name: c.Provisioner, Password: []byte(c.Password.Reveal()), KeyJSON: []byte(c.KeyJSON.Reveal())},
		Server:     stepca.Provisioner{Name: c.ServerProvisioner, Password: []byte(c.ServerPassword.Reveal())},
	})
	return client, roots, err
}

// openDatabase waits for the server and for its schema. A server on which a commit is no promise is refused, and so is a
// database that was restored and not accepted.
func (r *replica) openDatabase(ctx context.Context, p *parts) error {
	var err error
	dsn := postgres.Config{DSN: r.settings.DatabaseURL.Reveal(), Trace: r.settings.Telemetry.Endpoint != ""}
	if p.pool, err = postgres.PoolConfig(dsn); err != nil {
		return err
	}
	if p.db, err = postgres.Open(ctx, dsn); err != nil {
		return err
	}
	r.stack.add("pool", func() error { p.db.Close(); return nil })
	if err := r.wait(ctx, "database", p.db.Ping); err != nil {
		return err
	}
	if err := r.wait(ctx, "database", p.db.CheckSafe); err != nil {
		return err
	}
	err = r.wait(ctx, "schema", func(ctx context.Context) error {
		if r.settings.AutoMigrate {
			return postgres.Migrate(ctx, p.pool, r.log)
		}
		return postgres.CheckMigrated(ctx, p.pool)
	})
	if err != nil {
		return err
	}
	if err := r.wait(ctx, "database", p.db.CheckHome); err != nil {
		return err
	}
	return r.wait(ctx, "database", p.db.CheckTierMigration)
}

// wait tries until it works or ctx ends. What no waiting mends ends it at once: that is every fault that is not
// about a part being away.
func (r *replica) wait(ctx context.Context, part string, try func(context.Context) error) error {
	r.waiting.on(part, nil)
	for pause := shortestWait; ; pause = min(2*pause, longestWait) {
		err := try(ctx)
		if err == nil {
			return nil
		}
		f := fault.From(err)
		away := f.Kind == fault.Unavailable || f.Kind == fault.GatewayTimeout || f.Kind == fault.BadGateway ||
			errors.Is(err, postgres.ErrRestored) || errors.Is(err, postgres.ErrTierMigration) // which a person ends, beside us
		if ctx.Err() != nil || !away || errors.Is(err, postgres.ErrUnsafeServer) {
			return err
		}
		r.waiting.on(part, err)
		r.log.Warn("waiting", "part", part, "code", f.Code, "error", err, "hint", f.Hint)
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// announce tells whoever looks into the directory, and with --json whoever reads stdout, where the replica serves.
func (r *replica) announce(g *gateway) error {
	local := func(a net.Addr) string {
		_, port, err := net.SplitHostPort(a.String())
		if err != nil {
			return a.String()
		}
		return net.JoinHostPort("127.0.0.1", port)
	}
	dir, err := filepath.Abs(r.settings.Dir)
	if err != nil {
		return err
	}
	ready := readyDoc{
		URL: "http://" + local(r.api.Addr()), Socket: filepath.Join(dir, "admin.sock"),
		CARootFile: r.settings.StepCA.RootCert, CAFingerprint: g.trust.fingerprint(), PID: os.Getpid(), MetricsURL: r.metricsURL,
	}
	if r.federation != nil {
		ready.FederationURL = "https://" + local(r.federation.Addr())
	}
	doc, err := json.Marshal(ready)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, readyFile)
	if err := devstack.WriteFileAtomic(path, append(doc, '\n'), 0o600); err != nil {
		return err
	}
	changed := ready
	g.trust.tell(func(fingerprint string) error {
		changed.CAFingerprint = fingerprint
		doc, err := json.Marshal(changed)
		if err != nil {
			return err
		}
		return devstack.WriteFileAtomic(path, append(doc, '\n'), 0o600)
	})
	r.stack.add("ready.json", func() error { return os.Remove(path) })
	r.log.Info("ready", "api", ready.URL, "federation", g.federationURL)
	if r.JSON {
		return json.NewEncoder(r.Stdout).Encode(ready)
	}
	return nil
}

func readRoots(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, stepca.ErrConfig.With("STEP_CA_ROOT_CERT_PATH names a file that cannot be read").Because(err)
	}
	return stepca.ParseRoots(b)
}

// ShowConfig prints the settings of gateway serve, or without a MOSAIC_TIER those of gateway dev, and returns what is
// wrong with them.
func ShowConfig(o ServeOptions) error {
	tier := config.Local
	if slices.ContainsFunc(o.Environ, func(s string) bool { return strings.HasPrefix(s, "MOSAIC_TIER=") && s != "MOSAIC_TIER=" }) {
		tier = ""
	}
	_, wrong := config.Load(o.Environ, tier)
	list := config.Explain(o.Environ, tier)
	if o.JSON {
		return errors.Join(json.NewEncoder(o.Stdout).Encode(list), wrong)
	}
	w := tabwriter.NewWriter(o.Stdout, 0, 0, 2, ' ', 0)
	for _, e := range list {
		from := e.From
		if from == "" {
			from = "-"
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\n", e.Name, e.Value, from); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), wrong)
}
