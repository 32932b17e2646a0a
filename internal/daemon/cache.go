package daemon

import (
	"github.com/mosaicstack/gateway/internal/cache"
	"github.com/mosaicstack/gateway/internal/querying"
)

// newCache makes the cache of peers' answers: in Valkey, where all replicas find them, or in this process's memory in a
// tier without one. It is nil when the settings want none. While Valkey is away nothing is kept: a memory that each
// replica has for itself would not learn of a refusal that another was given.
func (g *gateway) newCache() querying.Cache {
	if g.settings.CacheTTL == 0 || !g.federates() {
		return nil
	}
	c := cache.Config{Keys: g.keyring.ring, TTL: g.settings.CacheTTL}
	if g.valkey != nil {
		c.Store, c.Up = g.valkey, func() bool { return g.limits.link.Err() == nil }
	} else {
		c.Store = cache.NewMemory(g.now)
	}
	made := cache.New(c)
	g.metrics.WatchCache(made.Failures)
	return made
}
