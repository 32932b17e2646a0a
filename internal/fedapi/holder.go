package fedapi

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

var errBusy = &fault.Fault{
	Kind: fault.RateLimited, Code: "too_many_in_flight", Detail: "this certificate has too many requests under way, or too much that it has not read",
	Hint: "read the answers, and ask less at once", RetryAfter: time.Second,
}

// holder is one certificate, as long as it is remembered: whom it speaks for, and what it has under way. One that
// asks more than it may at once waits behind itself, and not in front of others in the queue of the database.
type holder struct {
	identity identity.Identity
	places   chan struct{}
	unread   atomic.Int64            // bytes of answers that are being written
	anchors  atomic.Pointer[Anchors] // under which its chain was good
}

// keep remembers a certificate whose profile is good. All are forgotten when there are too many: what is under
// way leaves the holder it entered by.
func (h *handler) keep(fingerprint [32]byte, id identity.Identity) *holder {
	h.mu.Lock()
	defer h.mu.Unlock()
	if who, ok := h.known[fingerprint]; ok {
		return who
	}
	if len(h.known) >= maxIdentities {
		clear(h.known)
	}
	who := &holder{identity: id, places: make(chan struct{}, maxUnderWay)}
	h.known[fingerprint] = who
	return who
}

// enter takes a place, waiting for one if it must.
func (h *holder) enter(ctx context.Context) error {
	if h.unread.Load() > maxUnread {
		return errBusy
	}
	select {
	case h.places <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(waitForPlace)
	defer patience.Stop()
	select {
	case h.places <- struct{}{}:
		return nil
	case <-patience.C:
		return errBusy
	case <-ctx.Done():
		return errBusy.Because(ctx.Err())
	}
}

func (h *holder) leave() { <-h.places }
