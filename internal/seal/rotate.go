package seal

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The refusals to retire a key: one that is the primary or has rows under it, and one that is not in the keyset.
var (
	ErrKeyInUse = &fault.Fault{
		Kind: fault.Conflict, Code: "seal_key_in_use", Detail: "the sealing key is still needed",
		Hint: "rotate first, and wait until no row is sealed under the old key: mosaic gateway keyring show",
	}
	ErrKeyUnknown = &fault.Fault{
		Kind: fault.NotFound, Code: "seal_key_unknown", Detail: "there is no such sealing key",
		Hint: "list the keys with: mosaic gateway keyring show",
	}
)

// Key is one key of a keyset, without its material.
type Key struct {
	ID      uint32
	Primary bool // seals new values
	Enabled bool // opens old ones; a retired key is disabled, and kept because query hashes hang on the oldest
}

// Rotated adds a fresh AES-256-GCM key to a keyset and makes it the primary. Old keys still open what they sealed.
func Rotated(jsonKeyset []byte) ([]byte, error) {
	return changed(jsonKeyset, func(m *keyset.Manager) error {
		id, err := m.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return fmt.Errorf("seal: add a key: %w", err)
		}
		return m.SetPrimary(id)
	})
}

// Retired disables a key that is not the primary: what it sealed opens no more. The caller sees to it that no row is
// sealed under it. The key stays in the keyset, disabled: MAC hangs on the oldest. The error is ErrKeyUnknown or
// ErrKeyInUse.
func Retired(jsonKeyset []byte, id uint32) ([]byte, error) {
	keys, err := Keys(jsonKeyset)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(keys, func(k Key) bool { return k.ID == id }) {
		return nil, ErrKeyUnknown.With("there is no sealing key %d", id)
	}
	return changed(jsonKeyset, func(m *keyset.Manager) error {
		if err := m.Disable(id); err != nil {
			return ErrKeyInUse.Because(err)
		}
		return nil
	})
}

// Keys lists the keys of a keyset, oldest first.
func Keys(jsonKeyset []byte) ([]Key, error) {
	handle, err := read(jsonKeyset)
	if err != nil {
		return nil, err
	}
	info := handle.KeysetInfo()
	var keys []Key
	for _, k := range info.GetKeyInfo() {
		keys = append(keys, Key{
			ID: k.GetKeyId(), Primary: k.GetKeyId() == info.GetPrimaryKeyId(), Enabled: k.GetStatus() == tinkpb.KeyStatusType_ENABLED,
		})
	}
	return keys, nil
}

func read(jsonKeyset []byte) (*keyset.Handle, error) {
	if _, err := Parse(jsonKeyset); err != nil {
		return nil, err
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(jsonKeyset)))
	if err != nil {
		return nil, ErrKeysetInvalid
	}
	return handle, nil
}

func changed(jsonKeyset []byte, change func(*keyset.Manager) error) ([]byte, error) {
	handle, err := read(jsonKeyset)
	if err != nil {
		return nil, err
	}
	m := keyset.NewManagerFromHandle(handle)
	if err := change(m); err != nil {
		return nil, err
	}
	if handle, err = m.Handle(); err != nil {
		return nil, fmt.Errorf("seal: change a keyset: %w", err)
	}
	var doc bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&doc)); err != nil {
		return nil, fmt.Errorf("seal: print a keyset: %w", err)
	}
	return doc.Bytes(), nil
}

// Ring is the keyring a gateway works with, which can be replaced while it serves.
type Ring struct{ current atomic.Pointer[Keyring] }

// NewRing returns a Ring that holds k.
func NewRing(k *Keyring) *Ring {
	r := &Ring{}
	r.current.Store(k)
	return r
}

// Replace makes everything that uses the ring use k from now on.
func (r *Ring) Replace(k *Keyring) { r.current.Store(k) }

// Primary is Keyring.Primary of the present keyring.
func (r *Ring) Primary() uint32 { return r.current.Load().Primary() }

// Seal is Keyring.Seal of the present keyring.
func (r *Ring) Seal(plaintext []byte, table, column, rowID string) ([]byte, error) {
	return r.current.Load().Seal(plaintext, table, column, rowID)
}

// Open is Keyring.Open of the present keyring.
func (r *Ring) Open(sealed []byte, table, column, rowID string) ([]byte, error) {
	return r.current.Load().Open(sealed, table, column, rowID)
}

// MAC is Keyring.MAC of the present keyring.
func (r *Ring) MAC(purpose string, data []byte) []byte { return r.current.Load().MAC(purpose, data) }

// AEAD is Keyring.AEAD of whatever keyring is present when it is used.
func (r *Ring) AEAD(purpose string) tink.AEAD { return ringAEAD{r, purpose} }

type ringAEAD struct {
	ring    *Ring
	purpose string
}

// Encrypt is tink.AEAD.
func (a ringAEAD) Encrypt(plaintext, associated []byte) ([]byte, error) {
	return a.ring.current.Load().AEAD(a.purpose).Encrypt(plaintext, associated)
}

// Decrypt is tink.AEAD.
func (a ringAEAD) Decrypt(ciphertext, associated []byte) ([]byte, error) {
	return a.ring.current.Load().AEAD(a.purpose).Decrypt(ciphertext, associated)
}
