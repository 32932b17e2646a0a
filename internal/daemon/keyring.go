package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
)

const keysetFile = "seal-keyset.json"

// settle is how long after a rotation the old key stays: a request that took the old keyring just before may still
// be storing what it sealed.
const settle = time.Minute

// keyring is the keyset of a directory: the file, and the ring that serves from it.
type keyring struct {
	path string
	ring *seal.Ring
	now  func() time.Time

	// Set when the gateway is wired: counting rows and being on record need the database.
	sealed *postgres.Sealed
	record func(ctx context.Context, e audit.Event) error

	mu      sync.Mutex // one change of the file at a time
	rotated time.Time
}

// openKeyring reads the directory's keyset, or makes it on the first start. It is written before anything is sealed
// under it.
func openKeyring(dir *devstack.Dir, now func() time.Time) (*keyring, error) {
	k := &keyring{path: dir.Join(keysetFile), now: now}
	doc, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, doc, err = seal.Generate(); err == nil {
			err = devstack.WriteFileAtomic(k.path, doc, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	ring, err := seal.Parse(doc)
	if err != nil {
		return nil, err
	}
	k.ring = seal.NewRing(ring)
	return k, nil
}

// Show implements httpapi.Keyring.
func (k *keyring) Show(ctx context.Context) ([]httpapi.KeyStatus, error) {
	doc, err := os.ReadFile(k.path)
	if err != nil {
		return nil, fmt.Errorf("read keyset: %w", err)
	}
	keys, err := seal.Keys(doc)
	if err != nil {
		return nil, err
	}
	rows, err := k.sealed.SealedRows(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]httpapi.KeyStatus, 0, len(keys))
	for _, key := range keys {
		out = append(out, httpapi.KeyStatus{ID: key.ID, Primary: key.Primary, Enabled: key.Enabled, Rows: rows[key.ID]})
	}
	return out, nil
}

// Rotate implements httpapi.Keyring.
func (k *keyring) Rotate(ctx context.Context, act audit.Act) error {
	return k.change(ctx, act.Event("keyring.rotate"), func(doc []byte) ([]byte, error) {
		k.rotated = k.now()
		return seal.Rotated(doc)
	})
}

// Retire implements httpapi.Keyring.
func (k *keyring) Retire(ctx context.Context, id uint32, act audit.Act) error {
	e := act.Event("keyring.retire")
	e.Detail = fmt.Sprintf("key %d", id)
	return k.change(ctx, e, func(doc []byte) ([]byte, error) {
		if wait := settle - k.now().Sub(k.rotated); wait > 0 {
			return nil, seal.ErrKeyInUse.With("the keys were rotated less than a minute ago").After(wait)
		}
		rows, err := k.sealed.SealedRows(ctx)
		if err != nil {
			return nil, err
		}
		if n := rows[id]; n > 0 {
			return nil, seal.ErrKeyInUse.With("%d rows are still sealed with key %d", n, id)
		}
		return seal.Retired(doc, id)
	})
}

// change rewrites the file and then serves from it: a crash between the two leaves a file that opens everything.
func (k *keyring) change(ctx context.Context, e audit.Event, f func([]byte) ([]byte, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	doc, err := os.ReadFile(k.path)
	if err != nil {
		return fmt.Errorf("read keyset: %w", err)
	}
	if doc, err = f(doc); err != nil {
		return err
	}
	next, err := seal.Parse(doc)
	if err != nil {
		return err
	}
	if err := k.record(ctx, e); err != nil {
		return err
	}
	if err := devstack.WriteFileAtomic(k.path, doc, 0o600); err != nil {
		return err
	}
	k.ring.Replace(next)
	return nil
}
