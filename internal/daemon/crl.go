package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
)

// How long a revocation list is passed on before the CA is asked for a newer one, and how long that may take.
const (
	crlFresh  = 15 * time.Second
	crlWithin = 5 * time.Second
)

// revocationList passes the CA's list on. Anybody may ask for it, so the CA is asked once for all of them; and the
// last one is given while the CA is away, for it says itself until when it holds (RFC 5280, section 5.1.2.5).
type revocationList struct {
	ca  ca.Authority
	now func() time.Time

	mu    sync.Mutex
	list  []byte
	asked time.Time
}

func (r *revocationList) get(ctx context.Context) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if since := r.now().Sub(r.asked); r.list != nil && since >= 0 && since < crlFresh {
		return r.list, nil
	}
	// Not the caller's context: whoever hangs up must not fail those who wait behind them.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), crlWithin)
	defer cancel()
	list, err := r.ca.CRL(ctx)
	if err == nil {
		r.list, r.asked = list, r.now()
		return list, nil
	}
	if r.list != nil {
		r.asked = r.now() // a CA that is away is not asked by every caller
		return r.list, nil
	}
	return nil, err
}
