package querying

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/peer"
)

const (
	askedLife  = 30 * 24 * time.Hour // of a certificate; the peer may give less
	storeLimit = 10 * time.Second    // for what must be stored although the caller has gone
)

// Draft is what is stored before a token is sent anywhere.
type Draft struct {
	ID             uuid.UUID
	PeerName       string
	CAFingerprint  [32]byte
	ReplaceCA      bool   // of AddRequest
	User           string // id or email; empty for none
	EnrollmentHash [32]byte
	SealedKey      []byte // sealed for ID
	CSR            string // PEM
	IdempotencyKey string
	Act            audit.Act
}

// Pending is a redemption on its way: the stored draft, or the one of an earlier try.
type Pending struct {
	ID             uuid.UUID
	PeerID         uuid.UUID
	UserID         uuid.UUID // zero for none
	SealedKey      []byte
	CSR            string
	IdempotencyKey string
}

// Activation is everything the second transaction records.
type Activation struct {
	Pending   Pending
	Certified Certified
	ReplaceCA bool // of AddRequest
	Act       audit.Act
}

// Added is what AddPeer made.
type Added struct {
	Peer       peer.Peer
	Credential Held
	Retired    []uuid.UUID // credentials of the same grant that the new one replaces
	Retrusted  []uuid.UUID // other credentials of the peer, which believe it by another root now
}

// Held is a credential as it may be shown: without its key.
type Held struct {
	ID                  uuid.UUID
	State               string // pending, active or retired
	RemoteGrantID       uuid.UUID
	RemoteSubjectUserID uuid.UUID
	FederationURL       string
	Serial              string
	NotBefore           *time.Time
	NotAfter            *time.Time
	RenewAfter          *time.Time
	RenewalError        string
	CreatedAt           time.Time
	Users               []User // who may ask with it, directly
	Teams               []Team // whose members may ask with it
}

// Team is a local team that a credential is shared with.
type Team struct {
	ID   uuid.UUID
	Name string
}

// User is a local user of a credential.
type User struct {
	ID    uuid.UUID
	Email string
}

// Store keeps credentials while they are being made. Each method is one transaction.
type Store interface {
	// Begin checks that user and peer are fit, makes the peer when its name is new, and stores the draft. When
	// an earlier try with the same token is pending, its key, CSR and idempotency key are given back instead.
	// With ErrCAMismatch it tells which peer. Errors: ErrCAMismatch, ErrTokenUsed, peer.ErrRevoked, user_not_found.
	Begin(ctx context.Context, d Draft) (Pending, error)
	// Activate records the certificate, retires what it replaces, makes peer and credential active, and audits.
	// The same certificate again changes nothing. Errors: those of Begin, and ErrInterrupted.
	Activate(ctx context.Context, a Activation) (Added, error)
	// Discard deletes a pending credential that was refused for good, and its peer when nothing else is
	// known of it. The reason is a fault code for the audit log.
	Discard(ctx context.Context, id uuid.UUID, reason string, status int, act audit.Act) error
}

// AdderConfig is what an Adder needs.
type AdderConfig struct {
	Store    Store
	Enroller Enroller
	Client   Client // told to forget what was replaced
	Keys     Keys
	Random   io.Reader
	Now      func() time.Time
	// Learn asks a peer for its roots over what is held at it. Nil: nobody asks.
	Learn func(ctx context.Context, peerID uuid.UUID) error
}

// Adder redeems enrollment URLs.
type Adder struct{ AdderConfig }

// NewAdder returns an Adder.
func NewAdder(c AdderConfig) *Adder { return &Adder{c} }

// AddRequest is one enrollment URL to redeem.
type AddRequest struct {
	EnrollmentURL string
	Name          string // of the peer here; empty: one made of the URL's host
	User          string // id or email of the local user who may ask with it; empty: the operator alone
	// ReplaceCA lets the URL's root take the place of those that the peer is known with: it has rolled its root over, and
	// nothing that is held at it can tell. Only a person who has compared the fingerprint can say so.
	ReplaceCA bool
	Act       audit.Act
}

// AddPeer redeems an enrollment URL and stores the credential it gives.
//
// After every error but a final refusal by the peer the same call can be made again, and continues where this one
// stopped. Errors: ErrURLInvalid, ErrCAMissing, peer_name_invalid, peer_name_reserved, the errors of Store and
// Enroller, ErrCAUnproven, ErrCertificateMismatch, ErrAnswerInvalid, and what the peer refuses with.
func (s *Adder) AddPeer(ctx context.Context, r AddRequest) (Added, error) {
	from, err := ParseEnrollmentURL(r.EnrollmentURL)
	if err != nil {
		return Added{}, err
	}
	name, err := from.name(r.Name)
	if err != nil {
		return Added{}, err
	}
	draft, err := s.draft(from, name, r)
	if err != nil {
		return Added{}, err
	}
	pending, err := s.begin(ctx, draft)
	if err != nil {
		return Added{}, err
	}
	keyPEM, err := s.Keys.Open(pending.SealedKey, keyTable, keyColumn, pending.ID.String())
	if err != nil {
		return Added{}, err
	}
	defer clear(keyPEM)
	public, err := publicKey(keyPEM)
	if err != nil {
		return Added{}, err
	}
	answer, err := s.Enroller.Enroll(ctx, EnrollRequest{
		Endpoint: from.endpoint, Token: from.token, CSR: pending.CSR, TTL: askedLife,
		IdempotencyKey: pending.IdempotencyKey, RequestID: r.Act.RequestID,
	})
	if err != nil {
		return Added{}, err
	}
	// The peer has answered: what it said is acted on, whether or not our caller still waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	if answer.Status != 201 || answer.Problem {
		return Added{}, s.refused(ctx, pending, answer, from.Host, r.Act)
	}
	certified, err := verify(answer.Body, from.caFingerprint, public, s.Now())
	if err != nil {
		return Added{}, err
	}
	if certified.RenewAfter, err = renewAfter(certified, s.Now(), s.Random); err != nil {
		return Added{}, err
	}
	added, err := s.Store.Activate(ctx, Activation{Pending: pending, Certified: certified, ReplaceCA: r.ReplaceCA, Act: r.Act})
	for _, id := range slices.Concat(added.Retired, added.Retrusted) {
		s.Client.Forget(id)
	}
	return added, err
}

// begin asks a peer whose CA seems to be another for its roots, once: the one that is believed can vouch for a new one.
func (s *Adder) begin(ctx context.Context, d Draft) (Pending, error) {
	pending, err := s.Store.Begin(ctx, d)
	if !errors.Is(err, ErrCAMismatch) || s.Learn == nil {
		return pending, err
	}
	if s.Learn(ctx, pending.PeerID) != nil {
		return Pending{}, err // what the caller can do about it is the same
	}
	return s.Store.Begin(ctx, d)
}

func (s *Adder) draft(from EnrollmentURL, name string, r AddRequest) (Draft, error) {
	id, err := uuid.NewRandomFromReader(s.Random)
	if err != nil {
		return Draft{}, fmt.Errorf("read randomness: %w", err)
	}
	var idempotency [16]byte
	if _, err := io.ReadFull(s.Random, idempotency[:]); err != nil {
		return Draft{}, fmt.Errorf("read randomness: %w", err)
	}
	keyPEM, csr, err := newKey(s.Random)
	if err != nil {
		return Draft{}, err
	}
	defer clear(keyPEM)
	sealed, err := s.Keys.Seal(keyPEM, keyTable, keyColumn, id.String())
	if err != nil {
		return Draft{}, err
	}
	return Draft{
		ID: id, PeerName: name, CAFingerprint: from.caFingerprint, ReplaceCA: r.ReplaceCA, User: r.User, EnrollmentHash: from.hash(),
		SealedKey: sealed, CSR: csr, IdempotencyKey: base64.RawURLEncoding.EncodeToString(idempotency[:]), Act: r.Act,
	}, nil
}

// refused turns a peer's refusal into ours. The draft goes only when the refusal is the peer's last word: a
// proxy's error page in between must not cost the key of a certificate that may have been signed.
func (s *Adder) refused(ctx context.Context, p Pending, a Answer, host string, act audit.Act) error {
	f, final := enrollmentRefusal(a, host)
	if !final {
		return f
	}
	if err := s.Store.Discard(ctx, p.ID, f.Code, f.Kind.Status(), act); err != nil {
		return errors.Join(f, err)
	}
	return f
}
