// Package seal keeps secrets unreadable at rest: a keyring of Tink AEAD keys, and a type for secrets that never
// prints.
//
// A sealed value is bound to the place it is stored in (table, column, row), so that somebody who can write to the
// database cannot move one user's secret into a row of their own and have the gateway open it there. Every sealed
// value starts with the id of its key: new values take the primary key, old ones open for as long as their key is
// in the keyring, and KeyID tells which rows still need the old one.
package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"

	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/mosaicstack/gateway/internal/fault"
)

// The faults of this package.
var (
	ErrKeysetInvalid = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "keyset_invalid",
		Detail: "the sealing keyset cannot be used",
		Hint:   "MOSAIC_SEAL_KEYSET takes a cleartext Tink JSON keyset of AEAD keys (AES256_GCM, prefix TINK)",
	}
	ErrSecretTooShort = &fault.Fault{
		Kind:   fault.Invalid,
		Code:   "secret_too_short",
		Detail: "the secret that the sealing key is derived from is under 32 bytes",
		Hint:   "set BETTER_AUTH_SECRET to at least 32 random bytes, for example from: openssl rand -base64 48",
	}
	// ErrUnreadable is a sealed value that was moved or edited, or whose key is not in the keyring. The three
	// cannot be told apart, except that KeyID names the key that was used.
	ErrUnreadable = &fault.Fault{
		Kind:   fault.Internal,
		Code:   "sealed_value_unreadable",
		Detail: "a sealed value cannot be opened",
		Hint:   "check that the keyset still holds every key it ever had; a value that was moved or edited has to be entered again",
	}
)

// Keyring seals and opens values. It is safe for concurrent use, and prints as [sealed] whatever prints it.
type Keyring struct {
	aead    tink.AEAD
	primary uint32
	mac     []byte // root of every MAC; see rootOf
}

// Seal encrypts plaintext for one place: table, column and row. Only Open with the same three gives it back.
func (k *Keyring) Seal(plaintext []byte, table, column, rowID string) ([]byte, error) {
	sealed, err := k.aead.Encrypt(plaintext, associate("row/v1", table, column, rowID))
	if err != nil {
		return nil, fmt.Errorf("seal: %s.%s: %w", table, column, err)
	}
	return sealed, nil
}

// Open decrypts what Seal made for the same place. The error is ErrUnreadable.
func (k *Keyring) Open(sealed []byte, table, column, rowID string) ([]byte, error) {
	plaintext, err := k.aead.Decrypt(sealed, associate("row/v1", table, column, rowID))
	if err != nil {
		return nil, ErrUnreadable.With("the sealed value in %s.%s cannot be opened", table, column).
			Because(fmt.Errorf("row %s, key %d: %w", rowID, KeyID(sealed), err))
	}
	return plaintext, nil
}

// Primary is the id of the key that new values are sealed with.
func (k *Keyring) Primary() uint32 { return k.primary }

// KeyID is the id of the key a value was sealed with, zero when the value does not carry one: Tink's output prefix
// is 0x01 and the id in big endian.
func KeyID(sealed []byte) uint32 {
	if len(sealed) < 5 || sealed[0] != 1 {
		return 0
	}
	return binary.BigEndian.Uint32(sealed[1:5])
}

// AEAD gives an AEAD under the same keys for something that is not stored in a row, such as cursors. What is
// sealed for one purpose opens neither for another nor as a row.
func (k *Keyring) AEAD(purpose string) tink.AEAD { return purposeAEAD{k.aead, purpose} }

type purposeAEAD struct {
	aead    tink.AEAD
	purpose string
}

// Encrypt is tink.AEAD.
func (p purposeAEAD) Encrypt(plaintext, associated []byte) ([]byte, error) {
	return p.aead.Encrypt(plaintext, associate("purpose/v1", p.purpose, string(associated)))
}

// Decrypt is tink.AEAD.
func (p purposeAEAD) Decrypt(ciphertext, associated []byte) ([]byte, error) {
	return p.aead.Decrypt(ciphertext, associate("purpose/v1", p.purpose, string(associated)))
}

// MAC is HMAC-SHA256 of data under a key of the keyring's own, 32 bytes, separate for each purpose. It is the same
// on every replica and stays the same when keys are added, so that equal queries have equal hashes over the years.
// It changes only when the oldest key leaves the keyset. The result may itself serve as a key.
func (k *Keyring) MAC(purpose string, data []byte) []byte {
	h := hmac.New(sha256.New, k.mac)
	h.Write(associate("mac/v1", purpose))
	h.Write(data)
	return h.Sum(nil)
}

// associate joins a label and parts so that no two lists of parts give the same bytes: each part is preceded by its
// length.
func associate(label string, parts ...string) []byte {
	out := appendPart(nil, label)
	for _, p := range parts {
		out = appendPart(out, p)
	}
	return out
}

func appendPart(out []byte, part string) []byte {
	out = binary.BigEndian.AppendUint64(out, uint64(len(part)))
	return append(out, part...)
}

// Format keeps the key material out of every verb of fmt; a Stringer alone would not cover %d.
func (Keyring) Format(f fmt.State, _ rune) { hide(f) }

// String is [sealed].
func (Keyring) String() string { return sealedText }

// GoString is [sealed].
func (Keyring) GoString() string { return sealedText }

// LogValue is [sealed].
func (Keyring) LogValue() slog.Value { return slog.StringValue(sealedText) }

// MarshalJSON is "[sealed]".
func (Keyring) MarshalJSON() ([]byte, error) { return []byte(`"` + sealedText + `"`), nil }
