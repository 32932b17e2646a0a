package querying

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/identity"
)

const (
	rootsPath   = apiBase + "roots"
	rootsEvery  = time.Hour
	rootsRetry  = 5 * time.Minute
	rootsWithin = 10 * time.Second
	maxRoots    = maxChain
	// A peer that has a new root signs under it: credentials are renewed within this time instead of at half of their
	// life, so that the old root can go soon.
	renewUnderNewRoot = time.Hour
)

// RootsStore keeps the roots that peers are believed by. Each method is one transaction.
type RootsStore interface {
	// DueRoots takes up to limit credentials whose peer is to be asked for its roots, and keeps them from other replicas
	// for a while.
	DueRoots(ctx context.Context, now time.Time, limit int, keep time.Duration) ([]Credential, error)
	// KeepRoots notes when a peer is asked again. With other roots it replaces those of the credential and of its peer,
	// and audits; when they are not what they were, it changes nothing.
	KeepRoots(ctx context.Context, k KeptRoots) error
}

// KeptRoots is what became of asking a peer for its roots.
type KeptRoots struct {
	Credential  Credential // with the roots that the peer was believed by
	Next        time.Time
	RootsPEM    string // empty: the same
	Fingerprint [sha256.Size]byte
	RenewBy     time.Time // zero: as it was
	Detail      string    // for the audit log
	Act         audit.Act
}

// learn asks those peers for their roots that have not been asked for a while.
func (r *Renewer) learn(ctx context.Context) error {
	for ctx.Err() == nil {
		due, err := r.Store.DueRoots(ctx, r.Now(), renewalsAtOnce, renewalLease)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		for _, c := range due {
			wg.Go(func() {
				if err := r.learnFrom(ctx, c); err != nil {
					r.Log.WarnContext(ctx, "roots of a peer not learned", "peer", c.Peer.Name, "credential_id", c.ID, "error", err)
				}
			})
		}
		wg.Wait()
		if len(due) < renewalsAtOnce {
			return nil
		}
	}
	return ctx.Err()
}

// LearnFrom asks a peer for its roots over one credential after the other, until it has answered.
func (r *Renewer) LearnFrom(ctx context.Context, held []Credential) error {
	ctx, cancel := context.WithTimeout(ctx, rootsWithin)
	defer cancel()
	err := error(ErrNotAvailable)
	for _, c := range held {
		if err = r.learnFrom(ctx, c); err == nil {
			break
		}
	}
	return err
}

// learnFrom believes what the peer says of its roots, because a root that was believed before has vouched for the
// connection. A new one is believed at once. One that the peer names no more is given up only when a new connection
// without it has worked: a mistake at the peer must not lock this gateway out.
func (r *Renewer) learnFrom(ctx context.Context, c Credential) error {
	k := KeptRoots{Credential: c, Next: r.Now().Add(rootsRetry), Act: audit.Act{RequestID: "roots", Actor: "upkeep", RemoteAddress: "local"}}
	err := r.compare(ctx, c, &k)
	forget(context.WithoutCancel(ctx), r.Cache, c, err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	if kept := r.Store.KeepRoots(ctx, k); kept != nil {
		return kept
	}
	if k.RootsPEM != "" {
		r.Log.InfoContext(ctx, "roots of a peer have changed", "peer", c.Peer.Name, "credential_id", c.ID, "roots", k.Detail)
		r.Client.Forget(c.ID)
	}
	return err
}

func (r *Renewer) compare(ctx context.Context, c Credential, k *KeptRoots) error {
	held, err := certificates(c.CARootPEM, "ca_root")
	if err != nil {
		return err
	}
	said, err := r.askRoots(ctx, c, c.target(r.Keys))
	if err != nil {
		return err
	}
	if said == nil { // a peer that does not know the question
		k.Next = r.Now().Add(rootsEvery)
		return nil
	}
	next := said
	var refused error
	if slices.ContainsFunc(held, func(h *x509.Certificate) bool { return !slices.ContainsFunc(said, h.Equal) }) {
		if refused = r.probe(ctx, c, said); refused != nil {
			if next, err = union(held, said); err != nil {
				return err
			}
		}
	}
	if refused == nil {
		k.Next = r.Now().Add(rootsEvery)
	}
	if sameRoots(held, next) {
		return refused
	}
	k.RootsPEM, k.Fingerprint, k.Detail = encode(next), identity.Fingerprint(next[0].Raw), describe(next)
	if slices.ContainsFunc(next, func(n *x509.Certificate) bool { return !slices.ContainsFunc(held, n.Equal) }) {
		if k.RenewBy, err = r.soon(); err != nil {
			return err
		}
	}
	return refused
}

// probe asks over a new connection that only the given roots vouch for.
func (r *Renewer) probe(ctx context.Context, c Credential, roots []*x509.Certificate) error {
	t := c.target(r.Keys)
	t.CredentialID, t.CARootPEM = uuid.New(), encode(roots)
	defer r.Client.Forget(t.CredentialID)
	_, err := r.askRoots(ctx, c, t)
	return err
}

// askRoots gives no roots and no error for a peer without such an answer.
func (r *Renewer) askRoots(ctx context.Context, c Credential, t Target) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, rootsWithin)
	defer cancel()
	answer, err := r.Client.Do(ctx, t, Call{Method: http.MethodGet, Path: rootsPath, Repeatable: true})
	switch {
	case err != nil:
		return nil, err
	case answer.Status == http.StatusNotFound && readProblem(answer).Code == ErrNotFound.Code:
		return nil, nil
	case answer.Status != http.StatusOK || answer.Problem:
		return nil, queryRefusal(answer, c.Peer.Name)
	}
	var doc struct {
		CARoots string `json:"ca_roots"`
	}
	if err := json.Unmarshal(answer.Body, &doc); err != nil {
		return nil, ErrAnswerInvalid.With("the roots that %s answered with are not the JSON document they should be", c.Peer.Name).Because(err)
	}
	return readRoots(doc.CARoots)
}

// soon is a moment within the next hour: the credentials of a CA that is rolled over are not all renewed at once.
func (r *Renewer) soon() (time.Time, error) {
	var b [2]byte
	if _, err := io.ReadFull(r.Random, b[:]); err != nil {
		return time.Time{}, fmt.Errorf("read randomness: %w", err)
	}
	return r.Now().Add(renewUnderNewRoot * time.Duration(binary.BigEndian.Uint16(b[:])) >> 16), nil
}

// readRoots reads what a peer says its roots are.
func readRoots(text string) ([]*x509.Certificate, error) {
	roots, err := certificates(text, "ca_roots")
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if !root.BasicConstraintsValid || !root.IsCA {
			return nil, ErrAnswerInvalid.With("ca_roots in the peer's answer holds a certificate that is not a CA's")
		}
	}
	return union(roots, nil)
}

// union is every root of both, each once. When they are more than can be kept, it is refused: dropping one would let a
// peer that names many push out the only one that its listener leads to, and nobody could ask it for its roots again.
func union(first, then []*x509.Certificate) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, c := range slices.Concat(first, then) {
		if !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	if len(out) > maxRoots {
		return nil, ErrAnswerInvalid.With("the roots that the peer names and those it is believed by are %d together; at most %d can be kept", len(out), maxRoots)
	}
	return out, nil
}

func sameRoots(a, b []*x509.Certificate) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(c *x509.Certificate) bool { return !slices.ContainsFunc(b, c.Equal) })
}

func describe(roots []*x509.Certificate) string {
	var text string
	for i, root := range roots {
		if i > 0 {
			text += " "
		}
		text += identity.FingerprintHex(root.Raw)
	}
	return text
}
