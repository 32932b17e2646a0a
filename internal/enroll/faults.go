package enroll

import (
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// What a redemption can be refused with, beside csr_invalid and ca_unavailable.
var (
	ErrTokenUnknown = &fault.Fault{
		Kind: fault.NotFound, Code: "enrollment_token_unknown",
		Detail: "there is no such enrollment token",
		Hint:   "check that the whole URL was copied, or ask the serving gateway's admin for a new one: mosaic federation grant token GRANT",
	}
	ErrTokenExpired = &fault.Fault{
		Kind: fault.Gone, Code: "enrollment_token_expired",
		Detail: "this enrollment token has expired",
		Hint:   "ask the serving gateway's admin for a new one: mosaic federation grant token GRANT",
	}
	ErrTokenUsed = &fault.Fault{
		Kind: fault.Gone, Code: "enrollment_token_used",
		Detail: "this enrollment token has already been used",
		Hint:   "ask the serving gateway's admin for a new one: mosaic federation grant token GRANT",
	}
	ErrInProgress = &fault.Fault{
		Kind: fault.Conflict, Code: "enrollment_in_progress",
		Detail:     "another request is redeeming this enrollment token right now",
		Hint:       "wait; if that request fails, the token can be used again",
		RetryAfter: 5 * time.Second,
	}
	ErrGrantRevoked = &fault.Fault{
		Kind: fault.Gone, Code: "grant_revoked",
		Detail: "the grant behind this enrollment token was revoked",
		Hint:   "ask the serving gateway's admin for a new grant",
	}
	ErrGrantExpired = &fault.Fault{
		Kind: fault.Gone, Code: "grant_expired",
		Detail: "the grant behind this enrollment token has expired",
		Hint:   "ask the serving gateway's admin for a new grant",
	}
	ErrGrantClosed = &fault.Fault{
		Kind: fault.Gone, Code: "grant_closed",
		Detail: "the grant was closed while the certificate was being signed",
		Hint:   "ask the serving gateway's admin for a new grant",
	}
	// The next two pass: the token is as good as before when they have.
	ErrPeerSuspended = &fault.Fault{
		Kind: fault.Forbidden, Code: "peer_suspended",
		Detail: "the serving gateway has suspended this peer",
		Hint:   "ask the serving gateway's admin to lift it (mosaic federation peer resume PEER), and try again: the token is still good",
	}
	ErrSubjectDisabled = &fault.Fault{
		Kind: fault.Forbidden, Code: "subject_disabled",
		Detail: "the user this grant speaks for is disabled on the serving gateway",
		Hint:   `ask the serving gateway's admin to enable them (PATCH /api/users/USER with {"disabled":false}), and try again: the token is still good`,
	}
	ErrApprovalMissing = &fault.Fault{
		Kind: fault.Forbidden, Code: "grant_approval_required",
		Detail: "the grant covers sensitive resources and has not been approved",
		Hint:   "ask the serving gateway's admin to approve it: mosaic federation grant approve GRANT --reason REASON",
	}
	ErrKeyReused = &fault.Fault{
		Kind: fault.Invalid, Code: "idempotency_key_reused",
		Detail: "this Idempotency-Key was used with another certificate request",
		Hint:   "send the same request again, or use another key with another token",
	}
	ErrKeyInvalid = &fault.Fault{
		Kind: fault.Invalid, Code: "idempotency_key_invalid",
		Detail: "Idempotency-Key must be 1 to 255 visible ASCII characters",
		Hint:   "use a random UUID",
	}
	ErrTTLInvalid = &fault.Fault{
		Kind: fault.Invalid, Code: "ttl_invalid",
		Detail: "ttl_seconds must be a whole number from 60 to 31536000",
		Hint:   "leave it out for a certificate of 24 hours",
	}
	ErrRateLimited = &fault.Fault{
		Kind: fault.RateLimited, Code: "rate_limited",
		Detail: "too many requests",
		Hint:   "wait as long as Retry-After says",
	}
	ErrMisissued = &fault.Fault{
		Kind: fault.BadGateway, Code: "certificate_mismatch",
		Detail: "the CA signed a certificate that is not what was asked for; it was revoked and nothing was stored",
		Hint:   "the serving gateway's admin finds the reason in its log, and checks the CA's template with: mosaic gateway doctor",
	}
)
