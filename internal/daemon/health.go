package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/postgres"
)

// How often the parts are looked at, and how long one may take: a loss is known well within 10 s.
const (
	healthEvery  = 3 * time.Second
	healthWithin = 2 * time.Second
)

// health looks at the parts in the background, so that a probe costs nothing and cannot be used to load them.
type health struct {
	tier, version string
	log           *slog.Logger
	parts         []part

	mu       sync.RWMutex
	down     map[string]bool
	draining bool

	swinging sync.Mutex // held over a look at the parts and what follows from it
	gate     *gate      // shut while a vital part is away; nil in the local tier, where nobody else could answer
}

// part is one thing the gateway stands on. Without a vital one it does not serve; without another it serves,
// degraded.
type part struct {
	name  string
	vital bool
	check func(context.Context) error
}

func newHealth(c gatewayConfig, more ...part) *health {
	parts := []part{{"database", true, c.db.Ping}}
	if c.federates() {
		parts = append(parts, part{"ca", false, c.ca.Ready})
	}
	return &health{tier: c.tier, version: c.version, log: c.log, down: map[string]bool{}, parts: append(parts, more...)}
}

// run checks until ctx ends.
func (h *health) run(ctx context.Context) error {
	for range ticks(ctx, healthEvery) {
		h.check(ctx)
	}
	return nil
}

// check looks at every part once.
func (h *health) check(ctx context.Context) {
	for _, p := range h.parts {
		ctx, cancel := context.WithTimeout(ctx, healthWithin)
		err := p.check(ctx)
		cancel()
		h.mu.Lock()
		h.down[p.name] = err != nil
		h.mu.Unlock()
	}
	h.swing()
}

// follow opens the gate while the gateway is ready, and shuts it while it is not.
func (h *health) follow(g *gate) {
	h.mu.Lock()
	h.gate = g
	h.mu.Unlock()
	h.swing()
}

func (h *health) swing() {
	h.swinging.Lock()
	defer h.swinging.Unlock()
	h.mu.RLock()
	gate := h.gate
	ready := !h.draining
	for _, p := range h.parts {
		ready = ready && !(p.vital && h.down[p.name])
	}
	h.mu.RUnlock()
	switch {
	case gate == nil:
	case !ready:
		gate.shut()
	default:
		if err := gate.open(); err != nil {
			h.log.Error("federation listener not opened", "error", err)
		}
	}
}

// up reports whether a part was there when it was last looked at.
func (h *health) up(part string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return !h.down[part]
}

// drain makes the gateway not ready: it is about to stop.
func (h *health) drain() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.swing()
}

// Report implements httpapi.Health.
func (h *health) Report(context.Context) httpapi.Report {
	h.mu.RLock()
	defer h.mu.RUnlock()
	r := httpapi.Report{Status: httpapi.HealthOK, Tier: h.tier, Version: h.version, Checks: map[string]string{}}
	for _, p := range h.parts {
		r.Checks[p.name] = httpapi.HealthOK
		if !h.down[p.name] {
			continue
		}
		r.Checks[p.name] = httpapi.HealthDown
		if p.vital {
			r.Status = httpapi.HealthDown
		} else if r.Status == httpapi.HealthOK {
			r.Status = httpapi.HealthDegraded
		}
	}
	if h.draining {
		r.Status = httpapi.HealthDown
		r.Checks["draining"] = "yes"
	}
	return r
}

// guardHome ends a replica whose database was replaced by a restored one underneath it. The next start waits until the
// restore is accepted.
func (g *gateway) guardHome(ctx context.Context) error {
	for range ticks(ctx, healthEvery) {
		if err := g.db.CheckHome(ctx); errors.Is(err, postgres.ErrRestored) {
			return err
		}
	}
	return nil
}
