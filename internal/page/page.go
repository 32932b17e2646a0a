// Package page is keyset paging: opaque cursors, and the query parameters that bound a page.
//
// A cursor says where the next page starts. It is sealed, because a peer that could write one could probe for rows
// outside its scope by their position, and it is bound to the query and grant it was made for, because a position
// in one list means nothing in another. A cursor is hostile input: whatever is wrong with it, the answer is the
// same.
package page

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// MaxCursorLen is the longest cursor that is looked at, in characters.
const MaxCursorLen = 512

// keyLen is a position in plain: 8 bytes of microseconds since 1970 and 16 of the row's id.
const keyLen = 8 + 16

// ErrCursorInvalid is a cursor that cannot be used for this query. It does not say why: an edited cursor, one of
// another query and one of another gateway look the same.
var ErrCursorInvalid = &fault.Fault{
	Kind:   fault.Invalid,
	Code:   "cursor_invalid",
	Detail: "the cursor does not belong to this query",
	Hint:   "start again without cursor",
}

// AEAD seals cursors; tink.AEAD is one. All replicas must share its key.
type AEAD interface {
	Encrypt(plaintext, associated []byte) ([]byte, error)
	Decrypt(ciphertext, associated []byte) ([]byte, error)
}

// Key is a position in a list that is ordered by updated_at, then id, both descending.
type Key struct {
	UpdatedAt time.Time // microseconds, as PostgreSQL keeps it
	ID        uuid.UUID
}

// Sealer makes and opens cursors. It is safe for concurrent use when its AEAD is.
type Sealer struct {
	aead AEAD
}

// New makes a Sealer.
func New(aead AEAD) *Sealer { return &Sealer{aead: aead} }

// Seal makes the cursor for what comes after k. The binding names everything the position depends on: grant,
// resource, filters. Open wants the same one. Fractions of a microsecond are dropped.
func (s *Sealer) Seal(k Key, binding string) (string, error) {
	plain := make([]byte, 0, keyLen)
	plain = binary.BigEndian.AppendUint64(plain, uint64(k.UpdatedAt.UnixMicro())) //nolint:gosec // two's complement there and back
	plain = append(plain, k.ID[:]...)
	sealed, err := s.aead.Encrypt(plain, associated(binding))
	if err != nil {
		return "", fmt.Errorf("page: seal cursor: %w", err)
	}
	cursor := base64.RawURLEncoding.EncodeToString(sealed)
	if len(cursor) > MaxCursorLen {
		return "", fmt.Errorf("page: a cursor of %d characters could not be opened again", len(cursor))
	}
	return cursor, nil
}

// Open gives the position a cursor stands for, in UTC. Whatever is wrong with it gives ErrCursorInvalid.
func (s *Sealer) Open(cursor, binding string) (Key, error) {
	if cursor == "" || len(cursor) > MaxCursorLen {
		return Key{}, ErrCursorInvalid
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cursor)
	// The decoder skips line breaks and unused bits; a cursor has one spelling.
	if err != nil || base64.RawURLEncoding.EncodeToString(sealed) != cursor {
		return Key{}, ErrCursorInvalid
	}
	plain, err := s.aead.Decrypt(sealed, associated(binding))
	if err != nil {
		return Key{}, ErrCursorInvalid.Because(err)
	}
	if len(plain) != keyLen {
		return Key{}, ErrCursorInvalid
	}
	micros := int64(binary.BigEndian.Uint64(plain)) //nolint:gosec // two's complement there and back
	return Key{UpdatedAt: time.UnixMicro(micros).UTC(), ID: uuid.UUID(plain[8:])}, nil
}

// associated ties the ciphertext to the cursor's format as well as to its query.
func associated(binding string) []byte { return []byte("cursor/v1\x00" + binding) }
