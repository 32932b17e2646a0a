package ca

import (
	"errors"
	"time"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The faults of a certificate authority. Their details name settings, never values, hosts or keys: an enrolling
// peer may read them. What exactly was asked and answered is in the cause, for the log.
//
// Each refusal that our configuration is to blame for also is ErrRefused (see Refuse), so a use case can tell
// "away" from "wrong" in one comparison and doctor can show the exact remedy.
var (
	// ErrUnavailable: the CA cannot be reached, is too slow, or failed. Nothing is lost by asking again.
	ErrUnavailable = &fault.Fault{
		Kind: fault.Unavailable, Code: "ca_unavailable",
		Detail:     "the certificate authority does not answer",
		Hint:       "try again shortly; if it stays, ask the gateway's admin to run: mosaic gateway doctor",
		RetryAfter: 5 * time.Second,
	}
	// ErrRefused: the CA answered and said no, and asking again will not change it.
	ErrRefused = &fault.Fault{
		Kind: fault.Internal, Code: "ca_refused",
		Detail: "the certificate authority refused this gateway's request",
		Hint:   "the gateway's admin finds the cause with: mosaic gateway doctor",
	}
	// ErrRequest: this program asked for something that makes no sense.
	ErrRequest = &fault.Fault{
		Kind: fault.Internal, Code: "ca_request_invalid",
		Detail: "the gateway asked for a certificate that cannot exist",
		Hint:   "report this with the request id: it is a bug of the gateway",
	}
	// ErrLifetime: the lifetime lies outside what the CA allows.
	ErrLifetime = &fault.Fault{
		Kind: fault.Invalid, Code: "ca_lifetime",
		Detail: "the certificate authority does not allow a certificate of this lifetime",
		Hint: "ask for another lifetime, or have the provisioner allow 60 s to 365 d: " +
			"step ca provisioner update mosaic-fed --x509-min-dur 60s --x509-max-dur 8760h",
	}
	// ErrClock: the CA's clock and ours are too far apart for its tokens.
	ErrClock = &fault.Fault{
		Kind: fault.Internal, Code: "ca_clock_skew",
		Detail: "the certificate authority's clock and the gateway's are more than a minute apart",
		Hint:   "set both clocks by NTP",
	}
	// ErrProvisioner: the CA has no JWK provisioner of the configured name.
	ErrProvisioner = &fault.Fault{
		Kind: fault.Internal, Code: "ca_provisioner_unknown",
		Detail: "the certificate authority has no JWK provisioner of the configured name",
		Hint:   "compare STEP_CA_PROVISIONER and STEP_CA_SERVER_PROVISIONER with: step ca provisioner list",
	}
	// ErrKey: the CA's provisioner has another key than we sign with.
	ErrKey = &fault.Fault{
		Kind: fault.Internal, Code: "ca_provisioner_key",
		Detail: "the provisioner key does not fit the certificate authority's provisioner",
		Hint:   "set STEP_CA_PROVISIONER_KEY_JSON to the provisioner's present private JWK, or unset it to fetch it from the CA",
	}
	// ErrKeyUnusable: the configured key cannot sign tokens at all.
	ErrKeyUnusable = &fault.Fault{
		Kind: fault.Internal, Code: "ca_provisioner_key_unusable",
		Detail: "the provisioner key cannot sign tokens",
		Hint:   "STEP_CA_PROVISIONER_KEY_JSON takes a private JWK (EC, Ed25519 or RSA) or its JWE",
	}
	// ErrPassword: the provisioner key does not decrypt.
	ErrPassword = &fault.Fault{
		Kind: fault.Internal, Code: "ca_password_wrong",
		Detail: "the password does not decrypt the provisioner key",
		Hint:   "set STEP_CA_PROVISIONER_PASSWORD to the password the provisioner was made with, without a line break",
	}
	// ErrAudience: the CA does not know itself by the name in STEP_CA_URL.
	ErrAudience = &fault.Fault{
		Kind: fault.Internal, Code: "ca_audience",
		Detail: "the certificate authority does not know itself by the host in STEP_CA_URL",
		Hint: "add the host of STEP_CA_URL to dnsNames in the CA's ca.json and restart it, or use a name it has; " +
			"a CA that was started seconds ago also refuses tokens of a clock that is behind its own: try again",
	}
	// ErrTokenUsed: the CA has seen this token. Ours are used once, so somebody else sent it.
	ErrTokenUsed = &fault.Fault{
		Kind: fault.Internal, Code: "ca_token_used",
		Detail: "the certificate authority has seen this token before",
		Hint:   "try again; if it stays, a proxy in front of the CA repeats requests: turn its retries off",
	}
	// ErrPolicy: the CA's policy, name constraints or template forbid the certificate.
	ErrPolicy = &fault.Fault{
		Kind: fault.Internal, Code: "ca_policy",
		Detail: "the certificate authority's policy or template forbids this certificate",
		Hint:   "read the CA's log; the provisioner must use deploy/step-ca/templates/mosaic-fed.tpl and its policy allow the federation host",
	}
	// ErrNoDatabase: the CA runs without a database and cannot revoke.
	ErrNoDatabase = &fault.Fault{
		Kind: fault.Internal, Code: "ca_no_database",
		Detail: "the certificate authority keeps no database and cannot revoke",
		Hint:   `start step-ca without --no-db and with a "db" in its ca.json`,
	}
	// ErrNoCRL: the CA publishes no revocation list.
	ErrNoCRL = &fault.Fault{
		Kind: fault.NotFound, Code: "ca_no_crl",
		Detail: "the certificate authority publishes no revocation list",
		Hint:   `set "crl": {"enabled": true, "generateOnRevoke": true} in the CA's ca.json`,
	}
	// ErrTrust: who answers at the CA's address is not the CA we pinned.
	ErrTrust = &fault.Fault{
		Kind: fault.Internal, Code: "ca_untrusted",
		Detail: "who answers at STEP_CA_URL does not prove to be the pinned certificate authority",
		Hint:   "compare STEP_CA_ROOT_CERT_PATH with the CA's root (step ca root) and the host in STEP_CA_URL with the CA's dnsNames",
	}
	// ErrAnswer: what answers at the CA's address is not a Step-CA.
	ErrAnswer = &fault.Fault{
		Kind: fault.Internal, Code: "ca_answer_unreadable",
		Detail: "what answers at STEP_CA_URL is not a Step-CA",
		Hint:   "check STEP_CA_URL, its path prefix included, and any proxy in front of the CA",
	}
)

// Unsigned marks the error of a signing call that certainly left no certificate behind: the CA was not asked, or said
// no to every attempt. Without the mark it may have signed something whose answer was lost, so an adapter that
// forgets to mark an error costs a revocation, and never leaves a certificate that nobody knows.
func Unsigned(err error) error { return &unsignedError{err} }

// MayHaveSigned tells whether there may be a certificate although IssueLeaf or IssueServer failed with err.
func MayHaveSigned(err error) bool {
	var no *unsignedError
	return err != nil && !errors.As(err, &no)
}

type unsignedError struct{ error }

func (e *unsignedError) Unwrap() error { return e.error }

// Refuse gives f its cause and makes it an ErrRefused as well.
func Refuse(f *fault.Fault, cause error) error { return f.Because(ErrRefused.Because(cause)) }
