package enroll

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/ca"
	"github.com/mosaicstack/gateway/internal/grant"
	"github.com/mosaicstack/gateway/internal/identity"
)

// The times of a redemption.
const (
	Lease      = 30 * time.Second // how long a claim keeps others away
	signWithin = 12 * time.Second // what the CA gets; with two transactions the caller has an answer within 15 s
	defaultTTL = 24 * time.Hour
	minTTL     = time.Minute
	maxTTL     = 365 * 24 * time.Hour
	tokenBytes = 32
)

// NewToken makes an enrollment token: 256 bits, base64url. Only its hash is ever stored.
func NewToken(random io.Reader) (token string, hash [32]byte, err error) {
	var b [tokenBytes]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", hash, fmt.Errorf("read randomness: %w", err)
	}
	token = base64.RawURLEncoding.EncodeToString(b[:])
	return token, sha256.Sum256([]byte(token)), nil
}

// hashToken finds a token's hash. What cannot be a token is an unknown one.
func hashToken(token string) ([32]byte, error) {
	if b, err := base64.RawURLEncoding.DecodeString(token); err != nil || len(b) != tokenBytes {
		return [32]byte{}, ErrTokenUnknown
	}
	return sha256.Sum256([]byte(token)), nil
}

// Request is one redemption.
type Request struct {
	Token          string
	CSR            []byte // PEM
	TTL            *int64 // seconds; nil: 24 hours
	IdempotencyKey string // empty: none
	RequestID      string
	RemoteAddress  string // of the client, proxies resolved
}

// Issued is what a redemption answers with, and what is kept to give the same answer again.
type Issued struct {
	GrantID       uuid.UUID       `json:"grant_id"`
	PeerID        uuid.UUID       `json:"peer_id"`
	SubjectUserID uuid.UUID       `json:"subject_user_id"`
	Certificate   string          `json:"certificate"`
	Chain         string          `json:"certificate_chain"`
	CARoot        string          `json:"ca_root"`
	CARoots       string          `json:"ca_roots"` // every root in trust: two while the CA is rolled over
	SerialNumber  string          `json:"serial_number"`
	NotBefore     time.Time       `json:"not_before"`
	NotAfter      time.Time       `json:"not_after"`
	FederationURL string          `json:"federation_url"`
	Scope         json.RawMessage `json:"scope"`

	root [sha256.Size]byte // fingerprint of CARoot
}

// View is what the holder of a token may know of it before spending it.
type View struct {
	ExpiresAt time.Time
	Err       error // why it cannot be redeemed now, nil when it can
}

// ClaimRequest asks for the right to sign.
type ClaimRequest struct {
	TokenHash       [32]byte
	RequestHash     [32]byte // of the key and lifetime asked for
	IdempotencyHash []byte   // nil without a key
	Serial          *big.Int
	Lease           time.Duration
	RequestID       string
}

// Claim is the right to sign for one token, until the lease ends.
type Claim struct {
	TokenID    uuid.UUID
	Generation int64
	Serial     *big.Int
	Grant      grant.Grant
	Now        time.Time // of the store
	// FirstOfPeer says that the peer was pending: activation makes it active.
	FirstOfPeer bool
	Again       []byte // the answer of the first request, when this is the same one again
}

// Activation is everything the second transaction records.
type Activation struct {
	Claim           Claim
	RequestHash     [32]byte
	IdempotencyHash []byte
	Identity        identity.Identity
	Root            [sha256.Size]byte // fingerprint of the root that the certificate leads to
	Answer          []byte            // to give again; nil without a key, as nobody can ask for it
	Act             audit.Act
}

// Store keeps tokens and the certificate registry.
type Store interface {
	// View tells whether a token could be redeemed now; ErrTokenUnknown when there is none.
	View(ctx context.Context, tokenHash [32]byte) (View, error)
	// Claim takes the token for one lease and records the serial; single use is decided here.
	Claim(ctx context.Context, r ClaimRequest) (Claim, error)
	// Release gives a claimed token back. The serials that the CA may have signed are queued to be revoked there, but
	// for one that is in the registry or somebody else's to settle.
	Release(ctx context.Context, c Claim, signed ...*big.Int) error
	// Activate spends the token and records the certificate, or changes nothing but the orphan's record and
	// returns ErrGrantClosed, ErrPeerSuspended, ErrSubjectDisabled, ErrTokenUsed or ErrInProgress.
	Activate(ctx context.Context, a Activation) error
}

// Signer is what a redemption needs of the CA.
type Signer interface {
	IssueLeaf(ctx context.Context, r ca.LeafRequest) (ca.Chain, error)
	Roots(ctx context.Context) ([]*x509.Certificate, error)
	LifetimeLimits(ctx context.Context) (shortest, longest time.Duration, err error)
}

// Limiter answers zero when the event may happen now, else how long to wait.
type Limiter interface {
	Allow(ctx context.Context, key string) (wait time.Duration, err error)
}

// Config is what a Service needs.
type Config struct {
	Store         Store
	Renewals      RenewalStore // nil where nothing is renewed
	CA            Signer
	Profile       identity.Profile
	FederationURL string
	Guesses       Limiter // per client address: unknown and expired tokens
	Tries         Limiter // per token
	Random        io.Reader
	Log           *slog.Logger
	// Observe is told of every redemption: how long it took, and why it gave no certificate. Nil: nobody measures.
	Observe func(took time.Duration, err error)
	Step    func(name string) // nil but in tests: told of claimed, signed, verified, activated
}

// Service redeems enrollment tokens.
type Service struct{ Config }

// New returns a Service.
func New(c Config) *Service { return &Service{c} }

// Look tells the holder of a token what it is good for. It never spends it, and counts as a guess when there is
// no such token.
func (s *Service) Look(ctx context.Context, token, remoteAddress string) (View, error) {
	hash, err := hashToken(token)
	if err != nil {
		return View{}, s.guessed(ctx, remoteAddress, err)
	}
	v, err := s.Store.View(ctx, hash)
	if err == nil && errors.Is(v.Err, ErrTokenExpired) {
		err = v.Err
	}
	if errors.Is(err, ErrTokenUnknown) || errors.Is(err, ErrTokenExpired) {
		return View{}, s.guessed(ctx, remoteAddress, err)
	} else if err != nil {
		return View{}, err
	}
	return v, s.limited(ctx, s.Tries, triesKey(hash))
}

// guessed counts a miss against the address and turns it into ErrRateLimited when there were too many. Tries
// with a live token never come here, so a neighbour behind the same address cannot lock its holder out.
func (s *Service) guessed(ctx context.Context, address string, miss error) error {
	if err := s.limited(ctx, s.Guesses, address); err != nil {
		return err
	}
	return miss
}

func (s *Service) limited(ctx context.Context, l Limiter, key string) error {
	wait, err := l.Allow(ctx, key)
	if err != nil {
		return err
	}
	if wait > 0 {
		return ErrRateLimited.After(wait)
	}
	return nil
}

// Redeem exchanges a token and a certificate request for a certificate.
//
// Errors: ErrTokenUnknown, ErrTokenExpired, ErrTokenUsed, ErrInProgress, ErrGrantRevoked, ErrGrantExpired,
// ErrGrantClosed, ErrPeerSuspended, ErrSubjectDisabled, ErrApprovalMissing, ErrKeyInvalid, ErrKeyReused, ErrTTLInvalid, ErrRateLimited, ErrMisissued, csr_invalid,
// ca_unavailable. After every one of them but ErrTokenUsed and the ErrGrant ones the token is still good.
func (s *Service) Redeem(ctx context.Context, r Request) (Issued, error) {
	started := time.Now()
	issued, err := s.redeem(ctx, r)
	if s.Observe != nil {
		s.Observe(time.Since(started), err)
	}
	return issued, err
}

func (s *Service) redeem(ctx context.Context, r Request) (Issued, error) {
	hash, err := hashToken(r.Token)
	if err != nil {
		return Issued{}, s.guessed(ctx, r.RemoteAddress, err)
	}
	asked, err := parse(r)
	if err != nil {
		// Whoever has no token is told that, and nothing of their request.
		if _, unknown := s.Look(ctx, r.Token, r.RemoteAddress); unknown != nil {
			return Issued{}, unknown
		}
		return Issued{}, err
	}
	if err := s.limited(ctx, s.Tries, triesKey(hash)); err != nil {
		return Issued{}, err
	}
	serial, err := ca.NewSerial(s.Random)
	if err != nil {
		return Issued{}, err
	}

	// A client that hangs up must not leave a signed certificate behind that nobody recorded.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Lease)
	defer cancel()
	claim, err := s.Store.Claim(ctx, ClaimRequest{
		TokenHash: hash, RequestHash: asked.hash, IdempotencyHash: asked.idempotency,
		Serial: serial, Lease: Lease, RequestID: r.RequestID,
	})
	if errors.Is(err, ErrTokenUnknown) || errors.Is(err, ErrTokenExpired) {
		return Issued{}, s.guessed(ctx, r.RemoteAddress, err)
	} else if err != nil {
		return Issued{}, err
	}
	if claim.Again != nil {
		var again Issued
		return again, json.Unmarshal(claim.Again, &again)
	}
	s.step("claimed")
	issued, id, signed, err := s.sign(ctx, claim, asked.csr, asked.ttl)
	if err != nil {
		return Issued{}, s.giveBack(ctx, claim, signed, err)
	}
	s.step("verified")
	var answer []byte
	if asked.idempotency != nil {
		if answer, err = json.Marshal(issued); err != nil {
			return Issued{}, s.giveBack(ctx, claim, signed, err)
		}
	}
	err = s.Store.Activate(ctx, Activation{
		Claim: claim, RequestHash: asked.hash, IdempotencyHash: asked.idempotency, Identity: id, Root: issued.root, Answer: answer,
		Act: audit.Act{RequestID: r.RequestID, Actor: "enrollment", RemoteAddress: r.RemoteAddress},
	})
	if err != nil {
		return Issued{}, err
	}
	s.step("activated")
	return issued, nil
}

// asked is a request that has been read.
type asked struct {
	csr         *x509.CertificateRequest
	ttl         time.Duration
	idempotency []byte   // hash of the key; nil without one
	hash        [32]byte // of the CSR and the lifetime
}

func parse(r Request) (asked, error) {
	var a asked
	var err error
	if a.ttl, err = lifetime(r.TTL); err != nil {
		return a, err
	}
	if a.idempotency, err = hashKey(r.IdempotencyKey); err != nil {
		return a, err
	}
	if a.csr, err = identity.ParseCSRPEM(r.CSR); err != nil {
		return a, err
	}
	a.hash = hashRequest(a.csr, a.ttl)
	return a, nil
}

// triesKey is a token's own bucket, which says nothing of the token.
func triesKey(hash [32]byte) string { return fmt.Sprintf("enroll:%x", hash[:16]) }

// step tells a test where a redemption is, so that it can end the process there.
func (s *Service) step(name string) {
	if s.Step != nil {
		s.Step(name)
	}
}

// giveBack releases a claim whose certificate was not recorded. Serials that the CA may have signed are orphaned.
func (s *Service) giveBack(ctx context.Context, c Claim, signed []*big.Int, cause error) error {
	if err := s.Store.Release(ctx, c, signed...); err != nil {
		// The lease ends by itself, and the sweep finds the attempt.
		s.Log.Warn("enrollment claim not released", "token_id", c.TokenID, "error", err)
	}
	return cause
}

func lifetime(seconds *int64) (time.Duration, error) {
	if seconds == nil {
		return defaultTTL, nil
	}
	if *seconds < int64(minTTL/time.Second) || *seconds > int64(maxTTL/time.Second) {
		return 0, ErrTTLInvalid
	}
	return time.Duration(*seconds) * time.Second, nil
}

// hashKey hashes an Idempotency-Key; a dump of the database shows no key to replay.
func hashKey(key string) ([]byte, error) {
	if key == "" {
		return nil, nil
	}
	if len(key) > 255 {
		return nil, ErrKeyInvalid
	}
	for _, c := range []byte(key) {
		if c < 0x21 || c > 0x7e {
			return nil, ErrKeyInvalid
		}
	}
	sum := sha256.Sum256([]byte(key))
	return sum[:], nil
}

func hashRequest(csr *x509.CertificateRequest, ttl time.Duration) [32]byte {
	h := sha256.New()
	h.Write(csr.Raw)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(ttl)))
	return [32]byte(h.Sum(nil))
}
