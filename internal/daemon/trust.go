package daemon

import (
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/fedapi"
	"github.com/mosaicstack/gateway/internal/identity"
)

const (
	trustEvery = 5 * time.Second
	// trustSpread is how long it takes at most until every replica knows of a new root and has a certificate under it:
	// until then nobody is told to trust that one alone.
	trustSpread = time.Minute
)

// trust follows the roots of the CA: what client certificates may lead to, what peers are told, and under which of them
// the listener's own certificate is.
type trust struct {
	ca          ca.Authority
	refresh     func(context.Context) error // asks the CA for its roots; nil when Roots does
	certificate certificateSource
	now         func() time.Time
	log         *slog.Logger

	anchors atomic.Pointer[fedapi.Anchors]

	looking sync.Mutex // one look at a time
	last    string     // the fingerprint that was told last

	mu      sync.Mutex
	roots   []*x509.Certificate
	between []*x509.Certificate // every intermediate seen under them
	stale   bool                // the listener's certificate is from before the roots changed
	root    *x509.Certificate   // that the listener's certificate leads to
	before  *x509.Certificate   // what root was, for trustSpread
	since   time.Time
	told    func(fingerprint string) error // of another fingerprint; nil: nobody asks
}

func newTrust(ctx context.Context, c gatewayConfig, certificate certificateSource) (*trust, error) {
	t := &trust{ca: c.ca, refresh: c.refreshRoots, certificate: certificate, now: c.now, log: c.log}
	roots, err := t.ca.Roots(ctx)
	if err != nil {
		return nil, err
	}
	t.set(roots)
	t.before = nil // there was nothing before
	return t, nil
}

// run looks for a change until ctx ends.
func (t *trust) run(ctx context.Context) error {
	for range ticks(ctx, trustEvery) {
		t.look(ctx)
	}
	return nil
}

// look follows a change of the CA's roots. Whoever comes with a certificate under a new one is let in before the
// listener shows its own, and no request waits.
func (t *trust) look(ctx context.Context) {
	t.looking.Lock()
	defer t.looking.Unlock()
	if t.refresh != nil {
		if err := t.refresh(ctx); err != nil && ctx.Err() == nil {
			t.log.Debug("roots of the CA not asked for", "error", err) // health tells that the CA is away
		}
	}
	roots, err := t.ca.Roots(ctx)
	if err != nil {
		return
	}
	t.mu.Lock()
	same := slices.EqualFunc(t.roots, roots, (*x509.Certificate).Equal)
	stale := t.stale
	t.mu.Unlock()
	if same && !stale {
		t.set(roots) // the listener may have renewed by itself
		return
	}
	if !same {
		t.set(roots)
		t.log.Info("the roots of the CA have changed", "in_trust", len(roots))
	}
	err = t.certificate.renew(ctx)
	if err != nil && ctx.Err() == nil {
		t.log.Warn("listener certificate not renewed after a change of the CA's roots", "error", err)
	}
	t.mu.Lock()
	t.stale = err != nil
	t.mu.Unlock()
	t.set(roots)
}

// set puts roots, and what the listener's certificate is now, in force.
func (t *trust) set(roots []*x509.Certificate) {
	t.mu.Lock()
	grown := false
	for _, c := range t.certificate.intermediates() {
		if !slices.ContainsFunc(t.between, c.Equal) {
			t.between, grown = append(t.between, c), true
		}
	}
	if grown || t.anchors.Load() == nil || !slices.EqualFunc(t.roots, roots, (*x509.Certificate).Equal) {
		t.roots = slices.Clone(roots)
		t.between = slices.DeleteFunc(t.between, func(c *x509.Certificate) bool {
			return !slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return c.CheckSignatureFrom(root) == nil })
		})
		t.anchors.Store(fedapi.NewAnchors(t.roots, t.between))
	}
	if root := t.certificate.root(t.roots); t.root == nil || !root.Equal(t.root) {
		t.before, t.root, t.since = t.root, root, t.now()
	}
	told, next := t.told, t.fingerprintLocked()
	t.mu.Unlock()
	if told == nil || next == t.last {
		return
	}
	if err := told(next); err != nil {
		t.log.Warn("ready.json not written again", "error", err)
		return
	}
	t.last = next
}

// tell has f told of every other fingerprint from now on.
func (t *trust) tell(f func(fingerprint string) error) {
	t.looking.Lock()
	defer t.looking.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told, t.last = f, t.fingerprintLocked()
}

// published are the roots that peers are told of: those that this replica lets in.
func (t *trust) published(context.Context) ([]*x509.Certificate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.roots), nil
}

// fingerprint is of the root that whoever enrols now is told to trust. Every replica's listener leads to it.
func (t *trust) fingerprint() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fingerprintLocked()
}

func (t *trust) fingerprintLocked() string {
	if t.root == nil {
		return ""
	}
	root := t.root
	// Only where there are other replicas, and only while the one before is in trust.
	if t.refresh != nil && t.before != nil && t.now().Sub(t.since) < trustSpread && slices.ContainsFunc(t.roots, t.before.Equal) {
		root = t.before
	}
	return identity.FingerprintHex(root.Raw)
}
