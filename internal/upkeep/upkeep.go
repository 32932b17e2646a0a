// Package upkeep is the work nobody asks for: telling the CA what was revoked, finding certificates that were
// signed and never recorded, writing down that grants have expired.
//
// Nothing here decides who is let in. That is decided by the registry, at every request; upkeep makes the CA's
// list and the stored states follow. Every task may run twice, on two replicas at once, or be killed anywhere.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"time"

	"github.com/mosaicstack/gateway/internal/ca"
)

// batch bounds what one run of a task takes on, so that a run is short and its successor soon.
const batch = 100

// How long a serial is left alone while one replica tells the CA, and after the CA did not take it.
const (
	claimFor   = time.Minute
	maxBackOff = time.Hour
)

// Revocation is a serial the CA has to be told of.
type Revocation struct {
	Serial   *big.Int
	Reason   string
	Attempts int // before this one
}

// Store keeps the queue of revocations, the record of signing attempts and the grants.
type Store interface {
	// TakeRevocations gives due revocations and keeps them from other replicas for a while.
	TakeRevocations(ctx context.Context, limit int, keep time.Duration) ([]Revocation, error)
	// SettleRevocation records that the CA knows, or when it is to be tried again.
	SettleRevocation(ctx context.Context, serial *big.Int, done bool, retryIn time.Duration) error
	// SweepAttempts queues the serials of signing attempts whose lease ended without a certificate being recorded.
	SweepAttempts(ctx context.Context) (int64, error)
	// ExpireGrants writes down that grants past their end have expired.
	ExpireGrants(ctx context.Context) (int64, error)
	// RetireCertificates revokes the certificates whose successor has been in use for long enough.
	RetireCertificates(ctx context.Context) (int64, error)
	// ForgetAnswers deletes the kept answers of enrollment tokens whose life has ended, and of renewals that nobody can
	// need again.
	ForgetAnswers(ctx context.Context) (int64, error)
	// ForgetRemovedPeers takes the ids of removed peers out of audit rows that were committed meanwhile, and says of how many.
	ForgetRemovedPeers(ctx context.Context) (int64, error)
	// EnsurePartitions makes the audit partitions of the months ahead.
	EnsurePartitions(ctx context.Context) error
	// DropAuditRows drops the audit partitions of the months before the last so many, and says how many.
	DropAuditRows(ctx context.Context, months int) (int64, error)
}

// Revoker is what upkeep needs of the CA.
type Revoker interface {
	Revoke(ctx context.Context, serial *big.Int, reason string) error
}

// SealedStore rewrites what is stored sealed.
type SealedStore interface {
	// Reseal rewrites up to limit values that are not under the primary key, and says how many it rewrote.
	Reseal(ctx context.Context, primary uint32, limit int, reseal func(old []byte, table, column, id string) ([]byte, error)) (int, error)
}

// Ring seals and opens.
type Ring interface {
	Primary() uint32
	Seal(plaintext []byte, table, column, rowID string) ([]byte, error)
	Open(sealed []byte, table, column, rowID string) ([]byte, error)
}

// Config is what upkeep needs.
type Config struct {
	Store  Store
	Sealed SealedStore
	Ring   Ring
	CA     Revoker // nil where there is none to tell
	Log    *slog.Logger

	// Checkpoint signs how far the audit logs have come.
	Checkpoint func(ctx context.Context) error
	// AuditMonths is how many whole months of audit rows are kept beside the present one; zero keeps all.
	AuditMonths int
}

// Keeper does the tasks.
type Keeper struct{ Config }

// New returns a Keeper.
func New(c Config) *Keeper { return &Keeper{c} }

// Task is one kind of upkeep and how often it is due in the whole cluster.
type Task struct {
	Name  string
	Every time.Duration
	Run   func(ctx context.Context) error
}

// Tasks lists them all.
func (k *Keeper) Tasks() []Task {
	counted := func(what string, f func(context.Context) (int64, error)) func(context.Context) error {
		return func(ctx context.Context) error {
			n, err := f(ctx)
			if n > 0 {
				k.Log.InfoContext(ctx, "upkeep", "task", what, "rows", n)
			}
			return err
		}
	}
	tasks := []Task{
		{"sweep-attempts", 10 * time.Second, counted("sweep-attempts", k.Store.SweepAttempts)},
		{"expire-grants", 15 * time.Second, counted("expire-grants", k.Store.ExpireGrants)},
		{"retire-certificates", 15 * time.Second, counted("retire-certificates", k.Store.RetireCertificates)},
		{"forget-answers", time.Minute, counted("forget-answers", k.Store.ForgetAnswers)},
		{"forget-removed-peers", time.Minute, counted("forget-removed-peers", k.Store.ForgetRemovedPeers)},
		{"audit-partitions", time.Hour, k.Store.EnsurePartitions},
		{"audit-checkpoint", 30 * time.Second, k.Checkpoint},
		{"audit-retention", 10 * time.Minute, counted("audit-retention", k.DropAuditRows)},
		{"reseal", 10 * time.Second, counted("reseal", k.Reseal)},
	}
	if k.CA != nil {
		tasks = append(tasks, Task{"revoke-at-ca", 5 * time.Second, k.RevokeAtCA})
	}
	return tasks
}

// RevokeAtCA tells the CA what was revoked since. A CA that is away is told later: the certificates open nothing
// meanwhile.
func (k *Keeper) RevokeAtCA(ctx context.Context) error {
	due, err := k.Store.TakeRevocations(ctx, batch, claimFor)
	if err != nil {
		return err
	}
	for _, r := range due {
		err := k.CA.Revoke(ctx, r.Serial, r.Reason)
		if settled := k.Store.SettleRevocation(ctx, r.Serial, err == nil, backOff(r.Attempts)); settled != nil {
			return errors.Join(err, settled)
		}
		if errors.Is(err, ca.ErrUnavailable) {
			return fmt.Errorf("revoke at CA: %w", err) // the others would only wait for it as well
		}
		if err != nil {
			k.Log.ErrorContext(ctx, "revocation refused by CA", "serial", r.Serial.String(), "error", err)
		}
	}
	return nil
}

// Reseal brings everything that is stored sealed under the primary key, a batch at a time, while the gateway serves.
// A value that cannot be opened is named in the log by the error and not overwritten, and stops nobody else.
func (k *Keeper) Reseal(ctx context.Context) (int64, error) {
	var total int64
	for ctx.Err() == nil {
		n, err := k.Sealed.Reseal(ctx, k.Ring.Primary(), batch, func(old []byte, table, column, id string) ([]byte, error) {
			plain, err := k.Ring.Open(old, table, column, id)
			if err != nil {
				return nil, err
			}
			defer clear(plain)
			return k.Ring.Seal(plain, table, column, id)
		})
		total += int64(n)
		if n < batch { // the last one has looked at every row that is left, and its error names what is unreadable
			return total, err
		}
	}
	return total, ctx.Err()
}

// DropAuditRows drops what is older than is kept.
func (k *Keeper) DropAuditRows(ctx context.Context) (int64, error) {
	if k.AuditMonths == 0 {
		return 0, nil
	}
	return k.Store.DropAuditRows(ctx, k.AuditMonths)
}

// backOff doubles from ten seconds up to an hour.
func backOff(attempts int) time.Duration {
	return min(10*time.Second<<min(attempts, 10), maxBackOff)
}
