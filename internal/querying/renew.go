package querying

import (
	"context"
	"crypto"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/identity"
)

// RenewalTask is the name of the task that renews credentials, RenewalEvery how often it is due in the whole cluster:
// often enough for a certificate that lives for a minute.
const (
	RenewalTask  = "renew-credentials"
	RenewalEvery = 5 * time.Second
)

const (
	renewPath      = apiBase + "certificate/renew"
	renewWithin    = 20 * time.Second // the peer's CA may take its 15 s
	renewalsAtOnce = 8
	renewalLease   = 30 * time.Second // other replicas leave a credential alone for so long
	firstRetry     = 10 * time.Second
	longestRetry   = time.Hour
	maxBackdate    = time.Minute

	nextKeyColumn = "renewal_key_pem"
)

// Due is a credential whose renewal is due.
type Due struct {
	Credential
	RemoteSubjectUserID uuid.UUID
	SealedNext          []byte // the next key, sealed; nil when there is none yet
	NextCSR             string // PEM
	Attempts            int    // that failed
}

// Renewed is what a renewal gave.
type Renewed struct {
	Due       Due
	SealedKey []byte // the new certificate's, sealed as a credential's key
	Certified Certified
	Act       audit.Act
}

// Failure is a try that came to nothing.
type Failure struct {
	ID     uuid.UUID
	Serial string // of the certificate in use
	Reason string
	Next   time.Time // of the next try
	Anew   bool      // with another key: this one will never get a certificate
}

// RenewalStore keeps credentials while they are renewed. Each method is one transaction.
type RenewalStore interface {
	RootsStore
	// DueRenewals takes up to limit credentials that are due, and keeps them from other replicas for a while.
	DueRenewals(ctx context.Context, now time.Time, limit int, keep time.Duration) ([]Due, error)
	// BeginRenewal stores the next key and its request, or gives those that another try has stored. ErrInterrupted
	// when the credential is not as it was.
	BeginRenewal(ctx context.Context, id uuid.UUID, serial string, sealedKey []byte, csr string) (sealed []byte, stored string, err error)
	// CompleteRenewal puts the new certificate and key in the place of the old ones, takes the peer's roots over, and
	// audits. ErrInterrupted when the credential is not as it was.
	CompleteRenewal(ctx context.Context, r Renewed) error
	// FailRenewal records a failed try.
	FailRenewal(ctx context.Context, f Failure) error
	// Overdue tells whether a credential has been tried to renew in vain for half of the time it had left.
	Overdue(ctx context.Context, now time.Time) (bool, error)
}

// RenewerConfig is what a Renewer needs.
type RenewerConfig struct {
	Store RenewalStore
	// Client asks the peers. It has no circuit and no patience: a CA that is away must not keep the peer from being
	// asked for rows, and a renewal has a schedule of its own.
	Client Client
	Keys   Keys
	Random io.Reader
	Now    func() time.Time
	Log    *slog.Logger
	// Observe is told how every try ended. Nil: nobody measures.
	Observe func(err error)
	// Cache forgets what is kept of a grant whose peer refuses. Nil: nothing is kept.
	Cache Cache
}

// Renewer renews credentials with the certificate they have, long before it ends.
type Renewer struct{ RenewerConfig }

// NewRenewer returns a Renewer.
func NewRenewer(c RenewerConfig) *Renewer { return &Renewer{c} }

// ErrOverdue says that renewals fail. It names no peer: health is shown to anybody.
var ErrOverdue = errors.New("a credential is not renewed, and half of the time that was left is gone")

// Check is the health of the credentials.
func (r *Renewer) Check(ctx context.Context) error {
	overdue, err := r.Store.Overdue(ctx, r.Now())
	if err == nil && overdue {
		err = ErrOverdue
	}
	return err
}

// Run renews what is due, and asks peers for their roots. It may run on several replicas at once, and be killed
// anywhere.
func (r *Renewer) Run(ctx context.Context) error {
	renewed := r.renewAll(ctx)
	return errors.Join(renewed, r.learn(ctx)) // after it: a row that one has locked the other would pass over
}

func (r *Renewer) renewAll(ctx context.Context) error {
	for ctx.Err() == nil {
		due, err := r.Store.DueRenewals(ctx, r.Now(), renewalsAtOnce, renewalLease)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		for _, d := range due {
			wg.Go(func() { r.renew(ctx, d) })
		}
		wg.Wait()
		if len(due) < renewalsAtOnce {
			return nil
		}
	}
	return ctx.Err()
}

// keyRefused marks an error after which the same key would fail again.
type keyRefused struct{ error }

func (k keyRefused) Unwrap() error { return k.error }

func (r *Renewer) renew(ctx context.Context, d Due) {
	answer, err := r.try(ctx, d)
	if r.Observe != nil {
		r.Observe(err)
	}
	if err == nil {
		r.Log.InfoContext(ctx, "credential renewed", "peer", d.Peer.Name, "credential_id", d.ID, "not_after", answer.NotAfter)
		return
	}
	forget(context.WithoutCancel(ctx), r.Cache, d.Credential, err)
	now := r.Now()
	f := Failure{ID: d.ID, Serial: d.Serial, Reason: fault.From(err).Detail, Next: now.Add(r.retryIn(d, now, fault.From(err).RetryAfter))}
	var refused keyRefused
	f.Anew = errors.As(err, &refused)
	r.Log.WarnContext(ctx, "credential not renewed", "peer", d.Peer.Name, "credential_id", d.ID, "attempts", d.Attempts+1,
		"not_after", d.NotAfter, "next", f.Next, "error", err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	if err := r.Store.FailRenewal(ctx, f); err != nil {
		r.Log.WarnContext(ctx, "failed renewal not noted", "credential_id", d.ID, "error", err) // due again when its lease ends
	}
}

// retryIn doubles from 10 s to an hour, and leaves room for at least twenty tries in what is left: a peer that asks for
// more patience than that cannot know how little there is.
func (r *Renewer) retryIn(d Due, now time.Time, asked time.Duration) time.Duration {
	wait := min(firstRetry<<min(d.Attempts, 10), longestRetry)
	return max(min(max(wait, asked), d.NotAfter.Sub(now)/20), time.Second)
}

func (r *Renewer) try(ctx context.Context, d Due) (Certified, error) {
	if d.SealedNext == nil {
		if err := r.begin(ctx, &d); err != nil {
			return Certified{}, err
		}
	}
	keyPEM, err := r.Keys.Open(d.SealedNext, keyTable, nextKeyColumn, d.ID.String())
	if err != nil {
		return Certified{}, keyRefused{err}
	}
	defer clear(keyPEM)
	public, err := publicKey(keyPEM)
	if err != nil {
		return Certified{}, keyRefused{err}
	}
	body, err := json.Marshal(map[string]string{"csr": d.NextCSR})
	if err != nil {
		return Certified{}, fmt.Errorf("encode renewal: %w", err)
	}
	asking, cancel := context.WithTimeout(ctx, renewWithin)
	defer cancel()
	answer, err := r.Client.Do(asking, d.target(r.Keys), Call{Method: http.MethodPost, Path: renewPath, Body: body, Repeatable: true})
	if err != nil {
		return Certified{}, err
	}
	if answer.Status != http.StatusOK || answer.Problem {
		err := queryRefusal(answer, d.Peer.Name)
		if readProblem(answer).Code == identity.ErrCSR.Code {
			err = keyRefused{err}
		}
		return Certified{}, err
	}
	// The peer has answered: what it gave is stored, though the task's time may be over.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	certified, err := d.verify(answer.Body, public, r.Now())
	if err != nil {
		return Certified{}, keyRefused{err}
	}
	if certified.RenewAfter, err = renewAfter(certified, r.Now(), r.Random); err != nil {
		return Certified{}, err
	}
	sealed, err := r.Keys.Seal(keyPEM, keyTable, keyColumn, d.ID.String())
	if err != nil {
		return Certified{}, err
	}
	err = r.Store.CompleteRenewal(ctx, Renewed{Due: d, SealedKey: sealed, Certified: certified, Act: audit.Act{RequestID: "renewal", Actor: "upkeep", RemoteAddress: "local"}})
	if err == nil {
		r.Client.Forget(d.ID) // idle connections of the old certificate; what is under way finishes
	}
	return certified, err
}

// begin makes the next key, and stores it before anything is sent.
func (r *Renewer) begin(ctx context.Context, d *Due) error {
	keyPEM, csr, err := newKey(r.Random)
	if err != nil {
		return err
	}
	defer clear(keyPEM)
	sealed, err := r.Keys.Seal(keyPEM, keyTable, nextKeyColumn, d.ID.String())
	if err != nil {
		return err
	}
	d.SealedNext, d.NextCSR, err = r.Store.BeginRenewal(ctx, d.ID, d.Serial, sealed, csr)
	return err
}

// verify believes no more of the answer than of an enrollment's: it must lead to a root of the peer, be for the new
// key, and speak for the same grant and user at the same address. A root is the peer's when it is pinned; or when the
// peer names it here, because the answer came over a connection that a pinned root has vouched for. None is dropped here.
func (d Due) verify(body []byte, key crypto.PublicKey, now time.Time) (Certified, error) {
	pinned, err := certificates(d.CARootPEM, "ca_root")
	if err != nil {
		return Certified{}, err
	}
	a, err := readIssued(body)
	if err != nil {
		return Certified{}, err
	}
	trusted, err := union(a.roots, pinned)
	if err != nil {
		return Certified{}, err
	}
	if !slices.ContainsFunc(trusted, a.root.Equal) {
		return Certified{}, ErrCertificateMismatch.With("the peer renewed under another CA than the one that is pinned")
	}
	c, err := a.certify(a.root, trusted, key, now)
	switch {
	case err != nil:
		return c, err
	case c.GrantID != d.RemoteGrantID || c.SubjectUserID != d.RemoteSubjectUserID:
		return c, ErrCertificateMismatch.With("the peer renewed for another grant or user")
	case c.FederationURL != d.FederationURL:
		return c, ErrCertificateMismatch.With("the peer renewed for another address")
	case c.Serial == d.Serial:
		return c, ErrCertificateMismatch.With("the peer renewed with the serial number of the certificate in use")
	}
	return c, nil
}

// renewAfter is when a certificate that was received now is renewed: at half of its life, give or take 5 %, so that
// what was enrolled together is not renewed together. A CA may date a certificate back: that life is not counted.
func renewAfter(c Certified, now time.Time, random io.Reader) (time.Time, error) {
	var b [2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return time.Time{}, fmt.Errorf("read randomness: %w", err)
	}
	begin := c.NotBefore
	if backdated := now.Sub(begin); backdated > 0 {
		begin = begin.Add(min(backdated, maxBackdate))
	}
	life := c.NotAfter.Sub(begin)
	part := 0.45 + 0.1*float64(binary.BigEndian.Uint16(b[:]))/(1<<16)
	return begin.Add(time.Duration(part * float64(life))), nil
}
