package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/door"
	"github.com/mosaicstack/gateway/internal/embed"
	"github.com/mosaicstack/gateway/internal/enroll"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/jobs"
	"github.com/mosaicstack/gateway/internal/limit"
	"github.com/mosaicstack/gateway/internal/mcp"
	"github.com/mosaicstack/gateway/internal/page"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/querying"
	"github.com/mosaicstack/gateway/internal/remote"
	"github.com/mosaicstack/gateway/internal/resource"
	"github.com/mosaicstack/gateway/internal/scope"
	"github.com/mosaicstack/gateway/internal/serving"
	"github.com/mosaicstack/gateway/internal/telemetry"
	"github.com/mosaicstack/gateway/internal/upkeep"
)

// The limits that are the same for everybody (spec 7).
var (
	guessLimit = grant.Limit{PerMinute: 30, Burst: 30}
	tryLimit   = grant.Limit{PerMinute: 300, Burst: 300}
)

// The bounds of a connection to the public listener.
const (
	apiReadHeader = 5 * time.Second
	apiRead       = 30 * time.Second
	apiWrite      = 60 * time.Second
	apiIdle       = 2 * time.Minute
	apiHeader     = 32 << 10
)

type gatewayConfig struct {
	parts
	tier, name, version      string
	publicURL, federationURL string
	settings                 config.Config
	metrics                  *telemetry.Metrics
	tracing                  *telemetry.Tracing
	now                      func() time.Time
	log                      *slog.Logger
}

// federates tells whether other gateways are let in and asked. The standalone tier has no CA, and does neither.
func (c gatewayConfig) federates() bool { return c.ca != nil }

// gateway is one running replica.
type gateway struct {
	gatewayConfig
	trust       *trust
	accounts    *postgres.Accounts
	resources   *postgres.Resources
	log         *slog.Logger
	writer      *audit.Writer
	notary      *audit.Notary
	refusals    *audit.Aggregator
	health      *health
	limits      limits
	certificate certificateSource
	touches     chan uuid.UUID
	peers       *postgres.Peers
	credentials *postgres.Credentials
	client      *remote.Client // of peers, without patience
	patient     *remote.Patient
	renewer     *querying.Renewer
	serving     *postgres.Serving
	auditLog    *postgres.AuditLog
	jobs        *jobs.Runner
	api         http.Handler
	federation  *http.Server
}

// listeners are the addresses the gateway answers on. The API's and the socket are served by front and admin when those
// are there.
type listeners struct {
	front, admin            *front
	api, federation, socket net.Listener
	door                    *door.Listener // of the API
	farewell                *farewell      // nil in the local tier, where nobody else could answer
}

// apiServer is a server of the HTTP API, with the bounds of its connections.
func apiServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: apiReadHeader, ReadTimeout: apiRead, WriteTimeout: apiWrite, IdleTimeout: apiIdle,
		MaxHeaderBytes: apiHeader, DisableGeneralOptionsHandler: true, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func newGateway(ctx context.Context, c gatewayConfig) (*gateway, error) {
	host, err := hostOf(c.federationURL)
	if err != nil {
		return nil, err
	}
	c.profile.Host = host
	if c.federates() {
		c.ca = observedCA{c.ca, c.metrics}
	}
	g := &gateway{
		gatewayConfig: c, log: c.log, trust: &trust{},
		accounts: &postgres.Accounts{DB: c.db}, resources: &postgres.Resources{DB: c.db, Seal: c.keyring.ring},
		peers: &postgres.Peers{DB: c.db}, credentials: &postgres.Credentials{DB: c.db}, serving: &postgres.Serving{DB: c.db}, auditLog: &postgres.AuditLog{DB: c.db},
		touches: make(chan uuid.UUID, 256), client: remote.NewClient(),
	}
	g.client.Now = c.now
	g.writer = audit.NewWriter(g.auditLog, c.log, c.now)
	g.refusals = audit.NewAggregator(g.writer, c.log, c.now)
	g.writer.Observe = c.metrics.Batch
	c.keyring.sealed, c.keyring.record = &postgres.Sealed{DB: c.db}, g.writer.Record
	if g.limits, err = newLimits(ctx, c.valkey, c.log); err != nil {
		return nil, err
	}
	g.renewer = querying.NewRenewer(querying.RenewerConfig{
		Store: g.credentials, Client: g.client, Keys: c.keyring.ring, Random: rand.Reader, Now: c.now, Log: c.log, Observe: c.metrics.Renewed,
	})
	g.notary = audit.NewNotary(audit.NotaryConfig{Ledger: g.auditLog, Ring: c.keyring.ring, Random: rand.Reader, Now: c.now, Log: c.log})
	g.health = newHealth(c, append(g.limits.parts(), part{"credentials", false, g.renewer.Check}, part{"audit", false, g.notary.Ready})...)
	if err := g.auditLog.EnsurePartitions(ctx); err != nil {
		return nil, err
	}
	if c.federates() {
		if g.certificate, err = newCertificate(ctx, c, host); err != nil {
			return nil, err
		}
		if g.trust, err = newTrust(ctx, c, g.certificate); err != nil {
			return nil, err
		}
	}
	embedder, err := embed.New(embed.Config{URL: c.settings.Embeddings.URL, Model: c.settings.Embeddings.Model, APIKey: c.settings.Embeddings.APIKey})
	if err != nil {
		return nil, err
	}
	embeddings := upkeep.NewEmbeddings(upkeep.EmbeddingsConfig{
		Store: &postgres.Embeddings{DB: c.db}, Embedder: embedder, Refuses: func(err error) bool { return errors.Is(err, embed.ErrInput) }, Log: c.log,
	})
	if err := embeddings.Adopt(ctx); err != nil {
		return nil, err
	}
	searcher := serving.NewSearcher(embedder)
	keeper := upkeep.New(upkeep.Config{
		Store: &postgres.Upkeep{DB: c.db, Removal: g.notary.Removal}, Sealed: c.keyring.sealed, Ring: c.keyring.ring, CA: c.ca, Log: c.log,
		Checkpoint: g.notary.Keep, AuditMonths: int(c.settings.AuditMonths),
	})
	tasks := append(keeper.Tasks(), embeddings.Task())
	if c.federates() {
		tasks = append(tasks, upkeep.Task{Name: querying.RenewalTask, Every: querying.RenewalEvery, Run: g.renewer.Run})
	}
	if g.jobs, err = jobs.New(c.db.Pool(), observedTasks(tasks, c.metrics, c.now), c.log); err != nil {
		return nil, err
	}
	g.resources.Written = func() { g.jobs.Wake(upkeep.EmbeddingsTask) }
	cursors := page.New(c.keyring.ring.AEAD("cursor"))
	hash := func(data []byte) []byte { return c.keyring.ring.MAC("audit query", data) }
	crl := &revocationList{ca: c.ca, now: c.now}
	enrollment := enroll.New(enroll.Config{
		Store: &postgres.Enrollment{DB: c.db}, Renewals: &postgres.Enrollment{DB: c.db}, CA: c.ca, Profile: c.profile, FederationURL: c.federationURL,
		Guesses: limit.PerAddress{Limiter: g.limits.strangers, Name: "enrollment", Limit: guessLimit}, Tries: limit.Fixed{Limiter: g.limits.strangers, Name: "tries", Limit: tryLimit},
		Random: rand.Reader, Log: c.log, Observe: c.metrics.Enrolled,
	})
	g.federation = fedapi.NewServer(fedapi.Config{
		Serving: serving.New(serving.Config{
			Store: g.serving, Audit: g.writer, Coming: g.writer.Coming, Limiter: g.limits.peers, Budgets: g.serving, Cursors: cursors, Hash: hash, Now: c.now, Log: c.log,
			Tag:     func(data []byte) []byte { return c.keyring.ring.MAC("answer tag", data) },
			Refused: serving.NewRefusedLately(c.now), Touch: g.touch, CRL: crl.get, Searcher: searcher, Note: g.refusals.Note,
			Renew:   enrollment.Renew,
			Roots:   g.trust.published,
			Observe: c.metrics.Request,
		}),
		Profile: c.profile, Anchors: g.trust.anchors.Load, Log: c.log, Now: c.now, Observe: c.metrics, Trace: c.tracing.Tracer(),
	})
	if !c.federates() {
		enrollment = nil
	}
	adder, query := g.newQuerying(hash, searcher)
	g.renewer.Cache = query.Cache
	g.api = c.metrics.API(httpapi.New(httpapi.Config{
		Accounts: g.accounts, Resources: g.resources, Grants: &postgres.Grants{DB: c.db}, Peers: g.peers, Audit: g.auditLog, Notary: g.notary, Record: g.writer, Note: g.refusals.Note,
		Enroll:      enrollment,
		Guesses:     limit.PerAddress{Limiter: g.limits.strangers, Name: "token", Limit: guessLimit},
		Credentials: g.credentials, Adder: adder, Querying: query, Searcher: searcher,
		Cursors: cursors, Keyring: c.keyring, CA: &rollover{trust: g.trust, roller: c.roller, serving: g.serving, record: g.writer.Record},
		Health: g.health, Trace: c.tracing.Tracer(), PublicURL: c.publicURL, CRL: crl.get,
		MCP: mcp.Handler(query, c.version, httpapi.CallerOf), Origin: c.settings.CORSOrigin,
		CAFingerprint: func(context.Context) (string, error) { return g.trust.fingerprint(), nil },
		Version:       c.version, Trusted: c.settings.TrustedProxies, Now: c.now, Log: c.log,
	}))
	return g, nil
}

// touch notes a peer for last_seen_at. It never waits: the request it comes with matters more.
func (g *gateway) touch(id uuid.UUID) {
	select {
	case g.touches <- id:
	default:
	}
}

// noteTouches writes last_seen_at, for each peer at most once a minute.
func (g *gateway) noteTouches(ctx context.Context) error {
	last := map[uuid.UUID]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case id := <-g.touches:
			if now := g.now(); now.Sub(last[id]) >= time.Minute {
				last[id] = now
				if err := g.serving.Touch(ctx, id); err != nil && ctx.Err() == nil {
					g.log.Warn("last_seen_at not written", "peer_id", id, "error", err)
				}
			}
		}
	}
}

// serve answers on the listeners until ctx ends or one of them fails. What serves stops before what it stands
// on: listeners first, then the audit writer, which commits what is queued.
func (g *gateway) serve(ctx context.Context, l listeners, onReady func() error) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var base errgroup.Group
	base.Go(func() error { return g.writer.Run(background) })
	base.Go(func() error { return g.notary.Run(background) })
	base.Go(func() error { return g.refusals.Run(background) })
	base.Go(func() error { return g.noteTouches(background) })
	base.Go(func() error { return g.health.run(background) })
	base.Go(func() error { return g.limits.run(background) })
	if g.federates() {
		base.Go(func() error { return g.certificate.run(background) })
		base.Go(func() error { return g.trust.run(background) })
	}
	base.Go(func() error { return g.jobs.Run(background) })

	public, admin, api := apiServer(g.api, g.log), apiServer(g.api, g.log), l.api
	if l.front != nil {
		public, admin = l.front.server, l.admin.server // they serve already
	} else {
		admin.ConnContext = httpapi.SocketContext
		l.door = apiDoor(l.api, public, g.settings.TrustedProxies, g.metrics.Refused("api"), g.log, g.now)
		api = l.door
	}
	doors := map[string]*door.Listener{"api": l.door}
	var secure net.Listener
	if g.federates() {
		doors["federation"] = g.federationDoor(l.federation)
		secure = doors["federation"]
	}
	g.watch(doors)

	l.farewell.of(g.federation)
	leave := sync.OnceFunc(func() {
		g.health.drain()
		l.farewell.say()
	})

	front, ctx := errgroup.WithContext(ctx)
	for _, s := range []struct {
		server   *http.Server
		listener net.Listener
	}{{public, api}, {admin, l.socket}, {g.federation, secure}} {
		if s.listener != nil {
			front.Go(func() error {
				if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
					return err
				}
				return nil
			})
		}
		front.Go(func() error {
			<-ctx.Done()
			leave()
			return drain(s.server)
		})
	}
	if l.front != nil {
		front.Go(func() error { return g.guardHome(ctx) })
	}
	spaceOut()
	g.health.check(ctx)
	if gate, ok := l.federation.(*gate); ok {
		g.health.follow(gate)
	}
	err := onReady()
	if err != nil {
		front.Go(func() error { return err }) // ends the others
	}
	err = front.Wait()
	base.Go(func() error { flush(g.tracing); return nil })
	g.refusals.Flush(background)
	stopBackground()
	return errors.Join(err, base.Wait())
}

// drain ends a server: no new connections, what is under way may finish within drainWithin.
func drain(s *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainWithin)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		return s.Close()
	}
	return nil
}

// newQuerying makes the half of the gateway that asks others.
func (g *gateway) newQuerying(hash querying.Hasher, searcher *serving.Searcher) (*querying.Adder, *querying.Service) {
	client := remote.NewPatient(g.client, g.now)
	client.Retried = g.metrics.Retried
	g.patient = client
	adder := querying.NewAdder(querying.AdderConfig{
		Store: g.credentials, Enroller: &remote.Enroller{}, Client: client, Keys: g.keyring.ring, Random: rand.Reader, Now: g.now,
		Learn: func(ctx context.Context, peerID uuid.UUID) error {
			held, err := g.credentials.Active(ctx, peerID)
			if err != nil {
				return err
			}
			return g.renewer.LearnFrom(ctx, held)
		},
	})
	kept := g.newCache()
	return adder, querying.New(querying.Config{
		Finder: g.credentials, Client: client, Keys: g.keyring.ring, Audit: g.writer, Hash: hash, Now: g.now, Touch: g.touch, Timeout: g.settings.PeerDeadline,
		Local: localRows{g.resources, searcher}, Cursors: g.keyring.ring.AEAD("cursor across sources"), Cache: kept, Seen: g.metrics.Cache,
		Observe: g.metrics,
	})
}

// localRows is this gateway's own rows as a source beside its peers.
type localRows struct {
	store    *postgres.Resources
	searcher *serving.Searcher
}

// Search implements querying.Local.
func (l localRows) Search(ctx context.Context, res scope.Resource, user uuid.UUID, q resource.SearchRequest) ([]byte, error) {
	return l.searcher.Own(ctx, user, res, q, l.store.Search)
}

// Rows implements querying.Local.
func (l localRows) Rows(ctx context.Context, res scope.Resource, user uuid.UUID, since time.Time, after page.Key, limit, maxBytes int) ([]byte, bool, error) {
	rows, err := l.store.List(ctx, res, user, since, after, limit, maxBytes)
	if err != nil {
		return nil, false, err
	}
	return slices.Concat([]byte{'['}, rows.Docs, []byte{']'}), rows.More, nil
}

// Row implements querying.Local.
func (l localRows) Row(ctx context.Context, res scope.Resource, user, id uuid.UUID) ([]byte, error) {
	return l.store.Get(ctx, res, user, id)
}
