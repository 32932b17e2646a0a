package serving

import (
	"errors"

	"github.com/mosaicstack/gateway/internal/fault"
)

// What a federated request can be refused with. Each is problem+json after the handshake.
var (
	ErrCertificateUnknown = &fault.Fault{
		Kind: fault.Unauthenticated, Code: "certificate_unknown",
		Detail: "this certificate is not in the registry",
		Hint:   "enrol again: the serving gateway's admin gets a new URL with: mosaic federation grant token GRANT",
	}
	ErrCertificateRevoked = &fault.Fault{
		Kind: fault.Unauthenticated, Code: "certificate_revoked",
		Detail: "this certificate was revoked, or replaced by a later one",
		Hint:   "use the newest certificate, or enrol again",
	}
	ErrCertificateExpired = &fault.Fault{
		Kind: fault.Unauthenticated, Code: "certificate_expired",
		Detail: "this certificate has expired",
		Hint:   "enrol again: the serving gateway's admin gets a new URL with: mosaic federation grant token GRANT",
	}
	ErrGrantRevoked = &fault.Fault{
		Kind: fault.Forbidden, Code: "grant_revoked",
		Detail: "the grant was revoked", Hint: "ask the serving gateway's admin for a new grant",
	}
	ErrGrantExpired = &fault.Fault{
		Kind: fault.Forbidden, Code: "grant_expired",
		Detail: "the grant has expired", Hint: "ask the serving gateway's admin for a new grant",
	}
	ErrGrantPending = &fault.Fault{
		Kind: fault.Forbidden, Code: "grant_pending",
		Detail: "the grant is not active", Hint: "finish the enrollment",
	}
	ErrPeerRevoked = &fault.Fault{
		Kind: fault.Forbidden, Code: "peer_revoked",
		Detail: "the serving gateway has revoked this peer", Hint: "talk to the serving gateway's admin",
	}
	ErrPeerSuspended = &fault.Fault{
		Kind: fault.Forbidden, Code: "peer_suspended",
		Detail: "the serving gateway has suspended this peer", Hint: "talk to the serving gateway's admin; nothing is lost",
	}
	ErrSubjectDisabled = &fault.Fault{
		Kind: fault.Forbidden, Code: "subject_disabled",
		Detail: "the user this grant speaks for is disabled on the serving gateway", Hint: "talk to the serving gateway's admin",
	}
	ErrNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "not_found",
		Detail: "there is no such thing in the scope of this grant",
		Hint:   "GET /federation/v1/capabilities lists what the grant covers",
	}
	ErrRateLimited = &fault.Fault{
		Kind: fault.RateLimited, Code: "rate_limited",
		Detail: "too many requests", Hint: "wait as long as Retry-After says",
	}
)

// refused reports whether err says no to the caller as such, and not to what they asked for.
func refused(err error) bool {
	if err == nil || errors.Is(err, errStale) {
		return false
	}
	k := fault.From(err).Kind
	return k != fault.NotFound && k != fault.Invalid
}

// dead reports a refusal that nothing can lift. A suspended peer can be resumed and a disabled user enabled, and
// then their certificates must work at once.
func dead(f *fault.Fault) bool {
	for _, final := range []*fault.Fault{ErrCertificateUnknown, ErrCertificateRevoked, ErrCertificateExpired, ErrGrantRevoked, ErrGrantExpired, ErrPeerRevoked} {
		if f.Code == final.Code {
			return true
		}
	}
	return false
}
