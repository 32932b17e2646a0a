package querying

import (
	"errors"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// What adding a peer is refused with before anything is sent.
var (
	ErrURLInvalid = &fault.Fault{
		Kind: fault.Invalid, Code: "enrollment_url_invalid",
		Detail: "this is not an enrollment URL",
		Hint:   "copy the whole URL that mosaic federation grant create printed: https://HOST/api/federation/enrollment/TOKEN?ca=FINGERPRINT",
	}
	ErrCAMissing = &fault.Fault{
		Kind: fault.Invalid, Code: "enrollment_ca_missing",
		Detail: "the enrollment URL does not say which CA the peer has",
		Hint:   "copy the URL with its end, ?ca= and 64 hexadecimal digits; in a shell put it in quotes",
	}
	ErrCAMismatch = &fault.Fault{
		Kind: fault.Conflict, Code: "peer_ca_mismatch",
		Detail: "the peer is known here with another CA",
		Hint:   "compare the CA fingerprint with the other gateway's admin over another channel; if it has rolled its root over, run the same command with --replace-ca; if this is another gateway, give it another --name",
	}
	ErrTokenUsed = &fault.Fault{
		Kind: fault.Gone, Code: "enrollment_token_used",
		Detail: "this enrollment URL has already been redeemed by this gateway",
		Hint:   "see what it gave: mosaic federation peer list; a new URL comes from the other gateway's admin: mosaic federation grant token GRANT",
	}
)

// What a redemption ends with when the peer did answer.
var (
	ErrRefused = &fault.Fault{
		Kind: fault.BadGateway, Code: "peer_refused",
		Detail: "the peer refused the enrollment",
		Hint:   "ask the other gateway's admin; running the same command again does no harm",
	}
	ErrCAUnproven = &fault.Fault{
		Kind: fault.BadGateway, Code: "enrollment_ca_mismatch",
		Detail: "the peer answered with another CA than the enrollment URL names, so its answer was not used",
		Hint:   "compare the fingerprint with the other gateway's admin over another channel: somebody may be between the two gateways",
	}
	ErrCertificateMismatch = &fault.Fault{
		Kind: fault.BadGateway, Code: "certificate_mismatch",
		Detail: "the peer answered with a certificate that is not what was asked for, so it was not used",
		Hint:   "compare the clocks of both gateways; otherwise the other gateway's admin finds the reason with: mosaic gateway doctor",
	}
	ErrInterrupted = &fault.Fault{
		Kind: fault.Conflict, Code: "enrollment_interrupted",
		Detail: "the peer was removed here while its enrollment was running",
		Hint:   "ask the other gateway's admin for a new URL: mosaic federation grant token GRANT",
	}
)

// What a query is refused with on this side.
var (
	// ErrNotAvailable is one answer for a peer that is not there and for one the user has no credential for:
	// which peers there are is not for every user to know.
	ErrNotAvailable = &fault.Fault{
		Kind: fault.Forbidden, Code: "peer_not_available",
		Detail: "there is no such peer for you",
		Hint:   "ask an admin of this gateway to add it for you: mosaic federation peer add URL --user YOU",
	}
	ErrPeerNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "peer_not_found",
		Detail: "there is no such peer",
		Hint:   "list the peers with: mosaic federation peer list",
	}
	ErrNoCredential = &fault.Fault{
		Kind: fault.NotFound, Code: "peer_no_credential",
		Detail: "this gateway holds no credential of this peer",
		Hint:   "redeem an enrollment URL of the peer: mosaic federation peer add URL",
	}
	ErrCredentialExpired = &fault.Fault{
		Kind: fault.Forbidden, Code: "peer_credential_expired",
		Detail: "the credential for this peer has expired",
		Hint:   "the peer's admin makes a new enrollment URL with: mosaic federation grant token GRANT; an admin here redeems it: mosaic federation peer add URL",
	}
)

// ErrAnswered is behind an ErrUnreachable of a peer that is not asked, because it answered that it cannot answer. It is
// there, so nobody stands in for it.
var ErrAnswered = errors.New("the peer is there")

// What becomes of a query at the peer.
var (
	ErrNotFound = &fault.Fault{
		Kind: fault.NotFound, Code: "not_found",
		Detail: "the peer has no such thing in the scope of its grant",
		Hint:   "the peer's admin knows the scope: mosaic federation grant show GRANT",
	}
	ErrDenied = &fault.Fault{
		Kind: fault.Forbidden, Code: "peer_denied",
		Detail: "the peer does not let this gateway ask",
		Hint:   "talk to the peer's admin; a new grant is redeemed with: mosaic federation peer add URL",
	}
	ErrRateLimited = &fault.Fault{
		Kind: fault.RateLimited, Code: "rate_limited",
		Detail: "the peer's limit for this grant is used up",
		Hint:   "wait as long as Retry-After says",
	}
	ErrUnreachable = &fault.Fault{
		Kind: fault.Unavailable, Code: "peer_unreachable",
		Detail:     "the peer cannot be reached",
		Hint:       "try again shortly; if it stays, check the peer's address with: mosaic federation peer show PEER",
		RetryAfter: 5 * time.Second,
	}
	ErrTimeout = &fault.Fault{
		Kind: fault.GatewayTimeout, Code: "peer_timeout",
		Detail:     "the peer did not answer in time",
		Hint:       "try again, or ask for fewer rows",
		RetryAfter: 5 * time.Second,
	}
	// ErrQuestionTooLong is a question that was not sent. It says nothing of the peer.
	ErrQuestionTooLong = &fault.Fault{
		Kind: fault.Invalid, Code: "question_too_long",
		Detail: "the question is too long to be sent to the peer",
		Hint:   "leave out what is not needed, such as a cursor that is no cursor of this peer",
	}
	ErrAnswerInvalid = &fault.Fault{
		Kind: fault.BadGateway, Code: "peer_answer_invalid",
		Detail: "the peer answered with something that cannot be used",
		Hint:   "check that both gateways run releases that fit, and that nothing between them changes answers",
	}
	// ErrUntrusted is a server that did not prove to be the gateway it should be.
	ErrUntrusted = &fault.Fault{
		Kind: fault.BadGateway, Code: "peer_untrusted",
		Detail: "the server at the peer's address did not prove to be the peer",
		Hint:   "check the peer's address, its certificate and the clocks of both gateways",
	}
	// ErrAddressRefused is an address this gateway never connects to for a peer.
	ErrAddressRefused = &fault.Fault{
		Kind: fault.Invalid, Code: "peer_address_refused",
		Detail: "the peer's address is one this gateway does not connect to",
		Hint:   "a peer's host must not resolve to a link-local, multicast, unspecified or cloud metadata address",
	}
)
