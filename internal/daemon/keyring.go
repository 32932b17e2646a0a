package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mosaicstack/gateway/internal/audit"
	"github.com/mosaicstack/gateway/internal/config"
	"github.com/mosaicstack/gateway/internal/devstack"
	"github.com/mosaicstack/gateway/internal/fault"
	"github.com/mosaicstack/gateway/internal/httpapi"
	"github.com/mosaicstack/gateway/internal/postgres"
	"github.com/mosaicstack/gateway/internal/seal"
)

const keysetFile = "seal-keyset.json"

// settle is how long after a rotation the old key stays: a request that took the old keyring just before may still
// be storing what it sealed.
const settle = time.Minute

// keyring is the keyset of a gateway: the ring that serves, and the file it is kept in.
type keyring struct {
	path string // empty when the keys come from the environment
	ring *seal.Ring
	now  func() time.Time

	// Set when the gateway is wired: counting rows and being on record need the database.
	sealed *postgres.Sealed
	record func(ctx context.Context, e audit.Event) error

	mu      sync.Mutex // one change of the file at a time
	rotated time.Time
}

// Where a directory's sealing keys come from. The first start decides; another source later would leave what is
// sealed unreadable, so it is refused instead.
const (
	sourceFile    = "seal-source"
	fromDirectory = keysetFile
	fromKeyset    = "MOSAIC_SEAL_KEYSET"
	fromSecret    = "BETTER_AUTH_SECRET"
)

var (
	errSealSource = &fault.Fault{
		Kind: fault.Conflict, Code: "seal_source_changed", Detail: "the sealing keys of this directory come from elsewhere",
		Hint: "set what the directory was first started with, or choose another --dir",
	}
	errKeyringExternal = &fault.Fault{
		Kind: fault.Conflict, Code: "keyring_external", Detail: "the sealing keys come from the environment, which the gateway cannot change",
		Hint: "add a key to the keyset in MOSAIC_SEAL_KEYSET, make it the primary and restart; when mosaic gateway keyring show counts no rows under the old one, " +
			"set its status to DISABLED and leave it there: the query hashes in the audit log hang on the oldest key",
	}
)

// openKeyring reads the keyring from the environment, or from the directory, where it is made on the first start. It
// is written before anything is sealed under it.
func openKeyring(dir *devstack.Dir, c config.Config, now func() time.Time) (*keyring, error) {
	k := &keyring{now: now}
	source, ring, err := givenKeys(c)
	if err != nil {
		return nil, err
	}
	if err := holdSource(dir, source); err != nil {
		return nil, err
	}
	if source == fromDirectory {
		k.path = dir.Join(keysetFile)
		if ring, err = keysetOf(k.path); err != nil {
			return nil, err
		}
	}
	k.ring = seal.NewRing(ring)
	return k, nil
}

// givenKeys makes the keyring that the environment gives. Without one the keys are the directory's to give.
func givenKeys(c config.Config) (source string, ring *seal.Keyring, err error) {
	switch {
	case !c.Keyset.IsZero():
		source = fromKeyset
		ring, err = seal.Parse([]byte(c.Keyset.Reveal()))
	case !c.AuthSecret.IsZero():
		source = fromSecret
		ring, err = seal.Derive([]byte(c.AuthSecret.Reveal()))
	default:
		source = fromDirectory
	}
	return source, ring, err
}

// holdSource notes on the first start where the keys come from, and holds every later start to it.
func holdSource(dir *devstack.Dir, source string) error {
	held, err := os.ReadFile(dir.Join(sourceFile))
	if errors.Is(err, fs.ErrNotExist) {
		return devstack.WriteFileAtomic(dir.Join(sourceFile), []byte(source+"\n"), 0o600)
	} else if err != nil {
		return fmt.Errorf("read %s: %w", sourceFile, err)
	}
	if was := strings.TrimSpace(string(held)); was != source {
		return errSealSource.With("the sealing keys of this directory come from %s, and this start would take them from %s", was, source)
	}
	return nil
}

func keysetOf(path string) (*seal.Keyring, error) {
	doc, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, doc, err = seal.Generate(); err == nil {
			err = devstack.WriteFileAtomic(path, doc, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	return seal.Parse(doc)
}

// Show implements httpapi.Keyring.
func (k *keyring) Show(ctx context.Context) ([]httpapi.KeyStatus, error) {
	if k.path == "" {
		return k.external(ctx)
	}
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

// external lists the keys that rows are sealed with when the keyset itself is not ours to read again.
func (k *keyring) external(ctx context.Context) ([]httpapi.KeyStatus, error) {
	rows, err := k.sealed.SealedRows(ctx)
	if err != nil {
		return nil, err
	}
	primary := k.ring.Primary()
	out := []httpapi.KeyStatus{{ID: primary, Primary: true, Enabled: true, Rows: rows[primary]}}
	for id, n := range rows {
		if id != primary {
			out = append(out, httpapi.KeyStatus{ID: id, Enabled: true, Rows: n})
		}
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
		retired, err := seal.Retired(doc, id)
		if err != nil {
			return nil, err
		}
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
		return retired, nil
	})
}

// change rewrites the file and then serves from it: a crash between the two leaves a file that opens everything.
func (k *keyring) change(ctx context.Context, e audit.Event, f func([]byte) ([]byte, error)) error {
	if k.path == "" {
		return errKeyringExternal
	}
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
