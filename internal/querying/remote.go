package querying

import (
	"context"
	"net/url"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/seal"
)

// EnrollRequest is one redemption at another gateway.
type EnrollRequest struct {
	Endpoint       string // URL of the enrollment endpoint, without the token
	Token          seal.Secret
	CSR            string // PEM
	TTL            time.Duration
	IdempotencyKey string
	RequestID      string
}

// Answer is what a peer answered: bounded, of a JSON media type, and otherwise not looked at yet.
type Answer struct {
	Status     int
	Problem    bool // application/problem+json (RFC 9457)
	RetryAfter time.Duration
	Body       []byte
	ETag       string        // of an answer that may be kept
	Life       time.Duration // how long the peer lets it be shown while the peer itself cannot be asked
}

// Enroller redeems tokens at other gateways. Its errors are ErrUnreachable, ErrTimeout, ErrAnswerInvalid,
// ErrUntrusted and ErrAddressRefused; a refusal by the peer is an Answer.
type Enroller interface {
	Enroll(ctx context.Context, r EnrollRequest) (Answer, error)
}

// Target is whom to ask, and what to prove who is asking with.
type Target struct {
	Peer         string // its name here, for what is measured
	CredentialID uuid.UUID
	Serial       string // of the certificate; a credential with another serial is another connection
	URL          string // of the peer's federation listener
	ChainPEM     string // the client certificate, leaf first
	CARootPEM    string // the roots that vouch for the peer's own certificate; with others it is another connection
	// Key gives the private key, PKCS #8 in PEM. It is called when a connection pool is made, not per request.
	Key func() ([]byte, error)
}

// Call is one request to a peer.
type Call struct {
	Method      string
	Path        string // below the target's URL, escaped
	Query       url.Values
	Body        []byte // JSON; nil sends none
	Repeatable  bool   // asking twice is like asking once (RFC 9110, section 9.2.2)
	RequestID   string
	Traceparent string // W3C trace context; empty for none
	IfNoneMatch string // the tag of the answer that is held (RFC 9110, section 13.1.2); only such a call may be answered 304
}

// Client asks peers. Its errors are those of Enroller, ErrDenied for a peer that refuses the certificate in the
// handshake, and ErrQuestionTooLong for what was not sent.
type Client interface {
	Do(ctx context.Context, t Target, c Call) (Answer, error)
	// Forget closes the idle connections of a credential that is not used any more.
	Forget(credentialID uuid.UUID)
}

// Keys seals private keys for the row they are stored in; seal.Keyring does.
type Keys interface {
	Seal(plaintext []byte, table, column, rowID string) ([]byte, error)
	Open(sealed []byte, table, column, rowID string) ([]byte, error)
}

// The place a credential's private key is sealed for.
const (
	keyTable  = "federation_credentials"
	keyColumn = "client_key_pem"
)
