package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/mod/sumdb/note"

	"github.com/mosaicstack/gateway/internal/fault"
)

// ErrLogDamaged is the refusal to sign a log that does not continue what was signed before.
var ErrLogDamaged = &fault.Fault{
	Kind: fault.Internal, Code: "audit_log_damaged", Detail: "the audit log is not the continuation of what this gateway has signed",
	Hint: "somebody has changed the audit tables; what is gone is named by: mosaic federation audit verify --key KEY --checkpoint FILE, with both kept elsewhere",
}

// Where the signing key is sealed.
const (
	keyTable  = "federation_audit_keys"
	keyColumn = "private_key_sealed"
)

// Rows that are sequenced in one transaction, and how often a replica looks for them.
const (
	sequenceBatch = 512
	sequenceEvery = time.Second
)

// StoredKey is the signing key at rest.
type StoredKey struct {
	ID       uuid.UUID
	Verifier string // the public half, as note.NewVerifier takes it
	Sealed   []byte // the private half
}

// Ledger stores the logs and what is signed of them.
type Ledger interface {
	// Sequence takes up to limit committed rows that are in no log, makes of them the batch that next says, and stores
	// it, in one transaction. It says how many rows there were. Rows that another replica has taken are passed over.
	Sequence(ctx context.Context, limit int, next func([]Event) *Batch) (int, error)
	// Heads are the sizes and roots of all logs, by id, in one snapshot.
	Heads(ctx context.Context) ([]Head, error)
	// Key gives the signing key of the cluster; a zero key when there is none.
	Key(ctx context.Context) (StoredKey, error)
	// KeepKey stores k, unless another replica was first, and gives the key that is stored.
	KeepKey(ctx context.Context, k StoredKey) (StoredKey, error)
	// LastCheckpoint gives the newest signed note; empty when there is none.
	LastCheckpoint(ctx context.Context) (string, error)
	KeepCheckpoint(ctx context.Context, size int64, signed string) error
}

// Ring seals and opens.
type Ring interface {
	Seal(plaintext []byte, table, column, rowID string) ([]byte, error)
	Open(sealed []byte, table, column, rowID string) ([]byte, error)
}

// NotaryConfig is what a Notary needs.
type NotaryConfig struct {
	Ledger Ledger
	Ring   Ring
	Random io.Reader
	Now    func() time.Time
	Log    *slog.Logger
}

// Notary brings rows that ride in administrative transactions into a log, and signs how far all logs have come.
type Notary struct {
	NotaryConfig

	sequencing sync.Mutex // one batch of this replica's own log at a time
	to         *Log

	damaged atomic.Bool // the last checkpoint was refused

	keys     sync.Mutex
	signer   note.Signer
	verifier note.Verifier
	public   string
}

// NewNotary returns a Notary.
func NewNotary(c NotaryConfig) *Notary { return &Notary{NotaryConfig: c, to: NewLog()} }

// Run sequences every second until ctx ends.
func (n *Notary) Run(ctx context.Context) error {
	tick := time.NewTicker(sequenceEvery)
	defer tick.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_, err := n.Sequence(ctx)
			if err != nil && !failing && ctx.Err() == nil {
				n.Log.Warn("audit rows not sequenced", "error", err)
			}
			failing = err != nil
		}
	}
}

// Sequence brings every committed row that is in no log into one, and says how many there were.
func (n *Notary) Sequence(ctx context.Context) (int64, error) {
	n.sequencing.Lock()
	defer n.sequencing.Unlock()
	var total int64
	for {
		var b *Batch
		rows, err := n.Ledger.Sequence(ctx, sequenceBatch, func(events []Event) *Batch {
			b = n.to.Next(events)
			return b
		})
		if err != nil {
			n.to = NewLog() // it may have grown: nobody guesses how far
			return total, err
		}
		if rows > 0 {
			n.to.Stored(b)
		}
		if total += int64(rows); rows < sequenceBatch {
			return total, nil
		}
	}
}

// Checkpoint signs how far all logs have come, after bringing every row into one. When nothing has changed it gives the
// newest checkpoint again. ErrLogDamaged means that what there is does not continue what was signed.
func (n *Notary) Checkpoint(ctx context.Context) (string, error) {
	signed, err := n.checkpoint(ctx)
	if err == nil || errors.Is(err, ErrLogDamaged) {
		n.damaged.Store(err != nil)
	}
	return signed, err
}

// Evidence is Checkpoint for an export: of a log that is damaged it gives the last checkpoint that was signed, so that
// whoever verifies the export learns what is gone.
func (n *Notary) Evidence(ctx context.Context) (string, error) {
	signed, err := n.Checkpoint(ctx)
	if !errors.Is(err, ErrLogDamaged) {
		return signed, err
	}
	_, verifier, keyErr := n.key(ctx)
	if keyErr != nil {
		return "", keyErr
	}
	last, lastErr := n.Ledger.LastCheckpoint(ctx)
	if lastErr != nil {
		return "", lastErr
	}
	if _, unreadable := OpenCheckpoint(last, verifier); unreadable != nil {
		return "", err // there is nothing that an export could be held against
	}
	return last, nil
}

// Ready is the health of the log: whether this replica, when it last tried, could sign it.
func (n *Notary) Ready(context.Context) error {
	if n.damaged.Load() {
		return ErrLogDamaged
	}
	return nil
}

func (n *Notary) checkpoint(ctx context.Context) (string, error) {
	if _, err := n.Sequence(ctx); err != nil {
		return "", err
	}
	signer, verifier, err := n.key(ctx)
	if err != nil {
		return "", err
	}
	// In this order: what is read later can only be further.
	last, err := n.Ledger.LastCheckpoint(ctx)
	if err != nil {
		return "", err
	}
	c := Checkpoint{Origin: signer.Name(), Time: n.Now()}
	if c.Heads, err = n.Ledger.Heads(ctx); err != nil {
		return "", err
	}
	if last != "" {
		was, err := OpenCheckpoint(last, verifier)
		if err != nil {
			return "", ErrLogDamaged.Because(err)
		}
		if err := c.follows(was); err != nil {
			return "", ErrLogDamaged.Because(err)
		}
		if slices.Equal(was.Heads, c.Heads) {
			return last, nil
		}
	}
	signed, err := c.Sign(signer)
	if err != nil {
		return "", err
	}
	return signed, n.Ledger.KeepCheckpoint(ctx, c.Size(), signed)
}

// Keep is Checkpoint for whoever does not need the note.
func (n *Notary) Keep(ctx context.Context) error {
	_, err := n.Checkpoint(ctx)
	return err
}

// Verifier is the public key, as note.NewVerifier takes it.
func (n *Notary) Verifier(ctx context.Context) (string, error) {
	_, _, err := n.key(ctx)
	return n.public, err
}

// key finds the cluster's signing key, or makes it.
func (n *Notary) key(ctx context.Context) (note.Signer, note.Verifier, error) {
	n.keys.Lock()
	defer n.keys.Unlock()
	if n.signer != nil {
		return n.signer, n.verifier, nil
	}
	k, err := n.Ledger.Key(ctx)
	if err != nil {
		return nil, nil, err
	}
	if k.ID == uuid.Nil {
		if k, err = n.newKey(ctx); err != nil {
			return nil, nil, err
		}
	}
	signer, verifier, err := openKey(k, n.Ring)
	if err != nil {
		return nil, nil, err
	}
	n.signer, n.verifier, n.public = signer, verifier, k.Verifier
	return signer, verifier, nil
}

// openKey gives both halves of the stored key, once it is known that they belong together.
func openKey(k StoredKey, ring Ring) (note.Signer, note.Verifier, error) {
	private, err := ring.Open(k.Sealed, keyTable, keyColumn, k.ID.String())
	if err != nil {
		return nil, nil, fmt.Errorf("open audit key: %w", err)
	}
	signer, err := note.NewSigner(string(private))
	clear(private)
	if err != nil {
		return nil, nil, errors.New("the stored audit key is no signing key") // the cause would repeat it
	}
	verifier, err := note.NewVerifier(k.Verifier)
	if err != nil {
		return nil, nil, fmt.Errorf("read audit key: %w", err)
	}
	if verifier.Name() != signer.Name() || verifier.KeyHash() != signer.KeyHash() {
		return nil, nil, errors.New("the stored audit key and its public half do not belong together")
	}
	return signer, verifier, nil
}

func (n *Notary) newKey(ctx context.Context) (k StoredKey, err error) {
	k.ID = uuid.New()
	private, public, err := note.GenerateKey(n.Random, "mosaic-audit/"+k.ID.String())
	if err != nil {
		return k, fmt.Errorf("make audit key: %w", err)
	}
	k.Verifier = public
	if k.Sealed, err = n.Ring.Seal([]byte(private), keyTable, keyColumn, k.ID.String()); err != nil {
		return k, err
	}
	return n.Ledger.KeepKey(ctx, k)
}
