package account

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/mosaicstack/gateway/internal/fault"
)

// TokenPrefix starts every API token, so that scanners of leaked secrets can know one.
const TokenPrefix = "mos_"

const tokenBytes = 32

// Token is what is stored of an API token: never the token.
type Token struct {
	ID         uuid.UUID
	UserID     uuid.UUID
	Name       string
	CreatedAt  time.Time
	ExpiresAt  *time.Time
	LastUsedAt *time.Time // written at most once a minute
	RevokedAt  *time.Time
}

// Live tells whether the token is accepted at now.
func (t Token) Live(now time.Time) bool {
	return t.RevokedAt == nil && (t.ExpiresAt == nil || now.Before(*t.ExpiresAt))
}

// ErrTokenInvalid is a bearer token that opens nothing. Malformed, unknown, expired and revoked look the same.
var ErrTokenInvalid = &fault.Fault{
	Kind:   fault.Unauthenticated,
	Code:   "token_invalid",
	Detail: "the API token is not accepted",
	Hint:   "an admin can make a new one: mosaic token create --user USER",
}

// NewToken makes a token of 256 random bits and the hash to store. The token is shown once. random is
// crypto/rand.Reader outside of tests.
func NewToken(random io.Reader) (token string, hash [sha256.Size]byte, err error) {
	var bits [tokenBytes]byte
	if _, err := io.ReadFull(random, bits[:]); err != nil {
		return "", hash, fmt.Errorf("account: make a token: %w", err)
	}
	token = TokenPrefix + base64.RawURLEncoding.EncodeToString(bits[:])
	return token, sha256.Sum256([]byte(token)), nil
}

// HashToken gives the hash a token is stored under. A string that NewToken cannot have made is ErrTokenInvalid, so
// that garbage costs no database query. A plain hash will do: there is nothing to guess in 256 random bits.
func HashToken(token string) ([sha256.Size]byte, error) {
	body, ok := strings.CutPrefix(token, TokenPrefix)
	if !ok || len(body) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return [sha256.Size]byte{}, ErrTokenInvalid
	}
	// Strict: the last character has unused bits, and a token has one spelling.
	bits, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(bits) != tokenBytes {
		return [sha256.Size]byte{}, ErrTokenInvalid
	}
	return sha256.Sum256([]byte(token)), nil
}
